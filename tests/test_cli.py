"""The commands on real input and on bad input: what they print, what they write, how they end."""

import csv
import errno
import json
import os
import re
import signal

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import catchment as ct
from catchment import cli, files
from catchment.data import load_data
from catchment.files import read_jsonl
from catchment.training.progress import EpochProgress

FAST = ["--epochs", "2", "--threads", "1", "--device", "cpu"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A finished run on digits with asymmetric noise."""
    out = tmp_path_factory.mktemp("runs") / "a"
    arguments = ["train", "--data", "digits", "--noise", "asymmetric:0.4", "--objective", "drainage", "--seed", "1"]
    assert run(*arguments, "--epochs", "6", "--threads", "1", "--device", "cpu", "--out", out) == 0
    return out


def images(folder, classes, per_class=6, size=(8, 8)):
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.clip(rng.normal(60 + 120 * label, 20, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def table(path, rows, header=("height", "width", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows(n=40):
    return [(i % 2 + 0.01 * i, -i % 7, "cat" if i % 2 else "dog") for i in range(n)]


def test_train_writes_a_run_folder(digits_run):
    names = sorted(path.name for path in digits_run.iterdir() if not path.name.startswith("."))
    files = ["config.json", "evaluation.npz", "history.jsonl", "metrics.json", "model.safetensors", "report.html"]
    assert names == files
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["noise_rate_realised"] == metrics["noise"]["rate_realised"] == pytest.approx(0.2, abs=0.01)
    assert 0.5 < metrics["test_accuracy"] <= 1
    assert 0.5 < metrics["label_score_auroc"] <= 1
    assert (metrics["reported"], metrics["reported_epoch"], metrics["epochs"]) == ("last epoch", 6, 6)
    assert [row["epoch"] for row in read_jsonl(digits_run / "history.jsonl")] == [1, 2, 3, 4, 5, 6]
    config = json.loads((digits_run / "config.json").read_text())
    assert (config["noise"], config["objective"], config["training"]["seed"]) == ("asymmetric:0.4", "drainage", 1)
    assert config["noise_record"] == metrics["noise"]
    state = load_file(digits_run / "model.safetensors")
    assert state["net.head.classifier.weight"].shape == (11, 128)


def test_json_prints_one_object_with_the_numbers_on_disk(tmp_path, capsys):
    assert run("train", "--json", "--objective", "cross-entropy", *FAST, "--out", tmp_path / "a") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "a" / "metrics.json").read_text())


def test_same_seed_same_file_other_seed_other_file(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("train", "--seed", seed, "--noise", "symmetric:0.2", *FAST, "--out", tmp_path / name) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_relabelled_classes_become_unknown_in_the_test_part(tmp_path, capsys):
    out = tmp_path / "a"
    objective = "drainage:alpha=0.1"
    assert run("train", "--noise", "relabel:7,8,9", "--objective", objective, *FAST, "--out", out, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"test_unknown_auroc", "test_extra_output_known", "test_extra_output_unknown"} <= metrics.keys()
    config = json.loads((out / "config.json").read_text())
    assert config["input_format"]["class_names"] == ["0", "1", "2", "3", "4", "5", "6"]
    assert config["parameters"] == {"alpha": 0.1}
    train = load_data("digits").train
    assert metrics["noise_rate_realised"] == pytest.approx((train.labels >= 7).mean())


@pytest.mark.parametrize("kind", ["folder", "npz", "csv", "parquet"])
def test_own_data_trains_and_is_predicted(kind, tmp_path, capsys):
    if kind == "folder":
        data = images(tmp_path / "images", ["dark", "light"], per_class=20)
    elif kind == "npz":
        data = tmp_path / "data.npz"
        values = np.array([(height, width) for height, width, _ in rows()])
        np.savez(data, X=values, y=[label for *_, label in rows()])
    else:
        data = table(tmp_path / "data.csv", rows())
        if kind == "parquet":
            import pyarrow.csv
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.csv.read_csv(data), tmp_path / "data.parquet")
            data = tmp_path / "data.parquet"
    options = ["--epochs", "20", "--batch-size", "16", "--threads", "1", "--device", "cpu"]
    assert run("train", "--data", data, *options, "--out", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] > 0.8
    assert run("predict", tmp_path / "run", data, "--out", tmp_path / "p.csv", "--device", "cpu") == 0
    with (tmp_path / "p.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 40
    names = ("dark", "light") if kind == "folder" else ("cat", "dog")
    for row in predictions:
        p = [float(row[f"probability_{name}"]) for name in names]
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == names[int(np.argmax(p))]
        assert float(row["confidence"]) == pytest.approx(max(p))
    assert np.mean([row["predicted"] == row["label"] for row in predictions]) > 0.8


def test_predictions_are_those_of_the_model_in_memory(digits_run, tmp_path):
    assert run("predict", digits_run, "digits", "--out", tmp_path / "p.csv", "--device", "cpu") == 0
    with (tmp_path / "p.csv").open() as file:
        predicted = [row["predicted"] for row in csv.DictReader(file)]
    test = load_data("digits").test
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert np.mean([int(name) == label for name, label in zip(predicted, test.labels, strict=True)]) == pytest.approx(
        metrics["test_accuracy"]
    )


def test_unlabelled_rows_are_predicted_without_label_columns(tmp_path):
    data = table(tmp_path / "data.csv", rows())
    assert run("train", "--data", data, *FAST, "--batch-size", "8", "--out", tmp_path / "run") == 0
    new = table(tmp_path / "new.csv", [(w, h) for h, w, _ in rows(5)], header=("width", "height"))
    assert run("predict", tmp_path / "run", new, "--out", tmp_path / "p.csv") == 0
    header, *lines = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "id,predicted,confidence,unknown_score,probability_cat,probability_dog"
    assert len(lines) == 5


def test_predict_keeps_an_existing_table_unless_told(digits_run, tmp_path, capsys):
    out = tmp_path / "p.csv"
    out.write_text("mine")
    assert run("predict", digits_run, "digits", "--out", out) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run("predict", digits_run, "digits", "--out", out, "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 360


def test_early_stopping_reports_the_best_validation_epoch(tmp_path, capsys):
    options = ["--validation", "0.2", "--early-stopping", "1", "--lr", "0.5", "--epochs", "15", "--threads", "1"]
    assert run("train", *options, "--device", "cpu", "--json", "--out", tmp_path / "a") == 0
    metrics = json.loads(capsys.readouterr().out)
    history = read_jsonl(tmp_path / "a" / "history.jsonl")
    best = max(history, key=lambda row: (row["validation_accuracy"], -row["epoch"]))
    assert metrics["reported"] == "best validation epoch"
    assert metrics["reported_epoch"] == best["epoch"]
    assert metrics["validation_labels"] == "noisy"


def test_validation_labels_are_noisy_unless_clean_is_asked_for():
    from catchment.experiments.run import RunConfig, load_run_data

    noisy = load_run_data(RunConfig(noise="symmetric:0.5", validation=0.2))
    assert (noisy.validation.labels != noisy.validation.clean_labels).mean() == pytest.approx(0.5, abs=0.1)
    clean = load_run_data(RunConfig(noise="symmetric:0.5", validation=0.2, validation_labels="clean"))
    assert (clean.validation.labels == clean.validation.clean_labels).all()
    assert len(clean.train) + len(clean.validation) == 1437
    assert not set(clean.train.ids) & set(clean.validation.ids)


def test_preset_sets_what_is_not_given(tmp_path, capsys):
    arguments = ["--objective", "drainage", "--preset", "mnist", *FAST, "--lr", "0.02", "--out", tmp_path / "a"]
    assert run("train", *arguments) == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    published = ct.preset("drainage", "mnist")
    assert config["training"]["l1"] == published["training"]["l1"] == 1e-3
    assert config["training"]["batch_size"] == 128
    assert (config["training"]["learning_rate"], config["training"]["epochs"]) == (0.02, 2)
    assert config["parameters"] == published["objective"]
    assert run("train", "--resume", *arguments) == 0  # the same command again contradicts nothing
    capsys.readouterr()
    assert run("train", "--resume", "--preset", "cifar10", "--out", tmp_path / "a") == 2
    assert "was started with --epochs 2, not 120" in capsys.readouterr().err


def test_list(capsys):
    assert run("list", "objectives", "--json") == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["objectives"]]
    assert names == [method.name for method in ct.list_objectives()]
    assert run("list", "data") == 0
    assert "digits" in capsys.readouterr().out
    assert run("list", "nets") == 0
    nets = capsys.readouterr().out
    assert "small-cnn" in nets
    assert "[vision]" in nets


def test_resuming_a_finished_run_changes_nothing(digits_run, capsys):
    before = {path.name: path.read_bytes() for path in digits_run.iterdir()}
    assert run("train", "--resume", "--out", digits_run) == 0
    assert "is finished" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in digits_run.iterdir()} == before


def test_resume_takes_everything_from_the_run_and_refuses_contradictions(digits_run, capsys):
    assert run("train", "--resume", "--seed", "1", "--noise", "asymmetric:0.4", "--out", digits_run) == 0
    capsys.readouterr()
    for option, value in (("--seed", "2"), ("--objective", "cross-entropy"), ("--noise", "symmetric:0.4")):
        assert run("train", "--resume", option, value, "--out", digits_run) == 2
        error = capsys.readouterr().err
        assert f"was started with {option}" in error
        assert f"leave {option} out" in error


def test_resume_refuses_data_that_changed(tmp_path, capsys, monkeypatch):
    data = table(tmp_path / "data.csv", rows())
    arguments = ["train", "--data", data, *FAST, "--batch-size", "8", "--out", tmp_path / "run"]
    monkeypatch.setattr(
        "catchment.experiments.run._write_weights", lambda model, path: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert run(*arguments) == 130
    monkeypatch.undo()
    table(data, [*rows(), (9.0, 9, "cat")])
    capsys.readouterr()
    assert run("train", "--resume", "--out", tmp_path / "run") == 2
    assert "has changed since the run" in capsys.readouterr().err
    table(data, rows())
    assert run("train", "--resume", "--out", tmp_path / "run") == 0


def one_error_line(capsys):
    """The single line on stderr, which starts with "error: "; nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def _folder_with_bad_image(tmp_path):
    folder = images(tmp_path / "images", ["a", "b"])
    (folder / "a" / "broken.png").write_bytes(b"not a picture")
    return folder


def _npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


BAD_DATA = {
    "missing file": (lambda t: t / "none.csv", "no such file"),
    "folder without classes": (lambda t: images(t / "images", []) if (t / "images").mkdir() is None else t, "class"),
    "folder with one class": (lambda t: images(t / "images", ["only"]), "one class"),
    "unreadable image": (_folder_with_bad_image, "broken.png.*--skip-unreadable"),
    "NaN in a feature": (lambda t: table(t / "d.csv", [*rows(), ("nan", 1, "cat")]), "height"),
    "text in a feature": (lambda t: table(t / "d.csv", [*rows(), (1, "wide", "cat")]), "width"),
    "labels missing": (lambda t: table(t / "d.csv", [*rows(), (1, 2, "")]), "label"),
    "one class only": (lambda t: table(t / "d.csv", [(i, i, "cat") for i in range(9)]), "one class"),
    "more classes than samples": (lambda t: table(t / "d.csv", [(i, i, f"c{i}") for i in range(9)]), "--label-column"),
    "unknown column": (lambda t: table(t / "d.csv", rows(), header=("a", "b", "labl")), "'labl'"),
    "npz without y": (lambda t: _npz(t, X=np.zeros((4, 2))), "y"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_leaves_no_file(case, tmp_path, capsys):
    make, message = BAD_DATA[case]
    data = make(tmp_path)
    assert run("train", "--data", data, *FAST, "--out", tmp_path / "out") == 2
    line = one_error_line(capsys)
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "symmetric:1.4"], "give a number from 0 to 1"),
        (["--noise", "symmetric:-0.1"], "give a number from 0 to 1"),
        (["--noise", "symmetric:nan"], "give a number from 0 to 1"),
        (["--noise", "symmetric:much"], "has no rate: give a number from 0 to 1"),
        (["--noise", "salt:0.3"], "there is no noise 'salt:0.3'"),
        (["--noise", "asymmetric:0.3", "--mapping", "3:12"], "there is no class '12': the classes are 0, 1"),
        (["--noise", "asymmetric:0.3", "--mapping", "mnst"], "mnist"),
        (["--noise", "relabel:12"], "there is no class '12'"),
        (["--mapping", "mnist"], "add --noise asymmetric:RATE"),
        (["--objective", "drainge"], "did you mean 'drainage'?"),
        (["--objective", "drainage:gamma=1"], "no parameter 'gamma': it knows alpha"),
        (["--objective", "drainage:alpha=-1"], "alpha is -1: give a finite number above 0"),
        (["--objective", "drainage:alpha=big"], "'alpha=big' is not a number"),
        (["--objective", "drainage", "--preset", "svhn"], "known are mnist, cifar10"),
        (["--data", "digts"], "did you mean 'digits'?"),
        (["--net", "resnet"], "there is no net 'resnet': did you mean 'resnet34'?"),
        (["--epochs", "0"], "epochs is 0: give at least 1"),
        (["--epochs", "many"], "'many' is not a valid integer"),
        (["--lr", "-1"], "learning_rate is -1.0"),
        (["--validation", "1.5"], "validation is 1.5"),
        (["--early-stopping", "3"], "early stopping needs a validation set"),
        (["--device", "gpu"], "device 'gpu' can't be used here"),
        (["--augmentation", "rotate"], "use crop:P"),
        (["--drop-columns", "x"], "drop"),
        (["--nose", "symmetric:0.3"], "No such option"),
    ],
)
def test_bad_options_are_one_line_and_leave_no_file(options, message, tmp_path, capsys):
    arguments = ["train", "--threads", "1", *options, "--out", tmp_path / "out"]
    if "--device" not in options:
        arguments += ["--device", "cpu"]
    assert run(*arguments) == 2
    assert message in one_error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_out_is_required(capsys):
    assert run("train") == 2
    assert "--out" in one_error_line(capsys)


def test_skip_unreadable_goes_on_and_counts(tmp_path, capsys):
    data = _folder_with_bad_image(tmp_path)
    arguments = ["--skip-unreadable", *FAST, "--batch-size", "4", "--out", tmp_path / "out", "--json"]
    assert run("train", "--data", data, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["skipped_files"] == 1


def test_a_folder_with_another_run_is_left_as_it_is(digits_run, tmp_path, capsys):
    before = (digits_run / "metrics.json").read_bytes()
    assert run("train", *FAST, "--out", digits_run) == 2
    assert "holds another run: choose another --out, or go on with it by --resume" in one_error_line(capsys)
    assert (digits_run / "metrics.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert run("train", *FAST, "--out", tmp_path) == 2
    assert "is not empty" in one_error_line(capsys)


def test_resume_without_a_run_says_so(tmp_path, capsys):
    assert run("train", "--resume", "--out", tmp_path / "none") == 2
    assert "holds no run to go on with" in one_error_line(capsys)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
@pytest.mark.parametrize("after_writes", [0, 1, 3])
def test_a_full_or_read_only_disk_leaves_whole_files_only(number, remedy, after_writes, tmp_path, capsys, monkeypatch):
    real, count = os.fsync, [0]

    def failing(file):
        count[0] += 1
        if count[0] > after_writes:
            raise OSError(number, os.strerror(number), "the disk")
        real(file)

    monkeypatch.setattr(files.os, "fsync", failing)
    out = tmp_path / "out"
    assert run("train", *FAST, "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert remedy in error
    assert not [path for path in out.iterdir() if path.name.endswith(".tmp")]
    for path in out.glob("*.json"):
        json.loads(path.read_text())
    assert not (out / "metrics.json").exists()
    monkeypatch.undo()
    capsys.readouterr()
    resumable = ["--resume"] if (out / "config.json").exists() else []
    assert run("train", *FAST, *resumable, "--out", out) == 0  # nothing has to be cleaned up by hand


def test_a_read_only_folder_is_one_line(tmp_path, capsys, monkeypatch):
    def refuse(self, *arguments, **keywords):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert run("train", *FAST, "--out", tmp_path / "out") == 2
    assert "the file system is read-only: choose another --out" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_stops_cleanly_and_the_run_goes_on_later(tmp_path, capsys, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("train", *FAST, "--out", whole) == 0
    real_call = EpochProgress.__call__

    def interrupt(self, row):
        real_call(self, row)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(EpochProgress, "__call__", interrupt)
    capsys.readouterr()
    assert run("train", *FAST, "--out", out) == 130
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == f"stopped after epoch 1; go on with: catchment train --resume --out {out}"
    assert "Traceback" not in error
    monkeypatch.undo()
    assert run("train", "--resume", "--out", out) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_ctrl_c_before_the_run_has_begun_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("catchment.experiments.run.load_run_data", lambda config: signal.raise_signal(signal.SIGINT))
    assert run("train", *FAST, "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err == "stopped after epoch 0; nothing was written\n"
    assert not (tmp_path / "out").exists()


def test_a_traceback_is_shown_on_demand(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CATCHMENT_TRACEBACK", "1")
    assert run("train", "--noise", "salt:1", "--out", tmp_path / "out") == 2
    assert "Traceback" in capsys.readouterr().err


def test_predict_needs_a_finished_run(tmp_path, capsys):
    assert run("predict", tmp_path, "digits", "--out", tmp_path / "p.csv") == 2
    assert "holds no run" in one_error_line(capsys)
    assert not (tmp_path / "p.csv").exists()


def test_help_and_version(capsys):
    assert run("--help") == 0
    assert "train" in capsys.readouterr().out
    assert run("train", "--help") == 0
    assert "--early-stopping" in capsys.readouterr().out
    assert run("--version") == 0
    assert ct.__version__ in capsys.readouterr().out
