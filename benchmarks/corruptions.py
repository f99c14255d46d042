"""Time to corrupt 10,000 images of 32 x 32 at five severities: the 15 corruptions of the benchmark and 4 others.

python benchmarks/corruptions.py [--device cuda] [--threads 2] [--images 10000] [--repeats 1] [--csv FILE]

The images are random cuts of the two photographs that scikit-learn brings. A warm-up makes the tables first. The CPU's
seconds tell of a machine that others use too what it takes when it is idle: so much, shared by the threads.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from catchment.disturb import BENCHMARK_CORRUPTIONS, CORRUPTIONS, corrupt
from catchment.disturb.corruptions import SEVERITIES
from catchment.files import csv_text, write_text


def cuts(count: int, side: int) -> NDArray[np.uint8]:
    """Squares from random places of the photographs, shrunk to a quarter."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    small = [np.asarray(photograph.resize((160, 107))) for photograph in photographs]
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    for image in images:
        photograph = small[rng.integers(len(small))]
        top, left = (rng.integers(length - side + 1) for length in photograph.shape[:2])
        image[:] = photograph[top : top + side, left : left + side]
    return images


def seconds(images: NDArray[np.uint8], name: str, device: str) -> tuple[float, float]:
    """For all severities: by the clock, and of the processor's time."""
    start, start_of_work = time.perf_counter(), time.process_time()
    for severity in range(1, SEVERITIES + 1):
        corrupt(images, name, severity, device=device)  # returns when the result is in the host's memory
    return time.perf_counter() - start, time.process_time() - start_of_work


def main() -> None:
    """Measure, print, and write the CSV where asked."""
    parser = argparse.ArgumentParser(description="Time to corrupt CIFAR-sized images at five severities.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    images = cuts(arguments.images, 32)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads, {len(images)} images x 5")
    rows = []
    for name in CORRUPTIONS:
        seconds(images[:100], name, arguments.device)
        taken = [seconds(images, name, arguments.device) for _ in range(arguments.repeats)]
        rows.append(
            {
                "corruption": name,
                "in_benchmark": name in BENCHMARK_CORRUPTIONS,
                "seconds": statistics.median(by_clock for by_clock, _ in taken),
                "cpu_seconds": statistics.median(of_work for _, of_work in taken),
                "images": len(images),
                "severities": SEVERITIES,
                "repeats": arguments.repeats,
                "device": arguments.device,
                "threads": arguments.threads,
                "torch": torch.__version__,
            }
        )
        print(f"{name:<20} {rows[-1]['seconds']:8.2f} s {rows[-1]['cpu_seconds']:8.2f} s of CPU", flush=True)
    clock, work = (sum(row[key] for row in rows if row["in_benchmark"]) for key in ("seconds", "cpu_seconds"))
    print(f"{'the 15':<20} {clock:8.2f} s {work:8.2f} s of CPU")
    if arguments.csv:
        write_text(arguments.csv, csv_text(rows))


if __name__ == "__main__":
    main()
