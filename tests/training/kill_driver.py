"""Kills a training run again and again, resumes it, and compares its weights with those of a run left alone.

``python kill_driver.py FOLDER KILLS``: forks after the imports, so that a new try costs milliseconds. Half of the
kills wait until a checkpoint is being written. Prints one JSON object.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from catchment.experiments.run import RunConfig, run
from catchment.files import read_jsonl
from catchment.training import TrainingConfig
from catchment.training.checkpoint import Checkpointer

CONFIG = RunConfig(
    noise="asymmetric:0.4",
    validation=0.1,
    training=TrainingConfig(epochs=24, batch_size=256, early_stopping=23, threads=1, device="cpu", seed=3),
)


def start(folder, seconds_per_flush):
    """Fork a process that does the run, with a disk so slow that writing takes a while."""
    child = os.fork()
    if child:
        return child
    real_fsync = os.fsync
    os.fsync = lambda file: (time.sleep(seconds_per_flush), real_fsync(file))
    run(CONFIG, folder, resume=True)
    os._exit(0)


def being_written(folder):
    return next((path.name for path in folder.glob(".*.tmp")), None)


def kill_once(folder, epochs, moment, file):
    """Start, wait for some epochs and a moment more, kill, and say what was being written.

    With ``file`` it waits until that is being written, whenever that is.
    """
    for stale in folder.glob(".*.tmp"):
        stale.unlink()
    before = len(read_jsonl(folder / "history.jsonl"))
    child = start(folder, seconds_per_flush=0.03)
    wait_until(lambda: len(read_jsonl(folder / "history.jsonl")) >= before + epochs)
    time.sleep(moment)
    if file:
        wait_until(lambda: being_written(folder) == file)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return being_written(folder)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


def main(folder, kills):
    torch.set_num_threads(1)
    run(
        RunConfig(training=TrainingConfig(epochs=1, threads=1, device="cpu")), folder / "warm-up"
    )  # imports, for every fork
    Checkpointer.__init__.__kwdefaults__["share"] = 1.0
    alone, killed = folder / "alone", folder / "killed"
    child = start(alone, seconds_per_flush=0.0)
    os.waitpid(child, 0)
    rng = random.Random(0)
    files = [".config.json.tmp", *[".checkpoint.pt.tmp", None] * kills][:kills]
    interrupted, epochs_seen = [], []
    for k, file in enumerate(files):
        epochs, moment = (rng.randint(0, 2), rng.uniform(0.0, 0.2)) if k else (0, 0.0)
        interrupted.append(kill_once(killed, epochs, moment, file))
        epochs_seen.append(len(read_jsonl(killed / "history.jsonl")))
    finished_early = (killed / "metrics.json").exists()
    os.waitpid(start(killed, seconds_per_flush=0.0), 0)
    rows = [read_jsonl(f / "history.jsonl") for f in (alone, killed)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    print(
        json.dumps(
            {
                "kills": len(files),
                "finished_early": finished_early,
                "interrupted_writes": [name for name in interrupted if name],
                "epochs_seen": epochs_seen,
                "same_weights": (alone / "model.safetensors").read_bytes()
                == (killed / "model.safetensors").read_bytes(),
                "same_history": rows[0] == rows[1],
                "epochs": [row["epoch"] for row in rows[1]],
                "left_over": sorted(path.name for path in killed.iterdir()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
