import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from catchment.disturb import instance_noise
from catchment.disturb.instance import _draw_labels, _truncated_normal


def generator(seed=0):
    return np.random.default_rng(seed)


def sample(size, num_classes, shape=(6, 6, 3), seed=0):
    rng = generator(seed)
    return rng.integers(256, size=(size, *shape), dtype=np.uint8), rng.integers(num_classes, size=size)


def plain_instance_noise(images, labels, rate, num_classes, rng):
    """The definition, one image at a time, in float64; the same draws in the same order."""
    pixels = images.reshape(len(images), -1) / (255 if images.dtype == np.uint8 else 1)
    uniform_of_rate = rng.random(len(labels))
    uniform = rng.random(len(labels))
    weights = [rng.standard_normal((pixels.shape[1], num_classes), dtype=np.float32) for _ in range(num_classes)]
    noisy = []
    for x, y, u_rate, u in zip(pixels, labels, uniform_of_rate, uniform, strict=True):
        if y < 0:
            noisy.append(y)
            continue
        q = truncnorm.ppf(u_rate, -rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
        score = x @ weights[y].astype(np.float64)
        score[y] = -np.inf
        likely = np.exp(score - score.max())
        probability = q * likely / likely.sum()
        probability[y] += 1 - q
        cumulative = np.cumsum(probability)
        noisy.append(np.searchsorted(cumulative / cumulative[-1], u, side="right"))
    return np.array(noisy)


@pytest.mark.parametrize(("num_classes", "rate"), [(2, 0.3), (10, 0.05), (10, 0.5), (10, 1.0), (100, 0.4)])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_the_fast_labels_are_those_of_the_definition(num_classes, rate, kind):
    images, labels = sample(600, num_classes)
    if kind != "uint8":
        images = (images / 255).astype(kind)
    labels[[3, 100]] = [-1, -100]
    noisy = instance_noise(images, labels, rate, num_classes, generator(7))
    assert np.array_equal(noisy.labels, plain_instance_noise(images, labels, rate, num_classes, generator(7)))
    assert 0 < noisy.changed.sum() < 600


def test_a_class_of_more_images_than_are_multiplied_at_a_time():
    images, _ = sample(2500, 2, shape=(2,))
    labels = np.zeros(2500, int)
    noisy = instance_noise(images, labels, 0.4, 3, generator(1))
    assert np.array_equal(noisy.labels, plain_instance_noise(images, labels, 0.4, 3, generator(1)))


def test_images_that_do_not_lie_row_by_row_in_memory():
    images, labels = sample(50, 4)
    flipped = np.ascontiguousarray(images.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    one, other = (instance_noise(x, labels, 0.5, 4, generator()).labels for x in (images, flipped))
    assert not flipped.flags.c_contiguous
    assert np.array_equal(one, other)


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.5, 0.6])
def test_the_realised_rate_is_near_the_rate_asked(rate):
    images, labels = sample(50_000, 10, shape=(4, 4))
    noisy = instance_noise(images, labels, rate, 10, generator(2))
    expected = truncnorm.mean(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    # Five standard deviations of at most sqrt(0.25 / 50000) = 0.0022.
    assert noisy.record["rate_realised"] == pytest.approx(expected, abs=0.0112)
    assert noisy.record["rate_realised"] == pytest.approx(rate, abs=0.017)


def test_no_noise_at_rate_zero():
    images, labels = sample(500, 5)
    noisy = instance_noise(images, labels, 0, 5, generator())
    assert np.array_equal(noisy.labels, labels)
    assert noisy.record["rate_realised"] == 0.0


def test_a_higher_rate_changes_what_a_lower_one_changes_and_more():
    images, labels = sample(4000, 10, shape=(4, 4))
    changed = [instance_noise(images, labels, rate, 10, generator(3)).changed for rate in np.linspace(0, 1, 11)]
    for lower, higher in pairwise(changed):
        assert not (lower & ~higher).any()
        assert higher.sum() > lower.sum()


def test_every_image_has_a_favourite_mistake():
    image = generator(4).random((1, 8, 8))
    images = np.repeat(image, 20_000, axis=0)
    noisy = instance_noise(images, np.zeros(20_000, int), 0.5, 6, generator(5))
    weight = generator(5)
    weight.random(40_000)
    score = image.reshape(-1) @ weight.standard_normal((64, 6), dtype=np.float32).astype(np.float64)
    likely = np.exp(score[1:] - score[1:].max())
    moved = np.array(noisy.record["transition_counts"])[0, 1:]
    expected = 0.5 * likely / likely.sum()
    # Five standard deviations of a share of 20,000.
    assert moved / 20_000 == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 20_000))


def test_the_image_decides_not_its_place_or_company():
    images, labels = sample(300, 4)
    alone = instance_noise(images, labels, 0.5, 4, generator(6)).labels
    # The same draws for rows 0..299 need the same N: only other images and labels around row 0 change.
    others, other_labels = images.copy(), labels.copy()
    others[1:] = 255 - others[1:]
    other_labels[1:] = (other_labels[1:] + 1) % 4
    assert instance_noise(others, other_labels, 0.5, 4, generator(6)).labels[0] == alone[0]


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 6),
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=20),
)
def test_rates_of_one_never_draw_the_own_class_and_rates_of_zero_always(seed, num_classes, rows):
    rng = generator(seed)
    flip_rate, uniform = np.array(rows).T
    own = int(rng.integers(num_classes))
    drawn = _draw_labels(30 * rng.standard_normal((len(rows), num_classes)), own, flip_rate, uniform)
    assert np.array_equal(drawn != own, flip_rate == 1)
    assert ((drawn >= 0) & (drawn < num_classes)).all()


def test_the_flip_rates_are_a_truncated_normal_variable():
    uniform = (np.arange(1000) + 0.5) / 1000
    for rate in (0.02, 0.3, 0.5, 0.95, 1.0):
        expected = truncnorm.ppf(uniform, -rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
        assert _truncated_normal(uniform, rate, 0.1) == pytest.approx(expected, abs=1e-9)
    assert _truncated_normal(np.array([0.0, 1 - 2**-53]), 0.5, 0.1) == pytest.approx([0, 1], abs=1e-6)


def test_the_record_the_seed_and_the_input():
    images, labels = sample(1000, 10)
    kept_images, kept_labels = images.copy(), labels.copy()
    one, same, other = (instance_noise(images, labels, 0.4, 10, generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.labels, same.labels)
    assert not np.array_equal(one.labels, other.labels)
    assert np.array_equal(images, kept_images)
    assert np.array_equal(labels, kept_labels)
    assert (one.record["kind"], one.record["rate_asked"], one.record["num_classes"]) == ("instance", 0.4, 10)
    assert one.record["rate_realised"] == one.changed.mean() == (one.labels != labels).mean()
    assert np.sum(one.record["transition_counts"]) == 1000
    assert one.index.tolist() == list(range(1000))
    assert json.loads(json.dumps(one.record)) == one.record


def test_memory_stays_small():
    images = np.ones((30_000, 256), np.float32)
    labels = np.zeros(30_000, int)
    tracemalloc.start()
    instance_noise(images, labels, 0.4, 5, generator())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The images are 30.7 MB; a block of 2048 of them is 2.1 MB, everything per sample less than 2 MB.
    assert peak < 10e6


def test_no_images():
    noisy = instance_noise(np.zeros((0, 4, 4)), np.zeros(0, int), 0.4, 3, generator())
    assert noisy.labels.shape == (0,)
    assert noisy.record["rate_realised"] == 0.0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 2)), r"images have shape \(3, 2\): give one image for each of the 2 labels"),
        (np.zeros(2), r"images have shape \(2,\): give one image for each of the 2 labels"),
        (np.zeros((2, 2), int), "images are of type int64: give uint8, or floating-point numbers from 0 to 1"),
        (np.array([[0, 1.5], [0, 0]]), r"images hold values from 0\.0 to 1\.5: give pixels from 0 to 1"),
        (np.array([[0, -0.5], [0, 0]]), r"images hold values from -0\.5 to 0\.0: give pixels from 0 to 1"),
        (np.array([[0, np.nan], [0, 0]]), "images hold values from nan to nan: give pixels from 0 to 1"),
        (np.array([[0, np.inf], [0, 0]]), r"images hold values from 0\.0 to inf: give pixels from 0 to 1"),
    ],
)
def test_errors_of_images(images, message):
    with pytest.raises(ValueError, match=message):
        instance_noise(images, [0, 1], 0.4, 2, generator())


@pytest.mark.parametrize(
    ("labels", "rate", "num_classes", "rng", "message"),
    [
        ([0, 2], 0.4, 2, generator(), "labels hold class 2, but num_classes is 2: give 3 or more"),
        ([0, 1], 1.2, 2, generator(), r"rate is 1\.2: give a number from 0 to 1"),
        ([0, 0], 0.4, 1, generator(), "num_classes is 1: give a whole number, 2 or more"),
        ([0, 1], 0.4, 2, 1, r"rng is 1: give a numpy\.random\.Generator"),
    ],
)
def test_errors_of_the_rest(labels, rate, num_classes, rng, message):
    with pytest.raises(ValueError, match=message):
        instance_noise(np.zeros((2, 4)), labels, rate, num_classes, rng)
