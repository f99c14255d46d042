"""D-SINK: labels that agree with a noise-robust model sample by sample, and with a rare-class model in their totals.

"Dual-granularity Sinkhorn Distillation", Machine Learning 2026, arXiv 2510.08179. Two auxiliary models are trained
first: f_N is robust to wrong labels, f_L to rare classes. The target model f then learns from labels q that minimise

    (1/N) sum_i [ KL(q_i || f_N(x_i)) + KL(q_i || f(x_i)) ]   with   sum_i q_i = sum_i f_L(x_i),

which the two KLs make entropic optimal transport with the kernel sqrt(f_N f): q = softmax(0.5 (log f_N + log f) + g),
with one number g_c for each class (see ``catchment.sinkhorn``). As q is the minimiser, the gradient for f with q held
fixed is the gradient of the minimum itself: nothing is propagated back through the solver.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from catchment.baselines.noisy_labels import CrossEntropy
from catchment.compile_marks import not_compiled
from catchment.loss_conventions import IGNORE_INDEX, at_least_float32
from catchment.objective import Method, Objective
from catchment.sinkhorn import SinkhornLabels, sinkhorn_labels

__all__ = ["METHODS", "DSinkLoss", "SinkhornLabels", "dsink_labels", "label_shares", "sinkhorn_labels"]

GRANULARITIES = ("batch", "queue", "dataset")
BOTH = ("noise_robust_logits", "imbalance_robust_logits")
TEACHERS = {  # and the auxiliaries that they read
    "transport": BOTH,
    "geometric-mean": BOTH[:1],
    "projection": BOTH,
    "noise-robust": BOTH[:1],
    "imbalance-robust": BOTH[1:],
}


def dsink_labels(
    noise_robust_logits: Tensor,
    logits: Tensor,
    imbalance_robust_logits: Tensor,
    *,
    kl_weights: tuple[float, float] = (1.0, 1.0),
    min_prob: float = 0.0,
    **solver: Any,
) -> SinkhornLabels:
    """The labels of D-SINK for a set of samples, all at once.

    Args:
        noise_robust_logits: ``(N, C)`` of f_N.
        logits: ``(N, C)`` of f.
        imbalance_robust_logits: ``(N, C)`` of f_L, whose probabilities' sums are the class totals.
        kl_weights: w_N and w_f of the two KLs; the kernel is (f_N^w_N f^w_f)^(1 / (w_N + w_f)).
        min_prob: floor of f_N's probabilities, from 0 to below 1; above 0 where f_N rules classes out.
        solver: further arguments of ``sinkhorn_labels``.

    Raises:
        ValueError: the shapes differ, and as ``sinkhorn_labels``.

    >>> f_noise, f, f_imbalance = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2), torch.zeros(2, 2)
    >>> dsink_labels(f_noise, f, f_imbalance).labels  # f_L sees one sample of each class
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    _check_kl_weights(kl_weights)
    outputs = _outputs(noise_robust_logits, logits, imbalance_robust_logits, None, _checked_min_prob(min_prob))
    scores = _log_kernel(outputs, kl_weights)
    return sinkhorn_labels(scores, _totals(outputs.log_imbalance_robust), **solver)


def label_shares(labels: Tensor, given: Tensor, clean: Tensor) -> dict[str, float]:
    """How labels relate to the given and the true ones, where the true ones are known.

    Args:
        labels: ``(N, C)`` q or any probabilities, of which the largest counts, or ``(N,)`` class indices.
        given: ``(N,)`` given labels, perhaps wrong.
        clean: ``(N,)`` true labels; samples with a negative label in either are left out.

    Returns:
        ``corrected``: the share of wrong given labels where ``labels`` has the true class; ``damaged``: the share of
        right given labels where it has another. NaN where there are none.

    >>> label_shares(torch.tensor([0, 1, 1, 0]), torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 1, 0]))
    {'corrected': 1.0, 'damaged': 0.0}
    """
    predicted = labels.argmax(1) if labels.ndim == 2 else labels
    if not predicted.shape == given.shape == clean.shape:
        raise ValueError(
            f"labels, given and clean are for {len(predicted)}, {len(given)} and {len(clean)} samples: "
            "give one of each for every sample"
        )
    known = (given >= 0) & (clean >= 0)
    right = predicted == clean
    wrong_given, right_given = known & (given != clean), known & (given == clean)
    return {"corrected": _share(right, wrong_given), "damaged": _share(~right, right_given)}


def _share(event: Tensor, among: Tensor) -> float:
    return float(event[among].double().mean()) if bool(among.any()) else math.nan


class _Outputs(NamedTuple):
    """Log-probabilities ``(n, C)`` of f_N, f and f_L for samples, and these samples' places ``(n,)`` where known."""

    log_noise_robust: Tensor
    log_target: Tensor
    log_imbalance_robust: Tensor
    places: Tensor | None

    def at(self, rows: Tensor) -> _Outputs:
        """Those of some samples."""
        noise_robust, target, imbalance_robust = (x[rows] for x in self[:3])
        return _Outputs(noise_robust, target, imbalance_robust, None if self.places is None else self.places[rows])


class DSinkLoss(Objective):
    r"""A base loss, and the divergence of labels q from the noise-robust model f_N and from the model in training f.

    .. math:: \mathrm{base} + \alpha\,\frac1n \sum_i \left[\mathrm{KL}(q_i\|f_N(x_i)) + \mathrm{KL}(q_i\|f(x_i))\right],
        \quad q = \mathrm{softmax}\left(\tfrac12(\log f_N + \log f) + g\right),

    with g such that :math:`\sum_i q_i = \sum_i f_L(x_i)`. q carries no gradient: as it is the minimiser, alpha/n times
    (softmax - q) is the exact derivative of the second term all the same, in batch granularity and with q converged.
    The potential g of the last step starts the next. Samples labelled -100 are left out. Every default is ours: the
    paper's numbers were not at hand, nor whether it solves for batches or for the whole data set.

    Args:
        base: loss of the given labels; None: cross-entropy. It takes logits, averages, and gives probabilities that sum
            to 1. Outputs that it adds to the C classes take no part in f. It reads the trained model's outputs.
        weight: alpha, at least 0.
        granularity: the samples over which the class totals hold: "batch", the batch (of all processes); "queue", the
            last ``queue_size`` samples seen; "dataset", every training sample, as last seen. The last two hold outputs
            of the model as it was, so that totals and derivative are approximate; they need ``setup`` (``train`` calls
            it) and 8 bytes a sample and class.
        warm_up: share of training, 0 to 1, with the base alone.
        ramp: share of training over which the weight then rises linearly to alpha.
        kl_weights: w_N and w_f of the two KLs; the kernel is then (f_N^w_N f^w_f)^(1 / (w_N + w_f)).
        relaxation: as in ``sinkhorn_labels``: totals asked for with a penalty, against an f_L that is not trusted.
        queue_size: at least the batch size.
        solve_every: steps from one solution to the next for queue and data set; None: 1 and 50.
        tol: of the solver.
        max_iter: of the solver.
        min_prob: floor of f_N's probabilities, for an f_N that rules classes out.
        teacher: "transport" is D-SINK. What a sceptic would try: "geometric-mean", q without g; and with
            KL(q || f) as the only divergence "projection", q = softmax(log f_N + g), f_N moved to f_L's totals once;
            "noise-robust", q = f_N; "imbalance-robust", q = f_L.

    Attributes:
        potential: ``(C,)`` g of the last step.
        diagnostics: of the last batch: ``kl_target``, the mean KL(q || f); ``totals_to_counts``, the distance
            ``||sum_i f_L(x_i) - counts of the given labels||_1 / n``; where labels are transported ``marginal_error``,
            ``solver_iterations`` and ``solver_converged`` (1 or 0) of the last solution.

    Raises:
        ValueError: the base doesn't suit, or an argument is out of its range.

    >>> loss = DSinkLoss(CrossEntropy(), weight=0.5)
    >>> logits, target = torch.zeros(4, 2, requires_grad=True), torch.tensor([0, 0, 0, 1])
    >>> f_noise, f_imbalance = torch.zeros(4, 2), torch.tensor([3.0, 1.0]).log().expand(4, 2)
    >>> value = loss(logits, target, f_noise, f_imbalance)
    >>> loss.potential.exp() / loss.potential.exp().sum()  # three to one, as f_L says
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    potential: Tensor
    seen_scores: Tensor
    seen_imbalance_robust: Tensor
    steps: Tensor
    next_row: Tensor

    def __init__(
        self,
        base: Objective | None = None,
        *,
        weight: float = 1.0,
        granularity: str = "batch",
        warm_up: float = 0.0,
        ramp: float = 0.1,
        kl_weights: tuple[float, float] = (1.0, 1.0),
        relaxation: float | None = None,
        queue_size: int = 4096,
        solve_every: int | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        min_prob: float = 0.0,
        teacher: str = "transport",
    ) -> None:
        super().__init__()
        self.base = CrossEntropy() if base is None else base
        _check_base(self.base)
        _check_kl_weights(kl_weights)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is {weight}: give a finite number of at least 0")
        for name, share in (("warm_up", warm_up), ("ramp", ramp)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}: give a share of training, from 0 to 1")
        for name, choice, choices in (("granularity", granularity, GRANULARITIES), ("teacher", teacher, TEACHERS)):
            if choice not in choices:
                raise ValueError(f"{name} is {choice!r}: choose one of {', '.join(choices)}")
        if solve_every is not None and solve_every < 1:
            raise ValueError(f"solve_every is {solve_every}: give a number of steps, at least 1")
        self.weight, self.warm_up, self.ramp = weight, warm_up, ramp
        self.granularity, self.teacher, self.kl_weights = granularity, teacher, kl_weights
        self.queue_size = queue_size
        self.solve_every = solve_every or (50 if granularity == "dataset" else 1)
        self.min_prob = _checked_min_prob(min_prob)
        self.solver: dict[str, Any] = {"tol": tol, "max_iter": max_iter, "relaxation": relaxation}
        own = (*TEACHERS[teacher], "progress", *(("index",) if granularity == "dataset" else ()))
        self.needs = tuple(dict.fromkeys((*own, *self.base.needs)))
        self.extra_outputs = self.base.extra_outputs
        self.register_buffer("potential", torch.zeros(0, dtype=torch.float64))

    def extra_repr(self) -> str:
        """The hyper-parameters that matter most."""
        return f"weight={self.weight:g}, granularity={self.granularity}, teacher={self.teacher}"

    def setup(self, *, num_samples: int, class_counts: Tensor) -> None:
        """Set up the base, and make room for what granularity asks to be remembered."""
        self.base.setup(num_samples=num_samples, class_counts=class_counts)
        num_classes = len(class_counts)
        self.potential = torch.zeros(num_classes, dtype=torch.float64)
        if self.granularity != "batch":
            rows = num_samples if self.granularity == "dataset" else self.queue_size
            self.register_sample_state("seen_scores", torch.full((rows, num_classes), math.nan))
            self.register_sample_state("seen_imbalance_robust", torch.zeros(rows, num_classes))
            self.register_sample_state("steps", torch.zeros((), dtype=torch.int64))
            self.register_sample_state("next_row", torch.zeros((), dtype=torch.int64))

    def weight_at(self, progress: Tensor | float | None) -> Tensor | float:
        """The weight at a share of training, 0 to 1; alpha where it is None."""
        if progress is None:
            return self.weight
        past = torch.as_tensor(progress) - self.warm_up
        return self.weight * ((past / self.ramp).clamp(0, 1) if self.ramp else (past >= 0).to(torch.float32))

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        noise_robust_logits: Tensor | None = None,
        imbalance_robust_logits: Tensor | None = None,
        index: Tensor | None = None,
        progress: Tensor | float | None = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: ``(n, C + extra_outputs)`` of the model in training.
            target: the given labels, as the base takes them.
            noise_robust_logits: ``(n, C)`` of f_N, frozen.
            imbalance_robust_logits: ``(n, C)`` of f_L, frozen; some teachers read only one of the two.
            index: ``(n,)`` positions in the training set; "dataset" needs it, and some bases.
            progress: share of training done, 0 to 1; None: the full weight.

        Raises:
            ValueError: shapes don't fit, logits hold NaN or +inf, or something that is needed is missing.
        """
        columns = {"index": index, "progress": progress}
        base: Tensor = self.base(logits, target, **{name: columns[name] for name in self.base.needs})
        class_logits = logits.narrow(1, 0, logits.shape[1] - self.extra_outputs)
        auxiliaries = []
        for name, given in zip(BOTH, (noise_robust_logits, imbalance_robust_logits), strict=True):
            if given is None and name in TEACHERS[self.teacher]:
                raise ValueError(f"teacher {self.teacher!r} needs {name}: give those of the auxiliary model")
            auxiliaries.append(torch.zeros_like(class_logits) if given is None else given)
        outputs = _outputs(auxiliaries[0], class_logits, auxiliaries[1], index, self.min_prob)
        distillation: Tensor = self._distillation(outputs, target)
        return base + self.weight_at(progress) * distillation

    @not_compiled
    def _distillation(self, outputs: _Outputs, target: Tensor) -> Tensor:
        if not target.is_floating_point():
            counted = target.long() != getattr(self.base, "ignore_index", IGNORE_INDEX)
            outputs = outputs.at(counted)
            target = target[counted]
        with torch.no_grad():
            q = self._labels(outputs)
        count = max(len(q), 1)
        divergence = _kl(q, outputs.log_target)
        distillation = self.kl_weights[1] * divergence.sum() / count
        if self.teacher in ("transport", "geometric-mean"):
            distillation = distillation + self.kl_weights[0] * _kl(q, outputs.log_noise_robust).sum() / count
        self.diagnostics["kl_target"] = float(divergence.detach().sum()) / count
        if BOTH[1] in TEACHERS[self.teacher]:
            totals = _totals(outputs.log_imbalance_robust)
            self.diagnostics["totals_to_counts"] = float((totals - _counts(target, len(totals))).abs().sum()) / count
        return distillation

    def _labels(self, outputs: _Outputs) -> Tensor:
        if self.teacher == "noise-robust":
            return outputs.log_noise_robust.exp()
        if self.teacher == "imbalance-robust":
            return outputs.log_imbalance_robust.exp()
        if self.teacher == "geometric-mean":
            return _log_kernel(outputs, self.kl_weights).softmax(1)
        scores = outputs.log_noise_robust if self.teacher == "projection" else _log_kernel(outputs, self.kl_weights)
        if self.granularity == "batch":
            if len(self.potential) != scores.shape[1]:
                self.potential = torch.zeros(scores.shape[1], dtype=torch.float64, device=scores.device)
            result = sinkhorn_labels(scores, _totals(outputs.log_imbalance_robust), start=self.potential, **self.solver)
            self._take(result)
            assert result.labels is not None  # they were asked for
            return result.labels
        self._remember(scores, outputs)
        if self.steps % self.solve_every == 0:
            seen = ~self.seen_scores[:, 0].isnan()
            totals = self.seen_imbalance_robust[seen].sum(0, dtype=torch.float64)
            start = self.potential
            result = sinkhorn_labels(
                self.seen_scores[seen], totals, start=start, return_labels=False, distributed=False, **self.solver
            )
            self._take(result)
        self.steps += 1
        return SinkhornLabels(None, self.potential, 0.0, 0, True).assign(scores)

    def _take(self, result: SinkhornLabels) -> None:
        self.potential = result.potential
        self.diagnostics["marginal_error"] = result.error
        self.diagnostics["solver_iterations"] = result.iterations
        self.diagnostics["solver_converged"] = float(result.converged)

    def _remember(self, scores: Tensor, outputs: _Outputs) -> None:
        """Write the batch, of all processes, over the rows of the same samples, or over the oldest rows."""
        from catchment.training.distributed import all_gather_rows  # not at import: it brings the whole loop

        if "steps" not in self._sample_state:
            raise ValueError(
                f"granularity {self.granularity!r} must know the training set: call setup(num_samples=..., "
                'class_counts=...) first (train does), or choose granularity "batch"'
            )
        scores = all_gather_rows(scores)
        rows = len(self.seen_scores)
        if self.granularity == "dataset":
            if outputs.places is None:
                raise ValueError('granularity "dataset" needs index: give the samples\' positions in the training set')
            places = all_gather_rows(outputs.places)
        else:
            if len(scores) > rows:
                raise ValueError(f"queue_size is {rows} and a batch has {len(scores)} samples: give at least that")
            places = (self.next_row + torch.arange(len(scores), device=scores.device)) % rows
            self.next_row.copy_((self.next_row + len(scores)) % rows)
        self.seen_scores[places] = scores.to(self.seen_scores)
        self.seen_imbalance_robust[places] = all_gather_rows(outputs.log_imbalance_robust.exp()).to(self.seen_scores)

    def make_head(self, in_features: int, num_classes: int) -> nn.Module:
        """The base's head."""
        return self.base.make_head(in_features, num_classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The base's probabilities."""
        return self.base.probabilities(logits)

    def unknown_score(self, logits: Tensor) -> Tensor:
        """The base's score."""
        return self.base.unknown_score(logits)

    def label_score(self, logits: Tensor, target: Tensor) -> Tensor:
        """The base's score."""
        return self.base.label_score(logits, target)


def _outputs(
    noise_robust_logits: Tensor,
    logits: Tensor,
    imbalance_robust_logits: Tensor,
    index: Tensor | None,
    min_prob: float,
) -> _Outputs:
    if logits.ndim != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: give (N, C)")
    for name, other in (("noise_robust", noise_robust_logits), ("imbalance_robust", imbalance_robust_logits)):
        if other.shape != logits.shape:
            raise ValueError(
                f"{name}_logits have shape {tuple(other.shape)} where the model's are {tuple(logits.shape)}: "
                "train the auxiliary model on the same classes, and give its class logits for the same samples"
            )
    log_noise_robust, log_imbalance_robust = (
        at_least_float32(x.detach()).log_softmax(1) for x in (noise_robust_logits, imbalance_robust_logits)
    )
    if min_prob > 0:
        log_noise_robust = log_noise_robust.clamp(min=math.log(min_prob)).log_softmax(1)
    return _Outputs(log_noise_robust, at_least_float32(logits).log_softmax(1), log_imbalance_robust, index)


def _log_kernel(outputs: _Outputs, kl_weights: tuple[float, float]) -> Tensor:
    noise_robust, target = (weight / sum(kl_weights) for weight in kl_weights)
    if noise_robust == 0:  # 0 * -inf
        return outputs.log_target.detach()
    return noise_robust * outputs.log_noise_robust + target * outputs.log_target.detach()


def _totals(log_imbalance_robust: Tensor) -> Tensor:
    return log_imbalance_robust.exp().sum(0, dtype=torch.float64)


def _counts(target: Tensor, num_classes: int) -> Tensor:
    if target.is_floating_point():
        return target[:, :num_classes].sum(0, dtype=torch.float64)
    return torch.bincount(target[target >= 0].long(), minlength=num_classes)[:num_classes].double()


def _kl(q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q_i || p_i) ``(n,)``; a class with q = 0 adds 0, whatever p."""
    return (torch.xlogy(q, q) - q * log_p.masked_fill(q == 0, 0.0)).sum(1)


def _check_base(base: Objective) -> None:
    if not isinstance(base, Objective):
        raise ValueError(f"base is {base!r}: give an objective, such as CrossEntropy()")
    name = type(base).__name__
    if base.inputs != ("logits",) or not set(base.needs) <= {"index", "progress"}:
        raise ValueError(f"{name} takes more than logits, index and progress: choose a base that does not")
    if not base.exclusive:
        raise ValueError(f"{name} gives probabilities that don't sum to 1: choose a base for one label per sample")
    if getattr(base, "reduction", "mean") != "mean":
        raise ValueError(f"the reduction of {name} is {base.reduction!r}: D-SINK averages, so give it 'mean'")


def _checked_min_prob(min_prob: float) -> float:
    if not 0 <= min_prob < 1:
        raise ValueError(f"min_prob is {min_prob}: give a probability of at least 0 and below 1")
    return min_prob


def _check_kl_weights(kl_weights: tuple[float, float]) -> None:
    if len(kl_weights) != 2 or not 0 <= kl_weights[0] < math.inf or not 0 < kl_weights[1] < math.inf:
        raise ValueError(f"kl_weights are {kl_weights}: give two finite numbers, at least 0 for f_N and above 0 for f")


_PAPER: dict[str, Any] = {
    "cls": DSinkLoss,
    "paper": "Dual-granularity Sinkhorn Distillation, Machine Learning",
    "year": 2026,
    "url": "https://arxiv.org/abs/2510.08179",
}
_DISTILLATION: dict[str, Any] = {
    "cls": DSinkLoss,
    "paper": "Hinton et al., Distilling the Knowledge in a Neural Network, arXiv",
    "year": 2015,
    "url": "https://arxiv.org/abs/1503.02531",
}

METHODS = (
    Method(
        name="dsink",
        **_PAPER,
        formula="base + alpha [KL(q||f_N) + KL(q||f)], q = softmax((log f_N + log f) / 2 + g), sum q = sum f_L",
        purpose="wrong labels and rare classes at once, from two auxiliary models",
    ),
    Method(
        name="dsink-geometric-mean",
        **_PAPER,
        make=functools.partial(DSinkLoss, teacher="geometric-mean"),
        formula="base + alpha [KL(q||f_N) + KL(q||f)], q = softmax((log f_N + log f) / 2)",
        purpose="what D-SINK is compared with: without class totals",
    ),
    Method(
        name="dsink-projection",
        **_PAPER,
        make=functools.partial(DSinkLoss, teacher="projection", granularity="dataset"),
        formula="base + alpha KL(q||f), q = softmax(log f_N + g), sum q = sum f_L",
        purpose="what D-SINK is compared with: f_N moved to the totals of f_L, once",
    ),
    Method(
        name="distil-noise-robust",
        **_DISTILLATION,
        make=functools.partial(DSinkLoss, teacher="noise-robust"),
        formula="base + alpha KL(f_N||f)",
        purpose="what D-SINK is compared with: the noise-robust model alone as teacher",
    ),
    Method(
        name="distil-imbalance-robust",
        **_DISTILLATION,
        make=functools.partial(DSinkLoss, teacher="imbalance-robust"),
        formula="base + alpha KL(f_L||f)",
        purpose="what D-SINK is compared with: the rare-class model alone as teacher",
    ),
)
