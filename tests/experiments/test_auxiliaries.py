"""D-SINK's auxiliary models: given, or trained first; in a single run and in a suite."""

import json

import numpy as np
import pytest
import tiny_suite
import torch

from catchment import metrics
from catchment.experiments import bench
from catchment.experiments.run import WATCHED_LABELS, RunConfig, load_run, run
from catchment.experiments.suite import Selection, parse_suite, plan
from catchment.files import read_jsonl
from catchment.training import TrainingConfig, predict

TRAINING = TrainingConfig(epochs=3, batch_size=64, seed=1, threads=1, device="cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that trains both auxiliaries first, and what it wrote."""
    folder = tmp_path_factory.mktemp("runs")
    config = RunConfig(
        imbalance="long-tail:5", noise="symmetric:0.3", objective="dsink", noise_robust="gce:q=0.5", last_epochs=2,
        training=TRAINING,
    )  # fmt: skip
    return config, folder, run(config, folder / "dsink")


def test_one_command_trains_all_three(runs):
    config, folder, numbers = runs
    first = json.loads((folder / "dsink" / "noise-robust" / "config.json").read_text())
    second = json.loads((folder / "dsink" / "imbalance-robust" / "config.json").read_text())
    assert (first["objective"], first["parameters"]) == ("gce", {"q": 0.5})
    assert (second["objective"], second["parameters"]) == ("balanced-softmax", {})
    assert first["noise"] == second["noise"] == config.noise
    assert first["fingerprint"] == second["fingerprint"]  # the same labels
    assert numbers["test_accuracy"] > 0.3
    history = read_jsonl(folder / "dsink" / "history.jsonl")
    assert all({"marginal_error", "solver_converged", "kl_target"} <= row.keys() for row in history)
    last = [row["test_accuracy"] for row in history if "test_accuracy" in row]
    assert len(last) == 2
    assert numbers["test_accuracy_last_epochs"] == pytest.approx(sum(last) / 2)


def test_what_became_of_wrong_and_right_labels_is_counted(runs):
    _, folder, numbers = runs
    with np.load(folder / "dsink" / "evaluation.npz") as arrays:
        names = list(arrays)
    assert names
    assert 0 <= numbers["train_corrected"] <= 1
    assert 0 <= numbers["transported_damaged"] <= 1
    transport = numbers["transport"]
    np.testing.assert_allclose(transport["reached"], transport["asked"], rtol=1e-4)
    assert sum(transport["given"]) == pytest.approx(sum(transport["asked"]))
    assert transport["converged"]
    assert len(transport["potential"]) == 10


def test_the_history_says_after_every_epoch_what_became_of_labels(runs):
    """The training set is small enough to be watched whole: the last row has the numbers of the end."""
    _, folder, numbers = runs
    history = read_jsonl(folder / "dsink" / "history.jsonl")
    keys = {f"{who}_{what}" for who in ("train", "transported") for what in ("corrected", "damaged")}
    assert all(keys <= row.keys() for row in history)
    assert numbers["train_samples"] <= WATCHED_LABELS
    for key in keys:
        assert history[-1][key] == pytest.approx(numbers[key], abs=1e-9), key
    assert history[0]["train_corrected"] != history[-1]["train_corrected"]
    assert "transport" not in history[-1]
    # an auxiliary has no transported labels
    row = read_jsonl(folder / "dsink" / "noise-robust" / "history.jsonl")[-1]
    assert keys & row.keys() == {"train_corrected", "train_damaged"}


def test_without_known_true_labels_the_totals_are_there_and_no_shares(tmp_path):
    from catchment.data import load_data

    digits = load_data("digits").train
    np.savez(tmp_path / "own.npz", X=digits.inputs[:300, ..., 0], y=digits.labels[:300])
    config = RunConfig(data=str(tmp_path / "own.npz"), objective="dsink", training=TRAINING)
    numbers = run(config, tmp_path / "run")
    keys = {f"{who}_{what}" for who in ("train", "transported") for what in ("corrected", "damaged")}
    assert not keys & numbers.keys()
    assert not keys & read_jsonl(tmp_path / "run" / "history.jsonl")[-1].keys()
    assert sum(numbers["transport"]["reached"]) == pytest.approx(240)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Transported labels" in page
    assert "given labels</li>" in page
    assert "true labels</li>" not in page


def test_the_labels_at_the_end_are_had_as_in_training(runs):
    """With totals that are only asked for with a small penalty, the labels keep their own."""
    config, folder, _ = runs
    auxiliaries = {
        role: str(folder / "dsink" / role.replace("_", "-")) for role in ("noise_robust", "imbalance_robust")
    }
    relaxed = RunConfig(**{**vars(config), **auxiliaries, "parameters": {"relaxation": 1e-3}})
    transport = run(relaxed, folder / "relaxed")["transport"]
    assert transport["converged"]
    apart = np.abs(np.subtract(transport["asked"], transport["reached"])).sum() / sum(transport["asked"])
    assert apart > 0.05


def test_finished_runs_serve_as_auxiliaries_and_give_the_same(runs, tmp_path):
    config, folder, numbers = runs
    given = RunConfig(
        **{
            **vars(config),
            "noise_robust": str(folder / "dsink" / "noise-robust"),
            "imbalance_robust": str(folder / "dsink" / "imbalance-robust"),
        }
    )
    again = run(given, tmp_path / "given")
    assert again["test_nll"] == numbers["test_nll"]
    assert not (tmp_path / "given" / "noise-robust").exists()
    augmented = run(RunConfig(**{**vars(given), "auxiliary_view": "augmented"}), tmp_path / "augmented")
    # Digits are not augmented: both views are the same, but for single precision in other batches.
    assert augmented["test_nll"] == pytest.approx(numbers["test_nll"], rel=1e-2)


def test_classes_count_by_their_rank_where_they_are_few(runs):
    """Of ten classes in a long tail the first two have many samples, the last three few."""
    _, folder, numbers = runs
    model, form, _ = load_run(folder / "dsink")
    from catchment.data import load_inputs

    test = load_inputs("digits", form)
    predicted = predict(model, test).probabilities.argmax(1).numpy()
    by_class = [metrics.accuracy(predicted[test.labels == c], test.labels[test.labels == c]) for c in range(10)]
    for name, classes in {"many": range(2), "medium": range(2, 7), "few": range(7, 10)}.items():
        assert numbers[f"test_accuracy_{name}"] == pytest.approx(np.mean([by_class[c] for c in classes]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "cross-entropy", "imbalance_robust": "gce"}, "cross-entropy takes no auxiliary models"),
        ({"objective": "dsink", "noise_robust": "gec"}, "there is no objective 'gec': did you mean 'gce'"),
    ],
)
def test_what_cannot_be_is_one_line(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(RunConfig(**change, training=TRAINING), tmp_path / "run")


def test_an_auxiliary_of_other_classes_is_refused(runs, tmp_path):
    _, folder, _ = runs
    rng = np.random.default_rng(0)
    labels = np.repeat(["x", "y"], 40)
    np.savez(tmp_path / "other.npz", X=rng.integers(0, 256, (80, 8, 8), dtype=np.uint8), y=labels)
    config = RunConfig(
        data=str(tmp_path / "other.npz"), objective="dsink", noise_robust=str(folder / "dsink" / "noise-robust"),
        training=TRAINING,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"^--noise-robust .* was trained on other classes than other has"):
        run(config, tmp_path / "run")


SUITE = tiny_suite.TEXT.replace(
    """[[methods]]
name = "drainage"
objective = "drainage"
parameters = { alpha = 0.5 }
""",
    """[[methods]]
name = "GCE"
objective = "gce"

[[methods]]
name = "D-SINK"
objective = "dsink"
noise_robust = "GCE"
imbalance_robust = "cross-entropy"
""",
)


def test_a_suite_does_the_auxiliaries_first_and_once(tmp_path):
    planned, out = tiny_suite.open_suite(tmp_path, SUITE)
    text = (tmp_path / "tiny.toml").read_text()
    alone = plan(parse_suite(text, str(tmp_path / "tiny.toml")), Selection(only=("D-SINK",), seeds=(0,)))
    assert {run.method for run in alone} == {"cross-entropy", "GCE", "D-SINK"}
    keys = {(run.disturbance, run.method, run.seed): run.key for run in planned}
    for each in planned:
        if each.method == "D-SINK":
            assert each.auxiliaries == {
                "noise_robust": keys[each.disturbance, "GCE", each.seed],
                "imbalance_robust": keys[each.disturbance, "cross-entropy", each.seed],
            }
    bench.run_all(list(reversed(planned)), out, workers=1, device="cpu")
    rows = read_jsonl(out / bench.RESULTS)
    assert {row["status"] for row in rows} == {bench.FINISHED}
    assert sorted(row["key"] for row in rows) == sorted(run.key for run in planned)
    done = [row["key"] for row in rows]
    for each in planned:
        assert all(done.index(key) < done.index(each.key) for key in each.auxiliaries.values())


def test_what_needs_a_failed_auxiliary_fails_and_says_so(tmp_path):
    planned, out = tiny_suite.open_suite(tmp_path, SUITE)
    spoiled = next(run for run in planned if run.method == "GCE")
    (out / bench.RUNS / spoiled.key).mkdir(parents=True)
    (out / bench.RUNS / spoiled.key / "config.json").write_text("{")
    bench.run_all(planned, out, workers=1, device="cpu")
    failed = {row["method"]: row["error"] for row in read_jsonl(out / bench.RESULTS) if row["status"] == bench.FAILED}
    assert failed.keys() == {"GCE", "D-SINK"}
    assert failed["D-SINK"] == f"its noise-robust model failed, run {spoiled.key}: mend that first"


def test_an_auxiliary_must_stand_above_what_needs_it(tmp_path):
    text = SUITE.replace('noise_robust = "GCE"', 'noise_robust = "GEC"')
    with pytest.raises(ValueError, match=r"noise_robust of 'D-SINK' is 'GEC', .*: did you mean 'GCE'\?"):
        parse_suite(text, str(tmp_path / "suite.toml"))


def test_columns_are_log_probabilities_of_the_classes_alone(tmp_path):
    """Drainage's extra output takes no part."""
    from catchment.data import load_data
    from catchment.experiments.auxiliaries import auxiliary_columns
    from catchment.methods import create_objective

    run(RunConfig(objective="drainage", training=TRAINING), tmp_path / "aux")
    train_part, _ = load_data("digits")
    columns = auxiliary_columns(
        create_objective("dsink", num_classes=10),
        {"noise_robust": str(tmp_path / "aux"), "imbalance_robust": str(tmp_path / "aux")},
        train_part, view="cached", device="cpu", train_auxiliary=lambda role, objective: pytest.fail("one was given"),
    )  # fmt: skip
    model, _, _ = load_run(tmp_path / "aux")
    expected = predict(model, train_part).probabilities
    assert columns.keys() == {"noise_robust_logits", "imbalance_robust_logits"}
    torch.testing.assert_close(columns["noise_robust_logits"].exp(), expected)
    assert expected.shape == (1437, 10)
