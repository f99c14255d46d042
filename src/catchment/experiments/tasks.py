"""What a run's samples may have: one label, at most one, or any number."""

from __future__ import annotations

from catchment.data import UNKNOWN_CLASS, Dataset

SINGLE_LABEL = "single-label"
TASKS = {
    "one-vs-rest": "one label per sample, of classes that are scored each by itself",
    "zero-label": "one label per sample or none: training samples of no class are labelled -1",
    "multi-label": "any number of labels per sample",
}
# Tasks whose predictions are all classes above a threshold, not the highest one.
OF_LABEL_SETS = ("zero-label", "multi-label")


def settle_task(task: str | None, train: Dataset) -> str:
    """The task that was asked for, or the one that the training labels are for: one of ``TASKS`` or single-label.

    Raises:
        ValueError: there is no such task, or the labels are not for it.
    """
    has_unlabelled = not train.is_multi_label and bool((train.labels == UNKNOWN_CLASS).any())
    if task is None:
        return "multi-label" if train.is_multi_label else "zero-label" if has_unlabelled else SINGLE_LABEL
    check_task(task)
    if train.is_multi_label and task != "multi-label":
        raise ValueError(f"{train.name} has any number of labels per sample: use --task multi-label, not {task}")
    if task == "multi-label" and not train.is_multi_label:
        raise ValueError(f"{train.name} has one label per sample: use --task one-vs-rest or zero-label")
    if task == "zero-label" and not has_unlabelled:
        raise ValueError(
            f"{train.name} has no training sample without a label: label some -1, or take the labels off some classes, "
            "--noise unlabel:A,B"
        )
    return task


def check_task(task: str | None) -> None:
    """Raise a ValueError if there is no such task."""
    if task is not None and task not in TASKS:
        raise ValueError(f"task is {task!r}: choose one of {', '.join(TASKS)}")
