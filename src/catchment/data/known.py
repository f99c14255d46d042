"""What is said once of a known data set, beside its reader: for the list, the loader, the download and the docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catchment.data.dataset import Splits


@dataclass(frozen=True)
class DataInfo:
    """What there is to know of a known data set before loading it.

    Args:
        name: what to give as ``--data``.
        kind: "images", "table", "multi-label images" or "multi-label table".
        classes: how many classes it has.
        train: how many training samples.
        test: how many test samples.
        noise: what is known of wrong labels in it.
        licence: under which it is published.
        where: where it comes from: a page, and where one has to apply for it.
        layout: the files that are expected under the data folder, in words.
        variants: what may follow the name after a colon; the first is the default, none if it has none.
    """

    name: str
    kind: str
    classes: int
    train: int
    test: int
    noise: str
    licence: str
    where: str
    layout: str = ""
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoteFile:
    """A file that its authors let anyone download.

    Args:
        url: where it is.
        to: where it goes under the data folder: the file, or for an archive the folder it is unpacked into.
        md5: its published checksum, where there is one.
        unpack: whether it is an archive (.zip, .tar, .tar.gz, .tgz) to unpack; other compression stays as it is.
        size: in bytes, where it is published.
    """

    url: str
    to: str
    md5: str | None = None
    unpack: bool = False
    size: int | None = None


@dataclass(frozen=True)
class KnownSet:
    """A known data set: what there is to know of it, how it is read, and how it is had.

    Args:
        info: what there is to know.
        read: training and test part from a data folder and a variant ("" where the set has none).
        find: where the set is under a data folder; None if it isn't there. It looks at names only, and is quick.
        downloads: what to download; none where one has to apply.
    """

    info: DataInfo
    read: Callable[[Path, str], Splits]
    find: Callable[[Path], Path | None]
    downloads: tuple[RemoteFile, ...] = ()
