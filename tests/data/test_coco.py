import copy
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from published_formats_multilabel import COLOURS, IMAGE_IDS, coco_content, write_coco, write_coco_json

from catchment.data import coco
from catchment.data.coco import read_coco, read_coco_json, read_tiny_coco, stays_below

REAL = os.environ.get("CATCHMENT_DATA")
NAMES = ("person", "bicycle", "stop sign", "toothbrush")
# Images in ascending order of their ids: 7, 8, 9, 42, 100, 524291.
LABELS = np.array([[0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0]])


@pytest.fixture
def write(tmp_path):
    """Writes what is given, with its images beside it in ``images``."""

    def write_content(content):
        return write_coco_json(tmp_path / "own.json", content, tmp_path / "images")

    return write_content


def test_one_label_for_each_category_of_an_image(write, tmp_path):
    dataset = read_coco_json(write(coco_content()), tmp_path / "images", 8)
    assert dataset.class_names == NAMES
    assert dataset.ids == tuple(str(image) for image in sorted(IMAGE_IDS))
    assert dataset.labels.dtype == np.uint8
    np.testing.assert_array_equal(dataset.labels, LABELS)
    assert dataset.inputs.shape == (6, 8, 8, 3)
    assert (dataset.name, dataset.is_multi_label, dataset.is_image) == ("own", True, True)
    assert dataset.notes == (
        "annotations of crowds count as presence: 1",
        "6 images, 1 of them without any label, which are kept",
    )


def test_each_image_has_the_pixels_of_its_id(write, tmp_path):
    dataset = read_coco_json(write(coco_content()), tmp_path / "images", 4)
    pixels = dataset.inputs.decode(np.arange(6))
    expected = [COLOURS[image] for image in sorted(IMAGE_IDS)]
    np.testing.assert_allclose(pixels.mean(axis=(1, 2)), expected, atol=3)


def test_crowds_and_images_without_labels_are_left_out_on_request(write, tmp_path):
    path, images = write(coco_content()), tmp_path / "images"
    without_crowds = read_coco_json(path, images, 8, include_crowd=False)
    expected = LABELS.copy()
    expected[4, 0] = 0
    np.testing.assert_array_equal(without_crowds.labels, expected)
    assert without_crowds.notes[0] == "annotations of crowds are left out: 1"

    labelled = read_coco_json(path, images, 8, keep_unlabelled=False)
    assert labelled.ids == ("7", "8", "42", "100", "524291")
    np.testing.assert_array_equal(labelled.labels, LABELS[[0, 1, 3, 4, 5]])
    assert labelled.inputs.path(2).name == "000000000042.jpg"
    assert labelled.notes[1] == "6 images, 5 after leaving out those without any label"


@pytest.mark.parametrize(
    ("object_size", "present", "left_out"),
    [
        ("small", {("7", "toothbrush"), ("8", "stop sign"), ("524291", "person")}, 6),
        # Areas of exactly 32 x 32 are medium, of exactly 96 x 96 large.
        ("medium", {("7", "stop sign"), ("8", "person"), ("42", "person")}, 5),
        ("large", {("100", "person"), ("100", "toothbrush")}, 7),
    ],
)
def test_objects_of_one_size(write, tmp_path, object_size, present, left_out):
    dataset = read_coco_json(write(coco_content()), tmp_path / "images", 8, object_size=object_size)
    rows, columns = np.nonzero(dataset.labels)
    pairs = {(dataset.ids[row], NAMES[column]) for row, column in zip(rows, columns, strict=True)}
    assert pairs == present
    assert dataset.notes[1] == f"annotations left out because they aren't {object_size}: {left_out}"


def test_size_of_objects_needs_areas(write, tmp_path):
    content = coco_content()
    del content["annotations"][3]["area"]
    path = write(content)
    with pytest.raises(ValueError, match="area of annotation 4 is None"):
        read_coco_json(path, tmp_path / "images", 8, object_size="small")
    with pytest.raises(ValueError, match="object_size is 'tiny': choose one of all, small, medium, large"):
        read_coco_json(path, tmp_path / "images", 8, object_size="tiny")


def test_own_file_needs_little_and_lies_beside_its_images(tmp_path):
    content = {
        "images": [{"id": -(2**62), "file_name": "b/x.jpg"}, {"id": 2**62 + 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 2**62 + 1, "category_id": 2**40}],
        "categories": [{"id": 2**40, "name": "crack"}, {"id": 0, "name": "rust"}],
    }
    path = write_coco_json(tmp_path / "own.json", content, tmp_path)
    dataset = read_coco_json(path, None, 8)
    assert dataset.class_names == ("rust", "crack")
    assert dataset.ids == (str(-(2**62)), str(2**62 + 1))
    np.testing.assert_array_equal(dataset.labels, [[0, 0], [0, 1]])
    assert dataset.inputs.path(0) == tmp_path / "b" / "x.jpg"


def change(key, place, **values):
    def changed(content):
        content[key][place].update(values)

    return changed


def drop(key):
    return lambda content: content.pop(key)


def empty(key):
    return lambda content: content.update({key: []})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("images", 3, id=42), "image id 42 is there twice"),
        (change("categories", 0, id=13), "category id 13 is there twice"),
        (change("annotations", 0, id=900100262145), "annotation id 900100262145 is there twice"),
        (change("annotations", 5, image_id=43), "annotation 900100262145 is of image 43, which isn't listed"),
        (change("annotations", 5, id=None, image_id=43), "an annotation of image 43 is of image 43, which isn't"),
        (change("annotations", 2, category_id=91), "annotation 3 is of category 91, which isn't listed"),
        (change("annotations", 2, category_id="13"), "category_id of annotation 3 is '13': give a whole number"),
        (change("annotations", 2, image_id=7.0), "image_id of annotation 3 is 7.0: give a whole number"),
        (change("annotations", 2, id="x"), "the id of an annotation is 'x': give a whole number"),
        (change("annotations", 2, iscrowd=2), "iscrowd of annotation 3 is 2: give 0 or 1"),
        (change("images", 1, id=True), "the id of entry 1 of 'images' is True: give a whole number"),
        (change("images", 1, id=None), "the id of entry 1 of 'images' is None"),
        (change("images", 1, file_name="/etc/passwd"), "file_name of image 7 is '/etc/passwd': give a path relative"),
        (change("images", 1, file_name="a/../../b.jpg"), "file_name of image 7 is 'a/../../b.jpg'"),
        (change("images", 1, file_name="a\\..\\b.jpg"), "file_name of image 7 is"),
        (change("images", 1, file_name="C:\\b.jpg"), "file_name of image 7 is"),
        (change("images", 1, file_name="\ud800.jpg"), "file_name of image 7 is"),
        (change("images", 1, file_name=""), "file_name of image 7 is '': give it a text"),
        (change("categories", 1, name=None), "name of category 1 is None: give it a text"),
        (change("categories", 1, name="bicycle"), "two categories are called 'bicycle'"),
        (empty("categories"), "'categories' is empty"),
        (empty("images"), "'images' is empty"),
        (drop("categories"), "it has no list 'categories'"),
        (drop("annotations"), "it has no list 'annotations'"),
        (lambda content: content["images"].append(3), "entry 6 of 'images' is no object"),
    ],
)
def test_broken_file_is_refused_with_the_id(tmp_path, spoil, message):
    content = copy.deepcopy(coco_content())
    spoil(content)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_coco_json(path, tmp_path, 8)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", '{"images": [', "[" * 100_000, "\x00"])
def test_cut_off_file(tmp_path, text):
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="this is no complete JSON file"):
        read_coco_json(path, None, 8)


def test_file_of_something_else(tmp_path):
    path = tmp_path / "own.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="it holds no object with 'images', 'annotations' and 'categories'"):
        read_coco_json(path, None, 8)
    with pytest.raises(FileNotFoundError, match=r"other.json: there is no such file"):
        read_coco_json(tmp_path / "other.json", None, 8)


def test_missing_images_are_counted_and_named(write, tmp_path):
    path = write(coco_content())
    for image in (9, 100):
        (tmp_path / "images" / f"{image:012d}.jpg").unlink()
    message = r"2 of the 6 images that own.json lists aren't there, '000000000009.jpg', '000000000100.jpg'"
    with pytest.raises(FileNotFoundError, match=message):
        read_coco_json(path, tmp_path / "images", 8)


def test_no_image_has_a_label(write, tmp_path):
    content = coco_content() | {"annotations": []}
    path = write(content)
    assert read_coco_json(path, tmp_path / "images", 8).labels.sum() == 0
    with pytest.raises(ValueError, match="no image has a label"):
        read_coco_json(path, tmp_path / "images", 8, keep_unlabelled=False)


@pytest.mark.parametrize(
    ("place", "year", "images", "first"),
    [
        ("coco", "2014", "", "COCO_{}2014_000000000007.jpg"),
        ("coco", "2017", "images", "000000000007.jpg"),
        ("", "2017", "", "000000000007.jpg"),
    ],
)
def test_layouts_of_coco(tmp_path, place, year, images, first):
    known = coco.SETS[0]
    assert known.find(tmp_path) is None
    root = write_coco(tmp_path / place, year, images)
    assert known.find(tmp_path) == root
    train, test = known.read(tmp_path, year)
    assert train.inputs.shape == test.inputs.shape == (6, 448, 448, 3)
    for part, name in ((train, "train"), (test, "val")):
        np.testing.assert_array_equal(part.labels, LABELS)
        assert (part.name, part.class_names) == ("coco", NAMES)
        assert part.inputs.path(0) == root / images / f"{name}{year}" / first.format(name)


def test_parts_of_coco_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="coco isn't there: run catchment fetch coco"):
        read_coco(tmp_path)
    root = write_coco(tmp_path / "coco", "2014")
    with pytest.raises(FileNotFoundError, match=r"instances_train2017.json: there is no such file"):
        read_coco(tmp_path, "2017")
    (root / "val2014").rename(root / "val")
    with pytest.raises(FileNotFoundError, match=r"val2014: there is no such folder of images, nor .*images"):
        read_coco(tmp_path)


def test_parts_of_coco_with_other_categories(tmp_path):
    root = write_coco(tmp_path / "coco", "2014")
    content = coco_content("COCO_val2014_")
    content["categories"][0]["name"] = "brush"
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"the two instances_\*2014.json have other categories"):
        read_coco(tmp_path)


def test_choices_reach_both_parts(tmp_path):
    write_coco(tmp_path / "coco", "2014")
    for part in read_coco(tmp_path, size=16, include_crowd=False, keep_unlabelled=False, object_size="large"):
        assert part.ids == ("100",)
        np.testing.assert_array_equal(part.labels, [[0, 0, 0, 1]])
        assert part.inputs.shape == (1, 16, 16, 3)
        assert len(part.notes) == 3


@pytest.mark.parametrize("path", ["a.jpg", "a/b c.jpg", "..a/b..", "ä.jpg"])
def test_paths_that_stay_below(path):
    assert stays_below(path)


@pytest.mark.parametrize("path", ["", "/a", "\\a", "C:a", "\\\\host\\share\\a", "..", "../a", "a/..", "a\0", "\ud800"])
def test_paths_that_lead_elsewhere(path):
    assert not stays_below(path)


@pytest.mark.skipif(REAL is None, reason="set CATCHMENT_DATA to a folder with tiny_coco/ to test on the real files")
def test_real_tiny_coco():
    known = coco.SETS[1]
    assert known.find(Path(REAL)) == Path(REAL) / "tiny_coco"
    train, test = known.read(Path(REAL), "")
    assert (len(train), len(test)) == (known.info.train, known.info.test) == (32, 6)
    assert train.class_names[:3] == ("person", "bicycle", "car")
    assert (train.class_names[11], train.class_names[-1]) == ("stop sign", "toothbrush")
    assert train.class_names == test.class_names
    assert len(train.class_names) == 80
    # Different (image_id, category_id) among the 288 and 136 annotations; 4 and 1 of those are of crowds.
    assert (int(train.labels.sum()), int(test.labels.sum())) == (100, 37)
    assert (int((~train.labels.any(axis=1)).sum()), int((~test.labels.any(axis=1)).sum())) == (2, 0)
    assert train.notes[0].endswith(": 4")
    assert test.notes[0].endswith(": 1")
    assert train.ids[:2] == ("6818", "17627")
    pixels = train.inputs.decode(np.arange(32))
    assert pixels.shape == (32, 224, 224, 3)
    assert (pixels.std(axis=(1, 2, 3)) > 10).all()


@pytest.mark.skipif(REAL is None, reason="set CATCHMENT_DATA to a folder with tiny_coco/ to test on the real files")
def test_real_labels_are_those_of_the_annotations():
    train, _ = read_tiny_coco(Path(REAL), size=32)
    content = json.loads((Path(REAL) / "tiny_coco" / "annotations" / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    expected = {(str(entry["image_id"]), names[entry["category_id"]]) for entry in content["annotations"]}
    rows, columns = np.nonzero(train.labels)
    assert {(train.ids[row], train.class_names[column]) for row, column in zip(rows, columns, strict=True)} == expected
