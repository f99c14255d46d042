"""What ``import catchment`` adds to ``import torch``: ``python benchmarks/import_time.py [--at-most SECONDS]``.

Both are imported in a fresh process, several times. Counted is the processor's time, and the least of it, as programs
beside this one stretch both it and the clock.
"""

import argparse
import subprocess
import sys

PROGRAM = "import time, torch; start = time.process_time(); import catchment; print(time.process_time() - start)"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-most", type=float, help="exit with an error if it adds more")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    run = [sys.executable, "-c", PROGRAM]
    added = min(float(subprocess.run(run, capture_output=True, check=True).stdout) for _ in range(options.repeat))
    print(f"import catchment adds {added:.3f} s to import torch (least of {options.repeat})")
    if options.at_most is not None and added > options.at_most:
        sys.exit(f"that is more than {options.at_most} s")


if __name__ == "__main__":
    main()
