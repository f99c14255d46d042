r"""Watershed loss: features in which a class is reached from a few of its members, neighbour by neighbour.

Paper: "Quantile Activation: Correcting a Failure Mode of ML Models", arXiv 2405.11573, equation 11.

In a batch of features f a few members of each class are its seeds. Seeds hand on their class: again and again the
sample nearest to any that has one takes it over. S_l are the samples of class l that class l has reached, and

    loss_i = -log softmax_l(-||f_i - f_(i,l)||) at l = y_i,

with f_(i,l) the nearest member of S_l other than i itself. The norm is not squared.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from catchment.baselines.noisy_labels import CrossEntropy
from catchment.loss_conventions import IGNORE_INDEX, at_least_float32, prepare_target
from catchment.objective import Combined, Method, MissingExtraError, Objective

_NO_CLASS = -1


def seeded_watershed(distances: Tensor, seed_labels: Tensor) -> Tensor:
    """The class that reaches each sample from the seeds, along a minimum spanning forest (Prim's algorithm).

    Again and again the sample without a class that is nearest to any with one takes over its class.

    Args:
        distances: ``(N, N)``, symmetric, at least 0.
        seed_labels: ``(N,)`` the class of a seed, -1 for all other samples.

    Returns:
        ``(N,)`` classes; -1 where no finite distance leads to a seed. Without gradient.

    Raises:
        ValueError: the shapes don't fit.

    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0, 11.5])
    >>> seeded_watershed((x[:, None] - x).abs(), torch.tensor([0, -1, -1, -1, -1, 1]))
    tensor([0, 0, 0, 0, 1, 1])
    """
    if distances.ndim != 2 or seed_labels.shape != distances.shape[:1] or distances.shape[0] != distances.shape[1]:
        raise ValueError(
            f"distances have shape {tuple(distances.shape)} and seed_labels {tuple(seed_labels.shape)}: "
            "give (N, N) and (N,)"
        )
    labels = _spread(distances.detach().cpu().numpy(), seed_labels.cpu().numpy())
    return torch.from_numpy(labels).to(seed_labels.device)


def _spread(distances: NDArray[Any], seed_labels: NDArray[Any]) -> NDArray[np.int64]:
    labels = seed_labels.astype(np.int64)
    is_open = labels == _NO_CLASS
    seeds = np.flatnonzero(~is_open)
    if not len(seeds):
        return labels
    to_seeds = distances[:, seeds]
    nearest = to_seeds.argmin(1)
    offered = labels[seeds[nearest]]  # by the nearest sample that has a class
    distance = np.where(is_open, to_seeds[np.arange(len(labels)), nearest], np.inf)
    for _ in range(len(labels) - len(seeds)):
        reached = distance.argmin()
        if not np.isfinite(distance[reached]):
            break
        labels[reached] = offered[reached]
        is_open[reached] = False
        distance[reached] = np.inf
        closer = (distances[reached] < distance) & is_open
        np.copyto(distance, distances[reached], where=closer)
        np.copyto(offered, labels[reached], where=closer)
    return labels


def watershed_loss(features: Tensor, target: Tensor, seeds: Tensor, *, num_classes: int) -> Tensor:
    r"""Watershed loss of a batch with given seeds.

    .. math:: \ell_i = -\log \frac{e^{-\|f_i - f_{(i,y_i)}\|}}{\sum_l e^{-\|f_i - f_{(i,l)}\|}}

    over the classes l that have reached a member other than i; :math:`f_{(i,l)}` is the nearest of these. The mean is
    over the samples whose own class has. Which samples are reached and nearest counts as a constant; gradients flow
    to both ends of a distance, and are 0 where it is 0.

    Args:
        features: ``(N, D)``.
        target: ``(N,)`` class indices; -100 leaves a sample out, as neighbour too.
        seeds: ``(N,)`` bool, where propagation starts.
        num_classes: C.

    Returns:
        A scalar of at least 0; 0 where no sample counts.

    Raises:
        ValueError: a shape, a dtype or a label doesn't fit.

    >>> features, target = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    >>> watershed_loss(features, target, torch.tensor([True, False, True, False]), num_classes=2)
    tensor(0.0334)
    """
    features, target, kept = _check_batch(features, target, num_classes)
    if seeds.dtype != torch.bool or tuple(seeds.shape) != tuple(kept.shape):
        raise ValueError(
            f"seeds are {seeds.dtype} of shape {tuple(seeds.shape)}: give one bool for each of {kept.numel()} samples"
        )
    seeds = seeds[kept]
    if not target.numel():
        return features.sum()
    distances: Tensor = _PairwiseDistances.apply(features)
    nearest, is_empty = _nearest_of_each_class(distances.detach(), target, seeds, num_classes)
    logits = -distances.gather(1, nearest)
    counts = ~is_empty.gather(1, target[:, None]).squeeze(1)
    # rows that don't count get finite logits, since an infinite loss times 0 is NaN
    logits = logits.masked_fill(is_empty & counts[:, None], -torch.inf)
    losses = F.cross_entropy(logits, target, reduction="none")
    loss = losses.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
    return torch.where(features.isfinite().all(), loss, torch.nan)  # else samples at no distance would leave unseen


def _check_batch(features: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """(features in float32 or better, labels, which samples these are): those that aren't left out."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features are {features.dtype} of shape {tuple(features.shape)}: give floats (N, D)")
    if target.is_floating_point():
        raise ValueError(f"target is {target.dtype}: give class indices (integers), soft labels have no neighbours")
    prepare_target(features, target, num_classes=num_classes, weight=None, ignore_index=IGNORE_INDEX)
    target = target.long()
    kept = target != IGNORE_INDEX
    return at_least_float32(features)[kept], target[kept], kept


@torch.no_grad()
def _nearest_of_each_class(distances: Tensor, target: Tensor, seeds: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The position of the nearest other member of S_l for each sample and class ``(N, C)``, and where there is none."""
    reached = seeded_watershed(distances, target.masked_fill(~seeds, _NO_CLASS)) == target
    number = len(target)
    away = distances.masked_fill(~reached, torch.inf).fill_diagonal_(torch.inf)
    columns = target.expand(number, number)
    least = away.new_full((number, num_classes), torch.inf).scatter_reduce(1, columns, away, "amin")
    position = torch.arange(number, device=target.device).expand(number, number)
    position = position.masked_fill(away != least.gather(1, columns), number)
    nearest = position.new_full((number, num_classes), number).scatter_reduce(1, columns, position, "amin")
    is_empty = ~least.isfinite()
    return nearest.masked_fill(is_empty, 0), is_empty


class _PairwiseDistances(torch.autograd.Function):
    """Euclidean distances between the rows of ``(N, D)``; the gradient of a distance of 0 is 0.

    With d_ij's gradient g_ij, w = g / d and s = w + w', that of the rows is s 1 f - s f: no (N, N, D) is made.
    """

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        features, distances = ctx.saved_tensors
        ratio = torch.where(distances > 0, grads[0] / distances, 0.0)
        ratio = ratio + ratio.T
        centred = features - features.mean(0)  # the sums below cancel, so a common offset would cost digits
        grad: Tensor = ratio.sum(1, keepdim=True) * centred - ratio @ centred
        return grad


def draw_seeds(target: Tensor, seeds_per_class: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """Seeds drawn at random among each class's samples, all of them where a class has no more.

    Args:
        target: ``(N,)`` class indices; negative ones get no seed.
        seeds_per_class: at least 1.
        generator: on any device; None: PyTorch's own of the CPU.

    Returns:
        ``(N,)`` bool.

    >>> draw_seeds(torch.tensor([3, 0, 3, 3]), 2).sum()
    tensor(3)
    """
    keys = torch.rand(len(target), generator=generator, device=generator.device if generator else "cpu")
    order = keys.argsort().to(target.device)
    order = order[target[order].argsort(stable=True)]  # by class, at random within
    labels = target[order]
    place = torch.arange(len(labels), device=target.device) - torch.searchsorted(labels, labels)
    seeds = torch.zeros_like(target, dtype=torch.bool)
    seeds[order] = (place < seeds_per_class) & (labels >= 0)
    return seeds


class WatershedLoss(Objective):
    r"""Watershed loss on features, with seeds drawn anew in each batch.

    .. math:: \ell_i = -\log \frac{e^{-\|f_i - f_{(i,y_i)}\|}}{\sum_l e^{-\|f_i - f_{(i,l)}\|}}

    See ``watershed_loss``. It takes no logits, so it trains no classifier: add it to a loss that does,
    ``Combined([(CrossEntropy(), 1.0), (WatershedLoss(10), 0.5)])``. The batch is that of one process.

    Args:
        num_classes: C.
        seeds_per_class: drawn among the samples of each class in the batch, fewer where it has fewer.
        generator: what draws; None: PyTorch's own of the CPU. It is saved with no checkpoint.

    As input:
        features ``(N, D)``; target ``(N,)`` class indices, -100 to leave a sample out.

    Raises:
        ValueError: a number is below 1; a shape, a dtype or a label doesn't fit.

    Paper: Quantile Activation: Correcting a Failure Mode of ML Models, arXiv 2405.11573.

    >>> features, target = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    >>> WatershedLoss(2)(features, target)
    tensor(0.0334)
    """

    inputs = ("features",)

    def __init__(self, num_classes: int, *, seeds_per_class: int = 1, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: give the number of classes, at least 1")
        if seeds_per_class < 1:
            raise ValueError(f"seeds_per_class is {seeds_per_class}: give a whole number of at least 1")
        self.num_classes = num_classes
        self.seeds_per_class = seeds_per_class
        self.generator = generator

    def extra_repr(self) -> str:
        """The parameters."""
        return f"{self.num_classes}, seeds_per_class={self.seeds_per_class}"

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The mean loss of the batch."""
        _check_batch(features, target, self.num_classes)
        seeds = draw_seeds(target, self.seeds_per_class, generator=self.generator)
        return watershed_loss(features, target, seeds, num_classes=self.num_classes)


class TripletLoss(Objective):
    r"""Triplet margin loss on features, :math:`\max(0, d(a, p) - d(a, n) + m)`, by pytorch-metric-learning.

    Over all triplets of a batch: anchor a, p of the same class, n of another; d is the Euclidean distance of the
    features divided by their norms. The mean is over the triplets whose loss is above 0. Needs the extra [metric].
    Like the watershed loss it trains no classifier.

    Args:
        num_classes: C, against which the labels are checked.
        margin: m, at least 0.
        smooth: log(1 + exp(.)) instead of max(0, .).

    As input:
        features ``(N, D)``; target ``(N,)`` class indices, -100 to leave a sample out.

    Raises:
        MissingExtraError: pytorch-metric-learning is not installed.
        ValueError: a shape, a dtype or a label doesn't fit.

    Paper: Weinberger and Saul, Distance Metric Learning for Large Margin Nearest Neighbor Classification, JMLR 2009.
    """

    inputs = ("features",)

    def __init__(self, num_classes: int, *, margin: float = 0.05, smooth: bool = False) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: give the number of classes, at least 1")
        if not margin >= 0:
            raise ValueError(f"margin is {margin}: give a number of at least 0")
        try:
            losses = importlib.import_module("pytorch_metric_learning.losses")
        except ImportError:
            message = 'pytorch-metric-learning is not installed: pip install "catchment[metric]"'
            raise MissingExtraError(message) from None
        self.num_classes = num_classes
        self.margin = margin
        self.smooth = smooth
        self.loss = losses.TripletMarginLoss(margin=margin, smooth_loss=smooth)

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The mean loss of the batch."""
        features, target, _ = _check_batch(features, target, self.num_classes)
        if not target.numel():
            return features.sum()
        loss: Tensor = self.loss(features, target)
        return loss


def _cross_entropy_and_watershed(
    num_classes: int, *, watershed_weight: float = 0.5, seeds_per_class: int = 1
) -> Combined:
    return Combined(
        [(CrossEntropy(), 1.0), (WatershedLoss(num_classes, seeds_per_class=seeds_per_class), watershed_weight)]
    )


def _cross_entropy_and_triplet(
    num_classes: int, *, triplet_weight: float = 0.5, margin: float = 0.05, smooth: bool = False
) -> Combined:
    return Combined([(CrossEntropy(), 1.0), (TripletLoss(num_classes, margin=margin, smooth=smooth), triplet_weight)])


_QUANTILE_ACTIVATION: dict[str, Any] = {
    "paper": "Quantile Activation: Correcting a Failure Mode of ML Models, arXiv preprint",
    "year": 2024,
    "url": "https://arxiv.org/abs/2405.11573",
}
_LARGE_MARGIN: dict[str, Any] = {
    "paper": "Weinberger and Saul, Distance Metric Learning for Large Margin Nearest Neighbor Classification, JMLR",
    "year": 2009,
    "url": "https://jmlr.org/papers/v10/weinberger09a.html",
}

METHODS = (
    Method(
        name="watershed",
        cls=WatershedLoss,
        **_QUANTILE_ACTIVATION,
        formula="-log softmax_l(-||f - f_l||) at y, f_l the nearest that class l has reached from its seeds",
        purpose="clustered features; trains no classifier",
    ),
    Method(
        name="ce-watershed",
        cls=WatershedLoss,
        make=_cross_entropy_and_watershed,
        **_QUANTILE_ACTIVATION,
        formula="CE + watershed_weight watershed",
        purpose="clustered features and a classifier",
    ),
    Method(
        name="triplet",
        cls=TripletLoss,
        **_LARGE_MARGIN,
        formula="max(0, d(a, p) - d(a, n) + margin) over all triplets",
        purpose="clustered features; trains no classifier; needs [metric]",
    ),
    Method(
        name="ce-triplet",
        cls=TripletLoss,
        make=_cross_entropy_and_triplet,
        **_LARGE_MARGIN,
        formula="CE + triplet_weight triplet",
        purpose="clustered features and a classifier; needs [metric]",
    ),
)
