import numpy as np
import pytest
from PIL import Image
from published_formats_large import photo, save

from catchment.data import Dataset, ImageFiles
from catchment.data.image_files import existing, files_there
from catchment.nets import input_statistics


@pytest.fixture
def files(tmp_path):
    """Five images of one colour: 10, 20, .. 50."""
    for k in range(5):
        save(tmp_path / f"{k}.png", Image.new("RGB", (30, 20), (10 * k + 10,) * 3), "PNG")
    return ImageFiles(tmp_path, [f"{k}.png" for k in range(5)], 8, resize=10)


def test_it_stands_for_the_array_without_decoding(tmp_path):
    files = ImageFiles(tmp_path, ["gone/å,1.jpg", "gone/2.jpg", "gone/3.jpg"], 224, resize=256)
    assert (files.dtype, files.ndim, files.shape, len(files)) == (np.uint8, 4, (3, 224, 224, 3), 3)
    assert files.path(0) == tmp_path / "gone" / "å,1.jpg"
    for index in ([2, 0], np.array([2, 0]), np.array([True, False, True]), slice(1, None)):
        chosen = files[index]
        expected = np.array(["gone/å,1.jpg", "gone/2.jpg", "gone/3.jpg"])[index]
        assert [chosen.path(row).relative_to(tmp_path).as_posix() for row in range(len(chosen))] == expected.tolist()
        assert (chosen.size, chosen.resize) == (224, 256)


def test_decode_gives_the_images_asked_for(files):
    images = files.decode([3, 0])
    assert images.dtype == np.uint8
    assert images.shape == (2, 8, 8, 3)
    assert images[:, 4, 4, 0].tolist() == [40, 10]
    np.testing.assert_array_equal(files.decode(slice(3, 4)), images[:1])
    np.testing.assert_array_equal(files[3], images[0])
    assert [int(image[0, 0, 0]) for image in files] == [10, 20, 30, 40, 50]
    assert files[[]].decode([]).shape == (0, 8, 8, 3)


def test_a_data_set_of_files_selects_rows(files):
    dataset = Dataset("files", files, np.arange(5), tuple("abcde"), ids=tuple("01234"))
    part = dataset.select(dataset.labels >= 3)
    assert part.is_image
    assert (part.ids, part.inputs.decode([0, 1])[:, 0, 0, 0].tolist()) == (("3", "4"), [40, 50])


def test_evaluation_sees_what_resize_and_center_crop_of_torchvision_give(tmp_path):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    rng = np.random.default_rng(0)
    for name, (width, height) in {"wide": (150, 100), "tall": (90, 130), "small": (33, 41)}.items():
        smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
        save(tmp_path / f"{name}.png", smooth, "PNG")
    files = ImageFiles(tmp_path, ["wide.png", "tall.png", "small.png"], 56, resize=64)
    theirs = v2.Compose([v2.Resize(64), v2.CenterCrop(56)])
    # the same where the sizes divide; else their long side and their crop are rounded to whole pixels, here by half one
    for row, most in enumerate((0, 1, 5)):
        difference = np.abs(files[row].astype(int) - np.asarray(theirs(files.read(row)[0])).astype(int))
        assert difference.mean() <= most


def test_another_size_cuts_off_the_same_share(files):
    assert (files.resized(16).shape, files.resized(16).resize) == ((5, 16, 16, 3), 20)
    assert ImageFiles(files.root, files.paths, 8).resized(5).resize is None


def test_gray_cmyk_palette_and_a_png_called_jpeg_become_rgb(tmp_path):
    for mode in ("L", "CMYK", "P", "RGBA"):
        save(tmp_path / f"{mode}.JPEG", photo(120, mode=mode), "JPEG" if mode in ("L", "CMYK") else "PNG")
    images = ImageFiles(tmp_path, ["L.JPEG", "CMYK.JPEG", "P.JPEG", "RGBA.JPEG"], 8).decode(slice(None))
    assert (images[0] == images[0][..., :1]).all()
    for colored in images[1:]:
        assert abs(int(colored[4, 4, 1]) - 120) < 20
        assert colored[4, 0, 0] < 60
        assert colored[4, 7, 0] > 140


def test_exif_rotation_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.new("RGB", (8, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 4))
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = ImageFiles(tmp_path, ["a.jpg"], 8)[0]
    assert pixels[1].min() > 200
    assert pixels[6].max() < 50


def test_an_unreadable_file_stops_with_one_line_or_is_black(files):
    files.path(1).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^[^\n]*: 1\.png can't be read \(not an image\): [^\n]*--skip-unreadable$"):
        files.decode([0, 1])
    skipping = ImageFiles(files.root, files.paths, 8, on_error="skip")
    with pytest.warns(UserWarning, match=r"1 images are black: .*1\.png"):
        assert skipping.decode([0, 1, 2])[:, 0, 0, 0].tolist() == [10, 0, 30]
    files.path(2).unlink()
    with pytest.raises(ValueError, match=r"2\.png can't be read \(.*No such file"):
        files.decode([2])


def test_a_truncated_file_is_read_only_on_request(tmp_path):
    save(tmp_path / "whole.jpg", Image.effect_noise((64, 64), 50).convert("RGB"))
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="cut.jpg can't be read"):
        ImageFiles(tmp_path, ["cut.jpg"], 64).decode([0])
    lenient = ImageFiles(tmp_path, ["cut.jpg", "whole.jpg"], 64, truncated=True)
    assert [lenient.read(row)[1] for row in (0, 1)] == [True, False]
    cut, whole = lenient.decode([0, 1])
    np.testing.assert_array_equal(cut[:24], whole[:24])
    assert (cut[-1] != whole[-1]).any()
    with pytest.raises(ValueError, match="cut.jpg can't be read"):  # the permission is not left behind
        ImageFiles(tmp_path, ["cut.jpg"], 64).decode([0])


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 9, "resize": 8}, {"size": 9, "on_error": "ignore"}])
def test_impossible_settings_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=r"size is|choose one of raise, skip"):
        ImageFiles(tmp_path, ["a.jpg"], **options)


def test_what_needs_an_array_gets_a_clear_error(files):
    with pytest.raises(ValueError, match="needs all images in memory, and the 5 of .* stay on disk"):
        np.asarray(files)


def test_the_fingerprint_tells_names_order_and_size_apart(files):
    prints = [files, files[[1, 0, 2, 3, 4]], files[:4], files.resized(9)]
    assert len({one.fingerprint() for one in prints}) == 4
    assert files[np.arange(5)].fingerprint() == files.fingerprint()


def test_statistics_are_the_published_ones_where_there_are_some(files):
    labels, names = np.zeros(5, dtype=np.int64), ("a",)
    known = ImageFiles(files.root, files.paths, 8, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    mean, std = input_statistics(Dataset("files", known, labels, names))
    np.testing.assert_allclose(mean, [51, 102, 153], rtol=1e-6)
    np.testing.assert_allclose(std, [25.5, 51, 76.5], rtol=1e-6)
    mean, std = input_statistics(Dataset("files", files, labels, names))
    np.testing.assert_allclose(mean, [30] * 3)
    np.testing.assert_allclose(std, [np.std([10, 20, 30, 40, 50])] * 3, rtol=1e-6)


def test_statistics_are_of_evenly_spaced_images_where_there_are_many(files, monkeypatch):
    monkeypatch.setattr("catchment.nets.STATISTICS_SAMPLES", 3)
    files.path(1).unlink()  # not among the three
    mean, _ = input_statistics(Dataset("files", files, np.zeros(5, dtype=np.int64), ("a",)))
    np.testing.assert_allclose(mean, [30] * 3)
    files.path(2).unlink()
    with pytest.raises(ValueError, match="2.png can't be read"):
        input_statistics(Dataset("files", files, np.zeros(5, dtype=np.int64), ("a",)))
    skipping = ImageFiles(files.root, files.paths, 8, on_error="skip")
    mean, _ = input_statistics(Dataset("files", skipping, np.zeros(5, dtype=np.int64), ("a",)))
    np.testing.assert_allclose(mean, [30] * 3)  # of 10 and 50


def test_few_missing_files_are_counted_and_many_are_an_error(tmp_path):
    paths = [f"d{k % 2}/{k}.jpg" for k in range(300)]
    for path in paths[3:]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    present, missing, notes = existing("set", tmp_path, paths, "unpack it")
    assert (np.flatnonzero(~present).tolist(), missing) == ([0, 1, 2], 3)
    assert notes == ("3 of 300 listed images are not there ('d0/0.jpg' is the first): left out",)
    (tmp_path / paths[9]).unlink()
    with pytest.raises(FileNotFoundError, match=r"^set: in .* 4 of 300 listed images .*: unpack it$"):
        existing("set", tmp_path, paths, "unpack it")
    assert existing("set", tmp_path, ["elsewhere/1.jpg"] * 0, "unpack it")[1:] == (0, ())


def test_which_files_are_there(tmp_path):
    for name in ("a.jpg", "b/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    there = files_there(tmp_path, ["b/a.jpg", "b/b.jpg", "a.jpg", "c/a.jpg", "a.jpg/a.jpg"])
    assert there.tolist() == [True, False, True, False, False]
    assert files_there(tmp_path / "nowhere", ["a.jpg"]).tolist() == [False]
