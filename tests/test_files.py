import errno
import json
import os
import subprocess
import sys

import pytest

from catchment import files
from catchment.files import (
    append_jsonl,
    atomic_write,
    finite_or_none,
    folder_lock,
    read_json,
    read_jsonl,
    repair_jsonl,
    write_json,
    write_jsonl,
    write_text,
)

# What a second process does first: files.py by itself, which imports in no time.
LOAD_FILES = "import runpy, sys, pathlib; files = runpy.run_path(sys.argv[1]); path = pathlib.Path(sys.argv[2]); "


def start(code, path, *arguments):
    command = [sys.executable, "-c", LOAD_FILES + code, files.__file__, path, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_makes_and_replaces_a_file(tmp_path):
    path = tmp_path / "weights.bin"
    atomic_write(path, lambda file: [file.write(b"long old "), file.write(b"content")])
    assert path.read_bytes() == b"long old content"
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["weights.bin"]


def test_atomic_write_shows_the_new_content_only_once_it_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: [synced.append(os.fstat(fd).st_size), fsync(fd)])
    replace = os.replace
    at_rename = []

    def watch(source, target):
        at_rename.append((path.read_bytes(), list(synced)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    atomic_write(path, lambda file: [file.write(b"new content"), path.read_bytes()])
    assert at_rename == [(b"old", [11])]
    assert path.read_bytes() == b"new content"


@pytest.mark.parametrize("exception", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_writer_that_fails_half_way_leaves_what_was_there(tmp_path, exception, before):
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)

    def write(file):
        file.write(b"half")
        file.flush()
        raise exception

    with pytest.raises(type(exception)) as caught:
        atomic_write(path, write)
    assert caught.value is exception
    assert names(tmp_path) == ([] if before is None else ["a"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_leaves_what_was_there(tmp_path, monkeypatch, call, number):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError) as caught:  # noqa: PT011  (the number is checked below)
        atomic_write(path, lambda file: file.write(b"new"))
    assert caught.value.errno == number
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_left_over_temporary_file_of_a_killed_writer_is_no_obstacle(tmp_path):
    path = tmp_path / "a"
    (tmp_path / ".a.tmp").write_bytes(b"much longer left-over of a killed writer")
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a", "Größe ✓")
    assert (tmp_path / "a").read_bytes() == "Größe ✓".encode()


def test_json_has_null_where_numbers_are_not_finite(tmp_path):
    path = tmp_path / "metrics.json"
    value = {"nan": float("nan"), "rows": [1.5, float("inf"), (-float("inf"), 2)], "flag": True, "none": None, "n": 3}
    write_json(path, value)
    read = {"nan": None, "rows": [1.5, None, [None, 2]], "flag": True, "none": None, "n": 3}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == read
    assert read_json(path) == read
    assert path.read_text().endswith("}\n")
    assert value["rows"][2] == (-float("inf"), 2)  # what was given stays as it was


def test_finite_numbers_stay_exactly_as_they_are():
    assert finite_or_none([0.0, 1e308, 5e-324, 0.1, 10**400]) == [0.0, 1e308, 5e-324, 0.1, 10**400]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"{'a': 1}", b"\xff\xfe\x00\x9f"])
def test_a_broken_json_file_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON.*restore it"):
        read_json(path)


def test_appended_rows_are_read_back_in_order(tmp_path):
    path = tmp_path / "history.jsonl"
    rows = [{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 0.2, "name": "ü\n"}]
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows
    assert path.read_bytes().count(b"\n") == 2
    append_jsonl(path, {"loss": float("nan")})
    assert path.read_bytes().splitlines()[-1] == b'{"loss": null}'


def test_a_file_of_rows_that_does_not_exist_has_none(tmp_path):
    assert read_jsonl(tmp_path / "history.jsonl") == []


@pytest.mark.parametrize("whole", [b"", b'{"epoch": 1}\n', b'{"epoch": 1}\n{"epoch": 2}\n'])
@pytest.mark.parametrize("torn", [b'{"epoch": 3, "lo', b'{"epoch": 3}', b"\x00\x00"])
def test_a_torn_last_line_is_not_read_and_is_cut_off_before_appending(tmp_path, whole, torn):
    path = tmp_path / "history.jsonl"
    path.write_bytes(whole + torn)
    rows = [json.loads(line) for line in whole.splitlines()]
    assert read_jsonl(path) == rows
    append_jsonl(path, {"epoch": 9})
    assert path.read_bytes() == whole + b'{"epoch": 9}\n'
    assert read_jsonl(path) == [*rows, {"epoch": 9}]


def test_a_broken_line_that_is_not_the_last_is_named(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*history\.jsonl is not valid JSON"):
        read_jsonl(path)


def test_rows_are_replaced_whole(tmp_path):
    path = tmp_path / "history.jsonl"
    write_jsonl(path, [{"epoch": n, "loss": float("nan")} for n in range(3)])
    write_jsonl(path, [{"epoch": 7}])
    assert path.read_bytes() == b'{"epoch": 7}\n'
    write_jsonl(path, [])
    assert read_jsonl(path) == []


def test_two_processes_append_whole_lines(tmp_path):
    path = tmp_path / "history.jsonl"
    # Longer than a pipe's atomic write and a file's buffer, so that lines would mix without a lock.
    code = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(200): files['append_jsonl'](path, {'process': int(sys.argv[3]), 'n': n, 'text': 'x' * 20000})"
    )
    processes = [start(code, path, str(number)) for number in (0, 1)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    rows = read_jsonl(path)
    assert len(rows) == len(path.read_bytes().splitlines()) == 400
    for number in (0, 1):
        assert [row["n"] for row in rows if row["process"] == number] == list(range(200))
    assert {len(row["text"]) for row in rows} == {20000}


def test_an_appender_waits_for_the_one_before(tmp_path):
    import fcntl

    path = tmp_path / "history.jsonl"
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = start("print('ready', flush=True); files['append_jsonl'](path, {'n': 2})", path)
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        file.write(b'{"n": 1}\n')
    process.communicate(timeout=30)
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]


def test_a_folder_is_held_by_one_handle_at_a_time(tmp_path):
    with folder_lock(tmp_path):
        with pytest.raises(ValueError, match=r"another process is working in .*: wait for it, or choose another --out"):
            folder_lock(tmp_path).__enter__()
        (tmp_path / "b").mkdir()
        with folder_lock(tmp_path / "b"):  # another folder is free
            pass
    with folder_lock(tmp_path):
        pass
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    with folder_lock(tmp_path):
        pass


def test_a_folder_held_by_a_process_is_free_once_that_is_killed(tmp_path):
    process = start("lock = files['folder_lock'](path); lock.__enter__(); print('held', flush=True); input()", tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is working"), folder_lock(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    with folder_lock(tmp_path):
        assert start("\ntry:\n    files['folder_lock'](path).__enter__()\nexcept ValueError: print('refused')",
                     tmp_path).communicate(timeout=30)[0] == "refused\n"  # fmt: skip


def test_a_torn_last_line_is_repaired_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert not repair_jsonl(path)
    assert not path.exists()
    append_jsonl(path, {"epoch": 1})
    assert not repair_jsonl(path)
    with path.open("ab") as file:
        file.write(b'{"epoch"')
    assert repair_jsonl(path)
    assert not repair_jsonl(path)
    assert path.read_bytes() == b'{"epoch": 1}\n'
    path.write_bytes(b"torn from the start")
    assert repair_jsonl(path)
    assert path.read_bytes() == b""
