"""Outputs of an affine map known (nearly) exactly, with what a bound on their error needs.

For every output: its exact value ``s``, the sum ``S`` of the magnitudes of its terms, the number ``K`` of terms that
are not zero, and what NaN and infinity among the inputs make of it. Nearly: float64 sums are known in double-double,
those of narrower dtypes in float64, with a bound on what that leaves open. What right kernels may return around the
exact value follows in ``envelope``.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equiv.dtypes import FLOATS
from equiv.numerics.arithmetic import Arithmetic, check_arithmetic
from equiv.numerics.checks import check_layer
from equiv.numerics.formats import format_of
from equiv.numerics.reference import dot_by_terms, is_moderate, summed_products, two_sum
from equiv.numerics.splitting import dot_wide, slices_pay
from equiv.numerics.surroundings import subnormals_kept


@dataclass(frozen=True)
class Classes:
    """What outputs must be where inputs hold NaN or infinity. Boolean tensors ``(N, O)``.

    Attributes:
        nan: NaN, in any order of summation.
        plus_inf: Positive infinity, in any order.
        minus_inf: Negative infinity, in any order.
        ambiguous: A subnormal factor meets an infinity: NaN where a kernel flushes it to zero, infinity elsewhere.
        tainted: Another entry of the same row of inputs is NaN or infinite, which some kernels let spread.
    """

    nan: Tensor
    plus_inf: Tensor
    minus_inf: Tensor
    ambiguous: Tensor
    tainted: Tensor


@dataclass(frozen=True)
class Exact:
    """Real outputs of an affine map known (nearly) exactly, and the size of their terms: float64 tensors ``(N, O)``.

    For complex outputs see :func:`equiv.numerics.complex_parts.complex_affine`.

    Attributes:
        value: ``s``, up to ``low`` and ``uncertainty``.
        low: Second word of ``s`` (double-double), or None.
        uncertainty: Bound on the error of ``value + low``.
        magnitude: ``S``.
        terms: ``K``, the number of terms that are not zero (broadcasts); a number where all outputs have as many.
        bias: The bias term alone (broadcasts), or None.
        subnormal: Sum of the magnitudes of the terms with a subnormal factor (``F``), or None for none.
        classes: What NaN and infinity among the inputs make of each output, or None where all are finite.
        plain: A sum of real products; False for a part of a complex result, whose kernels may add real to imaginary
            parts first.
        fewest: No output has fewer terms; 0 where that is not known.
        factors: The largest magnitude of a factor of each output (broadcasts); None where all are below
            ``SMALL_FACTORS``.
        reach: No output's ``S * (1 + 2*K*u)`` is larger, for any ``u`` up to 2^-8; infinite where that is not known.

    Example:
        >>> exact = exact_affine(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -4.0]]))
        >>> exact.value.item(), exact.magnitude.item()
        (-5.0, 11.0)
    """

    value: Tensor
    low: Tensor | None
    uncertainty: Tensor
    magnitude: Tensor
    terms: Tensor | float
    bias: Tensor | None
    subnormal: Tensor | None
    classes: Classes | None
    plain: bool = True
    fewest: int = 0
    reach: float = math.inf
    factors: Tensor | None = None

    def stays_below(self, arithmetic: Arithmetic) -> bool:
        """Whether it is known that no sum of an output's terms overflows the accumulator, in any order."""
        check_arithmetic(arithmetic)
        if self.factors is not None and arithmetic.factor_max < math.inf:
            return False
        return self.reach * (1 + arithmetic.relative) < arithmetic.accumulator_max and arithmetic.u <= 2.0**-8


@subnormals_kept()
def exact_affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Exact:
    """Exact ``x @ weight.T + bias`` with the magnitudes that its bound needs.

    Args:
        x: Rows ``(N, n)``, a real floating dtype.
        weight: ``(O, n)``, the same dtype.
        bias: ``(O,)`` or None.

    Returns:
        Float64 tensors ``(N, O)``: for float64 inputs in double-double, else in float64, whose own error is recorded.

    Example:
        >>> exact = exact_affine(torch.ones(1, 3), torch.full((1, 3), 0.1))
        >>> round(exact.value.item(), 6), exact.terms
        (0.3, 3)
    """
    check_layer(x, weight, bias, FLOATS, "take Reference for complex and integer dtypes")
    return real_affine(x, weight, bias)


def real_affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Exact:
    """:func:`exact_affine` of a layer that is checked, where subnormals are kept."""
    dtype = x.dtype
    x, weight = x.detach().double(), weight.detach().double()
    b = None if bias is None else bias.detach().double()
    classes: Classes | None = None
    sizes = magnitudes(x, weight, b)
    if not all(size.is_finite for size in sizes):
        classes = _classes(x, weight, b, dtype)
        x, weight = x.nan_to_num(0.0, 0.0, 0.0), weight.nan_to_num(0.0, 0.0, 0.0)
        b = None if b is None else b.nan_to_num(0.0, 0.0, 0.0)
        sizes = magnitudes(x, weight, b)
    magnitude = sizes[0].entries @ sizes[1].entries.T
    fewest = x.shape[-1] if sizes[0].least > 0 and sizes[1].least > 0 else 0
    terms: Tensor | int = fewest or (x != 0).double() @ (weight != 0).double().T
    if b is not None:
        magnitude = magnitude + sizes[2].entries
        terms = terms + (1 if sizes[2].least > 0 else (b != 0).double())
    subnormal = _subnormal_mass(*sizes, min_normal=format_of(dtype).min_normal)
    low: Tensor | None = None
    if dtype == torch.float64:
        if sums_are_whole([t for t in (x, weight, b) if t is not None], sizes):
            value, uncertainty = dot_by_terms(x, weight), torch.zeros_like(magnitude)
            value = value if b is None else value + b
        else:
            slack: Tensor | float = 0.0
            if slices_pay(x, weight):
                value, low, slack = _in_slices(x, weight, b, magnitude, terms)
            else:
                value, low = summed_products(x, weight, b, moderate=all(size.is_moderate for size in sizes))
            uncertainty = (x.shape[-1] + 4) ** 2 * 2.0**-103 * magnitude + 4 * format_of(dtype).min_subnormal + slack
            if fewest <= 1:
                few = torch.as_tensor(terms, device=magnitude.device)
                exact = (few == 0) | ((few == 1) & (magnitude > 2.0**-960))
                uncertainty = uncertainty.masked_fill(exact, 0.0)
    else:
        value = x @ weight.T
        value = value if b is None else value + b
        uncertainty = (x.shape[-1] + 4) * 2.0**-52 * magnitude
        uncertainty = (
            uncertainty
            if fewest > 1
            else uncertainty.masked_fill(torch.as_tensor(terms, device=magnitude.device) <= 1, 0.0)
        )
    largest = x.shape[-1] * sizes[0].largest * sizes[1].largest + (sizes[2].largest if b is not None else 0.0)
    reach = 1.001 * largest * (1 + (x.shape[-1] + 1) * 2.0**-7)
    return Exact(
        *(value, low, uncertainty, magnitude, terms, b, subnormal, classes),
        fewest=fewest,
        reach=reach,
        factors=largest_factors(sizes[0], sizes[1]),
    )


def _in_slices(
    x: Tensor, weight: Tensor, b: Tensor | None, magnitude: Tensor, terms: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs as two words, and a bound on their error beside that of double-double itself."""
    high, low, slack = dot_wide(x, weight, magnitude, torch.as_tensor(terms, device=x.device).expand_as(magnitude))
    if b is not None:
        high, error = two_sum(high, b.expand_as(high))
        high, low = two_sum(high, low + error)
    return high, low, slack


@dataclass(frozen=True)
class Magnitudes:
    """The magnitudes of a tensor's entries, float64, with the least and the largest of them."""

    entries: Tensor
    least: float
    largest: float

    @property
    def is_finite(self) -> bool:
        """Whether none is NaN or infinite."""
        return self.largest <= sys.float_info.max  # False for NaN

    @cached_property
    def least_of_all_but_zeros(self) -> float:
        """The least that is not 0, or infinity."""
        return self.least or float(torch.where(self.entries == 0, torch.inf, self.entries).min())

    @property
    def is_moderate(self) -> bool:
        """See :func:`equiv.numerics.reference.is_moderate`."""
        return is_moderate(self.least_of_all_but_zeros, self.largest)

    def below(self, limit: float) -> Tensor | None:
        """The entries below the limit, zeros elsewhere; None where all of these are zero."""
        return None if self.least_of_all_but_zeros >= limit else torch.where(self.entries < limit, self.entries, 0.0)


def magnitudes(*tensors: Tensor | None) -> list[Magnitudes]:
    """Those of each tensor that is there."""
    found = []
    for entries in (t.abs() for t in tensors if t is not None):
        least, largest = torch.aminmax(entries) if entries.numel() else (1.0, 0.0)
        found.append(Magnitudes(entries, float(least), float(largest)))
    return found


SMALL_FACTORS = 2.0**15
"""Factors below it are finite in every format to which kernels round them."""


def largest_factors(x: Magnitudes, weight: Magnitudes) -> Tensor | None:
    """The largest of each row of x ``(N, n)`` and each row of the weight ``(O, n)``, ``(N, O)``; None if all are small.

    Those with a leading dimension of 2, the parts of complex numbers, count what their sums may be: ``(N, 1, O)``.
    """
    if max(x.largest, weight.largest) < SMALL_FACTORS or not x.entries.numel() or not weight.entries.numel():
        return None
    if x.entries.ndim == 3:
        of_x, of_w = (size.entries.sum(0).amax(-1) for size in (x, weight))
        return torch.maximum(of_x[:, None, None], of_w)
    return torch.maximum(x.entries.amax(-1)[:, None], weight.entries.amax(-1))


def sums_are_whole(tensors: list[Tensor], sizes: list[Magnitudes]) -> bool:
    """Whether input, weight and bias, float64, are integers whose sums of 2n products float64 holds as they are."""
    largest = 2 * tensors[0].shape[-1] * sizes[0].largest * sizes[1].largest + sum(size.largest for size in sizes[2:])
    return largest <= 2.0**53 and all(torch.equal(t, t.trunc()) for t in tensors)


def _subnormal_mass(x: Magnitudes, w: Magnitudes, b: Magnitudes | None = None, *, min_normal: float) -> Tensor | None:
    """Sum of |w||x| over the terms with a subnormal factor, counted generously; None where there is none."""
    small_x, small_w = x.below(min_normal), w.below(min_normal)
    small_b = None if b is None else b.below(min_normal)
    if small_x is None and small_w is None and small_b is None:
        return None
    mass = x.entries.new_zeros(len(x.entries), len(w.entries))
    if small_x is not None:
        mass = mass + small_x @ w.entries.T
    if small_w is not None:
        mass = mass + x.entries @ small_w.T
    return mass if small_b is None else mass + small_b


def _classes(x: Tensor, w: Tensor, b: Tensor | None, dtype: torch.dtype) -> Classes:
    """IEEE rules that no order of summation can change: NaN if any term is, or if infinities of both signs meet."""
    nan_x, nan_w, inf_x, inf_w = (t.double() for t in (x.isnan(), w.isnan(), x.isinf(), w.isinf()))
    zero_x, zero_w = (x == 0).double(), (w == 0).double()
    tiny = format_of(dtype).min_normal
    small_x, small_w = ((t != 0) & (t.abs() < tiny) for t in (x, w))
    ones_x, ones_w = torch.ones_like(x), torch.ones_like(w)
    nan = nan_x @ ones_w.T + ones_x @ nan_w.T + zero_x @ inf_w.T + inf_x @ zero_w.T
    sign_x, sign_w = x.nan_to_num(0.0).sign(), w.nan_to_num(0.0).sign()
    # Terms that are infinite: an infinite factor times a non-zero one. Count them, and count them with their sign.
    some_x, some_w = sign_x.abs(), sign_w.abs()
    count = (inf_x * some_x) @ some_w.T + some_x @ (inf_w * some_w).T - (inf_x * some_x) @ (inf_w * some_w).T
    signed = (inf_x * sign_x) @ sign_w.T + sign_x @ (inf_w * sign_w).T - (inf_x * sign_x) @ (inf_w * sign_w).T
    if b is not None:
        nan = nan + b.isnan()
        count, signed = count + b.isinf(), signed + torch.where(b.isinf(), b.sign(), 0.0)
    plus, minus = (count + signed) > 0, (count - signed) > 0
    is_nan = (nan > 0) | (plus & minus)
    ambiguous = small_x.double() @ inf_w.T + inf_x @ small_w.double().T > 0
    tainted = (~x.isfinite()).any(1, keepdim=True).expand_as(is_nan)
    return Classes(is_nan, plus & ~is_nan, minus & ~is_nan, ambiguous, tainted)
