import dataclasses
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from published_formats_large import save
from torch import nn

import catchment as ct
from catchment.data import Dataset, ImageFiles, InputFormat
from catchment.nets import create_net, input_statistics
from catchment.objective import Model
from catchment.training import TrainingConfig, predict, train
from catchment.training.batches import TrainingBatches, check_augmentation
from catchment.training.checkpoint import Checkpointer
from catchment.training.config import parse_step
from catchment.training.loop import choose_threads
from catchment.training.streaming import (
    StreamedBatches,
    choose_workers,
    cut_out,
    jitter,
    make_batches,
    random_box,
    stream_in_order,
)

CPU = torch.device("cpu")
SAMPLES, SIZE = 24, 12
ALL_STEPS = ("random-resized-crop", "flip", "color-jitter:0.4:0.4:0.4:0.2", "crop:2", "cutout:4")
PUBLISHED = ("random-resized-crop", "flip", "color-jitter:0.4:0.4:0.4:0.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of many colours; bright in class 1."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k in range(SAMPLES):
        pixels = rng.integers(0, 120, (20, 30, 3)) + 120 * (k % 2)
        save(root / f"{k}.png", Image.fromarray(pixels.astype(np.uint8)), "PNG")
    return root


def make_files(folder, **options):
    return ImageFiles(folder, [f"{k}.png" for k in range(SAMPLES)], SIZE, resize=14, **options)


def make_dataset(folder, augmentation=(), **options):
    labels = np.arange(SAMPLES) % 2
    return Dataset("photos", make_files(folder, **options), labels, ("dark", "bright"), augmentation=augmentation)


def in_memory(dataset):
    return dataclasses.replace(dataset, inputs=dataset.inputs.decode(slice(None)))


def stream(dataset, batch_size=6, seed=7, **options):
    return StreamedBatches(dataset, batch_size=batch_size, device=CPU, seed=seed, **options)


def by_sample(batches, epoch=0):
    rows = {}
    for batch in batches.epoch(epoch, 5):
        rows |= dict(zip(batch["index"].tolist(), batch["inputs"], strict=True))
    return rows


def assert_same_batches(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("workers", [0, 2])
def test_without_augmentation_batches_are_those_of_data_in_memory(folder, workers):
    dataset = make_dataset(folder)
    columns = {"half": torch.arange(SAMPLES) / 2, "mean": lambda inputs, index: inputs.float().mean((1, 2, 3))}
    streamed = stream(dataset, columns=columns, workers=workers)
    whole = TrainingBatches(in_memory(dataset), batch_size=6, device=CPU, seed=7, columns=columns)
    assert len(streamed) == len(whole) == 4
    for epoch in (0, 3):
        assert_same_batches(list(streamed.epoch(epoch, 5)), list(whole.epoch(epoch, 5)))
    assert (streamed.inputs.shape, streamed.inputs.dtype) == (whole.inputs.shape, whole.inputs.dtype)


def test_neither_workers_nor_processes_nor_batch_size_matter_to_a_sample(folder):
    pytest.importorskip("torchvision")
    dataset = make_dataset(folder)
    alone = stream(dataset, augmentation=ALL_STEPS)
    with_workers = stream(dataset, augmentation=ALL_STEPS, workers=2)
    for _ in with_workers.epoch(0, 5):
        break  # an epoch begun and left
    for epoch in (1, 0):
        assert_same_batches(list(alone.epoch(epoch, 5)), list(with_workers.epoch(epoch, 5)))
    expected = by_sample(alone, 2)
    assert len(expected) == SAMPLES
    ranks = [by_sample(stream(dataset, augmentation=ALL_STEPS, rank=k, world_size=2), 2) for k in range(2)]
    for other in (ranks[0] | ranks[1], by_sample(stream(dataset, 9, augmentation=ALL_STEPS), 2)):
        assert all(torch.equal(other[sample], expected[sample]) for sample in expected)
    for others in (by_sample(alone, 3), by_sample(stream(dataset, seed=8, augmentation=ALL_STEPS), 2)):
        assert not any(torch.equal(others[sample], expected[sample]) for sample in expected)


def test_streaming_leaves_the_global_generators_alone(folder):
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for workers in (0, 1):
        list(stream(make_dataset(folder), augmentation=ALL_STEPS, workers=workers).epoch(0, 5))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def make_model(dataset):
    torch.manual_seed(3)
    objective = ct.create_objective("cross-entropy", num_classes=2)
    return Model(create_net("small-cnn", InputFormat.of(dataset), objective, input_statistics(dataset)), objective)


CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.02, threads=1, device="cpu")


def trained(dataset, **options):
    model = make_model(dataset)
    settings = {name: options.pop(name) for name in ("workers", "epochs") if name in options}
    result = train(model, dataset, dataclasses.replace(CONFIG, **settings), **options)
    return model, result


def assert_same_weights(first, second):
    theirs = second.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


def test_the_same_seed_gives_the_same_bits_whatever_the_workers(folder, monkeypatch):
    pytest.importorskip("torchvision")
    dataset = make_dataset(folder, PUBLISHED)
    parallel, result = trained(dataset, workers=2, validation=dataset)
    monkeypatch.setattr("catchment.training.streaming.choose_workers", lambda: 0)
    alone, again = trained(dataset, validation=dataset)
    assert_same_weights(parallel, alone)
    rows = [[{**row, "seconds": 0} for row in history] for history in (result.history, again.history)]
    assert rows[0] == rows[1]
    assert result.history[-1]["validation_accuracy"] == 1  # dark and bright
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_a_run_that_stops_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(Checkpointer.__init__, "__kwdefaults__", {"share": float("inf")})
    dataset = make_dataset(folder, PUBLISHED)
    whole, _ = trained(dataset, workers=1)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(dataset, workers=1, folder=tmp_path, on_epoch=stop)
    resumed, result = trained(dataset, workers=2, folder=tmp_path, resume=True)
    assert len(result.history) == 4
    assert_same_weights(whole, resumed)


def test_predictions_are_those_of_data_in_memory(folder):
    dataset = make_dataset(folder)
    model = make_model(dataset)
    expected = predict(model, in_memory(dataset), batch_size=7)
    for workers in (0, 2):
        streamed = predict(model, dataset, batch_size=7, workers=workers)
        for field in dataclasses.fields(streamed):
            assert torch.equal(getattr(streamed, field.name), getattr(expected, field.name))
    assert [len(part) for part in stream_in_order(dataset.inputs[:5], CPU, batch_size=2)] == [2, 2, 1]
    assert predict(model, dataset.select([])).logits.shape == (0, 2)


@pytest.fixture
def damaged(folder, tmp_path):
    """The same, but for 3.png, which is no image, and 4.png, which ends too early."""
    for k in range(SAMPLES):
        (tmp_path / f"{k}.png").write_bytes((folder / f"{k}.png").read_bytes())
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "4.png").write_bytes((folder / "4.png").read_bytes()[:1000])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_with_one_line(damaged, workers):
    one_line = r"^[^\n]*: [34]\.png can't be read \([^\n]*\): [^\n]*--skip-unreadable$"
    with pytest.raises(ValueError, match=one_line):
        list(stream(make_dataset(damaged), workers=workers).epoch(0, 5))
    with pytest.raises(ValueError, match=one_line):
        predict(make_model(make_dataset(damaged, mean=(0.5,) * 3, std=(0.2,) * 3)), make_dataset(damaged))


def test_unreadable_images_are_left_out_and_counted_once_an_epoch(damaged):
    dataset = make_dataset(damaged, on_error="skip", truncated=True)
    batches = stream(dataset, workers=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(batches.epoch(4, 5))
    index, target = (torch.cat([batch[key] for batch in found]).tolist() for key in ("index", "target"))
    labels = dict(zip(index, target, strict=True))
    assert labels.pop(3) == -100
    assert labels == {k: k % 2 for k in range(SAMPLES) if k != 3}
    with pytest.warns(UserWarning, match="epoch 1: 1 of 24"):
        pixels = by_sample(batches)
    assert pixels[3].max() == 0
    assert pixels[4].max() > 0
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert messages[0].startswith("epoch 5: 1 of 24 images can't be read, and were left out of the loss (first ")
    assert "3.png: not an image" in messages[0]
    assert messages[1] == "epoch 5: 1 of 24 image files end too early, and were read as far as they go"
    assert batches.target[3] == 1  # the data set's own label stays


def test_the_skipped_image_does_not_touch_the_gradient(damaged):
    dataset = make_dataset(damaged, on_error="skip").select(np.arange(SAMPLES) != 4)
    objective = ct.create_objective("cross-entropy", num_classes=2)
    net = nn.Linear(3 * SIZE * SIZE, 2)
    with pytest.warns(UserWarning, match="left out of the loss"):
        (batch,) = stream(dataset, len(dataset)).epoch(0, 1)
    logits = net(batch["inputs"].flatten(1).float() / 255)
    loss = objective(logits, batch["target"])
    kept = batch["index"] != 3
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits[kept], batch["target"][kept]))
    assert kept.sum() == len(dataset) - 1


def test_predicting_an_unreadable_image_is_reported(damaged):
    images = make_files(damaged, on_error="skip")[np.arange(SAMPLES) != 4]
    with pytest.warns(
        UserWarning, match="evaluation: 1 of 23 images can't be read, and were judged as if they were bl"
    ):
        parts = list(stream_in_order(images, CPU))
    assert parts[0][3].max() == 0


def test_the_factory_streams_what_it_must(folder):
    files, arrays = make_dataset(folder), in_memory(make_dataset(folder))
    options = {"batch_size": 8, "device": CPU, "seed": 0}
    assert isinstance(make_batches(files, **options), StreamedBatches)
    assert isinstance(make_batches(arrays, **options, augmentation=("crop:2", "flip")), TrainingBatches)
    streamed = make_batches(arrays, **options, augmentation=("flip", "cutout:4"))
    assert isinstance(streamed, StreamedBatches)
    table = Dataset("table", np.zeros((24, 2), np.float32), np.arange(24) % 2, ("a", "b"))
    assert isinstance(make_batches(table, **options), TrainingBatches)
    # so the steps work on arrays, gray ones too
    gray = dataclasses.replace(arrays, inputs=arrays.inputs[..., :1])
    batch = next(iter(stream(gray, augmentation=ALL_STEPS).epoch(0, 1)))
    assert batch["inputs"].shape == (6, 1, SIZE, SIZE)


def test_crop_and_flip_of_streamed_images(folder):
    dataset = make_dataset(folder)
    images = torch.from_numpy(dataset.inputs.decode(slice(None))).permute(0, 3, 1, 2)
    flips, shifts = 0, set()
    for epoch in range(10):
        for sample, image in by_sample(stream(dataset, augmentation=("flip",)), epoch).items():
            flipped = torch.equal(image, images[sample].flip(-1))
            assert flipped or torch.equal(image, images[sample])
            flips += flipped
        for sample, image in by_sample(stream(dataset, augmentation=("crop:1",)), epoch).items():
            padded = nn.functional.pad(images[sample], [1] * 4)
            places = [(r, c) for r in range(3) for c in range(3)]
            (place,) = [(r, c) for r, c in places if torch.equal(image, padded[:, r : r + SIZE, c : c + SIZE])]
            shifts.add(place)
    assert 90 < flips < 150  # of 240
    assert len(shifts) == 9


def test_random_crop_takes_any_place_of_the_resized_image(tmp_path):
    # a ramp from left to right, 3 x as wide as high: the mean tells where the crop was
    ramp = np.broadcast_to(np.arange(84, dtype=np.uint8)[:, None], (28, 84, 3))
    save(tmp_path / "ramp.png", Image.fromarray(np.ascontiguousarray(ramp)), "PNG")
    files = ImageFiles(tmp_path, ["ramp.png"] * 200, 12, resize=14)
    dataset = Dataset("ramp", files, np.zeros(200, dtype=np.int64), ("a", "b"))
    means = [
        float(image.float().mean()) for image in by_sample(stream(dataset, augmentation=("random-crop",))).values()
    ]
    # resized to 14 x 42 a crop of 12 starts at 0..30, and covers 24 levels
    assert min(means) == pytest.approx(11.5, abs=0.6)
    assert max(means) == pytest.approx(71.5, abs=0.6)
    assert len({round(mean) for mean in means}) > 25


def test_random_boxes_have_the_stated_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((400, 300), rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 400).all()
    assert (boxes[:, 3] <= 300).all()
    area, ratio = width * height / 120_000, width / height
    assert 0.078 < area.min() < 0.1
    assert area.max() > 0.95
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    v2 = pytest.importorskip("torchvision.transforms.v2")
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(224)
    drawn = [theirs.make_params([torch.empty(3, 300, 400)]) for _ in range(2000)]
    their_area = np.array([one["width"] * one["height"] for one in drawn]) / 120_000
    assert area.mean() == pytest.approx(their_area.mean(), abs=0.025)  # 3 standard errors
    # nothing fits into such a strip: the middle, as wide as the ratio lets it
    assert random_box((1000, 9), np.random.default_rng(0)) == (494, 0, 506, 9)


def test_a_random_resized_crop_is_torchvisions_of_the_same_box(folder):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    dataset = make_dataset(folder)
    views = by_sample(stream(dataset, augmentation=("random-resized-crop",)), 2)
    for sample, view in views.items():
        image, _ = dataset.inputs.read(sample)
        left, top, right, bottom = random_box(image.size, np.random.default_rng([7, 2, sample]))
        expected = functional.resized_crop(image, top, left, bottom - top, right - left, [SIZE, SIZE])
        np.testing.assert_array_equal(view.permute(1, 2, 0), np.asarray(expected))


def test_color_jitter_by_strength():
    pytest.importorskip("torchvision")
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (4, 4), (100, 100, 100))
    means = [np.asarray(jitter(image, (0.4, 0.0, 0.0, 0.0), rng)).mean() for _ in range(300)]
    assert 60 <= min(means) < 62
    assert 138 < max(means) <= 140
    assert np.mean(means) == pytest.approx(100, abs=4)
    gray = [np.asarray(jitter(image, (0.0, 0.0, 0.9, 0.5), rng)) for _ in range(10)]
    assert all((one == 100).all() for one in gray)  # gray has neither saturation nor hue
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    hues = {int(np.asarray(jitter(red, (0.0, 0.0, 0.0, 0.5), rng))[0, 0].argmax()) for _ in range(30)}
    assert hues == {0, 1, 2}
    assert (np.asarray(jitter(red, (0.0,) * 4, rng)) == np.asarray(red)).all()


def test_cutout_fills_a_square_around_any_pixel():
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (10, 8), (1, 1, 1))
    areas, hit = [], np.zeros((8, 10), dtype=int)
    for _ in range(400):
        filled = np.asarray(cut_out(image, 4, (9, 8, 7), rng))
        mask = (filled == [9, 8, 7]).all(-1)
        assert ((filled == 1).all(-1) | mask).all()
        areas.append(int(mask.sum()))
        hit += mask
    assert (max(areas), min(areas)) == (16, 4)  # whole, and a quarter at the corner
    assert hit.min() > 0
    assert np.asarray(image).max() == 1


def test_cutout_fills_with_the_mean_colour(folder):
    dataset = make_dataset(folder, mean=(0.2, 0.4, 0.6), std=(0.1, 0.1, 0.1))
    image = next(iter(stream(dataset, augmentation=("cutout:30",)).epoch(0, 1)))["inputs"][0]
    assert image[:, 6, 6].tolist() == [51, 102, 153]


@pytest.mark.parametrize("channels", [1, 3])
def test_augmix_mixes_each_image_anew_and_again_alike(folder, channels):
    arrays = in_memory(make_dataset(folder))
    arrays = dataclasses.replace(arrays, inputs=arrays.inputs[..., :channels].copy())
    plain = by_sample(stream(arrays))
    state = torch.get_rng_state()
    batches = stream(arrays, augmentation=("augmix:3",))
    first, second, again = by_sample(batches), by_sample(batches, 1), by_sample(batches)
    assert torch.equal(torch.get_rng_state(), state)
    for row, image in first.items():
        assert torch.equal(image, again[row])
        assert not torch.equal(image, second[row])
    distance = torch.stack([(first[row].float() - plain[row].float()).abs().mean() for row in plain])
    severe = by_sample(stream(arrays, augmentation=("augmix:10",)))
    further = torch.stack([(severe[row].float() - plain[row].float()).abs().mean() for row in plain])
    assert 1 < distance.mean() < further.mean() < 128


@pytest.mark.parametrize(
    ("step", "parsed"),
    [
        ("flip", ("flip", ())),
        ("crop:4", ("crop", (4.0,))),
        ("cutout:112", ("cutout", (112.0,))),
        ("random-resized-crop", ("random-resized-crop", ())),
        ("random-crop", ("random-crop", ())),
        ("color-jitter:0.4:0.4:0.4:0.2", ("color-jitter", (0.4, 0.4, 0.4, 0.2))),
        ("augmix:3", ("augmix", (3.0,))),
    ],
)
def test_steps_are_read(step, parsed):
    assert parse_step(step) == parsed
    assert TrainingConfig(augmentation=(step,)).augmentation == (step,)


@pytest.mark.parametrize(
    "steps",
    [
        ("cutout",),
        ("cutout:0",),
        ("color-jitter:0.4",),
        ("augmix",),
        ("augmix:0",),
        ("augmix:11",),
        ("color-jitter:0.4:0.4:0.4:0.6",),
        ("color-jitter:-1:0:0:0",),
        ("random-crop:4",),
        ("flip", "random-resized-crop"),
        ("random-crop", "random-resized-crop"),
    ],
)
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match="^augmentation (is|has)"):
        TrainingConfig(augmentation=steps)


def test_what_the_data_cannot_take_is_refused(folder, monkeypatch):
    arrays = in_memory(make_dataset(folder))
    with pytest.raises(ValueError, match="random-crop, and the images of photos have no more than their 12 pixels"):
        check_augmentation(("random-crop",), arrays)
    check_augmentation(("random-crop",), make_dataset(folder))
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(ValueError, match=r'color-jitter needs torchvision: pip install "catchment\[vision\]"'):
        trained(make_dataset(folder, PUBLISHED))
    with pytest.raises(ValueError, match=r'augmix needs torchvision: pip install "catchment\[vision\]"'):
        check_augmentation(("augmix:3",), arrays)
    several = Dataset("many", make_files(folder, on_error="skip"), np.zeros((SAMPLES, 2), np.uint8), ("a", "b"))
    with pytest.raises(ValueError, match="can't be skipped where a sample has several labels"):
        stream(several)


def test_workers_are_chosen_by_the_processors(monkeypatch):
    for processors, local, chosen in ((1, "1", 0), (2, "1", 2), (64, "1", 8), (16, "4", 4), (4, "4", 0)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=processors: set(range(n)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert choose_workers() == chosen
    with pytest.raises(ValueError, match="workers is -1"):
        TrainingConfig(workers=-1)


def test_threads_are_chosen_without_an_image(folder):
    dataset = make_dataset(folder)
    batches = stream(dataset)
    assert batches.inputs.untyped_storage().nbytes() == 1
    assert choose_threads(make_model(dataset), batches.inputs[:8]) == 1
