"""Reading the pickles and arrays that data sets are published as, without running what a pickle could run.

A pickle names functions and calls them. The published files need four names, and nothing but numbers in arrays; here
these names stand for functions of our own, which build such arrays and nothing else, and any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
_MOST_BYTES = 2**30  # of a pickle in an archive: the largest published one has 2.4 MB


class _RefusedError(Exception):
    """What a pickle asks for that no published one does."""


class _ArrayType:
    """Stands for ``numpy.ndarray``, which published pickles name but never call."""

    __slots__ = ()


class _Function:
    """A function as a pickle gets it: made anew for each, so that none can change it for the next."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _DType:
    """Stands for a ``numpy.dtype``: of numbers only, so that no array holds objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        code = _text(code)
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise _RefusedError(f"arrays of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _RefusedError("arrays of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an array until its numbers are known."""

    __slots__ = ("values",)

    values: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, numbers = state
        if not isinstance(kind, _DType) or not isinstance(numbers, bytes):
            raise _RefusedError("arrays of objects")
        # Compared before anything is made of that shape: a header may promise more than there is.
        if math.prod(shape) * kind.dtype.itemsize != len(numbers):
            raise _RefusedError(f"an array of shape {shape} with {len(numbers)} bytes")
        flat = np.frombuffer(numbers, dtype=kind.dtype)
        self.values = flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if not isinstance(kind, _ArrayType):
        raise _RefusedError("arrays of another kind")
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    # How Python 3 writes bytes where the format has none; other encodings would be looked up among modules.
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"text in {encoding!r}")
    return text.encode("latin1")


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # as NumPy 2 writes it
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _ArrayType()
        if (module, name) not in _FUNCTIONS:
            raise _RefusedError(f"{module}.{name}")
        return _Function(_FUNCTIONS[module, name])


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary that a pickle holds, with text as keys; arrays of numbers, lists, text and numbers in it.

    Text that Python 2 wrote comes as bytes.

    Raises:
        ValueError: the pickle is cut off or broken, is no dictionary, or names anything but arrays of numbers; nothing
            of it is run.
    """
    with path.open("rb") as file:
        return _read(file, path)


def read_torch_pickle(path: Path) -> dict[str, Any]:
    """The same of a ``.pt`` archive that holds no tensors but a pickled dictionary.

    Raises:
        ValueError: the archive is broken or has no pickle in it, or as in :func:`read_pickle`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
            if len(members) != 1:
                raise ValueError(f"{path}: {len(members)} members are called data.pkl, not one: download it again")
            if members[0].file_size > _MOST_BYTES:
                raise ValueError(f"{path}: its data.pkl claims {members[0].file_size} bytes: download it again")
            return _read(io.BytesIO(archive.read(members[0])), path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path}: this is not a whole .pt archive ({_first_line(error)}): download it again"
        ) from error


def map_array(path: Path, remedy: str) -> NDArray[Any]:
    """The array in an ``.npy`` file, left on disk: only what is used of it is read.

    Args:
        path: of the file.
        remedy: what to do where the file is missing or broken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, holds objects, or is smaller than its header says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: {remedy}")
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise ValueError(
            f"{path}: this is not a whole .npy file of numbers ({_first_line(error)}): {remedy}"
        ) from error
    return array


def labels_in(content: dict[str, Any], key: str, classes: int, path: Path, remedy: str) -> NDArray[np.int64]:
    """The class indices ``(N,)`` under a key of a pickled dictionary: an array, or a list of whole numbers.

    Raises:
        ValueError: there are none, or one is no class.
    """
    if key not in content:
        raise ValueError(f"{path}: there is no {key!r} in it, only {', '.join(content) or 'nothing'}: {remedy}")
    given = content[key]
    # Whatever else a list holds would make NumPy guess.
    if isinstance(given, list) and not all(type(label) is int for label in given):
        given = None
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {key!r} is no list of whole numbers: {remedy}")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        first = outside[0]
        raise ValueError(f"{path}: {key}[{first}] is {labels[first]}, none of {classes} classes: {remedy}")
    return labels.astype(np.int64)


def _read(file: BinaryIO, path: Path) -> dict[str, Any]:
    try:
        content = _Unpickler(file, encoding="bytes").load()
    except _RefusedError as error:
        raise ValueError(
            f"{path}: this pickle asks for {_first_line(error)}, which no published one does: "
            "nothing of it was run; get the file from its authors"
        ) from error
    # What a broken pickle makes the unpickler stumble over: EOFError, IndexError, TypeError, MemoryError, ...
    except Exception as error:
        raise ValueError(
            f"{path}: this pickle is broken or cut off ({_first_line(error)}): download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: this pickle holds no dictionary: download it again")
    return {str(_text(key)): _plain(value) for key, value in content.items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    return getattr(value, "values", np.empty(0))


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _first_line(error: Exception) -> str:
    # A hostile file decides what is in it.
    return str(error).split("\n")[0][:100] or type(error).__name__
