"""What ``import catchment`` adds to ``import torch``: ``python benchmarks/import_time.py [--at-most SECONDS]``.

Each is imported in a fresh process, in turn; the median of the differences counts.
"""

import argparse
import statistics
import subprocess
import sys

PROGRAM = "import time, torch; start = time.perf_counter(); import catchment; print(time.perf_counter() - start)"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-most", type=float, help="exit with an error if it adds more")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    run = [sys.executable, "-c", PROGRAM]
    added = [float(subprocess.run(run, capture_output=True, check=True).stdout) for _ in range(options.repeat)]
    print(f"import catchment adds {statistics.median(added):.3f} s to import torch (median of {options.repeat})")
    if options.at_most is not None and statistics.median(added) > options.at_most:
        sys.exit(f"that is more than {options.at_most} s")


if __name__ == "__main__":
    main()
