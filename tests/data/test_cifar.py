import pickle

import numpy as np
import pytest
from published_formats_images import (
    CIFAR10_NAMES,
    CIFAR100_COARSE,
    CIFAR100_FINE,
    cifar_rows,
    python2_pickle,
    write_cifar10,
    write_cifar100,
)

from catchment.data import cifar

KNOWN = {known.info.name: known for known in cifar.SETS}
STYLES = ("python2", "str", "bytes")


def check_planes(images):
    """Red is the number, green the row, blue 100 + the column: read as rows of pixels it would be scrambled."""
    assert images.dtype == np.uint8
    assert images.flags.c_contiguous
    np.testing.assert_array_equal(
        images[..., 0], np.broadcast_to(np.arange(len(images))[:, None, None], images.shape[:3])
    )
    np.testing.assert_array_equal(images[..., 1], np.broadcast_to(np.arange(32)[:, None], images.shape[:3]))
    np.testing.assert_array_equal(images[..., 2], np.broadcast_to(100 + np.arange(32), images.shape[:3]))


@pytest.mark.parametrize("style", STYLES)
def test_cifar10_as_published_and_as_written_anew(tmp_path, style):
    folder = write_cifar10(tmp_path, style=style)
    assert KNOWN["cifar10"].find(tmp_path) == KNOWN["cifar10"].find(folder) == folder
    train, test = KNOWN["cifar10"].read(tmp_path, "")
    assert train.inputs.shape == (20, 32, 32, 3)
    assert test.inputs.shape == (4, 32, 32, 3)
    check_planes(train.inputs)
    check_planes(test.inputs)
    # Batch 1 to 5, in that order.
    np.testing.assert_array_equal(train.labels, np.arange(20) % 10)
    np.testing.assert_array_equal(test.labels, np.arange(4))
    np.testing.assert_array_equal(train.clean_labels, train.labels)
    assert train.class_names == CIFAR10_NAMES
    assert train.ids == tuple(str(row) for row in range(20))
    assert train.augmentation == ("crop:4", "flip")


@pytest.mark.parametrize("style", STYLES)
def test_cifar100_with_fine_and_coarse_classes(tmp_path, style):
    folder = write_cifar100(tmp_path, style=style)
    assert KNOWN["cifar100"].find(tmp_path) == KNOWN["cifar100"].find(folder) == folder
    for variant, classes, labels in (("fine", 100, CIFAR100_FINE), ("coarse", 20, CIFAR100_COARSE)):
        train, test = KNOWN["cifar100"].read(tmp_path, variant)
        check_planes(train.inputs)
        np.testing.assert_array_equal(train.labels, labels)
        np.testing.assert_array_equal(test.labels, labels[:4])
        assert train.num_classes == classes
        assert train.class_names[1] == f"{variant}_01"
        assert train.labels.dtype == np.int64
    assert KNOWN["cifar100"].info.variants[0] == "fine"


def test_nothing_there(tmp_path):
    for name in ("cifar10", "cifar100"):
        assert KNOWN[name].find(tmp_path) is None
        with pytest.raises(FileNotFoundError, match=rf"meta: there is no such file: catchment fetch {name}$"):
            KNOWN[name].read(tmp_path, "fine")


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_that_is_missing_or_cut_off(tmp_path, file):
    path = write_cifar10(tmp_path) / file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{file}: this pickle is broken or cut off"):
        KNOWN["cifar10"].read(tmp_path, "")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file}: there is no such file: catchment fetch cifar10"):
        KNOWN["cifar10"].read(tmp_path, "")


ROWS = cifar_rows(4)


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ({"data": ROWS}, "there is no 'labels' in it, only data"),
        ({"labels": [0, 1, 2, 3]}, r"its 'data' are no array, not uint8 \(4, 3072\)"),
        ({"labels": [0, 1, 2], "data": ROWS}, r"its 'data' are uint8 \(4, 3072\), not uint8 \(3, 3072\)"),
        ({"labels": [0, 1, 2, 3], "data": ROWS[:, :100]}, r"its 'data' are uint8 \(4, 100\)"),
        ({"labels": [0, 1, 2, 3], "data": ROWS.astype(np.int16)}, r"its 'data' are int16"),
        ({"labels": [0, 10, 2, 3], "data": ROWS}, r"labels\[1\] is 10, none of 10 classes"),
        ({"labels": [0, 1, -1, 3], "data": ROWS}, r"labels\[2\] is -1"),
        ({"labels": [0, "1", 2, 3], "data": ROWS}, r"'labels' is no list of whole numbers"),
        ({"labels": 3, "data": ROWS}, r"'labels' is no list of whole numbers"),
    ],
)
def test_batches_that_do_not_fit(tmp_path, batch, complaint):
    (write_cifar10(tmp_path) / "data_batch_2").write_bytes(python2_pickle(batch))
    with pytest.raises(ValueError, match=f"data_batch_2: {complaint}.*: catchment fetch cifar10"):
        KNOWN["cifar10"].read(tmp_path, "")


def test_class_names_that_are_missing(tmp_path):
    meta = write_cifar10(tmp_path) / "batches.meta"
    for content in ({"num_vis": 3072}, {"label_names": []}, {"label_names": [1, 2]}):
        meta.write_bytes(python2_pickle(content))
        with pytest.raises(ValueError, match=r"batches.meta: there is no list of names 'label_names' in it"):
            KNOWN["cifar10"].read(tmp_path, "")


def test_the_number_of_classes_is_the_files(tmp_path):
    folder = write_cifar10(tmp_path, per_batch=1, test=1)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcde")}, protocol=2))
    assert KNOWN["cifar10"].read(tmp_path, "").train.class_names == tuple("abcde")


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    folder = write_cifar10(tmp_path)
    witness = tmp_path / "witness"
    command = f"touch {witness}".encode()
    call = b"cos\nsystem\nU" + bytes([len(command)]) + command + b"\x85R"
    (folder / "data_batch_4").write_bytes(b"\x80\x02}U\x06labels" + call + b"s.")
    with pytest.raises(ValueError, match=r"data_batch_4: this pickle asks for os.system, which no published one does"):
        KNOWN["cifar10"].read(tmp_path, "")
    assert not witness.exists()
