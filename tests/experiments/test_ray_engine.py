"""Runs on a Ray cluster of this machine: all there at the end, once, though a worker is killed in the middle."""

import os
import signal
import subprocess
import sys

import pytest
import tiny_suite

from catchment.experiments import bench
from catchment.files import read_jsonl

pytestmark = pytest.mark.ray

LONG = tiny_suite.TEXT.replace("epochs = 2", "epochs = 60")


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def working():
    """Processes of Ray that are doing a task of ours."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listing.splitlines() if "ray::_task" in line]


@pytest.mark.usefixtures("cluster")
def test_every_run_is_there_once_though_a_worker_is_killed(tmp_path):
    from catchment.experiments.ray_engine import run_all_on_ray

    runs, out = tiny_suite.open_suite(tmp_path, LONG)
    killed, ended = [], []

    def kill_one(event):
        ended.append(event.run.key)
        if not killed and working():
            killed.append(working()[0])
            os.kill(killed[0], signal.SIGKILL)

    run_all_on_ray(runs, out, device="cpu", listen=kill_one)
    assert killed
    rows = read_jsonl(out / bench.RESULTS)
    assert sorted(row["key"] for row in rows) == sorted(run.key for run in runs) == sorted(ended)
    assert {row["status"] for row in rows} == {bench.FINISHED}
    assert {row["metrics"]["epochs"] for row in rows} == {60}
    run_all_on_ray(runs, out, device="cpu", listen=lambda event: pytest.fail("a finished run was run again"))


@pytest.mark.usefixtures("cluster")
def test_results_are_those_of_one_machine_and_a_failed_run_stops_no_other(tmp_path):
    from catchment.experiments.ray_engine import run_all_on_ray

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    runs, here = tiny_suite.open_suite(tmp_path / "here")
    _, there = tiny_suite.open_suite(tmp_path / "there")
    bench.run_all(runs, here, workers=1, device="cpu")
    spoiled = there / bench.RUNS / runs[0].key
    spoiled.mkdir(parents=True)
    (spoiled / "config.json").write_text("{")
    run_all_on_ray(runs, there, device="cpu")
    expected = {row["key"]: row["metrics"]["test_nll"] for row in read_jsonl(here / bench.RESULTS)}
    found = {row["key"]: row for row in read_jsonl(there / bench.RESULTS)}
    failed = found.pop(runs[0].key)
    assert failed["status"] == bench.FAILED
    assert failed["error"]
    del expected[runs[0].key]
    assert {key: row["metrics"]["test_nll"] for key, row in found.items()} == expected


def test_a_cluster_that_does_not_answer_and_a_missing_package_are_one_line(tmp_path):
    path = tiny_suite.write_suite(tmp_path)
    command = [sys.executable, "-m", "catchment", "bench", str(path), "--out", str(tmp_path / "out"), "--engine", "ray"]
    refused = subprocess.run([*command, "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: no Ray cluster answers at 127.0.0.1:1: start it")
    hidden = "import sys; sys.modules['ray'] = None; from catchment.cli import main; sys.exit(main(sys.argv[1:]))"
    missing = subprocess.run([sys.executable, "-c", hidden, *command[3:]], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1] == 'error: Ray is not installed: pip install "catchment[cluster]"'
