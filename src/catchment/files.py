"""Files that are whole or absent: temporary names, renames, locked appends."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def atomic_write(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it to ``path``.

    Whatever goes wrong, ``path`` holds its old content or all of the new one, and no temporary file stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""

    def write(file: IO[bytes]) -> None:
        file.write(data)

    atomic_write(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV under a header of all their keys, in the order in which these first occur; empty for no rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    if rows:
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented; NaN and infinities become null."""
    write_text(path, json.dumps(finite_or_none(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a broken one is a ValueError that names it."""
    return _parse_json(path.read_bytes(), str(path))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line under a lock; a torn last line, left by a killed writer, is cut off first."""
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _cut_torn_line(file)
        file.write((json.dumps(finite_or_none(row), allow_nan=False) + "\n").encode())


def repair_jsonl(path: Path) -> bool:
    """Cut off a torn last line, left by a killed writer; says whether there was one."""
    if not path.exists():
        return False
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return _cut_torn_line(file)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none if it doesn't exist, and without a torn last line.

    Any other broken line is a ValueError that names file and line.
    """
    if not path.exists():
        return []
    whole_lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse_json(line, f"line {number} of {path}") for number, line in enumerate(whole_lines, start=1)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file atomically."""
    write_text(path, "".join(json.dumps(finite_or_none(row), allow_nan=False) + "\n" for row in rows))


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for one process; the lock goes with the process, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is working in {folder}: wait for it, or choose another --out") from None
        yield


def finite_or_none(value: Any) -> Any:
    """The same JSON-like value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite_or_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(entry) for entry in value]
    return value


def _parse_json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}): restore it or start anew") from None


def _cut_torn_line(file: IO[bytes]) -> bool:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return False
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return False
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return True
