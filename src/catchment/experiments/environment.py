"""What a run ran on and with: numbers mean little without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch

import catchment


def versions() -> dict[str, str]:
    """Of catchment, torch, numpy and Python."""
    return {
        "catchment": catchment.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def hardware(device: str) -> dict[str, str]:
    """Processor, number of its cores, memory and, where ``device`` is one, the GPU."""
    found = {"cpu": _processor(), "cores": str(os.cpu_count()), "memory": _memory()}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] != "unknown" else platform.processor() or platform.machine()


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / 2**30:.0f} GiB"
