import re

import numpy as np
import pytest
from PIL import Image

from catchment.data import InputFormat, load_data, load_inputs
from catchment.data.folder import read_class_folders, read_images


def paint(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        np.full(size, value, dtype=np.uint8) if np.isscalar(value) else np.full((*size, 3), value, np.uint8)
    ).save(path)


@pytest.fixture
def animals(tmp_path):
    """Ten cats of grey values 0..9, ten dogs of 100..109."""
    for row in range(10):
        paint(tmp_path / "animals" / "dog" / f"{row}.png", 100 + row)
        paint(tmp_path / "animals" / "cat" / f"{row}.png", row)
    return tmp_path / "animals"


def test_classes_and_files_are_read_in_the_order_of_their_names(animals):
    paint(animals / "cat" / "Z" / "deep.BMP", 77)
    paint(animals / "cat" / ".hidden.png", 1)
    paint(animals / ".thumbnails" / "x.png", 1)
    (animals / "cat" / "notes.txt").write_text("not an image")
    dataset = read_class_folders(animals)
    assert dataset.name == "animals"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.ids[9:12] == ("cat/9.png", "cat/Z/deep.BMP", "dog/0.png")
    np.testing.assert_array_equal(dataset.labels, [0] * 11 + [1] * 10)
    np.testing.assert_array_equal(dataset.inputs[:, 0, 0, 0], [*range(10), 77, *range(100, 110)])
    assert dataset.inputs.shape == (21, 4, 4, 1)
    assert dataset.notes == ()


def test_numbered_folders_sort_by_value(tmp_path):
    for name in ("10", "9"):
        paint(tmp_path / name / "a.png", 0)
    assert read_class_folders(tmp_path).class_names == ("9", "10")


def test_one_colour_image_makes_all_of_them_colour(animals):
    paint(animals / "dog" / "0.png", (1, 2, 3))
    dataset = read_class_folders(animals)
    assert dataset.inputs.shape == (20, 4, 4, 3)
    np.testing.assert_array_equal(dataset.inputs[10, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(dataset.inputs[9, 0, 0], [9, 9, 9])


def test_different_sizes_are_resized_and_it_is_noted_once(animals):
    paint(animals / "dog" / "0.png", 100, size=(6, 4))
    train, test = load_data(animals)
    assert train.inputs.shape == (16, 64, 64, 1)
    assert train.notes == ("images have 2 different sizes, so all are resized to 64 x 64 (choose with --image-size)",)
    assert test.notes == ()
    assert set(np.unique(train.inputs)) <= {*range(10), *range(100, 110)}


def test_image_size_is_the_side_of_a_square(animals):
    paint(animals / "dog" / "0.png", 100, size=(6, 4))
    dataset = read_class_folders(animals, image_size=5)
    assert dataset.inputs.shape == (20, 5, 5, 1)
    assert dataset.notes == ()
    with pytest.raises(ValueError, match="image_size is 0"):
        load_data(animals, image_size=0)


def test_a_fifth_is_held_out(animals):
    train, test = load_data(animals, seed=3)
    assert (len(train), len(test)) == (16, 4)
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert not set(train.ids) & set(test.ids)
    for part in (train, test):
        np.testing.assert_array_equal(part.inputs[:, 0, 0, 0] >= 100, part.labels == 1)


def test_unreadable_images_are_named_or_left_out_and_counted(animals):
    (animals / "cat" / "3.png").write_bytes(b"broken")
    whole = (animals / "dog" / "5.png").read_bytes()
    (animals / "dog" / "5.png").write_bytes(whole[:50])
    with pytest.raises(ValueError, match=r"cat/3.png can't be read \(not an image\): .*--skip-unreadable"):
        load_data(animals)
    dataset = read_class_folders(animals, skip_unreadable=True)
    assert dataset.skipped == 2
    assert len(dataset) == len(dataset.ids) == 18
    np.testing.assert_array_equal(
        dataset.inputs[:, 0, 0, 0], [0, 1, 2, *range(4, 10), *range(100, 105), *range(106, 110)]
    )
    np.testing.assert_array_equal(dataset.labels, [0] * 9 + [1] * 9)
    train, test = load_data(animals, skip_unreadable=True)
    assert (train.skipped, test.skipped) == (2, 0)


def test_a_class_of_unreadable_images_only(animals):
    for file in (animals / "dog").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="no image of class 'dog' can be read"):
        load_data(animals, skip_unreadable=True)


def test_folders_that_hold_no_classes(tmp_path):
    with pytest.raises(ValueError, match="no class folders in it: put the images of each class in a folder"):
        load_data(tmp_path)
    paint(tmp_path / "cat" / "a.png", 0)
    with pytest.raises(ValueError, match="only one class folder, 'cat': give a folder for each"):
        load_data(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"class folder 'dog' holds no images \(.bmp .gif"):
        load_data(tmp_path)


def test_a_folder_around_the_class_folders(animals):
    with pytest.raises(ValueError, match=re.escape(f"only one class folder, 'animals': did you mean {animals}?")):
        load_data(animals.parent)


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "validation"), ("train",)])
def test_folders_of_splits_are_recognised(tmp_path, names):
    for name in names:
        (tmp_path / name / "cat").mkdir(parents=True)
    test = names[1] if len(names) > 1 else "test"
    expected = f"looks like splits: pass --data {tmp_path / names[0]} --test {tmp_path / test}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_data(tmp_path)


def test_images_beside_the_class_folders_are_noted(animals):
    paint(animals / "a.png", 0)
    paint(animals / "b.png", 0)
    dataset = read_class_folders(animals)
    assert len(dataset) == 20
    assert dataset.notes == ("left out 2 image files beside the class folders",)


def test_a_test_folder_is_matched_to_training(animals, tmp_path):
    paint(tmp_path / "new" / "dog" / "a.png", (5, 5, 5), size=(9, 9))
    paint(tmp_path / "new" / "bird" / "a.png", 7)
    train, test = load_data(animals, test=tmp_path / "new")
    assert len(train) == 20
    assert test.class_names == ("cat", "dog")
    assert test.inputs.shape == (2, 4, 4, 1)
    np.testing.assert_array_equal(test.labels, [-1, 1])
    np.testing.assert_array_equal(test.inputs[:, 0, 0, 0], [7, 5])
    assert test.notes == ("1 row has a label not seen in training ('bird'): read as none of the classes",)


def test_a_test_folder_of_other_classes_only(animals, tmp_path):
    paint(tmp_path / "new" / "bird" / "a.png", 7)
    with pytest.raises(ValueError, match="no label in it is one of training's classes \\('cat', 'dog'\\)"):
        load_data(animals, test=tmp_path / "new")


FORM = InputFormat("image", (2, 2, 3), None, ("cat", "dog"))


def test_images_to_predict_for_may_lie_anywhere(tmp_path):
    paint(tmp_path / "b.png", 2)
    paint(tmp_path / "a" / "deep" / "c.png", (1, 2, 3), size=(8, 8))
    dataset = load_inputs(tmp_path, FORM)
    assert dataset.ids == ("a/deep/c.png", "b.png")
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.labels, [-100, -100])
    np.testing.assert_array_equal(dataset.inputs[:, 0, 0], [[1, 2, 3], [2, 2, 2]])


def test_class_folders_to_predict_for_give_labels(tmp_path):
    for name in ("dog/a.png", "bird/a.png", "loose.png"):
        paint(tmp_path / name, 1)
    dataset = read_images(tmp_path, FORM)
    assert dict(zip(dataset.ids, dataset.labels.tolist(), strict=True)) == {
        "bird/a.png": -1,
        "dog/a.png": 1,
        "loose.png": -100,
    }


def test_unreadable_images_to_predict_for(tmp_path):
    with pytest.raises(ValueError, match="there are no images in it"):
        load_inputs(tmp_path, FORM)
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a.png can't be read"):
        load_inputs(tmp_path, FORM)
    with pytest.raises(ValueError, match="none of its 1 image files can be read"):
        load_inputs(tmp_path, FORM, skip_unreadable=True)
    paint(tmp_path / "b.png", 1)
    dataset = load_inputs(tmp_path, FORM, skip_unreadable=True)
    assert (dataset.ids, dataset.skipped) == (("b.png",), 1)
