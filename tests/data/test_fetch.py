import errno
import gzip
import hashlib
import io
import shutil
import sys
import tarfile
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest
from breaking_server import breaking_server

from catchment.data import unpack
from catchment.data.fetch import FetchProgress, FetchStep, describe_fetch
from catchment.data.fetch import fetch as fetch_known
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.files import folder_lock

fetching = sys.modules["catchment.data.fetch"]  # the module, whatever the package calls `fetch`


def md5(content):
    return hashlib.md5(content).hexdigest()


CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
HALF, MD5 = 150_000, md5(CONTENT)
DATE = "Sat, 01 Jan 2000 00:00:00 GMT"


def known(*downloads, name="ponds", where="https://example.org/ponds", find=lambda folder: None):
    info = DataInfo(
        name, "images", 2, 1, 1, "none known", "CC0", where, layout="ponds/ with a.bin, unpacked from ponds.tar"
    )
    return KnownSet(info, read=None, find=find, downloads=downloads)


@pytest.fixture
def server():
    with breaking_server() as server:
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that were to be waited between tries; the tests don't."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    waited = []
    monkeypatch.setattr(fetching, "_wait", waited.append)
    return waited


def fetch(url, data_dir, *, to="ponds/a.bin", checksum=MD5, size=None, unpack=False, **options):
    options.setdefault("on_progress", lambda step: None)
    return fetch_known(known(RemoteFile(url, to, md5=checksum, size=size, unpack=unpack)), data_dir, **options)


def fails(*arguments, **options):
    """The message of a fetch that fails: always one line."""
    with pytest.raises(ValueError, match=r"^\S") as caught:
        fetch(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def on_disk(folder):
    """The content of all files below, by path, without what fetch remembers."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".fetch" not in path.parts
    }


# Whole files


def test_a_file_comes_to_its_place(server, tmp_path, waits):
    url = server.serve("/a.bin", CONTENT)
    steps = []
    assert fetch(url, tmp_path / "new", size=len(CONTENT), on_progress=steps.append) == [tmp_path / "new/ponds/a.bin"]
    assert on_disk(tmp_path / "new") == {"ponds/a.bin": CONTENT}
    assert server.ranges() == [None]
    assert server.requests[0][1]["accept-encoding"] == "identity"
    assert waits == []
    downloaded = [step.done for step in steps if step.kind == "download"]
    assert downloaded == sorted(downloaded)
    assert (downloaded[0], downloaded[-1]) == (0, len(CONTENT))
    assert {(step.file, step.total) for step in steps if step.kind != "fetched"} == {("a.bin", len(CONTENT))}
    assert steps[-1] == FetchStep("a.bin", "fetched")


def test_what_is_there_with_the_right_checksum_is_not_downloaded(server, tmp_path):
    url = server.serve("/a.bin", CONTENT)
    (tmp_path / "ponds").mkdir()
    (tmp_path / "ponds/a.bin").write_bytes(CONTENT)
    steps = []
    fetch(url, tmp_path, on_progress=steps.append)
    assert server.requests == []
    assert steps[-1] == FetchStep("a.bin", "there")
    fetch(url, tmp_path, force=True)
    assert server.ranges() == [None]


@pytest.mark.parametrize(("checksum", "size"), [(md5(CONTENT), None), (None, len(CONTENT))])
def test_a_damaged_file_is_replaced(server, tmp_path, checksum, size):
    url = server.serve("/a.bin", CONTENT)
    (tmp_path / "ponds").mkdir()
    (tmp_path / "ponds/a.bin").write_bytes(CONTENT[:-1])
    fetch(url, tmp_path, checksum=checksum, size=size)
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_file_of_which_nothing_is_published_is_compared_with_what_was_fetched(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, claim=-1)
    fetch(url, tmp_path, checksum=None)
    fetch(url, tmp_path, checksum=None)
    assert server.ranges() == [None]
    (tmp_path / "ponds/a.bin").write_bytes(CONTENT[:-1])
    fetch(url, tmp_path, checksum=None)
    assert server.ranges() == [None] * 2
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_file_of_which_nothing_is_known_is_taken_as_it_is(server, tmp_path):
    url = server.serve("/a.bin", OTHER)
    (tmp_path / "ponds").mkdir()
    (tmp_path / "ponds/a.bin").write_bytes(CONTENT)
    steps = []
    fetch(url, tmp_path, checksum=None, on_progress=steps.append)
    assert server.requests == []
    note = "already there, but nothing is published to check it by: --force downloads it"
    assert steps == [FetchStep("a.bin", "there", note=note)]
    fetch(url, tmp_path, checksum=None, force=True)
    assert on_disk(tmp_path) == {"ponds/a.bin": OTHER}


def test_an_empty_file(server, tmp_path):
    fetch(server.serve("/a.bin", b""), tmp_path, checksum=md5(b""), size=0)
    assert on_disk(tmp_path) == {"ponds/a.bin": b""}


def test_a_local_address(tmp_path):
    (tmp_path / "mirror.bin").write_bytes(CONTENT)
    fetch((tmp_path / "mirror.bin").as_uri(), tmp_path / "data")
    assert on_disk(tmp_path / "data") == {"ponds/a.bin": CONTENT}
    assert "no-such.bin" in fails((tmp_path / "no-such.bin").as_uri(), tmp_path / "data2")


def test_chunks_without_a_length(server, tmp_path):
    fetch(server.serve("/a.bin", CONTENT, chunked=True), tmp_path)
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


# Connections that break


@pytest.mark.parametrize("checks", [{"etag": '"one"'}, {"last_modified": DATE}, {"etag": 'W/"weak"'}])
@pytest.mark.parametrize(("cuts", "ranges"), [((7, None), [7]), ((HALF, 10, None), [HALF, HALF + 10])])
def test_a_broken_download_goes_on_where_it_broke_off(server, tmp_path, waits, checks, cuts, ranges):
    url = server.serve("/a.bin", CONTENT, break_after=cuts, **checks)
    fetch(url, tmp_path)
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}
    assert server.ranges() == [None, *(f"bytes={start}-" for start in ranges)]
    strong = None if "W/" in checks.get("etag", "") else next(iter(checks.values()))
    assert [headers.get("if-range") for _, headers in server.requests[1:]] == [strong] * len(ranges)
    assert waits == [1.0, 2.0][: len(ranges)]


def test_a_broken_chunked_download_goes_on(server, tmp_path):
    fetch(server.serve("/a.bin", CONTENT, chunked=True, etag='"one"', break_after=(HALF, None)), tmp_path)
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_a_reset_connection_is_a_broken_one(server, tmp_path):
    fetch(server.serve("/a.bin", CONTENT, etag='"one"', break_after=(HALF, None), reset=True), tmp_path)
    assert len(server.requests) == 2
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_download_that_always_breaks_is_given_up_and_kept(server, tmp_path, waits):
    url = server.serve("/a.bin", CONTENT, etag='"one"', break_after=(10,))
    message = fails(url, tmp_path, retries=2)
    assert server.ranges() == [None, "bytes=10-", "bytes=20-"]
    assert waits == [1.0, 2.0]
    assert on_disk(tmp_path) == {"ponds/a.bin.part": CONTENT[:30]}
    part = tmp_path / "ponds/a.bin.part"
    assert f"broke off after 30 of 300000 bytes, given up at try 3 (30 bytes are kept in {part})" in message
    assert "run the same command again later, or get the file from https://example.org/ponds" in message

    server.paths["/a.bin"].break_after = (None,)
    steps = []
    fetch(url, tmp_path, on_progress=steps.append)
    assert server.ranges()[3:] == ["bytes=30-"]
    assert steps[0] == FetchStep("a.bin", "download", 30, len(CONTENT))
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_retries_count_anew_where_a_connection_brought_much(server, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(fetching, "GOOD_WAY", 50_000)
    url = server.serve("/a.bin", CONTENT, etag='"one"', break_after=(60_000,))
    fetch(url, tmp_path, retries=1)
    assert waits == [1.0] * 4
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_server_that_ignores_ranges_sends_all_anew(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, ranges="ignore", etag='"one"', break_after=(HALF, HALF + 5, None))
    fetch(url, tmp_path)
    assert server.ranges() == [None, f"bytes={HALF}-", f"bytes={HALF + 5}-"]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


@pytest.mark.parametrize("ranges", ["refuse", "shifted"])
def test_a_server_that_answers_ranges_wrongly_is_asked_for_all(server, tmp_path, ranges):
    url = server.serve("/a.bin", CONTENT, ranges=ranges, etag='"one"', break_after=(HALF, None))
    fetch(url, tmp_path)
    assert server.ranges() == [None, f"bytes={HALF}-", None]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


@pytest.mark.parametrize(("ranges", "requests"), [("honour", 2), ("blind", 3)])
@pytest.mark.parametrize("checksum", [md5(OTHER), None])
def test_a_file_that_changed_in_between_is_downloaded_anew(server, tmp_path, ranges, requests, checksum):
    new = ((OTHER, '"two"'),)
    url = server.serve("/a.bin", CONTENT, etag='"one"', ranges=ranges, break_after=(HALF, None), then=new)
    fetch(url, tmp_path, checksum=checksum)
    assert on_disk(tmp_path) == {"ponds/a.bin": OTHER}
    assert server.ranges() == [None, f"bytes={HALF}-", None][:requests]


def test_a_file_that_changed_its_length_unnoticed_is_downloaded_anew(server, tmp_path):
    new = ((OTHER[:-9], None),)
    url = server.serve("/a.bin", CONTENT, last_modified=DATE, ranges="blind", break_after=(HALF, None), then=new)
    fetch(url, tmp_path, checksum=None)
    assert on_disk(tmp_path) == {"ponds/a.bin": OTHER[:-9]}
    assert server.ranges() == [None, f"bytes={HALF}-", None]


def test_a_change_that_only_the_checksum_shows_is_downloaded_anew_once(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, ranges="blind", break_after=(HALF, None), then=((OTHER, None),))
    steps = []
    fetch(url, tmp_path, checksum=md5(OTHER), on_progress=steps.append)
    assert on_disk(tmp_path) == {"ponds/a.bin": OTHER}
    assert server.ranges() == [None, f"bytes={HALF}-", None]
    assert steps[-1].kind == "fetched"
    assert any(step.kind == "retry" and step.note.endswith("starting over") for step in steps)


def test_without_anything_to_tell_a_change_by_a_download_starts_over(server, tmp_path):
    fetch(server.serve("/a.bin", CONTENT, break_after=(HALF, None)), tmp_path, checksum=None)
    assert server.ranges() == [None, None]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    old = server.serve("/old/a.bin", OTHER, etag='"one"', break_after=(HALF,))
    fails(old, tmp_path, checksum=md5(OTHER), retries=0)
    fetch(server.serve("/new/a.bin", CONTENT, etag='"one"'), tmp_path)
    assert server.ranges() == [None, None]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_whole_part_is_only_checked(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, etag='"one"')

    def stop_at_the_check(step):
        if step.kind == "check":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url, tmp_path, on_progress=stop_at_the_check)
    assert on_disk(tmp_path) == {"ponds/a.bin.part": CONTENT}
    fetch(url, tmp_path)
    assert server.ranges() == [None]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_control_c_keeps_what_came(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, etag='"one"', stall=30)

    def stop_halfway(step):
        if step.done == HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url, tmp_path, on_progress=stop_halfway)
    assert on_disk(tmp_path) == {"ponds/a.bin.part": CONTENT[:HALF]}
    fetch(url, tmp_path)
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_server_that_stalls_is_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    url = server.serve("/a.bin", CONTENT, etag='"one"', stall=30)
    steps = []
    fetch(url, tmp_path, on_progress=steps.append)
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}
    notes = [step.note for step in steps if step.kind == "retry"]
    assert notes == ["nothing came for 0.3 seconds: trying again in 1 s (1 of 5)"]


def test_nobody_listens(tmp_path, waits):
    with breaking_server() as server:
        url = server.url + "/a.bin"
    message = fails(url, tmp_path, retries=1)
    assert "the connection failed (Connection refused), given up at try 2: check the network" in message
    assert waits == [1.0]
    assert on_disk(tmp_path) == {}


# Servers that lie


def test_a_length_stated_too_long(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, claim=len(CONTENT) + 100)
    fetch(url, tmp_path)
    # the server says itself that there is nothing more
    assert server.ranges() == [None, f"bytes={len(CONTENT)}-"]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_length_stated_too_long_by_a_server_without_ranges(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, claim=len(CONTENT) + 100, ranges="ignore")
    message = fails(url, tmp_path, retries=1)
    assert "broke off after 300000 of 300100 bytes, given up at try 2" in message
    assert on_disk(tmp_path) == {"ponds/a.bin.part": CONTENT}


def test_a_length_stated_too_short(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, claim=HALF)
    message = fails(url, tmp_path)
    assert f"wrong checksum: md5 {md5(CONTENT[:HALF])}, published is {md5(CONTENT)}: what came was deleted" in message
    assert "the file has changed: see https://example.org/ponds" in message
    assert len(server.requests) == 1
    assert on_disk(tmp_path) == {}


def test_another_size_than_the_published_one_is_not_downloaded(server, tmp_path):
    url = server.serve("/a.bin", CONTENT)
    message = fails(url, tmp_path, checksum=None, size=1000)
    assert "the server offers 300000 bytes, published are 1000: the file has changed, or a proxy" in message
    assert on_disk(tmp_path) == {}


def test_more_than_the_published_size_is_not_downloaded(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, claim=-1)
    message = fails(url, tmp_path, size=1000)
    assert f"wrong checksum: md5 {md5(CONTENT[:1000])}" in message
    assert on_disk(tmp_path) == {}


def test_less_than_the_published_size_is_a_broken_connection(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, claim=-1, break_after=(HALF, None))
    fetch(url, tmp_path, size=len(CONTENT))
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_wrong_file_is_deleted_and_both_checksums_said(server, tmp_path):
    url = server.serve("/a.bin", OTHER)
    (tmp_path / "ponds").mkdir()
    (tmp_path / "ponds/a.bin").write_bytes(b"old")
    message = fails(url, tmp_path)
    assert f"{url}: wrong checksum: md5 {md5(OTHER)}, published is {md5(CONTENT)}: what came was deleted" in message
    assert len(server.requests) == 1
    assert on_disk(tmp_path) == {"ponds/a.bin": b"old"}


def test_a_wrong_file_from_a_breaking_server_ends_too(server, tmp_path):
    url = server.serve("/a.bin", OTHER, etag='"one"', break_after=(HALF, None, HALF, None))
    assert "wrong checksum" in fails(url, tmp_path)
    assert server.ranges() == [None, f"bytes={HALF}-", None, f"bytes={HALF}-"]
    assert on_disk(tmp_path) == {}


# Statuses


def test_a_missing_file_is_not_asked_for_again(server, tmp_path, waits):
    message = fails(server.url + "/a.bin", tmp_path)
    assert message == (
        f"{server.url}/a.bin: the file isn't there any more (404 Not Found): get it from https://example.org/ponds"
    )
    assert len(server.requests) == 1
    assert waits == []
    assert on_disk(tmp_path) == {}


def test_a_refusal_is_not_asked_for_again(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, statuses=(403,))
    assert "the server refuses (403 Forbidden): get it from" in fails(url, tmp_path)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path, waits):
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    statuses = (503, (429, {"Retry-After": "7"}), (503, {"Retry-After": in_a_minute}), (500, {"Retry-After": "soon"}))
    fetch(server.serve("/a.bin", CONTENT, statuses=statuses), tmp_path)
    assert waits[0::3] == [1.0, 8.0]
    assert waits[1] == 7.0
    assert 55 < waits[2] <= 60
    assert server.ranges() == [None] * 5
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_part_outlives_a_busy_server(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, etag='"one"', break_after=(HALF,))
    fails(url, tmp_path, retries=0)
    server.requests.clear()
    server.serve("/a.bin", CONTENT, etag='"one"', statuses=(503,))
    fetch(url, tmp_path)
    assert server.ranges() == [f"bytes={HALF}-"] * 2
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


def test_a_server_that_asks_to_wait_for_an_hour(server, tmp_path, waits):
    url = server.serve("/a.bin", CONTENT, statuses=((429, {"Retry-After": "3600"}),))
    message = fails(url, tmp_path)
    assert "the server answers 429 Too Many Requests and asks to wait 3600 s, given up at try 1" in message
    assert waits == []


def test_redirections_are_followed_with_the_range(server, tmp_path):
    server.serve("/real.bin", CONTENT, etag='"one"', break_after=(HALF, None))
    fetch(server.serve("/a.bin", b"", location="/real.bin"), tmp_path)
    assert [(path, headers.get("range")) for path, headers in server.requests] == [
        ("/a.bin", None),
        ("/real.bin", None),
        ("/a.bin", f"bytes={HALF}-"),
        ("/real.bin", f"bytes={HALF}-"),
    ]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/a.bin", "data:,hello"])
def test_redirections_lead_to_the_web_only(server, tmp_path, location):
    url = server.serve("/a.bin", b"", location=location)
    message = fails(url, tmp_path, checksum=None)
    assert message == f"{url}: a redirection to {location} isn't followed: get it from https://example.org/ponds"
    assert on_disk(tmp_path) == {}


def test_redirections_in_a_circle_end(server, tmp_path):
    url = server.serve("/a.bin", b"", location="/a.bin")
    assert "a redirection to /a.bin isn't followed" in fails(url, tmp_path)


@pytest.mark.parametrize("url", ["ftp://example.org/a.bin", "data:,hello", "/etc/hostname"])
def test_other_addresses_are_refused(tmp_path, url):
    assert fails(url, tmp_path).startswith(f"{url}: only http, https and file addresses are fetched")


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.serve("http://ponds.example/a.bin", CONTENT)
    fetch("http://ponds.example/a.bin", tmp_path)
    assert [path for path, _ in server.requests] == ["http://ponds.example/a.bin"]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT}


# The disk


def test_a_full_disk_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    message = fails(server.serve("/a.bin", CONTENT), tmp_path)
    place = tmp_path / "ponds/a.bin"
    assert message == (
        f"{place}: 300.0 kB are to be downloaded but 100 bytes are free: free some space, or choose another --data-dir"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_during_the_download(server, tmp_path):
    (tmp_path / "ponds").mkdir()
    (tmp_path / "ponds/a.bin.part").symlink_to("/dev/full")
    message = fails(server.serve("/a.bin", CONTENT), tmp_path)
    assert message == (
        f"{tmp_path}: the disk is full: free some space, or choose another --data-dir; downloads so far are kept"
    )
    assert len(server.requests) == 1


def test_a_file_in_the_place_of_the_data_folder(server, tmp_path):
    (tmp_path / "data").write_text("not a folder")
    message = fails(server.serve("/a.bin", CONTENT), tmp_path / "data")
    assert "there is a file where a folder is needed: move it away, or choose another --data-dir" in message
    assert server.requests == []


def test_a_read_only_disk(server, tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = fails(server.serve("/a.bin", CONTENT), tmp_path)
    assert message.endswith("the file system is read-only: choose another --data-dir")
    assert message.startswith(str(tmp_path))
    assert server.requests == []


def test_what_is_there_on_a_read_only_disk_is_found(server, tmp_path, monkeypatch):
    url = server.serve("/a.bin", CONTENT)
    fetch(url, tmp_path)
    monkeypatch.setattr(Path, "mkdir", None)
    assert fetch(url, tmp_path) == [tmp_path / "ponds/a.bin"]


# Two at once


def test_a_second_fetch_of_the_same_file_is_told_of_the_first(server, tmp_path):
    url = server.serve("/a.bin", CONTENT, stall=30)
    first_is_downloading, outcome = threading.Event(), []

    def first():
        tell = lambda step: step.done == HALF and first_is_downloading.set()
        outcome.extend(fetch(url, tmp_path, on_progress=tell))

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_downloading.wait(10)
    message = fails(url, tmp_path)
    assert message == f"another process is fetching {tmp_path / 'ponds/a.bin'}: wait for it to end"
    other = server.serve("/b.bin", OTHER)
    fetch(other, tmp_path, to="ponds/b.bin", checksum=md5(OTHER))  # other files aren't held up
    server.released.set()
    thread.join(10)
    assert outcome == [tmp_path / "ponds/a.bin"]
    assert server.ranges() == [None, None]
    assert on_disk(tmp_path) == {"ponds/a.bin": CONTENT, "ponds/b.bin": OTHER}


def test_what_another_process_fetched_meanwhile_is_not_fetched_again(server, tmp_path, monkeypatch):
    url = server.serve("/a.bin", CONTENT)

    def lock_after_the_other(folder):
        (tmp_path / "ponds").mkdir()
        (tmp_path / "ponds/a.bin").write_bytes(CONTENT)
        return folder_lock(folder)

    monkeypatch.setattr(fetching, "folder_lock", lock_after_the_other)
    fetch(url, tmp_path)
    assert server.requests == []


# Archives


def zipped(files, *, modes=None, method=zipfile.ZIP_DEFLATED):
    """A zip of the contents by name; modes are Unix file modes by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def member(name, content=b"", *, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def tarred(*members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


FILES = {"ponds/a.bin": CONTENT, "ponds/deep/b.txt": b"hello", "ponds/empty": b""}
TREE = [member("./", kind=tarfile.DIRTYPE), *(member(name, content) for name, content in FILES.items())]
ARCHIVES = {
    "ponds.zip": zipped({"ponds/": b"", **FILES}),
    "ponds.tar": tarred(*TREE),
    "ponds.tar.gz": tarred(*TREE, mode="w:gz"),
    "ponds.TGZ": tarred(*TREE, mode="w:gz"),
}


def fetch_archive(server, data_dir, name, content, *, to=".", checksum=None, **options):
    return fetch(server.serve(f"/{name}", content), data_dir, to=to, checksum=checksum, unpack=True, **options)


def archive_fails(*arguments, **options):
    with pytest.raises(ValueError, match=r"^\S") as caught:
        fetch_archive(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("to", [".", "sets/all"])
def test_an_archive_is_unpacked_and_not_kept(server, tmp_path, name, to):
    steps = []
    options = {"to": to, "checksum": md5(ARCHIVES[name])}
    places = fetch_archive(server, tmp_path, name, ARCHIVES[name], **options, on_progress=steps.append)
    assert places == [tmp_path / to]
    assert on_disk(tmp_path / to) == FILES
    assert len(on_disk(tmp_path)) == 3
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", ".unpacking"))]
    assert any(step.kind == "unpack" and 0 < step.done <= step.total for step in steps)

    fetch_archive(server, tmp_path, name, ARCHIVES[name], **options)
    assert len(server.requests) == 1
    fetch_archive(server, tmp_path, name, ARCHIVES[name], **options, force=True)
    assert len(server.requests) == 2
    assert on_disk(tmp_path / to) == FILES


def test_a_damaged_or_missing_file_of_an_archive_is_brought_back(server, tmp_path):
    fetch_archive(server, tmp_path, "ponds.zip", ARCHIVES["ponds.zip"])
    (tmp_path / "ponds/own.txt").write_text("mine")
    (tmp_path / "ponds/a.bin").write_bytes(CONTENT[:100])
    fetch_archive(server, tmp_path, "ponds.zip", ARCHIVES["ponds.zip"])
    (tmp_path / "ponds/deep/b.txt").unlink()
    fetch_archive(server, tmp_path, "ponds.zip", ARCHIVES["ponds.zip"])
    assert len(server.requests) == 3
    assert on_disk(tmp_path) == {**FILES, "ponds/own.txt": b"mine"}


def test_several_archives_share_a_folder_and_a_name(server, tmp_path):
    one, two = zipped({"notes/one.txt": b"1"}), zipped({"notes/two.txt": b"2", "more/two.txt": b"2"})
    both = known(
        RemoteFile(server.serve("/1/images.zip", one), "ponds", unpack=True),
        RemoteFile(server.serve("/2/images.zip?download=1", two), "ponds", unpack=True),
    )
    for _ in range(2):
        assert fetch_known(both, tmp_path, on_progress=lambda step: None) == [tmp_path / "ponds"] * 2
    assert len(server.requests) == 2
    assert on_disk(tmp_path / "ponds") == {"notes/one.txt": b"1", "notes/two.txt": b"2", "more/two.txt": b"2"}


def test_a_folder_that_links_to_another_disk_stays_a_link(server, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ponds").symlink_to(tmp_path / "big")
    fetch_archive(server, tmp_path / "data", "a.zip", zipped({"a/b.txt": b"1"}), to="ponds")
    assert (tmp_path / "data/ponds").is_symlink()
    assert on_disk(tmp_path / "big") == {"a/b.txt": b"1"}


def test_an_archive_brought_by_hand_is_unpacked_and_kept(server, tmp_path):
    content = ARCHIVES["ponds.tar"]
    (tmp_path / "ponds.tar").write_bytes(content)
    fetch_archive(server, tmp_path, "ponds.tar", content, checksum=md5(content))
    assert server.requests == []
    assert on_disk(tmp_path) == {**FILES, "ponds.tar": content}


def test_another_archive_of_that_name_is_left_alone(server, tmp_path):
    (tmp_path / "ponds.tar").write_bytes(b"mine")
    for checksum in (None, md5(ARCHIVES["ponds.tar"])):
        fetch_archive(server, tmp_path, "ponds.tar", ARCHIVES["ponds.tar"], checksum=checksum)
        assert on_disk(tmp_path) == {**FILES, "ponds.tar": b"mine"}
    assert len(server.requests) == 2  # an unpacked set whose archive now has a checksum isn't the same


def test_an_archive_of_the_right_size_alone_is_not_taken_for_the_published_one(server, tmp_path):
    content = ARCHIVES["ponds.tar"]
    (tmp_path / "ponds.tar").write_bytes(bytes(len(content)))
    fetch_archive(server, tmp_path, "ponds.tar", content, size=len(content))
    assert on_disk(tmp_path) == {**FILES, "ponds.tar": bytes(len(content))}


def test_an_interrupted_unpacking_leaves_no_half_set(server, tmp_path):
    def stop_after_the_first(step):
        if step.kind == "unpack":
            raise KeyboardInterrupt

    content = ARCHIVES["ponds.tar.gz"]
    with pytest.raises(KeyboardInterrupt):
        fetch_archive(
            server, tmp_path, "ponds.tar.gz", content, checksum=md5(content), on_progress=stop_after_the_first
        )
    assert on_disk(tmp_path) == {"ponds.tar.gz.part": content}
    # what a killed process couldn't clear away
    (tmp_path / ".ponds.tar.gz.unpacking/ponds").mkdir(parents=True)
    (tmp_path / ".ponds.tar.gz.unpacking/ponds/stale").write_text("stale")
    fetch_archive(server, tmp_path, "ponds.tar.gz", content, checksum=md5(content))
    assert len(server.requests) == 1
    assert on_disk(tmp_path) == FILES


OUTSIDE = {
    "up": "../evil.txt",
    "deep up": "ponds/../../evil.txt",
    "absolute": "/tmp/evil-of-catchment.txt",
    "backslash up": "..\\evil.txt",
    "drive": "C:evil.txt",
    "drive and root": "C:\\evil.txt",
    "share": "\\\\server\\share\\evil.txt",
}
SYMLINK, HARDLINK = {"kind": tarfile.SYMTYPE}, {"kind": tarfile.LNKTYPE}
LINKS = {
    "symlink up": [member("ponds/x", **SYMLINK, link="../../outside")],
    "absolute symlink": [member("x", **SYMLINK, link="/etc")],
    "symlink, then a file through it": [member("x", **SYMLINK, link=".."), member("x/evil.txt", b"evil")],
    "hardlink up": [member("x", **HARDLINK, link="../outside/secret.txt")],
    "absolute hardlink": [member("x", **HARDLINK, link="/etc/hostname")],
    "link to itself": [member("x", b"1"), member("x", **HARDLINK, link="x")],
    "device": [member("x", kind=tarfile.CHRTYPE)],
    "pipe": [member("x", kind=tarfile.FIFOTYPE)],
}
HOSTILE = {
    **{
        f"tar: {what}": ("evil.tar", tarred(member("a", b"1"), member(name, b"evil"))) for what, name in OUTSIDE.items()
    },
    **{f"zip: {what}": ("evil.zip", zipped({"a": b"1", name: b"evil"})) for what, name in OUTSIDE.items()},
    **{f"tar: {what}": ("evil.tar", tarred(member("a", b"1"), *members)) for what, members in LINKS.items()},
    "zip: symlink": ("evil.zip", zipped({"a": b"1", "x": b"/etc"}, modes={"x": 0o120777})),
    "zip: symlink, then a file through it": (
        "evil.zip",
        zipped({"x": b"..", "x/evil.txt": b"evil"}, modes={"x": 0o120777}),
    ),
    "zip: device": ("evil.zip", zipped({"a": b"1", "x": b""}, modes={"x": 0o020644})),
    "zip: file and folder": ("evil.zip", zipped({"x": b"1", "x/y": b"1"})),
    "tar: folder and file": ("evil.tar", tarred(member("x", kind=tarfile.DIRTYPE), member("x", b"1"))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_of_a_hostile_archive_is_kept(server, tmp_path, case):
    name, content = HOSTILE[case]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("secret")
    data = tmp_path / "data"
    message = archive_fails(server, data, name, content)
    assert "nothing of it was kept: get it from https://example.org/ponds" in message
    assert f"{name} from {server.url}/{name}: '" in message
    assert on_disk(data) == {}
    assert on_disk(tmp_path) == {"outside/secret.txt": b"secret"} | {
        path: content for path, content in on_disk(tmp_path).items() if path.startswith("data/.fetch")
    }
    assert not Path("/tmp/evil-of-catchment.txt").exists()


def test_links_within_an_archive_become_copies(server, tmp_path):
    members = [
        member("ponds/a.txt", b"one"),
        member("ponds/deep/b.txt", **SYMLINK, link="../a.txt"),
        member("c.txt", **HARDLINK, link="ponds/a.txt"),
    ]
    fetch_archive(server, tmp_path, "links.tar", tarred(*members))
    assert on_disk(tmp_path) == {"ponds/a.txt": b"one", "ponds/deep/b.txt": b"one", "c.txt": b"one"}
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in tmp_path.rglob("*") if path.is_file())


def test_backslashes_of_windows_are_folders(server, tmp_path):
    fetch_archive(server, tmp_path, "ponds.zip", zipped({"ponds\\": b"", "ponds\\a.txt": b"1"}))
    assert on_disk(tmp_path) == {"ponds/a.txt": b"1"}


ZEROS = bytes(2_000_000)
BOMBS = {
    "bomb.zip": zipped({"zeros": ZEROS}),
    "bomb.tar.gz": tarred(member("zeros", ZEROS), mode="w:gz"),
    "files.tar.gz": tarred(*(member(f"{number}") for number in range(800)), mode="w:gz"),
    "links.tar.gz": tarred(
        member("zeros", ZEROS[:1000]), *(member(f"{n}", **HARDLINK, link="zeros") for n in range(300)), mode="w:gz"
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_not_unpacked(server, tmp_path, monkeypatch, name):
    monkeypatch.setattr(unpack, "HARMLESS", 300_000)
    monkeypatch.setattr(unpack, "RATIO", 5)
    message = archive_fails(server, tmp_path, name, BOMBS[name])
    assert "it would unpack to more than 300.0 kB, 5 times its size or more: this is not what its authors" in message
    assert on_disk(tmp_path) == {}


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_little_that_unpacks_to_much_is_no_bomb(server, tmp_path, name):
    fetch_archive(server, tmp_path, name, BOMBS[name])
    assert on_disk(tmp_path) == {"zeros": ZEROS}


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_an_archive_too_large_for_the_disk_is_kept_for_later(server, tmp_path, monkeypatch, name):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2e6, 1e6, 1_000_000))
        message = archive_fails(server, tmp_path, name, BOMBS[name], checksum=md5(BOMBS[name]))
    assert message == (
        f"{tmp_path / name}: it unpacks to 2.0 MB or more but 1.0 MB are free: free some space, or choose another "
        "--data-dir; the download is kept"
    )
    assert on_disk(tmp_path) == {f"{name}.part": BOMBS[name]}
    fetch_archive(server, tmp_path, name, BOMBS[name], checksum=md5(BOMBS[name]))
    assert len(server.requests) == 1
    assert on_disk(tmp_path) == {"zeros": ZEROS}


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def long_header():
    """A tar whose first member's pax header is said to be 2 MB."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2_000_000
    return header.tobuf() + bytes(2_000_896) + ARCHIVES["ponds.tar"]


def negative_size():
    header = tarfile.TarInfo("x")
    header.size = -512
    return header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def encrypted():
    """A zip whose members say they are."""
    content = bytearray(zipped({"a.txt": b"1"}, method=zipfile.ZIP_STORED))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


DAMAGED = {
    "zip cut off": ("a.zip", ARCHIVES["ponds.zip"][:-1000]),
    "zip with another content": ("a.zip", flipped(zipped({"a": CONTENT}, method=zipfile.ZIP_STORED), 1000)),
    "encrypted zip": ("a.zip", encrypted()),
    "a page for a zip": ("a.zip", b"<html>Sign in</html>"),
    "a page for a tar": ("a.tar", b"<html>Sign in</html>" * 100),
    "tar cut off in a file": ("a.tar", ARCHIVES["ponds.tar"][:100_000]),
    "tar cut off in a header": ("a.tar", tarred(member("a", b"1"), member("b", b"2"))[:1100]),
    "tar with a broken header in the middle": ("a.tar", flipped(tarred(member("a", b"1"), member("b", b"2")), 1030)),
    "tar.gz cut off": ("a.tar.gz", ARCHIVES["ponds.tar.gz"][:-1000]),
    "tar.gz with another content": ("a.tar.gz", flipped(ARCHIVES["ponds.tar.gz"], HALF)),
    "empty": ("a.tar", b""),
    "tar with a header too long": ("a.tar", long_header()),
    "tar with a negative size": ("a.tar", negative_size()),
    "gzip of something else": ("a.tar.gz", gzip.compress(CONTENT)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_nothing_of_a_damaged_archive_is_kept(server, tmp_path, case):
    name, content = DAMAGED[case]
    message = archive_fails(server, tmp_path, name, content)
    assert f"{name} from {server.url}/{name}: the archive is damaged (" in message
    assert "nothing of it was kept: try again, or get it from https://example.org/ponds" in message
    assert on_disk(tmp_path) == {}


# Sets, words and progress


def test_all_files_of_a_set_are_fetched_and_the_first_that_fails_ends_it(server, tmp_path):
    contents = {"a": b"1", "b": b"22", "c": b"333"}
    files = [RemoteFile(server.serve(f"/{name}", content), f"x/{name}") for name, content in contents.items()]
    gone = server.paths.pop("/b")
    with pytest.raises(ValueError, match="/b: the file isn't there any more"):
        fetch_known(known(*files), tmp_path, on_progress=lambda step: None)
    assert on_disk(tmp_path) == {"x/a": b"1"}
    server.paths["/b"] = gone
    fetch_known(known(*files), tmp_path, on_progress=lambda step: None)
    assert [path for path, _ in server.requests] == ["/a", "/b", "/b", "/c"]


def test_a_set_without_downloads_says_where_to_apply(tmp_path):
    with pytest.raises(ValueError, match="no direct download") as caught:
        fetch_known(known(), tmp_path / "data")
    assert str(caught.value) == (
        f"ponds has no direct download: get it from https://example.org/ponds; expected under {tmp_path / 'data'}: "
        "ponds/ with a.bin, unpacked from ponds.tar"
    )
    with pytest.raises(ValueError, match=r"no direct download, and needs none: it is there already, in .*/ponds$"):
        fetch_known(known(find=lambda folder: folder / "ponds"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_places_outside_the_data_folder_are_refused(server, tmp_path):
    assert "outside" in fails(server.serve("/a.bin", CONTENT), tmp_path / "data", to="../a.bin")
    assert server.requests == []


def test_what_would_be_fetched(tmp_path):
    files = [RemoteFile(f"https://example.org/{name}", name, size=size) for name, size in (("a", 1000), ("b", 2000))]
    folder = tmp_path.absolute()
    assert (
        describe_fetch(known(*files), tmp_path) == f"ponds: 2 files (3.0 kB) from example.org to {folder}; licence: CC0"
    )
    unknown = RemoteFile("http://a.example/x", "x")
    assert describe_fetch(known(unknown), tmp_path) == f"ponds: 1 file from a.example to {folder}; licence: CC0"
    assert describe_fetch(known(), tmp_path) == "ponds: no direct download; get it from https://example.org/ponds"


def test_off_a_terminal_a_line_every_few_seconds(monkeypatch, capsys):
    clock = iter([100.0, 101.0, 104.9, 105.0, 107.0, 110.0])
    monkeypatch.setattr(fetching.time, "monotonic", lambda: next(clock))
    with FetchProgress() as show:
        for done in (0, 1_000_000, 4_000_000, 5_000_000, 6_000_000):
            show(FetchStep("a[1].bin", "download", done, 10_000_000))
        show(FetchStep("a[1].bin", "download", 7_000_000, None))
        show(FetchStep("a[1].bin", "retry", note="the connection broke off: trying again in 1 s (1 of 5)"))
        show(FetchStep("a[1].bin", "fetched"))
        show(FetchStep("b.bin", "there"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "download a[1].bin: 5.0 MB of 10.0 MB, 1.0 MB/s",
        "download a[1].bin: 7.0 MB, 400.0 kB/s",
        "a[1].bin: the connection broke off: trying again in 1 s (1 of 5)",
        "a[1].bin: fetched",
        "b.bin: already there",
    ]


def test_on_a_terminal_a_bar(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    fetch(server.serve("/a[1].bin", CONTENT), tmp_path, to="a[1].bin", on_progress=None)
    out, err = capsys.readouterr()
    assert out == ""
    assert "download a[1].bin" in err
    assert "check a[1].bin" in err
    assert "300.0/300.0 kB" in err
    assert "a[1].bin: fetched" in err


def test_without_a_listener_lines_are_shown(server, tmp_path, capsys):
    fetch(server.serve("/a.bin", CONTENT), tmp_path, on_progress=None)
    fetch(server.serve("/a.bin", CONTENT), tmp_path, on_progress=None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["a.bin: fetched", "a.bin: already there"]
