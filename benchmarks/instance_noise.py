"""Time and memory of instance-dependent label noise on CIFAR-shaped images: ``python benchmarks/instance_noise.py``.

50,000 random uint8 images of 32 x 32 x 3, with 10 and with 100 classes. Printed are the median and the best seconds of
a few runs, and the most memory that a run held at a time beyond images and labels, as tracemalloc counts it in a run of
its own. ``--float`` gives the images as float32 from 0 to 1.
"""

import argparse
import statistics
import time
import tracemalloc

import numpy as np

from catchment.disturb import instance_noise

RATE = 0.4


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--float", action="store_true", help="float32 images instead of uint8")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(options.samples, 32, 32, 3), dtype=np.uint8)
    if options.float:
        images = images.astype(np.float32) / 255
    for num_classes in (10, 100):
        labels = rng.integers(num_classes, size=options.samples)
        seconds = []
        for _ in range(options.repeat):
            start = time.perf_counter()
            noisy = instance_noise(images, labels, RATE, num_classes, np.random.default_rng(1))
            seconds.append(time.perf_counter() - start)
        tracemalloc.start()
        instance_noise(images, labels, RATE, num_classes, np.random.default_rng(1))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(
            f"{options.samples} x {images[0].size} {images.dtype}, C = {num_classes}: "
            f"{statistics.median(seconds):.2f} s (median of {options.repeat}; best {min(seconds):.2f}), "
            f"{peak / 2**20:.0f} MiB extra, rate {noisy.record['rate_realised']:.4f} of {RATE} asked"
        )


if __name__ == "__main__":
    main()
