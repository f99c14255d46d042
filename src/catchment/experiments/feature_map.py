"""A run's features in the plane, for its page: ``tsne.npz``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from catchment.audit.evidence import outputs
from catchment.embedding import chosen_rows, tsne
from catchment.experiments.run import RunConfig, load_run, load_run_data
from catchment.files import atomic_write
from catchment.report.run_folder import FEATURE_MAP
from catchment.training.loop import choose_device


def write_feature_map(
    folder: Path, *, device: str = "auto", max_samples: int = 2000, perplexity: float = 30.0, seed: int = 0
) -> Path:
    """Write the t-SNE map of the features of the samples that a finished run is judged by; returns its path.

    The run's data are read again. Arrays: ``index`` ``(n,)``, ``coordinates`` ``(n, 2)``, ``label`` and ``predicted``
    ``(n,)``, and ``samples``, ``perplexity`` and ``seed``: of how many, and with what.

    Args:
        folder: of the run.
        device: where its model runs.
        max_samples: as of ``tsne``, and so the others.
        perplexity: likewise.
        seed: likewise.

    Raises:
        ValueError: there is no finished run, its data are not there or have many labels, and as ``tsne``.
    """
    model, _, record = load_run(folder)
    config = RunConfig.from_dict(record)
    data = load_run_data(config)
    judged = data.test if config.judged_on == "test" or data.validation is None else data.validation
    if judged.is_multi_label:
        raise ValueError(f"{folder} has any number of labels per sample: a map of features is for one label each")
    index = chosen_rows(len(judged), max_samples, seed)
    found = outputs(model.to(choose_device(device)), judged.select(index))
    _, coordinates, taken = tsne(found.features, max_samples=max_samples, perplexity=perplexity, seed=seed)
    arrays = {
        "index": index,
        "coordinates": coordinates,
        "label": judged.labels[index],
        "predicted": found.probabilities.argmax(1),
        "samples": np.array(len(judged)),
        "perplexity": np.array(taken),
        "seed": np.array(seed),
    }
    path = folder / FEATURE_MAP
    atomic_write(path, lambda file: np.savez_compressed(file, **arrays))
    return path
