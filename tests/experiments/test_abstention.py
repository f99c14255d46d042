"""``catchment predict --max-risk``: what it accepts, what it says, what it refuses."""

import csv
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from catchment import cli
from catchment.reject import selective_risk_threshold


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 900 digits with noise, tested on 450; 447 more are new."""
    folder = tmp_path_factory.mktemp("abstention")
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    for name, rows in (("train", order[:900]), ("test", order[900:1350]), ("new", order[1350:])):
        np.savez(folder / f"{name}.npz", X=images[rows], y=labels[rows])
    np.savez(folder / "unlabelled.npz", X=images[order[1350:]])
    arguments = ["--data", folder / "train.npz", "--test", folder / "test.npz", "--noise", "symmetric:0.3"]
    settings = ["--epochs", "8", "--threads", "1", "--device", "cpu", "--seed", "0"]
    assert run("train", *arguments, *settings, "--out", folder / "run") == 0
    return folder


def predicted(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_accepts_by_the_threshold_of_the_runs_test_part(trained, capsys):
    out = trained / "p.csv"
    arguments = ("predict", trained / "run", trained / "new.npz", "--out", out, "--max-risk", "0.05", "--json")
    assert run(*arguments) == 0
    abstention = json.loads(capsys.readouterr().out)["abstention"]
    with np.load(trained / "run" / "evaluation.npz") as arrays:
        wrong = arrays["test_label"] != arrays["test_predicted"]
        expected = selective_risk_threshold(arrays["test_unknown_score"], wrong, max_risk=0.05, delta=0.1)
    assert abstention["threshold"] == pytest.approx(expected.threshold)
    assert abstention["calibration"] == f"the test part of {trained / 'run'}"
    assert abstention["calibration_samples"] == 360, "a fifth of the 450 fixes the candidates"
    rows = predicted(out)
    assert list(rows[0])[3:5] == ["unknown_score", "accepted"]
    accepted = np.array([row["accepted"] == "1" for row in rows])
    by_score = np.array([float(row["unknown_score"]) for row in rows]) <= expected.threshold + 1e-6
    np.testing.assert_array_equal(accepted, by_score)
    assert accepted.sum() == abstention["accepted"]
    right = np.array([row["predicted"] == row["label"] for row in rows])
    assert 0.3 < accepted.mean() < 1
    assert right[accepted].mean() > 0.95 > right.mean()


def test_says_what_it_promises_and_when_not(trained, capsys):
    data = ("predict", trained / "run", trained / "unlabelled.npz", "--out", trained / "q.csv", "--max-risk", "0.1")
    assert run(*data, "--delta", "0.02", "--calibration", trained / "test.npz") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of 360 calibration samples" in said
    assert "with probability 0.98 over the draw of the calibration samples, at most 0.1 of the accepted" in said
    assert "it fails where calibration labels are wrong, where new data differ" in said


def test_without_it_nothing_changes(trained, capsys):
    out = trained / "r.csv"
    assert run("predict", trained / "run", trained / "new.npz", "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["abstention"] is None
    assert "accepted" not in predicted(out)[0]


def test_a_risk_that_no_threshold_keeps(trained, capsys):
    """Labels at random: nothing can be accepted, and it says so."""
    with np.load(trained / "test.npz") as arrays:
        shuffled = np.random.default_rng(1).permutation(arrays["y"])
        np.savez(trained / "shuffled.npz", X=arrays["X"], y=shuffled)
    out = trained / "s.csv"
    arguments = ("--out", out, "--max-risk", "0.05", "--calibration", trained / "shuffled.npz")
    assert run("predict", trained / "run", trained / "new.npz", *arguments) == 0
    said = capsys.readouterr().out
    assert "accepted 0 of 447" in said
    assert "no threshold could be shown to keep the risk" in said
    assert {row["accepted"] for row in predicted(out)} == {"0"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-risk", "0.001"], "450 calibration samples can't show a risk of at most 0.001 with probability 0.9"),
        (["--max-risk", "1.5"], "max_risk is 1.5: give a number between 0 and 1"),
        (["--calibration", "test.npz"], "add --max-risk 0.05"),
        (["--max-risk", "0.1", "--calibration", "unlabelled.npz"], "give labelled data as --calibration"),
    ],
)
def test_refused_in_one_line(trained, capsys, monkeypatch, options, message):
    monkeypatch.chdir(trained)
    assert run("predict", "run", "new.npz", "--out", "t.csv", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (trained / "t.csv").exists()
