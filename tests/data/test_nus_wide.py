import re

import numpy as np
import pytest
from published_formats_multilabel import CONCEPTS, write_nus_wide

from catchment.data import nus_wide
from catchment.data.nus_wide import read_nus_wide


@pytest.fixture
def root(tmp_path):
    return write_nus_wide(tmp_path / "NUS-WIDE")


def test_official_split_without_unlabelled_and_missing_images(root):
    train, test = read_nus_wide(root.parent)
    assert train.class_names == CONCEPTS
    assert train.ids == ("actor/0001_2124494179.jpg", "zoo/0002_12.jpg", "actor/0004_16.jpg")
    assert test.ids == ("actor/0002_174174086.jpg", "zoo/0004_15.jpg")
    np.testing.assert_array_equal(train.labels, [[1, 1, 0], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(test.labels, [[0, 1, 0], [1, 1, 1]])
    assert train.labels.dtype == np.uint8
    assert (train.skipped, test.skipped) == (1, 0)
    assert train.notes == (
        "5 images are listed, 1 of them without any label; 4 remain after leaving those out; "
        "1 more are left out because their files aren't in Flickr",
    )
    assert test.notes == ("3 images are listed, 1 of them without any label; 2 remain after leaving those out",)
    assert train.inputs.shape == (3, 224, 224, 3)


def test_each_row_has_its_own_image(root):
    train, test = read_nus_wide(root.parent, size=4, keep_unlabelled=True)
    # Red is 20 times the number of the image.
    np.testing.assert_allclose(train.inputs.decode(np.arange(4))[..., 0].mean(axis=(1, 2)), [0, 40, 60, 140], atol=3)
    np.testing.assert_allclose(test.inputs.decode(np.arange(3))[..., 0].mean(axis=(1, 2)), [20, 80, 120], atol=3)


def test_unlabelled_images_stay_on_request(root):
    train, test = read_nus_wide(root.parent, keep_unlabelled=True)
    assert train.ids[1] == "zoo/0001_11.jpg"
    np.testing.assert_array_equal(train.labels[1], [0, 0, 0])
    assert (len(train), len(test), train.skipped) == (4, 3, 1)
    assert train.notes[0].startswith("5 images are listed, 1 of them without any label; those are kept; 1 more are")


def test_own_lists_take_labels_from_the_whole(root, tmp_path):
    one, other = tmp_path / "train.txt", tmp_path / "test.txt"
    one.write_text("zoo/0004_15.jpg\nactor\\0001_2124494179.jpg\n\n")
    other.write_bytes(b"zoo\\0002_12.jpg\r\n")
    train, test = read_nus_wide(root.parent, train_list=one, test_list=other)
    assert train.ids == ("zoo/0004_15.jpg", "actor/0001_2124494179.jpg")
    np.testing.assert_array_equal(train.labels, [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(test.labels, [[0, 0, 1]])
    with pytest.raises(ValueError, match="only one of train_list and test_list is given"):
        read_nus_wide(root.parent, train_list=one)
    for content, message in (
        ("zoo/0004_15.jpg\nzoo/9.jpg\n", "1 images aren't in Imagelist.txt, 'zoo/9.jpg'"),
        ("\n", "it is empty"),
        ("..\\secret.jpg\n", "'../secret.jpg' leads out of the folder of images"),
    ):
        other.write_text(content)
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read_nus_wide(root.parent, train_list=one, test_list=other)
        assert str(caught.value).startswith(str(other))


@pytest.mark.parametrize("name", ["nus-wide", "nuswide", "NUS_WIDE"])
def test_layouts(tmp_path, name):
    known = nus_wide.SETS[0]
    assert known.find(tmp_path) is None
    root = write_nus_wide(tmp_path / name)
    (root / "ConceptsList" / "Concepts81.txt").rename(root / "Concepts81.txt")
    (root / "Flickr").rename(root / "images")
    assert known.find(tmp_path) == root
    train, test = known.read(tmp_path, "")
    assert (len(train), len(test)) == (3, 2)
    assert train.inputs.path(0).is_file()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "1\n0\n", "2 labels for 'sky', but TrainImagelist.txt"),
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "1\n0\n2\n0\n0\n", "a line is neither 0 nor 1"),
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "10\n1\n0\n1\n", "a line is neither 0 nor 1"),
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "1\n0\nx\n0\n0\n", "a line is neither 0 nor 1"),
        (
            "Groundtruth/TrainTestLabels/Labels_zebra_Test.txt",
            "",
            "0 labels for 'zebra', but TestImagelist.txt lists 3",
        ),
        ("ImageList/TrainImagelist.txt", "", "it lists no images"),
        ("ImageList/TrainImagelist.txt", "C:\\a.jpg\n" * 5, "leads out of the folder of images"),
        ("ConceptsList/Concepts81.txt", "\n", "it is empty or names a concept twice"),
        ("ConceptsList/Concepts81.txt", "sky\nsky\n", "it is empty or names a concept twice"),
        ("ConceptsList/Concepts81.txt", "../sky\n", "'../sky' is no concept"),
    ],
)
def test_broken_files_are_refused(root, path, content, message):
    (root / path).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_nus_wide(root.parent)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["Groundtruth/TrainTestLabels/Labels_sky_Test.txt", "ImageList/TestImagelist.txt", "ConceptsList/Concepts81.txt"],
)
def test_missing_files_are_named(root, path):
    (root / path).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path}: there is no such file: get it from https://lms"):
        read_nus_wide(root.parent)


def test_list_in_another_encoding(root):
    (root / "ImageList" / "TrainImagelist.txt").write_bytes(b"zoo\\\xe4.jpg\n")
    with pytest.raises(ValueError, match=r"TrainImagelist.txt: it isn't UTF-8 text"):
        read_nus_wide(root.parent)


def test_set_or_all_its_images_missing(root, tmp_path):
    (root / "Flickr").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"Flickr: none of the 4 images to read is there, 'actor/0001"):
        read_nus_wide(root.parent)
    (root / "Groundtruth").rename(root / "truth")
    with pytest.raises(FileNotFoundError, match="nus-wide isn't there: get it from https://lms"):
        read_nus_wide(tmp_path)


def test_record_states_the_official_split_after_the_removal():
    info = nus_wide.SETS[0].info
    assert info.train + info.test == 209347
    assert info.classes == 81
    assert nus_wide.SETS[0].downloads == ()
