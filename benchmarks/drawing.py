"""How fast float32 tensors are drawn, and how many are full of distinct entries: ours, hypothesis-torch, NumPy's.

    python benchmarks/drawing.py [--examples 300] [--repeats 3] [--hypothesis-torch FOLDER]   # about a minute

Every contender runs in this process under the same settings, with Hypothesis's plug-ins off: the one that comes with
hypothesis-torch reseeds torch before every example of every test in the environment, which would slow down all rows.
"full" is the share of examples in which every entry is non-zero, "distinct" the share in which no two entries are
equal. Rates are examples per second of processor time, the median of the repeats; "good" is the rate of full and
distinct ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import _common
import numpy as np
import torch
from _timing import add_hypothesis_torch, hypothesis_torch, seconds_under_hypothesis
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


def contenders(theirs: ModuleType | None) -> dict[str, Callable[[int], st.SearchStrategy[Any]]]:
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
    if theirs is not None:
        found["hypothesis-torch"] = lambda n: theirs.tensor_strategy(torch.float32, n)
        found["hypothesis-torch, no fill"] = lambda n: theirs.tensor_strategy(torch.float32, n, **dense)
    return found


def measure(name: str, size: int, strategy: st.SearchStrategy[Any], examples: int) -> Row:
    drawn: list[Any] = []
    try:
        seconds = seconds_under_hypothesis(
            strategy, lambda value: drawn.append(value), examples
        )  # given needs a function
    except Exception as error:  # Hypothesis gives up: that is the finding
        return Row(name, size, failure=type(error).__name__)
    flats = [np.asarray(torch.as_tensor(value).detach()).reshape(-1) for value in drawn]
    full = [bool((flat != 0).all()) for flat in flats]
    distinct = [len(np.unique(flat)) == size for flat in flats]
    both = sum(a and b for a, b in zip(full, distinct, strict=True))
    n = len(drawn)
    return Row(name, size, n / seconds, sum(full) / n, sum(distinct) / n, both / seconds)


def report(examples: int, repeats: int, theirs: ModuleType | None) -> None:
    """The table, and the last size in words."""
    rows: dict[tuple[str, int], list[Row]] = {}
    entrants = contenders(theirs)
    for _ in range(repeats):
        for size in SIZES:  # contenders in turn, so that a busy moment hits all of them
            for name, make in entrants.items():
                dense = name.endswith("no fill")  # they take seconds to give up, and do at the second size already
                measured = rows.setdefault((name, size), [])
                if not (dense and (size > SIZES[1] or measured)):
                    measured.append(measure(name, size, make(size), 5 if dense else examples))
    heads = {"": "28", "entries": ">8", "examples/s": ">12.0f"}
    table = _common.Table({**heads, "full": ">7.0%", "distinct": ">10.0%", "good/s": ">9.0f"})
    for (name, size), measured in sorted(rows.items(), key=lambda item: list(entrants).index(item[0][0])):
        if measured and measured[0].failure:
            table.row(name, size, f"   {measured[0].failure}")
        elif measured:
            row = sorted(measured, key=lambda row: row.rate)[len(measured) // 2]
            table.row(name, size, row.rate, row.full, row.distinct, row.good)
    others = rows.get(("hypothesis-torch", SIZES[-1]))
    if others and not others[0].failure:
        pairs = zip(
            rows["equiv, kinds=distinct", SIZES[-1]], others, rows["floor: one integer", SIZES[-1]], strict=True
        )
        ratios = sorted(
            (a.good / b.rate, a.rate / b.rate, (1 / b.rate - 1 / c.rate) / (1 / a.rate - 1 / c.rate))
            for a, b, c in pairs
        )
        good, any_, above = ratios[len(ratios) // 2]
        print(f"\n{SIZES[-1]} entries, equiv against hypothesis-torch: {any_:.1f} times the examples a second;")
        print(f"counting ours only if full and distinct, theirs all: {good:.1f} (aim: {TARGET:.0f});")
        print(f"time above that of an example with one integer: 1 / {above:.1f}")


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    add_hypothesis_torch(parser)
    options = parser.parse_args()
    report(options.examples, options.repeats, hypothesis_torch(options.hypothesis_torch))


if __name__ == "__main__":
    main()
