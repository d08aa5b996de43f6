"""How soon the deep profile finds an error a little too large, with and without its search for large errors.

    python benchmarks/targeted.py [--seeds 8] [--examples 600] [--law forward] [--only WORDS]   # half an hour

Float32 kernels whose sum is rounded to few bits where it has many terms: once, after its first half, or after every 32
terms. In each row: of how many seeds the fault was found, after how many cases in the median of these, and processor
seconds for each seed. The last rows are a right kernel, in which nothing is found: what the search costs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import Phase, settings
from torch import Tensor
from torch.nn import functional

from equiv.laws import Profile, items, run_item
from equiv.testing import Kernels

_BLOCK = 32


def rounded(t: Tensor, bits: int) -> Tensor:
    """Float32 numbers to so many bits of precision."""
    drop = 24 - bits
    whole = t.contiguous().view(torch.int32)
    return torch.where(t.isfinite(), ((whole + (1 << (drop - 1))) >> drop << drop).view(torch.float32), t)


def rounding(bits: int, least: int, *, once: bool) -> Callable[..., Tensor]:
    """A layer whose sum is rounded after its first half, or after each block, from ``least`` terms on."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n = x.shape[-1]
        if n < least:
            return functional.linear(x, weight, bias)
        step = -(-n // 2) if once else _BLOCK
        y = functional.linear(x[..., :step], weight[:, :step])
        for start in range(step, n, step):
            more = functional.linear(x[..., start : start + step], weight[:, start : start + step])
            y = rounded(y, bits) + more
        return y if bias is None else y + bias

    return linear


KERNELS = {
    f"{'once' if once else 'every 32 terms'} to {bits} bits from {least} terms on": rounding(bits, least, once=once)
    for once, least, several in ((True, 256, (14, 15)), (False, 256, (17, 18)), (False, 1024, (16,)))
    for bits in several
}
KERNELS["a right kernel"] = functional.linear


@contextmanager
def only_search(on: bool) -> Iterator[None]:
    """The deep profile with its search for large errors or without; never shrinking, and without a database."""
    plain = Profile.settings
    left_out = {Phase.shrink} if on else {Phase.shrink, Phase.target}

    def changed(self: Profile, **options: Any) -> settings:
        how = plain(self, **options)
        return settings(how, database=None, phases=[phase for phase in how.phases if phase not in left_out])

    Profile.settings = changed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Profile.settings = plain  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--law", default="forward")
    parser.add_argument("--only", default="", help="a part of a kernel's name")
    asked = parser.parse_args()
    for name, linear in KERNELS.items():
        if asked.only not in name:
            continue
        item = items([Kernels(linear=linear, name="few.bits")], laws=[asked.law], dtypes=["float32"])[0]
        for on in (False, True):
            start = time.process_time()
            with only_search(on):
                results = [
                    run_item(item, profile="deep", examples=asked.examples, seed=seed) for seed in range(asked.seeds)
                ]
            cases = [result.examples for result in results if result.failure is not None]
            worst = max(tally.max_ratio for result in results for tally in result.forms.values())
            tried = sum(result.examples for result in results)
            said = f"{len(cases)} of {asked.seeds}" + (f", after {statistics.median(cases):.0f}" if cases else "")
            seconds = time.process_time() - start
            how = "with" if on else "without"
            print(
                f"{name}, {how} search: {said}; largest error {worst:.2f} of its envelope; "
                f"{tried} cases, {1000 * seconds / tried:.2f} ms each",
                flush=True,
            )


if __name__ == "__main__":
    main()
