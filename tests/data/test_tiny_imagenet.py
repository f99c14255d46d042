import shutil

import numpy as np
import pytest
from published_formats_images import write_tiny_imagenet, write_tiny_imagenet_c

from catchment.data import tiny_imagenet
from catchment.data.image_files import ImageFiles

KNOWN = {known.info.name: known for known in tiny_imagenet.SETS}


def test_classes_are_sorted_and_images_stay_on_disk(tmp_path):
    folder = write_tiny_imagenet(tmp_path)
    assert KNOWN["tiny-imagenet"].find(tmp_path) == KNOWN["tiny-imagenet"].find(folder) == folder
    train, test = KNOWN["tiny-imagenet"].read(tmp_path, "sorted")
    assert isinstance(train.inputs, ImageFiles)
    assert train.inputs.shape == (12, 64, 64, 3)
    assert train.class_names == ("goldfish", "crane (n02)", "crane (n03)", "n04")
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(4), 3))
    assert train.ids[:4] == (*(f"train/n01/images/n01_{k}.JPEG" for k in range(3)), "train/n02/images/n02_0.JPEG")
    np.testing.assert_array_equal(train.inputs.decode(np.array([0]))[0], 77)  # a single channel becomes three
    assert abs(train.inputs.decode(np.array([1, 2])).mean(axis=(1, 2)) - [(40, 20, 200), (40, 40, 200)]).max() <= 3

    # In the order of the annotations, which is n03, n01, n04, n02.
    assert test.ids == tuple(f"val/images/val_{k}.JPEG" for k in range(4))
    np.testing.assert_array_equal(test.labels, [2, 0, 3, 1])
    np.testing.assert_array_equal(test.clean_labels, test.labels)
    assert abs(test.inputs.decode(np.arange(4))[:, 0, 0, 2].astype(int) - [0, 40, 80, 120]).max() <= 3
    assert test.class_names == train.class_names


def test_the_other_order_of_classes(tmp_path):
    write_tiny_imagenet(tmp_path)
    train, test = KNOWN["tiny-imagenet"].read(tmp_path, "wnids.txt")
    assert train.class_names == ("crane (n03)", "goldfish", "n04", "crane (n02)")
    np.testing.assert_array_equal(test.labels, [0, 1, 2, 3])
    assert train.ids[0] == "train/n03/images/n03_0.JPEG"
    assert KNOWN["tiny-imagenet"].info.variants == ("sorted", "wnids.txt")


@pytest.mark.parametrize("inner", ["", "images"])
def test_a_validation_part_that_was_rebuilt_into_class_folders(tmp_path, inner):
    folder = write_tiny_imagenet(tmp_path)
    for number, wnid in enumerate(("n03", "n01", "n04", "n02")):
        target = folder / "val" / wnid / inner
        target.mkdir(parents=True)
        shutil.move(folder / "val" / "images" / f"val_{number}.JPEG", target)
    (folder / "val" / "images").rmdir()
    test = KNOWN["tiny-imagenet"].read(tmp_path, "sorted").test
    np.testing.assert_array_equal(test.labels, [0, 1, 2, 3])
    assert [identity.split("/")[-1] for identity in test.ids] == [f"val_{k}.JPEG" for k in (1, 3, 0, 2)]


def test_names_are_wordnet_ids_without_the_words(tmp_path):
    (write_tiny_imagenet(tmp_path) / "words.txt").unlink()
    assert KNOWN["tiny-imagenet"].read(tmp_path, "sorted").train.class_names == ("n01", "n02", "n03", "n04")


def test_annotations_that_do_not_fit(tmp_path):
    folder = write_tiny_imagenet(tmp_path)
    path = folder / "val" / "val_annotations.txt"
    whole = path.read_text()
    for text, complaint in [
        (whole.replace("n04", "n09"), r", line 3: 'n09' is none of the classes in wnids.txt"),
        (whole.replace("val_1.", "val_9."), r", line 2: there is no image val/images/val_9.JPEG"),
        (whole[: whole.index("val_2.")], r": it names 2 of the 4 images"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"val_annotations.txt{complaint}: catchment fetch tiny-imagenet"):
            KNOWN["tiny-imagenet"].read(tmp_path, "sorted")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations.txt: there is no such file: catchment fetch tiny"):
        KNOWN["tiny-imagenet"].read(tmp_path, "sorted")


def test_files_and_folders_that_are_missing(tmp_path):
    assert KNOWN["tiny-imagenet"].find(tmp_path) is None
    with pytest.raises(
        FileNotFoundError, match=r"tiny-imagenet-200/wnids.txt is missing: catchment fetch tiny-imagenet"
    ):
        KNOWN["tiny-imagenet"].read(tmp_path, "sorted")
    folder = write_tiny_imagenet(tmp_path)
    shutil.rmtree(folder / "train" / "n02" / "images")
    with pytest.raises(FileNotFoundError, match=r"train/n02/images: there is no such folder: catchment fetch tiny"):
        KNOWN["tiny-imagenet"].read(tmp_path, "sorted")
    (folder / "train" / "n02" / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train/n02/images: there are no images in it"):
        KNOWN["tiny-imagenet"].read(tmp_path, "sorted")
    (folder / "wnids.txt").write_text("n01\nn01\n")
    with pytest.raises(ValueError, match=r"wnids.txt: it doesn't list each class once"):
        KNOWN["tiny-imagenet"].read(tmp_path, "sorted")


def test_corrupted_images_are_the_test_part(tmp_path):
    write_tiny_imagenet(tmp_path)
    assert KNOWN["tiny-imagenet-c"].find(tmp_path) is None
    write_tiny_imagenet_c(tmp_path)
    assert KNOWN["tiny-imagenet-c"].find(tmp_path) == tmp_path / "Tiny-ImageNet-C"
    train, test = KNOWN["tiny-imagenet-c"].read(tmp_path, "fog:3")
    assert len(train) == 12
    np.testing.assert_array_equal(test.labels, np.repeat(np.arange(4), 2))
    assert test.ids[:3] == ("fog/3/n01/test_0.JPEG", "fog/3/n01/test_1.JPEG", "fog/3/n02/test_0.JPEG")
    decoded = test.inputs.decode(np.arange(2))[:, 0, 0].astype(int)
    assert abs(decoded - [(150, 0, 0), (150, 100, 0)]).max() <= 3
    assert train.class_names == test.class_names
    assert train.name == test.name == "tiny-imagenet-c"
    assert len(KNOWN["tiny-imagenet-c"].info.variants) == 95


def test_corruptions_that_are_missing_or_of_other_classes(tmp_path):
    write_tiny_imagenet(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"Tiny-ImageNet-C/fog/3: there is no such folder: catchment fetch tiny-imagenet-c"
    ):
        KNOWN["tiny-imagenet-c"].read(tmp_path, "fog:3")
    write_tiny_imagenet_c(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Tiny-ImageNet-C/snow/3: there is no such folder"):
        KNOWN["tiny-imagenet-c"].read(tmp_path, "snow:3")
    fog = tmp_path / "Tiny-ImageNet-C" / "fog" / "3"
    (fog / "n04").rename(fog / "n08")
    with pytest.raises(
        ValueError, match=r"fog/3: its folders are not Tiny-ImageNet's classes, they differ in 'n04', 'n08'"
    ):
        KNOWN["tiny-imagenet-c"].read(tmp_path, "fog:3")
