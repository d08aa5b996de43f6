"""The interval that every output of a right kernel must lie in, whatever the order of its sums.

For one output let ``s`` be the exact value, ``S`` the sum of the magnitudes of its terms, ``K`` the number of terms
that are not zero (an exact zero never rounds), ``u`` the accumulator's unit roundoff. In any order, any blocking, with
or without FMA, ``|acc - s| <= K*u*S`` (Jeannerod & Rump, "Improved error bounds for inner products in floating-point
arithmetic", SIAM J. Matrix Anal. Appl. 34(2), 2013), plus what underflow may take. The result is one rounding of
``acc``, so it lies in ``[RD(s - E), RU(s + E)]``. There is no constant here that was tuned.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from equiv.numerics.arithmetic import Arithmetic
from equiv.numerics.formats import format_of, from_ordinal, ordinal, round_down, round_up
from equiv.numerics.reference import _two_sum, dot_double_double

# Bounds are evaluated in float64 in a handful of operations; this covers their own rounding many times over.
_SLOP = 1.0 + 2.0**-40


@dataclass(frozen=True)
class Classes:
    """Where inputs hold NaN or infinity: what each output must be. Boolean tensors, shape ``(N, O)``."""

    nan: Tensor
    plus_inf: Tensor
    minus_inf: Tensor
    ambiguous: Tensor
    tainted: Tensor


@dataclass(frozen=True)
class Exact:
    """Real outputs of an affine map known (nearly) exactly, and the size of their terms: float64 tensors ``(N, O)``.

    Attributes:
        value: ``s``, up to ``low`` and ``uncertainty``.
        low: Second word of ``s`` (double-double), or None.
        uncertainty: Bound on the error of ``value + low``.
        magnitude: ``S``.
        terms: ``K``, the number of terms that are not zero.
        bias: The bias term alone (broadcasts), or None.
        subnormal: Sum of the magnitudes of the terms with a subnormal factor (``F``), or None for none.
        classes: What NaN and infinity among the inputs make of each output, or None where all are finite.
        plain: A real sum of products; not a part of a complex one, whose kernels may add real and imaginary parts.
        fewest: No output has fewer terms; 0 where that is not known.
        reach: No output's ``S * (1 + 2*K*u)`` is larger, for any ``u`` up to 2^-8; infinite where that is not known.

    """

    value: Tensor
    low: Tensor | None
    uncertainty: Tensor
    magnitude: Tensor
    terms: Tensor
    bias: Tensor | None
    subnormal: Tensor | None
    classes: Classes | None
    plain: bool = True
    fewest: int = 0
    reach: float = math.inf

    def stays_below(self, arithmetic: Arithmetic) -> bool:
        """Whether it is known that no sum of an output's terms overflows the accumulator, in any order."""
        return self.reach < arithmetic.accumulator_max and arithmetic.u <= 2.0**-8


@dataclass(frozen=True)
class Envelope:
    """What right kernels of one arithmetic may give around exact outputs. Tensors share the outputs' shape.

    Attributes:
        dtype: Real dtype of the results.
        lower: Smallest right output, float64.
        upper: Largest right output, float64.
        undecided: Bool; right kernels may disagree here.
        any_undecided: Whether any is.
        error: ``E``, how far the accumulator may be from the exact value before the result is rounded, float64.
        zero: Bool; where a zero is right beside the interval, as subnormal results may be flushed. None for nowhere.
        spilled: The infinity that is right beside the interval, or NaN for none, float64. None for nowhere.

    """

    dtype: torch.dtype
    lower: Tensor
    upper: Tensor
    undecided: Tensor
    any_undecided: bool
    error: Tensor
    zero: Tensor | None
    spilled: Tensor | None


@dataclass(frozen=True)
class Judgement:
    """Every output against its envelope. Tensors share the output's shape; float64 but for the booleans.

    Attributes:
        inside: The output is one that a right kernel may give.
        undecided: Right kernels may disagree here (an intermediate can overflow); ``inside`` says nothing.
        ratio: Distance from the exact value as a fraction of the distance to the envelope's edge: at most 1 inside.
            For 16-bit results, distance beyond half an ulp of the result as a fraction of ``E``: the accumulator's
            share.
        lower: Smallest right output.
        upper: Largest right output.

    """

    inside: Tensor
    undecided: Tensor
    ratio: Tensor
    lower: Tensor
    upper: Tensor


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
        >>> round(exact.value.item(), 6), exact.terms.item()
        (0.3, 3.0)

    """
    dtype = x.dtype
    x, weight = x.detach().double(), weight.detach().double()
    b = None if bias is None else bias.detach().double()
    classes: Classes | None = None
    sizes = _sizes(x, weight, b)
    if not all(size.is_finite for size in sizes):
        classes = _classes(x, weight, b, dtype)
        x, weight = x.nan_to_num(0.0, 0.0, 0.0), weight.nan_to_num(0.0, 0.0, 0.0)
        b = None if b is None else b.nan_to_num(0.0, 0.0, 0.0)
        sizes = _sizes(x, weight, b)
    magnitude = sizes[0].entries @ sizes[1].entries.T
    fewest = x.shape[-1] if sizes[0].least > 0 and sizes[1].least > 0 else 0
    terms = torch.full_like(magnitude, fewest) if fewest else (x != 0).double() @ (weight != 0).double().T
    if b is not None:
        magnitude = magnitude + sizes[2].entries
        terms = terms + (b != 0)
    subnormal = _subnormal_mass(*sizes, min_normal=format_of(dtype).min_normal)
    low: Tensor | None = None
    if dtype == torch.float64:
        value, low = dot_double_double(x, weight, b)
        uncertainty = (x.shape[-1] + 4) * 2.0**-100 * magnitude + 4 * format_of(dtype).min_subnormal
        uncertainty = torch.where((terms <= 1) & (magnitude > 2.0**-960), 0.0, uncertainty)
    else:
        value = x @ weight.T
        value = value if b is None else value + b
        uncertainty = (x.shape[-1] + 4) * 2.0**-52 * magnitude
        uncertainty = uncertainty if fewest > 1 else uncertainty.masked_fill(terms <= 1, 0.0)
    largest = x.shape[-1] * sizes[0].largest * sizes[1].largest + (sizes[2].largest if b is not None else 0.0)
    reach = 1.001 * largest * (1 + (x.shape[-1] + 1) * 2.0**-7)
    return Exact(value, low, uncertainty, magnitude, terms, b, subnormal, classes, fewest=fewest, reach=reach)


def judge(result: Tensor, exact: Exact, arithmetic: Arithmetic, *, within: Envelope | None = None) -> Judgement:
    """Hold ``result`` ``(N, O)``, a real floating tensor, against the envelope of ``arithmetic`` around ``exact``.

    ``within`` is ``envelope(exact, arithmetic)`` where it is known already: it does not depend on the result.

    Example:
        >>> from equiv.numerics.arithmetic import declared
        >>> x, w = torch.rand(2, 8), torch.rand(3, 8)
        >>> bool(judge(x @ w.T, exact_affine(x, w), declared(torch.float32)).inside.all())
        True

    """
    around = envelope(exact, arithmetic) if within is None else within
    lower, upper, undecided = around.lower, around.upper, around.undecided
    y, s, low = result.detach().double(), exact.value, exact.low
    inside = (y >= lower) & (y <= upper)
    if around.zero is not None:
        inside = inside | ((y == 0) & around.zero)
    if around.spilled is not None:
        inside = inside | (y == around.spilled)
    distance = y - s if low is None else (y - s) - low
    if around.dtype.itemsize < 4:
        # Speak of the accumulator: what the rounding of the result to 16 bits may have added is not its error.
        distance, room = (distance.abs() - _half_ulp(result.detach(), around.dtype)).clamp(min=0.0), around.error
    else:
        room = torch.where(distance > 0, upper - s, s - lower)
    ratio = (distance.abs() / room).masked_fill(distance == 0, 0.0)
    within_one = ratio.nan_to_num(0.0).clamp(max=1.0)
    if bool(inside.all()):
        ratio = within_one
    else:
        ratio = torch.where(inside, within_one, ratio.nan_to_num(torch.inf, torch.inf).clamp(min=1.0))
    if exact.classes is not None:
        inside, undecided, ratio, lower, upper = _judge_classes(
            y, exact.classes, arithmetic, inside, undecided, ratio, lower, upper
        )
    elif not around.any_undecided:
        return Judgement(inside, undecided, ratio, lower, upper)
    return Judgement(inside | undecided, undecided, torch.where(undecided, 0.0, ratio), lower, upper)


def envelope(exact: Exact, arithmetic: Arithmetic) -> Envelope:
    """The envelope of ``arithmetic`` around ``exact``, for any number of results; see :func:`judge`."""
    fmt = format_of(arithmetic.output)
    s, low = exact.value, exact.low
    error = arithmetic.error(exact.terms, exact.magnitude, fewest=exact.fewest) + exact.uncertainty
    if arithmetic.flushes_inputs and exact.subnormal is not None:
        error = error + exact.subnormal
    spilled: Tensor | None = None
    if exact.bias is not None and arithmetic.bias_rounding == "either":
        # Without a non-zero product there is nothing to round before the bias: their sum is 0 exactly.
        rounds_twice = (exact.bias != 0) & (exact.terms > 1)
        products = s - exact.bias
        room = products.abs() + error * _SLOP
        # A sum of products that rounds to infinity stays there, whatever the bias takes away.
        spills = rounds_twice & (room >= fmt.overflow)
        spilled = torch.where(spills, products.sign() * torch.inf, torch.nan) if bool(spills.any()) else None
        error = error + torch.where(rounds_twice, room * fmt.u + fmt.min_subnormal, 0.0)
    # S and K*u*S were themselves computed with up to K roundings in float64.
    error = error * (_SLOP + exact.terms * 2.0**-52)
    below, above = s - error, s + error
    if low is not None:
        below, above = _two_words(s, low, error)
    lower = round_down(below, fmt.dtype).double()
    upper = round_up(above, fmt.dtype).double()
    if s.numel() and not (float(below.min()) >= -fmt.max and float(above.max()) <= fmt.max):
        # Round to nearest: infinity starts at max + ulp/2, not at max.
        lower = torch.where((lower == -torch.inf) & (below > -fmt.overflow), -fmt.max, lower)
        upper = torch.where((upper == torch.inf) & (above < fmt.overflow), fmt.max, upper)
        lower = torch.where(below >= fmt.overflow, torch.inf, lower)
        upper = torch.where(above <= -fmt.overflow, -torch.inf, upper)
    zero = s.abs() - error < fmt.min_normal if arithmetic.flushes_outputs else None
    undecided = _undecided(exact, arithmetic)
    any_undecided = undecided is not None and bool(undecided.any())
    undecided = torch.zeros_like(s, dtype=torch.bool) if undecided is None else undecided
    return Envelope(fmt.dtype, lower, upper, undecided, any_undecided, error, zero, spilled)


def _undecided(exact: Exact, arithmetic: Arithmetic) -> Tensor | None:
    """Where an intermediate sum may overflow in one order and not in another; None for nowhere."""
    if exact.stays_below(arithmetic):
        return None
    s, undecided = exact.value, exact.magnitude * (1 + 2 * exact.terms * arithmetic.u) >= arithmetic.accumulator_max
    if exact.plain and exact.low is None and exact.classes is None:
        # Terms of one sign, or a term alone, overflow to one infinity in any order: the interval, which holds it,
        # decides. What the other sign may hide within float64's own error must not overflow by itself.
        one_sign = exact.magnitude - s.abs() <= 2.0**-40 * exact.magnitude
        hidden_is_small = exact.magnitude < 2.0**36 * arithmetic.accumulator_max
        undecided = undecided & ~((exact.terms <= 1) | (one_sign & hidden_is_small))
    return undecided


def _half_ulp(result: Tensor, dtype: torch.dtype) -> Tensor:
    above = from_ordinal(ordinal(result.abs()) + 1, dtype).double()
    return ((above - result.double().abs()) / 2).nan_to_num(0.0, 0.0, 0.0)


def _two_words(s: Tensor, low: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """``s + low -+ error`` rounded outwards to float64, for a float64 result: exactly RD and RU.

    ``low - error`` is rounded once, by at most ``u*(|low| + error)``. Where ``error`` is 0 that is exact. Elsewhere
    ``|low| <= u*S``, so that the rounding is at most ``2^-106*S + u*error``, within the slack of the uncertainty and
    of the slop on ``error``. Then a two-sum tells on which side of ``s + t`` its rounded value lies.
    """
    below, under = _two_sum(s, low - error)
    above, over = _two_sum(s, low + error)
    lower = torch.where(under >= 0, below, torch.nextafter(below, torch.full_like(s, -torch.inf)))
    upper = torch.where(over <= 0, above, torch.nextafter(above, torch.full_like(s, torch.inf)))
    return lower, upper


@dataclass(frozen=True)
class _Size:
    """Magnitudes of a tensor's entries, float64, with the least and the largest of them."""

    entries: Tensor
    least: float
    largest: float

    @property
    def is_finite(self) -> bool:
        return self.largest <= sys.float_info.max  # False for NaN

    def below(self, limit: float) -> Tensor | None:
        """The entries below the limit, zeros elsewhere; None where all of these are zero."""
        if self.least >= limit:
            return None
        small = self.entries < limit
        small &= self.entries > 0
        return torch.where(small, self.entries, 0.0) if bool(small.any()) else None


def _sizes(*tensors: Tensor | None) -> list[_Size]:
    found = []
    for entries in (t.abs() for t in tensors if t is not None):
        least, largest = torch.aminmax(entries) if entries.numel() else (1.0, 0.0)
        found.append(_Size(entries, float(least), float(largest)))
    return found


def _subnormal_mass(x: _Size, w: _Size, b: _Size | None = None, *, min_normal: float) -> Tensor | None:
    """Sum of |w||x| over the terms with a subnormal factor, counted generously; None where there is none."""
    small_x, small_w = x.below(min_normal), w.below(min_normal)
    small_b = None if b is None else b.below(min_normal)
    if small_x is None and small_w is None and small_b is None:
        return None
    nothing = x.entries.new_zeros(())
    mass = (nothing if small_x is None else small_x @ w.entries.T) + (
        nothing if small_w is None else x.entries @ small_w.T
    )
    mass = mass.expand(len(x.entries), len(w.entries))
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


def _judge_classes(
    y: Tensor,
    classes: Classes,
    arithmetic: Arithmetic,
    inside: Tensor,
    undecided: Tensor,
    ratio: Tensor,
    lower: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # Where finite terms may overflow, an infinity of the other sign can turn up on the way: undecided stays undecided.
    # Nothing can undo a NaN; a flushed subnormal that meets an infinity makes one more.
    wanted = torch.where(classes.nan, torch.nan, torch.where(classes.plus_inf, torch.inf, -torch.inf))
    special = classes.nan | classes.plus_inf | classes.minus_inf
    match = torch.where(classes.nan, y.isnan(), y == wanted)
    inside = torch.where(special, match, inside)
    ratio = torch.where(special, torch.where(match, 0.0, torch.inf), ratio)
    undecided = (undecided | classes.ambiguous) & ~classes.nan
    if arithmetic.infinity_spreads:
        undecided = undecided | (classes.tainted & ~classes.nan & y.isnan())
    return inside, undecided, ratio, torch.where(special, wanted, lower), torch.where(special, wanted, upper)
