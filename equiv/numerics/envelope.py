"""The interval that every output of a right kernel must lie in, whatever the order of its sums.

For one output let ``s`` be the exact value, ``S`` the sum of the magnitudes of its terms, ``K`` the number of terms
that are not zero (an exact zero never rounds), ``u`` the accumulator's unit roundoff. In any order, any blocking, with
or without FMA, ``|acc - s| <= K*u*S`` (Jeannerod & Rump, "Improved error bounds for inner products in floating-point
arithmetic", SIAM J. Matrix Anal. Appl. 34(2), 2013), plus what underflow may take. The result is ``acc``
rounded to nearest, which is monotonic, so it lies in ``[RN(s - E), RN(s + E)]``; where the bias is added after a
rounding, in ``[RN(RN(p - E) + b), RN(RN(p + E) + b)]`` for products ``p``; and in ``[RD(s - E), RU(s + E)]`` where a
kernel is known to round in other directions. There is no constant here that was tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equiv.arguments import check_tensor, refusal
from equiv.dtypes import FLOATS
from equiv.numerics.arithmetic import Arithmetic, check_arithmetic
from equiv.numerics.checks import check_device_of, check_values
from equiv.numerics.exact import Classes, Exact
from equiv.numerics.formats import format_of, round_down, round_nearest, round_up
from equiv.numerics.surroundings import subnormals_kept

# The bounds themselves are computed in float64, in a handful of operations; this covers their rounding many times over.
_MARGIN = 1.0 + 2.0**-40


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
        undecided: Right kernels may disagree here, as an intermediate sum can overflow: ``inside`` is True.
        ratio: Distance from the exact value as a fraction of the distance to the envelope's edge: at most 1 inside.
            For 16-bit results, distance beyond half an ulp of the result as a fraction of ``E``: the accumulator's
            share.
        lower: Smallest right output.
        upper: Largest right output.

    Example:
        >>> from equiv.numerics import declared, exact_affine, judge
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> found = judge(torch.tensor([[12.0]]), exact_affine(x, weight), declared(torch.float32))
        >>> found.inside.item(), found.lower.item() <= 11 <= found.upper.item()
        (False, True)
    """

    inside: Tensor
    undecided: Tensor
    ratio: Tensor
    lower: Tensor
    upper: Tensor


@subnormals_kept()
def judge(result: Tensor, exact: Exact, arithmetic: Arithmetic, *, within: Envelope | None = None) -> Judgement:
    """Hold ``result`` ``(N, O)``, a real floating tensor, against the envelope of ``arithmetic`` around ``exact``.

    ``within`` is ``envelope(exact, arithmetic)`` where it is known already: it does not depend on the result.

    Example:
        >>> from equiv.numerics import declared, exact_affine
        >>> x, w = torch.rand(2, 8), torch.rand(3, 8)
        >>> bool(judge(x @ w.T, exact_affine(x, w), declared(torch.float32)).inside.all())
        True
    """
    check_judged(result, exact, arithmetic, within)
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
        distance, allowed = (distance.abs() - _half_ulp(result.detach(), around.dtype)).clamp(min=0.0), around.error
    else:
        allowed = torch.where(distance > 0, upper - s, s - lower)
    ratio = (distance.abs() / allowed).masked_fill(distance == 0, 0.0)
    within_one = ratio.nan_to_num(0.0).clamp(max=1.0)
    if bool(inside.all()):
        ratio = within_one
    else:
        ratio = torch.where(inside, within_one, ratio.nan_to_num(torch.inf, torch.inf).clamp(min=1.0))
    found = Judgement(inside, undecided, ratio, lower, upper)
    if exact.classes is not None:
        found = _with_classes(found, y, exact.classes, arithmetic)
    elif not around.any_undecided:
        return found
    undecided = found.undecided
    return replace(found, inside=found.inside | undecided, ratio=torch.where(undecided, 0.0, found.ratio))


def largest_ratio(result: Tensor, exact: Exact, around: Envelope) -> float | None:
    """The largest ``ratio`` that :func:`judge` finds, in fewer steps; None where it may find an output outside.

    Not for outputs that are undecided or have classes.
    """
    y, s, low = result.detach().double(), exact.value, exact.low
    if not bool(((y >= around.lower) & (y <= around.upper)).all()):
        return None
    distance = y - s if low is None else (y - s) - low
    if around.dtype.itemsize < 4:
        ratio = (distance.abs() - _half_ulp(result.detach(), around.dtype)).clamp(min=0.0) / around.error
    else:
        ratio = distance.abs() / torch.where(distance > 0, around.upper - s, s - around.lower)
    return min(1.0, float(ratio.nan_to_num(0.0).max())) if ratio.numel() else 0.0


def check_judged(result: object, exact: object, arithmetic: object, within: object) -> None:
    """Refuse what is not a real result, exact outputs of its shape, an arithmetic, and an envelope or None."""
    check_arithmetic(arithmetic)
    if not isinstance(exact, Exact):
        advice = "pass what equiv.numerics.exact_affine(x, weight, bias) returns"
        raise refusal("exact", "an equiv.numerics.Exact", exact, advice)
    if within is not None and not isinstance(within, Envelope):
        raise refusal("within", "the envelope of exact and arithmetic", within, "leave it out")
    y = check_values("result", result, FLOATS, "judge complex and integer results with equiv.numerics.assess")
    check_tensor("result", y, tuple(exact.value.shape), advice="pass rows (N, O), one entry for each exact output")
    check_device_of("result", y, "exact", exact.value)


def envelope(exact: Exact, arithmetic: Arithmetic) -> Envelope:
    """The envelope of ``arithmetic`` around ``exact``, for any number of results; see :func:`judge`."""
    fmt = format_of(arithmetic.output)
    s, low = exact.value, exact.low
    error = arithmetic.error(exact.terms, exact.magnitude, fewest=exact.fewest) + exact.uncertainty
    if arithmetic.flushes_inputs and exact.subnormal is not None:
        error = error + exact.subnormal
    # S and K*u*S were themselves computed with up to K roundings in float64.
    error = error * (_MARGIN + exact.terms * 2.0**-52)
    ends = [s - error, s + error] if low is None else [s + (low - error), s + (low + error)]
    # RN(RN(products) + b), from both ends. Without a non-zero product there is nothing to round before the bias.
    bias = exact.bias if arithmetic.bias_rounding == "either" else None
    if bias is not None:
        products = s - bias
        ends += [products - error, products + error]
    spilled: Tensor | None = None
    if arithmetic.output_rounding == "nearest":
        lower, upper, *ends = _nearest(ends, arithmetic)
    else:
        lower, upper = round_down(ends[0], fmt.dtype).double(), round_up(ends[1], fmt.dtype).double()
        ends = _nearest(ends[2:], arithmetic)
    if bias is not None:
        rounds_twice = (bias != 0) & (exact.terms > 1)
        lowest, highest = _nearest([end.clamp(-fmt.max, fmt.max) + bias for end in ends], arithmetic)
        lower = torch.where(rounds_twice, torch.minimum(lower, lowest), lower)
        upper = torch.where(rounds_twice, torch.maximum(upper, highest), upper)
        # A sum of products that rounds to infinity stays there, whatever the bias takes away.
        spills = rounds_twice & (ends[0].isinf() | ends[1].isinf())
        spilled = torch.where(spills, products.sign() * torch.inf, torch.nan) if bool(spills.any()) else None
    zero = s.abs() - error < fmt.min_normal if arithmetic.flushes_outputs else None
    undecided = _undecided(exact, arithmetic)
    any_undecided = undecided is not None and bool(undecided.any())
    undecided = torch.zeros_like(s, dtype=torch.bool) if undecided is None else undecided
    return Envelope(fmt.dtype, lower, upper, undecided, any_undecided, error, zero, spilled)


def _nearest(values: list[Tensor], arithmetic: Arithmetic) -> list[Tensor]:
    """What accumulators of these values, float64, become as results to nearest, as float64.

    Those of 16 bits together, as each takes a dozen steps.
    """
    dtype = arithmetic.output
    if arithmetic.results is not None:
        values = [arithmetic.results(value) for value in values]
    if dtype.itemsize >= 4 or len(values) < 2:
        return [round_nearest(value, dtype).double() for value in values]
    return list(round_nearest(torch.stack(values), dtype).double().unbind())


def _undecided(exact: Exact, arithmetic: Arithmetic) -> Tensor | None:
    """Where an intermediate sum may overflow in one order and not in another; None for nowhere."""
    if exact.stays_below(arithmetic):
        return None
    s, most = exact.value, 1 + arithmetic.relative + 2 * exact.terms * arithmetic.u
    undecided = exact.magnitude * most >= arithmetic.accumulator_max
    if exact.plain and exact.low is None and exact.classes is None:
        # Terms of one sign, or a term alone, overflow to one infinity in any order: the interval, which holds it,
        # decides. What the other sign may hide within float64's own error must not overflow by itself.
        one_sign = exact.magnitude - s.abs() <= 2.0**-40 * exact.magnitude
        hidden_is_small = exact.magnitude < 2.0**36 * arithmetic.accumulator_max
        undecided = undecided & ~((torch.as_tensor(exact.terms, device=s.device) <= 1) | (one_sign & hidden_is_small))
    if exact.factors is not None and arithmetic.factor_max < math.inf:
        undecided = undecided | (exact.factors >= arithmetic.factor_max)
    return undecided


def _half_ulp(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance of a 16-bit result from the next larger one; 0 for the largest and for what is no number."""
    size = result.abs()
    above = (size.view(torch.int16) + 1).view(dtype)
    return ((above.double() - size.double()) / 2).nan_to_num(0.0, 0.0, 0.0)


def _with_classes(found: Judgement, y: Tensor, classes: Classes, arithmetic: Arithmetic) -> Judgement:
    """The same judgement, but where an output must be NaN or an infinity: there nothing else is inside."""
    # Where finite terms may overflow, an infinity of the other sign can turn up on the way: undecided stays undecided.
    # Nothing can undo a NaN; a flushed subnormal that meets an infinity makes one more.
    wanted = torch.where(classes.nan, torch.nan, torch.where(classes.plus_inf, torch.inf, -torch.inf))
    special = classes.nan | classes.plus_inf | classes.minus_inf
    match = torch.where(classes.nan, y.isnan(), y == wanted)
    undecided = (found.undecided | classes.ambiguous) & ~classes.nan
    if arithmetic.infinity_spreads:
        undecided = undecided | (classes.tainted & ~classes.nan & y.isnan())
    return Judgement(
        inside=torch.where(special, match, found.inside),
        undecided=undecided,
        ratio=torch.where(special, torch.where(match, 0.0, torch.inf), found.ratio),
        lower=torch.where(special, wanted, found.lower),
        upper=torch.where(special, wanted, found.upper),
    )
