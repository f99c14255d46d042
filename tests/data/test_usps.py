import bz2

import numpy as np
import pytest
from published_formats_images import write_usps_text
from scipy.io import savemat

from catchment.data import usps

KNOWN = {known.info.name: known for known in usps.SETS}["usps"]


@pytest.mark.parametrize("where", ["", "usps", "USPS", "ood"])
def test_libsvm_text_places_values_by_index(tmp_path, where):
    write_usps_text(tmp_path / where)
    assert KNOWN.find(tmp_path) == tmp_path / where / "usps.bz2"
    train, test = KNOWN.read(tmp_path, "")
    assert train.inputs.shape == (5, 16, 16, 1)
    assert test.inputs.shape == (4, 16, 16, 1)
    # Index 20 is row 1, column 3; the one left out is 0 of -1..1, which is 127.5, truncated.
    np.testing.assert_array_equal(train.inputs[:, 1, 3, 0], 255)
    np.testing.assert_array_equal(train.inputs[:, 1, 4, 0], 127)
    rest = np.ones((16, 16), bool)
    rest[1, 3:5] = False
    np.testing.assert_array_equal(train.inputs[:, rest, 0], 0)
    np.testing.assert_array_equal(train.labels, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(test.labels, [0, 1, 2, 3])
    assert train.class_names == tuple("0123456789")
    assert train.notes == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 1:0\n2 257:1\n", "line 2: no pairs of an index from 1 to 256 and a value"),
        ("1 0:1\n", "line 1: no pairs"),
        ("1 1:0.5 2\n", "line 1: no pairs"),
        ("\n", "line 1: no pairs"),
        ("1 1:0.5\n1 1:1.5\n", "line 2: a value outside -1 to 1"),
        ("1 1:nan\n", "line 1: a value outside -1 to 1"),
        ("1 1:abc\n", "line 1: could not convert"),
        ("1 1:0\n11 1:0\n", "line 2 has label 11, none of 1 to 10"),
        ("0 1:0\n", "line 1 has label 0, none of 1 to 10"),
        ("", "it is empty"),
    ],
)
def test_text_that_is_wrong(tmp_path, text, complaint):
    write_usps_text(tmp_path, text)
    with pytest.raises(ValueError, match=rf"usps.bz2(, |: ){complaint}.*: catchment fetch usps"):
        KNOWN.read(tmp_path, "")


def test_text_that_is_missing_or_cut_off(tmp_path):
    assert KNOWN.find(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"neither usps.bz2 nor usps_all.mat is in it: catchment fetch usps"):
        KNOWN.read(tmp_path, "")
    write_usps_text(tmp_path)
    path = tmp_path / "usps.t.bz2"
    for content in (bz2.compress(b"1 1:0\n" * 100)[:-5], b"1 1:0\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"usps.t.bz2: the file is cut off or no bzip2 file"):
            KNOWN.read(tmp_path, "")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"usps.t.bz2: there is no such file: catchment fetch usps"):
        KNOWN.read(tmp_path, "")


def matrix(digits):
    """A row per digit: the pixels count up, but for the first one, which is the digit."""
    rows = np.tile(np.append(np.arange(256), 0).astype(np.uint8), (len(digits), 1))
    rows[:, 0], rows[:, 256] = digits, np.asarray(digits) + 1
    return rows


def test_a_matrix_without_the_published_order_is_split_by_class(tmp_path):
    (tmp_path / "ood").mkdir()
    savemat(tmp_path / "ood" / "usps_all.mat", {"usps_all": matrix(np.repeat(np.arange(10), 10))})
    train, test = KNOWN.read(tmp_path, "")
    assert (len(train), len(test)) == (80, 20)
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 2))
    assert train.notes == (
        "the matrix says nothing of a split: 20 % of each class are held out as test part, always the same",
    )
    for part in (train, test):
        np.testing.assert_array_equal(part.inputs[:, 0, 0, 0], part.labels)
        np.testing.assert_array_equal(part.inputs[:, 1, 3, 0], 19)
        np.testing.assert_array_equal([int(identity) // 10 for identity in part.ids], part.labels)
    assert KNOWN.read(tmp_path, "").test.ids == test.ids


def test_a_matrix_in_the_published_order_has_the_published_split(tmp_path):
    train_counts = (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644)
    digits = np.append(np.repeat(np.arange(10), train_counts), [9, 9, 3])
    savemat(tmp_path / "usps_all.mat", {"usps_all": matrix(digits)}, do_compression=True)
    train, test = KNOWN.read(tmp_path, "")
    assert (len(train), test.labels.tolist()) == (7291, [9, 9, 3])
    assert test.ids == ("7291", "7292", "7293")
    assert train.notes == ("the first 7291 rows are the training part: they have the published count of each digit",)


def test_matrices_that_do_not_fit(tmp_path):
    path = tmp_path / "usps_all.mat"
    good = matrix([0, 1])
    for content, complaint in [
        ({}, "it holds nothing, not one uint8 matrix"),
        ({"a": good[:, :256]}, r"it holds a uint8 \(2, 256\), not one uint8 matrix \(N, 257\)"),
        ({"a": good.astype(float)}, "it holds a float64"),
        ({"a": good, "b": good}, r"it holds a uint8 \(2, 257\), b uint8 \(2, 257\)"),
        ({"a": good + np.append(np.zeros(256, np.uint8), 9).astype(np.uint8)}, "row 2 has label 11, none of 1 to 10"),
    ]:
        savemat(path, content)
        with pytest.raises(ValueError, match=rf"usps_all.mat: {complaint}.*: catchment fetch usps"):
            KNOWN.read(tmp_path, "")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"usps_all.mat: this is not a whole MATLAB 5 file"):
        KNOWN.read(tmp_path, "")


def test_the_published_text_is_preferred_to_the_matrix(tmp_path):
    savemat(tmp_path / "usps_all.mat", {"usps_all": matrix(np.repeat(np.arange(10), 10))})
    write_usps_text(tmp_path / "usps")
    assert len(KNOWN.read(tmp_path, "").train) == 5
