import pytest
from published_formats_large import VALIDATION_LIST, photo, save, write_imagenet, write_webvision

from catchment.data.imagenet import FIRST_50
from catchment.data.webvision import SETS, find_webvision, read_webvision


def test_mini_filters_every_line_of_the_google_part(tmp_path):
    root = write_webvision(tmp_path)
    train, test = read_webvision(tmp_path)
    # 50 is dropped, and what comes after it is kept
    assert train.labels.tolist() == [0, 1, 49, 0, 1, 0, 49]
    assert train.ids == tuple(f"google/q000{q}/{name}.jpg" for q, name in zip("1123331", "abcefgh", strict=True))
    assert train.clean_labels is None
    assert train.class_names == tuple(FIRST_50.values())
    assert train.augmentation == ("random-resized-crop", "flip", "color-jitter:0.4:0.4:0.4:0.2")
    assert test.ids == tuple(f"val_images_256/val00000{k}.jpg" for k in (1, 3, 4))
    assert test.labels.tolist() == test.clean_labels.tolist() == [49, 0, 1]
    assert (train.name, train.inputs.path(0)) == ("webvision:mini", root / "google" / "q0001" / "a.jpg")
    assert train.inputs.decode([0]).shape == (1, 224, 224, 3)


def test_full_has_both_parts_and_all_classes(tmp_path):
    write_webvision(tmp_path, name="WebVision")
    train, test = read_webvision(tmp_path, "full")
    assert train.labels.tolist() == [0, 1, 49, 50, 0, 1, 0, 49, 51]
    assert test.labels.tolist() == [49, 50, 0, 1]
    assert train.class_names[49:] == ("African crocodile", "crane (n02012849)", "crane (n03126707)")
    assert train.ids[-1] == "flickr/q0001/i.jpg"


@pytest.mark.parametrize("inside", [False, True])
def test_mini_judged_on_imagenet(tmp_path, inside):
    root = write_webvision(tmp_path)
    write_imagenet(root if inside else tmp_path, wnids=[*FIRST_50], numbered=True)
    train, test = read_webvision(tmp_path, "mini:imagenet")
    assert (len(train), len(test)) == (7, 100)
    assert train.class_names == test.class_names
    assert test.labels.tolist() == [label for label in range(50) for _ in range(2)]
    assert test.inputs.path(0).is_file()


def test_mini_judged_on_imagenet_needs_it(tmp_path):
    write_webvision(tmp_path)
    with pytest.raises(FileNotFoundError, match="get ILSVRC's validation images from .*, or take webvision:mini"):
        read_webvision(tmp_path, "mini:imagenet")


def test_the_google_part_may_lie_in_the_folder_of_its_tar(tmp_path):
    root = write_webvision(tmp_path, google="google_resized_256")
    train, _ = read_webvision(tmp_path)
    assert train.inputs.path(2) == root / "google_resized_256" / "q0002" / "c.jpg"
    assert train.inputs.path(2).is_file()


def test_missing_images_are_left_out_until_they_are_many(tmp_path):
    root = write_webvision(tmp_path)
    names = [f"google/q0009/{k}.jpg" for k in range(300)]
    for name in names:
        save(root / name, photo(1, size=(2, 2)))
    with (root / "info" / "train_filelist_google.txt").open("a") as file:
        file.writelines(f"{name} 7\n" for name in names)
    (root / "google" / "q0001" / "b.jpg").unlink()
    train, _ = read_webvision(tmp_path)
    assert (len(train), train.skipped) == (306, 1)
    assert train.labels[:3].tolist() == [0, 49, 0]
    assert train.notes == ("1 of 307 listed images are not there ('google/q0001/b.jpg' is the first): left out",)
    for name in names[:3]:
        (root / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"4 of 307 listed images are not there .*: unpack all of https"):
        read_webvision(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "variant", "error"),
    [
        ("train_filelist_google.txt", "google/q0001/a.jpg\n", "mini", "line 1 is 'google/q0001/a.jpg', not a path and"),
        ("train_filelist_google.txt", "google/q0001/a.jpg -1\n", "mini", "line 1 is .* not a path and a label"),
        ("val_filelist.txt", VALIDATION_LIST + "val000001.jpg 52\n", "full", "has label 52, and synsets.txt 52 lines"),
        ("synsets.txt", "n01440764 tench\n", "mini", "synsets.txt: 1 lines, 50 or more wanted"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(tmp_path, file, content, variant, error):
    (write_webvision(tmp_path) / "info" / file).write_text(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*{error}[^\n]*$"):
        read_webvision(tmp_path, variant)


def test_a_list_that_is_not_there_is_named(tmp_path):
    root = write_webvision(tmp_path)
    (root / "info" / "train_filelist_flickr.txt").unlink()
    assert len(read_webvision(tmp_path, "mini").train) == 7
    with pytest.raises(FileNotFoundError, match=r"train_filelist_flickr.txt is not there: unpack info.tar"):
        read_webvision(tmp_path, "full")
    assert find_webvision(tmp_path / "info") is None
    with pytest.raises(FileNotFoundError, match="webvision is not in"):
        read_webvision(tmp_path / "info")


def test_the_record():
    (known,) = SETS
    assert (known.info.train, known.info.test, known.info.variants[0]) == (65_944, 2_500, "mini")
    assert known.read is read_webvision


def test_a_list_that_is_no_text_is_named(tmp_path):
    (write_webvision(tmp_path) / "info" / "val_filelist.txt").write_bytes(b"val000001.jpg 49\n\xff 3\n")
    with pytest.raises(ValueError, match=r"val_filelist.txt: not UTF-8 text \(byte 17\): unpack info.tar"):
        read_webvision(tmp_path)
