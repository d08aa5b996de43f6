"""Formats are those that rounding shows; bits, ordinals and neighbours are exact."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numerics_helpers import RUN, f64, fraction, nearest, word

from equiv.dtypes import DTYPES, FLOATS
from equiv.numerics import (
    bit_equal,
    format_of,
    from_ordinal,
    ordinal,
    round_down,
    round_up,
    same_bits,
    surely_bit_equal,
)

NARROW = (torch.float32, torch.float16, torch.bfloat16)
doubles = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("dtype", NARROW, ids=word)
@RUN
@given(st.one_of(doubles, st.floats(-1e-37, 1e-37), st.floats(-70000, 70000)))
def test_rounding_outwards_brackets_a_value_with_nothing_between(dtype, value):
    v = f64(value)
    low, high = round_down(v, dtype), round_up(v, dtype)
    assert low.double() <= v <= high.double()
    steps = int(ordinal(high) - ordinal(low))
    assert steps == (0 if low.double() == v else 1)


@pytest.mark.parametrize("dtype", NARROW, ids=word)
def test_rounding_outwards_at_the_edges_of_the_range(dtype):
    fmt = format_of(dtype)
    nu, top = fmt.min_subnormal, fmt.max
    between = f64(nu / 2, -nu / 2, fmt.min_normal - nu / 2, top * (1 + 2**-40), -top * (1 + 2**-40), 1e300, -1e300)
    assert round_down(between, dtype).tolist() == [0, -nu, fmt.min_normal - nu, top, -math.inf, top, -math.inf]
    assert round_up(between, dtype).tolist() == [nu, 0, fmt.min_normal, math.inf, -top, math.inf, -top]
    kept = f64(0.0, nu, -nu, fmt.min_normal, top, -top, math.inf, -math.inf)
    assert torch.equal(round_down(kept, dtype).double(), kept)
    assert torch.equal(round_up(kept, dtype).double(), kept)


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_format_constants_are_those_that_rounding_shows(dtype):
    fmt = format_of(dtype)
    one = torch.ones((), dtype=dtype)
    assert from_ordinal(ordinal(one) + 1, dtype).item() - 1 == 2 * fmt.u
    assert from_ordinal(torch.tensor(1), dtype).item() == fmt.min_subnormal
    assert from_ordinal(ordinal(torch.tensor(math.inf, dtype=dtype)) - 1, dtype).item() == fmt.max
    if dtype != torch.float64:
        assert f64(fmt.overflow).to(dtype).item() == math.inf
        assert f64(math.nextafter(fmt.overflow, 0)).to(dtype).item() == (
            fmt.max if dtype == torch.float32 else f64(fmt.overflow).float().to(dtype).item()  # torch rounds by float32
        )
        assert nearest(fraction(math.nextafter(fmt.overflow, 0)), fmt) == fraction(fmt.max)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=word)
def test_ordinals_of_every_16_bit_pattern_come_back_in_order(dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[~values.isnan()]
    order = ordinal(values)
    assert torch.equal(from_ordinal(order, dtype), values + 0.0)  # -0.0 comes back as 0.0
    assert (values[order.argsort()].double().diff() >= 0).all()
    assert order.unique().diff().eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=word)
@RUN
@given(finite)
def test_ordinals_come_back_and_neighbours_differ_by_one(dtype, value):
    v = torch.tensor(value, dtype=dtype)
    assert from_ordinal(ordinal(v), dtype) == v
    assert int(ordinal(torch.nextafter(v, torch.tensor(math.inf, dtype=dtype))) - ordinal(v)) in (0, 1)


def test_bits_of_nan_are_equal_and_zeros_of_both_signs_are_not():
    nan, other = torch.tensor([math.nan]), (torch.tensor([math.inf]) - math.inf)
    assert bit_equal(nan, other)
    assert not bit_equal(torch.tensor([0.0]), torch.tensor([-0.0]))
    pair = torch.tensor([complex(math.nan, 1.0)]), torch.tensor([complex(math.nan, 2.0)])
    assert same_bits(*pair).tolist() == [False]
    assert not bit_equal(torch.zeros(2), torch.zeros(2, 1))
    assert bit_equal(torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j]))


@pytest.mark.parametrize("numel", [9000, 9001, 9007])
@pytest.mark.parametrize("dtype", DTYPES, ids=word)
def test_large_tensors_surely_bit_equal_are_those_without_another_bit(dtype, numel):
    generator = torch.Generator().manual_seed(numel)
    numbers = torch.randint(0, 256, (numel * dtype.itemsize,), generator=generator, dtype=torch.uint8)
    a = numbers.clone().view(dtype)
    assert surely_bit_equal(a, a.clone())
    assert surely_bit_equal(a[8:], a.clone()[8:])
    for place in (0, 1, len(numbers) // 2, len(numbers) - 1):
        changed = numbers.clone()
        changed[place] ^= 1
        assert not surely_bit_equal(a, changed.view(dtype))
        assert not surely_bit_equal(changed.view(dtype), a)


def test_tensors_that_lie_otherwise_are_not_surely_bit_equal():
    a = torch.randn(128, 64, 2)
    assert surely_bit_equal(a, a.clone())
    for b in (a[:, ::2], a.transpose(0, 1), torch.view_as_complex(a).conj(), a[:2], a.view(-1)[1:]):
        assert not surely_bit_equal(b, b.clone())
    assert not surely_bit_equal(a, a.view(torch.int32))
    assert not surely_bit_equal(a, a.view(64, 128, 2))
    zeros = torch.zeros(4096)
    assert not surely_bit_equal(zeros, -zeros)
