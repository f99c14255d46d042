"""Losses for wrong labels that the papers compare with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from catchment.loss_conventions import IGNORE_INDEX, at_least_float32, check_reduction, prepare_target, reduce_loss
from catchment.objective import Method, Objective


class CrossEntropy(Objective):
    r"""Cross-entropy, :math:`-\log p_y`, or :math:`-\sum_c y_c \log p_c` for class probabilities.

    As ``torch.nn.CrossEntropyLoss``, with four departures: it computes in float32 or better and returns that, an
    empty or fully ignored batch gives 0 instead of NaN, a class at -inf with y_c = 0 contributes 0, and with class
    probabilities a class weight makes the sample's weight ``sum_c w_c y_c`` (torch weighs each term by w_c, and
    divides the mean by N).

    Args:
        weight: ``(C,)`` class weights.
        ignore_index: samples with this label are left out.
        reduction: "mean" (divided by the sample weights' sum), "sum" or "none".

    As input:
        logits ``(N, C, d...)``; target ``(N, d...)`` class indices or ``(N, C, d...)`` class probabilities.

    Raises:
        ValueError: shapes, dtypes or labels don't fit.

    >>> import torch
    >>> CrossEntropy()(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """

    weight: Tensor | None

    def __init__(
        self, *, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX, reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss: a scalar, or ``(N, d...)`` with reduction "none"."""
        logits = at_least_float32(logits)
        prepared = prepare_target(
            logits,
            target,
            num_classes=logits.shape[1] if logits.ndim > 1 else 0,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        if prepared.is_index:
            loss = F.cross_entropy(logits, prepared.labels, reduction="none")
        else:
            log_p = logits.log_softmax(1)
            impossible = (prepared.labels == 0) & log_p.isneginf()
            loss = -(prepared.labels * log_p.masked_fill(impossible, 0.0)).sum(1)
        return reduce_loss(loss, prepared, self.reduction)


_CLIPPED = {"clip_norm": 5.0, "optimizer": "sgd", "momentum": 0.9, "schedule": "cosine"}

METHODS = (
    Method(
        name="cross-entropy",
        cls=CrossEntropy,
        paper="Good, Rational Decisions, Journal of the Royal Statistical Society B",
        year=1952,
        url="https://doi.org/10.1111/j.2517-6161.1952.tb00104.x",
        formula="-log p_y",
        purpose="the baseline of every comparison",
        presets={
            "cifar10": {
                "objective": {},
                "training": {
                    **_CLIPPED,
                    "learning_rate": 0.01,
                    "l1": 1e-4,
                    "weight_decay": 0.0,
                    "epochs": 120,
                    "batch_size": 128,
                },
            },
            "cifar100": {
                "objective": {},
                "training": {
                    **_CLIPPED,
                    "learning_rate": 0.1,
                    "l1": 1e-5,
                    "weight_decay": 0.0,
                    "epochs": 200,
                    "batch_size": 128,
                },
            },
            "webvision": {
                "objective": {},
                "training": {
                    "clip_norm": 5.0,
                    "optimizer": "sgd",
                    "momentum": 0.9,
                    "nesterov": True,
                    "schedule": "step",
                    "step_size": 1,
                    "step_factor": 0.97,
                    "learning_rate": 0.4,
                    "l1": 0.0,
                    "weight_decay": 3e-5,
                    "epochs": 250,
                    "batch_size": 512,
                },
            },
        },
    ),
)
