"""Tables in ``.csv`` and ``.parquet`` files: a label column, the others are features."""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import IGNORE_INDEX, Dataset
from catchment.data.input_format import InputFormat
from catchment.data.labels import encode, note_unseen, shorten, sort_names

# So few rows' cells stay in the processor's cache, which halves the time to read a wide file.
_ROWS_AT_ONCE = 256
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class _Request:
    """What is wanted of a table."""

    path: Path
    label_column: str
    drop_columns: Sequence[str]
    like: InputFormat | None
    need_labels: bool

    def choose(self, names: Sequence[str]) -> tuple[list[int], int | None]:
        """The positions of the feature columns, and of the label column where there is one."""
        path, like = self.path, self.like
        nameless = [position for position, name in enumerate(names, start=1) if not name]
        if nameless:
            raise ValueError(
                f"{path}: column {nameless[0]} has no name: name it in the first line "
                "(pandas writes such a column for its index: to_csv(..., index=False))"
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{path}: column {shorten(twice)} is there more than once: rename or remove one of them")
        if self.label_column in self.drop_columns:
            raise ValueError(f"{path}: the label column {self.label_column!r} can't be dropped: name another one")
        for dropped in self.drop_columns:
            if dropped not in names:
                raise ValueError(f"{path}: there is no column {dropped!r} to drop{_nearest(dropped, names)}")
        label = names.index(self.label_column) if self.label_column in names else None
        if label is None and self.need_labels:
            hint = _nearest(self.label_column, names)
            if len(names) == 1 and re.search("[;\t|]", names[0]):
                hint = ": separate the columns with commas"
            raise ValueError(
                f"{path}: there is no label column {self.label_column!r}{hint}, or name it with --label-column"
            )
        others = [
            position
            for position, name in enumerate(names)
            if position != label and name not in self.drop_columns and not _PANDAS_INDEX.fullmatch(name)
        ]
        if like is not None and like.feature_names is not None:
            missing = [name for name in like.feature_names if name not in names]
            if missing:
                raise ValueError(
                    f"{path}: column {shorten(missing)} is missing, which training had: add it "
                    f"(columns here: {shorten(names)})"
                )
            return [names.index(name) for name in like.feature_names], label
        if like is not None and like.kind == "table" and len(others) != like.shape[0]:
            raise ValueError(
                f"{path}: there are {len(others)} feature columns, but training had {like.shape[0]}: give the same ones"
            )
        if not others:
            raise ValueError(f"{path}: no feature columns are left: give at least one beside the label column")
        return others, label

    def refuse_cell(self, where: str, column: str, value: object) -> NoReturn:
        """Says what is wrong with a cell that holds no finite number."""
        drop = "" if self.like is not None else f", or leave the column out with --drop-columns {column}"
        place = f"{self.path}: {where}, column {column!r}"
        text = "" if value is None else str(value).strip()
        if not text:
            raise ValueError(f"{place} is empty: fill it in or remove the row{drop}")
        try:
            float(text)
        except ValueError:
            raise ValueError(f"{place} holds {shorten([text])}, not a number: encode it as numbers{drop}") from None
        raise ValueError(f"{place} holds {text}, not a finite 32-bit number: fill it in or remove the row{drop}")


@dataclass(frozen=True)
class _Content:
    """What was found: features ``(N, D)`` and their names, a label or None per row, and what to call a row."""

    inputs: NDArray[np.float32]
    feature_names: tuple[str, ...]
    labels: list[str | None] | None
    where: Callable[[int], str]


def read_table(
    path: Path,
    *,
    label_column: str = "label",
    drop_columns: Sequence[str] = (),
    like: InputFormat | None = None,
    need_labels: bool = True,
) -> Dataset:
    """Reads a ``.csv`` or ``.parquet`` file: all columns but the label and the dropped ones are features.

    Features become float32 ``(N, D)``. With ``like``, columns are found by its feature names and class names are
    matched to it; without ``need_labels``, rows without a label get -100.

    Raises:
        ValueError: a column is missing or there twice, a cell holds no finite number, labels are missing, the file is
            empty or damaged, or pyarrow isn't installed for ``.parquet``.
    """
    request = _Request(path, label_column, drop_columns, like, need_labels)
    content = _read_csv(request) if path.suffix.lower() == ".csv" else _read_parquet(request)
    rows = len(content.inputs)
    given = content.labels if content.labels is not None else [None] * rows
    missing = [row for row, label in enumerate(given) if label is None]
    if missing and need_labels:
        what = "1 row has no label, on" if len(missing) == 1 else f"{len(missing)} rows have no label, the first on"
        raise ValueError(f"{path}: {what} {content.where(missing[0])}: fill in {label_column!r} or remove the rows")
    values = np.array([label for label in given if label is not None], dtype=np.str_)
    class_names = sort_names(values.tolist()) if like is None else like.class_names
    labels = np.full(rows, IGNORE_INDEX, dtype=np.int64)
    labels[[label is not None for label in given]] = encode(values, class_names)
    return Dataset(
        name=path.stem,
        inputs=content.inputs,
        labels=labels,
        class_names=class_names,
        ids=tuple(str(row) for row in range(rows)),
        feature_names=content.feature_names,
        notes=() if like is None else note_unseen(values, class_names),
    )


def _read_csv(request: _Request) -> _Content:
    path = request.path
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse_csv(request, csv.reader(file, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: this is not UTF-8 text: save it as a UTF-8 .csv file") from error
    except csv.Error as error:
        raise ValueError(f"{path}: this can't be read as .csv ({error}): write it again") from error


def _parse_csv(request: _Request, reader: Any) -> _Content:
    path = request.path
    names = [name.strip() for name in next(reader, [])]
    if not names:
        raise ValueError(f"{path}: the file is empty: give a first line of column names and a line per sample")
    features, label = request.choose(names)
    lines: list[int] = []
    labels: list[str | None] = []
    blocks = []

    def rows() -> Iterator[list[str]]:
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{path}: line {reader.line_num} has {len(row)} cells, but there are {len(names)} columns: "
                    "correct or remove the line"
                )
            lines.append(reader.line_num)
            yield row

    unread = rows()
    while chunk := list(islice(unread, _ROWS_AT_ONCE)):
        first = len(lines) - len(chunk)
        columns = list(zip(*chunk, strict=True))
        block = np.empty((len(chunk), len(features)), dtype=np.float32)
        for position, feature in enumerate(features):
            block[:, position] = _numbers(request, columns[feature], names[feature], partial(_line, lines[first:]))
        blocks.append(block)
        if label is not None:
            labels.extend(cell.strip() or None for cell in columns[label])
    if not blocks:
        raise ValueError(f"{path}: there are no rows below the column names: give a line per sample")
    return _Content(
        inputs=np.concatenate(blocks),
        feature_names=tuple(names[feature] for feature in features),
        labels=None if label is None else labels,
        where=partial(_line, lines),
    )


def _read_parquet(request: _Request) -> _Content:
    path = request.path
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f'{path}: reading .parquet needs pyarrow: pip install "catchment[data]", or save the table as .csv'
        ) from error
    try:
        table = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: this .parquet file is damaged or is none: write it again") from error
    names = [str(name) for name in table.column_names]
    if not names or table.num_rows == 0:
        raise ValueError(f"{path}: there are no rows in it: give at least one per class")
    features, label = request.choose(names)
    inputs = np.empty((table.num_rows, len(features)), dtype=np.float32)
    for position, feature in enumerate(features):
        inputs[:, position] = _parquet_numbers(request, table.column(feature), names[feature])
    return _Content(
        inputs=inputs,
        feature_names=tuple(names[feature] for feature in features),
        labels=None if label is None else [_label(value) for value in table.column(label).to_pylist()],
        where=_row,
    )


def _parquet_numbers(request: _Request, column: Any, name: str) -> NDArray[np.float32]:
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_number = types.is_floating(column.type) or types.is_integer(column.type) or types.is_boolean(column.type)
    if not is_number:
        if types.is_string(column.type) or types.is_large_string(column.type) or types.is_decimal(column.type):
            values = ["" if value is None else str(value) for value in column.to_pylist()]
            return _numbers(request, values, name, _row)
        if column.null_count < len(column):
            row = next(row for row, value in enumerate(column) if value.is_valid)
            request.refuse_cell(_row(row), name, column[row].as_py())
    if column.null_count:
        row = next(row for row, value in enumerate(column) if not value.is_valid)
        request.refuse_cell(_row(row), name, None)
    return _finite(request, column.to_numpy(), name, _row)


def _numbers(request: _Request, cells: Sequence[str], column: str, where: Callable[[int], str]) -> NDArray[np.float32]:
    try:
        numbers = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
    except ValueError:
        for row, cell in enumerate(cells):
            try:
                float(cell)
            except ValueError:
                request.refuse_cell(where(row), column, cell)
        raise
    return _finite(request, numbers, column, where)


def _finite(request: _Request, numbers: NDArray[Any], column: str, where: Callable[[int], str]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    finite = np.isfinite(single)
    if not finite.all():
        row = int(np.argmin(finite))
        request.refuse_cell(where(row), column, numbers[row])
    return single


def _label(value: object) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def _line(lines: Sequence[int], row: int) -> str:
    return f"line {lines[row]}"


def _row(row: int) -> str:
    return f"row {row + 1}"


def _nearest(wanted: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return f": {suggestion}the columns are {shorten(names, most=20)}"
