"""Exported models say the same as the run that they came from, without this library."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from catchment import cli
from catchment.experiments.run import load_run
from catchment.export import DEFAULT_NAMES, Inference, example_inputs, export_run, model_card

pytestmark = pytest.mark.slow

FAST = ["--epochs", "2", "--threads", "1", "--device", "cpu", "--seed", "1"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "images"
    options = ["--noise", "asymmetric:0.4", "--objective", "drainage:alpha=0.5", "--max-train-samples", "400"]
    assert run("train", "--data", "digits", *options, *FAST, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    X = rng.normal(3, 10, size=(120, 5))
    np.savez(folder / "table.npz", X=X, y=np.array(["low", "high"])[(X[:, 0] > 3).astype(int)])
    assert run("train", "--data", folder / "table.npz", "--objective", "gce", *FAST, "--out", folder / "t") == 0
    return folder / "t"


@pytest.fixture(scope="module")
def exported(table_run):
    """What the command says of each form."""
    said = {}
    for form in DEFAULT_NAMES:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert run("export", table_run, "--to", form, "--json") == 0
        said[form] = json.loads(printed.getvalue())
    return said


def onnx_outputs(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"inputs": inputs.numpy()}), strict=True))


def torch_outputs(folder, inputs):
    model, _, _ = load_run(folder)
    logits = model.net(inputs)["logits"].detach()
    classes = len(json.loads((folder / "config.json").read_text())["input_format"]["class_names"])
    return logits, logits[:, :classes].softmax(1), logits.softmax(1)


def test_onnx_agrees_on_open_and_closed_probabilities(image_run, tmp_path):
    written = export_run(image_run, "onnx", tmp_path / "m.onnx")
    assert written["largest_difference"] <= 1e-4
    for number in (1, 3, 200):
        inputs = example_inputs(load_run(image_run)[1], number, seed=number)
        logits, closed, opened = torch_outputs(image_run, inputs)
        found = onnx_outputs(tmp_path / "m.onnx", inputs)
        np.testing.assert_allclose(found["probabilities"], closed, atol=1e-4)
        np.testing.assert_allclose(found["open_probabilities"], opened, atol=1e-4)
        np.testing.assert_allclose(found["unknown_score"], opened[:, -1], atol=1e-4)
        np.testing.assert_allclose(found["logits"], logits, atol=1e-3)


def test_onnx_of_a_table_without_extra_outputs(table_run, exported):
    inputs = example_inputs(load_run(table_run)[1], 9)
    _, closed, _ = torch_outputs(table_run, inputs)
    found = onnx_outputs(table_run / "model.onnx", inputs)
    assert list(found) == ["probabilities", "unknown_score", "logits"]
    np.testing.assert_allclose(found["probabilities"], closed, atol=1e-4)
    np.testing.assert_allclose(found["unknown_score"], 1 - closed.amax(1), atol=1e-4)


def test_onnx_says_what_it_is(table_run, exported):
    import onnx

    said = {entry.key: entry.value for entry in onnx.load(table_run / "model.onnx").metadata_props}
    assert json.loads(said["class_names"]) == ["high", "low"]
    assert said["objective"] == "gce"


def test_a_wrong_onnx_model_is_not_written(table_run, tmp_path, monkeypatch):
    monkeypatch.setattr("catchment.export._difference", lambda *arguments: 2e-4)
    with pytest.raises(ValueError, match="differ from torch's by 0.0002, more than 0.0001: nothing was written"):
        export_run(table_run, "onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_the_torch_program_runs_without_catchment(image_run, tmp_path):
    export_run(image_run, "torch", tmp_path / "m.pt2")
    inputs = example_inputs(load_run(image_run)[1], 5)
    _, closed, opened = torch_outputs(image_run, inputs)
    np.savez(tmp_path / "x.npz", x=inputs.numpy(), closed=closed, opened=opened)
    script = f"""
import json, sys, numpy as np, torch
extra = {{"catchment.json": ""}}
program = torch.export.load({str(tmp_path / "m.pt2")!r}, extra_files=extra)
data = np.load({str(tmp_path / "x.npz")!r})
closed, unknown, logits, opened = program.module()(torch.from_numpy(data["x"]))
assert np.abs(closed.numpy() - data["closed"]).max() < 1e-5
assert np.abs(opened.numpy() - data["opened"]).max() < 1e-5
assert json.loads(json.loads(extra["catchment.json"])["class_names"]) == [str(i) for i in range(10)]
assert "catchment" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_safetensors_say_what_they_are(image_run, tmp_path):
    export_run(image_run, "safetensors", tmp_path / "m.safetensors")
    saved, own = load_file(tmp_path / "m.safetensors"), load_file(image_run / "model.safetensors")
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[name], own[name]) for name in own)
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        said = file.metadata()
    assert said["format"] == "pt", "what transformers asks for"
    assert json.loads(said["parameters"]) == {"alpha": 0.5}
    assert json.loads(said["input_format"])["shape"] == [8, 8, 1]


def test_the_model_card_says_data_noise_protocol_metrics_and_limits(image_run):
    card = model_card(image_run)
    numbers = json.loads((image_run / "metrics.json").read_text())
    assert card.startswith("---\nlibrary_name: catchment\npipeline_tag: image-classification\n")
    for heading in ("Data", "Method", "Protocol", "Metrics", "Limits"):
        assert f"\n## {heading}\n" in card
    assert "Trained on 400 samples of digits, judged on 360" in card
    assert f"asymmetric; {numbers['noise_rate_realised']:.2%} of them are wrong" in card
    assert "parameters alpha = 0.5." in card
    assert "last epoch (2 of 2), seed 1" in card
    assert f"| test_accuracy | {numbers['test_accuracy']:.4g} |" in card
    assert "One run: no spread over seeds is known" in card
    assert "open_probabilities" in card
    assert "None" not in card
    assert "nan" not in card


def test_a_model_card_without_noise(table_run):
    card = model_card(table_run)
    assert "pipeline_tag: tabular-classification" in card
    assert "how many of them are wrong is not known" in card
    assert "open_probabilities" not in card


def test_the_command_writes_into_the_run_unless_told_otherwise(table_run, tmp_path, capsys, exported):
    assert {form: said["path"] for form, said in exported.items()} == {
        form: str(table_run / name) for form, name in DEFAULT_NAMES.items()
    }
    assert all((table_run / name).stat().st_size > 0 for name in DEFAULT_NAMES.values())
    out = tmp_path / "card.md"
    assert run("export", table_run, "--to", "model-card", "--out", out) == 0
    assert run("export", table_run, "--to", "model-card", "--out", out) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert run("export", table_run, "--to", "model-card", "--out", out, "--overwrite") == 0


@pytest.mark.parametrize("form", ["onnx", "torch", "safetensors", "model-card"])
def test_no_run(tmp_path, capsys, form):
    assert run("export", tmp_path, "--to", form) == 2
    assert "holds no" in capsys.readouterr().err


def test_a_form_that_there_is_not(table_run):
    with pytest.raises(ValueError, match="choose one of onnx, torch, safetensors, model-card"):
        export_run(table_run, "tensorflow")


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_net_that_torch_cannot_export_is_one_line(table_run, tmp_path, monkeypatch, capsys, form):
    def branches_on_values(self, inputs):
        return (inputs if inputs.sum().item() > 0 else -inputs,)

    monkeypatch.setattr(Inference, "forward", branches_on_values)
    assert run("export", table_run, "--to", form, "--out", tmp_path / "m") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: torch can't export the net auto (")
    assert "try --to" in error
    assert not (tmp_path / "m").exists()


def test_onnx_that_is_not_installed(table_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run("export", table_run, "--to", "onnx") == 2
    assert 'onnxruntime is not installed: pip install "catchment[onnx]"' in capsys.readouterr().err


def test_inference_takes_inputs_as_they_are_stored(image_run):
    model, form, _ = load_run(image_run)
    inputs = example_inputs(form, 3)
    assert (inputs.dtype, tuple(inputs.shape)) == (torch.uint8, (3, 1, 8, 8))
    assert Inference(model).output_names[-1] == "open_probabilities"
