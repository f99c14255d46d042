import pytest
from published_formats_large import CLOTHING, write_clothing1m

from catchment.data.clothing1m import CLASSES, SETS, find_clothing1m, read_clothing1m

PATHS = list(CLOTHING)


@pytest.mark.parametrize("images", ["images/", ""])
@pytest.mark.parametrize("annotations", [False, True])
def test_noisy_training_part_and_clean_test_part(tmp_path, images, annotations):
    root = write_clothing1m(tmp_path, images=images, annotations=annotations)
    train, test = read_clothing1m(tmp_path)
    assert train.ids == tuple(PATHS[:4])  # with the commas in their names
    assert train.labels.tolist() == [0, 13, 5, 5]
    assert train.clean_labels is None
    assert test.ids == tuple(PATHS[9:])
    assert test.labels.tolist() == test.clean_labels.tolist() == [8, 9, 0]  # not 7, the first one's noisy label
    assert train.inputs.path(0) == root / PATHS[0].replace("images/", images)
    assert train.inputs.decode([0, 3]).shape == (2, 224, 224, 3)
    assert (train.class_names, train.augmentation) == (CLASSES, ("random-crop", "flip"))


def test_clean_training_part_has_the_labels_of_people(tmp_path):
    write_clothing1m(tmp_path, name="Clothing1M")
    train, _ = read_clothing1m(tmp_path, "clean")
    assert train.labels.tolist() == train.clean_labels.tolist() == [2, 3, 4, 5]  # not 1, the first one's noisy label
    assert train.name == "clothing1m:clean"


def test_an_image_without_label_is_named(tmp_path):
    root = write_clothing1m(tmp_path)
    with (root / "noisy_train_key_list.txt").open("a") as file:
        file.write("images/0/00/999,9.jpg\n")
    with pytest.raises(
        ValueError, match=r"noisy_train_key_list.txt: images/0/00/999,9.jpg has no label in noisy_label"
    ):
        read_clothing1m(tmp_path)


@pytest.mark.parametrize("line", ["images/0/00/1,1.jpg 14", "images/0/00/1,1.jpg", "images/0/00/1,1.jpg -1", "3"])
def test_a_line_that_is_no_path_and_label_is_named(tmp_path, line):
    root = write_clothing1m(tmp_path)
    with (root / "clean_label_kv.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"clean_label_kv.txt: line 9 is '.*', not a path and a label below 14"):
        read_clothing1m(tmp_path)


def test_missing_lists_and_images_are_one_line(tmp_path):
    root = write_clothing1m(tmp_path)
    (root / PATHS[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 listed images are not there .*: unpack all of its ten tars"):
        read_clothing1m(tmp_path)
    assert len(read_clothing1m(tmp_path, "clean").train) == 4
    (root / "clean_label_kv.txt").unlink()
    with pytest.raises(FileNotFoundError, match="clean_label_kv.txt is not there"):
        read_clothing1m(tmp_path, "clean")
    assert find_clothing1m(tmp_path) == root
    (root / "clean_test_key_list.txt").unlink()
    assert find_clothing1m(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="clothing1m is not in .*: get it from https://github.com/Cysu"):
        read_clothing1m(tmp_path)


def test_the_record():
    (known,) = SETS
    assert (known.info.classes, known.info.train, known.info.test) == (14, 1_000_000, 10_526)
    assert len(CLASSES) == 14
