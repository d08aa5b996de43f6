"""Sums of products through matrix products of float64 that commit no error: factors in slices of few bits.

A slice holds so few bits that n products of two slices, and all their partial sums, are integers below 2^53: float64
adds them exactly in any order (K. Ozaki, T. Ogita, S. Oishi, S. M. Rump, "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications", Numerical Algorithms 59, 2012).
A few matrix products take the place of millions of error-free transformations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.numerics.reference import dot_double_double, power_of_two, two_sum

_EXPONENTS = 400  # rows whose largest entry lies beyond 2^400 or 2^-400 are left to double-double
_LIMB = 16  # bits
_MOST_TERMS = 2**20  # of products of two limbs, each below 2^32, are added below 2^53


def dot_in_slices(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x @ weight.T`` as an unevaluated sum of two float64, and a bound on its error.

    Args:
        x: ``(N, n)`` float64, finite, n at least 1.
        weight: ``(O, n)`` float64, finite.

    Returns:
        High word, low word and bound, each ``(N, O)``. The bound is about ``2**-58 * n`` times the largest entry of the
        row of ``x`` and that of ``weight``: small beside the magnitudes unless these spread over many orders. It is
        infinite where a row lies beyond the exponents that are served.

    Example:
        >>> x = torch.tensor([[1.0, 2.0**-40, -1.0]], dtype=torch.float64)
        >>> high, low, bound = dot_in_slices(x, torch.ones(1, 3, dtype=torch.float64))
        >>> high.item() == 2.0**-40, bound.item() < 2.0**-66
        (True, True)
    """
    n = x.shape[1]
    bits = (53 - max(1, (n - 1).bit_length())) // 2
    (x1, x2, x3), exponent_x = _slices(x, bits)
    (w1, w2, w3), exponent_w = _slices(weight, bits)
    second = x1 @ w2.T + x2 @ w1.T  # each word an integer below 2^53
    third = x1 @ w3.T + x3 @ w1.T + x2 @ w2.T
    high, low = two_sum(x1 @ w1.T, second * 2.0**-bits)
    high, low = two_sum(high, low + third * 2.0 ** (-2 * bits))
    # What is left out: products with remainders below 2^(-3*bits - 1) of the largest entries, and those of the last two
    # slices, 2^(-3*bits - 2) each; less than 1.6*n together, and the roundings of `low` and `third` are smaller.
    scale = exponent_x[:, None] + exponent_w[None, :]
    unit = power_of_two(scale - 2 * bits)
    served = (exponent_x.abs() <= _EXPONENTS)[:, None] & (exponent_w.abs() <= _EXPONENTS)[None, :]
    bound = torch.where(served, 2.0 ** (1 - bits) * n * unit, torch.inf)
    return high * unit, low * unit, bound


def _slices(values: Tensor, bits: int) -> tuple[list[Tensor], Tensor]:
    """Three integers of ``bits`` bits for every entry, most significant first, and the exponent of every row.

    An entry is ``sum(s_i * 2**(exponent - i*bits))``, up to a remainder of half a unit of the last.
    """
    largest = values.abs().amax(1)
    exponent = torch.frexp(largest)[1].to(torch.int64)
    rest = values * power_of_two(-exponent.clamp(-_EXPONENTS, _EXPONENTS))[:, None]
    found = []
    for _ in range(3):
        rest = rest * 2.0**bits
        found.append(rest.round())
        rest = rest - found[-1]
    return found, torch.where(largest == 0, 0, exponent)


def dot_wide(x: Tensor, weight: Tensor, magnitude: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x @ weight.T`` in double-double: in slices where these are as good, else product by product.

    Args:
        x: ``(N, n)`` float64, finite.
        weight: ``(O, n)`` float64, finite.
        magnitude: ``(N, O)``, the sum of the products' magnitudes, or more.
        terms: ``(N, O)``, how many products are not zero, or more.

    Returns:
        High word, low word and a bound on the error, each ``(N, O)``. The bound is at most
        ``2**-61 * terms * magnitude``, 1/256 of what right kernels may be off, and 0 where no more than one product is
        not zero; what double-double leaves open (see :func:`dot_double_double`) comes on top.
    """
    high, low, bound = dot_in_slices(x, weight)
    poor = ~(bound <= magnitude * (terms * 2.0**-61)) | (terms <= 1)
    poor &= terms > 0
    rows, outputs = poor.any(1).nonzero().flatten(), poor.any(0).nonzero().flatten()
    if len(rows):
        words = dot_double_double(x[rows], weight[outputs])
        for target, word in zip((high, low), words, strict=True):
            target[rows[:, None], outputs] = word
        bound[rows[:, None], outputs] = 0.0
    return high, low, bound.masked_fill_(terms == 0, 0.0)


def dot_integers(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` of integers modulo ``2**64``, by exact products of limbs of 16 bits: int64 ``(N, O)``.

    Args:
        x: ``(N, n)`` of an integer dtype.
        weight: ``(O, n)`` of the same.

    Example:
        >>> big = torch.tensor([[2**62, 3]])
        >>> dot_integers(big, torch.tensor([[4, 5]])).item()
        15
    """
    limbs = max(1, 8 * x.element_size() // _LIMB)  # higher ones than the dtype has are lost modulo 2^bits
    total = torch.zeros((len(x), len(weight)), dtype=torch.int64, device=x.device)
    for start in range(0, x.shape[1], _MOST_TERMS):
        parts_x, parts_w = (_limbs(values[:, start : start + _MOST_TERMS], limbs) for values in (x, weight))
        for i, a in enumerate(parts_x):
            for j, b in enumerate(parts_w[: limbs - i]):
                total += (a @ b.T).to(torch.int64) << (_LIMB * (i + j))
    return total


def _limbs(values: Tensor, count: int) -> list[Tensor]:
    """Numbers whose sum, each times ``2**(16*i)``, is the value: the last is signed, the others are not. Float64."""
    wide = values.to(torch.int64)
    lower = [((wide >> (_LIMB * i)) & (2**_LIMB - 1)).double() for i in range(count - 1)]
    return [*lower, (wide >> (_LIMB * (count - 1))).double()]


def slices_pay(x: Tensor, weight: Tensor) -> bool:
    """Whether so many products are to be added that slices are faster than double-double."""
    return math.prod((len(x), len(weight), x.shape[1])) >= 2**15
