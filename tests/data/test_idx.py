import base64
import gzip
import struct

import numpy as np
import pytest
from PIL import Image
from published_formats_images import write_idx, write_mnist

from catchment.data import idx

KNOWN = {known.info.name: known for known in idx.SETS}


@pytest.mark.parametrize(
    ("code", "kind"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_idx_files_of_every_type(tmp_path, code, kind):
    values = np.array([[1, 2, 3], [4, 5, 100]], dtype=kind)
    (tmp_path / "x").write_bytes(bytes([0, 0, code, 2]) + struct.pack(">II", 2, 3) + values.tobytes())
    read = idx.read_idx(tmp_path / "x")
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(kind)


HEADER = bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 2, 2)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (HEADER + bytes(7), r"the file is cut off: its header says \(2, 2, 2\)"),
        (HEADER, r"the file is cut off"),
        (HEADER[:9], r"the file is cut off"),
        (HEADER + bytes(9), r"the file holds more than the \(2, 2, 2\) that its header says"),
        (b"\1\0\10\3" + HEADER[4:] + bytes(8), "it starts with 01 00 08 03, so it is no IDX file"),
        (b"\0\0\7\3" + HEADER[4:] + bytes(8), ".*so it is no IDX file"),
        (b"\0\0\10\xff" + bytes(2000), ".*so it is no IDX file"),
        (b"<html>", ".*so it is no IDX file"),
        (b"", "it starts with nothing, so it is no IDX file"),
    ],
)
def test_broken_idx_files(tmp_path, content, complaint, zipped):
    (tmp_path / "x").write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=f"x: {complaint}.*download it again"):
        idx.read_idx(tmp_path / "x")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_promises_more_than_there_can_be_asks_for_no_memory(tmp_path, zipped):
    content = bytes([0, 0, 14, 3]) + struct.pack(">III", *3 * [2**32 - 1]) + bytes(100)
    (tmp_path / "x").write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(
        ValueError, match=r"the file is cut off: its header says \(4294967295, 4294967295, 4294967295\)"
    ):
        idx.read_idx(tmp_path / "x")


def test_gzip_that_is_cut_off_or_damaged(tmp_path):
    whole = gzip.compress(HEADER + bytes(range(8)))
    damaged = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    for content in (whole[:-9], whole[:-4], damaged):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match="x: the file is cut off or damaged"):
            idx.read_idx(tmp_path / "x")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("where", ["MNIST/raw", "MNIST", "mnist", "raw", ""])
def test_mnist_in_every_layout(tmp_path, where, ending):
    write_mnist(tmp_path / where, ending=ending, train=12)
    assert KNOWN["mnist"].find(tmp_path) == tmp_path / where
    train, test = KNOWN["mnist"].read(tmp_path, "")
    assert train.inputs.shape == (12, 28, 28, 1)
    assert test.inputs.shape == (10, 28, 28, 1)
    assert train.inputs.dtype == np.uint8
    np.testing.assert_array_equal(train.inputs[:, 0, 0, 0], np.arange(12))
    # Rows are rows.
    np.testing.assert_array_equal(train.inputs[:, 3, 17, 0], 255)
    np.testing.assert_array_equal(train.inputs[:, 17, 3, 0], np.arange(12))
    np.testing.assert_array_equal(train.labels, [*range(10), 0, 1])
    np.testing.assert_array_equal(train.clean_labels, train.labels)
    assert train.labels.dtype == np.int64
    assert train.class_names == tuple("0123456789")
    assert train.ids == tuple(str(row) for row in range(12))
    assert (train.name, train.augmentation) == ("mnist", ())


def test_dots_in_the_names_of_source_copies(tmp_path):
    write_mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(KNOWN["mnist"].read(tmp_path, "").train) == 10


def test_sets_whose_files_have_the_same_names_are_told_apart_by_their_folders(tmp_path):
    for name, where, names in [
        ("fashion-mnist", "FashionMNIST/raw", ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")),
        ("kmnist", "KMNIST/raw", ("o", "ki", "su", "tsu", "na")),
    ]:
        write_mnist(tmp_path / where, ending=".gz")
        train, test = KNOWN[name].read(tmp_path, "")
        assert train.class_names[:5] == test.class_names[:5] == names
        assert train.num_classes == 10
        assert KNOWN[name].find(tmp_path) == tmp_path / where
        # Its own folder given as the data folder.
        assert KNOWN[name].find(tmp_path / where) == tmp_path / where
        assert KNOWN["mnist"].find(tmp_path / where) is None
    assert KNOWN["mnist"].find(tmp_path) is None
    write_mnist(tmp_path / "flat" / "data")
    assert KNOWN["mnist"].find(tmp_path / "flat" / "data") == tmp_path / "flat" / "data"
    assert KNOWN["fashion-mnist"].find(tmp_path / "flat" / "data") is None


def write_labels(folder, labels):
    """As many images of one pixel as labels."""
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte", np.zeros((len(labels), 1, 1)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)


def test_mnist_and_its_balanced_namesakes_are_not_mistaken_for_each_other(tmp_path):
    balanced = np.repeat(np.arange(10), 6000)
    write_labels(tmp_path / "MNIST", balanced)
    with pytest.raises(ValueError, match="by its class counts this is Fashion-MNIST or KMNIST, not mnist"):
        KNOWN["mnist"].read(tmp_path, "")
    write_labels(tmp_path / "KMNIST", balanced)
    assert len(KNOWN["kmnist"].read(tmp_path, "").train) == 60_000
    write_labels(tmp_path / "FashionMNIST", np.append(balanced[1:], 9))
    with pytest.raises(ValueError, match="by its class counts this is MNIST, not fashion-mnist"):
        KNOWN["fashion-mnist"].read(tmp_path, "")


def test_files_that_are_missing_or_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no MNIST/raw/train-images-idx3-ubyte.*: catchment fetch mnist"):
        KNOWN["mnist"].read(tmp_path, "")
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte\(.gz\) is missing: catchment fetch mnist"):
        KNOWN["mnist"].read(tmp_path, "")
    for labels, complaint in [
        (np.arange(9), "9 labels for 10 images"),
        (np.arange(1, 11), "label 10 at 9 is none of 10 classes"),
        (np.zeros((10, 1)), r"it holds uint8 \(10, 1\), not labels"),
    ]:
        write_idx(folder / "t10k-labels-idx1-ubyte", labels)
        with pytest.raises(ValueError, match=f"t10k-labels-idx1-ubyte: {complaint}: catchment fetch mnist"):
            KNOWN["mnist"].read(tmp_path, "")
    write_idx(folder / "train-images-idx3-ubyte", np.zeros(10))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: it holds uint8 \(10,\), not images"):
        KNOWN["mnist"].read(tmp_path, "")


def write_letters(tree, per_letter=6):
    for number, letter in enumerate("ABCDEFGHIJ"):
        (tree / letter).mkdir(parents=True)
        for k in range(per_letter):
            name = base64.b64encode(f"Font {k}.ttf".encode()).decode()
            Image.fromarray(np.full((28, 28), 10 * number + k, np.uint8)).save(tree / letter / f"{name}.png")
    (tree / "A" / f"{base64.b64encode(b'Empty.ttf').decode()}.png").write_bytes(b"")


@pytest.mark.parametrize("where", ["notMNIST_small", "notMNIST_small/notMNIST_small", "ood/notMNIST_small"])
def test_notmnist_as_a_tree_of_letters(tmp_path, where):
    write_letters(tmp_path / where)
    assert KNOWN["notmnist"].find(tmp_path) == tmp_path / where
    train, test = KNOWN["notmnist"].read(tmp_path, "")
    assert (len(train), len(test)) == (48, 12)
    assert (train.skipped, test.skipped) == (1, 0)
    assert train.class_names == tuple("ABCDEFGHIJ")
    assert train.notes == (
        "left out 1 empty file, as published",
        "the published tree has one part only: 20 % of each class are held out as test part, always the same",
    )
    assert train.clean_labels is None
    for part in (train, test):
        np.testing.assert_array_equal(part.inputs[:, 0, 0, 0] // 10, part.labels)
        assert [identity[0] for identity in part.ids] == ["ABCDEFGHIJ"[label] for label in part.labels]
    assert not set(train.ids) & set(test.ids)
    assert KNOWN["notmnist"].read(tmp_path, "").test.ids == test.ids


def test_letters_that_are_broken_or_missing(tmp_path):
    write_letters(tmp_path / "notMNIST_small")
    (tmp_path / "notMNIST_small" / "C" / "broken.png").write_bytes(b"broken")
    with pytest.raises(
        ValueError, match=r"C/broken.png: this can't be read \(not an image\): catchment fetch notmnist"
    ):
        KNOWN["notmnist"].read(tmp_path, "")
    (tmp_path / "notMNIST_small" / "J").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="the folder J is missing"):
        KNOWN["notmnist"].read(tmp_path, "")
    with pytest.raises(FileNotFoundError, match="neither notMNIST_small/A nor notmnist/t10k"):
        KNOWN["notmnist"].read(tmp_path / "nowhere", "")


def test_notmnist_in_mnists_format(tmp_path):
    folder = tmp_path / "ood" / "notmnist"
    write_mnist(folder, ending=".gz", test=100)
    for path in folder.glob("train-*"):
        path.unlink()
    train, test = KNOWN["notmnist"].read(tmp_path, "")
    assert (len(train), len(test)) == (80, 20)
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 2))
    assert train.ids[:1] != ("0",)
    assert [int(identity) % 10 for identity in train.ids] == train.labels.tolist()
    assert train.notes[0].startswith("there are only the 10,000 test letters: 20 %")
    assert test.notes == ()

    write_mnist(folder, ending=".gz", train=30, test=100)
    train, test = KNOWN["notmnist"].read(tmp_path, "")
    assert (len(train), len(test), train.notes) == (30, 100, ())


def test_downloads_go_where_they_are_found(tmp_path):
    for name in ("mnist", "fashion-mnist", "kmnist"):
        for file in KNOWN[name].downloads:
            target = tmp_path / name / file.to
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"")
        assert KNOWN[name].find(tmp_path / name) == target.parent
        assert len({file.md5 for file in KNOWN[name].downloads}) == 4
