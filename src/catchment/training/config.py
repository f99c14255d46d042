"""How to train, apart from what: every number a protocol states."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "step", "milestones", "plateau", "constant")
# steps of augmentation that take a part of an image, and so come first
_CUTS = ("random-resized-crop", "random-crop")
# steps that mix the images and labels of a batch, and so come last
MIXING = ("mixup", "cutmix")
_SHARE = re.compile(r"[0-9]+(\.[0-9]+)?")
# annotation of a setting -> what its value must be, and in words
_KINDS: dict[Any, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "str": (str, "a name"),
}


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run.

    Args:
        epochs: passes over the training set.
        batch_size: over all processes together.
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: at the start.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: the optimiser's.
        l1: adds ``l1 * sum |w|`` over all parameters to what is minimised, outside the loss and before clipping.
        schedule: "cosine" (to 0 over the epochs), "step", "milestones", "plateau" (on the validation loss, else the
            training loss) or "constant".
        step_size: epochs between the steps of "step", and the patience of "plateau".
        step_factor: what "step", "milestones" and "plateau" multiply the learning rate by.
        milestones: after which shares of all epochs "milestones" steps, ascending.
        clip_norm: gradients are clipped to this norm; 0 turns it off.
        early_stopping: stop after so many epochs without a better validation accuracy (of many labels: mAP), and
            restore the best epoch; 0 turns it off, and the last epoch counts.
        augmentation: steps for images, done in this order; None takes what the data set wants. "crop:P" pads P pixels
            and crops back, "flip" mirrors half of the images, "cutout:P" fills a square of P pixels with the mean
            colour, "color-jitter:B:C:S:H" changes brightness, contrast, saturation and hue by up to these shares.
            What is cut from an image comes first: "random-resized-crop" takes 8 to 100 % of its area, resized;
            "random-crop", of images on disk, a random place instead of the middle. "rotate:D" turns by up to D
            degrees, "augmix:S" is torchvision's AugMix of severity S. What mixes the batch comes last, "mixup:A" or
            "cutmix:A", with a share drawn from Beta(A, A).
        bf16: bfloat16 autocast.
        channels_last: keep images with their channels last in memory, which is faster.
        compile: torch.compile the model.
        device: as torch names it; "auto" is CUDA where there is one.
        threads: of the CPU; 0 chooses (one for small nets, where more cost more than they bring).
        workers: processes that prepare the images of a training set that is on disk, or of augmentation steps other
            than crop and flip; 0 chooses (one for each processor, 8 at most).
        seed: of weights, order, augmentation and dropout.

    Raises:
        ValueError: a setting is out of its range.
    """

    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0
    schedule: str = "cosine"
    step_size: int = 10
    step_factor: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)
    clip_norm: float = 5.0
    early_stopping: int = 0
    augmentation: tuple[str, ...] | None = None
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False
    device: str = "auto"
    threads: int = 0
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type in _KINDS:
                _check_kind(field.name, getattr(self, field.name), *_KINDS[field.type])
        _require(self.optimizer in OPTIMIZERS, f"optimizer is {self.optimizer!r}: choose one of {_list(OPTIMIZERS)}")
        _require(self.schedule in SCHEDULES, f"schedule is {self.schedule!r}: choose one of {_list(SCHEDULES)}")
        for name in ("epochs", "batch_size", "step_size"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give at least 1")
        _require(self.batch_size >= 2, f"batch_size is {self.batch_size}: give at least 2")
        _require(
            self.learning_rate > 0 and math.isfinite(self.learning_rate),
            f"learning_rate is {self.learning_rate}: give a finite number above 0",
        )
        at_least_0 = ("momentum", "weight_decay", "l1", "step_factor", "clip_norm", "early_stopping")
        for name in (*at_least_0, "threads", "workers", "seed"):
            value = getattr(self, name)
            _require(value >= 0 and math.isfinite(value), f"{name} is {value}: give a finite number of at least 0")
        # scikit-learn, which holds out the test part, takes no more than 32 bits
        _require(self.seed < 2**32, f"seed is {self.seed}: give a number below 2 ** 32")
        _require(
            self.schedule != "plateau" or self.step_factor < 1,
            f"step_factor is {self.step_factor}: the plateau schedule needs one below 1",
        )
        _require(
            self.optimizer != "sgd" or not self.nesterov or self.momentum > 0,
            f"momentum is {self.momentum}: nesterov needs a momentum above 0",
        )
        given: tuple[Any, ...] = self.milestones
        shares = [share for share in given if isinstance(share, float) and 0 < share < 1]
        _require(
            bool(shares) and len(shares) == len(self.milestones) and shares == sorted(set(shares)),
            f"milestones are {self.milestones!r}: give ascending shares of the epochs between 0 and 1, 0.5 and 0.75",
        )
        _require(
            self.augmentation is None or isinstance(self.augmentation, tuple | list),
            f"augmentation is {self.augmentation!r}: give a tuple of steps, or None",
        )
        for position, step in enumerate(self.augmentation or ()):
            is_cut = parse_step(step)[0] in _CUTS
            _require(not is_cut or position == 0, f"augmentation has {step} after another step: put it first, alone")
            is_last = position == len(self.augmentation or ()) - 1
            mixes = parse_step(step)[0] in MIXING
            _require(not mixes or is_last, f"augmentation has {step} before another step: put it last, alone")

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """From what ``to_dict`` gave; an unknown setting is a ValueError."""
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"there is no training setting {sorted(unknown)[0]!r}: it may be from another version")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def parse_step(step: str) -> tuple[str, tuple[float, ...]]:
    """A step of augmentation and its numbers.

    >>> parse_step("color-jitter:0.4:0.4:0.4:0.2")
    ('color-jitter', (0.4, 0.4, 0.4, 0.2))
    """
    kind, *given = str(step).split(":")
    if kind in (*_CUTS, "flip") and not given:
        return kind, ()
    if kind in ("crop", "cutout") and len(given) == 1 and given[0].isdecimal() and int(given[0]) > 0:
        return kind, (float(given[0]),)
    if kind in ("rotate", *MIXING) and len(given) == 1 and _SHARE.fullmatch(given[0]) and float(given[0]) > 0:
        return kind, (float(given[0]),)
    if kind == "augmix" and len(given) == 1 and given[0].isdecimal() and 1 <= int(given[0]) <= 10:
        return kind, (float(given[0]),)
    if kind == "color-jitter" and len(given) == 4 and all(_SHARE.fullmatch(number) for number in given):
        strengths = tuple(float(number) for number in given)
        if strengths[3] <= 0.5:
            return kind, strengths
    raise ValueError(
        f"augmentation is {step!r}: use crop:P (P pixels of padding), flip, cutout:P (P pixels wide), "
        "color-jitter:B:C:S:H (hue 0.5 at most), rotate:D (degrees), augmix:S (severity 1 to 10), "
        "first of all random-resized-crop or random-crop, and last of all mixup:A or cutmix:A"
    )


def _check_kind(name: str, value: Any, kind: type, in_words: str) -> None:
    # bool is a whole number to Python, and not to us
    fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    _require(fits, f"{name} is {value!r}: give {in_words}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
