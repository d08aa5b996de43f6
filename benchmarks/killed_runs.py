"""Runs that are killed with signal 9: does the report hold every item that had been finished?

A run of `equiv verify --json`, or of `pytest --equiv-report` alone and with two workers, is killed at a random
moment, and its report read. Every item that it had printed as finished must be there, and the rest of the plan as
not run.

    python benchmarks/killed_runs.py --times 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAWS, DTYPES = "exact,forward,batch,weight_recovery", "float32,int8,complex64"
VERIFY = f"""
import sys
from equiv.cli import main
from equiv.report import Journal

def add(self, result, add=Journal.add):
    add(self, result)
    print("DONE", result["item"], flush=True)

Journal.add = add
words = ["--law", "{LAWS}", "--dtype", "{DTYPES}", "--jobs", "1", "--examples", "20", "--json", "out.json"]
sys.exit(main(["verify", *words]))
"""
SUITE = f"""
import equiv.testing

@equiv.testing.parametrize_with_laws(
    equiv.testing.devices_under_test(), laws="{LAWS}".split(","), dtypes="{DTYPES}".split(",")
)
def test_law(law):
    law()
"""
PYTEST = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "--equiv-report", "out.json", "--equiv-examples", "20"]
COMMANDS = {
    "verify": ["-c", VERIFY],
    "pytest": [*PYTEST, "test_suite.py"],
    "xdist": [*PYTEST, "-n", "2", "test_suite.py"],
}
_FINISHED = re.compile(r"^DONE (\S+)$|test_law\[(\S+)\] PASSED|PASSED \S+test_law\[(\S+)\]", re.MULTILINE)


def killed(front_end: str, folder: Path, *, items: int, seconds: float) -> list[str]:
    """Kill a run ``seconds`` after it has finished a number of items; the items that it had printed until then."""
    folder.joinpath("test_suite.py").write_text(SUITE, encoding="utf-8")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    command = [sys.executable, *COMMANDS[front_end]]
    said = folder / "said.txt"
    with said.open("w") as out:
        run = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        while len(_FINISHED.findall(said.read_text())) < items and run.poll() is None:
            time.sleep(0.002)
        time.sleep(seconds)
        run.kill()
        run.wait()
    return [next(filter(None, names)) for names in _FINISHED.findall(said.read_text())]


def lost(finished: list[str], report: Path) -> list[str]:
    """What a report lacks of what was finished, and of the plan."""
    found = json.loads(report.read_text(encoding="utf-8"))
    outcomes = {item["item"]: item["outcome"] for item in found["items"]}
    missing = [name for name in finished if outcomes.get(name) != "holds"]
    unplanned = sorted(set(found["planned"]) ^ set(outcomes))
    ended = found["complete"] != ("not run" not in outcomes.values())
    return missing + unplanned + ["complete"] * ended


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each front end; 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw, any_failed = random.Random(options.seed), False
    for front_end in COMMANDS:
        counts, failed = [], 0
        for _ in range(options.times):
            with tempfile.TemporaryDirectory() as name:
                finished = killed(front_end, Path(name), items=draw.randrange(12), seconds=draw.uniform(0, 0.1))
                report = Path(name, "out.json")
                missing = lost(finished, report) if finished or report.exists() else []
            counts.append(len(finished))
            if missing:
                failed += 1
                print(f"{front_end}: after {len(finished)} items the report lacks {', '.join(missing)}")
        print(
            f"{front_end}: killed {options.times} times, after {sorted(counts)} of 12 items; {failed} lost something",
            flush=True,
        )
        any_failed |= failed > 0
    return 1 if any_failed else 0


if __name__ == "__main__":
    sys.exit(main())
