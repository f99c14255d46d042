"""What a run says it ran on and with."""

import json
import os
import platform
import re

import numpy as np
import pytest
import torch

import catchment
from catchment.experiments import environment


def test_versions_are_those_that_are_imported():
    assert environment.versions() == {
        "catchment": catchment.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    assert json.loads(json.dumps(environment.versions())) == environment.versions()


def test_hardware_of_a_cpu_run():
    found = environment.hardware("cpu")
    assert list(found) == ["cpu", "cores", "memory"]
    assert found["cpu"]
    assert int(found["cores"]) == os.cpu_count()
    assert re.fullmatch(r"\d+ GiB", found["memory"])


def test_memory_is_rounded_to_gib(monkeypatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(15.6 * 2**30 / 4096)}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert environment.hardware("cpu")["memory"] == "16 GiB"


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Voodoo {device}")
    assert environment.hardware("cuda:1")["gpu"] == "Voodoo cuda:1"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: Abacus: 9\nflags\t: a\nmodel name\t: Other\n", "Abacus: 9"),
        ("model name\t: unknown\n", "fallback"),
        ("processor\t: 0\n", "fallback"),
        (None, "fallback"),
    ],
)
def test_the_processor_is_named_as_the_system_names_it(tmp_path, monkeypatch, cpuinfo, name):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(environment, "Path", lambda _: path)
    monkeypatch.setattr(platform, "processor", lambda: "fallback")
    assert environment.hardware("cpu")["cpu"] == name
