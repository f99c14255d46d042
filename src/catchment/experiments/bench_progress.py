"""Progress of a suite: a bar and the runs under way on a terminal, a line per ended run elsewhere; on stderr."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from catchment.experiments.bench import FAILED, Event
from catchment.experiments.suite import Metric
from catchment.report import format_number


class BenchProgress:
    """Shows the events of ``run_all``: ``with BenchProgress(60, metric) as progress: run_all(.., listen=progress)``.

    Args:
        total: how many runs there are to do.
        metric: the number shown of an ended run.
    """

    def __init__(self, total: int, metric: Metric) -> None:
        self.total, self.metric = total, metric
        self.ended = self.failed = 0
        self._console = Console(stderr=True, highlight=False)
        self._under_way: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            # names may hold [brackets], which rich would read as markup
            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console)
            self._all = self._progress.add_task("runs", total=total)

    def __enter__(self) -> BenchProgress:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "ended":
            self._end(event)
        elif self._progress is not None:
            self._show_under_way(self._progress, event)

    def _show_under_way(self, progress: Progress, event: Event) -> None:
        run = event.run
        if run.key not in self._under_way:
            self._under_way[run.key] = progress.add_task(f"  {run.describe()}", total=run.config.training.epochs)
        progress.update(self._under_way[run.key], completed=event.row.get("epoch", 0))

    def _end(self, event: Event) -> None:
        self.ended += 1
        if event.row["status"] == FAILED:
            self.failed += 1
            how = f"failed: {event.row['error']}"
        else:
            unit = " %" if self.metric.percent else ""
            shown = format_number(self.metric.of(event.row["metrics"], event.run.adaptation)) + unit
            how = f"{self.metric.title} {shown}, {event.row['wall_seconds']:.0f} s"
        line = Text(f"[{self.ended}/{self.total}] {event.run.describe()}: {how}")
        self._console.print(line, soft_wrap=True)
        if self._progress is not None:
            self._progress.advance(self._all)
            if event.run.key in self._under_way:
                self._progress.remove_task(self._under_way.pop(event.run.key))
