"""Unpacking of archives that nobody has vouched for: no member leaves the folder, and none fills the disk."""

from __future__ import annotations

import lzma
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Literal, NamedTuple

from rich.filesize import decimal

CHUNK = 1 << 18
# An archive may unpack to RATIO times its size, and to HARMLESS bytes in any case: labels compress very well.
RATIO, HARMLESS = 100, 1 << 30
LONGEST_HEADER = 1 << 20  # bytes of a tar's long name or pax header, which tarfile reads into memory at once
# What reading a damaged archive raises, besides an OSError without errno.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,  # a zip that is encrypted, or compressed in a way that zipfile doesn't know
    ValueError,
    LookupError,
    OverflowError,
)


class RefusedError(ValueError):
    """An archive holds what no data set should."""


class NoRoomError(Exception):
    """An archive may be good, but the disk is too full for it."""


class Unpacked(NamedTuple):
    """A file that has been unpacked: its path below the folder, its size, and how much of the archive was read."""

    path: str
    size: int
    read: int


def unpack_members(archive: Path, folder: Path, *, is_zip: bool) -> Iterator[Unpacked]:
    """Unpack a zip, or a tar however it is compressed, file by file.

    Links become copies of earlier members; a link to anything else, a device, or a name that leads out of the folder
    refuses the archive.

    Args:
        archive: the file.
        folder: where its members go.
        is_zip: whether it is a zip.

    Yields:
        Each file, once it is there.

    Raises:
        RefusedError: a member is none that an archive of data holds, or they are far too large.
        NoRoomError: they would fill the disk.
        OSError: without errno, and the errors in ``DAMAGED``: the archive is damaged.
    """
    room = _Room(archive.stat().st_size, shutil.disk_usage(folder).free)
    members: dict[str, int] = {}
    with archive.open("rb") as file:
        for entry in _zip_entries(file, room) if is_zip else _tar_entries(file, room):
            path = _unpack_entry(entry, folder, members, room)
            if path is not None:
                yield Unpacked(path, members[path], file.tell())


@dataclass(frozen=True)
class _Entry:
    """A member of an archive: a folder, a link to another member, or a file that ``open`` gives the content of."""

    name: str
    kind: Literal["folder", "link", "file"]
    open: Callable[[], IO[bytes] | None] = lambda: None
    link: str = ""


class _Room:
    """How much an archive may unpack to."""

    def __init__(self, archive_size: int, free: int) -> None:
        self.harmless, self.free, self.promised = max(HARMLESS, RATIO * archive_size), free, 0

    def take(self, size: int) -> None:
        """Count bytes that an archive promises, before any of them is written."""
        self.promised += size
        if self.promised > self.harmless:
            raise RefusedError(f"it would unpack to more than {decimal(self.harmless)}, {RATIO} times its size or more")
        if self.promised > self.free:
            raise NoRoomError(f"it unpacks to {decimal(self.promised)} or more but {decimal(self.free)} are free")


def _zip_entries(file: IO[bytes], room: _Room) -> Iterator[_Entry]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        room.take(sum(member.file_size for member in members))  # zipfile never reads more than that of a member
        for member in members:
            name, mode = member.filename.replace("\\", "/"), member.external_attr >> 16
            if name.endswith("/"):
                yield _Entry(name, "folder")
            elif stat.S_ISLNK(mode):
                with archive.open(member) as content:
                    to = content.read(4096).decode(errors="replace")
                yield _Entry(name, "link", link=_from_folder_of(name, to))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                yield _Entry(name, "file", open=partial(archive.open, member))
            else:
                raise RefusedError(f"{name!r} in it is neither a file nor a folder")


def _tar_entries(file: IO[bytes], room: _Room) -> Iterator[_Entry]:
    with tarfile.open(fileobj=file, mode="r:*", tarinfo=_StrictHeader) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # a million images would be too much to remember
            room.take(member.size + tarfile.BLOCKSIZE)  # a bomb may also be made of empty files
            name = member.name.replace("\\", "/")
            if member.isdir():
                yield _Entry(name, "folder")
            elif member.issym():
                yield _Entry(name, "link", link=_from_folder_of(name, member.linkname))
            elif member.islnk():
                yield _Entry(name, "link", link=member.linkname)
            elif member.isreg():
                yield _Entry(name, "file", open=partial(archive.extractfile, member))
            else:
                raise RefusedError(f"{name!r} in it is neither a file nor a folder")
        # gzip's checksum comes at its end, where tarfile doesn't look
        while archive.fileobj is not None and (rest := archive.fileobj.read(CHUNK)):
            room.take(len(rest))


class _StrictHeader(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        """A member from its header; a damaged one is an error, which tarfile takes for the end of the archive."""
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):
                raise tarfile.ReadError(f"a header in the middle of it: {error}") from None
            raise
        if member.size < 0 or (member.type not in tarfile.SUPPORTED_TYPES and member.size > LONGEST_HEADER):
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def _from_folder_of(name: str, link: str) -> str:
    return link if link.startswith("/") else posixpath.join(posixpath.dirname(name), link)


def _unpack_entry(entry: _Entry, folder: Path, members: dict[str, int], room: _Room) -> str | None:
    """Write one member below the folder and note its size; the path of a file, None for a folder."""
    path = path_inside(entry.name)
    try:
        if entry.kind == "folder":
            (folder / path).mkdir(parents=True, exist_ok=True)
            return None
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "link":
            source = posixpath.normpath(entry.link)
            if source not in members or source == str(path):
                raise RefusedError(f"{entry.name!r} in it is a link to {entry.link!r}, which is no file before it")
            room.take(members[source])
            shutil.copyfile(folder / source, folder / path)
        elif (content := entry.open()) is not None:
            with content, (folder / path).open("wb") as file:
                shutil.copyfileobj(content, file, CHUNK)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise RefusedError(f"{entry.name!r} in it is both a file and a folder") from None
    members[str(path)] = (folder / path).stat().st_size
    return str(path)


def path_inside(name: str) -> PurePosixPath:
    """A relative path that stays below the folder it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name:
        raise RefusedError(f"{name!r} in it would be written outside the folder")
    return path
