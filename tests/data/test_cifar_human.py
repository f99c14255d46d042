import numpy as np
import pytest
from published_formats_images import (
    CIFAR100_COARSE,
    CIFAR100_FINE,
    cifar10h_counts,
    write_cifar10,
    write_cifar10n,
    write_cifar100,
    write_cifar100n,
)

from catchment.data import cifar_human

KNOWN = {known.info.name: known for known in cifar_human.SETS}
CLEAN = np.arange(20) % 10


@pytest.fixture
def root(tmp_path):
    """CIFAR-10 with 20 training and 8 test images."""
    write_cifar10(tmp_path, test=8)
    return tmp_path


@pytest.mark.parametrize(
    ("variant", "wrong"),
    [("worse", [0, 1]), ("aggre", []), ("random1", [0, 1]), ("random2", []), ("random3", list(range(20)))],
)
def test_human_labels_replace_those_of_training(root, variant, wrong):
    write_cifar10n(root, CLEAN)
    assert KNOWN["cifar10n"].find(root) == root / "CIFAR-N" / "CIFAR-10_human.pt"
    train, test = KNOWN["cifar10n"].read(root, variant)
    np.testing.assert_array_equal(train.clean_labels, CLEAN)
    np.testing.assert_array_equal(np.flatnonzero(train.labels != CLEAN), wrong)
    np.testing.assert_array_equal(test.labels, np.arange(8))
    np.testing.assert_array_equal(test.clean_labels, np.arange(8))
    assert train.name == test.name == "cifar10n"
    assert train.labels.dtype == np.int64
    assert train.augmentation == ("crop:4", "flip")


def test_variants_are_those_of_the_paper_the_worst_first():
    assert KNOWN["cifar10n"].info.variants == ("worse", "aggre", "random1", "random2", "random3")
    assert KNOWN["cifar100n"].info.variants == ("fine", "coarse")


def test_human_labels_of_cifar100_fine_and_coarse(tmp_path):
    write_cifar100(tmp_path)
    write_cifar100n(tmp_path)
    train, _ = KNOWN["cifar100n"].read(tmp_path, "fine")
    np.testing.assert_array_equal(train.clean_labels, CIFAR100_FINE)
    np.testing.assert_array_equal(train.labels, [55, 30, 1, 32, 4, 99, 1, 32])
    train, test = KNOWN["cifar100n"].read(tmp_path, "coarse")
    np.testing.assert_array_equal(train.clean_labels, CIFAR100_COARSE)
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1, 0, 13, 1, 1])
    assert (train.num_classes, test.labels.tolist()) == (20, [0, 0, 1, 1])


def test_labels_of_images_in_another_order_are_refused(root):
    write_cifar10n(root, np.roll(CLEAN, 1))
    with pytest.raises(
        ValueError,
        match=r"human.pt: clean_label\[0\] is 9, but the image's own label is 0 \(20 differ\): .*in another order",
    ):
        KNOWN["cifar10n"].read(root, "worse")
    one = CLEAN.copy()
    one[17] = 3
    write_cifar10n(root, one)
    with pytest.raises(ValueError, match=r"clean_label\[17\] is 3, but the image's own label is 7 \(1 differ\)"):
        KNOWN["cifar10n"].read(root, "aggre")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (CLEAN[:19], "19 labels in 'worse_label' for 20 images"),
        (CLEAN + 1, r"worse_label\[9\] is 10, none of 10 classes"),
        (CLEAN.astype(float), "'worse_label' is no list of whole numbers"),
        ([0.5] * 20, "'worse_label' is no list of whole numbers"),
        (CLEAN[:, None], "'worse_label' is no list of whole numbers"),
    ],
)
def test_human_labels_that_do_not_fit(root, given, complaint):
    write_cifar10n(root, CLEAN, worse_label=given)
    with pytest.raises(ValueError, match=rf"CIFAR-10_human.pt: {complaint}: catchment fetch cifar10n"):
        KNOWN["cifar10n"].read(root, "worse")


def test_annotations_or_images_that_are_missing(root, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"CIFAR-N/CIFAR-10_human.pt is missing: catchment fetch cifar10n"):
        KNOWN["cifar10n"].read(root, "worse")
    with pytest.raises(FileNotFoundError, match=r"cifar-10h/cifar10h-counts.npy is missing: catchment fetch cifar10h"):
        KNOWN["cifar10h"].read(root, "")
    assert KNOWN["cifar10n"].find(root) is None
    other = tmp_path_factory.mktemp("other")
    write_cifar10n(other, CLEAN)
    assert KNOWN["cifar10n"].find(other) is None
    with pytest.raises(FileNotFoundError, match=r"batches.meta: there is no such file: catchment fetch cifar10"):
        KNOWN["cifar10n"].read(other, "worse")


def write_answers(root, answers, name="cifar10h-counts.npy"):
    (root / "cifar-10h").mkdir(exist_ok=True)
    np.save(root / "cifar-10h" / name, answers)


@pytest.mark.parametrize("name", ["cifar10h-counts.npy", "cifar10h-probs.npy", "cifar-10h-probs.npy"])
def test_answers_become_probabilities_of_the_test_part(root, name):
    counts = cifar10h_counts(np.arange(8))
    expected = counts / counts.sum(axis=1, keepdims=True)
    write_answers(root, counts if "counts" in name else expected, name)
    train, test = KNOWN["cifar10h"].read(root, "")
    assert train.human_probabilities is None
    assert test.human_probabilities.dtype == np.float32
    np.testing.assert_allclose(test.human_probabilities, expected, rtol=1e-7)
    np.testing.assert_allclose(test.human_probabilities[0], [0.96, 0, 0, 0.02, 0, 0.02, 0, 0, 0, 0])
    np.testing.assert_array_equal(test.labels, np.arange(8))
    assert test.name == "cifar10h"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda counts: counts[:7], r"it holds int64 \(7, 10\), not numbers \(8, 10\)"),
        (lambda counts: counts[:, :9], r"it holds int64 \(8, 9\)"),
        (lambda counts: counts.astype(str), r"it holds <U21 \(8, 10\)"),
        (lambda counts: counts * (np.arange(8) != 5)[:, None], "row 5 holds no counts or probabilities"),
        (lambda counts: -counts, "row 0 holds no counts"),
        (lambda counts: counts / np.where(np.arange(8) == 2, np.nan, 1)[:, None], "row 2 holds no counts"),
        (lambda counts: counts[::-1], "the commonest answer is the label for 0.00% of the images, not for 99.21 %"),
        (lambda counts: np.where(np.arange(8)[:, None] == 3, np.roll(counts, 1, axis=1), counts),
         "the commonest answer is the label for 87.50% of the images"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit(root, change, complaint):
    write_answers(root, change(cifar10h_counts(np.arange(8))))
    with pytest.raises(ValueError, match=rf"cifar10h-counts.npy: {complaint}.*catchment fetch cifar10h"):
        KNOWN["cifar10h"].read(root, "")


def test_an_answer_file_that_is_cut_off(root):
    write_answers(root, cifar10h_counts(np.arange(8)))
    path = root / "cifar-10h" / "cifar10h-counts.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cifar10h-counts.npy: this is not a whole .npy file of numbers"):
        KNOWN["cifar10h"].read(root, "")
