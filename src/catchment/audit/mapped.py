"""Arrays that are too large for memory, read from their file a few rows at a time."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: 26 bytes, then the lengths of its name and extra field


@dataclass(frozen=True)
class MappedArray:
    """An array ``(N, ...)`` in a file. Each slice of rows is mapped on its own, so only the rows in use take memory.

    Args:
        path: the file.
        offset: where the array begins in it, in bytes.
        shape: of the array.
        dtype: of its entries.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Rows: a slice gives a map of them, which may be written to without changing the file; else a copy."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1 and stop > start:
                size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
                shape = (stop - start, *self.shape[1:])
                return np.memmap(self.path, self.dtype, mode="c", offset=self.offset + start * size, shape=shape)
        whole = np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)
        return np.array(whole[rows])


def row_blocks(array: Any, step: int) -> Iterator[NDArray[Any]]:
    """The rows of an array, ``step`` at a time; of a mapped one, a block is only good until the next is asked for.

    Reading into one piece of memory again and again takes half the time of mapping each block anew.
    """
    if not isinstance(array, MappedArray):
        for start in range(0, len(array), step):
            yield np.asarray(array[start : start + step])
        return
    buffer = np.empty((min(step, len(array)), *array.shape[1:]), dtype=array.dtype)
    with array.path.open("rb", buffering=0) as file:
        file.seek(array.offset)
        for start in range(0, len(array), step):
            block = buffer[: len(array) - start]
            unread = block.data.cast("B")
            while unread.nbytes:
                count = file.readinto(unread)
                if not count:
                    raise ValueError(f"{array.path} has become shorter while it was read: write it again")
                unread = unread[count:]
            yield block


def read_array(path: Path, name: str | None = None) -> NDArray[Any] | MappedArray:
    """The array of an ``.npy`` file, or the one called ``name`` of an ``.npz`` file, left on disk where that can be.

    It can be unless an ``.npz`` file is compressed, or the array is stored column by column.

    Raises:
        ValueError: the file is broken, or the array holds Python objects.
        KeyError: there is no such array.
    """
    try:
        if name is None:
            return _map_npy(path, 0) or np.load(path, allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
        if member.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(member.header_offset)
                lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            mapped = _map_npy(path, member.header_offset + _LOCAL_HEADER.size + sum(lengths))
            if mapped is not None:
                return mapped
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except KeyError:
        raise
    except (ValueError, OSError, EOFError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path}: {name or 'the array'} holds Python objects: save numbers") from None
        raise ValueError(f"{path}: this can't be read ({error}): write it again with numpy.savez") from None


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an ``.npz`` file; none of an ``.npy`` file."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _map_npy(path: Path, start: int) -> MappedArray | None:
    """An array in ``.npy`` format that begins at ``start``; None if it can't be mapped."""
    with path.open("rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_by_column, dtype = read_header(file)
        offset = file.tell()
    if column_by_column or dtype.hasobject or 0 in shape or not shape:
        return None
    if path.stat().st_size < offset + dtype.itemsize * int(np.prod(shape)):
        raise ValueError("it ends too early")
    return MappedArray(path, offset, shape, dtype)
