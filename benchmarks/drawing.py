"""How fast float32 tensors are drawn, and how many are full of distinct entries: ours, hypothesis-torch, NumPy's.

    pip install --no-deps -c constraints.txt hypothesis-torch     # optional; its rows are left out without it
    python benchmarks/drawing.py [--examples 100] [--repeats 3]      # about two minutes

Every contender runs in this process under the same settings, with Hypothesis's plug-ins off: the one that comes with
hypothesis-torch reseeds torch before every example of every test in the environment, which would slow down all rows.
"full" is the share of examples in which every entry is non-zero, "distinct" the share in which no two entries are
equal. Rates are examples per second, the best of the repeats; "good" is the rate of full and distinct ones.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"  # before hypothesis is imported

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equiv import strategies as est

SIZES = (16, 1024, 16384)
TARGET = 10.0


@dataclass(frozen=True)
class Row:
    """What was measured of one contender at one size."""

    name: str
    size: int
    rate: float = 0.0
    full: float = 0.0
    distinct: float = 0.0
    good: float = 0.0
    failure: str = ""


def contenders() -> dict[str, Callable[[int], st.SearchStrategy[Any]]]:
    width = {"width": 32, "allow_nan": False, "allow_infinity": False}
    dense = {"elements": st.floats(**width), "fill": st.nothing()}
    found: dict[str, Callable[[int], st.SearchStrategy[Any]]] = {
        "floor: one integer": lambda n: st.integers(0, n),
        "equiv, kinds=distinct": lambda n: est.tensors((n,), kinds=("distinct",)),
        "equiv, kinds=normals": lambda n: est.tensors((n,), kinds=("normals",)),
        "equiv, all kinds": lambda n: est.tensors((n,)),
        "numpy arrays": lambda n: hnp.arrays(np.float32, n),
        "numpy arrays, no fill": lambda n: hnp.arrays(np.float32, n, **dense),
    }
    try:
        import hypothesis_torch as ht
    except ImportError:
        return found
    found["hypothesis-torch"] = lambda n: ht.tensor_strategy(torch.float32, n)
    found["hypothesis-torch, no fill"] = lambda n: ht.tensor_strategy(torch.float32, n, **dense)
    return found


def measure(name: str, size: int, strategy: st.SearchStrategy[Any], examples: int) -> Row:
    drawn: list[Any] = []

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def run(value: Any) -> None:
        drawn.append(value)

    start = time.perf_counter()
    try:
        run()
    except Exception as error:  # Hypothesis gives up: that is the finding
        return Row(name, size, failure=type(error).__name__)
    seconds = time.perf_counter() - start
    flats = [np.asarray(torch.as_tensor(value).detach()).reshape(-1) for value in drawn]
    full = [bool((flat != 0).all()) for flat in flats]
    distinct = [len(np.unique(flat)) == size for flat in flats]
    both = sum(a and b for a, b in zip(full, distinct, strict=True))
    n = len(drawn)
    return Row(name, size, n / seconds, sum(full) / n, sum(distinct) / n, both / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows: dict[tuple[str, int], Row] = {}
    for _ in range(options.repeats):
        for name, make in contenders().items():
            for size in SIZES[:2] if name.endswith("no fill") else SIZES:  # these give up at the second size already
                if rows.get((name, size), Row(name, size)).failure:
                    continue
                few = options.examples // 20 if name.endswith("no fill") else options.examples  # 1 s or more each
                row = measure(name, size, make(size), max(few, 5))
                best = rows.get((name, size))
                rows[name, size] = row if best is None or row.rate > best.rate else best
    print(f"{'':28}{'entries':>8}{'examples/s':>12}{'full':>7}{'distinct':>10}{'good/s':>9}")
    for row in rows.values():
        if row.failure:
            print(f"{row.name:28}{row.size:8}   {row.failure}")
        else:
            print(f"{row.name:28}{row.size:8}{row.rate:12.0f}{row.full:7.0%}{row.distinct:10.0%}{row.good:9.0f}")
    ours, theirs = rows["equiv, kinds=distinct", SIZES[-1]], rows.get(("hypothesis-torch", SIZES[-1]))
    if theirs is not None:
        print(f"\n{SIZES[-1]} entries, full and distinct, against any from hypothesis-torch: ", end="")
        print(f"{ours.good / theirs.rate:.1f} times as many a second (aim: {TARGET:.0f})")


if __name__ == "__main__":
    main()
