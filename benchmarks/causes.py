"""How often each named mistake is recognised in generated cases, claimed where it is not, and undone by its mend.

    python benchmarks/causes.py                 # 10 cases of each
    python benchmarks/causes.py --cases 200

The cases, mistakes and ways to see them are in ``tests/helpers/generated_causes.py`` and ``named_mistakes.py``, what no
named mistake explains in ``unnamed_differences.py``. ``claimed`` counts the other cases that are given the name of the
mistake. Of two mistakes at once both are named, as one that is exactly what the two make together, or none is.
Exits with 1 where a mistake is missed, claimed wrongly or not mended.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import _common
from generated_causes import Found, tried, two_at_once, unnamed
from named_mistakes import MISTAKES
from unnamed_differences import PAIRS, UNNAMED, both

_COLUMNS = {"planted": "34", "name": "28", "cases": ">6,", "recognised": ">11,", "mended": ">7,", "seconds": ">9.1f"}


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    parser.add_argument("--show", type=int, default=0, help="so many cases of each that are not recognised or mended")
    options = parser.parse_args()
    claims: Counter[str] = Counter()
    bad = 0

    def asked(key: str) -> bool:
        return not options.only or any(part in key for part in options.only)

    def note(found: Found) -> None:
        nonlocal bad
        bad += found.bad
        claims.update(found.claims)
        for line in found.failures[: options.show]:
            print("   ", line)

    table = _common.Table(_COLUMNS)
    for key in filter(asked, MISTAKES):
        started = time.perf_counter()
        found = tried(MISTAKES[key], options.cases)
        seconds = time.perf_counter() - started
        table.row(key, MISTAKES[key].name, found.cases, found.recognised, found.mended, seconds)
        note(found)
    for key in filter(asked, UNNAMED):
        found = unnamed(key, UNNAMED[key], options.cases)
        print(f"{key:40} {found.cases:,} differences, {found.bad} with a name")
        note(found)
    pairs = [pair for pair in PAIRS if asked(" and ".join(pair))]
    found = Found()
    for pair in pairs:
        found += two_at_once(both(*pair), max(1, options.cases // 10))
    note(found)
    print(f"two mistakes at once: {found.cases:,} cases, {found.recognised:,} explained, {found.bad} in part alone")
    print(f"claimed wrongly: {dict(claims) or 'never'}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
