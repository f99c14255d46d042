"""One run: data -> noise -> training -> numbers -> a folder that says all of it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catchment import metrics, report
from catchment.data import Dataset, ImageFiles, InputFormat, Splits, load_data, load_inputs
from catchment.dsink import label_shares
from catchment.experiments.auxiliaries import VIEWS, auxiliary_columns, auxiliary_config, final_labels, roles_needed
from catchment.experiments.environment import hardware, versions
from catchment.experiments.evaluation_record import write_evaluation
from catchment.experiments.noise import add_unknowns, apply_imbalance, apply_noise, given_noise
from catchment.experiments.shift import ALL_SEVERITIES, Shift, check_shift, evaluate_shift, summarise
from catchment.experiments.shift import NAME as SHIFT
from catchment.experiments.shift import to_csv as shift_csv
from catchment.experiments.tasks import check_task, settle_task
from catchment.files import folder_lock, read_json, write_bytes, write_json, write_text
from catchment.methods import create_objective
from catchment.nets import create_net, input_statistics
from catchment.objective import Model, Objective
from catchment.training.batches import Column
from catchment.training.checkpoint import Checkpointer
from catchment.training.config import TrainingConfig
from catchment.training.distributed import from_first_process, on_first_process, rank_and_world_size
from catchment.training.evaluation import (
    TOP_K,
    Predictions,
    calibrate,
    check_calibratable,
    label_score_metrics,
    predict,
    prediction_metrics,
    validation_metrics,
    wrong_labels,
)
from catchment.training.loop import check_trainable, choose_device, cpu_threads, train
from catchment.training.tensorboard import TensorBoardLog

CONFIG, METRICS, WEIGHTS = "config.json", "metrics.json", "model.safetensors"
# Of how many training samples the history says after every epoch what became of wrong and of right labels.
WATCHED_LABELS = 1024


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does.

    Args:
        data: a known name, a folder of class folders, ``.npz``, ``.csv`` or ``.parquet``.
        data_dir: where known data sets lie; None takes the environment variable CATCHMENT_DATA, else ``data``.
        test: where the test part is; None takes the known split, or holds out 20 %.
        label_column: of a table.
        drop_columns: columns of a table that are no features.
        image_size: to which images are resized; None keeps it where they agree.
        skip_unreadable: leave unreadable images out and count them.
        imbalance: how training classes are made rare before the noise, ``long-tail:100`` for example.
        noise: what is done to the training labels, ``symmetric:0.4`` for example.
        mapping: of asymmetric noise.
        outside: a data set whose images open-set noise puts under the labels.
        unknowns: a data set whose test samples are added to the test part, as samples of none of the classes.
        also_test: data sets whose test parts, of the same classes, the trained model is judged by too.
        task: what samples may have, one of ``TASKS``; None takes what the labels are for.
        top_k: how many classes of each multi-label sample are judged by the metrics that end in "at_k".
        objective: a name that ``create_objective`` knows.
        parameters: of the objective.
        noise_robust: for D-SINK, the finished run of an auxiliary model, or the objective to train one with first.
        imbalance_robust: likewise.
        auxiliary_view: "cached", auxiliaries see the images as they are, once; "augmented", as the model does.
        net: a name that ``create_net`` knows.
        activation: of the net, likewise.
        max_train_samples: how many training samples to keep, the same share of each class and the same ones for every
            seed; 0 keeps all.
        validation: share of the training set held out for validation; 0 holds out none.
        validation_labels: "noisy", as a user would have them, or "clean", as some papers have them.
        validation_seed: of the draw of the validation part; None takes the run's seed.
        calibrate: after training, fit on the validation part what the objective reads probabilities with: the
            temperature of a softmax of many labels, or the C of a quasibinary classifier.
        judged_on: "test", or "validation" for tuning, which leaves the test set alone.
        eval_every: epochs between two looks at the test accuracy for the history, which decide nothing; 0: none.
        last_epochs: average the test accuracy over so many last epochs too; 0: don't.
        corruptions: under which the test images are judged too: names with commas, "benchmark" or "all"; None: none.
        severities: of each of these, from 1 to 5.
        adaptations: how the net is adapted to each, ``ADAPTATION`` or ``ADAPTATION/LAST_LAYER``: see ``Shift``.
        corruption_size: whose constants of the corruptions; None: by the images' side.
        shift_samples: how many test images to judge so; 0 takes all.
        training: how to train.
    """

    data: str = "digits"
    data_dir: str | None = None
    test: str | None = None
    label_column: str = "label"
    drop_columns: tuple[str, ...] = ()
    image_size: int | None = None
    skip_unreadable: bool = False
    imbalance: str | None = None
    noise: str | None = None
    mapping: str | None = None
    outside: str | None = None
    unknowns: str | None = None
    also_test: tuple[str, ...] = ()
    task: str | None = None
    top_k: int = TOP_K
    objective: str = "drainage"
    parameters: dict[str, Any] = field(default_factory=dict)
    noise_robust: str | None = None
    imbalance_robust: str | None = None
    auxiliary_view: str = "cached"
    net: str = "auto"
    activation: str = "relu"
    max_train_samples: int = 0
    validation: float = 0.0
    validation_labels: str = "noisy"
    validation_seed: int | None = None
    calibrate: bool = False
    judged_on: str = "test"
    eval_every: int = 0
    last_epochs: int = 0
    corruptions: str | None = None
    severities: tuple[int, ...] = ALL_SEVERITIES
    adaptations: tuple[str, ...] = ("none",)
    corruption_size: str | None = None
    shift_samples: int = 0
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}: give a share from 0 to below 1")
        if self.validation_labels not in ("noisy", "clean"):
            raise ValueError(f"validation labels are {self.validation_labels!r}: choose noisy or clean")
        for name in ("max_train_samples", "eval_every", "last_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a whole number of at least 0")
        if self.auxiliary_view not in VIEWS:
            raise ValueError(f"auxiliary_view is {self.auxiliary_view!r}: choose one of {', '.join(VIEWS)}")
        check_task(self.task)
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}: give a whole number of at least 1")
        if self.calibrate and not self.validation:
            raise ValueError("calibrate needs held-out samples: hold some out, with --validation 0.2 for example")
        if self.judged_on not in ("test", "validation"):
            raise ValueError(f"judged_on is {self.judged_on!r}: choose test or validation")
        if self.judged_on == "validation" and not self.validation:
            raise ValueError("judged on a validation set that is not held out: give validation a share above 0")
        if self.corruptions is None and (self.severities, self.adaptations) != (ALL_SEVERITIES, ("none",)):
            raise ValueError("severities and adaptations are of corruptions: name some, benchmark for example")
        _ = self.shift

    @property
    def shift(self) -> Shift | None:
        """Under which shift the trained model is judged; None: under none."""
        if self.corruptions is None:
            return None
        return Shift(self.corruptions, self.severities, self.adaptations, self.corruption_size, self.shift_samples)

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """From what ``to_dict`` gave."""
        names = {f.name for f in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        for field_ in fields(cls):
            if isinstance(known.get(field_.name), list):
                known[field_.name] = tuple(known[field_.name])
        return cls(**{**known, "training": TrainingConfig.from_dict(known["training"])})


@dataclass(frozen=True)
class RunData:
    """What a run trains on and is judged by."""

    train: Dataset
    validation: Dataset | None
    test: Dataset
    also: dict[str, Dataset]
    noise: dict[str, Any] | None
    imbalance: dict[str, Any] | None
    task: str


def load_run_data(config: RunConfig) -> RunData:
    """Read the data, spoil the training labels, and hold out the validation part."""
    seed = config.training.seed
    splits = load_data(
        config.data,
        test=config.test,
        label_column=config.label_column,
        drop_columns=config.drop_columns,
        image_size=config.image_size,
        skip_unreadable=config.skip_unreadable,
        seed=seed,
        data_dir=config.data_dir,
    )
    noise = imbalance = None
    if config.max_train_samples:
        splits = Splits(stratified_subset(splits.train, config.max_train_samples), splits.test)
    if config.imbalance is not None:
        splits, imbalance = apply_imbalance(splits, config.imbalance, seed=seed)
    if config.noise is not None:
        outside = None if config.outside is None else _other_inputs(config.outside, splits.train, config)
        splits, noise = apply_noise(splits, config.noise, mapping=config.mapping, seed=seed, outside=outside)
    else:
        noise = given_noise(splits.train)
    for option, what in ((config.mapping, "mapping"), (config.outside, "outside")):
        if option is not None and config.noise is None:
            needed = "asymmetric" if what == "mapping" else "open-set"
            raise ValueError(f"--{what} without noise does nothing: add --noise {needed}:RATE")
    if config.unknowns is not None:
        unknowns = _other_inputs(config.unknowns, splits.test, config)
        splits = Splits(splits.train, add_unknowns(splits.test, unknowns))
    also = {slug(source): _other_inputs(source, splits.train, config) for source in config.also_test}
    train_part, validation = splits.train, None
    if config.validation:
        split_seed = seed if config.validation_seed is None else config.validation_seed
        train_part, validation = split_validation(splits.train, config.validation, split_seed)
        if config.validation_labels == "clean":
            if validation.clean_labels is None:
                raise ValueError(f"the clean labels of {config.data} are not known: use --validation-labels noisy")
            validation = replace(validation, labels=validation.clean_labels)
    task = settle_task(config.task, splits.train)
    return RunData(train_part, validation, splits.test, also, noise, imbalance, task)


def slug(source: str) -> str:
    """A data set's name or path as a part of a key.

    >>> slug("webvision:mini:imagenet")
    'webvision_mini_imagenet'
    """
    return re.sub("[^a-z0-9]+", "_", source.lower()).strip("_")


def _other_inputs(source: str, like: Dataset, config: RunConfig) -> Dataset:
    """The (test) samples of another set, in the form of this one's."""
    return load_inputs(source, InputFormat.of(like), skip_unreadable=config.skip_unreadable, data_dir=config.data_dir)


def split_validation(dataset: Dataset, share: float, seed: int) -> Splits:
    """Split off a random share of the rows, seeded."""
    order = np.random.default_rng([seed, 1]).permutation(len(dataset))
    count = round(share * len(dataset))
    if not 1 <= count < len(dataset):
        raise ValueError(f"a share of {share} of {len(dataset)} samples leaves one part empty: choose another share")
    return Splits(dataset.select(np.sort(order[count:])), dataset.select(np.sort(order[:count])))


def stratified_subset(dataset: Dataset, count: int) -> Dataset:
    """The same share of each class, ``count`` samples together, always the same ones; all where there are no more.

    Of multi-label data any ``count`` samples, as sets of labels have no strata.
    """
    if count >= len(dataset):
        return dataset
    if dataset.is_multi_label:
        return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[:count]))
    from sklearn.model_selection import train_test_split

    _, classes = np.unique(dataset.labels, return_inverse=True)
    if count < classes.max() + 1:
        raise ValueError(f"{count} training samples are fewer than the {classes.max() + 1} classes: keep more")
    kept, _ = train_test_split(np.arange(len(dataset)), train_size=count, stratify=classes, random_state=0)
    return dataset.select(np.sort(kept))


def run(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    on_start: Callable[[RunData, Model], None] = lambda data, model: None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Do a run and write its folder; what it returns is also in ``metrics.json``.

    A finished run is not done again: its numbers are read from disk.

    Args:
        config: what to do.
        folder: where to write; it must be new or empty, unless ``resume``.
        resume: go on with the run in ``folder``.
        on_epoch: called with each row of the history.
        on_start: called once data and model are there.
        tensorboard: also write the history as TensorBoard's event files.

    Raises:
        ValueError: the settings, the data or the folder can't be used; nothing was written then.
    """
    rank, _ = rank_and_world_size()
    choose_device(config.training.device)
    log = TensorBoardLog(folder) if tensorboard and rank == 0 else None
    # The first process alone looks at the folder: another might look when the first has already written to it.
    if from_first_process(resume and (folder / METRICS).exists()):
        return _finished(folder) if rank == 0 else {}
    if not resume:
        on_first_process(lambda: check_new_folder(folder))
    data = load_run_data(config)
    model = create_model(config, data.train)
    record = _config_record(config, data)
    if resume and (folder / CONFIG).exists() and read_json(folder / CONFIG)["fingerprint"] != record["fingerprint"]:
        raise ValueError(f"{config.data} has changed since the run in {folder} began: restore it, or start anew")
    roles = roles_needed(model.objective)
    if not roles and (config.noise_robust or config.imbalance_robust):
        raise ValueError(f"{config.objective} takes no auxiliary models: leave them out, or use --objective dsink")
    to_come = {f"{role}_logits": torch.empty(0) for role in roles}
    check_trainable(model, data.train, config.training, validation=data.validation, columns=to_come)
    if config.calibrate:
        check_calibratable(model.objective)
    if config.last_epochs and data.task == "multi-label":
        raise ValueError("last_epochs averages the accuracy, which multi-label data have none of: leave it out")
    if config.shift is not None and config.judged_on == "test":
        check_shift(config.shift, model, data.test)
    on_start(data, model)
    if rank > 0:
        _train_and_evaluate(config, data, model, _columns(config, data, model, folder), None, resume, on_epoch)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        if not (folder / CONFIG).exists():
            write_json(folder / CONFIG, record)
        columns = _columns(config, data, model, folder)
        with ExitStack() as stack:
            listeners = [on_epoch]
            if log is not None:
                listeners.append(stack.enter_context(log))
            numbers = _train_and_evaluate(config, data, model, columns, folder, resume, _all_of(listeners))
        _write_weights(model, folder / WEIGHTS)
        write_json(folder / METRICS, numbers)
        return _finished(folder)


def _all_of(listeners: list[Callable[[dict[str, Any]], None]]) -> Callable[[dict[str, Any]], None]:
    def call(row: dict[str, Any]) -> None:
        for listener in listeners:
            listener(row)

    return call


def _finished(folder: Path) -> dict[str, Any]:
    """Complete what a kill right after the last number may have left undone; the run's numbers."""
    if not (folder / report.NAME).exists():
        report.write_run_report(folder)
    Checkpointer(folder).remove()
    numbers: dict[str, Any] = read_json(folder / METRICS)
    return numbers


def _columns(config: RunConfig, data: RunData, model: Model, folder: Path) -> dict[str, Column]:
    """What the auxiliary models say, which are trained in ``folder`` where none are given."""

    def train_auxiliary(role: str, objective: str) -> Path:
        where = folder / role.replace("_", "-")
        run(auxiliary_config(config, objective), where, resume=True)
        from_first_process(None)  # the others wait until it is written
        return where

    return auxiliary_columns(
        model.objective,
        {"noise_robust": config.noise_robust, "imbalance_robust": config.imbalance_robust},
        data.train,
        view=config.auxiliary_view,
        device=config.training.device,
        train_auxiliary=train_auxiliary,
    )


def _train_and_evaluate(
    config: RunConfig,
    data: RunData,
    model: Model,
    columns: dict[str, Column],
    folder: Path | None,
    resume: bool,
    on_epoch: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    judged = data.test if config.judged_on == "test" or data.validation is None else data.validation
    result = train(
        model,
        data.train,
        config.training,
        validation=data.validation,
        columns=columns,
        folder=folder,
        resume=resume,
        on_epoch=on_epoch,
        evaluate=lambda trained: _test_accuracy(trained, data.test),
        evaluate_every=config.eval_every if config.judged_on == "test" else 0,
        evaluate_last=config.last_epochs if config.judged_on == "test" else 0,
        watch=_watch_labels(data.train, columns),
    )
    with cpu_threads(result.threads):
        fitted = calibrate(model, data.validation) if config.calibrate and data.validation is not None else {}
        on_judged, on_train = predict(model, judged), predict(model, data.train)
        found = prediction_metrics(model, on_judged, judged, top_k=config.top_k)
        scores: dict[str, Any] = {f"{config.judged_on}_{name}": value for name, value in found.items()}
        scores |= label_score_metrics(on_train, data.train)
        scores |= _correction_metrics(model.objective, on_train, data.train, columns)
        if data.imbalance is not None:
            scores |= _frequency_metrics(on_judged, judged, data.train, config.judged_on)
        if config.last_epochs and config.judged_on == "test":
            last = [row["test_accuracy"] for row in result.history[-config.last_epochs :]]
            scores["test_accuracy_last_epochs"] = sum(last) / len(last)
        for name, other in data.also.items() if config.judged_on == "test" else ():
            found = prediction_metrics(model, predict(model, other), other, top_k=config.top_k)
            scores |= {f"also_{name}_{key}": value for key, value in found.items()}
        if config.shift is not None and config.judged_on == "test":
            shifted = evaluate_shift(config.shift, model, data.test, data.train)
            scores |= summarise(shifted)
            if folder is not None:
                write_text(folder / SHIFT, shift_csv(shifted))
    if folder is not None and config.judged_on == "test":
        write_evaluation(folder, data.train, on_train, data.test, on_judged, top_k=config.top_k)
    wrong = wrong_labels(data.train)
    return {
        **scores,
        "noise_rate_realised": None if wrong is None else float(wrong[data.train.labels >= 0].mean()),
        "noise": data.noise,
        "imbalance": data.imbalance,
        "data": data.train.name,
        "task": data.task,
        "top_k": min(config.top_k, data.train.num_classes) if data.task == "multi-label" else None,
        **{f"calibrated_{name}": value for name, value in fitted.items()},
        "objective": config.objective,
        "seed": config.training.seed,
        "epochs": len(result.history),
        "reported_epoch": result.reported_epoch,
        "reported": "best validation epoch" if config.training.early_stopping else "last epoch",
        "judged_on": config.judged_on,
        "adaptations": list(config.adaptations) if config.shift is not None and config.judged_on == "test" else None,
        "validation_labels": config.validation_labels if data.validation is not None else None,
        "train_samples": len(data.train),
        "test_samples": len(data.test),
        "skipped_files": data.train.skipped + data.test.skipped,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "train_seconds": sum(row["seconds"] for row in result.history),
        "threads": result.threads,
        "device": result.device,
    }


def _correction_metrics(
    objective: Objective, on_train: Predictions, train_part: Dataset, columns: dict[str, Column]
) -> dict[str, Any]:
    """What became of wrong and of right labels, in the model's own predictions and in the labels of D-SINK.

    The shares are there where the true labels are known, "transport" for D-SINK either way.
    """
    if train_part.is_multi_label:
        return {}
    found: dict[str, Any] = _shares("train", on_train.probabilities, train_part)
    solved = final_labels(objective, on_train.logits, columns)
    if solved is not None:
        found |= _shares("transported", solved.pop("labels"), train_part)
        counts = np.bincount(train_part.labels[train_part.labels >= 0], minlength=train_part.num_classes)
        found["transport"] = {**solved, "given": counts.tolist()}
    return found


def _shares(whose: str, labels: torch.Tensor, train_part: Dataset) -> dict[str, float]:
    if train_part.clean_labels is None:
        return {}
    given, clean = torch.from_numpy(train_part.labels), torch.from_numpy(train_part.clean_labels)
    shares = label_shares(labels, given, clean)
    return {f"{whose}_{name}": share for name, share in shares.items() if not math.isnan(share)}


def _watch_labels(train_part: Dataset, columns: dict[str, Column]) -> Callable[[Model], dict[str, float]]:
    """``_correction_metrics`` of the same samples after every epoch; nothing where no label is known to be wrong."""
    wrong = wrong_labels(train_part)
    if train_part.is_multi_label or wrong is None or not wrong.any():
        return lambda model: {}
    rows = np.unique(np.linspace(0, len(train_part) - 1, WATCHED_LABELS).round().astype(np.int64))
    watched = train_part.select(rows)
    of_rows: dict[str, Column] = {
        name: column[torch.from_numpy(rows)] for name, column in columns.items() if isinstance(column, torch.Tensor)
    }

    def watch(model: Model) -> dict[str, float]:
        found = _correction_metrics(model.objective, predict(model, watched), watched, of_rows)
        return {name: value for name, value in found.items() if name != "transport"}

    return watch


def _frequency_metrics(
    predictions: Predictions, judged: Dataset, train_part: Dataset, judged_on: str
) -> dict[str, float]:
    """Mean class accuracy of ``metrics.frequency_groups``, by true training labels where these are known."""
    true = train_part.labels if train_part.clean_labels is None else train_part.clean_labels
    groups = metrics.frequency_groups(np.bincount(true[true >= 0], minlength=train_part.num_classes))
    size = [{"many": 2, "medium": 1, "few": 0}[group] for group in groups]
    known = judged.labels >= 0
    found = metrics.group_accuracy(predictions.probabilities[known], judged.labels[known], size, many=1, few=1)
    return {f"{judged_on}_accuracy_{name}": value for name, value in found.items() if not math.isnan(value)}


def _test_accuracy(model: Model, test: Dataset) -> dict[str, float]:
    if test.is_multi_label:
        return {"test_map": validation_metrics(model, test)["validation_map"]}
    known = test.select(test.labels >= 0)
    return {"test_accuracy": metrics.accuracy(predict(model, known).probabilities, known.labels)} if len(known) else {}


def create_model(config: RunConfig, dataset: Dataset) -> Model:
    """The net with seeded weights, and the objective."""
    objective = create_objective(config.objective, num_classes=dataset.num_classes, **config.parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        net = create_net(
            config.net, InputFormat.of(dataset), objective, input_statistics(dataset), activation=config.activation
        )
    return Model(net, objective)


def load_run(folder: Path) -> tuple[Model, InputFormat, dict[str, Any]]:
    """The trained model of a finished run, the format of its inputs, and its config.json.

    Raises:
        ValueError: there is no finished run.
    """
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds no run: give the --out folder of catchment train")
    if not (folder / METRICS).exists():
        raise ValueError(f"the run in {folder} is not finished: catchment train --resume --out {folder}")
    from safetensors.torch import load_file

    record = read_json(folder / CONFIG)
    config = RunConfig.from_dict(record)
    input_format = InputFormat.from_dict(record["input_format"])
    objective = create_objective(config.objective, num_classes=len(input_format.class_names), **config.parameters)
    objective.setup(num_samples=record["train_samples"], class_counts=torch.tensor(record["class_counts"]))
    model = Model(create_net(config.net, input_format, objective, activation=config.activation), objective)
    model.load_inference_state(load_file(folder / WEIGHTS))
    return model.eval(), input_format, record


def check_new_folder(folder: Path) -> None:
    """Raise a ValueError unless a new run can be written to ``folder``."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file: choose another --out")
    if (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds another run: choose another --out, or go on with it by --resume")
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another --out")


def _config_record(config: RunConfig, data: RunData) -> dict[str, Any]:
    train_part = data.train
    return {
        **config.to_dict(),
        "input_format": InputFormat.of(train_part).to_dict(),
        "train_samples": len(train_part),
        "class_counts": train_part.class_counts.tolist(),
        "noise_record": data.noise,
        "imbalance_record": data.imbalance,
        "fingerprint": _fingerprint(train_part),
        "versions": versions(),
        "hardware": hardware(str(choose_device(config.training.device))),
    }


def _fingerprint(dataset: Dataset) -> str:
    inputs = dataset.inputs
    digest = hashlib.sha256(
        inputs.fingerprint() if isinstance(inputs, ImageFiles) else np.ascontiguousarray(inputs).data
    )
    digest.update(np.ascontiguousarray(dataset.labels).data)
    return digest.hexdigest()


def _write_weights(model: Model, path: Path) -> None:
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in model.inference_state().items()}
    write_bytes(path, save(state))
