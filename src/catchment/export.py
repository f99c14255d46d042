"""A finished run in a form that needs no catchment: ONNX, torch.export, self-describing safetensors, a model card."""

from __future__ import annotations

import importlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catchment.data import InputFormat
from catchment.drainage import open_probabilities
from catchment.experiments.run import load_run
from catchment.files import atomic_write, write_bytes, write_text
from catchment.methods import list_objectives
from catchment.objective import Model
from catchment.report.run_folder import read_run

# How far ONNX's probabilities may be from torch's.
TOLERANCE = 1e-4
DEFAULT_NAMES = {
    "onnx": "model.onnx", "torch": "model.pt2", "safetensors": "exported.safetensors", "model-card": "README.md",
}  # fmt: skip


class Inference(nn.Module):
    """A trained model as one function of raw inputs, with named outputs in a fixed order.

    Inputs are as the run stored them: images uint8 ``(N, C, H, W)``, tables float32 ``(N, D)``; standardisation is
    inside. Outputs: ``probabilities`` ``(N, C)``, with drainage the closed ones; ``unknown_score`` ``(N,)``;
    ``logits`` ``(N, C + extra)``; and where the objective adds outputs, ``open_probabilities`` ``(N, C + extra)``.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net, self.objective = model.net, model.objective
        self.eval().requires_grad_(False)

    @property
    def output_names(self) -> list[str]:
        """In the order of ``forward``."""
        names = ["probabilities", "unknown_score", "logits"]
        return [*names, "open_probabilities"] if self.objective.extra_outputs else names

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of ``output_names``."""
        logits = self.net(inputs)["logits"]
        outputs = (self.objective.probabilities(logits), self.objective.unknown_score(logits), logits)
        return (*outputs, open_probabilities(logits)) if self.objective.extra_outputs else outputs


def export_run(run_folder: Path, to: str, out: Path | None = None) -> dict[str, Any]:
    """Write a finished run in another form.

    Args:
        run_folder: of a finished run.
        to: "onnx" (checked with onnxruntime), "torch" (a ``torch.export`` program), "safetensors" (weights with all
            that says what they are) or "model-card" (Markdown).
        out: the file; None takes a name of its own in the run's folder.

    Returns:
        ``path``, and for "onnx" ``largest_difference``: of its probabilities from torch's, at most 1e-4.

    Raises:
        ValueError: there is no such form, no finished run, or what the form needs is not installed.
    """
    if to not in _WRITERS:
        raise ValueError(f"there is no form {to!r}: choose one of {', '.join(_WRITERS)}")
    path = run_folder / DEFAULT_NAMES[to] if out is None else out
    return {"path": str(path), **_WRITERS[to](run_folder, path)}


def example_inputs(input_format: InputFormat, number: int, seed: int = 0) -> Tensor:
    """Random inputs of the form that a model takes: images uint8 ``(N, C, H, W)``, tables float32 ``(N, D)``."""
    rng = np.random.default_rng(seed)
    if input_format.kind == "table":
        return torch.from_numpy(rng.normal(size=(number, *input_format.shape)).astype(np.float32))
    height, width, channels = input_format.shape
    return torch.from_numpy(rng.integers(0, 256, (number, channels, height, width), dtype=np.uint8))


def _write_onnx(run_folder: Path, path: Path) -> dict[str, Any]:
    # onnxscript is for torch's exporter
    onnx, onnxruntime, _ = (_import_onnx(package) for package in ("onnx", "onnxruntime", "onnxscript"))
    model, input_format, record = load_run(run_folder)
    inference = Inference(model)
    with _refusals(record["net"], "--to torch or safetensors"):
        proto = _onnx_model(inference, input_format, onnx)
    for key, value in _metadata(record).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = max(_difference(session, inference, example_inputs(input_format, n, seed=n)) for n in (1, 7))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the ONNX model's probabilities differ from torch's by {difference:.2g}, more than {TOLERANCE:g}: "
            "nothing was written; try --to torch, or another onnxruntime"
        )
    write_bytes(path, content)
    return {"largest_difference": difference}


def _onnx_model(inference: Inference, input_format: InputFormat, onnx: Any) -> Any:
    names: dict[str, Any] = {"input_names": ["inputs"], "output_names": inference.output_names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about itself
        if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9):
            exported: Any = torch.onnx.export(_program(inference, input_format), dynamo=True, verbose=False, **names)
            return exported.model_proto
        # before 2.9, where it became the default, that exporter fails on batch norm with newer releases of onnxscript
        written: Any = io.BytesIO()
        any_size = {name: {0: "batch"} for name in ("inputs", *inference.output_names)}
        example = (example_inputs(input_format, 4),)
        torch.onnx.export(inference, example, written, dynamo=False, dynamic_axes=any_size, **names)
        return onnx.load_from_string(written.getvalue())


def _program(inference: Inference, input_format: InputFormat) -> torch.export.ExportedProgram:
    """The function as a graph that takes any batch size."""
    # Dim.AUTO: torch 2.6 can't prove of a convolution that it takes every batch size that Dim("batch") promises
    any_size = ({0: torch.export.Dim.AUTO},)
    return torch.export.export(inference, (example_inputs(input_format, 4),), dynamic_shapes=any_size)


@contextmanager
def _refusals(net: str, instead: str) -> Iterator[None]:
    """Whatever torch's exporters raise, in one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"torch can't export the net {net} ({type(error).__name__}: {reason}): try {instead}"
        ) from error


def _import_onnx(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f'{package} is not installed: pip install "catchment[onnx]"') from None


def _difference(session: Any, inference: Inference, inputs: Tensor) -> float:
    """The largest over all outputs but the logits, which have no scale."""
    found = session.run(None, {"inputs": inputs.numpy()})
    pairs = zip(inference.output_names, found, inference(inputs), strict=True)
    return max(float(np.abs(a - b.numpy()).max()) for name, a, b in pairs if name != "logits")


def _write_torch(run_folder: Path, path: Path) -> dict[str, Any]:
    model, input_format, record = load_run(run_folder)
    with _refusals(record["net"], "--to safetensors"):
        program = _program(Inference(model), input_format)
    extra = {"catchment.json": json.dumps(_metadata(record))}
    atomic_write(path, lambda file: torch.export.save(program, file, extra_files=extra))
    return {}


def _write_safetensors(run_folder: Path, path: Path) -> dict[str, Any]:
    from safetensors.torch import save

    model, _, record = load_run(run_folder)
    state = {name: value.contiguous() for name, value in model.inference_state().items()}
    write_bytes(path, save(state, metadata=_metadata(record)))
    return {}


def _metadata(record: dict[str, Any]) -> dict[str, str]:
    """What a file of weights alone doesn't say; every value is text, JSON where it is more than a name."""
    return {
        "format": "pt",
        "producer": f"catchment {record['versions']['catchment']}",
        "objective": record["objective"],
        "parameters": json.dumps(record["parameters"]),
        "net": record["net"],
        "input_format": json.dumps(record["input_format"]),
        "class_names": json.dumps(record["input_format"]["class_names"]),
    }


def _write_model_card(run_folder: Path, path: Path) -> dict[str, Any]:
    write_text(path, model_card(run_folder))
    return {}


def model_card(run_folder: Path) -> str:
    """Markdown with the front matter of Hugging Face: data, noise, protocol, metrics, and what is not known."""
    run = read_run(run_folder)
    config, numbers, training = run.config, run.metrics, run.config["training"]
    method = next(m for m in list_objectives() if m.name == config["objective"])
    form = InputFormat.from_dict(config["input_format"])
    parameters = ", ".join(f"{k} = {v}" for k, v in config["parameters"].items()) or "at their defaults"
    year = f" {method.year}" if method.year else ""
    opened = ", `open_probabilities` with the output beyond the classes last" if method.cls.extra_outputs else ""
    scores = {k: v for k, v in numbers.items() if isinstance(v, float) and re.match("test_|also_|label_score_", k)}
    settings = {k: v for k, v in training.items() if v not in (None, 0, False, 0.0)}
    return f"""---
library_name: catchment
pipeline_tag: {"image-classification" if form.kind == "image" else "tabular-classification"}
tags: [catchment, label-noise, {config["objective"]}]
---

# {numbers["data"]}, {config["objective"]}

A classifier for {form.describe()} into {len(run.class_names)} classes: {_listed(run.class_names)}.

## Data

Trained on {numbers["train_samples"]} samples of {numbers["data"]}, judged on {numbers["test_samples"]}.
{_noise(numbers)}{_imbalance(numbers)}

## Method

`{config["objective"]}`: {method.formula}, parameters {parameters}. {method.paper}{year}, {method.url}.
Network: {config["net"]}, {numbers["parameters"]} parameters.

## Protocol

Reported is the {numbers["reported"]} ({numbers["reported_epoch"]} of {numbers["epochs"]}), seed {numbers["seed"]}.
Validation labels: {numbers["validation_labels"] or "none were held out"}. The test set chose nothing.

{_table(settings, "setting")}

## Metrics

One run: no spread over seeds is known. Accuracy and the like are judged by the labels of the test set as they are.

{_table(scores, "metric")}

## Outputs

`probabilities` per class, `unknown_score` (higher = more likely none of the classes){opened}.
Scores rank; they are no probabilities of being wrong. For abstaining with a bound on the risk, calibrate:
`catchment predict --max-risk`.

## Limits

- Judged on data like the training data. Nothing is known of other cameras, sources or times.
- {_limit_of_labels(numbers)}
- Groups of people or things that the data has few of were not looked at by themselves.
- The licence of the data is not recorded here: look it up before you publish the weights.

Made with catchment {config["versions"]["catchment"]}, torch {config["versions"]["torch"]}, on {numbers["device"]}.
"""


def _noise(numbers: dict[str, Any]) -> str:
    noise = numbers["noise"]
    if noise is None:
        return "No noise was added to the training labels; how many of them are wrong is not known."
    if noise["kind"] == "given":
        return f"Of the training labels {numbers['noise_rate_realised']:.2%} are wrong, as the data came."
    if numbers["noise_rate_realised"] is None:
        return f"Noise added to the training labels: {noise['kind']}."
    return (
        f"Noise added to the training labels: {noise['kind']}; {numbers['noise_rate_realised']:.2%} of them are wrong. "
        "The test labels were left as they are."
    )


def _imbalance(numbers: dict[str, Any]) -> str:
    imbalance = numbers["imbalance"]
    return "" if imbalance is None else f"\nTraining classes were made rare: {imbalance['kind']}."


def _limit_of_labels(numbers: dict[str, Any]) -> str:
    if numbers["noise"] is not None and numbers["noise"]["kind"] != "given":
        return "Its label noise is artificial; people's mistakes are of another kind."
    return "Wrong labels in the test set count against right predictions, and for wrong ones."


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _table(values: dict[str, Any], what: str) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    rows = [f"| {key} | {value} |" for key, value in shown.items()]
    return "\n".join([f"| {what} | value |", "| --- | --- |", *rows])


_WRITERS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "safetensors": _write_safetensors,
    "model-card": _write_model_card,
}
