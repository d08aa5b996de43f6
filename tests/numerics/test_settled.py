"""Outputs that their terms settle: right kernels of every order give what is said, and nothing else is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from equiv.numerics import declared, round_nearest, two_sum
from equiv.numerics.settled import Terms, last_bit, settled_error, two_term_bounds

ROWS = 16


def rounded(values: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """A sum of two float64 rounded once: its second word only says on which side of the first it lies."""
    s, e = values
    beside = torch.nextafter(s, torch.where(e > 0, math.inf, -math.inf).double())
    return round_nearest(torch.where(e == 0, s, beside), dtype)


def accumulators(x: Tensor, w: Tensor, b: Tensor):
    """Sums in every order of the terms, in float32 with and without fused multiply-add, and in float64."""
    for order in itertools.permutations(range(x.shape[1] + 1)):
        for precision, fused in ((torch.float32, False), (torch.float32, True), (torch.float64, False)):
            acc = torch.zeros(len(x), dtype=precision)
            for j in order:
                if j == x.shape[1]:
                    acc = acc + b.to(precision)
                elif fused:
                    acc = rounded(two_sum(x[:, j].double() * w[:, j].double(), acc.double()), precision)
                else:
                    acc = acc + x[:, j].to(precision) * w[:, j].to(precision)
            yield acc.double()


def cases(dtype: torch.dtype):
    g = torch.Generator().manual_seed(1)
    for i in range(60):
        n = i % 3 + 1
        if i % 2:
            x = torch.randint(-300, 301, (ROWS, n), generator=g) / (1, 2, 64)[i % 3]
            w, b = torch.randint(-9, 10, (ROWS, n), generator=g), torch.randint(-9, 10, (ROWS,), generator=g) * (i % 4)
        else:
            x = torch.randn(ROWS, n, generator=g) * torch.exp2(torch.randint(-9, 10, (ROWS, n), generator=g))
            w, b = torch.randn(ROWS, n, generator=g), torch.randn(ROWS, generator=g) * (0, 1, 2.0**-20)[i % 3]
        yield x.to(dtype), w.to(dtype), b.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_order_leaves_what_is_settled(dtype):
    arithmetic, settled, bounded = declared(dtype), 0, 0
    for x, w, b in cases(dtype):
        terms = Terms(x.double(), w.double(), b.double())
        exact = terms.all.sum(1)
        error, (lower, upper) = settled_error(terms, arithmetic), two_term_bounds(terms, arithmetic)
        settled, bounded = settled + int(error.isfinite().sum()), bounded + int(lower.isfinite().sum())
        for acc in accumulators(x, w, b):
            assert bool(((acc - exact).abs() <= error).all()), (x, w, b)
            if dtype == torch.float32:
                y = acc.float().double()
                assert bool(((lower <= y) & (y <= upper)).all()), (x, w, b)
    assert settled > 200
    assert (bounded > 200) == (dtype == torch.float32)


def test_sums_that_some_order_rounds_are_not_settled():
    big = 2.0**24
    x = torch.tensor([[big, 1.0, -big], [big / 2, 1.0, big / 2 - 2], [big / 2, 1.0, big / 2]]).double()
    error = settled_error(Terms(x, torch.ones_like(x), torch.zeros(3).double()), declared(torch.float32))
    assert error.tolist() == [math.inf, 0.0, math.inf]


def test_subnormals_that_may_be_flushed_settle_nothing():
    x = torch.tensor([[2.0**-130, 2.0**-131]]).double()
    terms = Terms(x, torch.ones_like(x), torch.zeros(1).double())
    assert settled_error(terms, declared(torch.float16)).item() == 0
    assert settled_error(terms, declared(torch.bfloat16)).item() == math.inf


def test_the_last_bit_of_every_power_of_two_and_of_what_is_odd():
    exponents = torch.arange(-1074, 1024)
    powers = torch.ldexp(torch.ones(1, dtype=torch.float64).expand(len(exponents)), exponents)
    assert torch.equal(last_bit(powers), exponents)
    assert last_bit(torch.tensor([3.0, -5.0, 1 + 2.0**-52], dtype=torch.float64)).tolist() == [0, 0, -52]
