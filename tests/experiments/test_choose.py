"""Choosing by noisy validation: the statistics by hand, whether it finds what is better, and where it is misled."""

import json
import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from catchment import cli
from catchment.experiments.choose import Candidate, Choice, Difference, choose, describe, paired_difference
from catchment.experiments.run import RunConfig
from catchment.methods import parse_objective
from catchment.training.config import TrainingConfig


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """Four overlapping blobs, their labels clean: 600 samples."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 4
    X = rng.normal(size=(600, 6)) + 2.2 * np.eye(4, 6)[y]
    path = tmp_path_factory.mktemp("choose") / "blobs.npz"
    np.savez(path, X=X, y=y)
    return path


def config(blobs, noise, **settings):
    training = {"epochs": 6, "threads": 1, "device": "cpu", "seed": 0, **settings}
    return RunConfig(data=str(blobs), noise=noise, validation=0.25, training=TrainingConfig(**training))


class TestPairedDifference:
    def test_without_overlap_it_is_the_paired_t_test(self):
        differences = np.array([0.02, -0.01, 0.03, 0.01, 0.04])
        mean, error, p = paired_difference(differences, validation=1e-12)
        expected = ttest_1samp(differences, 0, alternative="greater")
        assert (mean, p) == (pytest.approx(differences.mean()), pytest.approx(expected.pvalue, rel=1e-6))
        assert error == pytest.approx(differences.std(ddof=1) / math.sqrt(5), rel=1e-6)

    def test_overlap_makes_it_less_sure(self):
        differences = np.array([0.02, -0.01, 0.03, 0.01, 0.04])
        errors, ps = zip(*(paired_difference(differences, v)[1:] for v in (0.1, 0.2, 0.5)), strict=True)
        assert list(errors) == sorted(errors)
        assert list(ps) == sorted(ps)
        assert errors[1] == pytest.approx(differences.std(ddof=1) * math.sqrt(1 / 5 + 0.25))

    @pytest.mark.parametrize(("difference", "p"), [(0.0, 0.5), (0.1, 0.0), (-0.1, 1.0)])
    def test_the_same_in_every_split(self, difference, p):
        assert paired_difference(np.full(4, difference), 0.2)[2] == p


class TestVerdict:
    def choice(self, *p_values):
        names = [f"objective-{i}" for i in range(len(p_values) + 1)]
        candidates = tuple(Candidate(name, {}, np.array([0.5, 0.6]), None) for name in names)
        differences = tuple(Difference(n, 0.1, 0.1, p) for n, p in zip(names[1:], p_values, strict=True))
        return Choice(candidates, differences)

    def test_clear(self):
        choice = self.choice(0.01, 0.024)
        assert choice.tied == ()
        assert choice.verdict().startswith("take objective-0: it is ahead of each other candidate")

    def test_not_clear(self):
        # 0.03 is below 0.05, but not below 0.05 over two rivals
        assert self.choice(0.01, 0.03).tied == ("objective-2",)
        assert "not clearly ahead of objective-2" in self.choice(0.01, 0.03).verdict()


def test_under_symmetric_noise_it_finds_what_learns(blobs):
    """An objective that can't learn in 6 epochs (alpha = 1e-6 puts all mass on drainage) is left behind."""
    heard = []
    found = choose(
        config(blobs, "symmetric:0.3"),
        [("drainage", {"alpha": 1e-6}), ("drainage", {"alpha": 1.0}), ("cross-entropy", {})],
        splits=4,
        on_run=lambda *row: heard.append(row),
    )
    assert found.candidates[-1].name == "drainage:alpha=1e-06"
    assert found.chosen.accuracy.mean() < 0.75, "30 % of the validation labels are wrong"
    assert found.chosen.clean_accuracy.mean() > 0.78
    assert found.differences[-1].p_value < 0.01
    assert len(heard) == 12
    assert heard[1][:2] == ("drainage:alpha=1", 0)


def test_symmetric_noise_keeps_the_order(blobs):
    """noisy accuracy = (1 - r) a + r / (C - 1) (1 - a), with a the clean one: what is better stays better."""
    found = choose(config(blobs, "symmetric:0.3"), [("cross-entropy", {}), ("drainage", {"alpha": 1.0})], splits=3)
    for candidate in found.candidates:
        expected = 0.7 * candidate.clean_accuracy.mean() + 0.1 * (1 - candidate.clean_accuracy.mean())
        assert candidate.accuracy.mean() == pytest.approx(expected, abs=0.06)


def test_noise_that_depends_on_the_class_misleads_it(blobs):
    """Most of class 0 is called 1: what learns that wins on noisy labels, and loses on clean ones."""
    noisy = RunConfig(
        data=str(blobs),
        noise="asymmetric:0.7",
        mapping="0:1",
        validation=0.25,
        training=TrainingConfig(epochs=12, threads=1, device="cpu"),
    )
    found = choose(noisy, [("cross-entropy", {}), ("drainage", {"alpha": 1e-6})], splits=3)
    assert found.chosen.name == "cross-entropy"
    right = found.chosen.clean_accuracy.mean()
    assert found.chosen.accuracy.mean() > right + 0.05, "it looks better than it is"


def test_the_same_seed_gives_the_same_choice(blobs):
    candidates = [("cross-entropy", {}), ("drainage", {"alpha": 1.0})]
    one, two = (choose(config(blobs, None, epochs=2), candidates, splits=2).to_dict() for _ in range(2))
    assert one == two
    assert one["candidates"][0]["clean_accuracy"] is None


@pytest.mark.parametrize(
    ("candidates", "settings", "message"),
    [
        ([("cross-entropy", {})], {}, "give at least two, each of them once"),
        ([("drainage", {}), ("drainage", {})], {}, "give at least two, each of them once"),
        ([("drainage", {}), ("drainag", {})], {}, "there is no objective 'drainag'"),
        ([("drainage", {}), ("cross-entropy", {})], {"splits": 1}, "splits is 1: give at least 2"),
    ],
)
def test_refused(blobs, candidates, settings, message):
    with pytest.raises(ValueError, match=message):
        choose(config(blobs, None), candidates, **settings)
    with pytest.raises(ValueError, match="give validation a share above 0"):
        choose(RunConfig(data=str(blobs)), [("drainage", {}), ("cross-entropy", {})])


def test_the_command(blobs, capsys):
    options = ["--epochs", "2", "--threads", "1", "--device", "cpu", "--splits", "2", "--noise", "symmetric:0.2"]
    objectives = ["--objective", "cross-entropy", "--objective", "drainage:alpha=0.5"]
    assert run("choose", blobs, *options, *objectives, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert {row["objective"] for row in found["candidates"]} == {"cross-entropy", "drainage:alpha=0.5"}
    first, second = found["candidates"]
    assert first["objective"] == found["chosen"]
    assert first["noisy_accuracy"] >= second["noisy_accuracy"]
    assert second["behind_by"] == pytest.approx(first["noisy_accuracy"] - second["noisy_accuracy"])
    assert printed.err.count("split 1") == printed.err.count("split 2") == 2
    assert run("choose", blobs, *options, *objectives) == 0
    assert f"take {found['chosen']}" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(blobs, capsys):
    assert run("choose", blobs, "--objective", "drainage:alpha=x", "--objective", "gce") == 2
    assert capsys.readouterr().err.startswith("error: objective parameter")
    assert run("choose", "nothing.npz") == 2
    assert "there is no such file" in capsys.readouterr().err


def test_names_are_those_of_the_command_line():
    assert describe("drainage", {"alpha": 0.01, "beta": 5.0}) == "drainage:alpha=0.01,beta=5"
    assert parse_objective(describe("drainage", {"alpha": 0.01})) == ("drainage", {"alpha": 0.01})
