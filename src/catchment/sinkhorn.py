"""Entropic optimal transport from many samples to few classes: labels near given scores, with given class totals.

    q_ic = softmax_c(s_ic + g_c):

one vector g of C numbers, the potential, is all that couples the samples, and all that is solved for. It serves new
samples too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from catchment.compile_marks import not_compiled

STORED_ELEMENTS = 2**24  # up to here the labels are kept between steps (128 MB); beyond, they are made anew each time
BLOCK_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}
RESCALING_TOLERANCE = 1e-3
MAX_SHIFT = 100.0  # of the potential, before kept labels are made anew
SMALLEST_TOTAL = 1e-250  # below, a total is summed as logarithms
PLAIN_STEPS = 4  # before the first forecast, and after a Newton step failed
NEWTON_STEPS = 5  # that a forecast reckons with
MAX_NEWTON_CLASSES = 4096  # beyond, the Hessian (128 MB here) is left alone
MAX_TRIALS = 6  # of a Newton step, each damped ten times more
MAX_LOG_GAP = 3.0  # for Newton's step: from afar, Sinkhorn's goes further
MAX_STEP = 20.0  # of the potential
ROUNDING = 1e-9  # errors that can be due to it
MAX_STANDSTILLS = 5  # before it is held to be the cause


class SinkhornLabels(NamedTuple):
    """What ``sinkhorn_labels`` found.

    Args:
        labels: ``(N, C)`` q, rows sum to 1; None with ``return_labels=False``.
        potential: ``(C,)`` g in float64, of mean 0 over the classes with a total above 0, -inf at the others.
        error: ``||sum_i q_i - class_totals||_1 / N`` of these labels, from 0 to 2.
        iterations: how many potentials were tried after the first.
        converged: whether ``error <= tol``; with ``relaxation``, whether the relaxed problem is solved to ``tol``.
    """

    labels: Tensor | None
    potential: Tensor
    error: float
    iterations: int
    converged: bool

    @not_compiled
    @torch.no_grad()
    def assign(self, scores: Tensor) -> Tensor:
        """The labels ``(N, C)`` of any samples, seen or new, under this potential: ``softmax(scores + g)``.

        Raises:
            ValueError: the scores are not ``(N, C)``, hold NaN or +inf, or leave a sample no class.

        >>> result = sinkhorn_labels(torch.zeros(4, 2), torch.tensor([3.0, 1.0]))
        >>> result.assign(torch.zeros(1, 2))
        tensor([[0.7500, 0.2500]])
        """
        _check_scores(scores, len(self.potential))
        with torch.autocast(scores.device.type, enabled=False):
            potential = self.potential.to(scores.device)
            samples = _Samples(scores.detach(), distributed=False)
            samples.share((potential > -math.inf).double())
            labels, totals = samples.labels(potential[samples.open])
            samples.check_reached(totals)
        return labels


@not_compiled
@torch.no_grad()
def sinkhorn_labels(
    scores: Tensor,
    class_totals: Tensor,
    *,
    tol: float = 1e-6,
    max_iter: int = 1000,
    start: Tensor | None = None,
    relaxation: float | None = None,
    return_labels: bool = True,
    distributed: bool = True,
) -> SinkhornLabels:
    r"""Labels near ``scores`` whose sums over the samples are ``class_totals``: optimal transport with entropy.

    .. math:: q = \arg\max_q \sum_{ic} q_{ic} s_{ic} - \sum_{ic} q_{ic} \log q_{ic}
        \quad\text{s.t.}\quad \sum_c q_{ic} = 1,\ \sum_i q_{ic} = b_c,

    solved by :math:`q_{ic} = \mathrm{softmax}_c(s_{ic} + g_c)`. A Sinkhorn step is ``g += log b - log sum_i q_i``;
    where its rate says that damped Newton steps on the concave dual ``b.g - sum_i logsumexp(s_i + g)`` cost less, those
    are taken. It stops at ``tol``, at ``max_iter``, or where rounding keeps the error from falling. No gradient.

    All sums and exponentials are in float64. Memory: the labels in float64 up to 2^24 scores; beyond, a few blocks. In
    a process group the samples are the rows of all processes; a step exchanges C numbers, a Newton step C x C more.

    Args:
        scores: ``(N, C)`` log-kernel, any floating dtype (the labels' is float32 or better); -inf forbids a class to a
            sample. For D-SINK ``0.5 * (log f_N + log f)``, from log-softmax, never from the log of probabilities.
        class_totals: ``(C,)`` b, at least 0, rescaled to sum to N. A class with total 0 gets no label. In a process
            group: each process's share, or the same totals on all.
        tol: of the error, above 0.
        max_iter: at least 0.
        start: ``(C,)`` potential to start from, such as the last one; None: zeros.
        relaxation: weight above 0 of a penalty KL(sum_i q_i || b) in place of the constraint, in the units of the
            objective above (where the objective is the sum of two KLs, twice that); None asks for the totals exactly.
        return_labels: False leaves the labels out; ``SinkhornLabels.assign`` gives them, a chunk at a time.
        distributed: False solves for this process's rows alone, in a process group too.

    Raises:
        ValueError: shapes or dtypes don't fit, scores hold NaN or +inf, totals are negative, not finite or all 0, a
            sample has no class with a total above 0, or a class with a total above 0 is forbidden to every sample.

    Warns:
        UserWarning: the totals' sum differs from N by more than 0.1 %.

    >>> scores = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    >>> sinkhorn_labels(scores, torch.tensor([1.5, 1.5])).labels.sum(0)
    tensor([1.5000, 1.5000])
    """
    _check_arguments(scores, class_totals, tol, max_iter, start, relaxation)
    with torch.autocast(scores.device.type, enabled=False):
        totals = class_totals.detach().to(scores.device, torch.float64)
        samples = _Samples(scores.detach(), distributed=distributed)
        totals = samples.rescaled(samples.share(totals))
        if samples.count == 0:
            labels, _ = samples.labels(totals[samples.open])
            return SinkhornLabels(labels if return_labels else None, torch.zeros_like(totals), 0.0, 0, True)
        ascent = _Ascent(samples, totals[samples.open], 0.0 if relaxation is None else 1 / relaxation)
        begin = torch.zeros_like(totals) if start is None else start.detach().to(totals).nan_to_num(0.0, 0.0, 0.0)
        rounding = torch.finfo(samples.label_dtype).eps / 2  # of labels that sum to 1, so of the error too
        ascent.run(begin[samples.open], max(tol - rounding, tol / 2), max_iter)
        labels, reached = samples.labels(ascent.best, keep=return_labels)
        potential = torch.full_like(totals, -math.inf).index_copy_(0, samples.open, ascent.best)
        error = float((reached - totals).abs().sum()) / samples.count
        residual = float((reached[samples.open] - ascent.aim(ascent.best)).abs().sum()) / samples.count
    return SinkhornLabels(labels if return_labels else None, potential, error, ascent.iterations, residual <= tol)


class _Samples:
    """The samples of all processes, as the solver sees them: C numbers in, C numbers out.

    Blocks of labels lie as ``(A, n)``, the A classes with a total above 0 first, so that an operation over few classes
    runs along many samples.
    """

    def __init__(self, scores: Tensor, *, distributed: bool) -> None:
        self.scores = scores
        self.open = torch.arange(scores.shape[1], device=scores.device)  # the A classes, after share()
        grouped = distributed and dist.is_available() and dist.is_initialized()
        self.world_size = dist.get_world_size() if grouped else 1
        self.count = len(scores)  # of all processes, after share()
        self.label_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        block_elements = BLOCK_ELEMENTS.get(scores.device.type, BLOCK_ELEMENTS["cuda"])
        self.block_rows = max(1, block_elements // scores.shape[1])
        self.blocks = torch.split(scores, self.block_rows) if len(scores) else ()
        self.keeps = scores.numel() <= STORED_ELEMENTS
        self.kept: list[Tensor] = []  # labels under the potential ``reference``, first made under ``origin``
        self.origin: Tensor | None = None
        self.reference = scores.new_zeros(0)
        self.normalizer = 0.0  # the sum of their log-normalisers

    def sum_over_processes(self, numbers: Tensor) -> Tensor:
        """Add up ``numbers``, in place."""
        if self.world_size > 1:
            dist.all_reduce(numbers)
        return numbers

    def share(self, totals: Tensor) -> Tensor:
        """Add up the processes' totals, count their samples, and see which classes there are.

        Raises:
            ValueError: on all processes, if one's totals are unusable.
        """
        bad = not bool(((totals >= 0) & (totals < math.inf)).all())
        told = self.sum_over_processes(torch.cat([totals, totals.new_tensor([len(self.scores), bad])]))
        totals, (count, bad) = told[:-2], told[-2:].tolist()
        if bad:
            raise ValueError("class_totals hold a negative number, NaN or inf: give finite numbers of at least 0")
        self.count = round(count)
        self.open = (totals > 0).nonzero().squeeze(1)
        if self.count and not len(self.open):
            raise ValueError("class_totals are all 0: give at least one class a total")
        if len(self.open) < len(totals):  # NaN in the other columns would not show
            self.refuse_bad_scores()
        return totals

    def refuse_bad_scores(self) -> None:
        """Raise a ValueError, on all processes, if one's scores hold NaN or +inf."""
        bad = any(not bool(block.amax() < math.inf) for block in self.blocks)
        if bool(self.sum_over_processes(torch.tensor(float(bad), device=self.scores.device))):
            raise ValueError("scores hold NaN or +inf: give 0.5 * (log f_N + log f), from log_softmax of finite logits")

    def check_reached(self, sums: Tensor) -> None:
        """Raise a ValueError, on all processes, if the labels' sums are not numbers."""
        if bool(sums.isnan().any()):
            self.refuse_bad_scores()
            raise ValueError(
                "a sample's scores are -inf at every class with a total above 0: give f_N a floor (min_prob=1e-8), or "
                "leave the sample out"
            )

    def rescaled(self, totals: Tensor) -> Tensor:
        """Totals that sum to the number of samples."""
        if self.count == 0:
            return totals
        mass = float(totals.sum())
        # every process gave the totals of its own samples, or every process gave those of all samples
        if min(abs(given / self.count - 1) for given in (mass, mass / self.world_size)) > RESCALING_TOLERANCE:
            message = f"class_totals sum to {mass:g}, but there are {self.count} samples: they are rescaled to that sum"
            warnings.warn(message, stacklevel=5)  # past the two decorators
        return totals * (self.count / mass)

    def softmax(self, block: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        """Labels ``(A, n)`` of a block of scores ``(n, C)``, and their log-normalisers ``(n,)``."""
        columns = block.T if len(self.open) == block.shape[1] else block.T[self.open]
        x = columns.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        x += potential.unsqueeze(1)
        largest = x.amax(0)
        x -= largest
        normalizer = x.exp_().sum(0)
        x *= normalizer.reciprocal()
        return x, normalizer.log_() + largest

    def labels_under(self, potential: Tensor) -> Iterator[Tensor]:
        """Labels ``(A, n)`` block by block, kept where there is room."""
        if self.is_near(potential):
            shift = (potential - self.reference).exp().unsqueeze(1)
            for labels in self.kept:
                labels *= shift
                normalizer = labels.sum(0)
                labels *= normalizer.reciprocal()
                self.normalizer += float(normalizer.log_().sum())
                yield labels
        else:
            self.kept.clear()
            self.normalizer = 0.0
            for block in self.blocks:
                labels, log_normalizer = self.softmax(block, potential)
                self.normalizer += float(log_normalizer.sum())
                if self.keeps:
                    self.kept.append(labels)
                yield labels
            self.origin = potential
        self.reference = potential

    def is_near(self, potential: Tensor) -> bool:
        """Whether labels kept under one potential tell those under another: none of weight underflowed."""
        return self.keeps and self.origin is not None and float((potential - self.origin).abs().max()) <= MAX_SHIFT

    def totals(self, potential: Tensor) -> Tensor:
        """The labels' sums ``(A,)`` under a potential."""
        return self.totals_and_normalizer(potential, wanted=False)[0]

    def totals_and_normalizer(self, potential: Tensor, *, wanted: bool = True) -> tuple[Tensor, float]:
        """The same, and the sum of the log-normalisers where it is wanted."""
        sums = potential.new_zeros(len(potential) + 1)
        if self.is_near(potential):
            shift = (potential - self.reference).exp()
            for labels in self.kept:
                normalizer = shift @ labels
                sums[:-1].addmv_(labels, normalizer.reciprocal())
                if wanted:
                    sums[-1] += normalizer.log_().sum()
            sums[:-1] *= shift
            sums[-1] += self.normalizer
        else:
            for labels in self.labels_under(potential):
                sums[:-1] += labels.sum(1)
            sums[-1] = self.normalizer
        self.sum_over_processes(sums)
        return sums[:-1], float(sums[-1])

    def gram_and_normalizer(self, potential: Tensor) -> tuple[Tensor, float]:
        """``(A, A)`` sums of the labels' products :math:`Q^T Q`, and the sum of the log-normalisers."""
        products = potential.new_zeros(len(potential) + 1, len(potential))
        for labels in self.labels_under(potential):
            products[:-1].addmm_(labels, labels.T)
        products[-1, 0] = self.normalizer
        self.sum_over_processes(products)
        return products[:-1], float(products[-1, 0])

    def log_totals(self, potential: Tensor, which: Tensor) -> Tensor:
        """Logarithms of the totals at the places ``which``, however small these are."""
        sums = potential.new_full((len(which),), -math.inf)
        for block in self.blocks:
            _, log_normalizer = self.softmax(block, potential)
            columns = block[:, self.open[which]].to(torch.float64) + potential[which]
            sums = torch.logaddexp(sums, (columns - log_normalizer.unsqueeze(1)).logsumexp(0))
        if self.world_size > 1:
            gathered = [torch.empty_like(sums) for _ in range(self.world_size)]
            dist.all_gather(gathered, sums)
            sums = torch.stack(gathered).logsumexp(0)
        return sums

    def labels(self, potential: Tensor, *, keep: bool = True) -> tuple[Tensor, Tensor]:
        """The labels ``(N, C)`` of this process's samples, none unless kept, and the sums ``(C,)`` over all."""
        num_classes = self.scores.shape[1]
        labels = self.scores.new_empty(self.scores.shape if keep else (0, num_classes), dtype=self.label_dtype)
        sums = potential.new_zeros(num_classes)
        rows = iter(torch.split(labels, self.block_rows))
        for block in self.labels_under(potential):
            rounded = block.to(self.label_dtype)
            sums.index_add_(0, self.open, rounded.sum(1, dtype=torch.float64))
            if keep and len(self.open) == num_classes:
                next(rows).copy_(rounded.T)
            elif keep:
                next(rows).zero_().index_copy_(1, self.open, rounded.T)
        return labels, self.sum_over_processes(sums)


class _Ascent:
    r"""The way up the concave dual :math:`b \cdot g - \sum_i \log \sum_c e^{s_{ic} + g_c}`.

    With a relaxation t the totals aimed at give way, :math:`a_c \propto b_c e^{-g_c / t}` with sum N, and the first
    term is :math:`-t N \log \sum_c (b_c / N) e^{-g_c / t}`. Either way the gradient is aim minus labels' sums.
    """

    def __init__(self, samples: _Samples, totals: Tensor, inverse_relaxation: float) -> None:
        self.samples = samples
        self.log_totals = totals.log()
        self.softness = inverse_relaxation
        self.iterations = 0
        self.damping = 1e-3
        self.best_error = math.inf

    def log_aim(self, potential: Tensor) -> Tensor:
        """The logarithms of the totals that this potential should reach."""
        if self.softness == 0:
            return self.log_totals
        return (self.log_totals - self.softness * potential).log_softmax(0) + math.log(self.samples.count)

    def aim(self, potential: Tensor) -> Tensor:
        """The totals that this potential should reach."""
        return self.log_aim(potential).exp()

    def dual(self, potential: Tensor, normalizer: float) -> float:
        """The dual objective, but for a constant."""
        if self.softness == 0:
            return float(self.log_totals.exp() @ potential) - normalizer
        mass = (self.log_totals - self.softness * potential).logsumexp(0)
        return -self.samples.count / self.softness * float(mass) - normalizer

    def move(self, potential: Tensor, reached: Tensor) -> None:
        """Stand at a potential whose labels sum to ``reached``."""
        self.potential, self.reached = potential, reached
        self.error = self.error_of(potential, reached)
        if self.error < self.best_error:
            self.best, self.best_error = potential, self.error

    def error_of(self, potential: Tensor, reached: Tensor) -> float:
        """The distance of the labels' sums to the aim, per sample."""
        return float((self.aim(potential) - reached).abs().sum()) / self.samples.count

    def run(self, start: Tensor, tol: float, max_iter: int) -> None:
        """Climb until the error is at most ``tol``, rounding stops it, or ``max_iter`` potentials were tried."""
        self.best = start - start.mean()
        self.move(self.best, self.samples.totals(self.best))
        self.samples.check_reached(self.reached)
        errors = [self.error]  # of Sinkhorn steps in a row
        newton = False
        standstills, mark = 0, self.error
        while self.error > tol and self.iterations < max_iter and standstills < MAX_STANDSTILLS:
            newton = newton or self.forecasts_newton(errors)
            if newton:
                newton = self.newton_step(max_iter)
                errors = [self.error]
            else:
                self.sinkhorn_step()
                # In exact arithmetic the error never rises. It may stand still on the way, but not at the end of it.
                standstills += errors[-1] <= self.error < ROUNDING
                errors.append(self.error)
            if self.error < 0.99 * mark:
                standstills, mark = 0, self.error

    def log_gap(self) -> Tensor:
        """The logarithm of each aim over what is reached."""
        log_reached = self.reached.log()
        tiny = (self.reached < SMALLEST_TOTAL).nonzero().squeeze(1)
        if len(tiny):
            log_reached[tiny] = self.samples.log_totals(self.potential, tiny)
            if bool(log_reached.isneginf().any()):
                raise ValueError(
                    "a class with a total above 0 is forbidden to every sample: give f_N a floor (min_prob=1e-8), or "
                    "the class a total of 0"
                )
        return self.log_aim(self.potential) - log_reached

    def sinkhorn_step(self) -> None:
        """The best next potential for the samples' scaling as it is."""
        potential = self.potential + self.log_gap() / (1 + self.softness)
        potential -= potential.mean()
        self.iterations += 1
        self.move(potential, self.samples.totals(potential))

    def forecasts_newton(self, errors: list[float]) -> bool:
        """Whether Newton's steps are the cheaper way to six more digits, going by the rate of the Sinkhorn steps.

        It does not look at ``tol``, so that a smaller tolerance follows the same path further.
        """
        num_classes = len(self.potential)
        if len(errors) <= PLAIN_STEPS or num_classes > MAX_NEWTON_CLASSES or num_classes == 1:
            return False
        rate = math.sqrt(errors[-1] / errors[-3])
        plain_steps = math.inf if rate >= 1 else math.log(1e6) / -math.log(max(rate, 1e-300))
        return plain_steps > NEWTON_STEPS * (3 + num_classes / 25) and float(self.log_gap().abs().max()) < MAX_LOG_GAP

    def newton_step(self, max_iter: int) -> bool:
        """A damped Newton step, if one makes the dual rise; each trial counts as an iteration."""
        gram, normalizer = self.samples.gram_and_normalizer(self.potential)
        value = self.dual(self.potential, normalizer)
        noise = 8 * torch.finfo(torch.float64).eps * (abs(normalizer) + self.samples.count)
        aim = self.aim(self.potential)
        # Scaled by the roots of its diagonal, the Hessian's null direction is these roots.
        scale = (self.reached + self.softness * aim).sqrt()
        hessian = torch.diag(self.reached + self.softness * aim) - gram
        hessian -= (self.softness / self.samples.count) * torch.outer(aim, aim)
        hessian = hessian / torch.outer(scale, scale) + torch.outer(scale, scale) / scale.square().sum()
        gradient = (aim - self.reached) / scale
        for _ in range(min(MAX_TRIALS, max_iter - self.iterations)):
            damped = hessian.clone()
            damped.diagonal().add_(self.damping * min(1.0, self.error))
            factor, failed = torch.linalg.cholesky_ex(damped)
            step = torch.cholesky_solve(gradient.unsqueeze(1), factor).squeeze(1) / scale
            largest = float(step.abs().max())
            if not failed and largest < math.inf:
                potential = self.potential + step * min(1.0, MAX_STEP / largest)
                potential -= potential.mean()
                self.iterations += 1
                reached, normalizer = self.samples.totals_and_normalizer(potential)
                rise = self.dual(potential, normalizer) - value
                if rise > noise or (rise >= -noise and self.error_of(potential, reached) < 0.9 * self.error):
                    self.damping = max(self.damping / 10, 1e-12)
                    self.move(potential, reached)
                    return True
            self.damping *= 10
        return False


def _check_scores(scores: Tensor, num_classes: int) -> None:
    if not scores.is_floating_point():
        raise ValueError(f"scores are {scores.dtype}: give floating-point numbers")
    if scores.ndim != 2 or scores.shape[1] != num_classes:
        raise ValueError(f"scores have shape {tuple(scores.shape)}: give (N, {num_classes}), a column for each class")


def _check_arguments(
    scores: Tensor,
    class_totals: Tensor,
    tol: float,
    max_iter: int,
    start: Tensor | None,
    relaxation: float | None,
) -> None:
    if class_totals.ndim != 1 or len(class_totals) == 0:
        raise ValueError(f"class_totals have shape {tuple(class_totals.shape)}: give (C,), one number for each class")
    _check_scores(scores, len(class_totals))
    if start is not None and start.shape != class_totals.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}: give {tuple(class_totals.shape)}, a potential")
    if not tol > 0:
        raise ValueError(f"tol is {tol}: give a number above 0")
    if max_iter < 0:
        raise ValueError(f"max_iter is {max_iter}: give at least 0")
    if relaxation is not None and not relaxation > 0:
        raise ValueError(f"relaxation is {relaxation}: give a number above 0, or None to ask for the totals exactly")
