import numpy as np
import pytest
from published_formats_images import write_svhn
from scipy.io import savemat

from catchment.data import svhn

KNOWN = {known.info.name: known for known in svhn.SETS}["svhn"]


@pytest.mark.parametrize("where", ["", "SVHN", "svhn"])
def test_images_are_turned_and_label_10_is_the_digit_0(tmp_path, where):
    write_svhn(tmp_path / where)
    assert KNOWN.find(tmp_path) == tmp_path / where
    for part in KNOWN.read(tmp_path, ""):
        assert part.inputs.shape == (6, 32, 32, 3)
        assert part.inputs.flags.c_contiguous
        np.testing.assert_array_equal(part.inputs[:, 3, 17, 2], 200 + np.arange(6))
        np.testing.assert_array_equal(part.inputs[:, 17, 3, 2], np.arange(6))
        np.testing.assert_array_equal(part.inputs[:, 3, 17, 0], np.arange(6))
        np.testing.assert_array_equal(part.labels, [0, 1, 2, 9, 0, 3])
        np.testing.assert_array_equal(part.clean_labels, part.labels)
        assert part.class_names == tuple("0123456789")
        assert part.augmentation == ("crop:4",)
        assert part.ids == tuple("012345")


IMAGES, LABELS = np.zeros((32, 32, 3, 2), np.uint8), np.array([[1], [2]], np.uint8)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"X": IMAGES}, "there is no 'y' in it"),
        ({"y": LABELS}, "there is no 'X' in it"),
        ({"X": IMAGES.transpose(3, 0, 1, 2), "y": LABELS}, r"X is uint8 \(2, 32, 32, 3\), not images uint8"),
        ({"X": IMAGES.astype(float), "y": LABELS}, "X is float64"),
        ({"X": IMAGES, "y": LABELS[:1]}, r"y is \(1, 1\) for 2 images"),
        ({"X": IMAGES, "y": LABELS - 1}, "label 0 at 0 is none of 1 to 10"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(tmp_path, content, complaint):
    write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", content)
    with pytest.raises(ValueError, match=f"test_32x32.mat: {complaint}.*: catchment fetch svhn"):
        KNOWN.read(tmp_path, "")


def test_files_that_are_missing_or_cut_off(tmp_path):
    assert KNOWN.find(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"train_32x32.mat: there is no such file: catchment fetch svhn"):
        KNOWN.read(tmp_path, "")
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"no matrix" * 30):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"test_32x32.mat: this is not a whole MATLAB 5 file \(.*\): catchment fetch svhn"
        ):
            KNOWN.read(tmp_path, "")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"test_32x32.mat: there is no such file"):
        KNOWN.read(tmp_path, "")
