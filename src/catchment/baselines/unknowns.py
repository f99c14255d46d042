"""Scores for "none of the known classes" that any trained classifier offers; higher = more likely unknown."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from catchment.loss_conventions import at_least_float32


def msp(class_logits: Tensor) -> Tensor:
    r"""Maximum softmax probability, turned round: :math:`1 - \max_c p_c`.

    Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks,
    ICLR 2017.

    Args:
        class_logits: ``(N, C, d...)``, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, from 0 to 1 - 1/C, in float32 or better.

    >>> msp(torch.tensor([[0.0, 0.0], [50.0, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    return 1 - at_least_float32(class_logits).softmax(1).amax(1)


def energy(class_logits: Tensor) -> Tensor:
    r"""Free energy at temperature 1: :math:`-\log \sum_c e^{z_c}`.

    Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020.

    Args:
        class_logits: ``(N, C, d...)``, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, any real number, in float32 or better.

    >>> energy(torch.tensor([[0.0, 0.0]])).exp()
    tensor([0.5000])
    """
    return -torch.logsumexp(at_least_float32(class_logits), 1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {"msp": msp, "energy": energy}
