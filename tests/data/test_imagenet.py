import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from published_formats_large import WNIDS, photo, tar_of, write_imagenet

from catchment.data.imagenet import FIRST_50, SETS, distinct_names, find_imagenet, first_names, unpack_imagenet

REAL = os.environ.get("CATCHMENT_DATA")
READ = {known.info.name: known.read for known in SETS}


def test_classes_are_sorted_wordnet_ids_and_images_stay_on_disk(tmp_path):
    root = write_imagenet(tmp_path)
    train, test = READ["imagenet"](tmp_path, "")
    assert train.class_names == ("tench", "goldfish", "crane")
    assert train.ids == tuple(f"train/{wnid}/{wnid}_{k}.JPEG" for wnid in WNIDS for k in (10, 2))
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.inputs.shape == (6, 224, 224, 3)
    assert (train.inputs.resize, train.inputs.mean) == (256, (0.485, 0.456, 0.406))
    assert train.augmentation == ("random-resized-crop", "flip")
    assert train.inputs.path(0) == root / "train" / WNIDS[0] / f"{WNIDS[0]}_10.JPEG"
    # gray, CMYK and a PNG inside
    pixels = train.inputs.decode(slice(None))
    assert (pixels[0, ..., 0] == pixels[0, ..., 2]).all()
    assert all(pixels[row, :, -1, 0].mean() > 200 > 50 > pixels[row, :, 0, 0].mean() for row in range(1, 6))


def test_flat_validation_images_get_their_classes_from_the_devkit(tmp_path):
    write_imagenet(tmp_path, flat=True)
    _, test = READ["imagenet"](tmp_path, "")
    numbers = [int(name[-13:-5]) for name in test.ids]
    # files 1.. are of the classes 2, 0, 1, 0, 2, 1
    assert list(zip(numbers, test.labels.tolist(), strict=True)) == [(2, 0), (4, 0), (3, 1), (6, 1), (1, 2), (5, 2)]
    pixels = test.inputs.decode(slice(None))
    np.testing.assert_array_equal(np.rint(pixels[..., 2].mean((1, 2)) / 5), test.labels)  # blue is 5 x class


def test_flat_validation_without_devkit_is_an_error(tmp_path):
    root = write_imagenet(tmp_path, flat=True, devkit=False)
    with pytest.raises(FileNotFoundError, match=r"validation_ground_truth.txt is not there .*: unpack the devkit"):
        READ["imagenet"](tmp_path, "")
    assert first_names(root) == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", "1\n2\n", "2 lines for 6 images"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\n2\n3\n1\n2\n7\n", "7 is no class of meta.mat"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\nx\n", "'x' is no class number"),
        ("meta.mat", "broken", "not the devkit's meta.mat"),
    ],
)
def test_a_devkit_that_does_not_fit_is_one_line(tmp_path, file, content, message):
    root = write_imagenet(tmp_path, flat=True)
    (root / "ILSVRC2012_devkit_t12" / "data" / file).write_text(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*{file}: [^\n]*{message}[^\n]*$"):
        READ["imagenet"](tmp_path, "")


def test_without_devkit_classes_are_called_by_their_ids(tmp_path):
    write_imagenet(tmp_path, devkit=False)
    assert READ["imagenet"](tmp_path, "").train.class_names == WNIDS


def test_two_classes_of_one_name_are_told_apart():
    assert distinct_names(["n1", "n2", "n3"], ["crane", "tench", "crane"]) == ("crane (n1)", "tench", "crane (n3)")


@pytest.mark.parametrize("numbered", [False, True])
def test_the_50_classes_of_mini_webvision(tmp_path, numbered):
    extra = "n02012849"
    root = write_imagenet(tmp_path, wnids=[*FIRST_50], numbered=numbered, devkit=False)
    (root / "train" / extra).mkdir()
    (root / "val" / ("50" if numbered else extra)).mkdir()
    train, test = READ["imagenet-50"](tmp_path, "")
    assert (train.num_classes, len(train), len(test)) == (50, 100, 100)
    assert (train.class_names[0], train.class_names[49]) == ("tench", "African crocodile")
    # numbered folders sort by value, not as 0, 1, 10, 11, ..
    blue = np.rint(test.inputs.decode(slice(None))[..., 2].mean((1, 2)) / 5)
    np.testing.assert_array_equal(blue, test.labels)
    assert list(FIRST_50) == sorted(FIRST_50)
    assert len(set(FIRST_50.values())) == 50


def test_missing_and_odd_folders_are_one_line(tmp_path):
    root = write_imagenet(tmp_path)
    with pytest.raises(FileNotFoundError, match="n01484850: there are no images of the class"):
        READ["imagenet-50"](tmp_path, "")
    (root / "val" / WNIDS[1]).rename(root / "val" / "n99999999")
    with pytest.raises(FileNotFoundError, match=f"no folder for class '{WNIDS[1]}'"):
        READ["imagenet"](tmp_path, "")
    (root / "train" / "cats").mkdir()
    with pytest.raises(ValueError, match="'cats' is no WordNet id"):
        READ["imagenet"](tmp_path, "")
    with pytest.raises(FileNotFoundError, match="imagenet is not in .*: get it from https://image-net.org"):
        READ["imagenet"](tmp_path / "elsewhere", "")


def test_tars_that_are_not_unpacked_are_named(tmp_path):
    root = tmp_path / "ILSVRC2012"
    (root / "val").mkdir(parents=True)
    (root / "train").mkdir()
    assert find_imagenet(tmp_path) == root
    (root / "train" / "n01440764.tar").touch()
    with pytest.raises(FileNotFoundError, match="unpack its tars, with unpack_imagenet"):
        READ["imagenet"](tmp_path, "")
    assert find_imagenet(root) is None


def jpeg(color):
    buffer = io.BytesIO()
    photo(color).save(buffer, format="JPEG")
    return buffer.getvalue()


def test_unpacking_a_tar_of_tars_and_a_flat_one_gives_what_is_read(tmp_path):
    inner = {wnid: tar_of({f"{wnid}_{k}.JPEG": jpeg(k) for k in range(3)}) for wnid in WNIDS}
    (tmp_path / "train.tar").write_bytes(tar_of({f"{wnid}.tar": content for wnid, content in inner.items()}))
    (tmp_path / "val.tar").write_bytes(tar_of({f"ILSVRC2012_val_{k:08d}.JPEG": jpeg(k) for k in range(1, 7)}))
    write_imagenet(tmp_path / "other", flat=True)
    root = tmp_path / "imagenet"
    assert unpack_imagenet(tmp_path / "train.tar", root / "train") == 9
    assert unpack_imagenet(tmp_path / "val.tar", root / "val") == 6
    (tmp_path / "other" / "imagenet" / "ILSVRC2012_devkit_t12").rename(root / "ILSVRC2012_devkit_t12")
    assert (root / "train" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG").read_bytes() == jpeg(1)
    train, test = READ["imagenet"](tmp_path, "")
    assert (len(train), test.labels.tolist()) == (9, [0, 0, 1, 1, 2, 2])


def test_unpacking_again_completes_what_was_stopped(tmp_path):
    whole = tar_of({f"{wnid}.tar": tar_of({f"{wnid}_{k}.JPEG": jpeg(k) for k in range(3)}) for wnid in WNIDS})
    tar, target = tmp_path / "train.tar", tmp_path / "train"
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train.tar: not a whole tar archive \(.*\): get it again"):
        unpack_imagenet(tar, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.JPEG")}
    assert 0 < len(before) < 9
    tar.write_bytes(whole)
    assert unpack_imagenet(tar, target) == 9
    assert len(list(target.rglob("*.JPEG"))) == 9
    assert not list(target.rglob("*.part"))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def link(name, to, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize(
    "members",
    [
        {"../outside": b"x"},
        {"a/../../outside": b"x"},
        {"/tmp/outside": b"x"},
        {"..\\outside": b"x"},
        {"../n01440764.tar": tar_of({"outside": b"x"})},
        {"n01440764.tar": tar_of({"../../outside": b"x"})},
        {"door": link("door", ".."), "door/outside": b"x"},
        {"hard": link("hard", "../secret", tarfile.LNKTYPE)},
        {"pipe": link("pipe", "", tarfile.FIFOTYPE)},
    ],
)
def test_a_hostile_tar_writes_nothing_outside_the_folder(tmp_path, members):
    tar, target = tmp_path / "hostile.tar", tmp_path / "in" / "target"
    target.mkdir(parents=True)
    tar.write_bytes(tar_of({"good.JPEG": b"good", **members}))
    with pytest.raises(
        ValueError, match=r"^hostile.tar.* (leads out of the folder|is a link or a device): this is not"
    ):
        unpack_imagenet(tar, target)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [tar, target / "good.JPEG"]
    assert not Path("/tmp/outside").exists()


def test_a_link_that_lies_in_the_target_already_is_not_followed(tmp_path):
    tar, target = tmp_path / "a.tar", tmp_path / "target"
    target.mkdir()
    (tmp_path / "outside").mkdir()
    (target / "door").symlink_to(tmp_path / "outside")
    tar.write_bytes(tar_of({"door/x.JPEG": b"x"}))
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack_imagenet(tar, target)
    assert not list((tmp_path / "outside").iterdir())


def test_what_is_no_tar_is_one_line(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=r"^[^\n]*a.tar: not a whole tar archive [^\n]*$"):
        unpack_imagenet(tmp_path / "a.tar", tmp_path / "target")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        unpack_imagenet(tmp_path / "b.tar", tmp_path / "target")


@pytest.mark.skipif(REAL is None, reason="set CATCHMENT_DATA to a folder with imagenet/ to test on the real files")
def test_the_real_files():
    if find_imagenet(Path(REAL)) is None:
        pytest.skip(f"there is no imagenet/ in {REAL}")
    train, test = READ["imagenet"](Path(REAL), "")
    assert (train.num_classes, len(train), len(test)) == (1000, 1_281_167, 50_000)
    assert np.bincount(test.labels).tolist() == [50] * 1000
