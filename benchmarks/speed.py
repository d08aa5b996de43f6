"""How fast it is: drawing, examples, verdicts, certificates, conversions, the suite. Exits with 1 short of an aim.

    OMP_NUM_THREADS=1 python benchmarks/speed.py                        # all but the suite, some minutes, 3 GiB
    OMP_NUM_THREADS=1 python benchmarks/speed.py --part examples --hypothesis-torch FOLDER
    OMP_NUM_THREADS=1 python benchmarks/speed.py --part suite --pytest "tests/laws/test_laws.py --equiv-dtypes float32"

drawing: tensors a second, against hypothesis-torch and hypothesis.extra.numpy; see drawing.py. examples: a law's
example against Hypothesis's own floor (the same draws, empty body) plus the bare torch calls of its three forms, and
verdicts a second against a suite built on hypothesis-torch. verdicts: ``compare`` against the two layers it is about.
certificate: VGG-16's first layer against its full form by random probes, over one forward pass of both at batch 16; see
certificate.py. conversion: that layer's time and memory, shared and copied. suite: seconds of pytest by number of
workers. Figures are medians of ratios within a run; on a shared machine only those tell something.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

import _common
import _examples
import _layers
import _timing
import certificate
import drawing

PARTS = ("drawing", "examples", "verdicts", "certificate", "conversion", "suite")


def suite(workers: list[int], arguments: str) -> bool:
    """Seconds of the suite by number of workers; whether it passes."""
    print(f"pytest {arguments}, seconds by number of workers")
    right, first = True, 0.0
    for count in workers:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(count)]
        start = time.perf_counter()
        run = subprocess.run(
            [*command, *shlex.split(arguments)], capture_output=True, text=True, check=False,
            cwd=Path(__file__).resolve().parents[1],
        )  # fmt: skip
        seconds = time.perf_counter() - start
        first = first or seconds
        closing = (run.stdout.strip().splitlines() or [run.stderr.strip()])[-1]
        print(f"{count:>3}{seconds:>9.0f} s{first / seconds:>8.2f} times as fast as the first   {closing}", flush=True)
        right &= run.returncode == 0
    return right


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = _common.parser(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS[:-1]))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--examples", type=int, default=100, help="oneDNN remembers about 300 sizes of 16-bit layers")
    parser.add_argument("--dtypes", nargs="+", choices=_examples.DTYPES, default=list(_examples.DTYPES))
    parser.add_argument("--in-channels", type=int, default=_layers.VGG[0][0], help="of the 7 x 7 map; VGG-16: 512")
    parser.add_argument("--outputs", type=int, default=_layers.VGG[1])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--pytest", default="tests", help="what the suite part hands to pytest")
    _timing.add_hypothesis_torch(parser)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    asked = arguments(given)
    theirs = _timing.hypothesis_torch(asked.hypothesis_torch)
    print(_timing.versions(), flush=True)
    right = True
    for part in asked.part:
        print(f"\n{part}\n")
        if part == "drawing":
            drawing.report(3 * asked.examples, asked.repeats, theirs)
        elif part == "examples":
            right &= _examples.report(asked.dtypes, asked.examples, asked.repeats, theirs)
        elif part == "verdicts":
            _layers.verdicts(asked.repeats)
        elif part == "certificate":
            right &= certificate.cost(asked.repeats, asked.in_channels, asked.outputs)
        elif part == "conversion":
            right &= _layers.conversion(asked.repeats, (asked.in_channels, 7, 7), asked.outputs)
        else:
            right &= suite(asked.workers, asked.pytest)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
