"""A suite whose runs take a fraction of a second each, on data beside its file."""

import numpy as np

from catchment.experiments.bench import open_folder
from catchment.experiments.suite import Selection, find_suite, parse_suite, plan

TEXT = """
name = "tiny"
title = "Two clouds of points"
data = "clouds.npz"
net = "mlp"
seeds = [0, 1]

[training]
epochs = 2
batch_size = 16
threads = 1

[[metrics]]
key = "test_accuracy"
title = "accuracy"
percent = true

[[disturbances]]
name = "none"

[[disturbances]]
name = "symmetric 0.2"
noise = "symmetric:0.2"

[[methods]]
name = "cross-entropy"
objective = "cross-entropy"

[[methods]]
name = "drainage"
objective = "drainage"
parameters = { alpha = 0.5 }
"""


def write_suite(folder, text=TEXT):
    """The suite's file and its data; the path of the file."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    np.savez(folder / "clouds.npz", X=rng.normal(size=(60, 3)) + 2 * labels[:, None], y=labels)
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def open_suite(folder, text=TEXT):
    """The suite's runs, and a folder of its own that is open for them."""
    source, where = find_suite(str(write_suite(folder, text)))
    suite = parse_suite(source, where)
    out = folder / "results"
    open_folder(suite, source, where, out)
    return plan(suite, Selection()), out
