"""What a run keeps of its predictions for its pages: ``evaluation.npz``."""

import numpy as np
import pytest
import torch

from catchment.data import Dataset
from catchment.experiments.evaluation_record import NAME, SHOWN, THUMBNAIL, write_evaluation
from catchment.training.evaluation import Predictions

CLASSES = ("a", "b", "c")


def dataset(inputs, *, labels=None, seed=0, **columns):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, len(inputs)) if labels is None else labels
    return Dataset("test", inputs, labels.astype(np.int64), CLASSES, **columns)


def images(count, size=(8, 6), channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels)).astype(np.uint8)


def predictions(count, seed=0, label_score=None):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=generator)
    score = torch.rand(count, generator=generator) if label_score is None else label_score
    return Predictions(logits, logits[:, :3].softmax(1), torch.randn(count, generator=generator), score)


def write(folder, train, test, on_train=None, on_test=None):
    on_train = on_train or predictions(len(train), 1)
    on_test = on_test or predictions(len(test), 2)
    write_evaluation(folder, train, on_train, test, on_test)
    with np.load(folder / NAME, allow_pickle=False) as file:
        return dict(file), on_train, on_test


def test_labels_predictions_and_scores_are_those_of_the_run(tmp_path):
    train, test = dataset(images(60)), dataset(images(50), seed=1)
    found, on_train, on_test = write(tmp_path, train, test)
    expected = {
        "test_label": test.labels,
        "test_predicted": on_test.logits[:, :3].argmax(1).numpy(),
        "test_confidence": on_test.probabilities.max(1).values.numpy(),
        "test_unknown_score": on_test.unknown_score.numpy(),
        "train_label": train.labels,
        "train_predicted": on_train.logits[:, :3].argmax(1).numpy(),
        "train_label_score": on_train.label_score.numpy(),
        "train_unknown_score": on_train.unknown_score.numpy(),
    }
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name
        assert found[name].dtype == (np.float32 if name.endswith(("score", "confidence")) else np.int64)
    assert found.keys() - expected.keys() == {
        f"{kind}_{what}" for kind in ("gallery", "suspect") for what in ("index", "id", "image")
    }


def test_clean_labels_are_kept_where_they_are_known(tmp_path):
    clean = np.arange(60) % 3
    found, *_ = write(tmp_path, dataset(images(60), clean_labels=clean), dataset(images(50)))
    assert np.array_equal(found["train_clean_label"], clean)


@pytest.mark.parametrize("count", [1, 2, 47, 48, 49, 500])
def test_the_gallery_goes_from_the_least_to_the_most_unknown(tmp_path, count):
    found, _, on_test = write(tmp_path, dataset(images(10)), dataset(images(count)))
    rows, score = found["gallery_index"], on_test.unknown_score.numpy()
    assert len(rows) == len(set(rows)) == min(count, SHOWN)
    assert (np.diff(score[rows]) >= 0).all()
    assert {score[rows[0]], score[rows[-1]]} == {score.min(), score.max()}
    # evenly over the ranks
    ranks = np.argsort(np.argsort(score, kind="stable"))[rows]
    assert count < SHOWN or np.ptp(np.diff(ranks)) <= 1


def test_suspects_go_from_the_most_suspect_down_and_have_labels(tmp_path):
    labels = np.arange(200) % 3
    labels[::5] = -100
    labels[1::50] = -1
    score = torch.rand(200, generator=torch.Generator().manual_seed(0))
    score[torch.from_numpy(labels) < 0] = torch.nan
    on_train = predictions(200, label_score=score)
    found, *_ = write(tmp_path, dataset(images(200), labels=labels), dataset(images(9)), on_train)
    rows = found["suspect_index"]
    assert len(rows) == SHOWN
    assert (labels[rows] >= 0).all()
    shown = score.numpy()[rows]
    assert (np.diff(shown) <= 0).all()
    assert shown[-1] >= np.delete(score.numpy(), rows)[np.delete(labels, rows) >= 0].max()


def test_there_are_no_more_suspects_than_labels(tmp_path):
    labels = np.full(60, -100)
    labels[[3, 40]] = 1
    score = torch.full((60,), torch.nan)
    score[3], score[40] = 0.1, 0.9
    found, *_ = write(
        tmp_path, dataset(images(60), labels=labels), dataset(images(9)), predictions(60, label_score=score)
    )
    assert found["suspect_index"].tolist() == [40, 3]


def test_samples_have_their_ids_or_row_numbers(tmp_path):
    names = tuple(f"größe/{i}.png" for i in range(60))
    found, *_ = write(tmp_path, dataset(images(60), ids=names), dataset(images(50)))
    assert found["suspect_id"].tolist() == [names[i] for i in found["suspect_index"]]
    assert found["gallery_id"].tolist() == [str(i) for i in found["gallery_index"]]


def test_tables_have_no_pictures(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    found, *_ = write(tmp_path, dataset(rows), dataset(rows))
    assert not [name for name in found if name.endswith("image")]
    assert len(found["gallery_index"]) == SHOWN


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((8, 8), (8, 8)),
        ((THUMBNAIL, THUMBNAIL), (THUMBNAIL, THUMBNAIL)),
        ((192, 96), (96, 48)),
        ((50, 400), (12, 96)),
        ((1, 3000), (1, 96)),
    ],
)
def test_pictures_are_at_most_a_thumbnail(tmp_path, channels, size, small):
    shown = images(4, size, channels)
    found, *_ = write(tmp_path, dataset(shown), dataset(shown))
    for kind in ("gallery", "suspect"):
        pictures = found[f"{kind}_image"]
        assert (pictures.dtype, pictures.shape) == (np.uint8, (4, *small, channels))
        if size == small:
            assert np.array_equal(pictures, shown[found[f"{kind}_index"]])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_is_the_mean_of_the_pixels_it_stands_for(tmp_path, channels):
    shown = images(3, (192, 192), channels)
    found, *_ = write(tmp_path, dataset(shown), dataset(shown))
    blocks = shown.reshape(3, 96, 2, 96, 2, channels).mean((2, 4))
    # made in two passes, along each axis, and rounded after either
    assert np.abs(found["gallery_image"] - blocks[found["gallery_index"]]).max() <= 1


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name, dataset(images(60, (100, 120), 3)), dataset(images(50, (100, 120), 3)))
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [NAME]
