"""``python -m equiv.testing.faults`` prints docs/faults.md."""

import sys

from equiv.testing.faults._table import page

sys.stdout.write(page())
