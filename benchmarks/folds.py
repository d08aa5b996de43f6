"""Right and wrong folds of batch norms, told apart in each dtype. Exits with 1 where a right one is called DIFFERENT.

    python benchmarks/folds.py --folds 100                # right and as many wrong ones, in each dtype
    python benchmarks/folds.py --folds 100 --results      # equiv.compare on results, instead of assert_equivalent

Every fold has a random layer (Linear, convolutions of 1 to 3 dimensions), a random batch norm, and one of six right
ways to compute it or twelve wrong ones (``tests/helpers/batch_norm_folds.py``). A wrong fold whose parameters are bit
for bit those of a right one is counted as ``same``: nobody can tell them apart. Mistakes with eps are made where
variances are small.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import batch_norm_folds as folds
import torch
from torch import nn

from equiv import NotEquivalent, Verdict, assert_equivalent, compare

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def judged(layer: Any, chain: Any, shape: tuple[int, ...], seed: int, *, results: bool) -> Verdict | None:
    """The verdict where it is not that they are equivalent."""
    if results:
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(16, *shape, generator=g).to(layer.weight.dtype)
        verdict = compare(layer(x), chain(x), input=x, layer=chain)
        return None if verdict else verdict
    try:
        assert_equivalent(layer, chain, feature_shape=shape if len(shape) > 1 else None, seed=seed)
    except NotEquivalent as error:
        return error.verdict
    return None


def same(layer: Any, pair: folds.Pair) -> bool:
    """Whether a layer has the parameters of a right fold, bit for bit."""
    rights = [fold(pair) for fold in folds.RIGHT.values()]
    return any(torch.equal(layer.weight, r.weight) and torch.equal(layer.bias, r.bias) for r in rights)


def count(dtype: torch.dtype, number: int, *, results: bool) -> Counter[str]:
    """Right folds that pass, wrong ones that are found and named, in one dtype."""
    found: Counter[str] = Counter()
    names = list(folds.WRONG)
    for seed in range(number):
        pair, shape = folds.random_pair(seed, dtype)
        way = list(folds.RIGHT)[seed % len(folds.RIGHT)]
        verdict = judged(folds.RIGHT[way](pair), nn.Sequential(*pair), shape, seed, results=results)
        found["right"] += verdict is None
        if verdict is not None:
            print(f"  a right fold is refused: {dtype}, seed {seed}, {way}: {verdict}")
        name = names[seed % len(names)]
        pair, shape = folds.random_pair(seed, dtype, small="eps" in name)
        while not folds.applies(name, pair):
            name = names[(names.index(name) + 1) % len(names)]
        layer = folds.WRONG[name](pair)
        if same(layer, pair):
            found["same"] += 1
            continue
        found["wrong"] += 1
        verdict = judged(layer, nn.Sequential(*pair), shape, seed, results=results)
        found["found"] += verdict is not None
        cause = None if verdict is None or verdict.cause is None else verdict.cause.name
        found["named"] += cause == name
        if cause != name:
            print(f"  {dtype}, seed {seed}, {name}: {'passes' if verdict is None else f'named {cause}'}")
    return found


def main() -> int:
    """Print a line for each dtype."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folds", type=int, default=100)
    parser.add_argument("--results", action="store_true")
    given = parser.parse_args()
    refused = 0
    for dtype in DTYPES:
        start = time.perf_counter()
        found = count(dtype, given.folds, results=given.results)
        refused += given.folds - found["right"]
        print(
            f"{dtype}: right folds that pass {found['right']} of {given.folds}; wrong ones found {found['found']} of "
            f"{found['wrong']}, named {found['named']} ({found['same']} the same as a right one); "
            f"{time.perf_counter() - start:.0f} s"
        )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
