"""Downloads of known data sets: resumed where they broke off, checked, unpacked safely, whole or absent."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn
from rich.text import Text

from catchment.data.known import KnownSet, RemoteFile
from catchment.data.unpack import CHUNK, DAMAGED, NoRoomError, RefusedError, path_inside, unpack_members
from catchment.files import folder_lock, read_json, write_json

TIMEOUT = 30.0  # seconds without a byte after which a connection counts as broken
BACK_OFF = 1.0  # seconds before the first retry, doubled for each further one
LONGEST_WAIT = 300.0  # seconds; a server that asks for more (Retry-After) is left for another time
GOOD_WAY = 1 << 20  # bytes: a connection that brought as many more was not in vain, and retries count anew
RETRIED = (408, 425, 429)
MEMORY = ".fetch"  # the folder under the data folder where fetch remembers what it did, and locks
LINE_EVERY = 5.0  # off a terminal, seconds between two lines of one step

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or choose another --data-dir; downloads so far are kept",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another --data-dir; downloads so far are kept",
    errno.EROFS: "the file system is read-only: choose another --data-dir",
    errno.EACCES: "permission denied: choose another --data-dir, or change its permissions",
    errno.EPERM: "permission denied: choose another --data-dir, or change its permissions",
    errno.ENOTDIR: "there is a file where a folder is needed: move it away, or choose another --data-dir",
    errno.EEXIST: "there is a file where a folder is needed: move it away, or choose another --data-dir",
    errno.EISDIR: "there is a folder where a file is needed: move it away, or choose another --data-dir",
}


@dataclass(frozen=True)
class FetchStep:
    """One moment of a fetch, as ``on_progress`` gets it.

    Args:
        file: the name of the file.
        kind: "download", "check" and "unpack" come many times each, with growing ``done``; "retry" says in ``note``
            what went wrong and how long it waits; "there" and "fetched" end a file.
        done: bytes so far; of the archive where it is unpacked.
        total: bytes in all, None where the server doesn't say.
        note: in words, for "retry", and for "there" where it couldn't be checked.
    """

    file: str
    kind: Literal["download", "check", "unpack", "retry", "there", "fetched"]
    done: int = 0
    total: int | None = None
    note: str = ""


OnProgress = Callable[[FetchStep], None]


def fetch(
    known: KnownSet, data_dir: Path, *, on_progress: OnProgress | None = None, retries: int = 5, force: bool = False
) -> list[Path]:
    """Downloads, checks and unpacks the files of a known data set that aren't there yet.

    A download that breaks off is resumed where the server can, also by a later call: it stays as ``NAME.part`` until
    then. Archives are unpacked beside their place, then moved, and not kept.

    Args:
        known: the data set.
        data_dir: where known data sets lie; made if need be.
        on_progress: called with each :class:`FetchStep`; None shows a bar on a terminal and lines elsewhere, on stderr.
        retries: how often in a row a connection may fail, without 1 MiB more having come, before it is given up.
        force: download also what is there already; it is replaced once the new file is whole and checked.

    Returns:
        Where each file, or for an archive the folder it is unpacked into, now is.

    Raises:
        ValueError: the set has no direct download, the network or the server fails, a checksum or size is wrong, an
            archive is damaged or hostile, the disk is full or can't be written, or another process fetches the same.
    """
    name, where, layout = known.info.name, known.info.where, known.info.layout
    if not known.downloads:
        if (found := known.find(data_dir)) is not None:
            raise ValueError(f"{name} has no direct download, and needs none: it is there already, in {found}")
        raise ValueError(
            f"{name} has no direct download: get it from {where}; expected under {data_dir.absolute()}: {layout}"
        )
    with ExitStack() as stack:
        stack.enter_context(_disk_errors_in_words(data_dir))
        tell = on_progress or stack.enter_context(FetchProgress())
        return [_FileFetch(remote, data_dir, where, retries, tell).run(force=force) for remote in known.downloads]


def describe_fetch(known: KnownSet, data_dir: Path) -> str:
    """One line on what :func:`fetch` would download, from where to where, and under which licence."""
    count = len(known.downloads)
    if not count:
        return f"{known.info.name}: no direct download; get it from {known.info.where}"
    sizes = [remote.size for remote in known.downloads]
    size = f" ({decimal(sum(size for size in sizes if size is not None))})" if None not in sizes else ""
    hosts = ", ".join(sorted({urlsplit(remote.url).netloc for remote in known.downloads}))
    return (
        f"{known.info.name}: {count} file{'s' if count > 1 else ''}{size} from {hosts} to {data_dir.absolute()}; "
        f"licence: {known.info.licence}"
    )


class FetchProgress:
    """Shows the steps of a fetch on stderr: bars on a terminal, elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bars: Progress | None = None
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._last: tuple[str, float, int] = ("", 0.0, 0)  # step, time and bytes of the last line
        if sys.stderr.isatty():
            # names may hold [brackets], which rich would read as markup
            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=self._console)

    def __enter__(self) -> FetchProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, step: FetchStep) -> None:
        """Show one step."""
        if step.kind in ("retry", "there", "fetched"):
            self._print(f"{step.file}: {step.note or {'there': 'already there'}.get(step.kind, step.kind)}")
        elif self._bars is not None:
            self._show_bar(self._bars, step)
        else:
            self._show_line(step)

    def _show_bar(self, bars: Progress, step: FetchStep) -> None:
        key = (step.file, step.kind)
        if key not in self._tasks:
            # what an earlier call downloaded counts for the bar, not for the speed
            text = f"{step.kind} {step.file}"
            self._tasks[key] = bars.add_task(text, total=step.total, completed=step.done)
        bars.update(self._tasks[key], completed=step.done, total=step.total)

    def _show_line(self, step: FetchStep) -> None:
        now, key = time.monotonic(), f"{step.kind} {step.file}"
        last_key, last_time, last_done = self._last
        if key != last_key:
            self._last = (key, now, step.done)
        elif now - last_time >= LINE_EVERY:
            self._last = (key, now, step.done)
            of_total = f" of {decimal(step.total)}" if step.total is not None else ""
            speed = max(0, step.done - last_done) / (now - last_time)
            self._print(f"{key}: {decimal(step.done)}{of_total}, {decimal(int(speed))}/s")

    def _print(self, line: str) -> None:
        self._console.print(Text(line))


class _Interrupted(Exception):
    """A connection failed in a way that may be over on the next try."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class _BadArchive(ValueError):
    """An archive that is of no use, and not worth keeping."""


class _FileFetch:
    """The way of one remote file to its place."""

    def __init__(self, remote: RemoteFile, data_dir: Path, where: str, retries: int, tell: OnProgress) -> None:
        self.remote, self.where, self.retries, self.tell = remote, where, retries, tell
        if urlsplit(remote.url).scheme not in ("http", "https", "file"):
            raise ValueError(f"{remote.url}: only http, https and file addresses are fetched: get it from {where}")
        self.target = data_dir / path_inside(remote.to)
        # An archive is downloaded into the data folder, where one that was brought by hand is also looked for.
        place = path_inside(_url_name(remote.url) if remote.unpack else remote.to)
        self.place, self.name = data_dir / place, place.name
        self.part = self.place.with_name(f"{self.name}.part")
        self.memory = data_dir / MEMORY / str(place).replace("/", "+")
        self.part_record, self.fetched_record = self.memory / "part.json", self.memory / "fetched.json"

    def run(self, *, force: bool) -> Path:
        """Bring the file, or what is in it, to its target; returns that."""
        if not force and self._is_there():
            return self.target
        self.memory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(folder_lock(self.memory))
            except ValueError:
                raise ValueError(f"another process is fetching {self.place}: wait for it to end") from None
            if not force and self._is_there():  # it came while this process was looking
                return self.target
            self._bring(force)
        self._say("fetched")
        return self.target

    def _bring(self, force: bool) -> None:
        # a size alone doesn't make somebody's images.zip the right one
        if self.remote.unpack and self.remote.md5 is not None and not force and self._is_right(self.place):
            self._unpack(self.place)
            return
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._download_and_check()
        if self.remote.unpack:
            try:
                self._unpack(self.part)
            except _BadArchive:
                self._discard_part()
                raise
            self._discard_part()
        else:
            size = self.part.stat().st_size
            self.part.replace(self.place)
            self.part_record.unlink(missing_ok=True)
            self._remember({"": size})

    # What is there

    def _is_there(self) -> bool:
        """Whether nothing is left to do; if so, says so."""
        if not self.remote.unpack and self._can_be_checked():
            there, note = self._is_right(self.place), ""
        elif (record := self._record(self.fetched_record).get(self.remote.url)) is not None:
            there, note = self._is_as_fetched(record), ""
        else:
            there = not self.remote.unpack and self.place.is_file()
            note = "already there, but nothing is published to check it by: --force downloads it"
        if there:
            self._say("there", note=note)
        return there

    def _is_as_fetched(self, record: dict[str, Any]) -> bool:
        return (record["to"], record["md5"]) == (self.remote.to, self.remote.md5) and all(
            _size(self.target / member) == size for member, size in record["members"].items()
        )

    def _can_be_checked(self) -> bool:
        return self.remote.md5 is not None or self.remote.size is not None

    def _is_right(self, path: Path) -> bool:
        """Whether it is the published file, as far as size and checksum tell; False where nothing was published."""
        return path.is_file() and self._can_be_checked() and self._what_is_wrong(path) is None

    def _what_is_wrong(self, path: Path) -> str | None:
        size = path.stat().st_size
        if self.remote.size is not None and size != self.remote.size:
            return f"wrong size: {size} bytes, published are {self.remote.size}"
        if self.remote.md5 is not None and (md5 := self._md5(path)) != self.remote.md5:
            return f"wrong checksum: md5 {md5}, published is {self.remote.md5}"
        return None

    def _md5(self, path: Path) -> str:
        digest, done, total = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                self._say("check", done, total)
        return digest.hexdigest()

    # Download

    def _download_and_check(self) -> None:
        for may_start_over in (True, False):
            resumed = self._download()
            wrong = self._what_is_wrong(self.part)
            if wrong is None:
                return
            self._discard_part()
            if resumed and may_start_over:  # two states of the file may have been put together
                self._say("retry", note=f"{wrong}: starting over")
                continue
            raise ValueError(
                f"{self.remote.url}: {wrong}: what came was deleted; try again, and where that doesn't help the file "
                f"has changed: see {self.where}"
            )

    def _download(self) -> bool:
        """Download until the partial file is whole; says whether more than one connection brought it."""
        failures, furthest, resumed = 0, _size(self.part) or 0, False
        while True:
            try:
                return self._transfer() or resumed
            except _Interrupted as interruption:
                size = _size(self.part) or 0
                resumed = True
                if size >= furthest + GOOD_WAY:
                    failures, furthest = 0, size
                failures += 1
                if failures > self.retries or interruption.wait > LONGEST_WAIT:
                    kept = f" ({decimal(size)} are kept in {self.part})" if size else ""
                    raise ValueError(
                        f"{self.remote.url}: {interruption}, given up at try {failures}{kept}: check the network and "
                        f"run the same command again later, or get the file from {self.where}"
                    ) from None
                wait = max(BACK_OFF * 2 ** (failures - 1), interruption.wait)
                self._say("retry", note=f"{interruption}: trying again in {wait:.0f} s ({failures} of {self.retries})")
                _wait(wait)

    def _transfer(self) -> bool:
        """Download what is missing over one connection; says whether it went on with an earlier part."""
        record, start = self._record(self.part_record), _size(self.part) or 0
        # Without a validator only the checksum tells whether the file has changed in the meantime.
        if record.get("url") != self.remote.url or not (record.get("validator") or self.remote.md5):
            start = 0
        total = self.remote.size if self.remote.size is not None else record.get("total")
        if start and start == total:
            return True
        headers = {"User-Agent": "catchment", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if record.get("validator"):
                headers["If-Range"] = record["validator"]
        try:
            response = _open(self.remote.url, headers)
        except HTTPError as error:
            with error:
                if error.code == 416 and start:
                    return self._transfer_after_416(error, start)
                raise self._http_failure(error) from None
        with response:
            if start and response.status == 206:
                total = _range_total(response.headers, start)
                if total is None or _has_changed(record, response.headers, total):
                    return self._transfer_anew()
            elif response.status in (200, None):  # None: a file address
                start, length = 0, response.headers.get("Content-Length", "")
                total = int(length) if length.isdigit() else None
            else:
                raise ValueError(
                    f"{self.remote.url}: the server's answer {response.status} makes no sense here: get it from "
                    f"{self.where}"
                )
            self._check_total(total, start)
            self._receive(response, start, total)
        return start > 0

    def _transfer_after_416(self, error: HTTPError, start: int) -> bool:
        """The server has nothing from there on: either all is there, or the file has become shorter."""
        if error.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{start}":
            return True
        return self._transfer_anew()

    def _transfer_anew(self) -> bool:
        self._discard_part()
        return self._transfer()

    def _check_total(self, total: int | None, start: int) -> None:
        published = self.remote.size
        if None not in (total, published) and total != published:
            raise ValueError(
                f"{self.remote.url}: the server offers {total} bytes, published are {published}: the file has changed, "
                f"or a proxy put a page in its place: see {self.where}"
            )
        total = total or published
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise ValueError(
                f"{self.place}: {decimal(total - start)} are to be downloaded but {decimal(free)} are free: free some "
                "space, or choose another --data-dir"
            )

    def _receive(self, response: Any, start: int, total: int | None) -> None:
        with self.part.open("ab" if start else "wb") as file:
            if not start:
                # after the old part was emptied, before new bytes come: never the record of one with bytes of another
                record = {"url": self.remote.url, "validator": _validator(response.headers), "total": total}
                write_json(self.part_record, record)
            done, end = start, total if total is not None else self.remote.size
            self._say("download", done, end)
            while end is None or done < end:
                chunk = _read(response, CHUNK if end is None else min(CHUNK, end - done))
                if not chunk:
                    break
                file.write(chunk)
                done += len(chunk)
                self._say("download", done, end)
            file.flush()
            os.fsync(file.fileno())
        if end is not None and done < end:
            raise _Interrupted(f"the connection broke off after {done} of {end} bytes")

    def _http_failure(self, error: HTTPError) -> Exception:
        status = f"{error.code} {error.reason}".strip()
        if error.code >= 500 or error.code in RETRIED:
            wait = _retry_after(error.headers.get("Retry-After"))
            asks = f" and asks to wait {wait:.0f} s" if wait else ""
            return _Interrupted(f"the server answers {status}{asks}", wait)
        if 300 <= error.code < 400:
            to = error.headers.get("Location", "nowhere")
            return ValueError(f"{self.remote.url}: a redirection to {to} isn't followed: get it from {self.where}")
        what = "the file isn't there any more" if error.code in (404, 410) else "the server refuses"
        return ValueError(f"{self.remote.url}: {what} ({status}): get it from {self.where}")

    def _discard_part(self) -> None:
        self.part.unlink(missing_ok=True)
        self.part_record.unlink(missing_ok=True)

    # Unpacking

    def _unpack(self, archive: Path) -> None:
        """Unpack into a hidden folder, move what is in it to the target, and remember what it was."""
        # Where the target is there already, the hidden folder is in it: it may be a link to another disk.
        home = self.target if self.target.is_dir() else self.target.parent
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".{self.name}.unpacking"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            members = self._unpack_into(temporary, archive)
            _move(temporary, self.target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._remember(members)

    def _unpack_into(self, folder: Path, archive: Path) -> dict[str, int]:
        """The members, by path, with their sizes."""
        size, members = archive.stat().st_size, dict[str, int]()
        unpacking = unpack_members(archive, folder, is_zip=self.name.lower().endswith(".zip"))
        while True:
            with self._archive_errors_in_words():
                unpacked = next(unpacking, None)
            if unpacked is None:
                return members
            members[unpacked.path] = unpacked.size
            self._say("unpack", unpacked.read, size)

    @contextmanager
    def _archive_errors_in_words(self) -> Iterator[None]:
        source = f"{self.name} from {self.remote.url}"
        try:
            yield
        except NoRoomError as shortage:
            raise ValueError(
                f"{self.place}: {shortage}: free some space, or choose another --data-dir; the download is kept"
            ) from None
        except RefusedError as refusal:
            raise _BadArchive(
                f"{source}: {refusal}: this is not what its authors published, and nothing of it was kept: get it from "
                f"{self.where}"
            ) from None
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
                raise
            what = " ".join(str(error).split()) or type(error).__name__
            raise _BadArchive(
                f"{source}: the archive is damaged ({what}), and nothing of it was kept: try again, or get it from "
                f"{self.where}"
            ) from error

    def _remember(self, members: dict[str, int]) -> None:
        """Note what is now at the target, by path below it; "" where the target is the file."""
        records = self._record(self.fetched_record)
        records[self.remote.url] = {"to": self.remote.to, "md5": self.remote.md5, "members": members}
        write_json(self.fetched_record, records)

    def _record(self, path: Path) -> dict[str, Any]:
        """What was remembered; nothing where it can't be read, as then all is done anew."""
        try:
            content = read_json(path)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _say(
        self,
        kind: Literal["download", "check", "unpack", "retry", "there", "fetched"],
        done: int = 0,
        total: int | None = None,
        note: str = "",
    ) -> None:
        self.tell(FetchStep(self.name, kind, done, total, note))


class _WebOnly(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """The request to follow a redirection with; none but http and https."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str]) -> Any:
    """The response to a GET; errors that may be over on the next try are _Interrupted."""
    try:
        return build_opener(_WebOnly).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ValueError(
                f"{url}: the server's certificate isn't valid ({cause.verify_message}): check this computer's clock "
                "and whether a proxy stands in between"
            ) from None
        if url.startswith("file:"):
            raise ValueError(f"{url}: {cause}: check that path") from None
        raise _Interrupted(_in_words(cause)) from None


def _read(response: Any, size: int) -> bytes:
    """What has come, at most ``size`` bytes; empty at the end."""
    try:
        chunk: bytes = response.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_in_words(error)) from None
    return chunk


def _in_words(error: BaseException | str) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT:g} seconds"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke off"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the connection failed ({' '.join(text.split())})"


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _validator(headers: Any) -> str | None:
    """What tells a file from a later one of that address: a strong ETag, else the date."""
    etag: str | None = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    date: str | None = headers.get("Last-Modified")
    return date


def _has_changed(record: dict[str, Any], headers: Any, total: int) -> bool:
    """Whether the file is another than the partial one; what is not said on either side tells nothing."""
    before, now = (record.get("validator"), record.get("total")), (_validator(headers), total)
    return any(None not in (old, new) and old != new for old, new in zip(before, now, strict=True))


def _range_total(headers: Any, start: int) -> int | None:
    """The size of the whole file where the answer goes on from ``start`` to its end, else None."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", "").strip())
    if not match:
        return None
    first, last, total = (int(number) for number in match.groups())
    return total if first == start and last == total - 1 else None


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait for, in a number or as a date."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _move(source: Path, target: Path) -> None:
    """Rename, or where both are folders, each thing in it; files of the same name are replaced."""
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _move(entry, target / entry.name)
    else:
        source.replace(target)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _url_name(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name


@contextmanager
def _disk_errors_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}: check that path")
        raise ValueError(f"{error.filename or folder}: {remedy}") from error
