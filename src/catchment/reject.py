"""Abstaining with a guarantee: from which unknown score on to say "I don't know".

A prediction is accepted where its score is at most a threshold. Two promises are on offer, and they differ in kind:

* ``selective_risk_threshold``: with probability 1 - delta over the calibration samples, the share of wrong ones *among
  accepted predictions* is at most max_risk. Fixed-sequence testing with Clopper-Pearson bounds.
* ``conformal_threshold``: *in expectation* over the calibration samples and a new one, the share of new samples that
  are *accepted and wrong* is at most max_error. Conformal risk control.

Both hold for every score and every distribution, if the calibration samples are drawn independently from the one that
new samples come from, took no part in training or in choosing the model, and have right labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom

# The first candidate accepts so many times the samples that could show the risk if all of them were right: with fewer,
# one unlucky sample ends the sequence before it begins; with more, small sets are never accepted.
_FIRST_CANDIDATE = 2
_NUM_CANDIDATES = 50
# One in so many calibration samples fixes the candidates by its score; the others test them.
_ONE_IN = 5


@dataclass(frozen=True)
class Acceptance:
    """A threshold, and what it was found from.

    Args:
        threshold: accept where the score is at most this; -inf accepts nothing, inf everything.
        promise: what holds for new samples, in a sentence.
        calibration_samples: how many samples it was judged on.
        accepted: how many of them it accepts.
        wrong: how many of the accepted are wrong.
    """

    threshold: float
    promise: str
    calibration_samples: int
    accepted: int
    wrong: int

    def accepts(self, score: ArrayLike) -> NDArray[np.bool_]:
        """Which samples are accepted ``(N,)``; one whose score is NaN is not."""
        accepted: NDArray[np.bool_] = np.asarray(score) <= self.threshold
        return accepted

    @property
    def coverage(self) -> float:
        """Share of the calibration samples that is accepted."""
        return self.accepted / self.calibration_samples

    @property
    def risk(self) -> float:
        """Share of wrong ones among the accepted calibration samples; NaN where none is accepted."""
        return self.wrong / self.accepted if self.accepted else math.nan


def selective_risk_threshold(
    score: ArrayLike,
    wrong: ArrayLike,
    *,
    max_risk: float,
    delta: float = 0.1,
    thresholds: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> Acceptance:
    r"""The largest threshold whose risk among accepted samples is shown to be at most ``max_risk``.

    The risk is :math:`R(t) = P(\text{wrong} \mid \text{score} \le t)`. The candidates are tested from the strictest on,
    each at level delta, until the first that fails: the n samples accepted at t, k of them wrong, reject R(t) >
    max_risk if the Clopper-Pearson upper bound of k out of n at level 1 - delta is at most max_risk. The last one that
    passed is taken, so that

    .. math:: P\big(R(\hat t) \le \text{max\_risk}\big) \ge 1 - \delta,

    since a wrong threshold is taken only if the first wrong one of the sequence passes. That needs candidates that
    don't depend on the samples that test them. By default a fifth of the samples, drawn by ``rng``, fixes them at 50
    quantiles of its scores, and the others test.

    Fixed-sequence testing and selective risk: Angelopoulos et al., Learn then Test, 2021; Geifman and El-Yaniv,
    Selective Classification for Deep Neural Networks, NeurIPS 2017.

    Args:
        score: ``(N,)`` of calibration samples, higher = more likely wrong or unknown; any real numbers.
        wrong: ``(N,)`` whether each prediction is wrong.
        max_risk: between 0 and 1.
        delta: between 0 and 1, how likely the promise may fail over draws of the calibration samples.
        thresholds: candidates, fixed without looking at these samples; all samples then test.
        rng: draws the fifth; None draws the same one each time.

    Returns:
        The threshold; it is -inf, "accept nothing", where no candidate passes.

    Raises:
        ValueError: there are too few samples to show such a risk even if all were right, or an argument is out of
            range.

    >>> rng = np.random.default_rng(0)
    >>> score = rng.uniform(size=2000)
    >>> found = selective_risk_threshold(score, rng.uniform(size=2000) < score**3, max_risk=0.05, delta=0.1)
    >>> found.risk < 0.05, 0.4 < found.coverage < 0.6
    (True, True)
    """
    scores, wrongs = _checked(score, wrong)
    _check_share("max_risk", max_risk)
    _check_share("delta", delta)
    needed = _samples_needed(max_risk, delta)
    if thresholds is None:
        order = (rng or np.random.default_rng(0)).permutation(len(scores))
        fixing, testing = np.split(order, [math.ceil(len(scores) / _ONE_IN)])
        to_give = needed + math.ceil(needed / (_ONE_IN - 1))
        _check_enough(len(scores), len(testing), to_give, needed, max_risk, delta)
        candidates = _candidates(scores[fixing], _FIRST_CANDIDATE * needed / len(testing))
        scores, wrongs = scores[testing], wrongs[testing]
    else:
        _check_enough(len(scores), len(scores), needed, needed, max_risk, delta)
        candidates = np.unique(np.asarray(thresholds, dtype=np.float64))
        if np.isnan(candidates).any():
            raise ValueError("thresholds hold NaN: give numbers")
    accepted = np.searchsorted(np.sort(scores), candidates, side="right")
    accepted_wrong = np.searchsorted(np.sort(scores[wrongs]), candidates, side="right")
    # upper bound <= max_risk  <=>  P(Binomial(n, max_risk) <= k) <= delta
    failed = np.flatnonzero(binom.cdf(accepted_wrong, accepted, max_risk) > delta)
    passed = int(failed[0]) if failed.size else len(candidates)
    promise = (
        f"with probability {1 - delta:g} over the draw of the calibration samples, at most {max_risk:.3g} of the "
        "accepted predictions are wrong"
    )
    if passed == 0:
        return Acceptance(-math.inf, promise, len(scores), 0, 0)
    last = passed - 1
    return Acceptance(float(candidates[last]), promise, len(scores), int(accepted[last]), int(accepted_wrong[last]))


def risk_upper_bound(wrong: int, accepted: int, delta: float) -> float:
    """Clopper-Pearson: the risk is at most this with probability 1 - delta, after so many wrong of the accepted.

    >>> round(risk_upper_bound(0, 45, 0.1), 4)  # 1 - 0.1 ** (1 / 45)
    0.0499
    """
    _check_share("delta", delta)
    if not 0 <= wrong <= accepted:
        raise ValueError(f"{wrong} wrong of {accepted} accepted: give counts with 0 <= wrong <= accepted")
    return 1.0 if wrong == accepted else float(beta.ppf(1 - delta, wrong + 1, accepted - wrong))


def conformal_threshold(score: ArrayLike, wrong: ArrayLike, *, max_error: float) -> Acceptance:
    r"""The largest threshold that keeps the share of accepted *and* wrong samples at most ``max_error`` in expectation.

    Conformal risk control with the loss 1[wrong and score <= t], which grows with t:

    .. math:: \hat t = \sup\Big\{t : \frac{1 + \sum_i 1[\text{wrong}_i, s_i \le t]}{N + 1} \le \text{max\_error}\Big\}.

    Then P(a new sample is accepted and wrong) <= max_error, over the draw of the calibration samples *and* the new one.
    That is no promise for these calibration samples, and none on the share of wrong ones among the accepted, which is
    larger by 1 / coverage; for that take ``selective_risk_threshold``.

    Paper: Angelopoulos, Bates, Fisch, Lei, Schuster, Conformal Risk Control, ICLR 2024.

    Args:
        score: ``(N,)`` of calibration samples, higher = more likely wrong or unknown; any real numbers.
        wrong: ``(N,)`` whether each prediction is wrong.
        max_error: between 0 and 1.

    Raises:
        ValueError: there are fewer than 1 / max_error - 1 samples, or an argument is out of range.

    >>> conformal_threshold([0.1, 0.2, 0.3, 0.4], [False, True, False, True], max_error=0.4).accepts([0.3, 0.4])
    array([ True, False])
    """
    scores, wrongs = _checked(score, wrong)
    _check_share("max_error", max_error)
    # rounded first, so that 0.2 * (9 + 1) allows 1
    allowed = math.floor(round(max_error * (len(scores) + 1), 9)) - 1
    if allowed < 0:
        raise ValueError(
            f"{len(scores)} calibration samples can't keep the error at {max_error:g}: "
            f"give at least {math.ceil(round(1 / max_error - 1, 9))}, or raise max_error"
        )
    of_wrong = np.sort(scores[wrongs])
    # just below the first wrong sample too many
    threshold = math.inf if allowed >= len(of_wrong) else float(np.nextafter(of_wrong[allowed], -math.inf))
    accepted = scores <= threshold
    promise = f"in expectation, at most {max_error:.3g} of all predictions are both accepted and wrong"
    return Acceptance(threshold, promise, len(scores), int(accepted.sum()), int((accepted & wrongs).sum()))


def _candidates(scores: NDArray[np.float64], first: float) -> NDArray[np.float64]:
    """Quantiles of the scores from the share ``first`` on; the last, and with few samples the only, accepts all."""
    shares = np.linspace(first, 1.0, _NUM_CANDIDATES)[: -1 if first < 1 else 0]
    quantiles = np.quantile(scores, shares, method="inverted_cdf")
    return np.unique(np.append(quantiles, math.inf))


def _samples_needed(max_risk: float, delta: float) -> int:
    """The fewest samples that show the risk if none of them is wrong: (1 - max_risk)^n <= delta."""
    return math.ceil(round(math.log(delta) / math.log1p(-max_risk), 9))


def _check_enough(given: int, testing: int, to_give: int, needed: int, max_risk: float, delta: float) -> None:
    if testing < needed:
        raise ValueError(
            f"{given} calibration samples can't show a risk of at most {max_risk:g} with probability {1 - delta:g}: "
            f"give at least {to_give}, or raise max_risk or delta"
        )


def _checked(score: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, wrongs = np.asarray(score, dtype=np.float64), np.asarray(wrong)
    if scores.ndim != 1 or scores.shape != wrongs.shape:
        raise ValueError(f"score has shape {scores.shape} and wrong {wrongs.shape}: give one number for each sample")
    if np.isnan(scores).any():
        raise ValueError("score holds NaN: leave those samples out")
    if not np.isin(wrongs, (0, 1)).all():
        raise ValueError("wrong holds more than True and False: say of each prediction whether it is wrong")
    return scores, wrongs.astype(bool)


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}: give a number between 0 and 1")
