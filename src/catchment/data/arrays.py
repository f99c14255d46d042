"""Arrays in an ``.npz`` file: ``X`` and ``y``, optionally ``y_clean`` and ``class_names``."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import IGNORE_INDEX, UNKNOWN_CLASS, Dataset
from catchment.data.input_format import InputFormat
from catchment.data.labels import encode, note_unseen, shorten, sort_names


def read_arrays(path: Path, *, like: InputFormat | None = None, need_labels: bool = True) -> Dataset:
    """Reads inputs ``X`` and labels ``y`` from an ``.npz`` file.

    ``X`` is uint8 ``(N, H, W)``, ``(N, H, W, 1)`` or ``(N, H, W, 3)`` for images, or numbers ``(N, D)`` for a table,
    which become float32. ``y`` is ``(N,)`` integers or text; of integers, -1 and -100 are no classes but keep their
    meaning. With ``class_names``, integers are positions in it. With ``like``, class names are matched to it.

    Raises:
        ValueError: an array is missing, is of Python objects, or has the wrong shape or kind of values.
    """
    arrays = _read(path, need_labels)
    inputs = _inputs(path, arrays["X"])
    own_names = _class_names(path, arrays)
    # Whole numbers can't be the names of classes that have other names, so they are positions.
    positions = like is not None and own_names is None and not any(map(_is_whole, like.class_names))
    names = like.class_names if like is not None and positions else own_names

    given = arrays.get("y", np.full(len(inputs), IGNORE_INDEX))
    values, marks = _named(path, "y", given, names, strict=not positions)
    class_names = own_names or sort_names(values[marks == 0].tolist())
    if like is not None:
        class_names = like.class_names
    clean_labels = None
    if "y_clean" in arrays:
        clean_labels = _encode(*_named(path, "y_clean", arrays["y_clean"], names, strict=not positions), class_names)
    return Dataset(
        name=path.stem,
        inputs=inputs,
        labels=_encode(values, marks, class_names),
        class_names=class_names,
        clean_labels=clean_labels,
        ids=tuple(str(row) for row in range(len(inputs))),
        notes=() if like is None else note_unseen(values[marks == 0], class_names),
    )


def _read(path: Path, need_labels: bool) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: this is not an .npz file: write one with numpy.savez(path, X=..., y=...)")
    arrays: dict[str, Any] = {}
    key = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in (("X", "y") if need_labels else ("X",)) if key not in archive.files]
            if not missing:
                for key in [key for key in ("X", "y", "y_clean", "class_names") if key in archive.files]:
                    arrays[key] = archive[key]
            found = shorten(archive.files) if archive.files else "nothing"
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path}: {key} holds Python objects, which are never unpickled: "
                "save text with numpy.array(..., dtype=str) and numbers with a number's dtype"
            ) from error
        raise ValueError(f"{path}: this .npz file is damaged: write it again with numpy.savez") from error
    for key, values in arrays.items():
        # Of a member that isn't an array, numpy hands out the bytes.
        if not isinstance(values, np.ndarray):
            raise ValueError(f"{path}: {key} is not an array: write the file again with numpy.savez")
    if missing:
        raise ValueError(f"{path}: there is no {' and no '.join(missing)} in it, only {found}: save X=... and y=...")
    return arrays


def _inputs(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    shape = values.shape
    if values.dtype.kind not in "buif":
        raise ValueError(f"{path}: X holds {values.dtype}, not numbers: encode it as numbers")
    if values.ndim not in (2, 3, 4):
        raise ValueError(f"{path}: X has shape {shape}: give a table (N, D), or images as uint8 (N, H, W, C)")
    if values.ndim > 2 and values.dtype != np.uint8:
        raise ValueError(f"{path}: X is {values.dtype} {shape}: give images as uint8 0..255 (N, H, W, C)")
    if 0 in shape:
        what = "has no rows" if shape[0] == 0 else "has no features"
        raise ValueError(f"{path}: X {what}, its shape is {shape}: give at least one")
    if values.ndim == 3:
        return values[..., None]
    if values.ndim == 4:
        if shape[-1] not in (1, 3):
            remedy = "give 1 or 3 channels, (N, H, W, C)"
            if shape[1] in (1, 3):
                remedy = "channels come last, so save X.transpose(0, 2, 3, 1)"
            elif shape[-1] == 4:
                remedy = "save X[..., :3], without the alpha channel"
            raise ValueError(f"{path}: X has shape {shape}, but images are (N, H, W, 1 or 3): {remedy}")
        return values
    with np.errstate(over="ignore"):
        table = values.astype(np.float32)
    bad = np.argwhere(~np.isfinite(table))
    if bad.size:
        row, column = bad[0]
        raise ValueError(
            f"{path}: X[{row}, {column}] (row {row}, column {column}, counted from 0) is {values[row, column]}, "
            "not a finite 32-bit number: fill it in, or remove the row or the column"
        )
    return table


def _class_names(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[str, ...] | None:
    if "class_names" not in arrays:
        return None
    values = arrays["class_names"]
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise ValueError(f"{path}: class_names is {values.dtype} {values.shape}: give one name per class, (C,)")
    names = tuple(_text(path, "class_names", values).tolist())
    if len(set(names)) < len(names):
        twice = sort_names(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: class_names has {shorten(twice)} more than once: give each class a name of its own")
    return names


def _named(
    path: Path, key: str, given: NDArray[Any], names: tuple[str, ...] | None, *, strict: bool
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Labels as class names ``(N,)``, and -1, -100 or 0 for each: no known class, left out, as named."""
    if given.ndim != 1:
        raise ValueError(f"{path}: {key} has shape {given.shape}: give one label per row, (N,)")
    marks = np.zeros(len(given), dtype=np.int64)
    if given.dtype.kind in "USb":
        values = _text(path, key, given)
        if names is not None and strict:
            unknown = np.setdiff1d(values, np.array(names, dtype=np.str_))
            if unknown.size:
                raise ValueError(f"{path}: {key} has {shorten(unknown)}, not in class_names: add it there")
        return values, marks
    if given.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {key} holds {given.dtype}: give labels as whole numbers or text, as with y.astype(int)"
        )
    codes = given.astype(np.int64)
    special = (codes == UNKNOWN_CLASS) | (codes == IGNORE_INDEX)
    bad = np.flatnonzero((codes < 0) & ~special)
    if bad.size:
        raise ValueError(
            f"{path}: {key}[{bad[0]}] is {codes[bad[0]]}: labels are 0 or more, -1 for no known class, "
            "or -100 for a row to leave out"
        )
    marks[special] = codes[special]
    values = codes.astype(np.str_)
    if names is not None:
        outside = np.flatnonzero(codes >= len(names))
        if outside.size and strict:
            raise ValueError(
                f"{path}: {key}[{outside[0]}] is {codes[outside[0]]}, but class_names has {len(names)} names: "
                "give each class a name"
            )
        inside = (codes >= 0) & (codes < len(names))
        values = values.astype(object)
        values[inside] = np.array(names, dtype=object)[codes[inside]]
        values = values.astype(np.str_)
    return values, marks


def _encode(values: NDArray[np.str_], marks: NDArray[np.int64], class_names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.where(marks < 0, marks, encode(values, class_names))


def _is_whole(name: str) -> bool:
    return name.lstrip("+-").isdigit()


def _text(path: Path, key: str, values: NDArray[Any]) -> NDArray[np.str_]:
    if values.dtype.kind != "S":
        return values.astype(np.str_)
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {key} holds bytes that are not UTF-8: save it with dtype=str") from error
