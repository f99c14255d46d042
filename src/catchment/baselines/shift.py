"""Test-time adaptation to shifted inputs, without labels and without the training set.

Each function takes a trained model and batches of unlabelled inputs, leaves that model alone, and gives back an adapted
copy with the logits that it predicted on the way. A model is a ``Model``, or a module that gives logits, or a dict
with "logits". A batch is a tensor of inputs, a tuple or list that begins with one, or a mapping with "inputs".
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from catchment.loss_conventions import at_least_float32
from catchment.objective import Model


class Adapted(NamedTuple):
    """What adaptation gives.

    Args:
        model: the adapted copy, after the last batch, in eval mode.
        logits: ``(N, outputs)`` of all batches in their order, each as predicted when its batch came.
    """

    model: nn.Module
    logits: Tensor


def adapt_batch_norm(model: nn.Module, batches: Iterable[Any], *, source_samples: float = 0.0) -> Adapted:
    r"""Replace the statistics of BatchNorm by those of the inputs at hand, or mix the two.

    .. math:: \mu = \frac{N \mu_s + n \mu_t}{N + n},\qquad \sigma^2 = \frac{N \sigma_s^2 + n \sigma_t^2}{N + n}

    with the stored source statistics s, those of a batch of n samples t, and N = ``source_samples``. The logits of a
    batch are made with its own statistics; the copy keeps the mixture with those of all batches pooled (t over all
    values of a channel, n over all samples).

    Args:
        model: with BatchNorm layers that keep running statistics.
        batches: of inputs.
        source_samples: N, how many samples the source statistics count for; 0 forgets them.

    Raises:
        ValueError: no such layer, no batch, or ``source_samples`` is negative.

    Papers: Schneider et al., Improving Robustness against Common Corruptions by Covariate Shift Adaptation, NeurIPS
    2020; Nado et al., Evaluating Prediction-Time Batch Normalization, 2020 (N = 0, batch by batch).

    >>> net = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))
    >>> adapted = adapt_batch_norm(net, [torch.tensor([[3.0], [5.0]])])
    >>> adapted.model[0].running_mean, adapted.model[0].running_var
    (tensor([4.]), tensor([1.]))
    """
    if not source_samples >= 0:
        raise ValueError(f"source_samples is {source_samples}: give a number of at least 0")
    adapted = copy.deepcopy(model).eval()
    layers = [layer for layer in _batch_norms(adapted) if layer.running_mean is not None]
    if not layers:
        raise ValueError("the BatchNorm layers of this model keep no running statistics: nothing is to be replaced")
    statistics = [_Statistics.of_source(layer, source_samples) for layer in layers]
    handles = [layer.register_forward_pre_hook(s.adapt) for layer, s in zip(layers, statistics, strict=True)]
    try:
        with torch.no_grad():
            logits = _concatenate([_logits(adapted, x) for x in _inputs(adapted, batches)])
    finally:
        for handle in handles:
            handle.remove()
    for layer, s in zip(layers, statistics, strict=True):
        if s.samples:
            s.store(layer, s.mean, s.variance, s.samples)
    return Adapted(adapted, logits)


@dataclass
class _Statistics:
    """Of the values that reach one BatchNorm layer: those of the source, and all new ones pooled."""

    source_mean: Tensor
    source_variance: Tensor
    source_samples: float
    mean: Tensor
    variance: Tensor
    samples: int = 0
    values: int = 0

    @classmethod
    def of_source(cls, layer: _BatchNorm, source_samples: float) -> _Statistics:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = layer.running_mean.double().clone(), layer.running_var.double().clone()
        return cls(mean, variance, source_samples, torch.zeros_like(mean), torch.zeros_like(variance))

    def adapt(self, layer: _BatchNorm, args: tuple[Tensor]) -> None:
        """Before a layer's forward pass: give it the statistics of its input, and pool them."""
        x = args[0].double()
        dims = [d for d in range(x.ndim) if d != 1]
        variance, mean = torch.var_mean(x, dims, correction=0)
        self.store(layer, mean, variance, len(x))
        # the variance of a union is the mean of the variances plus the variance of the means
        number = x.numel() // x.shape[1]
        share = number / (self.values + number)
        step = mean - self.mean
        self.variance = self.variance.lerp(variance, share) + share * (1 - share) * step.square()
        self.mean = self.mean + share * step
        self.values += number
        self.samples += len(x)

    def store(self, layer: _BatchNorm, mean: Tensor, variance: Tensor, samples: int) -> None:
        """Give the layer the source's statistics mixed with these."""
        assert layer.running_mean is not None
        assert layer.running_var is not None
        share = samples / (self.source_samples + samples)
        layer.running_mean.copy_(self.source_mean.lerp(mean, share))
        layer.running_var.copy_(self.source_variance.lerp(variance, share))


def tent(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    learning_rate: float = 1e-3,
    steps: int = 1,
    episodic: bool = False,
) -> Adapted:
    r"""TENT: normalise by the batch, and minimise the entropy of the predictions over BatchNorm's scale and shift.

    .. math:: \ell = -\frac{1}{n} \sum_i \sum_c p_{ic} \log p_{ic}

    Adam without weight decay; everything else is frozen, and dropout stays off. As in the published code a batch's
    logits come from the forward pass before its last step. The copy has forgotten the running statistics: it
    normalises by the batch for good.

    Args:
        model: with BatchNorm layers that have a scale and a shift.
        batches: of inputs, two or more each.
        learning_rate: of Adam; 1e-3 is the published one for CIFAR-10-C and batches of 200 (from memory).
        steps: on each batch.
        episodic: begin each batch from the given model, not from where the last one led.

    Raises:
        ValueError: no such layer, no batch, a parameter is out of range, or probabilities that don't sum to 1.

    Paper: Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    >>> tent(net, [torch.randn(8, 2), torch.randn(5, 2)]).logits.shape
    torch.Size([13, 3])
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: give a whole number of at least 1")
    if not learning_rate >= 0:
        raise ValueError(f"learning_rate is {learning_rate}: give a number of at least 0")
    if isinstance(model, Model) and not model.objective.exclusive:
        raise ValueError(
            f"the probabilities of {type(model.objective).__name__} don't sum to 1, so they have no entropy: "
            "use adapt_batch_norm"
        )
    adapted = copy.deepcopy(model).eval().requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for layer in _batch_norms(adapted):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        parameters += [p for p in (layer.weight, layer.bias) if p is not None]
    if not parameters:
        raise ValueError("the BatchNorm layers of this model have neither scale nor shift: use adapt_batch_norm")
    start = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_()

    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    predictions = []
    with torch.enable_grad():
        for x in _inputs(adapted, batches):
            if episodic:
                with torch.no_grad():
                    for parameter, value in zip(parameters, start, strict=True):
                        parameter.copy_(value)
                optimizer = torch.optim.Adam(parameters, lr=learning_rate)
            for _ in range(steps):
                logits = _logits(adapted, x)
                gradients = torch.autograd.grad(_mean_entropy(adapted, logits), parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
            predictions.append(logits.detach())
    for parameter, given in zip(adapted.parameters(), model.parameters(), strict=True):
        parameter.grad = None
        parameter.requires_grad_(given.requires_grad)
    return Adapted(adapted, _concatenate(predictions))


def _mean_entropy(model: nn.Module, logits: Tensor) -> Tensor:
    logits = at_least_float32(logits)
    p = model.objective.probabilities(logits) if isinstance(model, Model) else logits.softmax(1)
    # without the clamp the slope at an underflown p is infinite, and 0 times that NaN
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(1).mean()


def source_quantiles(model: nn.Module, batches: Iterable[Any], *, levels: int = 1000) -> dict[str, Tensor]:
    """The quantiles of what each normalisation layer gives on the source, for ``recalibrate_quantiles``.

    Quantile k of a channel is that at the level (k + 1/2) / ``levels``, over samples and positions. Of each batch at
    most about ``levels`` evenly spaced order statistics a channel are kept, so memory doesn't depend on image size.

    Args:
        model: with BatchNorm, GroupNorm, InstanceNorm or LayerNorm layers.
        batches: of inputs from the source; a thousand samples do.
        levels: at least 2.

    Returns:
        ``(C, levels)`` for each layer by name, rising.

    Raises:
        ValueError: no such layer, no batch, or ``levels`` is below 2.
    """
    if levels < 2:
        raise ValueError(f"levels is {levels}: give a whole number of at least 2")
    probe = copy.deepcopy(model).eval()
    kept: dict[str, list[Tensor]] = {}
    stride: dict[str, int] = {}

    def keep(name: str, rows: Tensor) -> None:
        step = stride.setdefault(name, -(-rows.shape[1] // levels))  # the same for all batches, so values weigh alike
        kept.setdefault(name, []).append(rows.sort(1).values[:, (step - 1) // 2 :: step])

    for name, layer in _normalisations(probe).items():
        layer.register_forward_hook(
            lambda layer, args, output, name=name: keep(name, _to_rows(output, _channel_dim(layer)))
        )
    with torch.no_grad():
        _concatenate([_logits(probe, x) for x in _inputs(probe, batches)])
    places = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    return {name: _quantiles(torch.cat(parts, 1).sort(1).values, places) for name, parts in kept.items()}


def recalibrate_quantiles(model: nn.Module, batches: Iterable[Any], source: Mapping[str, Tensor]) -> Adapted:
    r"""Adaptive quantile recalibration: give what each normalisation layer puts out its distribution of the source.

    .. math:: z' = Q_s(F_t(z)),\qquad F_t(z) = \frac{\#\{v < z\} + \tfrac12 \#\{v = z\}}{n}

    in each channel, over the n values v of the batch, with the source's quantiles :math:`Q_s` joined by lines. Beyond
    the outermost stored level a value keeps its distance from the batch's own quantile at that level. Statistics and
    weights stay; the copy recalibrates by whatever batch it is given.

    The idea is the paper's; levels, tails and the place (after scale and shift, before the activation) are ours, since
    we have read no more than its abstract.

    Args:
        model: the one that ``source`` was taken from.
        batches: of inputs.
        source: what ``source_quantiles`` gave.

    Raises:
        ValueError: no batch, or ``source`` has other layers than the model.

    Paper: Mehrbod et al., Test Time Adaptation Using Adaptive Quantile Recalibration, arXiv 2511.03148.

    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    >>> x = torch.randn(200, 3)
    >>> adapted = recalibrate_quantiles(net, [x.exp()], source_quantiles(net, [x]))  # any rising change is undone
    >>> (adapted.logits - net.eval()(x)).abs().max().item() < 0.01
    True
    """
    adapted = copy.deepcopy(model).eval()
    layers = _normalisations(adapted)
    if layers.keys() != source.keys():
        differing = sorted(layers.keys() ^ source.keys())
        raise ValueError(f"the source quantiles are of another model: {', '.join(differing[:5])} differ")
    for name, layer in layers.items():
        layer.register_forward_hook(_Recalibration(source[name]))
    with torch.no_grad():
        logits = _concatenate([_logits(adapted, x) for x in _inputs(adapted, batches)])
    return Adapted(adapted, logits)


class _Recalibration:
    """A forward hook that maps a layer's output to the source's quantiles."""

    def __init__(self, source: Tensor) -> None:
        self.source = source

    def __call__(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        dim = _channel_dim(layer)
        rows = _to_rows(output, dim)
        source = self.source.to(rows)
        moved = output.movedim(dim, 0)
        return _align(rows, source).reshape(moved.shape).movedim(0, dim).to(output.dtype)


def _align(rows: Tensor, source: Tensor) -> Tensor:
    """Each row's values ``(C, n)`` at their places in the source's quantiles ``(C, levels)``."""
    number, levels = rows.shape[1], source.shape[1]
    ordered = rows.contiguous().sort(1).values
    below = torch.searchsorted(ordered, rows.contiguous())
    up_to = torch.searchsorted(ordered, rows.contiguous(), right=True)
    place = (below + up_to).double() / (2 * number)
    ends = torch.tensor([0.5, levels - 0.5], dtype=torch.float64) / levels
    inside = place.clamp(float(ends[0]), float(ends[1]))
    aligned = _interpolate(source, inside * levels - 0.5)
    low, high = _quantiles(ordered, ends).unbind(1)
    beyond = torch.where(place < inside, rows - low[:, None], torch.where(place > inside, rows - high[:, None], 0.0))
    return aligned + beyond


def _quantiles(ordered: Tensor, places: Tensor) -> Tensor:
    """The quantiles at ``places`` of rising rows ``(C, n)``, whose k-th value is that at (k + 1/2) / n."""
    positions = (places.to(ordered.device) * ordered.shape[1] - 0.5).clamp(0, ordered.shape[1] - 1)
    return _interpolate(ordered, positions.expand(ordered.shape[0], -1))


def _interpolate(rows: Tensor, positions: Tensor) -> Tensor:
    """The rows' values at positions ``(C, m)`` from 0 to their length - 1, joined by lines."""
    left = positions.floor().long().clamp(0, rows.shape[1] - 1)
    right = (left + 1).clamp(max=rows.shape[1] - 1)
    return rows.gather(1, left).lerp(rows.gather(1, right), (positions - left).to(rows.dtype))


def _normalisations(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
    layers: dict[str, nn.Module] = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no normalisation layer, so there is nothing to recalibrate")
    return layers


def _channel_dim(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.LayerNorm) else 1


def _to_rows(x: Tensor, dim: int) -> Tensor:
    """``(C, n)`` in float32 or better."""
    x = at_least_float32(x)
    return x.movedim(dim, 0).reshape(x.shape[dim], -1)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm layer to adapt: with other layers use recalibrate_quantiles"
        )
    return layers


def _inputs(model: nn.Module, batches: Iterable[Any]) -> Iterator[Tensor]:
    """The inputs of each batch, where the model is."""
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
    for batch in batches:
        if isinstance(batch, Mapping):
            batch = batch["inputs"]
        x: Tensor = batch[0] if isinstance(batch, tuple | list) else batch
        yield x.to(device)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    out = model.net(x) if isinstance(model, Model) else model(x)
    logits: Tensor = out["logits"] if isinstance(out, Mapping) else out
    return logits


def _concatenate(logits: list[Tensor]) -> Tensor:
    if not logits:
        raise ValueError("there is no batch: give at least one")
    return torch.cat(logits)
