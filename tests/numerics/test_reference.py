"""Sums in double-double and in integers are as exact as they say."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import RUN, exact_sum, f64, fraction

from equiv.numerics import dot_double_double, exact_affine, exact_integers, format_of


@settings(max_examples=150)
@given(st.data())
def test_double_double_is_as_exact_as_it_says(data):
    n = data.draw(st.integers(1, 9))
    widest = data.draw(st.sampled_from((30, 400, 402, 1074)))  # products of moderate numbers are not scaled
    exponents = st.integers(-widest, min(widest, 1023))
    number = st.builds(math.ldexp, st.floats(0.5, 1).flatmap(lambda v: st.sampled_from((v, -v, 0.0))), exponents)
    x, w = (data.draw(st.lists(number, min_size=n, max_size=n)) for _ in range(2))
    if data.draw(st.booleans()):  # cancel all but a little
        x, w = x + [-v for v in x], w + [v * (1 + data.draw(st.sampled_from((0, 2**-52, 2**-40)))) for v in w]
    b = data.draw(st.none() | number)
    s, size, _ = exact_sum(f64(*x), f64(*w), b)
    if size > fraction(format_of(torch.float64).max):
        return
    bias = None if b is None else f64(b)
    high, low = (t.item() for t in dot_double_double(f64(*x)[None], f64(*w)[None], bias))
    error = abs(fraction(high) + fraction(low) - s)
    assert error <= (len(x) + 1) ** 2 * Fraction(2) ** -103 * size + 4 * Fraction(2) ** -1074
    exact = exact_affine(f64(*x)[None], f64(*w)[None], bias)
    assert error <= fraction(exact.uncertainty)


def test_double_double_works_through_blocks_and_on_empty_shapes():
    x, w, b = (torch.randn(*s, dtype=torch.float64, generator=torch.Generator()) for s in ((70, 300), (90, 300), (90,)))
    high, low = dot_double_double(x, w, b)
    for row, column in ((0, 0), (69, 89), (33, 44)):
        s, size, _ = exact_sum(x[row], w[column], b[column])
        assert abs(fraction(high[row, column]) + fraction(low[row, column]) - s) <= 301**2 * Fraction(2) ** -103 * size
    assert dot_double_double(x[:0], w)[0].shape == (0, 90)
    assert torch.equal(dot_double_double(x[:, :0], w[:, :0])[0], torch.zeros(70, 90, dtype=torch.float64))


@RUN
@given(st.data())
def test_integer_reference_is_exact_modulo_2_to_the_64(data):
    n = data.draw(st.integers(1, 6))
    numbers = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n)
    x, w, b = data.draw(numbers), data.draw(numbers), data.draw(st.integers(-(2**63), 2**63 - 1))
    found = exact_integers(torch.tensor([x]), torch.tensor([w]), torch.tensor([b])).item()
    assert (found - sum(p * q for p, q in zip(x, w, strict=True)) - b) % 2**64 == 0


def test_integer_reference_of_complex_entries_gives_both_parts():
    x, w, b = torch.tensor([[1 + 2j, -3j]]), torch.tensor([[4 - 1j, 2 + 5j]]), torch.tensor([7 - 8j])
    assert exact_integers(x, w, b)[0, 0].tolist() == [(x @ w.T + b).item().real, (x @ w.T + b).item().imag]
