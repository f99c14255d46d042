"""A suite small enough to work out its table by hand, and rows of results as its runner writes them."""

from catchment.experiments.suite import Selection, parse_suite, plan

TEXT = """
name = "tiny"
title = "A tiny suite"
about = "For tests."
data = "digits"
seeds = [0, 1, 2]

[training]
epochs = 20
batch_size = 128

[settings.matched]
about = "The same for all."
training = { learning_rate = 0.1, l1 = 1e-3 }

[settings.published]
training = { learning_rate = 0.1 }
methods.drainage = { l1 = 2e-3, momentum = 0.8 }
methods.cross-entropy = { weight_decay = 1e-4 }

[tuning]
l1 = [0.0, 1e-3]
learning_rate = [0.01, 0.1]

[[metrics]]
key = "test_accuracy"
title = "accuracy"
percent = true

[[metrics]]
key = "label_score_auroc"
title = "AUROC"

[[disturbances]]
name = "none"

[[disturbances]]
name = "symmetric 0.4"
noise = "symmetric:0.4"

[[methods]]
objective = "cross-entropy"

[[methods]]
objective = "drainage"
parameters = { alpha = 0.1 }

[[published]]
method = "drainage"
disturbance = "symmetric 0.4"
metric = "test_accuracy"
value = 80.0
sd = 0.5
source = "Table 9 of a paper"
setting = "published"
"""
HARDWARE = {"cpu": "Abacus 9", "cores": "2", "memory": "4 GiB"}
VERSIONS = {"catchment": "0.1.0", "torch": "2.6.0"}


def make_suite(*changes):
    """The suite, with pairs of texts replaced."""
    text = TEXT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return parse_suite(text, "tiny.toml")


def find_runs(suite, *, setting="matched", disturbance=None, method=None, variant=None, **selection):
    """Runs of a suite, by what they are called."""
    wanted = {"disturbance": disturbance, "method": method, "variant": variant}
    return [
        run
        for run in plan(suite, Selection(settings=(setting,), **selection))
        if all(value is None or getattr(run, name) == value for name, value in wanted.items())
    ]


def names(run):
    """What every row says of its run."""
    return {
        "key": run.key,
        "budget": run.budget,
        "setting": run.setting,
        "disturbance": run.disturbance,
        "method": run.method,
        "variant": run.variant,
        "seed": run.seed,
        "tuning": run.config.validation_labels if run.config.judged_on == "validation" else None,
    }


def finished(run, accuracy, *, auroc=None, rate=None, seconds=1.5, hardware=HARDWARE, versions=VERSIONS):
    """A row of a finished run; the accuracy is a share."""
    judged_on = run.config.judged_on
    return {
        **names(run),
        "status": "finished",
        "metrics": {
            f"{judged_on}_accuracy": accuracy,
            **({} if auroc is None else {"label_score_auroc": auroc}),
            "noise_rate_realised": rate,
            "judged_on": judged_on,
        },
        "hardware": hardware,
        "versions": versions,
        "device_seconds": seconds,
        "wall_seconds": seconds + 1,
        "finished_at": 0.0,
    }


def failed(run, error="it broke"):
    """A row of a failed run."""
    return {**names(run), "status": "failed", "error": error, "finished_at": 0.0}
