"""Corruptions of data sets: the published layout on disk, its resumption, and predictions for corrupted images."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_formats_images import write_cifar10

from catchment import cli
from catchment.data import load_data
from catchment.disturb import CORRUPTIONS, corrupt
from catchment.experiments import corruption
from catchment.experiments.corruption import corrupt_dataset, parse_corruption, parse_corruptions


def disturb(*arguments):
    return cli.main(["disturb", *(str(argument) for argument in arguments)])


@pytest.fixture
def data(tmp_path):
    write_cifar10(tmp_path / "data")
    return tmp_path / "data"


def test_the_reader_of_the_published_sets_reads_what_was_written(data, capsys):
    out = data / "CIFAR-10-C"
    assert disturb("cifar10", "--data-dir", data, "--corruption", "all", "--seed", "2", "--out", out, "--json") == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    test = load_data("cifar10", data_dir=data).test
    n = len(test)
    assert record["corruptions"] == list(CORRUPTIONS)
    assert (record["data"], record["seed"], record["size"], record["samples"]) == ("cifar10", 2, "cifar", n)
    assert printed.err.splitlines() == [f"[{k}/19] {name}" for k, name in enumerate(CORRUPTIONS, start=1)]
    labels = np.load(out / "labels.npy")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.tile(test.labels, 5))
    for name in CORRUPTIONS:
        blocks = np.load(out / f"{name}.npy")
        assert (blocks.dtype, blocks.shape) == (np.uint8, (5 * n, 32, 32, 3))
        for severity in range(1, 6):
            read = load_data(f"cifar10-c:{name}:{severity}", data_dir=data).test
            np.testing.assert_array_equal(read.inputs, blocks[n * (severity - 1) : n * severity])
            np.testing.assert_array_equal(read.inputs, corrupt(test.inputs, name, severity, "cifar", 2))
            assert "not the published arrays" in read.notes[-1]
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.npy" for name in CORRUPTIONS), "labels.npy", "record.json", ".lock",
    }  # fmt: skip


def test_a_stopped_call_goes_on_and_leaves_nothing_half_done(data, monkeypatch, capsys):
    out = data / "CIFAR-10-C"
    arguments = ("cifar10", "--data-dir", data, "--corruption", "brightness,fog", "--out", out)
    done = []

    def corrupt_until_stopped(images, name, severity, *rest, **options):
        if name == "fog" and severity == 4 and len(images) > 1:
            raise KeyboardInterrupt
        done.append((name, severity))
        return corrupt(images, name, severity, *rest, **options)

    with monkeypatch.context() as stopped:
        stopped.setattr(corruption, "corrupt", corrupt_until_stopped)
        assert disturb(*arguments) == 130
    assert sorted(path.name for path in out.glob("*.npy")) == ["brightness.npy", "labels.npy"]
    assert list(out.glob(".*.tmp")) == []
    finished = (out / "brightness.npy").stat().st_mtime_ns
    assert disturb(*arguments) == 0
    assert (out / "brightness.npy").stat().st_mtime_ns == finished
    test = load_data("cifar10", data_dir=data).test
    np.testing.assert_array_equal(np.load(out / "fog.npy")[-len(test) :], corrupt(test.inputs, "fog", 5))
    assert disturb(*arguments, "--overwrite") == 0
    assert (out / "brightness.npy").stat().st_mtime_ns > finished
    capsys.readouterr()

    assert disturb(*arguments, "--seed", "1") == 2
    assert "was made with seed 0, not 1: choose another --out" in capsys.readouterr().err


def test_ones_own_images_are_corrupted_all_of_them(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 40, 40, 1)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", X=images, y=np.arange(6) % 2)
    out = tmp_path / "corrupted"
    arguments = (tmp_path / "mine.npz", "--corruption", "contrast", "--out", out)
    assert disturb(*arguments) == 2
    assert "images of 40 pixels: say whose to take" in capsys.readouterr().err
    assert not out.exists()
    assert disturb(*arguments, "--constants", "tiny-imagenet") == 0
    line = capsys.readouterr().out
    assert "6 images x 5 severities x 1 corruptions, with the constants of tiny-imagenet" in line
    assert "not the published arrays" in line
    np.testing.assert_array_equal(np.load(out / "labels.npy"), np.tile(np.arange(6) % 2, 5))
    expected = corrupt(images, "contrast", 5, "tiny-imagenet")
    np.testing.assert_array_equal(np.load(out / "contrast.npy")[-6:], expected)


def test_predictions_for_corrupted_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 40, (40, 32, 32, 3)) + 200 * (np.arange(40) % 2)[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "train.npz", X=images, y=np.arange(40) % 2)
    train = ("--data", tmp_path / "train.npz", "--objective", "cross-entropy", "--net", "mlp", "--epochs", "2")
    assert cli.main(["train", *map(str, train), "--out", str(tmp_path / "run")]) == 0
    new = images[:10]
    np.savez(tmp_path / "new.npz", X=new, y=np.arange(10) % 2)
    np.savez(tmp_path / "by_hand.npz", X=corrupt(new, "fog", 5, seed=4), y=np.arange(10) % 2)
    capsys.readouterr()

    def predict(name, *options):
        out = tmp_path / "predictions.csv"
        arguments = [str(tmp_path / "run"), str(tmp_path / name), "--out", str(out), "--overwrite", "--json", *options]
        status = cli.main(["predict", *arguments])
        printed = capsys.readouterr()
        return (json.loads(printed.out), out.read_text()) if status == 0 else printed.err

    summary, table = predict("new.npz", "--corruption", "fog:5", "--corruption-seed", "4")
    assert summary["corruption"].startswith("corrupted by fog:5 with the constants of cifar, seed 4: made anew")
    plain_summary, by_hand = predict("by_hand.npz")
    assert table == by_hand
    assert table != predict("new.npz")[1]
    assert plain_summary["corruption"] is None
    assert plain_summary["accuracy"] == summary["accuracy"]
    assert "'fog' names no severity from 1 to 5: write fog:3" in predict("new.npz", "--corruption", "fog")
    assert "no corruption 'frog': did you mean" in predict("new.npz", "--corruption", "frog:1")
    assert "add --corruption NAME:SEVERITY" in predict("new.npz", "--constants", "cifar")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "--corruption", "fog:3"), "'fog:3' names a severity, and a file holds all 5: leave it out"),
        (("digits", "--corruption", "fogg"), "no corruption 'fogg': did you mean 'fog'"),
        (("digits", "--corruption", "fog", "--noise", "symmetric:0.1"), "--noise is of training labels"),
        (("digits", "--corruption", "fog"), "images of 8 pixels: say whose to take"),
        (("digits", "--corruption", "motion_blur", "--constants", "cifar"), "motion_blur of severity 1 .* 13 pixels"),
        (("digits", "--constants", "cifar", "--noise", "symmetric:0.1"), "add --corruption all"),
        (("table.csv", "--corruption", "fog"), "is a table, and only images can be corrupted"),
    ],
)
def test_what_cannot_be_corrupted_leaves_nothing_behind(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{k / 10},{k % 2}" for k in range(20))
    (tmp_path / "table.csv").write_text(f"a,label\n{rows}\n")
    assert disturb(*arguments, "--out", "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_other_files_are_never_mixed_with_ours(tmp_path, capsys):
    out = tmp_path / "CIFAR-10-C"
    out.mkdir()
    (out / "fog.npy").write_text("published")
    assert disturb("digits", "--corruption", "contrast", "--constants", "cifar", "--out", out) == 2
    assert "holds other files, and no record.json of ours: choose a new folder" in capsys.readouterr().err
    assert (out / "fog.npy").read_text() == "published"
    assert disturb("digits", "--corruption", "contrast", "--constants", "cifar", "--out", tmp_path / "a.npz") == 2
    assert "ends in .npz, but corruptions are written to a folder" in capsys.readouterr().err


def test_names_and_notes():
    assert parse_corruptions("all") == CORRUPTIONS
    assert parse_corruptions("benchmark") == CORRUPTIONS[:15]
    assert parse_corruptions("fog, snow,fog") == ("fog", "snow")
    assert parse_corruption("saturate:5") == ("saturate", 5)
    for text in ("fog:0", "fog:6", "fog:3.0", "fog:", "fog:03"):
        with pytest.raises(ValueError, match="names no severity from 1 to 5"):
            parse_corruption(text)
    digits = load_data("digits").test
    corrupted = corrupt_dataset(digits, "contrast:2", size="cifar", seed=5)
    np.testing.assert_array_equal(corrupted.inputs, corrupt(digits.inputs, "contrast", 2, seed=5))
    np.testing.assert_array_equal(corrupted.labels, digits.labels)
    assert corrupted.notes[-1].startswith("corrupted by contrast:2 with the constants of cifar, seed 5: made anew")


def test_the_picture_of_the_docs_shows_each_severity_beside_the_clean_image():
    path = Path(__file__).parents[2] / "docs" / "examples" / "corruptions.py"
    spec = importlib.util.spec_from_file_location("example_corruptions", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    page = np.asarray(example.draw_all(("contrast", "brightness")))
    cell = example.SHOWN + example.GAP
    assert page.shape == (example.HEADER + 2 * cell, example.LABELS + 2 * 6 * cell + 4 * example.GAP, 3)
    shown = [
        page[example.HEADER + cell :, example.LABELS + k * cell :][: example.SHOWN, : example.SHOWN] for k in range(6)
    ]
    assert np.all(np.diff([picture.mean() for picture in shown]) > 0)  # brighter and brighter
    on_disk = Image.open(path.parents[1] / "images" / "corruptions.jpg")
    assert on_disk.size == (page.shape[1], example.HEADER + 19 * cell)
