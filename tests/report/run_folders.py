"""Run folders made up for tests of the pages: every number in them is known."""

import numpy as np

from catchment.files import write_json, write_jsonl

NAMES = ["<b>cat</b>", "dog & son", '"bird"']
NOISE = {
    "kind": "symmetric",
    "rate_asked": 0.4,
    "rate_realised": 0.39871,
    "num_classes": 3,
    "transition_counts": [[60, 21, 19], [22, 61, 17], [18, 20, 62]],
}
HISTORY = [
    {"epoch": 1, "train_loss": 1.234567, "learning_rate": 0.05, "seconds": 0.25},
    {"epoch": 2, "train_loss": float("nan"), "learning_rate": 0.0001, "seconds": 12.0, "test_accuracy": 0.75},
]


def write_run(
    folder, *, noise=NOISE, names=NAMES, history=HISTORY, settings=(), evaluation=None, feature_map=None, **metrics
):
    """A run's config.json, metrics.json and history.jsonl, and evaluation.npz and tsne.npz where arrays are given."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "data": "my <i>data</i>.csv", "noise": "symmetric:0.4", "objective": "drainage", "parameters": {"alpha": 0.1},
        "net": "mlp", "versions": {"torch": "2.9"}, "hardware": {"cpu": "a <u>fast</u> one"},
        "training": {"epochs": 2, "optimizer": "sgd", "l1": 1e-4, "augmentation": None, "nesterov": False, "seed": 0},
        "input_format": {"kind": "table", "shape": [2], "feature_names": None, "class_names": names},
        "fingerprint": "6f",
    }  # fmt: skip
    settings = dict(settings)
    training = config["training"] | settings.pop("training", {})
    numbers = {
        "test_accuracy": 0.912345678, "test_samples": 360, "validation_labels": None,
        "noise": noise, "data": "my <i>data</i>.csv", "objective": "drainage",
    }  # fmt: skip
    write_json(folder / "config.json", config | settings | {"training": training})
    write_json(folder / "metrics.json", numbers | metrics)
    write_jsonl(folder / "history.jsonl", history)
    if evaluation is not None:
        np.savez(folder / "evaluation.npz", **evaluation)
    if feature_map is not None:
        np.savez(folder / "tsne.npz", **feature_map)
    return folder


def made_up_transport(num_classes=3, samples=300):
    """Of metrics.json: classes of which f_L asks for more and more."""
    asked = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum() * samples
    return {
        "potential": np.linspace(-1, 1, num_classes).tolist(),
        "error": 2e-7,
        "converged": True,
        "asked": asked.tolist(),
        "reached": asked.tolist(),
        "given": [samples // num_classes] * num_classes,
    }


def made_up_map(num_classes=3, shown=60, samples=200, seed=0):
    """Arrays of tsne.npz: a cluster for each class."""
    rng = np.random.default_rng(seed)
    label = np.arange(shown) % num_classes
    centres = 100 * np.stack([label, label % 2], 1)
    return {
        "index": np.arange(shown),
        "coordinates": (centres + rng.normal(size=(shown, 2))).astype(np.float32),
        "label": label,
        "predicted": np.where(rng.random(shown) < 0.8, label, (label + 1) % num_classes),
        "samples": np.array(samples),
        "perplexity": np.array(12.5),
        "seed": np.array(3),
    }


def made_up_evaluation(num_classes=3, tests=200, trained=300, *, image=None, unknown=20, clean=True, shown=12, seed=0):
    """Arrays of evaluation.npz: the first test samples are unknown, 70 % of the others right."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_classes, tests)
    predicted = np.where(rng.random(tests) < 0.7, label, rng.integers(0, num_classes, tests))
    label[:unknown] = -1
    train_clean = rng.integers(0, num_classes, trained)
    train_label = np.where(rng.random(trained) < 0.6, train_clean, rng.integers(0, num_classes, trained))
    unknown_score = rng.random(tests).astype(np.float32)
    label_score = rng.random(trained).astype(np.float32)
    gallery = np.argsort(unknown_score)[np.linspace(0, tests - 1, min(shown, tests)).astype(int)]
    suspects = np.argsort(-label_score)[:shown]
    arrays = {
        "test_label": label,
        "test_predicted": predicted,
        "test_confidence": rng.uniform(1 / num_classes, 1, tests).astype(np.float32),
        "test_unknown_score": unknown_score,
        "train_label": train_label,
        "train_predicted": train_clean,
        "train_label_score": label_score,
        "train_unknown_score": rng.random(trained).astype(np.float32),
        "gallery_index": gallery,
        "gallery_id": np.array([f"test/{i}" for i in gallery]),
        "suspect_index": suspects,
        "suspect_id": np.array([f"train/{i}" for i in suspects]),
    }
    if clean:
        arrays["train_clean_label"] = train_clean
    if image is not None:
        arrays["gallery_image"] = rng.integers(0, 256, (len(gallery), *image), dtype=np.uint8)
        arrays["suspect_image"] = rng.integers(0, 256, (len(suspects), *image), dtype=np.uint8)
    return arrays
