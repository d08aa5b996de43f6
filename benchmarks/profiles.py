"""How often each profile is recognised in generated layers, and how often one is claimed where there is none.

    python benchmarks/profiles.py --layers 200

Layers have 1 to 1024 inputs, with and without bias, of which ``equiv.compare`` calls the results DIFFERENT: what lies
in the envelope of right kernels has no cause. A profile counts as recognised where its name and its parts are right and
its arithmetic lets the very results pass.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.nn.functional import linear

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from profile_kernels import PROFILES, UNRELATED, layer

import equiv

_SIZES = (1, 3, 8, 16, 24, 64, 100, 256, 512, 1024)


def cases(count: int):
    """Seeded layers: inputs, weight and bias or None."""
    draw = random.Random(0)
    for seed in range(count):
        n, outputs, rows = draw.choice(_SIZES), draw.choice((4, 8, 32, 64)), draw.choice((4, 8, 16, 32))
        yield seed, layer(seed, n, outputs, rows, bias=draw.random() < 0.5)


def recognised(key: str, count: int) -> Counter[str]:
    """What becomes of one profile."""
    run, name, words = PROFILES[key]
    found: Counter[str] = Counter()
    for _, (x, w, b) in cases(count):
        y, right = run(x, w, b), linear(x, w, b)
        cause = equiv.compare(y, right, input=x, weight=w, bias=b).cause
        if equiv.compare(y, right, input=x, weight=w, bias=b).equivalent:
            found["inside the envelope"] += 1
        elif cause is None:
            found["not named"] += 1
        elif cause.name != name or not all(word in cause.sentence for word in words):
            found[f"named {cause.name}"] += 1
        else:
            again = equiv.compare(y, y, input=x, weight=w, bias=b, arithmetic=cause.arithmetic)
            found["recognised" if "all of `actual` is inside" in again.explanation else "not allowed"] += 1
    return found


def claimed(key: str, count: int) -> Counter[str]:
    """What becomes of differences that are no profile."""
    found: Counter[str] = Counter()
    for seed, (x, w, b) in cases(count):
        y = UNRELATED[key](x, w, b, torch.Generator().manual_seed(seed))
        cause = equiv.compare(y, linear(x, w, b), input=x, weight=w, bias=b).cause
        found["no profile" if cause is None or cause.arithmetic is None else f"claimed {cause.name}"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    options = parser.parse_args()
    for table, count in ((PROFILES, recognised), (UNRELATED, claimed)):
        for key in table:
            if not options.only or any(part in key for part in options.only):
                print(f"{key:28} {dict(count(key, options.layers))}", flush=True)


if __name__ == "__main__":
    main()
