"""``python -m equiv.testing.faults`` prints docs/faults.md."""

import sys

from equiv.testing.faults.table import page

if __name__ == "__main__":
    sys.stdout.write(page())
