"""What the page of a run says of classes by their size, of transported labels, and of features in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from catchment import metrics
from catchment.report import figures, summaries
from catchment.report.page import format_percent
from catchment.report.run_folder import Evaluation, RunFolder

# A figure has a row for each of so many classes at most, and marks so many kinds of points apart.
_CLASSES_SHOWN, _KINDS = 30, 12
# From this ratio of the largest total to the smallest on, totals are drawn on a logarithmic axis.
_LOGARITHMIC = 10
# Where that axis ends: totals are sums of probabilities, and can be next to nothing.
_LEAST_TOTAL = 0.5
_TOTALS = ("asked, by the totals of f_L", "reached, by the labels q", "given labels", "true labels")


def by_frequency(run: RunFolder, evaluation: Evaluation) -> dict[str, Any] | None:
    """Accuracy of each class against its training samples; None unless classes were made rare."""
    if run.metrics.get("imbalance") is None or evaluation.is_multi_label or not evaluation.known.any():
        return None
    size = len(run.class_names)
    counts, accuracy = summaries.training_counts(evaluation, size), summaries.class_accuracy(evaluation, size)
    groups = np.array(metrics.frequency_groups(counts))
    judged = ~np.isnan(accuracy)
    drawn, means = [], []
    for style, name in enumerate(("many", "medium", "few")):
        of_group = judged & (groups == name)
        if of_group.any():
            title = f"{name} ({of_group.sum()} class{'es' if of_group.sum() > 1 else ''})"
            drawn.append((title, np.stack([counts, accuracy], 1)[of_group], style))
            means.append(f"{name} {format_percent(float(accuracy[of_group].mean()))}")
    which = "given" if evaluation.get("train_clean_label") is None else "true"
    text = (
        f"Test accuracy of each class against its training samples ({which} labels); mean over the classes with "
        f"{', '.join(means)}."
    )
    figure = figures.scatter(
        drawn, x_label="training samples", y_label="test accuracy", log_x=counts[judged].min() > 0, description=text
    )
    order = np.flatnonzero(judged)[np.argsort(-counts[judged], kind="stable")]
    rows = [(run.class_names[c], str(groups[c]), int(counts[c]), float(accuracy[c])) for c in order]
    return {"figure": Markup(figure), "text": text, "rows": rows, "which": which}


def transport(run: RunFolder) -> dict[str, Any] | None:
    """The class totals and the potential of D-SINK's labels at the end of training; None for other runs.

    The totals of the true labels are there where these are known and the run has an evaluation.npz.
    """
    found = run.metrics.get("transport")
    if found is None:
        return None
    names = run.class_names
    columns = [_numbers(found[key]) for key in ("asked", "reached", "given")]
    if run.evaluation is not None and run.evaluation.get("train_clean_label") is not None:
        columns.append(summaries.training_counts(run.evaluation, len(names)).astype(np.float64))
    potential = _numbers(found["potential"])
    asked, reached, samples = columns[0], columns[1], columns[0].sum()
    how = "The solver converged" if found["converged"] else "The solver did not converge"
    text = f"{how}: asked and reached totals are {_three(np.abs(asked - reached).sum() / samples)} apart."
    for name, counts in zip(("given", "true"), columns[2:], strict=False):
        text += f" Asked totals and {name} labels: {_three(np.abs(asked - counts).sum() / samples)}."
    text += (
        " (Sum of the absolute differences over the number of samples, from 0 to 2. Of marks in one place only the "
        "last is seen.)"
    )
    shown = np.sort(np.argsort(-np.abs(asked - columns[2]), kind="stable")[:_CLASSES_SHOWN])
    if len(shown) < len(names):
        text += (
            f" Shown are the {len(shown)} of {len(names)} classes whose asked total is furthest from the given labels; "
            "the table has all."
        )
    totals = np.stack(columns)[:, shown]
    log_x = totals.max() >= _LOGARITHMIC * max(totals.min(), _LEAST_TOTAL)
    drawn = np.maximum(totals, _LEAST_TOTAL) if log_x else totals
    rows_shown = [names[c] for c in shown]
    with_labels = np.flatnonzero(np.isfinite(potential))  # a class with total 0 has none, and no potential
    by_size = with_labels[np.argsort(-asked[with_labels], kind="stable")]
    extremes = ", ".join(f"{potential[c]:.3g} for {names[c]}" for c in (by_size[0], by_size[-1]))
    about_potential = (
        "The potential g: the higher, the more q gives a class beyond the geometric mean of f_N and f; its mean is 0. "
        f"{extremes}: the classes of the largest and of the smallest asked total."
    )
    return {
        "totals": Markup(
            figures.dots(drawn.tolist(), rows_shown, x_label="samples of a class", description=text, log_x=log_x)
        ),
        "legend": figures.legend(_TOTALS[: len(columns)], place="totals"),
        "text": text,
        "potential": Markup(
            figures.dots([potential[shown].tolist()], rows_shown, x_label="potential g", description=about_potential)
        ),
        "about_potential": about_potential,
        "columns": ["asked", "reached", "given", "true"][: len(columns)],
        "rows": [(name, [float(c[i]) for c in columns], float(potential[i])) for i, name in enumerate(names)],
    }


def feature_map(run: RunFolder) -> dict[str, Any] | None:
    """The features in the plane, where their map was made."""
    found = run.feature_map
    if found is None:
        return None
    label, predicted, points = found["label"], found["predicted"], found["coordinates"].astype(np.float64)
    kinds = np.unique(label)
    if len(kinds) <= _KINDS:
        groups = [(run.class_name(int(kind)), points[label == kind], style) for style, kind in enumerate(kinds)]
        marked = "marked by their label"
    else:
        right = label == predicted
        named = (("predicted right", right), ("predicted wrong", ~right))
        groups = [(name, points[rows], style) for style, (name, rows) in enumerate(named) if rows.any()]
        marked = "marked by whether they were predicted right, as there are too many classes to tell apart"
    total = int(found["samples"])
    chosen = f"{len(label)}" if len(label) == total else f"{len(label)} random ones of {total}"
    text = (
        f"t-SNE of the features of {chosen} {run.metrics.get('judged_on', 'test')} samples (perplexity "
        f"{float(found['perplexity']):g}, seed {int(found['seed'])}), {marked}. In this plane "
        f"{format_percent(summaries.neighbours_agree(found['coordinates'], label))} have a sample of their own label "
        "nearest. Who is near whom says something; distances between groups and their sizes say nothing."
    )
    return {"figure": Markup(figures.scatter(groups, description=text)), "text": text}


def _numbers(values: Any) -> NDArray[np.float64]:
    """JSON has null for what is not finite."""
    return np.array(values, dtype=np.float64)


def _three(value: float) -> str:
    return f"{value:.3g}"
