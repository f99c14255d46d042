"""The table of a suite: mean and standard deviation over seeds, beside what was published."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from catchment.experiments.suite import BenchRun, Metric, Published, Selection, Suite, plan
from catchment.files import csv_text
from catchment.training.config import TrainingConfig
from catchment.training.loop import DIVERGED

# settings that the protocol lists, in its words; everything else is the same for any result
_PROTOCOL = {
    "epochs": "epochs",
    "batch_size": "batch size",
    "optimizer": "optimiser",
    "learning_rate": "learning rate",
    "momentum": "momentum",
    "nesterov": "Nesterov",
    "weight_decay": "weight decay",
    "l1": "L1 penalty",
    "schedule": "schedule",
    "step_size": "step size",
    "step_factor": "step factor",
    "milestones": "milestones",
    "clip_norm": "gradient clipping",
    "early_stopping": "early stopping",
    "augmentation": "augmentation",
    "bf16": "bfloat16",
}


@dataclass(frozen=True)
class Cell:
    """A metric over the seeds, in the metric's unit.

    Args:
        values: one per seed that has it.
        published: the figure to compare with, if there is one.
    """

    values: tuple[float, ...]
    published: Published | None

    @property
    def mean(self) -> float | None:
        """Over the seeds; None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """The sample standard deviation; None for less than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.mean is None or self.published is None else self.mean - self.published.value


@dataclass(frozen=True)
class Row:
    """A method under a disturbance."""

    budget: str
    tuning: str | None
    setting: str
    disturbance: str
    method: str
    variant: str
    seeds: tuple[int, ...]
    failed: int
    diverged: int
    cells: Mapping[str, Cell]
    rate_realised: float | None
    device_seconds: float

    @property
    def part(self) -> tuple[str, str | None, str]:
        """Which part of the results it belongs to: rows of different parts are not compared."""
        return self.budget, self.tuning, self.setting


@dataclass(frozen=True)
class Part:
    """Rows under one protocol."""

    title: str
    about: str
    protocol: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ResultsTable:
    """All that a results folder holds of a suite."""

    suite: Suite
    metrics: tuple[Metric, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> list[Row]:
        """Of all parts."""
        return [row for part in self.parts for row in part.rows]


def collect(suite: Suite, results: Sequence[Mapping[str, Any]]) -> ResultsTable:
    """The table of the rows of ``results.jsonl`` that belong to the suite as it is now.

    Rows of runs whose settings have changed since are left out, and counted in a note.
    """
    parts: list[Part] = []
    used: set[str] = set()
    finished = {row["key"]: row for row in results if row["status"] == "finished"}
    failed = {row["key"]: row for row in results if row["status"] == "failed" and row["key"] not in finished}
    diverged = {key for key, row in failed.items() if row["error"].startswith(DIVERGED)}
    seeds = tuple(sorted({row["seed"] for row in results}))
    for budget, tuning in dict.fromkeys((row["budget"], row["tuning"]) for row in results):
        runs = plan(suite, Selection(seeds=seeds, budget=budget, tuning=tuning))
        known = [run for run in runs if run.key in finished or run.key in failed]
        used |= {run.key for run in known}
        for setting in suite.settings:
            of_setting = [run for run in known if run.setting == setting.name]
            if of_setting:
                rows = _rows(suite, of_setting, finished, diverged)
                parts.append(
                    Part(_title(budget, tuning, setting.name), setting.about, _protocol(suite, of_setting), rows)
                )
    notes = _measured_on([row for key, row in finished.items() if key in used])
    notes += _best_tried(suite.metrics[0], parts) + _without_numbers(suite, parts)
    stale = len((finished.keys() | failed.keys()) - used)
    if stale:
        which = "1 result belongs" if stale == 1 else f"{stale} results belong"
        notes.append(f"{which} to an earlier version of the suite, left out")
    notes += [
        f"failed: {', '.join(row[part] for part in ('setting', 'disturbance', 'method', 'variant') if row[part])}, "
        f"seed {row['seed']}: {row['error']}"
        for key, row in failed.items()
        if key in used
    ]
    return ResultsTable(suite, _metrics(suite, parts), tuple(parts), tuple(notes))


def _rows(
    suite: Suite, runs: Sequence[BenchRun], finished: Mapping[str, Mapping[str, Any]], diverged: Collection[str]
) -> tuple[Row, ...]:
    groups: dict[tuple[str, str, str], list[BenchRun]] = defaultdict(list)
    for run in runs:
        groups[run.disturbance, run.method, run.variant].append(run)
    order = [d.name for d in suite.disturbances]
    rows = []
    for (disturbance, method, variant), group in sorted(groups.items(), key=lambda item: order.index(item[0][0])):
        first = group[0]
        done = [finished[run.key] for run in group if run.key in finished]
        tuning = first.config.validation_labels if first.config.judged_on == "validation" else None
        rates = [r for row in done if (r := row["metrics"].get("noise_rate_realised")) is not None]
        rows.append(
            Row(
                budget=first.budget,
                tuning=tuning,
                setting=first.setting,
                disturbance=disturbance,
                method=method,
                variant=variant,
                seeds=tuple(run.seed for run in group if run.key in finished),
                failed=len(group) - len(done),
                diverged=sum(run.key in diverged for run in group),
                cells={metric.key: _cell(suite, metric, first, done) for metric in suite.metrics},
                rate_realised=statistics.fmean(rates) if rates else None,
                device_seconds=sum(row["device_seconds"] for row in done),
            )
        )
    return tuple(rows)


def _cell(suite: Suite, metric: Metric, run: BenchRun, done: Sequence[Mapping[str, Any]]) -> Cell:
    values = [value for row in done if (value := metric.of(row["metrics"], run.adaptation)) is not None]
    figures = [
        figure
        for figure in suite.published
        if (figure.method, figure.disturbance, figure.metric) == (run.method, run.disturbance, metric.key)
        and figure.setting in (None, run.setting)
    ]
    comparable = bool(figures) and run.config.judged_on == "test"
    return Cell(tuple(values), figures[0] if comparable else None)


def _metrics(suite: Suite, parts: Sequence[Part]) -> tuple[Metric, ...]:
    """The columns that hold a number; all where nothing has been measured yet."""
    rows = [row for part in parts for row in part.rows]
    measured = [m for m in suite.metrics if any(row.cells[m.key].values for row in rows)]
    return tuple(measured) or suite.metrics


def _title(budget: str, tuning: str | None, setting: str) -> str:
    shown = f"{setting} settings, {budget} budget"
    return shown if tuning is None else f"{shown}, tuning: judged on held-out training samples with {tuning} labels"


def _protocol(suite: Suite, runs: Sequence[BenchRun]) -> tuple[tuple[str, str], ...]:
    """What was the same for all methods in one value, what was not by method."""
    by_method: dict[str, BenchRun] = {}
    for run in runs:
        by_method.setdefault(run.method, run)
    config = runs[0].config
    training = {method: run.config.training for method, run in by_method.items()}
    epoch_reported = {
        m: "best on validation" if settings.early_stopping else "last" for m, settings in training.items()
    }
    lines = [
        ("data", f"{suite.data}, {_samples(config.max_train_samples)}, net {config.net}"),
        ("test labels", "clean, as published with the data" if config.judged_on == "test" else "not looked at"),
        ("validation", _validation(runs[0])),
        ("epoch reported", _by_method(epoch_reported)),
        ("noise", "drawn anew for each seed, on the training labels alone"),
    ]
    if config.shift is not None:
        images = f"{config.shift_samples} test images" if config.shift_samples else "all test images"
        lines.append(
            (
                "shift",
                f"corruptions {config.corruptions}, severities {_show(config.severities)}, {images}, the same ones",
            )
        )
    on_grid = suite.tuning.keys() if any(run.variant for run in runs) else ()
    for field in fields(TrainingConfig):
        is_idle = all(_is_idle(field.name, settings) for settings in training.values())
        if field.name not in _PROTOCOL or is_idle or field.name in on_grid:
            continue
        values = {method: _show(getattr(settings, field.name)) for method, settings in training.items()}
        lines.append((_PROTOCOL[field.name], _by_method(values)))
    return tuple(lines)


def _by_method(values: Mapping[str, str]) -> str:
    """One value where all methods have the same."""
    distinct = set(values.values())
    return distinct.pop() if len(distinct) == 1 else "; ".join(f"{m}: {v}" for m, v in values.items())


def _is_idle(name: str, training: TrainingConfig) -> bool:
    """Whether a setting does nothing under the others."""
    return (
        (name == "step_factor" and training.schedule in ("cosine", "constant"))
        or (name == "step_size" and training.schedule not in ("step", "plateau"))
        or (name == "milestones" and training.schedule != "milestones")
        or (name in ("nesterov", "early_stopping", "bf16") and not getattr(training, name))
        or (name in ("momentum", "nesterov") and training.optimizer != "sgd")
    )


def _samples(count: int) -> str:
    return f"at most {count} training samples, stratified" if count else "all training samples"


def _validation(run: BenchRun) -> str:
    config = run.config
    if not config.validation:
        return "none: nothing was chosen"
    seed = "the run's seed" if config.validation_seed is None else f"seed {config.validation_seed}"
    return f"{config.validation:.0%} of the training set ({seed}), {config.validation_labels} labels"


def _show(value: Any) -> str:
    if value is None:
        return "as the data set wants"
    if isinstance(value, tuple):
        return ", ".join(map(_show, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _best_tried(metric: Metric, parts: Sequence[Part]) -> list[str]:
    """The point of the grid with the best first metric, for each part, method and disturbance."""
    best: dict[tuple[Any, ...], tuple[float, Row]] = {}
    for row in (row for part in parts for row in part.rows if row.variant):
        key = (row.part, row.disturbance, row.method)
        mean = row.cells[metric.key].mean
        if mean is None:
            continue
        worth = -mean if metric.lower_is_better else mean
        if key not in best or worth > best[key][0]:
            best[key] = worth, row
    return [
        f"best tried: {row.setting}, {row.budget} budget, {row.tuning} validation labels, {row.disturbance}, "
        f"{row.method}: {row.variant} ({metric.title} {shown(row.cells[metric.key], metric)})"
        for _, row in best.values()
    ]


def _without_numbers(suite: Suite, parts: Sequence[Part]) -> list[str]:
    """Metrics that no run has, which may be misspelt."""
    rows = [row for part in parts for row in part.rows if row.seeds]
    return [
        f"no run has {metric.key}, so there is no column {metric.title}"
        for metric in suite.metrics
        if rows and not any(row.cells[metric.key].values for row in rows)
    ]


def _measured_on(finished: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where and with what it was measured: more than one line where results come from several machines."""
    places = dict.fromkeys(
        (", ".join(_hardware(row["hardware"])), ", ".join(f"{k} {v}" for k, v in row["versions"].items()))
        for row in finished
    )
    return [f"measured on {hardware}; {versions}" for hardware, versions in places]


def _hardware(found: Mapping[str, str]) -> list[str]:
    names = [found["gpu"]] if "gpu" in found else []
    return [*names, found["cpu"], f"{found['cores']} cores", found["memory"]]


def shown(cell: Cell, metric: Metric) -> str:
    """Mean ± standard deviation, as the table prints it."""
    if cell.mean is None:
        return "-"
    mean = number(cell.mean, metric)
    return mean if cell.sd is None else f"{mean} ± {number(cell.sd, metric)}"


def number(value: float | None, metric: Metric) -> str:
    """A number with two digits in percent and three otherwise."""
    return "-" if value is None else f"{value:.{2 if metric.percent else 3}f}"


def signed(value: float | None, metric: Metric) -> str:
    """A difference with its sign."""
    return "-" if value is None else f"{value:+.{2 if metric.percent else 3}f}"


def text_columns(part: Part) -> int:
    """How many columns come before the numbers: disturbance, method and, on a grid, the point that was tried."""
    return 3 if any(row.variant for row in part.rows) else 2


def header(table: ResultsTable, part: Part) -> list[str]:
    """The titles of a part's columns."""
    columns = ["disturbance", "method", "tried"][: text_columns(part)]
    for metric in table.metrics:
        unit = f"{metric.title}, %" if metric.percent else metric.title
        columns.append(unit)
        if _has_published(part, metric):
            columns += ["published", "difference"]
    return [*columns, "seeds", "noise realised", "device s"]


def cells(table: ResultsTable, part: Part, row: Row) -> list[str]:
    """A row's texts, under ``header``."""
    texts = [row.disturbance, row.method, row.variant][: text_columns(part)]
    for metric in table.metrics:
        cell = row.cells[metric.key]
        all_diverged = cell.mean is None and row.diverged == row.failed > 0
        texts.append("diverged" if all_diverged else shown(cell, metric))
        if _has_published(part, metric):
            texts.append(_published(cell, metric))
            texts.append(signed(cell.difference, metric))
    others = {"failed": row.failed - row.diverged, "diverged": row.diverged}
    lost = ", ".join(f"{count} {what}" for what, count in others.items() if count)
    seeds = str(len(row.seeds)) + (f" ({lost})" if lost else "")
    rate = "-" if row.rate_realised is None else f"{row.rate_realised:.2%}"
    return [*texts, seeds, rate, f"{row.device_seconds:.0f}"]


def _published(cell: Cell, metric: Metric) -> str:
    if cell.published is None:
        return "-"
    text = number(cell.published.value, metric)
    return text if cell.published.sd is None else f"{text} ± {number(cell.published.sd, metric)}"


def _has_published(part: Part, metric: Metric) -> bool:
    return any(row.cells[metric.key].published is not None for row in part.rows)


def sources(table: ResultsTable) -> list[str]:
    """Where the published figures of the table come from; says so where there are none."""
    figures = [c.published for row in table.rows for c in row.cells.values() if c.published is not None]
    none = "no figure to compare these runs with" if table.suite.published else "no figure is published for this suite"
    return list(dict.fromkeys(figure.source for figure in figures)) or [none]


def for_terminal(table: ResultsTable) -> RenderableType:
    """The table in colour and boxes, for rich."""
    parts: list[RenderableType] = []
    for part in table.parts:
        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for i, title in enumerate(header(table, part)):
            is_text = i < text_columns(part)
            grid.add_column(Text(title), justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
        last = ""
        for row in part.rows:
            texts = cells(table, part, row)
            texts[0], last = ("" if texts[0] == last else texts[0]), texts[0]
            grid.add_row(*map(Text, texts))
        parts += [Text(f"\n{part.title}", style="bold"), *([Text(part.about)] if part.about else []), grid]
        parts.append(Text("; ".join(f"{name}: {value}" for name, value in part.protocol), style="dim"))
    parts += [Text(f"published: {source}", style="dim") for source in sources(table)]
    parts += [Text(note, style="dim") for note in table.notes]
    return Group(*parts)


def to_markdown(table: ResultsTable) -> str:
    """The table as Markdown."""
    lines = [f"# {table.suite.title}", "", *([table.suite.about, ""] if table.suite.about else [])]
    for part in table.parts:
        titles = header(table, part)
        lines += [f"## {part.title[0].upper()}{part.title[1:]}", "", *([part.about, ""] if part.about else [])]
        lines.append("| " + " | ".join(map(_markdown_cell, titles)) + " |")
        lines.append("|" + "|".join(" --- " if i < text_columns(part) else " ---: " for i in range(len(titles))) + "|")
        for row in part.rows:
            lines.append("| " + " | ".join(map(_markdown_cell, cells(table, part, row))) + " |")
        lines += ["", *(f"- {name}: {value}" for name, value in part.protocol), ""]
    lines += [f"- published: {source}" for source in sources(table)]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def to_records(table: ResultsTable) -> list[dict[str, Any]]:
    """One record for each number: what ``table.csv`` and ``--json`` hold."""
    return [
        {
            "suite": table.suite.name,
            "budget": row.budget,
            "tuning": row.tuning,
            "setting": row.setting,
            "disturbance": row.disturbance,
            "method": row.method,
            "variant": row.variant,
            "metric": metric.key,
            "percent": metric.percent,
            "mean": row.cells[metric.key].mean,
            "sd": row.cells[metric.key].sd,
            "seeds": len(row.cells[metric.key].values),
            "failed": row.failed,
            "diverged": row.diverged,
            "published": None if (figure := row.cells[metric.key].published) is None else figure.value,
            "published_sd": None if figure is None else figure.sd,
            "difference": row.cells[metric.key].difference,
            "source": None if figure is None else figure.source,
            "noise_rate_realised": row.rate_realised,
            "device_seconds": row.device_seconds,
        }
        for row in table.rows
        for metric in table.metrics
    ]


def to_csv(table: ResultsTable) -> str:
    """The records as CSV."""
    return csv_text(to_records(table))
