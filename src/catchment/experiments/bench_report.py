"""The files that show a suite's results, made from its folder alone: ``table.md``, ``table.csv``, ``report.html``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from catchment import report
from catchment.experiments import results_table
from catchment.experiments.bench import FINISHED, RESULTS, RUNS, load_suite
from catchment.experiments.results_table import Part, ResultsTable, collect
from catchment.experiments.suite import Disturbance, Metric
from catchment.files import read_jsonl, write_text
from catchment.report import figures

MARKDOWN, CSV = "table.md", "table.csv"


class Plot(NamedTuple):
    """A metric over the rate of one kind of noise, a line per method."""

    title: str
    svg: str


def write_bench_report(folder: Path) -> ResultsTable:
    """Write the table and its plots from ``results.jsonl`` and the suite kept beside it; returns the table.

    Raises:
        ValueError: the folder holds no results of a suite, or none of it has been run.
    """
    suite = load_suite(folder)
    results = read_jsonl(folder / RESULTS)
    if not results:
        raise ValueError(f"no run of {suite.name} has ended in {folder}: catchment bench {suite.name} --out {folder}")
    table = collect(suite, results)
    runs = [
        (row, f"{RUNS}/{row['key']}/{report.NAME}")
        for row in results
        if row["status"] == FINISHED and (folder / RUNS / row["key"] / report.NAME).exists()
    ]
    write_text(folder / MARKDOWN, results_table.to_markdown(table))
    write_text(folder / CSV, results_table.to_csv(table))
    page = report.render(
        "bench.html",
        title=suite.title,
        table=table,
        contents=[
            *((f"part-{i}", report.sentence(part.title)) for i, part in enumerate(table.parts, start=1)),
            ("notes", "Notes"),
            *([("runs", "Runs")] if runs else []),
        ],
        parts=[
            (part, results_table.header(table, part), _page_rows(table, part), plots(table, part))
            for part in table.parts
        ],
        text_columns=results_table.text_columns,
        sources=results_table.sources(table),
        dict=dict,
        runs=runs,
    )
    write_text(folder / report.NAME, page)
    return table


def _page_rows(table: ResultsTable, part: Part) -> list[list[str]]:
    return [results_table.cells(table, part, row) for row in part.rows]


def plots(table: ResultsTable, part: Part) -> list[Plot]:
    """A plot for each metric and each kind of noise that the part has at two rates or more."""
    if results_table.text_columns(part) > 2:
        return []
    return [
        plot
        for kind, disturbances in _by_kind(table.suite.disturbances).items()
        for metric in table.metrics
        if (plot := _plot(part, metric, kind, disturbances)) is not None
    ]


def _by_kind(disturbances: tuple[Disturbance, ...]) -> dict[str, dict[str, float]]:
    """Kind of noise -> name of the disturbance -> rate; no noise at all is rate 0 of every kind."""
    kinds: dict[str, dict[str, float]] = defaultdict(dict)
    clean = {d.name: 0.0 for d in disturbances if d.noise is None}
    several_mappings = len({d.mapping for d in disturbances if d.mapping is not None}) > 1
    for disturbance in disturbances:
        if disturbance.noise is not None and disturbance.rate is not None:
            kind = disturbance.noise.partition(":")[0]
            if several_mappings and disturbance.mapping is not None:
                kind = f"{kind} ({disturbance.mapping})"
            kinds[kind] = clean | kinds[kind] | {disturbance.name: disturbance.rate}
    return kinds


def _plot(part: Part, metric: Metric, kind: str, rates: dict[str, float]) -> Plot | None:
    series: dict[str, tuple[list[float], list[float], list[float]]] = {}
    references = []
    for row in sorted((row for row in part.rows if row.disturbance in rates), key=lambda row: rates[row.disturbance]):
        cell = row.cells[metric.key]
        if cell.mean is None:
            continue
        x, mean, sd = series.setdefault(row.method, ([], [], []))
        x.append(rates[row.disturbance])
        mean.append(cell.mean)
        sd.append(cell.sd or 0.0)
        if cell.published is not None:
            references.append((row.method, rates[row.disturbance], cell.published.value))
    if max((len(x) for x, _, _ in series.values()), default=0) < 2:
        return None
    title = f"{metric.title} over the rate of {kind} noise"
    label = f"{metric.title}, %" if metric.percent else metric.title
    svg = figures.lines_with_errors(
        series, x_label=f"{kind} noise rate asked", y_label=label, description=title, references=references
    )
    return Plot(title, Markup(svg))
