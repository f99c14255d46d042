"""Drainage: one more output that takes the probability mass of ambiguous and wrong labels.

Paper: "Drainage: A Unifying Framework for Addressing Class Uncertainty", CVPR 2026, arXiv 2512.03182.

A network gets C class logits z_1..z_C and, last, a drainage logit z_d. With t the label, J the other classes
(drainage is not one of them), and a softmax over all C+1,

    l = log(1 + alpha (p_d + p_J) / p_t + beta p_J / p_d)
      = log(1 + e^T1 + e^T2),   T1 = log alpha + LSE(z_d, z_J) - z_t,   T2 = log beta + LSE(z_J) - z_d.

All of it needs three numbers a row: z_t, z_d and A = LSE(z_J). A is summed over J itself, never as "all minus the
target": that difference loses every digit as p_t -> 1. It is kept as two numbers, A = m + r with m the largest rival,
so that a common offset of the logits cancels before anything is rounded. The loss does not change with a shift, so m
counts as a constant in every derivative. With (w0, w1, w2) = softmax(0, T1, T2), the gradient is

    dl/dz_t = -w1,   dl/dz_d = w1 s_d - w2,   dl/dz_j = k e^(z_j - A),
    s_d = e^(z_d - LSE(z_d, z_J)),   k = w1 (1 - s_d) + w2,

which sums to 0 over a row.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from catchment.kernels.drainage_rows import (
    loss_of_indices,
    outside_rivals,
    rivals_logsumexp,
    rivals_softmax,
    terms,
)
from catchment.loss_conventions import IGNORE_INDEX, at_least_float32, check_reduction, prepare_target, reduce_loss
from catchment.objective import Method, Objective, gather_label


def drainage_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float | None = None,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
) -> Tensor:
    r"""The drainage loss.

    .. math:: \ell = \log\left(1 + \alpha\,\frac{p_d + p_J}{p_t} + \beta\,\frac{p_J}{p_d}\right)

    with p the softmax over the C classes and drainage, t the label and J the other classes. It is at least 0, convex
    in the logits, and does not change when a constant is added to all of them. With alpha = 1, beta = 0 and
    z_d = -inf it is cross-entropy.

    Args:
        logits: ``(N, C+1, d...)``, the drainage logit last; any floating-point dtype.
        target: ``(N, d...)`` class indices, or ``(N, C, d...)`` class probabilities y, for which the loss is
            ``sum_c y_c loss(c)``; classes with y_c = 0 contribute 0.
        alpha: weight of the mass that is not on the label, above 0.
        beta: weight of the mass of the other classes against drainage, at least 0; None means 1 / alpha.
        weight: ``(C,)`` class weights; a sample's weight is w[target], or ``sum_c w_c y_c``.
        ignore_index: samples with this label are left out of the loss and of the mean.
        reduction: "mean" (divided by the sample weights' sum), "sum" or "none".

    Returns:
        A scalar, or ``(N, d...)`` with reduction "none"; float32, or float64 for float64 logits. Finite for finite
        logits; +inf where z_t = -inf, and where z_d = -inf, beta > 0 and some rival is not -inf.

    Raises:
        ValueError: shapes, dtypes or hyper-parameters don't fit; in eager mode on a CPU also labels out of range.

    >>> logits = torch.tensor([[2.0, 0.0, 1.0]])  # two classes, then drainage
    >>> drainage_loss(logits, torch.tensor([0]))  # log(1 + (e^1 + e^0) / e^2 + e^0 / e^1)
    tensor(0.6265)
    """
    alpha, beta = _check_parameters(alpha, beta)
    check_reduction(reduction)
    if logits.ndim >= 2 and logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: give (N, C+1, ...), the drainage logit last")
    prepared = prepare_target(
        logits,
        target,
        num_classes=logits.shape[1] - 1 if logits.ndim > 1 else 0,
        weight=weight,
        ignore_index=ignore_index,
    )
    if prepared.is_index:
        loss = loss_of_indices(logits, prepared.labels, alpha, beta)
    else:
        loss = _ProbabilityLoss.apply(at_least_float32(logits), prepared.labels, alpha, beta)
    return reduce_loss(loss, prepared, reduction)


def _check_parameters(alpha: float, beta: float | None) -> tuple[float, float]:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha is {alpha}: give a finite number above 0")
    if beta is None:
        beta = 1.0 / alpha
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta is {beta}: give a finite number of at least 0, or None for 1 / alpha")
    return float(alpha), float(beta)


class _Rivals(NamedTuple):
    """What a row's classes look like from each of them."""

    largest: Tensor  # m of every class
    rest: Tensor  # r of every class
    shares: Tensor  # softmax over the classes
    top: Tensor  # the largest class


def _rivals_of_each_class(logits: Tensor) -> _Rivals:
    """A = m + r of every class without cancellation: ``(N, C, d...)`` for logits ``(N, C+1, d...)``.

    For all classes but the largest, the share p_c is at most 1/2, so that A_c = LSE + log(1 - p_c) keeps its digits;
    the largest is left out by masking.
    """
    classes = logits[:, :-1]
    largest, top = classes.max(1)
    top_largest, top_rest = rivals_logsumexp(logits, top)
    at_top = top.unsqueeze(1)
    no_classes = largest.isneginf()  # all masked: their softmax would be NaN
    largest = largest.masked_fill(no_classes, 0.0)
    shares = classes.scatter(1, at_top, largest.unsqueeze(1)).softmax(1)
    all_rest = torch.logaddexp(torch.zeros_like(largest), (top_largest - largest) + top_rest)
    below_top = all_rest.masked_fill(no_classes, -torch.inf).unsqueeze(1)
    rest = (below_top + torch.log1p(-shares.scatter(1, at_top, 0.0))).scatter(1, at_top, top_rest.unsqueeze(1))
    largest = largest.unsqueeze(1).expand_as(rest).scatter(1, at_top, top_largest.unsqueeze(1))
    return _Rivals(largest, rest, shares, top)


class _ProbabilityLoss(torch.autograd.Function):
    """``sum_c y_c loss(c)`` for class probabilities y: O(C) a row, like the loss for one label."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, probabilities: Tensor, alpha: float, beta: float) -> Tensor:
        largest, rest, _, _ = _rivals_of_each_class(logits)
        loss = terms(logits[:, :-1], logits[:, -1:].expand_as(rest), largest, rest, alpha, beta).loss
        # y_c = 0 contributes 0 even where loss(c) is infinite
        return (probabilities * loss.masked_fill(probabilities == 0, 0.0)).sum(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, probabilities, ctx.alpha, ctx.beta = inputs
        ctx.save_for_backward(logits, probabilities)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, y = ctx.saved_tensors
        largest, rest, shares, top = _rivals_of_each_class(logits)
        z_d = logits[:, -1:].expand_as(rest)
        loss, w1, w2, share = terms(logits[:, :-1], z_d, largest, rest, ctx.alpha, ctx.beta)
        # dl/dz_j = -y_j w1_j + sum_(c != j) y_c k_c e^(z_j - A_c). For all c but the largest class,
        # e^(z_j - A_c) = p_j / (1 - p_c), so that one sum over c serves every j.
        pull = y * (w1 * (1 - share) + w2)
        at_top = top.unsqueeze(1)
        below_top = (pull / (1 - shares.scatter(1, at_top, 0.0))).scatter(1, at_top, 0.0)
        from_below_top = shares * (below_top.sum(1, keepdim=True) - below_top)
        top_has_no_rivals = rest.gather(1, at_top).squeeze(1).isneginf()
        from_top = rivals_softmax(logits, outside_rivals(logits, top), top_has_no_rivals)[:, :-1]
        grad_classes = from_below_top + from_top * pull.gather(1, at_top) - y * w1
        grad_drainage = (y * (w1 * share - w2)).sum(1, keepdim=True)
        grad_loss = grads[0].unsqueeze(1)
        return torch.cat([grad_classes, grad_drainage], 1) * grad_loss, loss * grad_loss, None, None


def open_probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes and drainage: ``(N, C+1, d...)`` -> the same shape, in float32 or better.

    >>> open_probabilities(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return at_least_float32(logits).softmax(1)


def closed_probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes only, the drainage logit dropped: ``(N, C+1, d...)`` -> ``(N, C, d...)``.

    >>> closed_probabilities(torch.zeros(1, 5))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    classes = logits.narrow(1, 0, logits.shape[1] - 1)  # torch 2.6 can't export [:, :-1] with a dynamic batch
    return at_least_float32(classes).softmax(1)


class DrainageLoss(Objective):
    """The drainage loss as a module, and how to read the outputs of a network trained with it.

    Classification uses the closed probabilities (drainage dropped); "none of these" is the drainage probability p_d;
    a label is suspect by 1 - p_t under the open probabilities.

    Args:
        alpha: weight of the mass that is not on the label, above 0. Published: 1 (CIFAR-10, MNIST), 0.1 (CIFAR-100,
            WebVision), 0.01 (Clothing1M).
        beta: at least 0; None means 1 / alpha.
        constant: fixes z_d in ``make_head``, for open-set recognition. p_d then ranks exactly like the energy score.
        weight: ``(C,)`` class weights.
        ignore_index: samples with this label are left out.
        reduction: "mean", "sum" or "none".

    See ``drainage_loss`` for formula, shapes and errors.

    >>> net = nn.Linear(2, 3 + 1)  # three classes and drainage
    >>> loss = DrainageLoss(alpha=0.1)(net(torch.zeros(8, 2)), torch.zeros(8, dtype=torch.long))
    """

    extra_outputs = 1
    weight: Tensor | None

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float | None = None,
        *,
        constant: float | None = None,
        weight: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.alpha, self.beta = _check_parameters(alpha, beta)
        check_reduction(reduction)
        _check_constant(constant)
        self.constant = constant
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.register_buffer("weight", weight, persistent=False)

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        return f"alpha={self.alpha:g}, beta={self.beta:g}, constant={self.constant}"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss: a scalar, or ``(N, d...)`` with reduction "none"."""
        return drainage_loss(
            logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def make_head(self, in_features: int, num_classes: int) -> nn.Module:
        """A ``DrainageHead``."""
        return DrainageHead(in_features, num_classes, constant=self.constant)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Closed probabilities ``(N, C, d...)``."""
        return closed_probabilities(logits)

    def unknown_score(self, logits: Tensor) -> Tensor:
        """The drainage probability p_d ``(N, d...)``."""
        return open_probabilities(logits)[:, -1]

    def label_score(self, logits: Tensor, target: Tensor) -> Tensor:
        """1 - p_t under the open probabilities ``(N, d...)``; NaN without a label."""
        return 1 - gather_label(open_probabilities(logits), target)


def _check_constant(constant: float | None) -> None:
    if constant is not None and not math.isfinite(constant):
        raise ValueError(f"constant is {constant}: give a finite drainage logit, or None to learn it")


class DrainageHead(nn.Module):
    """A classifier with a drainage output: features ``(..., D)`` -> logits ``(..., C+1)``, drainage last.

    Args:
        in_features: D.
        num_classes: C.
        constant: None learns z_d as one more row; a number fixes it (open-set recognition). A fixed z_d makes p_d a
            strictly decreasing function of LSE(z): it ranks like the energy score, and its value only shifts the
            class biases, so 0 is as good as any.

    >>> DrainageHead(8, 3)(torch.zeros(5, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(self, in_features: int, num_classes: int, *, constant: float | None = None) -> None:
        super().__init__()
        _check_constant(constant)
        layer = nn.Linear(in_features, num_classes + (constant is None))
        self.classifier: nn.Module = layer if constant is None else _AppendConstant(layer, constant, dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, drainage last."""
        logits: Tensor = self.classifier(features)
        return logits


class _AppendConstant(nn.Module):
    """A layer whose output gets one more channel, fixed."""

    def __init__(self, layer: nn.Module, constant: float, *, dim: int) -> None:
        super().__init__()
        self.layer = layer
        self.constant = constant
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x)
        column = torch.full_like(logits.narrow(self.dim, 0, 1), self.constant)
        return torch.cat([logits, column], self.dim)


def with_drainage(model: nn.Module, *, layer: str | None = None, constant: float | None = None) -> nn.Module:
    """A copy of ``model`` with one more output, drainage, last. The trained rows of the classes are kept.

    The new row starts at zero, so z_d = 0 for every input until training moves it. The classifier may be a linear
    layer or a 1x1 convolution; it is found in linear layers and convolutions themselves, ``nn.Sequential``, models of
    torchvision and timm, and models that call it ``fc``, ``classifier`` or ``head``.

    Args:
        model: gives logits ``(N, C)`` or ``(N, C, d...)``. It is not changed.
        layer: the classifier's name as in ``model.named_modules()``, where it can't be found.
        constant: fixes z_d instead of learning it.

    Raises:
        ValueError: the classifier can't be found, is not a linear layer or 1x1 convolution, or is parametrised.

    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> with_drainage(net)(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """
    _check_constant(constant)
    name = find_classifier(model) if layer is None else layer
    try:
        _check_classifier(model.get_submodule(name), name)
    except AttributeError:
        raise ValueError(f"the model has no layer {name!r}: choose one of {_layer_names(model)}") from None
    model = copy.deepcopy(model)
    old = model.get_submodule(name)
    new = _widened(old) if constant is None else _with_constant(old, constant)
    if not name:
        return new
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)
    return model


_CLASSIFIER_NAMES: tuple[str, ...] = ("fc", "classifier", "head", "heads", "linear")


def find_classifier(model: nn.Module) -> str:
    """The name, as in ``model.named_modules()``, of the layer that makes the logits; "" for the model itself.

    Raises:
        ValueError: no layer can be told to be the classifier.
    """
    if _is_classifier(model):
        return ""
    pretrained_cfg = getattr(model, "pretrained_cfg", None)  # timm says it itself
    named = pretrained_cfg.get("classifier") if isinstance(pretrained_cfg, dict) else None
    if isinstance(named, str):
        return named
    if isinstance(named, list | tuple):
        raise ValueError(
            f"the logits of {type(model).__name__} come from several layers ({', '.join(map(repr, named))}): "
            "build the model with one classifier, such as the variant without distillation"
        )
    children = dict(model.named_children())
    if isinstance(model, nn.Sequential):
        with_parameters = [name for name, child in children.items() if any(True for _ in child.parameters())]
        candidates = with_parameters[-1:]
    else:
        candidates = [name for name in _CLASSIFIER_NAMES if name in children][:1]
    if not candidates:
        raise ValueError(
            f"can't tell which layer of {type(model).__name__} makes the logits: "
            f"name it with layer=, one of {_layer_names(model)}"
        )
    inner = find_classifier(children[candidates[0]])
    return f"{candidates[0]}.{inner}" if inner else candidates[0]


def _is_classifier(module: nn.Module) -> bool:
    is_pointwise = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and set(module.kernel_size) == {1}
    return isinstance(module, nn.Linear) or (is_pointwise and getattr(module, "groups", 1) == 1)


def _layer_names(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if _is_classifier(module)]
    return ", ".join(repr(name) for name in names[-8:]) or "none: it has no linear layer or 1x1 convolution"


def _check_classifier(layer: nn.Module, name: str) -> None:
    if not _is_classifier(layer):
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__}: "
            "name the linear layer or 1x1 convolution that makes the logits"
        )
    # weight normalisation, spectral normalisation and pruning of the older kind rename the weight
    renamed = not {parameter_name for parameter_name, _ in layer.named_parameters()} <= {"weight", "bias"}
    if renamed or torch.nn.utils.parametrize.is_parametrized(layer):
        raise ValueError(f"layer {name!r} is parametrised: remove its parametrisation first, and add it again after")


def _widened(layer: nn.Module) -> nn.Module:
    """A copy of the layer with one more output row, of zeros."""
    new = copy.deepcopy(layer)
    for parameter_name, parameter in layer.named_parameters():
        row = torch.zeros_like(parameter[:1])
        wider = nn.Parameter(torch.cat([parameter.detach(), row]), requires_grad=parameter.requires_grad)
        setattr(new, parameter_name, wider)
    size = "out_features" if isinstance(new, nn.Linear) else "out_channels"
    setattr(new, size, getattr(new, size) + 1)
    return new


def _with_constant(layer: nn.Module, constant: float) -> nn.Module:
    spatial_dims = layer.get_parameter("weight").ndim - 2
    return _AppendConstant(layer, constant, dim=-1 - spatial_dims)


_SGD = {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 5.0}
_COSINE = {**_SGD, "schedule": "cosine", "learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 128}

METHODS = (
    Method(
        name="drainage",
        cls=DrainageLoss,
        paper="Drainage: A Unifying Framework for Addressing Class Uncertainty, CVPR",
        year=2026,
        url="https://arxiv.org/abs/2512.03182",
        formula="log(1 + alpha (p_d + p_J) / p_t + beta p_J / p_d)",
        purpose="wrong and ambiguous labels; samples of none of the classes",
        presets={
            "mnist": {"objective": {"alpha": 1.0}, "training": {**_COSINE, "l1": 1e-3, "epochs": 50}},
            "cifar10": {"objective": {"alpha": 1.0}, "training": {**_COSINE, "l1": 2e-4, "epochs": 120}},
            "cifar100": {"objective": {"alpha": 0.1}, "training": {**_COSINE, "l1": 1e-4, "epochs": 200}},
            "webvision": {
                "objective": {"alpha": 0.1},
                "training": {
                    **_SGD,
                    "nesterov": True,
                    "schedule": "step",
                    "step_size": 1,
                    "step_factor": 0.97,
                    "learning_rate": 0.4,
                    "l1": 1e-5,
                    "weight_decay": 0.0,
                    "epochs": 250,
                    "batch_size": 512,
                },
            },
            "clothing1m": {
                "objective": {"alpha": 0.01},
                "training": {
                    **_SGD,
                    "schedule": "step",
                    "step_size": 10,
                    "step_factor": 0.1,
                    "learning_rate": 1e-4,
                    "l1": 0.0,
                    "weight_decay": 1e-3,
                    "epochs": 15,
                    "batch_size": 32,
                },
            },
        },
    ),
)
