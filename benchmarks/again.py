"""A failure that a run prints: do its command, `pytest --lf` and the next run find it again?

Each trial is a project of its own, with a kernel that is wrong where the number of outputs has one remainder, under
pytest with one profile and another seed. Its files are the same in all three runs that follow.

    python benchmarks/again.py --times 20                  # in every profile
    python benchmarks/again.py --times 3 --profile deep
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import _common

SUITE = """
import torch
import equiv.testing
from torch.nn import functional as F

def linear(input, weight, bias=None):
    result = F.linear(input, weight, bias)
    return result + 1 if len(weight) % {modulus} == {modulus} - 1 else result

MINE = equiv.testing.Kernels(linear=linear, name="mine")

@equiv.testing.parametrize_with_laws(MINE, laws=["exact", "forward"], dtypes=["float32"])
def test_law(law):
    law()
"""
PROFILES = ("dev", "gate", "deep")


def pytest_run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTEST_ADDOPTS", "CI")}
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def trial(profile: str, seed: int) -> tuple[bool, ...]:
    """Whether a failure was found, and then by its command in another process, by ``--lf`` and by the next run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.joinpath("pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        folder.joinpath("test_suite.py").write_text(SUITE.format(modulus=2 + seed % 4), encoding="utf-8")
        first = pytest_run(folder, "--equiv-profile", profile, "--equiv-seed", str(seed))
        commands = re.findall(r"again: pytest (.*)", first.stdout)
        if first.returncode != 1 or not commands:
            return False, False, False, False
        again = all(
            pytest_run(folder, *shlex.split(line), "-p", "no:cacheprovider").returncode == 1 for line in commands
        )
        last_failed = pytest_run(folder, "--lf", "--equiv-profile", profile).returncode == 1
        return True, again, last_failed, pytest_run(folder, "--equiv-profile", profile).returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--profile", choices=PROFILES, action="append")
    options = parser.parse_args()
    table = _common.Table({"profile": "8", "failed": ">8", "by command": ">12", "by --lf": ">9", "next run": ">10"})
    right = True
    for profile in options.profile or PROFILES:
        counts = [
            sum(column) for column in zip(*(trial(profile, seed) for seed in range(1, options.times + 1)), strict=True)
        ]
        right &= set(counts[1:]) == {counts[0]} and counts[0] > 0
        table.row(profile, *(f"{count}/{options.times}" for count in counts))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
