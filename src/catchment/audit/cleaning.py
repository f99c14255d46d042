"""Decisions on suspect labels, and the data as they leave it. What was read is never written to."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.audit.suspects import PRESENCE, Suspects, label_text, sample_id
from catchment.data import Dataset, ImageFiles, is_known
from catchment.files import atomic_write, write_text
from catchment.nearest import did_you_mean

KEEP, RELABEL, DROP, SKIP = DECISIONS = ("keep", "relabel", "drop", "skip")
COLUMNS = ("data", "row", "id", "class", "given", "decision", "label")


@dataclass(frozen=True)
class Decision:
    """What is to become of one label.

    Args:
        row: position of the sample.
        decision: one of ``DECISIONS``; of these, "keep" and "skip" change nothing.
        label: the new label for "relabel": a class, or of multi-label data 0 or 1.
        of_class: of multi-label data, which class it is about.
    """

    row: int
    decision: str
    label: int | None = None
    of_class: int | None = None


def data_fingerprint(dataset: Dataset) -> str:
    """16 hexadecimal digits of class names, sample ids and labels: the same for the same data, read again."""
    digest = hashlib.sha256("\n".join(dataset.class_names).encode())
    digest.update("\n".join(sample_id(dataset, row) for row in range(len(dataset))).encode())
    digest.update(np.ascontiguousarray(dataset.labels.astype(np.int64)).data)
    return digest.hexdigest()[:16]


def decide_all(suspects: Suspects, decision: str) -> list[Decision]:
    """The same decision for every suspect: "drop", or "relabel" as suggested."""
    classes = [None] * len(suspects) if suspects.classes is None else suspects.classes.tolist()
    return [
        Decision(row, decision, suggested if decision == RELABEL else None, of_class)
        for row, suggested, of_class in zip(suspects.rows.tolist(), suspects.suggested.tolist(), classes, strict=True)
    ]


def read_decisions(path: Path, dataset: Dataset) -> list[Decision]:
    """Read the decisions that a review page exported, and check each against the data.

    Edited by hand they are taken as long as they fit: the row, its id and its given label must agree with the data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no decisions, is of other data, or a line contradicts the data or another line.
    """
    again = "export it from the review page again"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: there is no column {missing[0]!r}, so these are no decisions: {again}")
            lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: this can't be read as .csv ({error}): {again}") from None
    if not lines:
        raise ValueError(f"{path}: there are no decisions in it: review some suspects, and {again}")
    fingerprint = data_fingerprint(dataset)
    if lines[0]["data"] != fingerprint:
        raise ValueError(
            f"{path}: these decisions were made on other data than {dataset.name}, or its labels have changed since: "
            "name the data that was reviewed, or audit it again"
        )
    decisions = [
        _decision(f"{path}: line {number}", line, dataset, fingerprint, again)
        for number, line in enumerate(lines, start=2)
    ]
    seen: dict[tuple[int, int | None], int] = {}
    for number, each in enumerate(decisions, start=2):
        if (each.row, each.of_class) in seen:
            first = seen[each.row, each.of_class]
            raise ValueError(f"{path}: lines {first} and {number} are about the same label: remove one of them")
        seen[each.row, each.of_class] = number
    return decisions


def _decision(where: str, line: dict[str, Any], dataset: Dataset, fingerprint: str, again: str) -> Decision:
    if None in line or None in line.values():
        raise ValueError(f"{where} has another number of cells than the first line: {again}")
    if line["data"] != fingerprint:
        raise ValueError(f"{where} is of other data than the first one: {again}")
    if not line["row"].isdecimal() or int(line["row"]) >= len(dataset):
        raise ValueError(f"{where} is about row {line['row']!r}, and {dataset.name} has {len(dataset)} rows: {again}")
    row = int(line["row"])
    if line["id"] != sample_id(dataset, row):
        raise ValueError(f"{where}: row {row} is {sample_id(dataset, row)!r}, not {line['id']!r}: {again}")
    of_class = None
    names: Sequence[str] = dataset.class_names
    given = int(dataset.labels[row]) if not dataset.is_multi_label else -1
    if dataset.is_multi_label:
        if line["class"] not in dataset.class_names:
            raise ValueError(f"{where}: there is no class {line['class']!r}: {again}")
        of_class = dataset.class_names.index(line["class"])
        given, names = int(dataset.labels[row, of_class]), PRESENCE
    if given < 0 or line["given"] != label_text(dataset, given):
        has = label_text(dataset, given) if given >= 0 else "no class"
        raise ValueError(f"{where}: row {row} is labelled {has!r}, not {line['given']!r}: {again}")
    if line["decision"] not in DECISIONS:
        hint = did_you_mean(line["decision"], DECISIONS, "choose one of")
        raise ValueError(f"{where}: {line['decision']!r} is no decision: {hint}")
    if line["decision"] != RELABEL:
        return Decision(row, line["decision"], None, of_class)
    if line["label"] not in names:
        hint = did_you_mean(line["label"], list(names)[:20], "choose one of")
        raise ValueError(f"{where}: there is no label {line['label']!r}: {hint}")
    return Decision(row, RELABEL, list(names).index(line["label"]), of_class)


def cleaned_labels(dataset: Dataset, decisions: Sequence[Decision]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The labels after the decisions, for all rows, and the positions of the rows that stay."""
    labels = dataset.labels.copy()
    kept = np.ones(len(dataset), dtype=np.bool_)
    for each in decisions:
        if each.decision == DROP:
            kept[each.row] = False
        elif each.decision == RELABEL:
            labels[each.row if each.of_class is None else (each.row, each.of_class)] = each.label
    return labels, np.flatnonzero(kept)


def write_cleaned(
    source: str,
    dataset: Dataset,
    decisions: Sequence[Decision],
    out: Path,
    *,
    label_column: str = "label",
    overwrite: bool = False,
) -> dict[str, int]:
    """Write a copy of the data without the dropped samples and with the new labels, in the form of the original.

    A folder of class folders becomes another one (files are copied), a table a table with all its columns, an ``.npz``
    one with all its arrays. Known sets become an ``.npz`` with ``X``, ``y``, ``class_names`` and ``id``; those that
    stay on disk, and COCO files, a ``.csv`` with ``id`` and ``label`` (of multi-label data a column for each class).

    Args:
        source: what the data was read from.
        dataset: the data.
        decisions: on its labels.
        out: where to write; never the source, nor in it, nor around it.
        label_column: of a table.
        overwrite: replace an existing file.

    Returns:
        ``kept``, ``dropped`` and ``relabelled``.

    Raises:
        ValueError: ``out`` is the source, exists, has another suffix than what is written, or nothing would be left.
    """
    check_out(source, dataset, out, overwrite=overwrite)
    labels, kept = cleaned_labels(dataset, decisions)
    if not len(kept):
        raise ValueError(f"every sample of {dataset.name} would be dropped: keep some")
    path = Path(source).expanduser()
    suffix = cleaned_suffix(source, dataset)
    if suffix == "":
        _write_folders(path, dataset, labels, kept, out)
    elif is_known(source) or path.suffix.lower() == ".json":
        (_write_arrays if suffix == ".npz" else _write_list)(dataset, labels, kept, out)
    elif suffix == ".npz":
        _write_npz(path, dataset, labels, kept, out)
    else:
        (_write_csv if suffix == ".csv" else _write_parquet)(path, dataset, labels, kept, out, label_column)
    changed = (labels != dataset.labels).reshape(len(labels), -1).any(1)
    return {
        "kept": len(kept),
        "dropped": len(dataset) - len(kept),
        "relabelled": int(changed[kept].sum()),
    }


def cleaned_suffix(source: str, dataset: Dataset) -> str:
    """The suffix of what ``write_cleaned`` writes; "" for a folder."""
    path = Path(source).expanduser()
    if is_known(source) or path.suffix.lower() == ".json":
        return ".csv" if isinstance(dataset.inputs, ImageFiles) else ".npz"
    return "" if path.is_dir() else path.suffix.lower()


def check_out(source: str, dataset: Dataset, out: Path, *, overwrite: bool = False) -> None:
    """Raise a ValueError unless cleaned data can be written to ``out``."""
    place = out.expanduser().resolve()
    if not is_known(source):
        original = Path(source).expanduser().resolve()
        inside = original.is_dir() and (original in place.parents or place in original.parents)
        if place == original or inside or (out.exists() and out.samefile(original)):
            raise ValueError(
                f"{out} is the data itself, or in it or around it, which is never written to: choose another"
            )
    suffix = cleaned_suffix(source, dataset)
    if suffix and out.suffix.lower() != suffix:
        raise ValueError(f"{out} does not end in {suffix}, as the cleaned data of {source} does: name it so")
    if suffix == "" and out.exists() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: choose another for the cleaned data")
    if suffix and out.is_dir():
        raise ValueError(f"{out} is a folder: name a {suffix} file")
    if suffix and out.exists() and not overwrite:
        raise ValueError(f"{out} exists: choose another name for the cleaned data, or add --overwrite")


def _write_folders(source: Path, dataset: Dataset, labels: NDArray[Any], kept: NDArray[np.int64], out: Path) -> None:
    """Copies the files into class folders; a file that would meet another of its name is told by its old class."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        moved = labels[kept] != dataset.labels[kept]
        # those that stay in their class first, so that they keep their names
        for row in kept[np.argsort(moved, kind="stable")].tolist():
            identity = sample_id(dataset, row)
            old, _, inner = identity.partition("/")
            target = temporary / dataset.class_names[labels[row]] / inner
            number = 0
            while target.exists():
                number += 1
                tail = "" if number == 1 else f"-{number}"
                target = target.with_name(f"{Path(inner).stem}-from-{old}{tail}{target.suffix}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / identity, target)
        if out.exists():
            out.rmdir()
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_csv(
    source: Path, dataset: Dataset, labels: NDArray[Any], kept: NDArray[np.int64], out: Path, label_column: str
) -> None:
    with source.open(newline="", encoding="utf-8-sig") as file:
        header, *lines = [line for line in csv.reader(file, strict=True) if line]
    column = [name.strip() for name in header].index(label_column)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in kept.tolist():
        if labels[row] != dataset.labels[row]:
            lines[row][column] = dataset.class_names[labels[row]]
        writer.writerow(lines[row])
    write_text(out, text.getvalue())


def _write_parquet(
    source: Path, dataset: Dataset, labels: NDArray[Any], kept: NDArray[np.int64], out: Path, label_column: str
) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    position = table.column_names.index(label_column)
    given = table.column(position)
    # a value of each class as the file has it, so that its type stays
    example = {label: given[row].as_py() for row, label in enumerate(dataset.labels.tolist())}
    values = [example[label] for label in labels.tolist()]
    plain = given.type.value_type if pyarrow.types.is_dictionary(given.type) else given.type
    table = table.set_column(position, label_column, pyarrow.array(values, type=plain))
    atomic_write(out, lambda file: pyarrow.parquet.write_table(table.take(kept), file))


def _write_npz(source: Path, dataset: Dataset, labels: NDArray[Any], kept: NDArray[np.int64], out: Path) -> None:
    with np.load(source, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    y = arrays["y"]
    if y.dtype.kind in "US":
        y = y.astype(np.result_type(y, np.array(dataset.class_names, dtype=np.str_)))
    # a value of each class as the file has it; of a class without samples its name, or its position in class_names
    example = dict(enumerate(dataset.class_names if y.dtype.kind == "U" else range(dataset.num_classes)))
    example |= {label: y[row] for row, label in enumerate(dataset.labels.tolist())}
    changed = np.flatnonzero(labels != dataset.labels)
    y = y.copy()
    y[changed] = [example[label] for label in labels[changed].tolist()]
    arrays["y"] = y
    samples = len(dataset)
    by_row = {name for name, values in arrays.items() if values.shape[:1] == (samples,) and name != "class_names"}
    arrays = {name: values[kept] if name in by_row else values for name, values in arrays.items()}
    atomic_write(out, lambda file: np.savez(file, **arrays))


def _write_arrays(dataset: Dataset, labels: NDArray[Any], kept: NDArray[np.int64], out: Path) -> None:
    arrays = {
        "X": dataset.inputs[kept],
        "y": labels[kept],
        "class_names": np.array(dataset.class_names, dtype=np.str_),
        "id": np.array([sample_id(dataset, row) for row in kept.tolist()], dtype=np.str_),
    }
    if dataset.clean_labels is not None:
        arrays["y_clean"] = dataset.clean_labels[kept]
    atomic_write(out, lambda file: np.savez_compressed(file, **arrays))


def _write_list(dataset: Dataset, labels: NDArray[Any], kept: NDArray[np.int64], out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *(dataset.class_names if dataset.is_multi_label else ["label"])])
    for row in kept.tolist():
        values = labels[row].tolist() if dataset.is_multi_label else [_name(dataset, int(labels[row]))]
        writer.writerow([sample_id(dataset, row), *values])
    write_text(out, text.getvalue())


def _name(dataset: Dataset, label: int) -> str:
    return dataset.class_names[label] if label >= 0 else str(label)
