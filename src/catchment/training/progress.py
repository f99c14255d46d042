"""Progress of a training run: a bar on a terminal, plain lines elsewhere; on stderr, so that stdout stays clean."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Off a terminal, a line at most this often (seconds), besides the first and the last epoch.
LINE_EVERY = 5.0


class EpochProgress:
    """Shows epochs as they end; used as ``with EpochProgress(30) as progress: train(..., on_epoch=progress)``.

    Args:
        epochs: how many there will be.
        label: what is being trained.
        quiet: show nothing.
    """

    def __init__(self, epochs: int, label: str = "training", *, quiet: bool = False) -> None:
        self.epochs, self.label, self.quiet = epochs, label, quiet
        self.epoch = 0
        self._last_line = -LINE_EVERY
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=epochs)

    def __enter__(self) -> EpochProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, row: dict[str, Any]) -> None:
        """Show one row of the history."""
        self.epoch = row["epoch"]
        if self.quiet:
            return
        text = f"loss {row['train_loss']:.4f}"
        if "validation_accuracy" in row:
            text += f", validation accuracy {row['validation_accuracy']:.4f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.epoch, description=f"{self.label}: {text}")
            return
        now = time.monotonic()
        if self.epoch in (1, self.epochs) or now - self._last_line >= LINE_EVERY:
            print(f"{self.label}: epoch {self.epoch}/{self.epochs}, {text}", file=sys.stderr, flush=True)  # noqa: T201
            self._last_line = now
