"""A run's history as TensorBoard's event files, for those who watch runs there; needs the extra [log]."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes each row of the history as scalars; used as ``with TensorBoardLog(folder) as log: train(on_epoch=log)``.

    Args:
        folder: of the run; the event files go into its ``tensorboard`` folder.

    Raises:
        ValueError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError('tensorboard is not installed: pip install "catchment[log]"') from None
        self._make_writer = SummaryWriter
        self._folder = folder / FOLDER
        self._writer: Any = None

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, row: dict[str, Any]) -> None:
        """Write one row."""
        if self._writer is None:  # a resumed run hides what the killed one wrote of the same epochs
            self._writer = self._make_writer(str(self._folder), purge_step=row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, row["epoch"])
