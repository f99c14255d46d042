import numpy as np
import pytest
from published_formats_images import (
    CIFAR100_FINE,
    write_cifar10,
    write_cifar100,
    write_cifar_c,
    write_mnist,
    write_mnist_c,
)

from catchment.data import corrupted

KNOWN = {known.info.name: known for known in corrupted.SETS}
EXTRA = {"gaussian_blur", "saturate", "spatter", "speckle_noise"}


def test_variants_are_19_corruptions_in_5_severities():
    for name in ("cifar10-c", "cifar100-c"):
        variants = KNOWN[name].info.variants
        assert len(variants) == len(set(variants)) == 95
        assert variants[0] == "gaussian_noise:3"
        assert {variant.split(":")[0] for variant in variants} >= EXTRA | {"fog", "zoom_blur", "jpeg_compression"}
        assert {variant.split(":")[1] for variant in variants} == set("12345")


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_is_a_fifth_of_the_rows(tmp_path, severity):
    write_cifar10(tmp_path)
    write_cifar_c(tmp_path / "CIFAR-10-C", range(4))
    assert KNOWN["cifar10-c"].find(tmp_path) == tmp_path / "CIFAR-10-C"
    train, test = KNOWN["cifar10-c"].read(tmp_path, f"fog:{severity}")
    np.testing.assert_array_equal(test.inputs[:, 9, 9, 1], 10 * severity + np.arange(4))
    assert test.inputs.shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(test.labels, range(4))
    assert test.ids == ("0", "1", "2", "3")
    # Training is clean CIFAR-10.
    assert train.inputs.shape == (20, 32, 32, 3)
    np.testing.assert_array_equal(train.inputs[:, 0, 0, 0], np.arange(20))
    assert train.name == test.name == "cifar10-c"
    assert train.augmentation == ("crop:4", "flip")


def test_cifar100_c_has_the_fine_classes(tmp_path):
    write_cifar100(tmp_path)
    write_cifar_c(tmp_path / "CIFAR-100-C", CIFAR100_FINE[:4])
    train, test = KNOWN["cifar100-c"].read(tmp_path, "fog:2")
    np.testing.assert_array_equal(test.labels, CIFAR100_FINE[:4])
    np.testing.assert_array_equal(test.inputs[:, 0, 0, 0], 20 + np.arange(4))
    assert train.num_classes == test.num_classes == 100


def test_files_that_are_missing_cut_off_or_do_not_fit(tmp_path):
    assert KNOWN["cifar10-c"].find(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"batches.meta: there is no such file: catchment fetch cifar10"):
        KNOWN["cifar10-c"].read(tmp_path, "fog:1")
    write_cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10-C/labels.npy is missing: catchment fetch cifar10-c"):
        KNOWN["cifar10-c"].read(tmp_path, "fog:1")
    folder = tmp_path / "CIFAR-10-C"
    write_cifar_c(folder, range(4))
    with pytest.raises(
        FileNotFoundError, match=r"CIFAR-10-C/snow.npy: there is no such file: catchment fetch cifar10-c"
    ):
        KNOWN["cifar10-c"].read(tmp_path, "snow:1")

    path = folder / "fog.npy"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:50], b""):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"fog.npy: this is not a whole .npy file of numbers \(.*\): catchment fetch"
        ):
            KNOWN["cifar10-c"].read(tmp_path, "fog:1")
    for images, complaint in [
        (np.zeros((16, 32, 32, 3), np.uint8), r"it holds uint8 \(16, 32, 32, 3\), not uint8 \(20, 32, 32, 3\)"),
        (np.zeros((20, 3, 32, 32), np.uint8), r"it holds uint8 \(20, 3, 32, 32\)"),
        (np.zeros((20, 32, 32, 3), np.float32), r"it holds float32"),
    ]:
        np.save(path, images)
        with pytest.raises(ValueError, match=rf"fog.npy: {complaint}.*: catchment fetch cifar10-c"):
            KNOWN["cifar10-c"].read(tmp_path, "fog:1")


def test_corrupted_images_in_another_order_are_refused(tmp_path):
    write_cifar10(tmp_path)
    folder = tmp_path / "CIFAR-10-C"
    write_cifar_c(folder, [0, 1, 3, 2])
    with pytest.raises(ValueError, match=r"labels.npy: label 3 at 6, but test image 2 is 2: these are other images"):
        KNOWN["cifar10-c"].read(tmp_path, "fog:2")
    np.save(folder / "labels.npy", np.arange(19))
    with pytest.raises(ValueError, match=r"labels.npy: it holds int64 \(19,\), not 20 labels"):
        KNOWN["cifar10-c"].read(tmp_path, "fog:2")


@pytest.mark.parametrize("name", ["mnist_c", "MNIST-C"])
def test_mnist_c_trains_on_identity_and_tests_on_the_corruption(tmp_path, name):
    write_mnist_c(tmp_path / name)
    assert KNOWN["mnist-c"].find(tmp_path) == tmp_path / name
    for number, corruption in enumerate(("identity", "stripe", "fog")):
        train, test = KNOWN["mnist-c"].read(tmp_path, corruption)
        np.testing.assert_array_equal(train.inputs[:, 5, 5, 0], np.arange(6))
        np.testing.assert_array_equal(test.inputs[:, 5, 5, 0], 100 + 10 * number + np.arange(6))
        assert test.inputs.shape == (6, 28, 28, 1)
        np.testing.assert_array_equal(test.labels, np.arange(6))
        assert test.labels.dtype == np.int64
    assert len(KNOWN["mnist-c"].info.variants) == 16


def test_mnist_c_without_a_trailing_axis_and_with_labels_as_a_column(tmp_path):
    write_mnist_c(tmp_path / "mnist_c")
    fog = tmp_path / "mnist_c" / "fog"
    np.save(fog / "test_images.npy", np.load(fog / "test_images.npy")[..., 0])
    np.save(fog / "test_labels.npy", np.load(fog / "test_labels.npy").astype(np.uint8)[:, None])
    test = KNOWN["mnist-c"].read(tmp_path, "fog").test
    assert test.inputs.shape == (6, 28, 28, 1)
    np.testing.assert_array_equal(test.labels, np.arange(6))


def test_mnist_c_without_its_own_training_images_takes_mnists(tmp_path):
    write_mnist_c(tmp_path / "mnist_c", ("identity", "fog"))
    (tmp_path / "mnist_c" / "identity" / "train_images.npy").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"identity/train_images.npy: there is no such file: catchment fetch mnist-c"
    ):
        KNOWN["mnist-c"].read(tmp_path, "fog")
    write_mnist(tmp_path / "MNIST" / "raw", train=12)
    train, test = KNOWN["mnist-c"].read(tmp_path, "fog")
    assert (len(train), len(test)) == (12, 6)
    assert train.name == test.name == "mnist-c"


def test_mnist_c_that_does_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mnist_c is missing: catchment fetch mnist-c"):
        KNOWN["mnist-c"].read(tmp_path, "fog")
    write_mnist_c(tmp_path / "mnist_c")
    fog = tmp_path / "mnist_c" / "fog"
    for what, values, complaint in [
        ("labels", np.arange(5), r"it holds int64 \(5,\), not one label for each of 6 images"),
        ("labels", np.arange(5, 11), "label 10 at 5 is no digit"),
        ("images", np.zeros((6, 28, 28, 3), np.uint8), r"it holds uint8 \(6, 28, 28, 3\), not images"),
    ]:
        np.save(fog / f"test_{what}.npy", values)
        with pytest.raises(ValueError, match=rf"test_{what}.npy: {complaint}.*: catchment fetch mnist-c"):
            KNOWN["mnist-c"].read(tmp_path, "fog")
