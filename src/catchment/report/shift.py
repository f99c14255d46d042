"""A run's numbers under shifted inputs: what they are called, as tables, and as a section of its page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from catchment.report import figures
from catchment.report.page import format_percent, sentence
from catchment.report.run_folder import RunFolder

_SEVERITIES = range(6)  # 0, the clean images, to 5
_FIGURES = (("accuracy", "accuracy"), ("ece", "calibration error (ECE, top label)"))


def key(adaptation: str, *parts: object) -> str:
    """The key of ``metrics.json`` for a number of a reading.

    >>> key("none", "accuracy", 5), key("batch/quantile", "drop", 0, 5)
    ('shift_accuracy_5', 'shift_batch_quantile_drop_0_5')
    """
    reading = "" if adaptation == "none" else f"{adaptation.replace('/', '_')}_"
    return f"shift_{reading}{'_'.join(map(str, parts))}"


def drops(accuracy: Mapping[int, float]) -> dict[tuple[int, int], float]:
    """How much accuracy is lost from severity i to each higher j.

    Args:
        accuracy: by severity, 0 for clean images.

    Paper: Tables 1 and 2 of "Quantile Activation", arXiv 2405.11573.

    >>> drops({0: 1.0, 1: 0.75, 5: 0.5})
    {(0, 1): 0.25, (0, 5): 0.5, (1, 5): 0.25}
    """
    return {(i, j): accuracy[i] - accuracy[j] for i, j in itertools.combinations(sorted(accuracy), 2)}


def severities_in(numbers: Mapping[str, Any], adaptation: str) -> list[int]:
    """The severities that a run's numbers have an accuracy of, 0 (clean) first."""
    return [severity for severity in _SEVERITIES if key(adaptation, "accuracy", severity) in numbers]


def severity_rows(numbers: Mapping[str, Any], adaptations: Sequence[str], measure: str) -> list[list[str]]:
    """For each reading its name, the measure in percent at each severity, ± the sd over corruptions, and the mean."""
    rows = []
    for adaptation in adaptations:
        cells = [adaptation]
        for severity in severities_in(numbers, adaptation):
            sd = numbers.get(key(adaptation, measure, "sd", severity))
            mean = _percent(numbers.get(key(adaptation, measure, severity)), 1)
            cells.append(mean if sd is None else f"{mean} ± {_percent(sd, 1)}")
        rows.append([*cells, _percent(numbers.get(key(adaptation, measure)), 1)])
    return rows


def severity_header(numbers: Mapping[str, Any], adaptations: Sequence[str]) -> list[str]:
    """The titles over the numbers of ``severity_rows``."""
    titles = ["clean" if s == 0 else f"severity {s}" for s in severities_in(numbers, adaptations[0])]
    return [*titles, "mean without clean"]


def drop_rows(numbers: Mapping[str, Any], adaptations: Sequence[str]) -> list[list[str]]:
    """For each reading its name and the points of accuracy lost from each severity to each higher one."""
    pairs = itertools.combinations(severities_in(numbers, adaptations[0]), 2)
    found = list(pairs)
    return [[a, *(_percent(numbers[key(a, "drop", i, j)], 2) for i, j in found)] for a in adaptations]


def drop_header(numbers: Mapping[str, Any], adaptations: Sequence[str]) -> list[str]:
    """The titles over the numbers of ``drop_rows``."""
    return [f"{i} → {j}" for i, j in itertools.combinations(severities_in(numbers, adaptations[0]), 2)]


def severity_table(numbers: Mapping[str, Any], adaptations: Sequence[str], measure: str = "accuracy") -> str:
    """``severity_rows`` as Markdown.

    Args:
        numbers: of ``metrics.json``.
        adaptations: the readings to show.
        measure: "accuracy", "ece", "ece_marginal" or "map_at_k".
    """
    header = [f"{measure}, %", *severity_header(numbers, adaptations)]
    return _markdown(header, severity_rows(numbers, adaptations, measure))


def drop_table(numbers: Mapping[str, Any], adaptations: Sequence[str]) -> str:
    """``drop_rows`` as Markdown; arguments as of ``severity_table``."""
    return _markdown(["accuracy lost, points", *drop_header(numbers, adaptations)], drop_rows(numbers, adaptations))


def by_severity(run: RunFolder) -> dict[str, Any] | None:
    """Figures and tables of accuracy and calibration by severity; None where a run wasn't judged under shift."""
    numbers, adaptations = run.metrics, run.metrics.get("adaptations")
    if not adaptations:
        return None
    drawn = []
    for measure, title in _FIGURES:
        lines = []
        for style, adaptation in enumerate(adaptations):
            x = severities_in(numbers, adaptation)
            lines.append(
                figures.Line(adaptation, x, [numbers[key(adaptation, measure, s)] for s in x], style=style % 6)
            )
        ends = "; ".join(f"{line.name} {format_percent(line.y[0])} to {format_percent(line.y[-1])}" for line in lines)
        text = sentence(f"{title} by severity, mean over the corruptions, 0 the clean images: {ends}.")
        figure = figures.lines(lines, x_label="severity", y_label=title, description=text, legend=True)
        drawn.append((Markup(figure), text))
    tables = [
        (f"{title}, %", severity_header(numbers, adaptations), severity_rows(numbers, adaptations, measure))
        for measure, title in (*_FIGURES, ("ece_marginal", "marginal ECE"), ("map_at_k", "MAP@K of the features"))
    ]
    tables.append(("accuracy lost, points", drop_header(numbers, adaptations), drop_rows(numbers, adaptations)))
    return {"figures": drawn, "tables": tables}


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
