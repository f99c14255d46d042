"""The page that puts runs side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from catchment.files import write_text
from catchment.report import figures, summaries
from catchment.report.page import format_number, render, sentence
from catchment.report.run_folder import Evaluation, RunFolder, read_run
from catchment.report.run_page import column, score_histogram, score_name

_FEWEST, _MOST = 2, 12
_CLASSES_SHOWN = 30
# In metrics.json, but no result: config.json says these too, or they are the same for every run of a kind.
_NOT_RESULTS = ("noise", "imbalance", "transport", "data", "objective", "seed")
# In config.json, but no setting: what follows from the settings and the data.
_NOT_SETTINGS = (
    "input_format",
    "class_counts",
    "train_samples",
    "noise_record",
    "imbalance_record",
    "fingerprint",
    "data_dir",
)
# What people tell runs by, the most telling first; other settings follow in the order of config.json.
_TELLING = ("objective", "noise", "data", "training.seed", "mapping", "net")


def write_comparison(folders: Sequence[Path], out: Path, *, names: Sequence[str] | None = None) -> Path:
    """Write a page that shows finished runs side by side, from what is on disk; returns ``out``.

    Args:
        folders: of 2 to 12 runs.
        out: the HTML file to write; folders above it are made.
        names: what to call the runs; by default the shortest settings that tell them apart, or the names of their
            folders where no setting does.

    Raises:
        ValueError: too few or too many folders, one without a finished run, or names that don't fit.
    """
    if not _FEWEST <= len(folders) <= _MOST:
        raise ValueError(f"{len(folders)} runs to compare: give {_FEWEST} to {_MOST} folders")
    runs = [read_run(Path(folder)) for folder in folders]
    settings = [flat_settings(run.config) for run in runs]
    run_names = _default_names(runs, settings) if names is None else list(names)
    if len(run_names) != len(runs):
        raise ValueError(f"{len(run_names)} names for {len(runs)} runs: give one for each")
    if len(set(run_names)) != len(run_names):
        raise ValueError("two runs have the same name: give a different one for each")
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    values: dict[str, Any] = {
        "title": f"{len(runs)} runs compared",
        "names": run_names,
        "folders": {name: str(run.path) for name, run in zip(run_names, runs, strict=True)},
        "different_data": _different_data(runs),
        "missing": [name for name, run in zip(run_names, runs, strict=True) if run.evaluation is None],
        "results": _results(runs),
        "differing": [(key, [each.get(key) for each in settings]) for key in differing],
        "agreeing": {key: settings[0][key] for key in keys if key not in differing},
        "curves": _curves(runs),
        "confidence": _confidence(runs, run_names),
        "scores": _scores(runs, run_names),
        "classes": _classes(runs, run_names),
        "legend": lambda place: figures.legend(run_names, place=place),
    }
    page = render("comparison.html", **values, contents=_contents(values))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return out


def flat_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config.json by their dotted names.

    >>> flat_settings({"net": "auto", "training": {"epochs": 3}, "fingerprint": "6f"})
    {'net': 'auto', 'training.epochs': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in _NOT_SETTINGS:
            continue
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": entry for inner, entry in value.items()}
        else:
            flat[key] = value
    return flat


def _default_names(runs: list[RunFolder], settings: list[dict[str, Any]]) -> list[str]:
    """The objective where it differs and the fewest other settings that tell all runs apart, else their folders."""
    keys = list(dict.fromkeys([*_TELLING, *(key for each in settings for key in each)]))
    keys = [key for key in keys if not key.startswith(("versions.", "hardware."))]
    keys = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    always, others = keys[: keys[:1] == ["objective"]], [key for key in keys if key != "objective"]
    for size in range(4):
        for chosen in itertools.combinations(others, size):
            names = [", ".join(_in_words(key, each.get(key)) for key in (*always, *chosen)) for each in settings]
            if len(set(names)) == len(names):
                return names
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [str(run.path) for run in runs]
    return paths if len(set(paths)) == len(paths) else [f"{i}: {path}" for i, path in enumerate(paths, start=1)]


def _in_words(key: str, value: Any) -> str:
    if key == "noise":
        return "no noise" if value is None else str(value)
    if key in ("objective", "data", "net"):
        return str(value)
    return f"{key.rpartition('.')[2].replace('_', ' ')} {format_number(value)}"


def _different_data(runs: list[RunFolder]) -> str | None:
    """A warning where numbers are of different data, or of different test samples."""
    data = list(dict.fromkeys(str(run.metrics.get("data")) for run in runs))
    if len(data) > 1:
        return (
            f"These runs are on different data ({', '.join(data)}): their numbers can't be compared with one another."
        )
    judged = {str(run.metrics.get("judged_on", "test")) for run in runs}
    if len(judged) > 1:
        return "Some of these runs were judged on their validation part, not on the test set: compare with care."
    tests = [run.evaluation["test_label"].tolist() for run in runs if run.evaluation is not None]
    sizes = {run.metrics.get("test_samples") for run in runs}
    classes = {tuple(run.class_names) for run in runs}
    if len(sizes) > 1 or len(classes) > 1 or any(labels != tests[0] for labels in tests):
        return "These runs were judged on different test samples or classes: their numbers differ for that reason too."
    return None


def _results(runs: list[RunFolder]) -> list[tuple[str, list[Any]]]:
    keys = dict.fromkeys(key for run in runs for key in run.metrics if key not in _NOT_RESULTS)
    rows = [(key, [run.metrics.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if any(value is not None for value in values)]


def _curves(runs: list[RunFolder]) -> list[tuple[Markup, str]]:
    curves = []
    for title, key in (
        ("training loss", "train_loss"),
        ("validation accuracy", "validation_accuracy"),
        ("test accuracy", "test_accuracy"),
        ("validation mAP", "validation_map"),
        ("test mAP", "test_map"),
        ("wrong training labels corrected", "train_corrected"),
        ("right training labels damaged", "train_damaged"),
        ("log C", "log_normalizer"),
        ("standard deviation of log Z over samples", "log_partition_sd"),
    ):
        found = [column(run, key) for run in runs]
        shown = [figures.Line("", *each, style=style) for style, each in enumerate(found) if len(each[0])]
        if shown:
            text = f"{sentence(title)} per epoch."
            if key in ("test_accuracy", "test_map"):
                text += " It chose nothing: no epoch and no setting was picked by it."
            figure = figures.lines(shown, x_label="epoch", y_label=title, description=f"{text} {len(shown)} runs.")
            curves.append((Markup(figure), text))
    return curves


def _confidence(runs: list[RunFolder], names: list[str]) -> list[tuple[Markup, str]]:
    parts = []
    bins = {style: summaries.reliability(evaluation) for style, evaluation in _evaluations(runs)}
    filled = {style: found for style, found in bins.items() if found is not None}
    if filled:
        eces = "; ".join(f"{names[style]} {found.ece:.4f}" for style, found in filled.items())
        text = f"Reliability: accuracy against confidence per bin. ECE: {eces}."
        shown = [
            figures.Line("", found.confidence[found.count > 0], found.accuracy[found.count > 0], style)
            for style, found in filled.items()
        ]
        figure = figures.lines(
            shown, x_label="confidence", y_label="accuracy", description=text, diagonal=True, from_zero=True
        )
        parts.append((Markup(figure), text))
    curves = {style: summaries.risk_coverage(evaluation) for style, evaluation in _evaluations(runs)}
    drawn = {style: curve for style, curve in curves.items() if curve is not None}
    if drawn:
        aurcs = "; ".join(f"{names[style]} {curve.aurc:.4f}" for style, curve in drawn.items())
        text = f"Risk-coverage: share of errors among the accepted samples. AURC: {aurcs}."
        shown = [figures.Line("", curve.coverage, curve.risk, style) for style, curve in drawn.items()]
        figure = figures.lines(shown, x_label="coverage", y_label="risk", description=text, from_zero=True)
        parts.append((Markup(figure), text))
    return parts


def _scores(runs: list[RunFolder], names: list[str]) -> list[tuple[str, Markup, str]]:
    """A histogram per run: name, figure, caption."""
    parts = []
    for style, evaluation in _evaluations(runs):
        groups = summaries.unknown_score_groups(evaluation)
        if not groups:
            continue
        medians = ", ".join(f"{group.name} {np.median(group.scores):.3g}" for group in groups)
        text = f"Medians of the {score_name(runs[style])}: {medians}."
        figure = score_histogram(runs[style], groups, summaries.histogram_edges(groups), f"{names[style]}. {text}")
        parts.append((names[style], figure, text))
    return parts


def _classes(runs: list[RunFolder], names: list[str]) -> dict[str, Any] | None:
    """Accuracy per class as a table, and a figure of the classes that differ most; None if the classes differ."""
    class_names = runs[0].class_names
    found = _evaluations(runs)
    if any(run.class_names != class_names for run in runs) or any(e.is_multi_label for _, e in found):
        return None
    if not any(e.known.any() for _, e in found):
        return None
    values = np.full((len(runs), len(class_names)), np.nan)
    for style, evaluation in found:
        values[style] = summaries.class_accuracy(evaluation, len(class_names))
    judged = np.flatnonzero(~np.isnan(values).all(axis=0))
    spread = np.nanmax(values[:, judged], axis=0) - np.nanmin(values[:, judged], axis=0)
    shown = judged[np.sort(np.argsort(-spread, kind="stable")[:_CLASSES_SHOWN])]
    text = f"Accuracy on the test samples of each class, of {len(names)} runs."
    if len(shown) < len(judged):
        text += f" Shown are the {len(shown)} of {len(judged)} classes that differ most; the table has all."
    figure = figures.dots(
        values[:, shown].tolist(), [class_names[c] for c in shown], x_label="accuracy", description=text
    )
    rows = [(class_names[c], [None if np.isnan(v) else float(v) for v in values[:, c]]) for c in judged]
    return {"figure": Markup(figure), "text": text, "rows": rows}


def _evaluations(runs: list[RunFolder]) -> list[tuple[int, Evaluation]]:
    """The evaluations there are, with the number of their run, which is also its style."""
    return [(style, run.evaluation) for style, run in enumerate(runs) if run.evaluation is not None]


def _contents(values: dict[str, Any]) -> list[tuple[str, str]]:
    sections = (
        ("numbers", "Numbers", True),
        ("settings", "Settings", True),
        ("curves", "Learning curves", values["curves"]),
        ("confidence", "Confidence", values["confidence"]),
        ("scores", "Unknown score", values["scores"]),
        ("classes", "Accuracy per class", values["classes"]),
    )
    return [(anchor, title) for anchor, title, there in sections if there]
