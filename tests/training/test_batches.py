import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catchment.data import Dataset
from catchment.training.batches import (
    Augmentation,
    Mixing,
    TrainingBatches,
    batch_bounds,
    class_probabilities,
    epoch_generator,
    inputs_on_device,
    rotated,
)

CPU = torch.device("cpu")


def make_images(samples=10, height=5, width=6, channels=3):
    """Images in which every pixel of a sample differs, and none is 0."""
    pixels = np.random.default_rng(0).permutation(255 * 2)[: height * width * channels] % 255 + 1
    inputs = (pixels.reshape(1, height, width, channels) + np.arange(samples)[:, None, None, None]).clip(1, 255)
    return Dataset("images", inputs.astype(np.uint8), np.arange(samples) % 3, ("a", "b", "c"))


def make_table(samples=10):
    inputs = np.arange(2 * samples, dtype=np.float32).reshape(samples, 2)
    return Dataset("table", inputs, np.arange(samples) % 3, ("a", "b", "c"))


def make_batches(dataset, batch_size=4, seed=7, **options):
    return TrainingBatches(dataset, batch_size=batch_size, device=CPU, seed=seed, **options)


def indices(batches, epoch=0):
    return [batch["index"].tolist() for batch in batches.epoch(epoch, 5)]


def order_of(batches, epoch=0):
    return list(itertools.chain.from_iterable(indices(batches, epoch)))


def by_sample(batches, epoch=0, key="inputs"):
    """Index -> what the batches of an epoch hold for that sample."""
    rows = {}
    for batch in batches.epoch(epoch, 5):
        rows |= dict(zip(batch["index"].tolist(), batch[key], strict=True))
    return rows


@pytest.mark.parametrize("samples", [8, 9, 10, 11, 3])
def test_an_epoch_holds_every_sample_once_with_its_input_and_label(samples):
    dataset = make_table(samples)
    batches = make_batches(dataset)
    parts = list(batches.epoch(3, 5))
    assert len(parts) == len(batches)
    assert sorted(torch.cat([batch["index"] for batch in parts]).tolist()) == list(range(samples))
    for batch in parts:
        assert torch.equal(batch["inputs"], torch.from_numpy(dataset.inputs)[batch["index"]])
        assert torch.equal(batch["target"], torch.from_numpy(dataset.labels)[batch["index"]])


def test_batch_sizes_and_a_last_batch_of_one_that_joins_the_one_before():
    assert [len(index) for index in indices(make_batches(make_table(10)))] == [4, 4, 2]
    assert [len(index) for index in indices(make_batches(make_table(9)))] == [4, 5]
    assert [len(index) for index in indices(make_batches(make_table(3), batch_size=100))] == [3]


def test_progress_goes_from_0_to_1_over_all_epochs():
    batches = make_batches(make_table(10))
    progress = [float(batch["progress"]) for epoch in range(2) for batch in batches.epoch(epoch, 2)]
    assert progress == pytest.approx([n / 6 for n in range(6)])


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    table = make_table(12)
    torch.manual_seed(0)
    first = indices(make_batches(table), epoch=2)
    torch.manual_seed(1)
    batches = make_batches(make_table(12))
    for _ in batches.epoch(0, 5):
        break  # an epoch begun and left, as before a kill
    assert indices(batches, epoch=2) == first
    assert order_of(make_batches(table, batch_size=5), epoch=2) == order_of(batches, epoch=2)
    others = [indices(batches, epoch=3), indices(make_batches(table, seed=8), epoch=2)]
    others += [indices(make_batches(table, seed=2), epoch=7), sorted(first)]
    assert all(other != first for other in others)
    # augmentation draws after the order, so that it does not change it
    assert indices(make_batches(make_images(12), augmentation=("crop:1", "flip")), epoch=2) == first


def test_drawing_batches_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    indices(make_batches(make_images(), augmentation=("crop:1", "flip")))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_seed_and_epoch_do_not_stand_for_each_other():
    drawn = {(s, e): epoch_generator(s, e).initial_seed() for s in range(4) for e in range(4)}
    assert len(set(drawn.values())) == 16
    assert drawn[1, 2] == epoch_generator(1, 2).initial_seed()


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_hold_the_batches_of_one_process(world_size):
    images = make_images(24)
    options = {"batch_size": 6, "augmentation": ("crop:2", "flip"), "columns": {"half": torch.arange(24) / 2}}
    alone = list(make_batches(images, **options).epoch(1, 5))
    ranks = [
        list(make_batches(images, rank=rank, world_size=world_size, **options).epoch(1, 5))
        for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        shares = [part[step] for part in ranks]
        assert {len(share["index"]) for share in shares} == {6 // world_size}
        together = torch.cat([share["index"] for share in shares])
        order, whole_order = together.argsort(), whole["index"].argsort()
        for key in ("index", "inputs", "target", "half"):
            joined = torch.cat([share[key] for share in shares])
            assert torch.equal(joined[order], whole[key][whole_order])
        assert all(share["progress"] == whole["progress"] for share in shares)


def test_samples_that_do_not_divide_are_left_out_of_another_epoch_each_time():
    left_out = set()
    for epoch in range(12):
        seen = [order_of(make_batches(make_table(11), rank=rank, world_size=2), epoch) for rank in (0, 1)]
        assert len(seen[0]) == len(seen[1]) == 5
        (missing,) = set(range(11)) - set(seen[0]) - set(seen[1])
        left_out.add(missing)
    assert len(left_out) > 3


@given(st.integers(0, 300), st.integers(0, 70), st.integers(1, 9))
def test_bounds_cover_all_samples_in_equal_shares_of_two_or_more(num_samples, batch_size, world_size):
    usable, size = num_samples - num_samples % world_size, batch_size - batch_size % world_size
    if usable < 2 * world_size or size < 2 * world_size:
        with pytest.raises(ValueError, match="less than 2 each: use fewer processes, a larger batch or more data"):
            batch_bounds(num_samples, batch_size, world_size)
        return
    bounds = batch_bounds(num_samples, batch_size, world_size)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == usable
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(bounds))
    lengths = [stop - start for start, stop in bounds]
    assert all(length % world_size == 0 and length >= 2 * world_size for length in lengths)
    assert all(length == size for length in lengths[:-1])
    assert lengths[-1] < size + 2 * world_size


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 6, "world_size": 4}, {"batch_size": 64, "world_size": 6}]
)
def test_too_little_for_the_processes_is_refused(options):
    with pytest.raises(ValueError, match="use fewer processes"):
        make_batches(make_table(11), **options)


def crop_by_hand(image, row, column, padding):
    """Pad a ``(C, H, W)`` image with 0 and cut the same size at (row, column)."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = image
    return padded[:, row : row + height, column : column + width]


def test_crops_by_hand():
    dataset = make_images(25, height=4, width=6)
    images = inputs_on_device(dataset, CPU)
    shifts = torch.tensor([[row, column] for row in range(5) for column in range(5)])
    augment = Augmentation(shifts, 2, None)
    index = torch.arange(24, -1, -1)
    cropped = augment(images[index], index)
    assert cropped.dtype == torch.uint8
    for position, sample in enumerate(index.tolist()):
        expected = crop_by_hand(dataset.inputs[sample].transpose(2, 0, 1), *shifts[sample].tolist(), 2)
        np.testing.assert_array_equal(cropped[position], expected)
    assert torch.equal(cropped[index == 12], images[12:13])  # in the middle nothing moves
    assert (cropped[index == 0][0, :, :2] == 0).all()  # the corner shows two rows of padding


def test_flips_by_hand():
    images = inputs_on_device(make_images(4), CPU)
    flipped = Augmentation(None, 0, torch.tensor([True, False, False, True]))(
        images[[3, 1, 0]], torch.tensor([3, 1, 0])
    )
    assert flipped.dtype == torch.uint8
    assert torch.equal(flipped, torch.stack([images[3].flip(2), images[1], images[0].flip(2)]))
    assert not torch.equal(flipped[0], images[3])


def test_a_flip_comes_after_the_crop():
    images = inputs_on_device(make_images(1), CPU)
    both = Augmentation(torch.tensor([[1, 4]]), 2, torch.tensor([True]))(images, torch.tensor([0]))
    np.testing.assert_array_equal(both[0], crop_by_hand(images[0].numpy(), 1, 4, 2)[:, :, ::-1])


def test_crops_and_flips_are_drawn_uniformly():
    drawn = Augmentation.draw(("flip", "crop:2"), 5000, epoch_generator(0, 0), CPU)
    assert drawn.padding == 2
    counts = torch.bincount(drawn.shifts[:, 0] * 5 + drawn.shifts[:, 1], minlength=25)
    assert counts.shape == (25,)
    assert (counts > 130).all()  # 200 expected, with a standard deviation of 14
    assert 0.46 < drawn.flips.float().mean() < 0.54
    assert Augmentation.draw((), 5, epoch_generator(0, 0), CPU) == Augmentation(None, 0, None)
    assert Augmentation.draw(("flip",), 5, epoch_generator(0, 0), CPU).shifts is None


@pytest.mark.parametrize("augmentation", [("crop:1",), ("flip",), ("crop:2", "flip")])
def test_the_augmentation_of_a_sample_depends_on_seed_epoch_and_its_index_alone(augmentation):
    images = make_images(12)

    def rows(epoch=1, **options):
        return by_sample(make_batches(images, augmentation=augmentation, **options), epoch)

    first = rows()
    sharings = [
        rows(batch_size=6),
        rows(batch_size=100),
        rows(rank=0, world_size=2) | rows(rank=1, world_size=2),
        rows(batch_size=6, rank=0, world_size=3) | rows(batch_size=6, rank=1, world_size=3)
        | rows(batch_size=6, rank=2, world_size=3),
    ]  # fmt: skip
    for other in sharings:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[sample], first[sample]) for sample in first)
    for other in (rows(epoch=2), rows(seed=8)):
        assert not all(torch.equal(other[sample], first[sample]) for sample in first)


@pytest.mark.parametrize("augmentation", [(), ("crop:1",), ("flip",), ("crop:2", "flip")])
def test_images_stay_bytes_with_channels_first(augmentation):
    images = make_images()
    rows = by_sample(make_batches(images, augmentation=augmentation))
    assert {(row.dtype, row.shape) for row in rows.values()} == {(torch.uint8, (3, 5, 6))}
    if not augmentation:
        assert all(np.array_equal(row, images.inputs[sample].transpose(2, 0, 1)) for sample, row in rows.items())


def test_columns_of_rows_go_with_their_samples():
    rows = torch.arange(20.0).reshape(10, 2)
    batches = make_batches(make_table(), columns={"tensor": rows, "array": rows.numpy() + 1})
    for batch in batches.epoch(0, 5):
        assert torch.equal(batch["tensor"], rows[batch["index"]])
        assert torch.equal(batch["array"], rows[batch["index"]] + 1)
        assert set(batch) == {"inputs", "target", "index", "progress", "tensor", "array"}


def test_columns_that_are_functions_see_the_augmented_inputs_and_their_index_without_gradient():
    weight = torch.nn.Parameter(torch.ones(()))
    seen = []

    def column(inputs, index):
        seen.append((inputs, index, torch.is_grad_enabled()))
        return inputs.float().sum((1, 2, 3)) * weight

    batches = make_batches(make_images(), augmentation=("crop:2",), columns={"brightness": column})
    for batch in batches.epoch(0, 5):
        inputs, index, grad_enabled = seen.pop()
        assert torch.equal(inputs, batch["inputs"])
        assert torch.equal(index, batch["index"])
        assert not grad_enabled
        assert not batch["brightness"].requires_grad
        assert torch.equal(batch["brightness"], batch["inputs"].float().sum((1, 2, 3)))
        assert torch.is_grad_enabled()
    assert not seen


@pytest.mark.parametrize("column", [torch.zeros(9), np.zeros((11, 2))])
def test_a_column_of_another_length_is_refused(column):
    with pytest.raises(ValueError, match=rf"column 'extra' has {len(column)} rows for 10 samples: give one each"):
        make_batches(make_table(), columns={"extra": column})


def test_augmentation_of_a_table_is_refused():
    with pytest.raises(ValueError, match="augmentation is crop:4, flip, and table is a table: leave it out"):
        make_batches(make_table(), augmentation=("crop:4", "flip"))


def test_a_quarter_turn_is_that_of_the_array_and_none_changes_nothing():
    images = torch.randint(0, 256, (3, 2, 7, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    turned = rotated(images, torch.tensor([90.0, -90.0, 0.0]))
    assert torch.equal(turned[0], torch.rot90(images[0], 1, (1, 2)))
    assert torch.equal(turned[1], torch.rot90(images[1], -1, (1, 2)))
    assert torch.equal(turned[2], images[2])
    assert turned.dtype == torch.uint8


def test_turning_agrees_with_pillow_on_wide_images_and_leaves_black_corners():
    pixels = np.random.default_rng(0).integers(1, 256, (40, 64), dtype=np.uint8)
    turned = rotated(torch.from_numpy(pixels)[None, None], torch.tensor([17.0]))[0, 0].numpy()
    expected = np.asarray(Image.fromarray(pixels).rotate(17))
    assert (turned == expected).mean() > 0.99  # but for pixels halfway between two
    assert turned[0, 0] == turned[-1, -1] == 0


def test_every_sample_is_turned_by_its_own_angle():
    steps = ("rotate:20",)
    decisions = Augmentation.draw(steps, 4000, epoch_generator(1, 0), CPU)
    assert decisions.angles.abs().max() <= 20
    assert decisions.angles.std().item() == pytest.approx(20 / 3**0.5, rel=0.05)
    dataset = make_images(6, 9, 9)
    here, there = (
        by_sample(make_batches(dataset, 2, augmentation=steps)),
        by_sample(make_batches(dataset, 6, augmentation=steps)),
    )
    assert all(torch.equal(here[row], there[row]) for row in range(6))


@pytest.mark.parametrize("step", ["mixup:0.4", "cutmix:1"])
def test_labels_are_mixed_in_the_proportion_of_the_pixels(step):
    """Images of one value each: what share of an image came from the other can be read from its mean."""
    values = np.array([0, 60, 120, 240], dtype=np.uint8)
    inputs = np.broadcast_to(values[:, None, None, None], (4, 16, 16, 1)).copy()
    batches = make_batches(Dataset("flat", inputs, np.arange(4), tuple("abcd")), 4, augmentation=(step,))
    shares = []
    for epoch in range(12):
        (batch,) = batches.epoch(epoch, 12)
        index, target = batch["index"], batch["target"]
        assert target.shape == (4, 4)
        torch.testing.assert_close(target.sum(1), torch.ones(4))
        torch.testing.assert_close(batch["inputs"].float().mean((1, 2, 3)), target @ torch.from_numpy(values).float())
        torch.testing.assert_close(target[torch.arange(4), index.flip(0)], 1 - target[torch.arange(4), index])
        shares.append(target[0, index[0]].item())
    assert len({round(share, 6) for share in shares}) > 8
    if step == "cutmix:1":
        assert all(float(pixel) in values for pixel in batch["inputs"].unique())


def test_a_sample_without_label_adds_no_class_when_it_is_mixed():
    probabilities = class_probabilities(torch.tensor([2, -100, -1]), 3)
    assert probabilities.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert class_probabilities(torch.tensor([[1, 0, 1]], dtype=torch.uint8), 3).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("step", ["mixup:0.4", "cutmix:1"])
def test_mixing_is_the_same_over_processes(step):
    dataset = make_images(12, 8, 8)
    whole = list(make_batches(dataset, 6, augmentation=("flip", step)).epoch(2, 5))
    for rank in range(2):
        share = list(make_batches(dataset, 6, augmentation=("flip", step), rank=rank, world_size=2).epoch(2, 5))
        for all_of_it, part in zip(whole, share, strict=True):
            assert torch.equal(all_of_it["inputs"][rank::2], part["inputs"])
            assert torch.equal(all_of_it["target"][rank::2], part["target"])


def test_cut_boxes_have_the_area_that_the_labels_say():
    mixing = Mixing.draw("cutmix:1", 2000, (20, 30), 3, 0)
    areas = np.array([(bottom - top) * (right - left) for top, bottom, left, right in mixing.boxes])
    np.testing.assert_allclose(1 - areas / 600, mixing.shares.numpy(), atol=1e-6)
    assert areas.min() >= 0
    # A side of share s around a uniform centre keeps s - s^2 / 4 of the image on average, and s^2 is uniform.
    s = np.sqrt(np.linspace(0, 1, 100_001))
    assert areas.mean() / 600 == pytest.approx(((s - s**2 / 4) ** 2).mean(), rel=0.05)


@pytest.mark.parametrize(
    ("steps", "dataset"), [(("cutout:2", "mixup:1"), make_images()), (("mixup:1",), make_table())], ids=["cut", "table"]
)
def test_mixing_is_refused_where_it_cannot_be(steps, dataset):
    with pytest.raises(ValueError, match="mixup"):
        make_batches(dataset, augmentation=steps)
