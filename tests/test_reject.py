"""Thresholds with a promise: the arithmetic by hand and against others, then the promise itself by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from catchment.reject import Acceptance, conformal_threshold, risk_upper_bound, selective_risk_threshold

DRAWS = 1000
grid = (np.arange(20_000) + 0.5) / 20_000

# How likely a prediction is wrong, given its score, which is uniform on 0..1.
WORLDS = {
    "good score": lambda s: 0.5 * s**3,
    "floor of errors": lambda s: 0.02 + 0.4 * s**2,
    "useless score, risk just above": lambda s: np.full_like(s, 0.0501),
    "useless score, risk far above": lambda s: np.full_like(s, 0.2),
    "best in the middle": lambda s: np.where((s > 0.3) & (s < 0.6), 0.0, 0.12),
    "turned round": lambda s: 0.5 * (1 - s) ** 3,
}


def draw(world, n, rng):
    score = rng.uniform(size=n)
    return score, rng.uniform(size=n) < WORLDS[world](score)


def true_risk(world, threshold):
    """P(wrong | score <= threshold), by quadrature."""
    accepted = WORLDS[world](grid)[grid <= threshold]
    return accepted.mean() if accepted.size else 0.0


class TestClopperPearson:
    @pytest.mark.parametrize(("wrong", "accepted"), [(0, 1), (0, 45), (3, 60), (17, 400), (60, 60)])
    @pytest.mark.parametrize("delta", [0.01, 0.1, 0.5])
    def test_scipys_exact_interval(self, wrong, accepted, delta):
        # a two-sided interval at 1 - 2 delta has the one-sided bounds at 1 - delta
        expected = binomtest(wrong, accepted).proportion_ci(max(1 - 2 * delta, 1e-12), "exact").high
        assert risk_upper_bound(wrong, accepted, delta) == pytest.approx(expected, abs=1e-6)

    def test_by_hand(self):
        assert risk_upper_bound(0, 10, 0.05) == pytest.approx(1 - 0.05**0.1)
        assert risk_upper_bound(0, 0, 0.1) == 1

    def test_more_wrong_than_accepted(self):
        with pytest.raises(ValueError, match="0 <= wrong <= accepted"):
            risk_upper_bound(3, 2, 0.1)


class TestSelectiveRisk:
    @pytest.mark.parametrize("world", WORLDS)
    @pytest.mark.parametrize("delta", [0.1, 0.02])
    def test_the_promise_is_broken_at_most_delta_of_the_time(self, world, delta):
        rng = np.random.default_rng(1)
        broken = 0
        for _ in range(DRAWS):
            found = selective_risk_threshold(*draw(world, 500, rng), max_risk=0.05, delta=delta, rng=rng)
            broken += true_risk(world, found.threshold) > 0.05
        assert broken / DRAWS <= delta + 3 * math.sqrt(delta * (1 - delta) / DRAWS)

    def test_the_obvious_threshold_breaks_it_far_more_often(self):
        """The largest threshold whose risk on the calibration samples is low enough: what the simulation must catch."""
        rng = np.random.default_rng(1)
        broken = 0
        for _ in range(200):
            score, wrong = draw("good score", 500, rng)
            order = np.argsort(score)
            fits = np.flatnonzero(np.cumsum(wrong[order]) / np.arange(1, 501) <= 0.05)
            broken += true_risk("good score", score[order][fits[-1]]) > 0.05
        assert broken / 200 > 0.3

    def test_it_accepts_most_of_what_could_be_accepted(self):
        rng = np.random.default_rng(2)
        best = 0.4 ** (1 / 3)  # 0.5 t^3 / 4 = 0.05
        found = [
            selective_risk_threshold(*draw("good score", 2000, rng), max_risk=0.05, rng=rng).coverage for _ in range(50)
        ]
        assert 0.85 * best < np.mean(found) < best

    def test_ties(self):
        """A score of few values: a threshold takes all samples of a value or none."""
        rng = np.random.default_rng(3)
        delta, broken = 0.1, 0
        for _ in range(DRAWS):
            score = rng.integers(0, 4, size=400)
            wrong = rng.uniform(size=400) < np.array([0.01, 0.04, 0.2, 0.4])[score]
            found = selective_risk_threshold(score, wrong, max_risk=0.05, delta=delta, rng=rng)
            risk = np.array([0.0, 0.01, 0.025, 0.25 / 3, 0.65 / 4])[int(found.accepts(np.arange(4)).sum())]
            broken += risk > 0.05
        assert broken / DRAWS <= delta + 3 * math.sqrt(delta * (1 - delta) / DRAWS)

    def test_by_hand(self):
        # 45 right ones show 5 % at 0.1, one wrong among 77 does (P(Bin(77, 0.05) <= 1) = 0.097), among 76 it does not
        score, wrong = np.arange(200.0), np.zeros(200, dtype=bool)
        wrong[[60, 120, 121, 122, 123, 124, 125]] = True
        found = selective_risk_threshold(score, wrong, max_risk=0.05, delta=0.1, thresholds=[44, 76, 100, 130, 199])
        assert (found.threshold, found.accepted, found.wrong) == (100, 101, 1)
        assert found.coverage == 101 / 200
        assert found.risk == 1 / 101
        assert found.accepts([100, 100.5, np.nan]).tolist() == [True, False, False]
        for first, passes in ((43, False), (44, True), (75, False), (76, True)):
            found = selective_risk_threshold(score, wrong, max_risk=0.05, delta=0.1, thresholds=[first])
            assert (found.threshold == first) is passes

    def test_the_sequence_ends_at_the_first_failure(self):
        score, wrong = np.arange(1000.0), np.zeros(1000, dtype=bool)
        wrong[45:50] = True
        sequence = selective_risk_threshold(score, wrong, max_risk=0.05, thresholds=[44, 60, 999])
        assert sequence.threshold == 44
        assert selective_risk_threshold(score, wrong, max_risk=0.05, thresholds=[999]).threshold == 999

    def test_all_right_accepts_everything_and_all_wrong_nothing(self):
        score = np.random.default_rng(0).normal(size=300)
        everything = selective_risk_threshold(score, np.zeros(300), max_risk=0.05)
        assert (everything.threshold, everything.coverage, everything.risk) == (math.inf, 1, 0)
        nothing = selective_risk_threshold(score, np.ones(300), max_risk=0.05)
        assert (nothing.threshold, nothing.coverage) == (-math.inf, 0)
        assert math.isnan(nothing.risk)
        assert not nothing.accepts(score).any()

    @pytest.mark.filterwarnings("ignore::UserWarning:mapie")
    def test_mapies_fixed_sequence_finds_the_same_thresholds(self):
        """Precision among "positives" is 1 - risk among the accepted, if the positives are the right predictions."""
        from mapie.risk_control import BinaryClassificationController

        rng = np.random.default_rng(4)
        thresholds = np.linspace(0.1, 0.95, 18)
        found = []
        for _ in range(10):
            score, wrong = draw("good score", 400, rng)
            controller = BinaryClassificationController(
                lambda X: np.column_stack([X, 1 - X]),
                risk="precision",
                target_level=0.9,
                confidence_level=0.9,
                list_predict_params=1 - thresholds,
                fwer_method="fixed_sequence",
            )
            controller.calibrate(score, (~wrong).astype(int))
            valid = controller.valid_predict_params
            ours = selective_risk_threshold(score, wrong, max_risk=0.1, delta=0.1, thresholds=thresholds)
            assert ours.threshold == pytest.approx(1 - min(valid) if len(valid) else -math.inf)
            found.append(ours.threshold)
        assert len(set(found)) > 2

    def test_any_increasing_change_of_the_score_accepts_the_same_samples(self):
        rng = np.random.default_rng(5)
        score, wrong = draw("good score", 600, rng)
        plain, changed = (selective_risk_threshold(s, wrong, max_risk=0.05) for s in (score, np.log(score) * 7 - 3))
        assert plain.coverage > 0.3
        np.testing.assert_array_equal(plain.accepts(score), changed.accepts(np.log(score) * 7 - 3))

    def test_infinite_scores_are_ranks_like_others(self):
        rng = np.random.default_rng(6)
        score, wrong = draw("good score", 600, rng)
        score = np.where(score > 0.9, np.inf, np.where(score < 0.1, -np.inf, score))
        found = selective_risk_threshold(score, wrong, max_risk=0.05)
        assert found.accepts([-np.inf, 0.2, np.inf]).tolist() == [True, True, False]

    @pytest.mark.parametrize(
        ("n", "max_risk", "delta", "needed"),
        # ln(delta) / ln(1 - max_risk) samples, all right, and a quarter more to fix the candidates
        [(40, 0.05, 0.1, 57), (200, 0.01, 0.1, 288), (3, 0.5, 0.05, 7)],
    )
    def test_too_few_samples(self, n, max_risk, delta, needed):
        with pytest.raises(ValueError, match=f"give at least {needed}, or raise max_risk or delta"):
            selective_risk_threshold(np.arange(n), np.zeros(n), max_risk=max_risk, delta=delta)
        with pytest.raises(ValueError, match="give at least"):
            selective_risk_threshold(np.arange(needed - 1), np.zeros(needed - 1), max_risk=max_risk, delta=delta)
        enough = selective_risk_threshold(np.arange(needed), np.zeros(needed), max_risk=max_risk, delta=delta)
        assert enough.coverage == 1


class TestConformal:
    @given(
        st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40),
        st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9]),
    )
    @settings(max_examples=150, deadline=None)
    def test_the_definition(self, samples, max_error):
        score, wrong = (np.array(column) for column in zip(*samples, strict=True))
        n = len(score)

        def fits(threshold):
            return (1 + (wrong & (score <= threshold)).sum()) / (n + 1) <= max_error + 1e-12

        if not fits(-1):
            with pytest.raises(ValueError, match="or raise max_error"):
                conformal_threshold(score, wrong, max_error=max_error)
            return
        expected = [t for t in range(-1, 9) if fits(t)][-1]
        found = conformal_threshold(score, wrong, max_error=max_error)
        np.testing.assert_array_equal(found.accepts(np.arange(9)), np.arange(9) <= expected)

    @pytest.mark.parametrize("world", ["good score", "floor of errors", "useless score, risk far above"])
    def test_in_expectation_over_draws(self, world):
        rng = np.random.default_rng(7)
        errors = []
        for _ in range(DRAWS):
            found = conformal_threshold(*draw(world, 99, rng), max_error=0.05)
            errors.append(true_risk(world, found.threshold) * min(found.threshold, 1))
        mean, spread = np.mean(errors), 3 * np.std(errors) / math.sqrt(DRAWS)
        assert mean <= 0.05 + spread
        assert mean >= 0.035, "and it is not needlessly strict"
        assert np.mean(np.array(errors) > 0.05) > 0.2, "single draws may be above: the promise is of the mean"

    def test_says_that_it_is_an_expectation(self):
        assert conformal_threshold(np.arange(20), np.zeros(20), max_error=0.1).promise.startswith("in expectation")
        found = selective_risk_threshold(np.arange(99), np.zeros(99), max_risk=0.1)
        assert found.promise.startswith("with probability 0.9")

    def test_too_few_samples(self):
        with pytest.raises(ValueError, match="give at least 19, or raise max_error"):
            conformal_threshold(np.arange(18), np.zeros(18), max_error=0.05)
        assert conformal_threshold(np.arange(19), np.zeros(19), max_error=0.05).coverage == 1


@pytest.mark.parametrize(
    ("score", "wrong", "message"),
    [
        ([0.1, np.nan], [0, 1], "score holds NaN"),
        ([0.1, 0.2], [0], "one number for each sample"),
        ([[0.1, 0.2]], [[0, 1]], "one number for each sample"),
        ([0.1, 0.2], [0, 2], "more than True and False"),
    ],
)
def test_refused(score, wrong, message):
    with pytest.raises(ValueError, match=message):
        selective_risk_threshold(score, wrong, max_risk=0.1)
    with pytest.raises(ValueError, match=message):
        conformal_threshold(score, wrong, max_error=0.1)


@pytest.mark.parametrize("value", [0, 1, -0.1, 5, math.nan])
def test_shares_out_of_range(value):
    score, wrong = np.arange(100), np.zeros(100)
    for call in (
        lambda: selective_risk_threshold(score, wrong, max_risk=value),
        lambda: selective_risk_threshold(score, wrong, max_risk=0.1, delta=value),
        lambda: conformal_threshold(score, wrong, max_error=value),
    ):
        with pytest.raises(ValueError, match="give a number between 0 and 1"):
            call()
    with pytest.raises(ValueError, match="thresholds hold NaN"):
        selective_risk_threshold(score, wrong, max_risk=0.1, thresholds=[0.1, np.nan])


def test_acceptance_of_nothing():
    nothing = Acceptance(-math.inf, "", 10, 0, 0)
    assert nothing.coverage == 0
    assert not nothing.accepts([-1e300]).any()
