"""A run killed at any moment and resumed ends with the same bits as one left alone."""

import json
import subprocess
import sys
from pathlib import Path

DRIVER = Path(__file__).with_name("kill_driver.py")


def test_twelve_kills_change_nothing(tmp_path):
    done = subprocess.run([sys.executable, DRIVER, tmp_path, "12"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 12
    assert not result["finished_early"]
    assert result["same_weights"]
    assert result["same_history"]
    assert result["epochs"] == list(range(1, 25))  # none lost, none repeated
    assert result["interrupted_writes"].count(".checkpoint.pt.tmp") >= 4
    assert max(result["epochs_seen"]) > 5  # the kills did interrupt a run that was going on
    assert result["left_over"] == [
        ".lock",
        "config.json",
        "evaluation.npz",
        "history.jsonl",
        "metrics.json",
        "model.safetensors",
        "report.html",
    ]
