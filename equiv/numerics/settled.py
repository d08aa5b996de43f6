"""Outputs whose accumulator hardly depends on the order of summation: their terms leave no choice.

The bound ``K*u*S`` holds for any terms. Two kinds of terms leave less to chance, in IEEE arithmetic of the precision of
the accumulator or a higher one, with or without fused multiply-add:

- If all terms are multiples of ``2**q``, and neither the positive nor the negative ones add up to more than
  ``2**(p + q)``, ``p`` the accumulator's precision, then every partial sum in every order is exact.
- A sum of two terms is rounded once. The products of 16-bit numbers are exact, and a wider accumulator stays on its
  side of every tie of the result, or is that tie; those of float32 are rounded before, or not.

This takes the terms one by one, and is meant for the few outputs that need it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.numerics.arithmetic import Arithmetic
from equiv.numerics.formats import format_of, round_nearest
from equiv.numerics.reference import two_sum

_NO_BIT = 1 << 20  # the exponent of the last bit of zero


class Terms(NamedTuple):
    """The terms of M outputs: float64 ``x`` and ``w`` ``(M, n)``, ``bias`` ``(M,)``, 0 for none."""

    x: Tensor
    w: Tensor
    bias: Tensor

    @property
    def all(self) -> Tensor:
        """Products and bias ``(M, n + 1)``."""
        return torch.cat([self.x * self.w, self.bias[:, None]], 1)


def is_ieee(arithmetic: Arithmetic) -> bool:
    """Whether products and sums are each rounded once, to nearest, in the accumulator."""
    plain = arithmetic.factor == 1 and arithmetic.extra_terms == 0 and arithmetic.relative == 0
    plain = plain and arithmetic.operands is None and arithmetic.results is None
    return plain and arithmetic.output_rounding == "nearest"


def settled_error(terms: Terms, arithmetic: Arithmetic) -> Tensor:
    """How far the accumulator of a settled output may be from the exact sum; infinite for the others. Float64 ``(M,)``.

    Example:
        >>> from equiv.numerics import declared
        >>> x, w, b = torch.tensor([[257.0, 3.0], [257.0, 2.0**-30]]), torch.ones(2, 2), torch.ones(2)
        >>> settled_error(Terms(x.double(), w.double(), b.double()), declared(torch.float16)).tolist()
        [0.0, inf]
    """
    on_grid, of_two = _is_on_a_grid(terms, arithmetic), _has_two_terms(terms, arithmetic)
    error = torch.where(on_grid, 0.0, math.inf)
    if arithmetic.output.itemsize == 2 and bool(of_two.any()):
        s, lost = two_sum(*_both(terms))
        error = torch.where(of_two & ~on_grid, (s.float().double() - s).abs() + 2 * lost.abs(), error)
    return error.double()


def two_term_bounds(terms: Terms, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
    """Smallest and largest float32 result of outputs with two terms, infinite for the others. Float64 ``(M,)``.

    Example:
        >>> from equiv.numerics import declared
        >>> x, w, b = torch.tensor([[1 + 2.0**-23]]), torch.tensor([[1 + 2.0**-23]]), torch.tensor([2.0**-60])
        >>> bounds = two_term_bounds(Terms(x.double(), w.double(), b.double()), declared(torch.float32))
        >>> [(end - 1).item() * 2**22 for end in bounds]
        [1.0, 1.0]
    """
    a, b = _both(terms)
    near = round_nearest(a, torch.float32).double(), round_nearest(b, torch.float32).double()
    found = torch.stack([_rounded_sum(*each) for each in ((a, b), (near[0], b), (a, near[1]), near)])
    known = _has_two_terms(terms, arithmetic) & (arithmetic.output == torch.float32)
    return torch.where(known, found.amin((0, 1)), -math.inf), torch.where(known, found.amax((0, 1)), math.inf)


def _is_on_a_grid(terms: Terms, arithmetic: Arithmetic) -> Tensor:
    every = terms.all
    last = torch.cat([last_bit(terms.x) + last_bit(terms.w), last_bit(terms.bias)[:, None]], 1)
    last = last.masked_fill(every == 0, _NO_BIT).amin(1)
    # The sizes were themselves computed with roundings.
    size = torch.maximum(every.clamp(min=0).sum(1), -every.clamp(max=0).sum(1)) * (1 + 2.0**-40)
    precision, least = -round(math.log2(arithmetic.u)), math.frexp(arithmetic.underflow)[1] - 1
    largest = torch.ldexp(torch.ones_like(size), (last + precision).clamp(-1000, 1000))
    in_range = (last >= least) & (last > -900) & (size < arithmetic.accumulator_max / 2)
    return (size <= largest) & in_range & ~_has_lost_products(terms)


def last_bit(values: Tensor) -> Tensor:
    """The exponent of the last bit that is set in each float64 value, int64; a large number for zero.

    Example:
        >>> last_bit(torch.tensor([12.0, 0.75], dtype=torch.float64)).tolist()
        [2, -2]
    """
    mantissa, exponent = torch.frexp(values)
    whole = (mantissa * 2.0**53).long()
    lowest = torch.frexp((whole & -whole).double()).exponent.long() - 1
    return torch.where(values == 0, _NO_BIT, exponent.long() - 53 + lowest)


def _has_two_terms(terms: Terms, arithmetic: Arithmetic) -> Tensor:
    """Whether there are two at most, clear of underflow, and their products are known exactly."""
    if arithmetic.output == torch.float64 or arithmetic.u > format_of(torch.float32).u:
        return torch.zeros(len(terms.x), dtype=torch.bool)
    every = terms.all
    is_safe = (every == 0) | ((every.abs() >= 2.0**30 * arithmetic.underflow) & (every.abs() < 2.0**120))
    return (every.count_nonzero(1) <= 2) & is_safe.all(1) & ~_has_lost_products(terms)


def _has_lost_products(terms: Terms) -> Tensor:
    return ((terms.x * terms.w == 0) & (terms.x != 0) & (terms.w != 0)).any(1)


def _both(terms: Terms) -> tuple[Tensor, Tensor]:
    """The two largest terms ``(M,)``."""
    every = terms.all
    every = torch.cat([every, torch.zeros_like(every[:, :1])], 1)
    first, second = every.gather(1, every.abs().topk(2, 1).indices).unbind(1)
    return first, second


def _rounded_sum(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` rounded to float32, at once and through float64: float64 ``(2, M)``."""
    s, e = two_sum(a, b)
    beside = torch.nextafter(s, torch.where(e > 0, math.inf, -math.inf).to(s))
    exact = torch.where(e == 0, s, beside)  # on the side of every tie on which the sum is
    return torch.stack([round_nearest(exact, torch.float32).double(), round_nearest(s, torch.float32).double()])
