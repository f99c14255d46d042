"""What a trained model takes in, so that new rows can be brought into the same form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from catchment.data.dataset import Dataset


@dataclass(frozen=True)
class InputFormat:
    """The form of one row of input, and the classes it is sorted into.

    Args:
        kind: ``"image"`` or ``"table"``.
        shape: ``(H, W, C)`` of an image or ``(D,)`` of a table's row.
        feature_names: the columns of a table, in order, where they have names.
        class_names: one name per class.
    """

    kind: Literal["image", "table"]
    shape: tuple[int, ...]
    feature_names: tuple[str, ...] | None
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> InputFormat:
        """The format of a data set's inputs."""
        return cls(
            kind="image" if dataset.is_image else "table",
            shape=tuple(int(size) for size in dataset.inputs.shape[1:]),
            feature_names=dataset.feature_names,
            class_names=dataset.class_names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The format as values that JSON can hold."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "feature_names": None if self.feature_names is None else list(self.feature_names),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputFormat:
        """The format that :meth:`to_dict` wrote.

        Raises:
            ValueError: a value is missing, or the kind is neither image nor table.

        Example:
            >>> form = InputFormat("table", (2,), ("height", "weight"), ("cat", "dog"))
            >>> InputFormat.from_dict(form.to_dict()) == form
            True
        """
        missing = [key for key in ("kind", "shape", "feature_names", "class_names") if key not in values]
        if missing:
            raise ValueError(f"the input format lacks {', '.join(missing)}: take it whole from a run's config.json")
        kind = values["kind"]
        if kind not in ("image", "table"):
            raise ValueError(f"the input format's kind is {kind!r}: give 'image' or 'table'")
        names = values["feature_names"]
        return cls(
            kind=cast(Literal["image", "table"], kind),
            shape=tuple(int(size) for size in values["shape"]),
            feature_names=None if names is None else tuple(names),
            class_names=tuple(values["class_names"]),
        )

    def describe(self) -> str:
        """The format in words, for messages."""
        if self.kind == "table":
            return f"a table of {self.shape[0]} features"
        height, width, channels = self.shape
        return f"images of {height} x {width} with {channels} channel{'s' if channels > 1 else ''}"
