"""``python -m catchment``, as ``torchrun -m catchment`` needs it."""

import sys

from catchment.cli import main

sys.exit(main())
