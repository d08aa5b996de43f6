"""Rewrites that other packages ship, judged as they are installed; what is not installed is skipped."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1] / "examples" / "rewrites"


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("test_*.py")))
def test_a_rewrite_that_ships_is_the_same_function(file):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-W",
        "ignore",
        file,
    ]
    result = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 5), result.stdout + result.stderr  # 5: nothing to run here
