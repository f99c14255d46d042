"""Quantile activation: a value becomes its rank among the values of its context.

Paper: "Quantile Activation: Correcting a Failure Mode of ML Models", arXiv 2405.11573.

The context of a value is its channel: over the batch and all positions (``batch``), or over past batches
(``running``). With n+ context values v >= 0, n- context values v < 0 and p the mass of the negative ones, the grounded
distribution function is

    F(z) = p + (1 - p) #{0 <= v <= z} / (n+ + 1)   for z >= 0,
    F(z) = p (1 - #{z <= v < 0} / (n- + 1))        for z < 0.

Zero keeps its place whatever the share of negative values. The gradient is the kernel density

    f(z) = p / (n- + 1) sum_(v<0) K_h(z - v) + (1 - p) / (n+ + 1) sum_(v>=0) K_h(z - v),

K_h Gaussian; the context counts as a constant, so no gradient flows through it to other samples.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catchment.kernels.quantile_cells import STORED_CELLS, laid_out_like
from catchment.kernels.quantile_convert import replace_relus
from catchment.kernels.quantile_exact import density_rows, pairs_of_ranks, rank_rows
from catchment.kernels.quantile_norm import ContextNorm
from catchment.kernels.quantile_running import (
    learn,
    learn_rows,
    running_cdf,
    running_density,
    running_deviation,
    standard_normal_mass,
)
from catchment.kernels.quantile_sync import gather_columns, sum_over_processes, world_size
from catchment.kernels.quantile_table import Table, build_table, count_coarse, look_up, pairs_of_table
from catchment.loss_conventions import IGNORE_INDEX, UNKNOWN_CLASS, at_least_float32
from catchment.objective import Method, Objective

_LOG = logging.getLogger(__name__)

Context = Literal["batch", "running"]
METHODS_OF_RANKING = ("auto", "exact", "table")
_EXACT_LIMIT = 4096  # context values a channel
_SCALED = 0.5  # the bandwidth in standard deviations, for bandwidth="scaled"


def quantile_activation(
    x: Tensor,
    *,
    negative_mass: float = 0.5,
    bandwidth: float | Literal["scaled"] = 0.5,
    levels: int | None = None,
    method: Literal["auto", "exact", "table"] = "auto",
) -> Tensor:
    r"""The grounded distribution function of each channel's values, at those values.

    .. math:: F(z) = p + (1-p)\,\frac{\#\{0 \le v \le z\}}{n_+ + 1}\ (z \ge 0),\qquad
              F(z) = p\left(1 - \frac{\#\{z \le v < 0\}}{n_- + 1}\right)\ (z < 0)

    over the context v of N times d... values in the channel. It rises with z, does not change when a channel is
    multiplied by a positive number, and with p = 1/2 is odd around 1/2. The gradient is the Gaussian kernel density
    of the context, weighted alike, with the context held constant.

    Args:
        x: ``(N, C, d...)``, any floating-point dtype. NaN stays where it is and counts in no context.
        negative_mass: p, between 0 and 1.
        bandwidth: h, in the units of ``x``; "scaled" takes half of the standard deviation of the context.
        levels: None, or L for the step function ``#{k in 1..L: k / (L+1) <= F} / L``; the gradient stays f.
        method: "exact" ranks by sorting, "table" counts in cells (see ``docs/quantile.md`` for its accuracy), "auto"
            takes the table for more than 4096 values a channel. The density is summed over all pairs up to 512 values
            a channel with "exact", and otherwise interpolated between nodes.

    Returns:
        The shape, dtype and memory format of ``x``, in [0, 1].

    Raises:
        ValueError: the shape, dtype or a parameter doesn't fit, or ``x`` is empty.

    >>> quantile_activation(torch.tensor([[-2.0], [-1.0], [0.0], [3.0]])).flatten()
    tensor([0.1667, 0.3333, 0.6667, 0.8333])
    """
    _check_parameters(negative_mass, bandwidth)
    _check_input(x)
    if levels is not None and levels < 1:
        raise ValueError(f"levels is {levels}: give a whole number of at least 1, or None for no steps")
    if method not in METHODS_OF_RANKING:
        raise ValueError(f"method is {method!r}: choose one of {', '.join(METHODS_OF_RANKING)}")
    values = x.numel() // x.shape[1]
    exact = method == "exact" or (method == "auto" and values <= _EXACT_LIMIT)
    if exact:
        return _activate_by_rank(x, negative_mass, bandwidth, levels)[0]
    return _activate_by_table(x, negative_mass, bandwidth, levels)[0]


def _check_parameters(negative_mass: float, bandwidth: float | str) -> None:
    if not 0 < negative_mass < 1:
        raise ValueError(f"negative_mass is {negative_mass}: give a number between 0 and 1")
    if isinstance(bandwidth, str):
        if bandwidth != "scaled":
            raise ValueError(f"bandwidth is {bandwidth!r}: give a number above 0, or 'scaled'")
    elif not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth is {bandwidth}: give a finite number above 0, or 'scaled'")


def _check_input(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"the input is {x.dtype}: convert it to floating-point numbers")
    if x.ndim < 2:
        raise ValueError(f"the input has shape {tuple(x.shape)}: give (N, C, ...), samples by channels")
    if x.numel() == 0:
        raise ValueError(
            f"the input has shape {tuple(x.shape)}: an empty batch has no context, give at least one value"
        )


# ---- in the context of the batch


def _activate_by_rank(
    x: Tensor, negative_mass: float, bandwidth: float | str, levels: int | None = None, *, shared: bool = False
) -> tuple[Tensor, Tensor]:
    """(activation, F of each value as rows)."""
    rows = _to_rows(at_least_float32(x.detach()))
    context = gather_columns(rows) if shared else rows
    cdf = rank_rows(rows, context, negative_mass)
    widths = _bandwidths(context.T, bandwidth)
    return _ByRank.apply(x, _steps(cdf, levels), context, widths, negative_mass), cdf


def _activate_by_table(
    x: Tensor, negative_mass: float, bandwidth: float | str, levels: int | None = None, *, shared: bool = False
) -> tuple[Tensor, Table]:
    """(activation, the table it was read from)."""
    values = x.detach().float()
    reduce = sum_over_processes if shared else _unchanged
    table = build_table(values, negative_mass, _bandwidths(values, bandwidth, reduce), reduce)
    return _ByTable.apply(x, table.key, _steps(table.cdf, levels), table.density), table


class _ByRank(torch.autograd.Function):
    """F as rows, by exact rank in a context ``(C, n)``; the gradient is the density there."""

    @staticmethod
    def forward(x: Tensor, cdf: Tensor, context: Tensor, widths: Tensor, negative_mass: float) -> Tensor:
        return _from_rows(cdf, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, context, widths, ctx.negative_mass = inputs
        ctx.save_for_backward(x, context, widths)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, context, widths = ctx.saved_tensors
        density = density_rows(_to_rows(x.to(context.dtype)), context, ctx.negative_mass, widths)
        return grads[0] * _from_rows(density, x), None, None, None, None


class _ByTable(torch.autograd.Function):
    """F and its gradient from tables ``(C, cells)``; of the input only the cells are kept, two bytes a value."""

    @staticmethod
    def forward(x: Tensor, key: Tensor, cdf: Tensor, density: Tensor) -> Tensor:
        return laid_out_like(x, look_up(cdf, key)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, key, _, density = inputs
        ctx.save_for_backward(key, density)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        key, density = ctx.saved_tensors
        if (
            not torch.compiler.is_compiling() and grads[0].requires_grad
        ):  # to be differentiated once more, by what comes in
            return grads[0] * look_up(density, key).to(grads[0].dtype), None, None, None
        return look_up(density, key, grads[0].float()).to(grads[0].dtype), None, None, None


def _steps(cdf: Tensor, levels: int | None) -> Tensor:
    if levels is None:
        return cdf
    return (cdf * (levels + 1)).floor().clamp(max=levels) / levels


def _unchanged(value: Tensor) -> Tensor:
    return value


def _bandwidths(x: Tensor, bandwidth: float | str, reduce: Callable[[Tensor], Tensor] = _unchanged) -> Tensor:
    """The bandwidth h of each channel of ``x`` ``(N, C, d...)``: ``(C, 1)``, 0.5 where a scaled one has no spread."""
    if not isinstance(bandwidth, str):
        return x.new_full((x.shape[1], 1), bandwidth)
    rows = _to_rows(x)
    known = rows.isfinite()
    number = reduce(known.sum(1, keepdim=True)).clamp(min=1)
    mean = reduce(rows.masked_fill(~known, 0.0).sum(1, keepdim=True)) / number
    variance = reduce((rows - mean).masked_fill(~known, 0.0).square().sum(1, keepdim=True)) / number
    return _scaled_bandwidths(variance.sqrt())


def _scaled_bandwidths(deviation: Tensor) -> Tensor:
    return _SCALED * torch.where(deviation > 0, deviation, 1.0)


def _to_rows(x: Tensor) -> Tensor:
    """``(N, C, d...)`` -> ``(C, N * d...)``."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """``(C, N * d...)`` -> shape, dtype and memory format of ``like`` ``(N, C, d...)``."""
    shape = (like.shape[1], like.shape[0], *like.shape[2:])
    x = rows.reshape(shape).transpose(0, 1)
    if not torch.compiler.is_compiling() and x.dtype == like.dtype and x.stride() == like.stride():
        return x
    return torch.empty_like(like).copy_(x)


# ---- in a stored context


def _activate_by_stored(x: Tensor, mass: Tensor, ties: Tensor, negative_mass: float, bandwidth: float | str) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        out: Tensor = _ByStored.apply(x, mass, ties, negative_mass, bandwidth)
        return out
    return running_cdf(x.float(), mass, ties, negative_mass).to(x.dtype)


class _ByStored(torch.autograd.Function):
    """F in a stored context; the gradient is the density there."""

    @staticmethod
    def forward(x: Tensor, mass: Tensor, ties: Tensor, negative_mass: float, bandwidth: float | str) -> Tensor:
        return running_cdf(x.float(), mass, ties, negative_mass).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mass, _, ctx.negative_mass, ctx.bandwidth = inputs
        ctx.save_for_backward(x, mass)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mass = ctx.saved_tensors
        if isinstance(ctx.bandwidth, str):
            widths = _scaled_bandwidths(running_deviation(mass))
        else:
            widths = mass.new_full((mass.shape[0], 1), ctx.bandwidth)
        density = running_density(x.float(), mass, ctx.negative_mass, widths)
        return grads[0] * density.to(grads[0].dtype), None, None, None, None


# ---- the layer


class QuantileActivation(nn.Module):
    r"""Quantile activation as a layer: BatchNorm, the grounded distribution function of each channel, BatchNorm.

    In training the context is the batch, over all processes where there are several. In evaluation it is what
    ``context`` says: the batch at hand, its normalisations included, or the running statistics, which let one sample be
    scored alone. Running statistics are kept in either case: how many values an average batch holds in each of 1413
    cells a channel, in which of these they are equal, and F there.

    Args:
        num_features: C.
        negative_mass: p, between 0 and 1.
        bandwidth: h of the gradient's kernel, in units of the input (with ``pre_norm``: of the normalised input), or
            "scaled" for half of the context's standard deviation.
        context: "batch" or "running", for evaluation.
        momentum: the weight of a new batch in the running statistics, or None for the mean of all batches. The first
            1 / momentum batches count alike, so nothing is left of the initial state, a standard normal distribution.
        pre_norm: batch normalisation before; without it a common offset of the batch is seen.
        post_norm: batch normalisation after; without it the output is in [0, 1].

    Input ``(N, C, d...)``; output: the same shape and dtype.

    Raises:
        ValueError: a parameter is out of range; an input has another number of channels, is empty, or holds integers.

    >>> layer = QuantileActivation(8)
    >>> layer(torch.randn(4, 8, 5, 5)).shape
    torch.Size([4, 8, 5, 5])
    """

    running_mass: Tensor
    running_ties: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        negative_mass: float = 0.5,
        bandwidth: float | Literal["scaled"] = 0.5,
        context: Context = "batch",
        momentum: float | None = 0.1,
        pre_norm: bool = True,
        post_norm: bool = True,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}: give the number of channels, at least 1")
        _check_parameters(negative_mass, bandwidth)
        _check_context(context)
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f"momentum is {momentum}: give a number above 0 and up to 1, or None for the mean")
        self.num_features = num_features
        self.negative_mass = float(negative_mass)
        self.bandwidth = bandwidth
        self.context = context
        self.momentum = momentum
        self.pre_norm = ContextNorm(num_features) if pre_norm else None
        self.post_norm = ContextNorm(num_features) if post_norm else None
        self.register_buffer("running_mass", torch.empty(num_features, STORED_CELLS))
        self.register_buffer("running_ties", torch.empty(2, num_features, STORED_CELLS))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.reset_context()

    def reset_context(self) -> None:
        """Forget the running statistics; what stands in for them is a standard normal distribution."""
        self.running_mass.copy_(standard_normal_mass(_EXACT_LIMIT))
        self.running_ties.zero_()
        self.num_batches_tracked.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantileActivation:
        mass, ties = self.running_mass, self.running_ties
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.running_mass.dtype != mass.dtype:  # counts stay float32 in a model of half precision
            self.running_mass = mass.to(self.running_mass.device)
            self.running_ties = ties.to(self.running_ties.device)
        return self

    def extra_repr(self) -> str:
        """The parameters."""
        return (
            f"{self.num_features}, negative_mass={self.negative_mass:g}, bandwidth={self.bandwidth}, "
            f"context={self.context!r}, momentum={self.momentum}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """The activation."""
        _check_input(x)
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"the input has shape {tuple(x.shape)}, so {x.shape[1]} channels: "
                f"this layer was made for {self.num_features}"
            )
        batch = self.training or self.context == "batch"
        shared = self.training and world_size() > 1
        if batch and not self.training and x.shape[0] == 1 and not torch.compiler.is_compiling():
            warnings.warn(
                "one sample is scored in the context of its own batch: give more samples at once, "
                'or use set_context(model, "running")',
                stacklevel=2,
            )
        factor = self._factor() if self.training and not _recomputing() else None
        if self.pre_norm is not None:
            x = self.pre_norm(x, batch=batch, shared=shared, factor=factor)
        x = self._activate_in_batch(x, shared, factor) if batch else self._activate_in_running(x)
        if self.post_norm is not None:
            x = self.post_norm(x, batch=batch, shared=shared, factor=factor)
        return x

    def _factor(self) -> Tensor:
        """Count a batch, and say what its share in the running statistics is."""
        self.num_batches_tracked.add_(1)
        return (1 / self.num_batches_tracked).clamp(min=self.momentum or 0.0)

    def _activate_in_batch(self, x: Tensor, shared: bool, factor: Tensor | None) -> Tensor:
        number = x.numel() // x.shape[1]
        if shared:
            number = int(sum_over_processes(torch.tensor(number, device=x.device)))
        p, statistics = self.negative_mass, (self.running_mass, self.running_ties)
        if number > _EXACT_LIMIT:
            out, table = _activate_by_table(x, p, self.bandwidth, shared=shared)
            if factor is not None:
                learn(*statistics, table.coarse, pairs_of_table(table, p), factor)
        else:
            out, cdf = _activate_by_rank(x, p, self.bandwidth, shared=shared)
            if factor is not None:
                rows = _to_rows(x.detach().float())
                if shared:
                    coarse = sum_over_processes(count_coarse(rows.T))
                    learn(*statistics, coarse, sum_over_processes(pairs_of_ranks(rows, cdf, coarse, p)), factor)
                else:
                    learn_rows(*statistics, rows, cdf, p, factor)
        return out

    def _activate_in_running(self, x: Tensor) -> Tensor:
        mass, ties = self.running_mass.float(), self.running_ties.float()
        return _activate_by_stored(x, mass, ties, self.negative_mass, self.bandwidth)


def _recomputing() -> bool:
    """Whether this is a second forward pass, within a backward pass, as activation checkpointing makes one."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _check_context(context: str) -> None:
    if context not in ("batch", "running"):
        raise ValueError(f"context is {context!r}: choose batch or running")


# ---- contexts of a whole model


def set_context(model: nn.Module, context: Context) -> None:
    """Let every ``QuantileActivation`` of ``model`` evaluate in the context "batch" or "running".

    Raises:
        ValueError: the context is another, or the model has no such layer.
    """
    _check_context(context)
    for layer in _quantile_layers(model):
        layer.context = context


def adapt_context(model: nn.Module, loader: Iterable[Any], *, reset: bool = True) -> None:
    """Take the running statistics of every ``QuantileActivation`` from new inputs, and use them from now on.

    One pass without gradients: each layer normalises and ranks in its batch and keeps the mean over batches; all
    other layers are in evaluation mode. Afterwards the context is "running", and each layer is in the mode it was in.
    The inputs take part as a population: a loader with a class or a sample of one kind alone makes that the context.

    Args:
        model: called with the inputs of each batch.
        loader: gives inputs, or tuples and lists that begin with them, or mappings with "inputs".
        reset: forget what was known; otherwise the new batches count beside the former ones.

    Raises:
        ValueError: the model has no such layer, or the loader gives no batch.
    """
    layers = _quantile_layers(model)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    device = layers[0].running_mass.device
    model.eval()
    try:
        for layer in layers:
            layer.train()
            layer.momentum = None
        seen = 0
        with torch.no_grad():
            for batch in loader:
                if reset and seen == 0:
                    for layer in layers:
                        layer.reset_context()
                model(_inputs_of(batch).to(device))
                seen += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
    if seen == 0:
        raise ValueError("the loader gave no batch: give at least one")
    set_context(model, "running")


def _quantile_layers(model: nn.Module) -> list[QuantileActivation]:
    layers = [module for module in model.modules() if isinstance(module, QuantileActivation)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no QuantileActivation: make one with convert_activations")
    return layers


def _inputs_of(batch: Any) -> Tensor:
    if isinstance(batch, Mapping):
        batch = batch["inputs"]
    inputs: Tensor = batch[0] if isinstance(batch, tuple | list) else batch
    return inputs


# ---- conversion of a model


def convert_activations(
    model: nn.Module, example_input: Tensor | tuple[Any, ...], *, where: Literal["all", "block-ends"] = "all"
) -> nn.Module:
    """A copy of ``model`` with a ``QuantileActivation`` in place of each ReLU; the rest keeps its weights and names.

    ReLU modules and functional ones are found by tracing the model with ``torch.fx``; each use gets a layer of its own,
    even where one module was used several times. Where functional or repeated uses are replaced, the copy is a
    ``torch.fx.GraphModule``: what ``forward`` decides by ``self.training`` is then fixed as it is now. In a model that
    can't be traced the ReLU modules used once are replaced, and a warning says what stays. The copy's attribute
    ``converted_activations`` maps the names of the new layers to their channels.

    Args:
        model: is not changed.
        example_input: an input, or a tuple of positional ones, from which the channels are learned.
        where: "all", or "block-ends" for those ReLUs alone that take the sum which ends a residual block.

    Raises:
        ValueError: there is nothing to convert, or "block-ends" is asked for and the model can't be traced.

    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> convert_activations(net, torch.zeros(2, 4)).converted_activations
    {'1': 16}
    """
    if where not in ("all", "block-ends"):
        raise ValueError(f"where is {where!r}: choose all or block-ends")
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    converted, places = replace_relus(model, inputs, QuantileActivation, block_ends=where == "block-ends")
    if not places:
        raise ValueError(f"{type(model).__name__} has no ReLU to convert with where={where!r}")
    _LOG.info("converted %d activations: %s", len(places), ", ".join(f"{k} ({v} channels)" for k, v in places.items()))
    converted.converted_activations = places  # type: ignore[assignment]
    return converted


# ---- the classifier


class QuantileLoss(Objective):
    r"""One-vs-rest classification by quantiles: the grounded distribution function per class, then cross-entropy.

    .. math:: \ell = -\sum_k \left[y_k \log F_k(z_k) + (1 - y_k) \log(1 - F_k(z_k))\right]

    Class k's probability is the rank F_k of its logit among the logits of the context: the batch in training (over all
    processes), the running statistics afterwards, so that one sample can be scored alone. Where a share 1 - 1/K of a
    class's logits is negative, p = 1/K makes its mean probability 1/K, the prevalence. The probabilities of a
    sample don't sum to 1. The gradient is the kernel density, with h = 0.5 in units of the logits.

    Args:
        num_classes: K.
        negative_mass: p, the probability at a logit of 0; None for 1/K. (The paper weighs "the positive class with 0.9
            and the negative class with 0.1" for ten classes; 1 - 1/K is the other reading of it.)

    As input:
        logits ``(N, K)``; target ``(N,)`` class indices, -1 for none of the classes, -100 to leave a sample out of loss
        and context; or ``(N, K)`` of 0 to 1, one column a class.

    Raises:
        ValueError: shapes, dtypes, labels or parameters don't fit.

    >>> loss = QuantileLoss(3)
    >>> loss(torch.zeros(2, 3), torch.tensor([0, -1]))  # F(0) = 1/3 + 2/3 * 2/3 everywhere
    tensor(3.8859)
    """

    exclusive = False
    accepts_unknown = True

    def __init__(self, num_classes: int, *, negative_mass: float | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: give at least 2")
        self.num_classes = num_classes
        self.cdf = QuantileActivation(
            num_classes,
            negative_mass=1 / num_classes if negative_mass is None else negative_mass,
            context="running",
            pre_norm=False,
            post_norm=False,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the samples that are not left out; 0 where there is none."""
        logits = at_least_float32(logits)
        y, used = _one_vs_rest(logits, target, self.num_classes)
        if logits.shape[0] == 0:
            return logits.sum()
        probabilities = self.cdf(logits.masked_fill(~used.unsqueeze(1), torch.nan))
        loss = F.binary_cross_entropy(probabilities.masked_fill(~used.unsqueeze(1), 0.5), y, reduction="none").sum(1)
        return (loss * used).sum() / used.sum().clamp(min=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """F of each class ``(N, K)``, in (0, 1); rows don't sum to 1."""
        probabilities: Tensor = self.cdf(at_least_float32(logits))
        return probabilities


def _one_vs_rest(logits: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The target of each class ``(N, K)``, and which samples are used ``(N,)``."""
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: give (N, {num_classes})")
    if target.shape == logits.shape:
        y = target.to(logits.dtype)
        if _on_cpu(y) and not bool(((y >= 0) & (y <= 1)).all()):
            raise ValueError("target holds numbers outside 0 to 1: give one probability for each class")
        return y, torch.ones_like(y[:, 0], dtype=torch.bool)
    if target.is_floating_point() or target.shape != logits.shape[:1]:
        raise ValueError(
            f"target has shape {tuple(target.shape)} and dtype {target.dtype}: give class indices "
            f"{tuple(logits.shape[:1])} or one column a class {tuple(logits.shape)}"
        )
    target = target.long()
    used = target != IGNORE_INDEX
    target = target.masked_fill(~used, UNKNOWN_CLASS)
    if _on_cpu(target) and not bool(((target >= UNKNOWN_CLASS) & (target < num_classes)).all()):
        raise ValueError(
            f"target holds labels from {int(target.min())} to {int(target.max())}: give 0 to {num_classes - 1}, "
            f"{UNKNOWN_CLASS} for none of the classes, or {IGNORE_INDEX} to leave a sample out"
        )
    return F.one_hot(target + 1, num_classes + 1)[:, 1:].to(logits.dtype), used


def _on_cpu(value: Tensor) -> bool:
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


class QuantileClassifier(nn.Module):
    """A linear layer and ``QuantileLoss``: features ``(N, D)`` -> probabilities ``(N, K)`` in (0, 1).

    Args:
        in_features: D.
        num_classes: K.
        negative_mass: p; None for 1/K.

    >>> classifier = QuantileClassifier(4, 3).eval()
    >>> classifier(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, in_features: int, num_classes: int, *, negative_mass: float | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)
        self.objective = QuantileLoss(num_classes, negative_mass=negative_mass)

    def forward(self, features: Tensor) -> Tensor:
        """The classes' probabilities ``(N, K)``: in the batch when training, in the stored context otherwise."""
        return self.objective.probabilities(self.linear(features))

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        """``QuantileLoss`` of the features' logits."""
        loss: Tensor = self.objective(self.linear(features), target)
        return loss

    def fit(
        self,
        features: Tensor,
        target: Tensor,
        *,
        epochs: int = 100,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> QuantileClassifier:
        """Train on frozen embeddings with Adam and a cosine schedule, then take all of them as context.

        Args:
            features: ``(N, D)``.
            target: as for ``QuantileLoss``.
            epochs: passes over the data.
            batch_size: also the size of the context in training; a last batch of less than half of it is left out.
            learning_rate: at the start.
            seed: of the order of the samples.

        Returns:
            The classifier itself, in evaluation mode.
        """
        self.train()
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            batches = torch.split(torch.randperm(len(features), generator=generator), batch_size)
            for index in batches:
                if index is not batches[0] and 2 * len(index) < batch_size:
                    continue
                index = index.to(features.device)
                optimizer.zero_grad()
                torch.autograd.backward(self.loss(features[index], target[index]))
                optimizer.step()
            schedule.step()
        adapt_context(self, [features])
        return self.eval()


METHODS = (
    Method(
        name="quantile",
        cls=QuantileLoss,
        paper="Quantile Activation: Correcting a Failure Mode of ML Models, arXiv preprint",
        year=2024,
        url="https://arxiv.org/abs/2405.11573",
        formula="-sum_k (y_k log F_k(z_k) + (1 - y_k) log(1 - F_k(z_k))), F_k the rank in the context",
        purpose="a last layer on embeddings whose inputs shift; scores that keep their scale",
    ),
)
