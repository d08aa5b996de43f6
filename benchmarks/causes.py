"""How often each named mistake is recognised in generated cases, claimed where it is not, and undone by its mend.

    python benchmarks/causes.py                 # 10 cases of each
    python benchmarks/causes.py --cases 200
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import time
import warnings

import _common
from generated_causes import case, exchanged, fixed, mended, seen
from named_mistakes import MISTAKES, Mistake

from equiv import Cause

warnings.filterwarnings("ignore", "Using padding='same'")


def tried(key: str, mistake: Mistake, count: int, show: int = 0) -> Counter[str]:
    """What becomes of one mistake in this many cases."""
    found: Counter[str] = Counter()
    seed = -1
    while found["cases"] < count and seed < 40 * count:
        seed += 1
        bias = mistake.bias if mistake.bias is not None else seed % 3 > 0
        it = case(seed, mistake.forms, mistake.dtypes, square=mistake.square, bias=bias)
        if not mistake.fits(it):
            continue
        way = mistake.seen_in[seed % len(mistake.seen_in)]
        wrong = fixed(it, mistake.plant(it))
        cause = seen(it, wrong, way)
        if cause == "equal":
            found["equal"] += 1
            continue
        found["cases"] += 1
        right = isinstance(cause, Cause) and cause.name in mistake.called(way)
        right = right and all(word in cause.sentence for word in mistake.words)
        found["recognised" if right else f"as {getattr(cause, 'name', 'nothing')}"] += 1
        try:
            at = exchanged(it, wrong) if way == "layers exchanged" and wrong.layer is not None else (it, wrong)
            fits = cause is not None and mended(*at, cause)
        except Exception as error:
            fits = False
            if show > 0:
                print("   ", type(error).__name__, str(error).splitlines()[0][:150], "|", cause.fix)
        found["mended"] += fits
        if show > 0 and not (right and fits):
            show -= 1
            kind = f"{it.form} {tuple(it.layer.weight.shape)} on {it.shape} {it.x.dtype} seed {seed}"
            print("   ", way, "|", kind, "|", cause, "|", getattr(cause, "fix", None), "| mended", fits)
    return found


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    parser.add_argument("--show", type=int, default=0, help="so many cases of each that are not recognised or mended")
    options = parser.parse_args()
    for key, mistake in MISTAKES.items():
        if not options.only or any(part in key for part in options.only):
            started = time.perf_counter()
            found = tried(key, mistake, options.cases, options.show)
            print(f"{key:32} {dict(found)} {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
