"""``python -m equiv`` is the command ``equiv``."""

import sys

from equiv.cli import main

if __name__ == "__main__":
    sys.exit(main())
