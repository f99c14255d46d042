"""Checkpoints: everything a run needs to go on as if nothing had happened."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch

from catchment.files import atomic_write

NAME = "checkpoint.pt"


class Checkpointer:
    """Writes a run's state after an epoch, and reads it back.

    An epoch depends on the state at its start and on its number alone (order, augmentation and dropout are drawn from
    seed and epoch), so the state between two epochs is all there is to keep.

    Args:
        folder: where it lies; None keeps nothing.
        share: writing may take this share of the time; an epoch is skipped where it would take more.
    """

    def __init__(self, folder: Path | None, *, share: float = 0.05) -> None:
        self.path = None if folder is None else folder / NAME
        self.share = share
        self._not_before = 0.0

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, unless the last one was written too recently for what writing costs."""
        started = time.monotonic()
        if self.path is None or started < self._not_before:
            return
        atomic_write(self.path, lambda file: torch.save(state, file))
        finished = time.monotonic()
        self._not_before = finished + (finished - started) / self.share

    def load(self) -> dict[str, Any] | None:
        """The state last written, on the CPU; None if there is none.

        Warns if it was made with another number of threads: the bits of the result may then differ.
        """
        if self.path is None or not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["threads"] != torch.get_num_threads():
            warnings.warn(
                f"the run was started with {state['threads']} threads and goes on with {torch.get_num_threads()}: "
                "its result may differ in the last bits",
                stacklevel=2,
            )
        return state

    def remove(self) -> None:
        """Delete the checkpoint of a finished run."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
