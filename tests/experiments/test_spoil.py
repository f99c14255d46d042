import json

import numpy as np
import pytest

from catchment import cli
from catchment.data import load_data
from catchment.experiments.run import RunConfig, load_run_data
from catchment.training import TrainingConfig


def disturb(*arguments):
    return cli.main(["disturb", *(str(argument) for argument in arguments)])


def test_a_spoiled_copy_has_the_labels_that_a_run_would_train_on(tmp_path, capsys):
    out = tmp_path / "spoiled.npz"
    assert disturb("digits", "--noise", "asymmetric:0.4", "--seed", "3", "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    run = load_run_data(RunConfig(noise="asymmetric:0.4", training=TrainingConfig(seed=3)))
    with np.load(out, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["X"], run.train.inputs)
        np.testing.assert_array_equal(arrays["y"], run.train.labels)
        np.testing.assert_array_equal(arrays["y_clean"], run.train.clean_labels)
        np.testing.assert_array_equal(arrays["X_test"], run.test.inputs)
        np.testing.assert_array_equal(arrays["y_test"], run.test.labels)
        assert arrays["class_names"].tolist() == list("0123456789")
        assert arrays["id"].tolist() == list(run.train.ids)
        record = json.loads(str(arrays["record"]))
    assert record == printed
    assert record["noise"]["rate_realised"] == (run.train.labels != run.train.clean_labels).mean()
    assert (record["data"], record["seed"], record["samples"], record["classes"]) == ("digits", 3, 1437, 10)


def test_a_spoiled_copy_is_data_to_train_on_with_its_clean_labels_known(tmp_path, capsys):
    out = tmp_path / "spoiled.npz"
    assert disturb("digits", "--imbalance", "long-tail:10", "--noise", "symmetric:0.3", "--out", out) == 0
    line = capsys.readouterr().out
    train, test = load_data(out)
    assert len(train) + len(test) == int(line.split()[0])
    wrong = np.concatenate([part.labels != part.clean_labels for part in (train, test)])
    assert f"{wrong.mean():.2%} of the labels changed" in line
    assert wrong.mean() == pytest.approx(0.3, abs=0.001)


def test_nothing_is_overwritten_unasked_and_nothing_to_do_is_said(tmp_path, capsys):
    out = tmp_path / "spoiled.npz"
    out.write_text("mine")
    for arguments, message in (
        (("digits", "--noise", "symmetric:0.4", "--out", out), "exists: choose another --out, or add --overwrite"),
        (("digits", "--out", tmp_path / "new.npz"), "nothing is to be spoiled: add --noise or --imbalance"),
        (("digits", "--noise", "symmetric:0.4", "--out", tmp_path / "new.csv"), "does not end in .npz"),
        (("digitz", "--noise", "symmetric:0.4", "--out", tmp_path / "new.npz"), "did you mean 'digits'?"),
    ):
        assert disturb(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert message in captured.err
    assert out.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled.npz"]
    assert disturb("digits", "--noise", "symmetric:0.4", "--out", out, "--overwrite") == 0
    assert out.stat().st_size > 10_000
