"""A spoiled copy of a data set, for programs other than this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from catchment.experiments.run import RunConfig, load_run_data
from catchment.files import atomic_write


def write_spoiled(config: RunConfig, out: Path) -> dict[str, Any]:
    """Write the data of a run, spoiled as its settings say, to an ``.npz`` file.

    Arrays: ``X``, ``y`` (given labels) and ``y_clean`` of the training part; ``X_test`` and ``y_test``;
    ``class_names``; ``id``, which training sample of the original each row is; ``record``, JSON text of what was done.
    Of multi-label data ``y`` is ``(N, C)``.

    Args:
        config: data, noise, imbalance and seed; the rest is not looked at.
        out: the file.

    Returns:
        The record: data, seed, samples, classes, noise and imbalance.

    Raises:
        ValueError: nothing was asked to be spoiled, or the images don't fit in memory.
    """
    if config.noise is None and config.imbalance is None:
        raise ValueError("nothing is to be spoiled: add --noise or --imbalance")
    data = load_run_data(config)
    if not isinstance(data.train.inputs, np.ndarray):
        raise ValueError(f"{data.train.name} stays on disk, it is too large to copy: spoil it in the run, by --noise")
    record = {
        "data": config.data,
        "seed": config.training.seed,
        "samples": len(data.train),
        "classes": data.train.num_classes,
        "noise": data.noise,
        "imbalance": data.imbalance,
    }
    clean = data.train.labels if data.train.clean_labels is None else data.train.clean_labels
    ids = data.train.ids or tuple(str(row) for row in range(len(data.train)))
    arrays = {
        "X": data.train.inputs,
        "y": data.train.labels,
        "y_clean": clean,
        "X_test": data.test.inputs,
        "y_test": data.test.labels,
        "class_names": np.array(data.train.class_names, dtype=np.str_),
        "id": np.array(ids, dtype=np.str_),
        "record": np.array(json.dumps(record)),
    }
    atomic_write(out, lambda file: np.savez_compressed(file, **arrays))
    return record
