"""Hugging Face Trainer: ``Trainer(..., compute_loss_func=compute_loss_func(objective))``."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from catchment.adapters import check_plain
from catchment.loss_conventions import IGNORE_INDEX
from catchment.objective import Objective


def compute_loss_func(objective: Objective) -> Callable[..., Tensor]:
    """The objective as Trainer calls a loss; give the model ``num_labels = C + objective.extra_outputs``.

    Trainer wants a sum over the batch divided by the labels of all batches whose gradients it accumulates.
    """
    check_plain(objective)

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        loss: Tensor = objective.to(labels.device)(outputs["logits"], labels)
        return loss if num_items_in_batch is None else loss * (labels != IGNORE_INDEX).sum() / num_items_in_batch

    return compute
