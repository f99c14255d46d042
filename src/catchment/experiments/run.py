"""One run: data -> noise -> training -> numbers -> a folder that says all of it."""

from __future__ import annotations

import hashlib
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
from catchment.experiments.environment import hardware, versions
from catchment.experiments.evaluation_record import write_evaluation
from catchment.experiments.noise import add_unknowns, apply_imbalance, apply_noise, given_noise
from catchment.files import folder_lock, read_json, write_bytes, write_json
from catchment.methods import create_objective
from catchment.nets import create_net, input_statistics
from catchment.objective import Model
from catchment.training.checkpoint import Checkpointer
from catchment.training.config import TrainingConfig
from catchment.training.distributed import from_first_process, on_first_process, rank_and_world_size
from catchment.training.evaluation import label_score_metrics, predict, prediction_metrics, wrong_labels
from catchment.training.loop import check_trainable, choose_device, cpu_threads, train
from catchment.training.tensorboard import TensorBoardLog

CONFIG, METRICS, WEIGHTS = "config.json", "metrics.json", "model.safetensors"


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
        objective: a name that ``create_objective`` knows.
        parameters: of the objective.
        net: a name that ``create_net`` knows.
        activation: of the net, likewise.
        max_train_samples: how many training samples to keep, the same share of each class and the same ones for every
            seed; 0 keeps all.
        validation: share of the training set held out for validation; 0 holds out none.
        validation_labels: "noisy", as a user would have them, or "clean", as some papers have them.
        validation_seed: of the draw of the validation part; None takes the run's seed.
        judged_on: "test", or "validation" for tuning, which leaves the test set alone.
        eval_every: epochs between two looks at the test accuracy for the history, which decide nothing; 0: none.
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
    objective: str = "drainage"
    parameters: dict[str, Any] = field(default_factory=dict)
    net: str = "auto"
    activation: str = "relu"
    max_train_samples: int = 0
    validation: float = 0.0
    validation_labels: str = "noisy"
    validation_seed: int | None = None
    judged_on: str = "test"
    eval_every: int = 0
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}: give a share from 0 to below 1")
        if self.validation_labels not in ("noisy", "clean"):
            raise ValueError(f"validation labels are {self.validation_labels!r}: choose noisy or clean")
        for name in ("max_train_samples", "eval_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a whole number of at least 0")
        if self.judged_on not in ("test", "validation"):
            raise ValueError(f"judged_on is {self.judged_on!r}: choose test or validation")
        if self.judged_on == "validation" and not self.validation:
            raise ValueError("judged on a validation set that is not held out: give validation a share above 0")

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """From what ``to_dict`` gave."""
        names = {f.name for f in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        for name in ("drop_columns", "also_test"):
            known[name] = tuple(known.get(name, ()))
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
    return RunData(train_part, validation, splits.test, also, noise, imbalance)


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
    """The same share of each class, ``count`` samples together, always the same ones; all where there are no more."""
    if count >= len(dataset):
        return dataset
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
    check_trainable(model, data.train, config.training, validation=data.validation)
    on_start(data, model)
    if rank > 0:
        _train_and_evaluate(config, data, model, None, resume, on_epoch)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        if not (folder / CONFIG).exists():
            write_json(folder / CONFIG, record)
        with ExitStack() as stack:
            listeners = [on_epoch]
            if log is not None:
                listeners.append(stack.enter_context(log))
            numbers = _train_and_evaluate(config, data, model, folder, resume, _all_of(listeners))
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


def _train_and_evaluate(
    config: RunConfig,
    data: RunData,
    model: Model,
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
        folder=folder,
        resume=resume,
        on_epoch=on_epoch,
        evaluate=lambda trained: _test_accuracy(trained, data.test),
        evaluate_every=config.eval_every if config.judged_on == "test" else 0,
    )
    with cpu_threads(result.threads):
        on_judged, on_train = predict(model, judged), predict(model, data.train)
        scores = {f"{config.judged_on}_{k}": v for k, v in prediction_metrics(model, on_judged, judged).items()}
        scores |= label_score_metrics(on_train, data.train)
        for name, other in data.also.items() if config.judged_on == "test" else ():
            found = prediction_metrics(model, predict(model, other), other)
            scores |= {f"also_{name}_{key}": value for key, value in found.items()}
    if folder is not None and config.judged_on == "test":
        write_evaluation(folder, data.train, on_train, data.test, on_judged)
    wrong = wrong_labels(data.train)
    return {
        **scores,
        "noise_rate_realised": None if wrong is None else float(wrong[data.train.labels >= 0].mean()),
        "noise": data.noise,
        "imbalance": data.imbalance,
        "data": data.train.name,
        "objective": config.objective,
        "seed": config.training.seed,
        "epochs": len(result.history),
        "reported_epoch": result.reported_epoch,
        "reported": "best validation epoch" if config.training.early_stopping else "last epoch",
        "judged_on": config.judged_on,
        "validation_labels": config.validation_labels if data.validation is not None else None,
        "train_samples": len(data.train),
        "test_samples": len(data.test),
        "skipped_files": data.train.skipped + data.test.skipped,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "train_seconds": sum(row["seconds"] for row in result.history),
        "threads": result.threads,
        "device": result.device,
    }


def _test_accuracy(model: Model, test: Dataset) -> dict[str, float]:
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
    counts = np.bincount(train_part.labels[train_part.labels >= 0], minlength=train_part.num_classes)
    return {
        **config.to_dict(),
        "input_format": InputFormat.of(train_part).to_dict(),
        "train_samples": len(train_part),
        "class_counts": counts.tolist(),
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
