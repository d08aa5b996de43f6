"""The cost of an example of a law: against the same draws alone, with bare torch calls, and a plain suite."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from types import ModuleType
from typing import Any

import _common
import torch
from _timing import seconds_under_hypothesis
from hypothesis import strategies as st
from torch.nn import functional

from equiv.backends import TorchEager
from equiv.laws import Context, Trial, items, run_item
from equiv.strategies import Case

CONVS: dict[int, Callable[..., torch.Tensor]] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
DTYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128", "int32")
JUDGED = ("forward", "exact")
MOST, LEAST_RATE = 2.0, 20.0
Sizes = tuple[tuple[int, ...], int, int]  # feature shape, outputs, rows


@dataclass
class Cost:
    """Milliseconds an example, each the median of the repeats, and ratios of the same repeat."""

    floor: float
    calls: float
    check: float
    everything: float
    over: float
    beside: float
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
    """One law in one dtype: ``run_item``, with the bare calls made beside each example's check.

    Which of the two comes first alternates, since torch prepares a kernel when it meets a size first. The floor is a
    run of its own, just before: the same draws, an empty body.
    """
    [item] = items([TorchEager()], laws=[law], dtypes=[dtype])
    strategy = item.law.draw(Context(item.dtype, torch.device("cpu"), False))
    seed = zlib.crc32(f"0:{item.id}".encode())  # what run_item makes of seed 0
    spent = {"calls": 0.0, "check": 0.0}
    sizes: list[Sizes] = []
    verdicts = 0

    def timed(name: str, call: Callable[[], object]) -> None:
        start = time.process_time()
        call()
        spent[name] += time.process_time() - start

    def check(trial: Trial, case: Case) -> None:
        sizes.append((case.feature_shape, case.weight.shape[0], case.x.numel() // case.weight.shape[1]))
        both = [("calls", lambda: bare_calls(case)), ("check", lambda: item.law.check(trial, case))]
        for name, call in both[:: 1 if len(sizes) % 2 else -1]:
            timed(name, call)

    watched = replace(item, law=replace(item.law, check=check))
    runs: list[tuple[float, ...]] = []
    for _ in range(repeats + 1):  # the first one warms up
        spent.update(calls=0.0, check=0.0)
        sizes.clear()
        floor = seconds_under_hypothesis(strategy, lambda _case: None, examples, seed=seed)
        start = time.process_time()
        result = run_item(watched, profile="gate", examples=examples, seed=0)
        everything = time.process_time() - start - spent["calls"]
        runs.append(tuple(1e3 * t / len(sizes) for t in (floor, spent["calls"], spent["check"], everything)))
        assert result.failure is None, result.failure
        verdicts = sum(tally.judged for tally in result.forms.values())
    floor, calls, checks, each = (statistics.median(column) for column in zip(*runs[1:], strict=True))
    over = statistics.median(every / (draws + call) for draws, call, _, every in runs[1:])
    beside = statistics.median(every / (every - check + call) for _, call, check, every in runs[1:])
    return Cost(floor, calls, checks, each, over, beside, 1e3 * verdicts / len(sizes) / each), list(sizes)


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
        seconds = seconds_under_hypothesis(layers(), body, len(sizes))
        rates += [ran / seconds] if repeat else []
    return statistics.median(rates), failed


def report(dtypes: list[str], examples: int, repeats: int, theirs: ModuleType | None) -> bool:
    """Both tables; whether law forward stays within the aims in every dtype."""
    print("An example of a law, milliseconds of processor time. floor: its draws, an empty body; calls: torch's own;")
    print("check: the law's, these calls included; all: the whole run; over: all / (floor + calls); beside: with")
    print("the draws of the very run, which share its caches.")
    figures = dict.fromkeys(("floor", "calls", "check", "all", "over", "beside"), ">8.2f")
    table = _common.Table({"dtype": "12", "law": "10", **figures, "verdicts/s": ">12.0f"})
    right, best, sizes = True, 0.0, []
    for word in dtypes:
        for name in JUDGED:
            found, met = cost(name, word, examples, repeats)
            table.row(word, name, *astuple(found))
            if name == "forward":
                right &= found.over <= MOST
            if (word, name) == ("float32", "forward"):
                sizes, best = met, found.rate
    print(f"aim: at most {MOST:.0f} for law forward in every dtype")
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
