"""On which instruction sets do the programs of docs/findings show what their pages say?

    python benchmarks/findings.py [NAME ...] [--pages FOLDER]   # some minutes for all; NAME is a page without .md

A row for each page, a column for each setting of oneDNN and torch that the CPU allows: "shows", "-" where the program
says that it does not show here, "dies" where a signal ended it, "no PACKAGE" where it needs one that is not installed,
and what it said where it failed. Each runs in a process of its own, forked from one that has imported torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "docs" / "findings"
SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "avx10.1": {"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"},
    "avx512 bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "sse4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}
SECONDS = 120
_PROGRAM = re.compile(r"(?ms)(?:<!-- own process: (?P<why>[^\n]+) -->\n)?```python\n(?P<code>.*?)^```$")
_FORKS = """
import json, os, resource, signal, sys
import torch
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no files of dead processes

def run(code):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        signal.alarm({seconds})
        exec(compile(code, "program", "exec"), {{"__name__": "__main__"}})
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading, errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text

print(json.dumps([run(code) for code in json.load(sys.stdin)]))
"""


@dataclass(frozen=True)
class Program:
    """The program of a page: the first block of Python."""

    name: str
    code: str
    why: str
    """Why it runs in a process of its own; empty where it need not."""

    @property
    def needs(self) -> list[str]:
        """Packages that it takes besides torch."""
        words = self.why.removeprefix("needs ").partition(", and ")[0]
        return words.split(", ") if self.why.startswith("needs ") else []

    @property
    def missing(self) -> str:
        """The first of them that is not installed; empty where all are."""
        return next((name for name in self.needs if find_spec(name.partition(".")[0]) is None), "")


def program_of(page: Path) -> Program:
    """The program of a page."""
    found = _PROGRAM.search(page.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{page.name} has no program")
    return Program(page.stem, found["code"], found["why"] or "")


def outcomes_of(programs: Sequence[Program], settings: Mapping[str, str] = SETTINGS["as it is"]) -> list[str]:
    """What came of each program: a word of the table."""
    there = [program for program in programs if not program.missing]
    done = subprocess.run(
        [sys.executable, "-c", _FORKS.format(seconds=SECONDS)],
        input=json.dumps([program.code for program in there]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"OMP_NUM_THREADS": "1", **os.environ, **settings},
    )
    ended = {program.name: _word(*one) for program, one in zip(there, json.loads(done.stdout), strict=True)}
    return [ended.get(program.name, f"no {program.missing}") for program in programs]


def _word(code: int, said: str) -> str:
    if code < 0:
        return "takes too long" if -code == signal.SIGALRM else "dies"
    last = (said.splitlines() or [""])[-1]
    return f"fails: {last}" if code else {"does not show here": "-"}.get(last, last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pages", type=Path, default=PAGES)
    options = parser.parse_args()
    names = options.names or sorted(page.stem for page in options.pages.glob("*.md"))
    width = max(map(len, names))
    programs = [program_of(options.pages / f"{name}.md") for name in names]
    columns = [outcomes_of(programs, way) for way in SETTINGS.values()]
    print(" " * width, *(name.rjust(12) for name in SETTINGS))
    for name, *words in zip(names, *columns, strict=True):
        print(name.ljust(width), *(word.rjust(12) for word in words))


if __name__ == "__main__":
    main()
