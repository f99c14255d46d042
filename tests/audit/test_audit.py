"""The command, from data to a list, a page and cleaned data; and what it refuses."""

import csv
import json

import numpy as np
import pytest
from audit.made_up import noisy, table
from PIL import Image

from catchment import cli
from catchment.audit import AuditConfig, audit, run_audit, runner
from catchment.data import Dataset
from catchment.data.load import load_labelled
from catchment.training import TrainingConfig

FAST = ["--epochs", "5", "--batch-size", "16", "--threads", "1", "--device", "cpu"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def spoiled(tmp_path):
    """A table with wrong labels as an npz file, and probabilities that know better."""
    dataset, p = table(120)
    names = np.array(dataset.class_names)
    np.savez(tmp_path / "t.npz", X=dataset.inputs, y=names[dataset.labels], y_clean=names[dataset.clean_labels])
    np.savez(tmp_path / "p.npz", probabilities=p)
    return tmp_path, dataset


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_from_a_table_to_cleaned_data_by_one_training_run(spoiled, capsys):
    folder, dataset = spoiled
    out = folder / "out" / "s.csv"
    arguments = ["audit", folder / "t.npz", *FAST, "--suspects", 24, "--scores", "all", "--relabel", "--out", out]
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert "of 120 labels are believed wrong (95 % interval" in printed
    assert "one training run of 5 epochs, drainage" in printed
    suspects = rows_of(out)
    assert len(suspects) == 24
    wrong = set(np.flatnonzero(dataset.labels != dataset.clean_labels).tolist())
    assert len(wrong & {int(row["row"]) for row in suspects}) >= 20
    assert float(suspects[0]["score"]) >= float(suspects[-1]["score"])
    assert [name for name in suspects[0] if name.startswith("score_")] == [
        "score_self-confidence", "score_margin", "score_confident-learning", "score_loss-trajectory",
        "score_drainage", "score_drainage-trajectory",
    ]  # fmt: skip
    assert all(row["score"] == row["score_self-confidence"] for row in suspects)
    assert out.with_suffix(".html").read_text().startswith("<!doctype html>")
    cleaned = load_labelled(out.parent / "t-cleaned.npz")
    assert (cleaned.labels != dataset.clean_labels).sum() < (dataset.labels != dataset.clean_labels).sum() / 2
    assert load_labelled(folder / "t.npz").labels.tolist() == dataset.labels.tolist()


def test_json_is_one_object_with_the_comparison(spoiled, capsys):
    folder, _ = spoiled
    arguments = ["audit", folder / "t.npz", "--probabilities", folder / "p.npz", "--out", folder / "s.csv"]
    assert run(*arguments, "--scores", "all", "--drop", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["labels"], summary["classes"]) == (120, 120, 3)
    assert summary["wrong_low"] <= summary["wrong"] == summary["suspects"] <= summary["wrong_high"]
    assert summary["cleaned"] == {
        "path": str(folder / "t-cleaned.npz"), "kept": 120 - summary["wrong"], "dropped": summary["wrong"],
        "relabelled": 0,
    }  # fmt: skip
    assert {row["score"] for row in summary["scores"]} == {"self-confidence", "margin", "confident-learning"}
    assert all(row["auroc"] > 0.98 for row in summary["scores"])


def test_cross_validation_gives_the_same_list_with_the_same_seed(spoiled):
    folder, dataset = spoiled
    for name in ("a", "b"):
        assert run("audit", folder / "t.npz", *FAST, "--folds", 3, "--no-page", "--out", folder / f"{name}.csv") == 0
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    assert not (folder / "a.html").exists()
    wrong = dataset.labels != dataset.clean_labels
    assert wrong[[int(row["row"]) for row in rows_of(folder / "a.csv")]].mean() > 0.7


def test_a_folder_of_images_ends_as_a_folder_of_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(rng.normal(colour, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pics" / name / f"{i}.png")
    # two pictures in the wrong folder
    for i in range(2):
        (tmp_path / "pics" / "red" / f"{i}.png").rename(tmp_path / "pics" / "blue" / f"wrong{i}.png")
    out = tmp_path / "s.csv"
    assert run("audit", tmp_path / "pics", *FAST, "--suspects", 2, "--relabel", "--out", out) == 0
    assert {row["id"] for row in rows_of(out)} == {"blue/wrong0.png", "blue/wrong1.png"}
    cleaned = tmp_path / "pics-cleaned"
    assert sorted(p.name for p in (cleaned / "blue").iterdir()) == sorted(f"{i}.png" for i in range(20))
    assert {"wrong0.png", "wrong1.png"} <= {p.name for p in (cleaned / "red").iterdir()}
    assert "40 samples in" in capsys.readouterr().out


def test_data_of_many_labels_by_their_probabilities(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    true = rng.random((200, 3)) < 0.4
    given = (true ^ (rng.random((200, 3)) < 0.05)).astype(np.uint8)
    np.savez(tmp_path / "p.npz", probabilities=np.where(true, 0.9, 0.1))
    dataset = Dataset("scene", np.zeros((200, 2), np.float32), given, ("sea", "sky", "tree"), clean_labels=true)
    monkeypatch.setattr(runner, "load_labelled", lambda *a, **k: dataset)
    summary = run_audit(
        AuditConfig("scene", probabilities=str(tmp_path / "p.npz")), tmp_path / "s.csv",
        page=tmp_path / "s.html", decision="relabel", compare=True,
    )  # fmt: skip
    wrong = int((given != true).sum())
    assert (summary["labels"], summary["suspects"]) == (600, summary["wrong"])
    assert summary["wrong_low"] <= wrong <= summary["wrong_high"]
    suspects = rows_of(tmp_path / "s.csv")
    assert {(row["given"], row["suggested"]) for row in suspects} == {("absent", "present"), ("present", "absent")}
    assert {row["class"] for row in suspects} == {"sea", "sky", "tree"}
    with np.load(tmp_path / "scene-cleaned.npz") as cleaned:
        assert (cleaned["y"] != true).sum() == abs(wrong - summary["wrong"])
    assert summary["scores"][0]["precision"] == 1


@pytest.mark.parametrize("folds", [0, 3])
def test_data_of_many_labels_train_a_model_of_their_own(folds):
    rng = np.random.default_rng(0)
    true = rng.random((300, 3)) < 0.4
    inputs = (true @ rng.normal(size=(3, 6)) * 3 + rng.normal(0, 0.3, (300, 6))).astype(np.float32)
    wrong = rng.random((300, 3)) < 0.05
    dataset = Dataset("m", inputs, (true ^ wrong).astype(np.uint8), ("sea", "sky", "tree"))
    training = TrainingConfig(epochs=8, batch_size=32, threads=1, device="cpu")
    result = audit(AuditConfig("m", folds=folds, suspects=int(wrong.sum()), training=training), dataset)
    assert result.evidence.how.endswith("quasibinary")
    assert wrong[result.suspects.rows, result.suspects.classes].mean() > 0.9
    assert result.wrong.low <= wrong.sum() <= result.wrong.high


def test_clean_data_are_no_error_and_have_no_page(tmp_path, capsys):
    dataset, _ = table(60, rate=0.0)
    np.savez(tmp_path / "t.npz", X=dataset.inputs, y=dataset.labels)
    np.savez(tmp_path / "p.npz", probabilities=np.where(np.eye(3)[dataset.labels] > 0, 0.98, 0.01))
    arguments = ["audit", tmp_path / "t.npz", "--probabilities", tmp_path / "p.npz", "--out", tmp_path / "s.csv"]
    assert run(*arguments) == 0
    captured = capsys.readouterr()
    assert "0 of 60 labels are believed wrong (95 % interval 0 to" in captured.out
    assert captured.err == "no label is believed wrong: list the most suspect anyway, by --suspects 100\n"
    assert rows_of(tmp_path / "s.csv") == []
    assert not (tmp_path / "s.html").exists()


def test_the_count_of_a_judge_that_agrees_with_few_is_doubted(spoiled, capsys):
    folder, _ = spoiled
    p, _, _ = noisy(120, 3, seed=9)  # of other samples
    np.savez(folder / "p.npz", probabilities=p)
    arguments = ["audit", folder / "t.npz", "--probabilities", folder / "p.npz", "--out", folder / "s.csv", "--json"]
    assert run(*arguments) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    labels = load_labelled(folder / "t.npz").labels
    assert note.startswith(f"the judge agrees with {(p.argmax(1) == labels).mean():.0%} of the labels only")


def test_decisions_are_applied_and_the_input_is_left_alone(spoiled, capsys):
    from audit.test_cleaning import decisions_file

    folder, _ = spoiled
    data = load_labelled(folder / "t.npz")
    before = (folder / "t.npz").read_bytes()
    rows = [(0, "drop", ""), (1, "relabel", "eel"), (2, "keep", "")]
    decisions = decisions_file(folder / "decisions.csv", data, rows)
    assert run("audit", folder / "t.npz", "--apply", decisions) == 0
    assert (
        capsys.readouterr().out == f"119 samples in {folder / 't-cleaned.npz'}: 1 dropped, 1 of the others relabelled\n"
    )
    cleaned = load_labelled(folder / "t-cleaned.npz")
    assert (len(cleaned), cleaned.class_names[cleaned.labels[0]]) == (119, "eel")
    assert (folder / "t.npz").read_bytes() == before
    # applied to what came out of them, they are of other data
    assert run("audit", folder / "t-cleaned.npz", "--apply", decisions, "--cleaned", folder / "again.npz") == 2
    assert "these decisions were made on other data than t-cleaned" in capsys.readouterr().err
    for target in (folder / "t.npz", decisions):
        assert run("audit", folder / "t.npz", "--apply", decisions, "--cleaned", target, "--overwrite") == 2
    assert (folder / "t.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--probabilities", "BAD"],
            "row 0 of the probabilities sums to 0.5, not 1: give probabilities, such as softmax",
        ),
        (["--probabilities", "LOGITS"], "row 0 of the probabilities has an entry of 4: give probabilities from 0 to 1"),
        (["--probabilities", "SHORT"], "but t has 120 samples of 3 classes: give a row for each sample"),
        (
            ["--probabilities", "P", "--score", "drainage"],
            "probabilities of p.npz has no score 'drainage': choose one of",
        ),
        (["--probabilities", "absent.npz"], "absent.npz: there is no such file"),
        (["--probabilities", "P", "--folds", "3"], "leave --folds out"),
        (["--probabilities", "P", "--out", "T"], "is what is read, which is never written to"),
        (["--probabilities", "P", "--out", "P"], "is what is read, which is never written to"),
        (["--probabilities", "P", "--page", "T", "--overwrite"], "is what is read, which is never written to"),
        (["--probabilities", "P", "--drop", "--cleaned", "T", "--overwrite"], "is the data itself"),
        (["--probabilities", "P", "--cleaned", "c.npz"], "add --drop, --relabel or --apply decisions.csv"),
        (["--probabilities", "P", "--suspects", "0"], "suspects is 0: give 1 or more"),
        (["--probabilities", "P", "--score", "x"], "there is no score 'x': choose one of"),
        (["--apply", "absent.csv"], "absent.csv: No such file or directory"),
        (["--apply", "absent.csv", "--drop"], "leave --drop and --relabel out"),
        (["--folds", "1"], "folds is 1: give 2 or more"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--objective", "drainge"], "did you mean 'drainage'?"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(spoiled, monkeypatch, capsys, options, message):
    folder, _ = spoiled
    monkeypatch.chdir(folder)
    p, _, _ = noisy(120, 3)
    np.savez("bad.npz", probabilities=p * 0.5)
    np.savez("logits.npz", probabilities=np.tile([4.0, -3.0, 0.0], (120, 1)))
    np.savez("short.npz", probabilities=p[1:])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"P": "p.npz", "T": "t.npz", "BAD": "bad.npz", "LOGITS": "logits.npz", "SHORT": "short.npz"}
    assert run("audit", "t.npz", "--device", "cpu", *(names.get(option, option) for option in options)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_that_exist_are_replaced_only_when_asked(spoiled, capsys):
    folder, _ = spoiled
    arguments = ["audit", folder / "t.npz", "--probabilities", folder / "p.npz", "--out", folder / "s.csv"]
    assert run(*arguments) == 0
    (folder / "s.html").unlink()
    assert run(*arguments) == 2
    assert "s.csv exists: choose another name, or add --overwrite" in capsys.readouterr().err
    assert run(*arguments, "--overwrite") == 0
    assert (folder / "s.html").exists()


def test_an_audit_from_python(spoiled):
    folder, dataset = spoiled
    result = audit(AuditConfig(str(folder / "t.npz"), probabilities=str(folder / "p.npz"), score="margin", suspects=5))
    assert len(result.suspects) == 5
    assert (result.suspects.given == dataset.labels[result.suspects.rows]).all()
    assert result.wrong.low <= (dataset.labels != dataset.clean_labels).sum() <= result.wrong.high


def test_unlabelled_data_cannot_be_audited(tmp_path, capsys):
    np.savez(tmp_path / "t.npz", X=np.zeros((4, 2)), y=np.full(4, -100))
    assert run("audit", tmp_path / "t.npz", "--out", tmp_path / "s.csv") == 2
    assert "no row has a known class: give labels of at least two classes" in capsys.readouterr().err
