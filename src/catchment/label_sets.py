"""Targets of samples with zero, one or many labels, made ready for a loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from catchment.loss_conventions import IGNORE_INDEX, UNKNOWN_CLASS, _holds


class LabelSets(NamedTuple):
    """Which classes each sample has.

    Args:
        present: ``(N, K)`` from 0 to 1, in the logits' dtype; 0 where not known.
        known: ``(N, K)`` mask of the pairs of sample and class that count; None: all of them.
    """

    present: Tensor
    known: Tensor | None

    def num_rows(self) -> Tensor:
        """How many samples there are of which anything is known, a scalar."""
        if self.known is None:
            return self.present.new_tensor(len(self.present))
        return self.known.any(1).sum().to(self.present.dtype)

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of ``loss`` ``(N,)``, 0 where nothing is known, over the other samples; 0 if there are none."""
        return loss.sum() / self.num_rows().clamp(min=1)


def prepare_label_sets(logits: Tensor, target: Tensor, *, accepts_unknown: bool = True) -> LabelSets:
    """Check ``target`` against ``logits`` ``(N, K)`` and turn it into label sets.

    Args:
        logits: ``(N, K)``, float32 or float64.
        target: class indices ``(N,)``: -1 is no class at all, -100 a sample left out; or ``(N, K)`` of any dtype with
            numbers from 0 to 1, and -100 for each pair of sample and class that is not known.
        accepts_unknown: whether the loss learns from the label -1.

    Raises:
        ValueError: the shapes or the dtype don't fit; in eager mode on a CPU also where a value is out of range. (On an
            accelerator, and while compiling, looking at values would cost a synchronisation or a graph break.)

    >>> prepare_label_sets(torch.zeros(2, 3), torch.tensor([1, -1])).present
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: give (N, K), one column for each class")
    num_samples, num_classes = logits.shape
    if target.is_complex() or tuple(target.shape) not in ((num_samples,), (num_samples, num_classes)):
        raise ValueError(
            f"target is {target.dtype} of shape {tuple(target.shape)}: give class indices ({num_samples},), "
            f"or ({num_samples}, {num_classes}) with numbers from 0 to 1"
        )
    if target.ndim == 1:
        return _from_indices(logits, target, accepts_unknown)
    return _from_rows(logits, target)


def _from_indices(logits: Tensor, target: Tensor, accepts_unknown: bool) -> LabelSets:
    num_classes = logits.shape[1]
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target is {target.dtype} of shape {tuple(target.shape)}: give class indices as integers")
    target = target.long()  # in uint8 itself, the class 156 would equal -100
    ignored, unknown = target == IGNORE_INDEX, target == UNKNOWN_CLASS
    missing = ignored | unknown
    wrong = ~missing & ((target < 0) | (target >= num_classes))
    if _holds(wrong.any(), target):
        raise ValueError(
            f"target holds the label {int(target[wrong][0])}: give 0 to {num_classes - 1}, -1 for no class at all, "
            f"or {IGNORE_INDEX} to leave a sample out"
        )
    if not accepts_unknown and _holds(unknown.any(), target):
        raise ValueError(
            "target holds -1 (no known class), which this loss cannot learn from: "
            f"drop those samples, or label them {IGNORE_INDEX} to leave them out"
        )
    index = target.masked_fill(missing, 0).unsqueeze(1)
    present = torch.zeros_like(logits).scatter(1, index, (~missing).to(logits.dtype).unsqueeze(1))
    counts = ~ignored if accepts_unknown else ~missing
    if _holds(counts.all(), target):
        return LabelSets(present, None)
    return LabelSets(present, counts.unsqueeze(1).expand_as(logits))


def _from_rows(logits: Tensor, target: Tensor) -> LabelSets:
    if target.dtype == torch.bool or target.numel() == 0:
        return LabelSets(target.to(logits.dtype), None)
    smallest, largest = target.aminmax()
    if _holds((smallest >= 0) & (largest <= 1), target):
        return LabelSets(target.to(logits.dtype), None)
    # uint8 holds no -100: there, 156 would be taken for it
    known = target != IGNORE_INDEX if target.dtype.is_signed else torch.ones_like(target, dtype=torch.bool)
    wrong = known & ~((target >= 0) & (target <= 1))
    if _holds(wrong.any(), target):
        raise ValueError(
            f"target holds {target[wrong][0].item():g} for a sample and a class: give numbers from 0 to 1, "
            f"or {IGNORE_INDEX} where it is not known whether the class is there"
        )
    return LabelSets(target.masked_fill(~known, 0).to(logits.dtype), known)
