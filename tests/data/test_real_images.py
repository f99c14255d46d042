"""The readers of image sets on the real files, against what is published of them."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from catchment.data import cifar, cifar_human, idx, usps
from catchment.data.pickles import read_torch_pickle

REAL = os.environ.get("CATCHMENT_DATA")
KNOWN = {known.info.name: known for module in (cifar, cifar_human, idx, usps) for known in module.SETS}


on_real_files = pytest.mark.skipif(
    REAL is None,
    reason="set CATCHMENT_DATA to a folder with mnist, notmnist, usps, cifar10, cifar10n and cifar10h "
    "to test on the real files",
)


def where_there(name):
    """Skips too where the folder lacks this set, which is large."""
    missing = REAL is None or KNOWN[name].find(Path(REAL)) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not in the folder with the real files")


@pytest.fixture(scope="module")
def cifar10_splits():
    return read("cifar10")


@pytest.fixture
def cifar10_once(cifar10_splits, monkeypatch):
    """Human labels are put on CIFAR-10 as it was read once: six times would take most of these tests' time."""
    monkeypatch.setattr(cifar_human, "read_cifar10", lambda folder, *, name: cifar10_splits)


def read(name, variant=""):
    return KNOWN[name].read(Path(REAL), variant)


def moments(images):
    """Mean and standard deviation of each channel, of pixels in 0..1, from exact counts of the 256 values."""
    values, counts = np.arange(256) / 255, np.zeros((images.shape[-1], 256), dtype=np.int64)
    for start in range(0, len(images), 1000):
        for channel, pixels in enumerate(np.moveaxis(images[start : start + 1000], -1, 0)):
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)
    mean = counts @ values / counts.sum(axis=1)
    return mean, np.sqrt(counts @ values**2 / counts.sum(axis=1) - mean**2)


def check_counts(name, train, test):
    info = KNOWN[name].info
    assert (len(train), len(test), train.num_classes) == (info.train, info.test, info.classes)


@on_real_files
def test_mnist():
    train, test = read("mnist")
    check_counts("mnist", train, test)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.labels[:20].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4]
    mean, deviation = moments(train.inputs)
    np.testing.assert_allclose((mean[0], deviation[0]), (0.1306605, 0.3081078), atol=5e-8)
    # Upright, a seven has its bar on top; turned over its diagonal, it would be brighter below.
    sevens = train.inputs[train.labels == 7].mean(axis=0)[..., 0]
    assert sevens[6:12].sum() > 1.3 * sevens[16:22].sum()


@on_real_files
def test_notmnist_in_mnists_format():
    train, test = read("notmnist")
    assert np.bincount(np.concatenate([train.labels, test.labels])).tolist() == [1000] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    rows = {
        int(identity): label for part in (train, test) for identity, label in zip(part.ids, part.labels, strict=True)
    }
    assert [rows[row] for row in range(12)] == [3, 5, 9, 2, 7, 2, 9, 8, 5, 3, 0, 7]
    # Bright on black: an I is brightest in its middle columns.
    eyes = train.inputs[train.labels == 8].mean(axis=0)[..., 0]
    assert eyes[:, 10:18].mean() > eyes[:, :6].mean() + 50


@on_real_files
def test_cifar10(cifar10_splits):
    train, test = cifar10_splits
    check_counts("cifar10", train, test)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:3].tolist() == [6, 9, 9]
    assert test.labels[:3].tolist() == [3, 8, 8]
    assert train.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    mean, deviation = moments(train.inputs)
    # The published digits are off by up to 3.3e-7 from the exact sums, as single precision would make them.
    np.testing.assert_allclose(mean, (0.49139968, 0.48215827, 0.44653124), atol=5e-7)
    np.testing.assert_allclose(deviation, (0.24703233, 0.24348505, 0.26158768), atol=5e-7)
    distinct = {image.tobytes() for part in (train, test) for image in part.inputs}
    assert len(distinct) == 60_000
    # Neighbouring pixels are alike down and across; read as rows of pixels, neighbours would be three apart.
    sample = train.inputs[:1000].astype(int)
    scrambled = sample.transpose(0, 3, 1, 2).reshape(-1, 32, 32, 3)
    for axis in (1, 2):
        assert abs(np.diff(sample, axis=axis)).mean() < 17 < abs(np.diff(scrambled, axis=axis)).mean()


@where_there("cifar100")
def test_cifar100():
    train, test = read("cifar100", "fine")
    check_counts("cifar100", train, test)
    assert np.bincount(train.labels).tolist() == [500] * 100
    assert np.bincount(test.labels).tolist() == [100] * 100
    assert train.labels[:3].tolist() == [19, 29, 0]
    mean, deviation = moments(train.inputs)
    np.testing.assert_allclose(mean, (0.50707516, 0.48654887, 0.44091784), atol=5e-7)
    np.testing.assert_allclose(deviation, (0.26733429, 0.25643846, 0.27615047), atol=5e-7)
    assert read("cifar100", "coarse").train.labels[:3].tolist() == [11, 15, 4]


RATES = {"aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worse": 40.21}


@on_real_files
@pytest.mark.usefixtures("cifar10_once")
def test_noise_rates_of_cifar10n():
    wrong = {}
    for variant, percent in RATES.items():
        train, test = read("cifar10n", variant)
        wrong[variant] = train.labels != train.clean_labels
        assert round(100 * wrong[variant].mean(), 2) == percent
        np.testing.assert_array_equal(test.labels, test.clean_labels)
    errors = sum(wrong[f"random{k}"].astype(int) for k in (1, 2, 3))
    np.testing.assert_array_equal(wrong["worse"], errors >= 1)
    assert not wrong["aggre"][errors <= 1].any()


@on_real_files
def test_noise_rates_in_the_file_of_cifar100n():
    paths = (Path(REAL) / folder / "CIFAR-100_human.pt" for folder in ("CIFAR-N", "cifar-n"))
    content = read_torch_pickle(next(path for path in paths if path.is_file()))
    for clean, noisy, percent in (
        ("clean_label", "noisy_label", 40.20),
        ("clean_coarse_label", "noisy_coarse_label", 26.40),
    ):
        wrong = np.array(content[clean]) != np.array(content[noisy])
        assert len(wrong) == 50_000
        assert round(100 * wrong.mean(), 2) == percent
    # The published fine classes of the coarse ones are those of the project's own table.
    from catchment.disturb.cifar100 import SUPERCLASSES

    coarse_of = {fine: coarse for coarse, group in enumerate(SUPERCLASSES.values()) for fine in group}
    assert [coarse_of[fine] for fine in content["clean_label"].tolist()] == content["clean_coarse_label"]


@where_there("cifar100n")
@pytest.mark.parametrize(("variant", "percent"), [("fine", 40.20), ("coarse", 26.40)])
def test_noise_rates_of_cifar100n(variant, percent):
    train, _ = read("cifar100n", variant)
    assert round(100 * (train.labels != train.clean_labels).mean(), 2) == percent


@on_real_files
@pytest.mark.usefixtures("cifar10_once")
def test_people_agree_with_the_labels_of_cifar10h():
    train, test = read("cifar10h")
    check_counts("cifar10h", train, test)
    answers = test.human_probabilities
    assert answers.shape == (10_000, 10)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    assert round(100 * (answers.argmax(axis=1) == test.labels).mean(), 2) == 99.21
    np.testing.assert_allclose(answers[0], np.array([0, 1, 1, 48, 0, 1, 0, 0, 0, 0]) / 51, rtol=1e-6)


@on_real_files
def test_usps():
    train, test = read("usps")
    check_counts("usps", train, test)
    totals = np.bincount(np.concatenate([train.labels, test.labels]))
    assert totals.tolist() == [1553, 1269, 929, 824, 852, 716, 834, 792, 708, 821]
    assert np.bincount(test.labels).tolist() == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    # Upright and white on black: a one is a column in the middle.
    ones = train.inputs[train.labels == 1].mean(axis=0)[..., 0]
    assert ones[:, 7:9].mean() > 100
    assert ones[:, :4].mean() < 10


@on_real_files
@pytest.mark.parametrize(("name", "seconds"), [("mnist", 1.0), ("cifar10", 1.5)])
def test_loading_is_quick(name, seconds):
    # Time of the processor, because other programs may have the machine too.
    start = time.process_time()
    read(name)
    assert time.process_time() - start < seconds
