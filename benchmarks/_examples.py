"""The cost of an example of a law: against the same draws alone, with bare torch calls, and a plain suite."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from _timing import median_ratio, under_hypothesis
from hypothesis import strategies as st
from torch.nn import functional

from equiv.backends import TorchEager
from equiv.laws import items, run_item
from equiv.laws.registry import Context
from equiv.strategies import Case

CONVS: dict[int, Callable[..., torch.Tensor]] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
DTYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128", "int32")
JUDGED = ("forward", "exact")
MOST, LEAST_RATE = 2.0, 5.0
Sizes = tuple[tuple[int, ...], int, int]  # feature shape, outputs, rows


@dataclass
class Cost:
    """Milliseconds an example, each the median of the repeats, and ratios of the same repeat."""

    floor: float
    bare: float
    total: float
    over: float
    rate: float


def bare_calls(case: Case) -> None:
    """The three forms of a case as a user would call them: views, and torch's functions."""
    rows = case.x.reshape(-1, case.weight.shape[1])
    dims = len(case.feature_shape) - 1
    ones = (1,) * dims
    functional.linear(case.x, case.weight, case.bias)
    conv = CONVS[dims]
    conv(rows.view(-1, *case.feature_shape), case.weight.view(-1, *case.feature_shape), case.bias)
    conv(rows.view(*rows.shape, *ones), case.weight.view(*case.weight.shape, *ones), case.bias)


def cost(law: str, dtype: str, examples: int, repeats: int) -> tuple[Cost, list[Sizes]]:
    """One law in one dtype; the cases of all runs are the same, and torch has met their sizes before."""
    [item] = items([TorchEager()], laws=[law], dtypes=[dtype])
    strategy = item.law.draw(Context(item.dtype, torch.device("cpu"), False))
    seed = zlib.crc32(f"0:{item.id}".encode())  # what run_item makes of seed 0
    sizes: list[Sizes] = []

    def remember(case: Case) -> None:
        sizes.append((case.feature_shape, case.weight.shape[0], case.x.numel() // case.weight.shape[1]))

    under_hypothesis(strategy, remember, examples, seed=seed)
    runs: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):
        floor = under_hypothesis(strategy, lambda _case: None, examples, seed=seed)
        calls = under_hypothesis(strategy, bare_calls, examples, seed=seed)
        start = time.process_time()
        result = run_item(item, profile="gate", examples=examples, seed=0)
        runs.append((floor, calls, time.process_time() - start))
        assert result.failure is None, result.failure
    assert result.examples == len(sizes), "the runs drew other cases"
    floors, calls_, totals = (list(column) for column in zip(*runs[1:], strict=True))  # the first one warms up
    each = 1e3 / len(sizes)
    found = Cost(
        statistics.median(floors) * each,
        statistics.median(b - a for a, b in zip(floors, calls_, strict=True)) * each,
        statistics.median(totals) * each,
        median_ratio(totals, calls_),
        sum(tally.judged for tally in result.forms.values()) / statistics.median(totals),
    )
    return found, sizes


def plain_rate(theirs: ModuleType, sizes: list[Sizes], elements: Any, repeats: int) -> tuple[float, int]:
    """Comparisons a second of a suite built on hypothesis-torch, at the same sizes, and how many fail.

    One example is a layer and an input drawn by ``tensor_strategy``, and one ``assert_close`` of Linear and full form.
    """
    failed = ran = 0
    options = {"layout": torch.strided, "device": torch.device("cpu"), "requires_grad": False, "elements": elements}

    @st.composite
    def layers(draw: st.DrawFn) -> tuple[Any, ...]:
        shape, outputs, rows = draw(st.sampled_from(sizes))
        n = int(torch.Size(shape).numel())
        x = draw(theirs.tensor_strategy(torch.float32, (rows, n), **options))
        weight = draw(theirs.tensor_strategy(torch.float32, (outputs, n), **options))
        bias = draw(theirs.tensor_strategy(torch.float32, (outputs,), **options)) if draw(st.booleans()) else None
        return shape, x, weight, bias

    def body(drawn: tuple[Any, ...]) -> None:
        nonlocal failed, ran
        shape, x, weight, bias = drawn
        ran += 1
        y = functional.linear(x, weight, bias)
        z = CONVS[len(shape) - 1](x.view(-1, *shape), weight.view(-1, *shape), bias).flatten(1)
        try:
            torch.testing.assert_close(z, y, equal_nan=True)
        except AssertionError:
            failed += 1

    rates = []
    for repeat in range(repeats + 1):
        ran = failed = 0
        seconds = under_hypothesis(layers(), body, len(sizes))
        rates += [ran / seconds] if repeat else []
    return statistics.median(rates), failed


def report(dtypes: list[str], examples: int, repeats: int, theirs: ModuleType | None) -> bool:
    """Both tables; whether float32 stays within the aims."""
    print("An example of a law, milliseconds of processor time: the draws alone, torch's calls, everything.")
    print(f"{'dtype':<12}{'law':<10}{'draws':>8}{'calls':>8}{'all':>8}{'all / (draws + calls)':>24}{'verdicts/s':>12}")
    right, best, sizes = True, 0.0, []
    for word in dtypes:
        for name in JUDGED:
            found, met = cost(name, word, examples, repeats)
            print(
                f"{word:<12}{name:<10}{found.floor:>8.2f}{found.bare:>8.2f}{found.total:>8.2f}{found.over:>24.2f}"
                f"{found.rate:>12.0f}",
                flush=True,
            )
            if (word, name) == ("float32", "forward"):
                sizes, best = met, found.rate
                right &= found.over <= MOST
    print(f"aim: at most {MOST:.0f} in float32")
    if theirs is None or not sizes:
        return right
    print("\nVerdicts a second at the sizes of law forward in float32, one core:")
    print(f"{'equiv: draw, three forms, each judged against its envelope':<72}{best:>8.0f}")
    rates = []
    for what, elements in (("any floats", None), ("floats in -4..4", st.floats(-4, 4, width=32))):
        rate, failed = plain_rate(theirs, sizes, elements, min(repeats, 3))
        rates.append(rate)
        print(f"{f'hypothesis-torch, {what}: one assert_close ({failed} of {len(sizes)} fail)':<72}{rate:>8.0f}")
    print(f"equiv over the faster of them: {best / max(rates):.1f} (aim: {LEAST_RATE:.0f})")
    return right and best >= LEAST_RATE * max(rates)
