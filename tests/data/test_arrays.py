import re
import zipfile

import numpy as np
import pytest

from catchment.data import InputFormat, load_data, load_inputs
from catchment.data.arrays import read_arrays


@pytest.fixture
def save(tmp_path):
    def save(name="own.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
TABLE = np.arange(8).reshape(4, 2)
LABELS = np.array([0, 1, 0, 1])


def test_grey_images_get_a_channel(save):
    for images in (IMAGES, IMAGES[..., None]):
        dataset = read_arrays(save(X=images, y=LABELS))
        np.testing.assert_array_equal(dataset.inputs, IMAGES[..., None])
        assert dataset.name == "own"
        assert dataset.ids == ("0", "1", "2", "3")
        assert dataset.clean_labels is None


def test_colour_images_are_kept(save):
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    np.testing.assert_array_equal(read_arrays(save(X=images, y=LABELS)).inputs, images)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_tables_become_float32(save, dtype):
    dataset = read_arrays(save(X=TABLE.astype(dtype), y=LABELS))
    assert dataset.inputs.dtype == np.float32
    np.testing.assert_array_equal(dataset.inputs, TABLE.astype(dtype).astype(np.float32))


def test_integer_labels_sort_by_value_and_special_ones_keep_their_meaning(save):
    dataset = read_arrays(save(X=np.zeros((6, 1)), y=np.array([10, 2, -1, 10, -100, 7], dtype=np.int32)))
    assert dataset.class_names == ("2", "7", "10")
    np.testing.assert_array_equal(dataset.labels, [2, 0, -1, 2, -100, 1])
    assert dataset.labels.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.str_, np.bytes_])
def test_text_labels_and_clean_labels_share_names(save, dtype):
    given, clean = np.array(["b", "a", "b"], dtype=dtype), np.array(["a", "a", "c"], dtype=dtype)
    dataset = read_arrays(save(X=np.zeros((3, 1)), y=given, y_clean=clean))
    assert dataset.class_names == ("a", "b")
    np.testing.assert_array_equal(dataset.labels, [1, 0, 1])
    np.testing.assert_array_equal(dataset.clean_labels, [0, 0, -1])


def test_class_names_make_integers_positions(save):
    names = np.array(["zebra", "ant", "newt"])
    dataset = read_arrays(save(X=TABLE, y=np.array([0, 2, -1, 0]), y_clean=np.array([1, 2, 0, 0]), class_names=names))
    assert dataset.class_names == ("zebra", "ant", "newt")
    np.testing.assert_array_equal(dataset.labels, [0, 2, -1, 0])
    np.testing.assert_array_equal(dataset.clean_labels, [1, 2, 0, 0])
    texts = read_arrays(save(X=TABLE, y=np.array(["ant", "newt", "ant", "zebra"]), class_names=names))
    np.testing.assert_array_equal(texts.labels, [1, 2, 1, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": TABLE}, "there is no y in it, only 'X'"),
        ({"data": TABLE, "target": LABELS}, "there is no X and no y in it, only 'data', 'target'"),
        ({"X": TABLE, "y": LABELS[:3]}, "4 inputs but 3 labels"),
        ({"X": TABLE, "y": LABELS, "y_clean": LABELS[:3]}, "4 inputs but 3 clean_labels"),
        ({"X": TABLE, "y": LABELS[:, None]}, r"y has shape \(4, 1\): give one label per row"),
        ({"X": TABLE, "y": LABELS / 2}, "y holds float64: give labels as whole numbers or text"),
        ({"X": TABLE, "y": np.array([0, 1, -2, 1])}, r"y\[2\] is -2: labels are 0 or more"),
        ({"X": TABLE, "y": np.array(["a", None, "b", "a"], dtype=object)}, "y holds Python objects, which are never"),
        ({"X": TABLE.astype(object), "y": LABELS}, "X holds Python objects"),
        ({"X": TABLE.astype(str), "y": LABELS}, "X holds <U21, not numbers: encode"),
        ({"X": LABELS, "y": LABELS}, r"X has shape \(4,\): give a table \(N, D\)"),
        ({"X": IMAGES / 255, "y": LABELS}, r"X is float64 \(4, 2, 3\): give images as uint8 0..255 \(N, H, W, C\)"),
        ({"X": IMAGES[..., None] / 255, "y": LABELS}, r"give images as uint8 0..255 \(N, H, W, C\)"),
        ({"X": np.zeros((4, 3, 8, 8), np.uint8), "y": LABELS}, r"save X.transpose\(0, 2, 3, 1\)"),
        ({"X": np.zeros((4, 8, 8, 4), np.uint8), "y": LABELS}, r"save X\[..., :3\], without the alpha"),
        ({"X": np.zeros((4, 8, 8, 2), np.uint8), "y": LABELS}, "give 1 or 3 channels"),
        ({"X": np.zeros((4, 0)), "y": LABELS}, "X has no features"),
        ({"X": np.zeros((0, 2)), "y": LABELS[:0]}, "X has no rows"),
        ({"X": np.array([[1, 2], [3, np.nan]]), "y": LABELS[:2]}, r"X\[1, 1\] \(row 1, column 1.*is nan"),
        ({"X": np.array([[1, -np.inf]]), "y": LABELS[:1]}, r"X\[0, 1\].*is -inf"),
        ({"X": np.array([[1e300]]), "y": LABELS[:1]}, r"X\[0, 0\].*is 1e\+300, not a finite 32-bit number"),
        ({"X": TABLE, "y": LABELS, "class_names": np.array(["a"])}, r"y\[1\] is 1, but class_names has 1 names"),
        ({"X": TABLE, "y": LABELS, "class_names": np.array(["a", "a"])}, "class_names has 'a' more than once"),
        ({"X": TABLE, "y": LABELS, "class_names": np.array([["a", "b"]])}, "give one name per class"),
        (
            {"X": TABLE, "y": np.array(list("abac")), "class_names": np.array(["a", "b"])},
            "y has 'c', not in class_names",
        ),
        ({"X": TABLE, "y": np.array([b"a", b"\xff", b"a", b"a"])}, "y holds bytes that are not UTF-8"),
        ({"X": TABLE, "y": np.zeros(4, int)}, "only one class, '0'"),
        ({"X": TABLE, "y": np.arange(4)}, "4 classes for 4 samples: are the labels in y right"),
    ],
)
def test_errors_name_what_is_wrong(save, arrays, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_data(save(**arrays))
    assert "\n" not in str(raised.value)


def test_files_that_are_no_npz(tmp_path, save):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"this is not an .npz file"):
        load_data(tmp_path / "text.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, TABLE)
    with pytest.raises(ValueError, match=r"this is not an .npz file"):
        load_data(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("X.npy", b"no array")
        archive.writestr("y.npy", b"no array")
    with pytest.raises(ValueError, match="X is not an array: write the file again"):
        load_data(tmp_path / "zip.npz")


def test_damaged_array(save):
    path = save(X=np.zeros((50, 50)), y=np.arange(50))
    content = bytearray(path.read_bytes())
    content[1000:1100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"this .npz file is damaged: write it again"):
        load_data(path)


def test_columns_cannot_be_dropped_nor_a_table_resized(save):
    path = save(X=TABLE, y=LABELS)
    with pytest.raises(ValueError, match=r"only .csv and .parquet have columns to drop"):
        load_data(path, drop_columns=["a"])
    with pytest.raises(ValueError, match="--image-size has nothing to resize"):
        load_data(path, image_size=8)


def test_images_are_resized_on_request(save):
    train, test = load_data(save(X=np.full((20, 6, 8), 9, np.uint8), y=np.arange(20) % 2), image_size=4)
    assert (train.inputs.shape, test.inputs.shape) == ((16, 4, 4, 1), (4, 4, 4, 1))
    assert np.unique(train.inputs).tolist() == [9]


def test_special_labels_in_the_held_out_part(save):
    labels = np.array([0, 1] * 10 + [-100] * 3 + [-1])
    train, test = load_data(save(X=np.arange(24.0)[:, None], y=labels))
    assert (len(train), len(test)) == (20, 4)
    assert test.labels.min() == 0
    assert sorted(train.labels.tolist())[:4] == [-100, -100, -100, -1]


def test_test_part_matches_names(save):
    train_path = save("a.npz", X=TABLE, y=np.array([3, 5, 3, 5]))
    test_path = save("b.npz", X=TABLE[:3], y=np.array([5, 4, -100]), y_clean=np.array([5, 3, 3]))
    test = load_data(train_path, test=test_path).test
    np.testing.assert_array_equal(test.labels, [1, -1, -100])
    np.testing.assert_array_equal(test.clean_labels, [1, 0, 0])
    assert test.class_names == ("3", "5")
    assert test.notes == ("1 row has a label not seen in training ('4'): read as none of the classes",)


def test_integers_are_positions_where_training_has_names(save):
    names = np.array(["cat", "dog"])
    train_path = save("a.npz", X=TABLE, y=LABELS, class_names=names)
    test = load_data(train_path, test=save("b.npz", X=TABLE[:3], y=np.array([1, 0, 2]))).test
    np.testing.assert_array_equal(test.labels, [1, 0, -1])
    swapped = save("c.npz", X=TABLE[:2], y=np.array([1, 0]), class_names=names[::-1])
    np.testing.assert_array_equal(load_data(train_path, test=swapped).test.labels, [0, 1])


def test_rows_to_predict_for(save):
    images = InputFormat("image", (4, 6, 3), None, ("0", "1"))
    dataset = load_inputs(save(X=np.full((3, 2, 3), 8, np.uint8)), images)
    assert dataset.inputs.shape == (3, 4, 6, 3)
    assert np.unique(dataset.inputs).tolist() == [8]
    assert dataset.labels.tolist() == [-100] * 3
    assert dataset.class_names == ("0", "1")

    table = InputFormat("table", (2,), ("x", "y"), ("0", "1"))
    dataset = load_inputs(save(X=TABLE, y=np.array([1, 0, 9, -1])), table)
    np.testing.assert_array_equal(dataset.inputs, TABLE)
    assert dataset.labels.tolist() == [1, 0, -1, -1]
    assert dataset.feature_names == ("x", "y")

    with pytest.raises(ValueError, match="holds a table of 1 features, but the model takes a table of 2 features"):
        load_inputs(save(X=TABLE[:, :1]), table)
    expected = re.escape("holds a table of 2 features, but the model takes images of 4 x 6 with 3 channels")
    with pytest.raises(ValueError, match=expected):
        load_inputs(save(X=TABLE), images)
    with pytest.raises(ValueError, match="there is no X in it, only 'y'"):
        load_inputs(save(y=LABELS), table)
