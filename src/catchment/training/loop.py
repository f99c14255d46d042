"""The training loop: one for every method, since a method says everything about itself in its Objective."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, ReduceLROnPlateau, StepLR
from torch.utils.flop_counter import FlopCounterMode

from catchment.data import UNKNOWN_CLASS, Dataset
from catchment.files import append_jsonl, read_jsonl, write_jsonl
from catchment.objective import Model
from catchment.training.batches import Column, TrainingBatches, batch_bounds, check_augmentation, epoch_generator
from catchment.training.checkpoint import Checkpointer
from catchment.training.config import TrainingConfig
from catchment.training.distributed import (
    distribute,
    from_first_process,
    mean_over_processes,
    rank_and_world_size,
    synchronise_batch_norm,
)
from catchment.training.evaluation import normalizer_metrics, validation_metrics
from catchment.training.streaming import StreamedBatches, make_batches

HISTORY = "history.jsonl"
DIVERGED = "the loss became"
# Below this many floating-point operations a step (forward), threads wait for each other longer than they work.
SMALL_STEP = 2e9
# Of how many training samples each epoch's normalisers are taken.
WATCHED = 256


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training run.

    Args:
        history: one row per epoch: ``epoch`` (from 1), ``train_loss``, ``learning_rate``, ``seconds``, with a
            validation set what ``validation_metrics`` gives, what ``normalizer_metrics`` and ``watch`` give, and now
            and then what ``evaluate`` gives.
        reported_epoch: whose weights the model holds: the last, or the best on the validation set under early stopping.
        threads: of the CPU.
        device: that it ran on.
    """

    history: list[dict[str, Any]]
    reported_epoch: int
    threads: int
    device: str


def train(
    model: Model,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    validation: Dataset | None = None,
    columns: Mapping[str, Column] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    evaluate: Callable[[Model], dict[str, float]] = lambda model: {},
    evaluate_every: int = 0,
    evaluate_last: int = 0,
    watch: Callable[[Model], dict[str, float]] = lambda model: {},
) -> TrainingResult:
    """Train ``model`` in place.

    Minimises the objective, plus ``config.l1`` times the L1 norm of the parameters. Same torch build, thread count and
    settings, on a CPU in float32 and eager mode: the same seed gives the same bits, also for a run that was killed at
    any moment and resumed. In a process group every batch is shared equally between the processes.

    Args:
        model: net and objective.
        dataset: the training set.
        config: everything else.
        validation: for early stopping, the plateau schedule and the history; never the test set.
        columns: further batch columns by name, for objectives that need them: an array with a row for each training
            sample, or a function of the augmented inputs and their index, called without gradient.
        folder: where ``history.jsonl`` and the checkpoint go; None keeps nothing on disk.
        resume: go on from the checkpoint in ``folder``, if there is one.
        on_epoch: called with each new row of the history.
        evaluate: gives further numbers for the history, which decide nothing.
        evaluate_every: epochs between two calls of ``evaluate``, which is also called after the last one; 0: never.
        evaluate_last: call it after each of so many last epochs too.
        watch: gives further numbers after every epoch, which decide nothing either.

    Raises:
        ValueError: the data doesn't suit the objective or the settings, or the loss stops being finite.
    """
    check_trainable(model, dataset, config, validation=validation, columns=columns)
    rank, world_size = rank_and_world_size()
    device = choose_device(config.device)
    model.objective.setup(num_samples=len(dataset), class_counts=torch.from_numpy(dataset.class_counts))
    model.to(device)
    synchronise_batch_norm(model, device)
    if config.channels_last:
        model.net.to(memory_format=torch.channels_last)
    batches = make_batches(
        dataset,
        batch_size=config.batch_size,
        device=device,
        seed=config.seed,
        augmentation=dataset.augmentation if config.augmentation is None else config.augmentation,
        columns=columns,
        rank=rank,
        world_size=world_size,
        workers=config.workers,
    )
    threads = config.threads or choose_threads(model, batches.inputs[: config.batch_size])
    with cpu_threads(threads), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        own_folder = folder if rank == 0 else None
        evaluated = {
            epoch
            for epoch in range(1, config.epochs + 1)
            if epoch > config.epochs - evaluate_last
            or (evaluate_every and (epoch % evaluate_every == 0 or epoch == config.epochs))
        }
        run = _Run(model, batches, config, _watched(dataset), validation, own_folder, evaluate, evaluated, watch)
        run.start(resume)
        run.epochs(on_epoch)
    return TrainingResult(run.history, run.reported_epoch, threads, str(device))


def _watched(dataset: Dataset) -> Dataset:
    """Some training samples, the same in every epoch, whose normalisers go to the history."""
    count = min(len(dataset), WATCHED)
    return dataset.select(np.linspace(0, len(dataset) - 1, count).round().astype(np.int64))


class _Run:
    """The state of one training run: what a checkpoint holds, and how an epoch changes it."""

    def __init__(
        self,
        model: Model,
        batches: TrainingBatches | StreamedBatches,
        config: TrainingConfig,
        watched: Dataset,
        validation: Dataset | None,
        folder: Path | None,
        evaluate: Callable[[Model], dict[str, float]],
        evaluated: set[int],
        watch: Callable[[Model], dict[str, float]],
    ) -> None:
        self.model, self.batches, self.config, self.validation = model, batches, config, validation
        self.evaluate, self.evaluated, self.watch = evaluate, evaluated, watch
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, config)
        self.scheduler = make_scheduler(self.optimizer, config)
        self.checkpointer = Checkpointer(folder)
        self.history_path = None if folder is None else folder / HISTORY
        self.history: list[dict[str, Any]] = []
        self.watched = watched
        self.best: dict[str, Any] | None = None  # epoch, accuracy and weights of the best validation epoch

    def start(self, resume: bool) -> None:
        """From the checkpoint where there is one and it is wanted, else from the beginning."""
        state = from_first_process(self.checkpointer.load() if resume else None)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.best = state["best"]
            self.history = state["history"]
        if self.history_path is not None and read_jsonl(self.history_path) != self.history:
            # Epochs after the checkpoint are trained again, and give the same rows but for the seconds.
            write_jsonl(self.history_path, self.history)
        if self.config.compile:
            self.model.compile()
        self.forward = distribute(self.model)

    @property
    def reported_epoch(self) -> int:
        """Whose weights count."""
        return len(self.history) if self.best is None else int(self.best["epoch"])

    def epochs(self, on_epoch: Callable[[dict[str, Any]], None]) -> None:
        """Train until the last epoch or until early stopping, then take the weights that count."""
        while len(self.history) < self.config.epochs and not self._has_stopped():
            started = time.perf_counter()
            learning_rate = self.optimizer.param_groups[0]["lr"]
            train_loss = self._epoch(len(self.history))
            row = {"epoch": len(self.history) + 1, "train_loss": train_loss, "learning_rate": learning_rate}
            row |= self.model.objective.diagnostics
            row |= from_first_process(normalizer_metrics(self.model, self.watched))
            row |= from_first_process(self.watch(self.model))
            if self.validation is not None:
                row |= from_first_process(validation_metrics(self.model, self.validation))
            if row["epoch"] in self.evaluated:
                row |= from_first_process(self.evaluate(self.model))
            self._step_scheduler(row)
            row["seconds"] = time.perf_counter() - started
            self.history.append(row)
            self._keep_best(row)
            if self.history_path is not None:
                append_jsonl(self.history_path, row)
            self.checkpointer.save(self._state())
            on_epoch(row)
        if self.best is not None:
            self.model.load_state_dict(self.best["model"])

    def _epoch(self, epoch: int) -> float:
        """One pass over the training set; the mean loss, without the penalty."""
        config, device = self.config, self.batches.device
        torch.manual_seed(epoch_generator(config.seed, epoch).initial_seed())  # dropout
        self.model.train()
        total = torch.zeros((), device=device)
        for batch in self.batches.epoch(epoch, config.epochs):
            if config.channels_last and batch["inputs"].ndim == 4:
                batch["inputs"] = batch["inputs"].contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                loss = self.forward(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            add_l1_gradient(self.parameters, config.l1)
            if config.clip_norm:
                nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
            self.optimizer.step()
            total += loss.detach()
        mean_loss = mean_over_processes(total).item() / len(self.batches)
        if not math.isfinite(mean_loss):
            raise ValueError(f"{DIVERGED} {mean_loss} in epoch {epoch + 1}: lower the learning rate and start anew")
        return mean_loss

    def _step_scheduler(self, row: dict[str, Any]) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(row.get("validation_nll", row["train_loss"]))
        else:
            self.scheduler.step()

    def _keep_best(self, row: dict[str, Any]) -> None:
        if not self.config.early_stopping:
            return
        accuracy = row["validation_map" if "validation_map" in row else "validation_accuracy"]
        if self.best is None or accuracy > self.best["accuracy"]:
            weights = copy.deepcopy(self.model.state_dict())
            self.best = {"epoch": row["epoch"], "accuracy": accuracy, "model": weights}

    def _has_stopped(self) -> bool:
        return self.best is not None and len(self.history) - self.best["epoch"] >= self.config.early_stopping

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best": self.best,
            "history": self.history,
            "threads": torch.get_num_threads(),
        }


def make_optimizer(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    lr, weight_decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=lr, weight_decay=weight_decay, momentum=config.momentum, nesterov=config.nesterov, fused=True
    )


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> LRScheduler | ReduceLROnPlateau:
    """The schedule that the settings name; it steps once an epoch."""
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    if config.schedule == "step":
        return StepLR(optimizer, config.step_size, config.step_factor)
    if config.schedule == "milestones":
        milestones = [max(1, round(share * config.epochs)) for share in config.milestones]
        return MultiStepLR(optimizer, milestones, config.step_factor)
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=config.step_factor, patience=config.step_size)
    return LambdaLR(optimizer, lambda epoch: 1.0)


def add_l1_gradient(parameters: list[nn.Parameter], l1: float) -> None:
    """Add the gradient of ``l1 * sum |w|``, which is ``l1 * sign(w)``, to the parameters' gradients."""
    if l1 == 0:
        return
    reached: list[tuple[Tensor, Tensor]] = [(p, p.grad) for p in parameters if p.grad is not None]
    with torch.no_grad():
        signs = torch._foreach_sign([parameter for parameter, _ in reached])
        torch._foreach_add_([gradient for _, gradient in reached], signs, alpha=l1)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} can't be used here ({str(error).splitlines()[0]}): try cpu") from None
    return device


def choose_threads(model: Model, inputs: Tensor) -> int:
    """One thread where a step is small, else torch's own number; it depends on the net and the batch size alone."""
    if inputs.device.type != "cpu":
        return torch.get_num_threads()
    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    try:
        with counter, torch.no_grad():
            model.net(inputs)
    finally:
        model.train(was_training)
    return 1 if counter.get_total_flops() < SMALL_STEP else torch.get_num_threads()


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Run the body with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_trainable(
    model: Model,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    validation: Dataset | None = None,
    columns: Mapping[str, Column] | None = None,
) -> None:
    """Raise a ValueError if the data doesn't suit the objective or the settings; ``train`` asks before it begins."""
    objective = model.objective
    if dataset.is_multi_label and objective.exclusive:
        raise ValueError(
            f"{dataset.name} has any number of labels per sample, and {type(objective).__name__} takes one: "
            "choose an objective for many labels"
        )
    if not (dataset.labels >= 0).any() and not objective.accepts_unknown:
        raise ValueError(f"{dataset.name} has no labelled sample: give labels")
    count = int((dataset.labels == UNKNOWN_CLASS).sum())
    if count and not objective.accepts_unknown:
        raise ValueError(
            f"{count} training samples are labelled -1 (no known class), which {type(objective).__name__} can't learn "
            "from: drop them, or label them -100 to leave them out"
        )
    missing = [name for name in objective.needs if name not in {"index", "progress"} | (columns or {}).keys()]
    if missing:
        raise ValueError(f"{type(objective).__name__} needs the column {missing[0]!r}: give it as columns={{...}}")
    if config.early_stopping and validation is None:
        raise ValueError("early stopping needs a validation set: hold one out, with --validation 0.1 for example")
    check_augmentation(dataset.augmentation if config.augmentation is None else config.augmentation, dataset)
    batch_bounds(len(dataset), config.batch_size, rank_and_world_size()[1])
