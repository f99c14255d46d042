"""The page of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from catchment.files import write_text
from catchment.report import class_sections, figures, summaries
from catchment.report.page import format_number, format_percent, render, sentence
from catchment.report.run_folder import Evaluation, RunFolder, read_run
from catchment.report.shift import by_severity
from catchment.report.thumbnails import PIXEL_ART, data_address

NAME = "report.html"
# Pictures of each kind, and classes up to which a page has the whole matrix as a table.
_SHOWN, _TABLE_CLASSES = 48, 100
_PANELS = 24
# In metrics.json, but no numbers: the page says them elsewhere.
_RECORDS = ("noise", "imbalance", "transport")


class _Sample(NamedTuple):
    """A picture or a row of the list of suspects."""

    id: str
    label: str
    predicted: str
    score: float
    picture: str | None
    size: tuple[int, int] | None
    wrong: bool | None
    clean: str


class _Panel(NamedTuple):
    """A test sample of many labels: its highest classes with their probabilities, and whether they are right."""

    id: str
    labels: str
    top: list[tuple[str, float, bool]]
    score: float
    picture: str | None
    size: tuple[int, int] | None


class _Matrix(NamedTuple):
    """Counts by two labels: as a figure, as a table unless there are too many classes, and its largest errors."""

    figure: Markup
    names: list[str]
    rows: list[list[int]] | None
    pairs: list[tuple[str, str, int]]


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` from what a finished run left in its folder, and nothing else; returns its path.

    Args:
        folder: of a run, with config.json, metrics.json and history.jsonl. A run of an earlier version lacks
            evaluation.npz; its page says so and shows no figures of the test set.

    Raises:
        ValueError: the folder holds no finished run, or a file of it is broken.
    """
    run = read_run(folder)
    metrics = run.metrics
    evaluation = run.evaluation
    values: dict[str, Any] = {
        "title": f"{metrics.get('objective')} on {metrics.get('data')}",
        "summary": summary(run),
        "tiles": _tiles(metrics),
        "noise": metrics.get("noise") if _transitions(run) is not None else None,
        "transitions": _transitions(run),
        "curves": learning_curves(run),
        "missing": why_no_evaluation(run) if evaluation is None else None,
        "numbers": {key: value for key, value in metrics.items() if key not in _RECORDS and value is not None},
        "training": run.config.get("training", {}),
        "environment": {**run.config.get("versions", {}), **run.config.get("hardware", {})},
        "history": run.history,
        "history_columns": list(dict.fromkeys(key for row in run.history for key in row)),
        "transport": class_sections.transport(run),
        "shift": by_severity(run),
        "feature_map": class_sections.feature_map(run),
        **dict.fromkeys(("confusion", "frequency", "reliability", "risk", "scores")),
        "gallery": [],
        "panels": [],
        "suspects": [],
    }
    if evaluation is not None:
        values |= {
            "confusion": _confusion(run, evaluation),
            "frequency": class_sections.by_frequency(run, evaluation),
            "reliability": _reliability(evaluation),
            "risk": _risk(evaluation),
            "scores": _scores(run, evaluation),
            "gallery": [] if evaluation.is_multi_label else _gallery(run, evaluation),
            "panels": _panels(run, evaluation) if evaluation.is_multi_label else [],
            "suspects": (_suspect_sets if evaluation.is_multi_label else _suspects)(run, evaluation),
        }
    values["score_name"] = score_name(run)
    values["label_auroc"] = metrics.get("label_score_auroc")
    values["pixel_art"] = PIXEL_ART
    write_text(folder / NAME, render("run.html", **values, contents=_contents(values)))
    return folder / NAME


def summary(run: RunFolder) -> list[str]:
    """What ran, with what noise, and how it was judged: sentences."""
    config, metrics = run.config, run.metrics
    objective = str(metrics.get("objective"))
    parameters = describe_parameters(config.get("parameters") or {})
    sentences = [
        f"{objective}{f' ({parameters})' if parameters else ''} on {metrics.get('data')}"
        + (f" with the net {config['net']}" if "net" in config else "")
        + f", seed {format_number(metrics.get('seed'))}: {format_number(metrics.get('train_samples'))} training and "
        + f"{format_number(metrics.get('test_samples'))} test samples of {len(run.class_names)} classes."
    ]
    imbalance = metrics.get("imbalance")
    if imbalance:
        counts = imbalance["class_counts"]
        sentences.append(
            f"Training classes were made rare ({imbalance['kind']}): the largest has {max(counts)} samples by true "
            f"label, the smallest {min(counts)}."
        )
    noise = metrics.get("noise")
    if noise and noise.get("samples_unlabelled"):
        sentences.append(
            f"The labels of {noise['samples_unlabelled']} training samples were taken off: they are of no class."
        )
    elif noise:
        sentences.append(
            f"Label noise put on the training labels: {noise['kind']}, asked {format_number(noise['rate_asked'])}, "
            f"realised {format_number(noise['rate_realised'])} of all labels."
        )
    else:
        sentences.append("No label noise was added.")
    sentences.append(
        f"Trained for {format_number(metrics.get('epochs'))} epochs; the numbers are those of the "
        f"{metrics.get('reported', 'last epoch')} ({format_number(metrics.get('reported_epoch'))})."
    )
    validation = metrics.get("validation_labels")
    sentences.append(
        f"Validation labels: {validation}{', as a user would have them' if validation == 'noisy' else ''}."
        if validation
        else "No validation part was held out."
    )
    if metrics.get("judged_on") == "validation":
        sentences.append("Judged on the validation part: the test set was left alone.")
    return sentences


def describe_parameters(parameters: dict[str, Any]) -> str:
    """Parameters of an objective in a line.

    >>> describe_parameters({"alpha": 0.1, "beta": None})
    'alpha 0.1, beta -'
    """
    return ", ".join(f"{name} {format_number(value)}" for name, value in parameters.items())


def score_name(run: RunFolder) -> str:
    """What the unknown score is called for this objective."""
    return "drainage score" if str(run.metrics.get("objective")) == "drainage" else "unknown score"


def why_no_evaluation(run: RunFolder) -> str:
    """Why a run has no evaluation.npz."""
    if run.metrics.get("judged_on") == "validation":
        return (
            "This run was judged on its validation part, and the test set was left alone: there are no figures of it."
        )
    return (
        "There is no evaluation.npz in this run's folder, as in those of catchment's first version: figures of the "
        "test set and pictures of samples are left out. Train anew to have them."
    )


def learning_curves(run: RunFolder) -> list[tuple[Markup, str]]:
    """Figures of the history, each with its caption; none without a history."""
    if not run.history:
        return []
    reported = run.metrics.get("reported_epoch")
    loss = column(run, "train_loss")
    curves = []
    if len(loss[0]):
        text = f"Training loss per epoch: {_from_to(loss[1])}."
        figure = figures.lines(
            [figures.Line("training loss", *loss)], x_label="epoch", y_label="training loss", description=text
        )
        curves.append((Markup(figure), text))
    metric = "mAP" if run.metrics.get("task") == "multi-label" else "accuracy"
    found = {f"{part} {metric}": column(run, f"{part}_{metric.lower()}") for part in ("validation", "test")}
    shown = [figures.Line(name, *found[name], style=i) for i, name in enumerate(found) if len(found[name][0])]
    if shown:
        text = sentence("; ".join(f"{line.name} {_from_to(line.y)}" for line in shown)) + "."
        if len(found[f"test {metric}"][0]):
            text += f" The test {metric} over epochs chose nothing: no epoch and no setting was picked by it."
        figure = figures.lines(shown, x_label="epoch", y_label=metric, description=text, legend=True, vertical=reported)
        if reported is not None:
            text += f" Vertical line: epoch {reported}, whose numbers are reported."
        curves.append((Markup(figure), text))
    return curves + _label_curves(run) + _normalizer_curves(run)


def _label_curves(run: RunFolder) -> list[tuple[Markup, str]]:
    """What became of wrong and of right training labels, per epoch, where the true ones are known."""
    names = {
        "train_corrected": "corrected by the model",
        "train_damaged": "damaged by the model",
        "transported_corrected": "corrected by q",
        "transported_damaged": "damaged by q",
    }
    found = {key: column(run, key) for key in names}
    shown = [figures.Line(names[key], *found[key], style=i) for i, key in enumerate(names) if len(found[key][0])]
    if not shown:
        return []
    text = sentence("; ".join(f"{line.name} {_from_to(line.y)}" for line in shown)) + (
        ". Corrected is the share of wrong labels where the prediction is the true class, damaged that of right ones "
        "where it is another, among up to 1,024 training samples."
    )
    figure = figures.lines(
        shown, x_label="epoch", y_label="share of labels", description=text, legend=True, from_zero=True
    )
    return [(Markup(figure), text)]


def _normalizer_curves(run: RunFolder) -> list[tuple[Markup, str]]:
    """The quasibinary log C, and how far the log Z of single samples lie apart, per epoch."""
    epochs, mean = column(run, "log_partition_mean")
    if not epochs:
        return []
    spread = np.asarray(column(run, "log_partition_sd")[1])
    shown = [
        figures.Line("log Z of training samples, mean", epochs, mean, style=0),
        figures.Line("one standard deviation above", epochs, mean + spread, style=4, markers=False),
        figures.Line("and below", epochs, mean - spread, style=4, markers=False),
    ]
    text = f"Log Z = log sum exp(z) of single training samples: standard deviation {_from_to(spread)}."
    constant = column(run, "log_normalizer")
    if len(constant[0]):
        shown.append(figures.Line("log C", *constant, style=1))
        text += f" The running log C, one for all samples: {_from_to(constant[1])}."
    figure = figures.lines(shown, x_label="epoch", y_label="nats", description=text, legend=True)
    return [(Markup(figure), text)]


def column(run: RunFolder, key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of the rows of the history that have one."""
    rows = [(float(row["epoch"]), float(row[key])) for row in run.history if row.get(key) is not None]
    return [epoch for epoch, _ in rows], [value for _, value in rows]


def _from_to(values: Sequence[float] | NDArray[np.float64]) -> str:
    if len(values) == 1:
        return format_number(float(values[0]))
    return f"from {format_number(float(values[0]))} to {format_number(float(values[-1]))}"


def _tiles(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers that matter most, the first of them large."""
    judged = metrics.get("judged_on", "test")
    if metrics.get("task") == "multi-label":
        tiles = [(f"{judged} mAP", format_percent(metrics.get(f"{judged}_map")))]
    else:
        tiles = [(f"{judged} accuracy", format_percent(metrics.get(f"{judged}_accuracy")))]
    k = metrics.get("top_k")
    others = {
        f"macro F1 of the {k} highest classes": f"{judged}_f1_macro_at_k",
        f"calibration error (ECE) of the {k} highest": f"{judged}_ece_at_k",
        "AUROC of samples without a label": f"{judged}_unlabelled_auroc",
        "calibration error (ECE)": f"{judged}_ece",
        "area under risk-coverage": f"{judged}_aurc",
        "AUROC of unknown samples": f"{judged}_unknown_auroc",
        "AUROC of wrong labels": "label_score_auroc",
    }
    tiles += [(name, _three_digits(metrics[key])) for name, key in others.items() if metrics.get(key) is not None]
    if metrics.get("noise_rate_realised") is not None:
        tiles.append(("wrong training labels", format_percent(metrics["noise_rate_realised"])))
    return tiles


def _three_digits(value: float) -> str:
    """Three digits after the point, or two that count where those would be zeros."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2g}"


def _transitions(run: RunFolder) -> _Matrix | None:
    noise = run.metrics.get("noise")
    if not noise or noise.get("samples_unlabelled"):
        return None
    counts = np.asarray(noise["transition_counts"], dtype=np.int64)
    # the counts cover the classes before relabelling, the run knows the names of those that are left
    names = run.class_names if len(run.class_names) == len(counts) else [str(c) for c in range(len(counts))]
    changed = int(counts.sum() - np.trace(counts))
    text = f"{changed} of {int(counts.sum())} training labels were changed."
    return _matrix(counts, names, x_label="given label", y_label="true label", description=text)


def _confusion(run: RunFolder, evaluation: Evaluation) -> _Matrix | None:
    counts = summaries.confusion_counts(evaluation, len(run.class_names))
    if counts is None:
        return None
    wrong = int(counts.sum() - np.trace(counts))
    text = f"{wrong} of {int(counts.sum())} test samples of a known class were predicted wrong."
    return _matrix(counts, run.class_names, x_label="predicted", y_label="label", description=text)


def _matrix(counts: NDArray[np.int64], names: list[str], **labels: str) -> _Matrix:
    # where the figure has numbers, a long list would say them twice
    at_most = 10 if len(counts) <= figures.NUMBERED_CLASSES else 20
    most_frequent = summaries.most_frequent_pairs(counts, at_most)
    pairs = [(names[row], names[column], count) for row, column, count in most_frequent]
    rows = counts.tolist() if len(counts) <= _TABLE_CLASSES else None
    return _Matrix(Markup(figures.heat_map(counts, names, **labels)), names, rows, pairs)


def _reliability(evaluation: Evaluation) -> dict[str, Any] | None:
    bins = summaries.reliability(evaluation)
    if bins is None:
        return None
    text = f"Accuracy against confidence in {len(bins.count)} bins; expected calibration error {bins.ece:.4f}."
    if evaluation.is_multi_label:
        k = evaluation["test_predicted"].shape[1]
        text += f" Judged are the {k} highest classes of each sample, each right if the sample has it."
    edges = np.arange(len(bins.count) + 1) / len(bins.count)
    rows = [
        (
            f"{edges[b]:.3f} to {edges[b + 1]:.3f}",
            int(bins.count[b]),
            float(bins.confidence[b]),
            float(bins.accuracy[b]),
        )
        for b in np.flatnonzero(bins.count)
    ]
    figure = figures.reliability(bins.confidence, bins.accuracy, bins.count, description=text)
    return {"figure": Markup(figure), "text": text, "rows": rows}


def _risk(evaluation: Evaluation) -> dict[str, Any] | None:
    curve = summaries.risk_coverage(evaluation)
    if curve is None:
        return None
    text = f"Share of errors among the accepted samples; area under the curve (AURC) {curve.aurc:.4f}."
    line = figures.Line("risk", curve.coverage, curve.risk, markers=False)
    figure = figures.lines(
        [line], x_label="coverage: share of samples accepted", y_label="risk: share of errors", description=text,
        from_zero=True,
    )  # fmt: skip
    return {"figure": Markup(figure), "text": text}


def _scores(run: RunFolder, evaluation: Evaluation) -> dict[str, Any] | None:
    groups = summaries.unknown_score_groups(evaluation)
    if not groups:
        return None
    medians = ", ".join(f"{group.name} {np.median(group.scores):.3g}" for group in groups)
    text = f"Distribution of the {score_name(run)}; medians: {medians}."
    auroc = run.metrics.get("test_unknown_auroc")
    if auroc is not None:
        text += f" AUROC of unknown against known test samples: {auroc:.4f}."
    auroc = run.metrics.get("test_unlabelled_auroc")
    if auroc is not None:
        text += f" AUROC of test samples without a label against those with one: {auroc:.4f}."
    figure = score_histogram(run, groups, summaries.histogram_edges(groups), text)
    return {"figure": figure, "text": text}


def score_histogram(run: RunFolder, groups: list[summaries.ScoreGroup], edges: Any, text: str) -> Markup:
    """The unknown scores of each group; a group looks the same on every page."""
    styles = {
        "clean (training)": 0, "training samples": 0, "mislabelled (training)": 1, "unknown (test)": 2,
        "no class (training)": 3, "labelled (test)": 0, "no label (test)": 2,
    }  # fmt: skip
    parts = [(group.name, group.scores, styles[group.name]) for group in groups]
    return Markup(figures.histograms(parts, edges, x_label=score_name(run), description=text))


def _gallery(run: RunFolder, evaluation: Evaluation) -> list[_Sample]:
    images = evaluation.get("gallery_image")
    if images is None:
        return []
    index = evaluation["gallery_index"]
    shown = np.unique(np.linspace(0, len(index) - 1, min(_SHOWN, len(index))).round().astype(np.int64))
    return [
        _Sample(
            id=str(evaluation["gallery_id"][k]),
            label=run.class_name(int(evaluation["test_label"][index[k]])),
            predicted=run.class_name(int(evaluation["test_predicted"][index[k]])),
            score=float(evaluation["test_unknown_score"][index[k]]),
            picture=data_address(images[k]),
            size=(images.shape[2], images.shape[1]),
            wrong=None,
            clean="",
        )
        for k in shown
    ]


def _panels(run: RunFolder, evaluation: Evaluation) -> list[_Panel]:
    """Multi-label test samples with their highest classes."""
    images, index = evaluation.get("gallery_image"), evaluation["gallery_index"]
    panels = []
    for k in np.unique(np.linspace(0, len(index) - 1, min(_PANELS, len(index))).round().astype(np.int64)):
        row = index[k]
        given = evaluation["test_label"][row]
        top = zip(evaluation["test_predicted"][row], evaluation["test_confidence"][row], strict=True)
        panels.append(
            _Panel(
                id=str(evaluation["gallery_id"][k]),
                labels=run.label_names(given),
                top=[(run.class_name(int(c)), float(p), bool(given[c])) for c, p in top],
                score=float(evaluation["test_unknown_score"][row]),
                picture=None if images is None else data_address(images[k]),
                size=None if images is None else (images.shape[2], images.shape[1]),
            )
        )
    return panels


def _suspect_sets(run: RunFolder, evaluation: Evaluation) -> list[_Sample]:
    """Multi-label training samples with the class whose presence or absence is most likely wrong."""
    images = evaluation.get("suspect_image")
    samples = []
    for k, row in enumerate(evaluation["suspect_index"][:_SHOWN].tolist()):
        given, c = evaluation["train_label"][row], int(evaluation["suspect_class"][k])
        samples.append(
            _Sample(
                id=str(evaluation["suspect_id"][k]),
                label=run.label_names(given),
                predicted=f"{run.class_name(c)} {evaluation['suspect_probability'][k]:.2g}",
                score=float(evaluation["train_label_score"][row]),
                picture=None if images is None else data_address(images[k]),
                size=None if images is None else (images.shape[2], images.shape[1]),
                wrong=None,
                clean="",
            )
        )
    return samples


def _suspects(run: RunFolder, evaluation: Evaluation) -> list[_Sample]:
    images, clean = evaluation.get("suspect_image"), evaluation.get("train_clean_label")
    wrong = summaries.wrong_training_labels(evaluation)
    samples = []
    for k, row in enumerate(evaluation["suspect_index"][:_SHOWN].tolist()):
        samples.append(
            _Sample(
                id=str(evaluation["suspect_id"][k]),
                label=run.class_name(int(evaluation["train_label"][row])),
                predicted=run.class_name(int(evaluation["train_predicted"][row])),
                score=float(evaluation["train_label_score"][row]),
                picture=None if images is None else data_address(images[k]),
                size=None if images is None else (images.shape[2], images.shape[1]),
                wrong=None if wrong[row] < 0 else bool(wrong[row]),
                clean="" if clean is None or wrong[row] < 0 else run.class_name(int(clean[row])),
            )
        )
    return samples


def _contents(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the sections that the page has."""
    sections = (
        ("noise", "Label noise", values["noise"]),
        ("curves", "Learning curves", values["curves"]),
        ("transport", "Transported labels", values["transport"]),
        ("confusion", "Confusions", values["confusion"]),
        ("frequency", "Accuracy by class frequency", values["frequency"]),
        ("confidence", "Confidence", values["reliability"] or values["risk"]),
        ("scores", "Unknown score", values["scores"]),
        ("shift", "Shifted inputs", values["shift"]),
        ("features", "Features in the plane", values["feature_map"]),
        ("gallery", "From clear to unknown", values["gallery"]),
        ("panels", "Highest classes", values["panels"]),
        ("suspects", "Suspect labels", values["suspects"]),
        ("numbers", "Numbers", True),
        ("settings", "Settings", True),
        ("history", "History", True),
    )
    return [(anchor, title) for anchor, title, there in sections if there]
