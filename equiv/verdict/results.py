"""Compare two results of one layer: the outcome, its evidence, and a paragraph that explains it.

Knows how to read tensors of results and to put an :class:`~equiv.numerics.Assessment` into words. What the bounds are
is the business of ``equiv.numerics``; which inputs to try, of ``equiv.verdict.layers``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from equiv.dtypes import dtype_name
from equiv.errors import EquivError
from equiv.numerics import Arithmetic, Assessment, declared, same_bits
from equiv.text import counted
from equiv.verdict.arguments import check_results, layer_tensors, rows_of, tolerances_of, trimmed
from equiv.verdict.blocks import assess_blocks, assess_ways, cause_of_outputs
from equiv.verdict.outcome import Entry, Outcome, Verdict

__all__ = ["Entry", "Outcome", "Verdict", "compare"]


def compare(
    actual: Tensor,
    expected: Tensor,
    *,
    input: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    layer: nn.Module | None = None,
    arithmetic: Arithmetic | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> Verdict:
    """Are two results of one layer the same up to the rounding of right kernels?

    With ``input`` and the layer, each result is held against the envelope of its dtype around the exact result. Without
    them only equal bits, equal integers and the tolerances that were asked for can be judged: results that differ are
    then ``UNDECIDED``.

    Args:
        actual: ``(*batch, O)``, or with trailing dimensions of size 1 as a convolution returns it. Any floating,
            complex or integer dtype of ``equiv.numerics.DTYPES``.
        expected: The same shape up to trailing dimensions of size 1; its dtype may be wider.
        input: ``(*batch, n)`` or ``(*batch, C, *spatial)``; dtype of ``actual``.
        weight: ``(O, n)`` or ``(O, C, *kernel)``; dtype of ``actual``.
        bias: ``(O,)`` or None.
        layer: A plain Linear or convolution, instead of weight and bias. A convolution is taken as the layer that it is
            on the maps of ``input``; rows are taken for maps of its kernel's size. Its results, ``(*batch, O,
            *positions)``, may come flattened. A layer that computes anything else, such as one with forward hooks or a
            weight that is computed, is refused.
        arithmetic: What the kernel of ``actual`` computes in; by default what is declared for its dtype and device.
            ``equiv.numerics.measure(...).arithmetic`` is what it was found to compute in; where that is weaker than
            declared, the explanation says so.
        rtol: In addition, ``|actual - expected| <= atol + rtol*|expected|`` must hold everywhere.
        atol: See ``rtol``; each is 0 when only the other is given.

    Raises:
        EquivError: Arguments that do not fit together, or a dtype that is not served.

    Example:
        >>> linear = torch.nn.Linear(64, 3)
        >>> x = torch.rand(5, 64)
        >>> verdict = compare(linear(x.flip(0)).flip(0), linear(x), input=x, layer=linear)
        >>> verdict.equivalent
        True
    """
    check_results(actual, expected)
    weight, bias, channels, taps = layer_tensors(layer, weight, bias, input, actual)
    ways = (None,) if taps is None else (None, taps)  # the results may be the convolution's, or its dense layer's
    verdict, wrong = compare_rows(
        *(actual, expected, input, weight, bias),
        arithmetic=arithmetic,
        tolerances=tolerances_of(rtol, atol),
        channels=channels,
        ways=(ways, ways),
    )
    if wrong is None or input is None or weight is None:
        return verdict
    x, w = wrong.x, wrong.weight
    shape = tuple(weight.shape[1:]) if weight.ndim > 2 else _map_of(tuple(input.shape), len(x), w.shape[1])
    cause = cause_of_outputs(wrong.actual, wrong.output, x=x, weight=w, bias=wrong.bias, feature_shape=shape)
    return replace(verdict, cause=cause)


Ways: TypeAlias = tuple[Tensor | None, ...]


class Wrong(NamedTuple):
    """Results that right kernels do not give, as rows: what a cause is looked for in."""

    actual: Tensor
    output: int
    x: Tensor
    weight: Tensor
    bias: Tensor | None


def compare_rows(
    actual: Tensor,
    expected: Tensor,
    input: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    arithmetic: Arithmetic | None = None,
    tolerances: tuple[float, float] | None = None,
    channels: int | None = None,
    ways: tuple[Ways, Ways] = ((None,), (None,)),
) -> tuple[Verdict, Wrong | None]:
    """:func:`compare` without a cause, and the rows to find one from where ``actual`` is outside the envelope.

    ``ways`` says for each result which weights it may come from: None is ``weight``; others are over copies of the
    inputs, see :func:`equiv.verdict.arguments.tap_weights`.
    """
    check_results(actual, expected)
    if arithmetic is not None and not isinstance(arithmetic, Arithmetic):
        raise EquivError(
            f"arithmetic: expected an equiv.numerics.Arithmetic, got {arithmetic!r:.60}; pass what "
            "equiv.numerics.declared(dtype) returns, or leave it out"
        )
    device, other_device = actual.device, expected.device
    actual, expected = (t.detach().cpu().resolve_conj().resolve_neg() for t in (actual, expected))
    if trimmed(actual.shape) != trimmed(expected.shape):
        return _shapes_differ(actual, expected), None
    if input is None or weight is None:
        if input is not None or weight is not None or bias is not None:
            missing = "weight (or layer)" if weight is None else "input"
            raise EquivError(
                f"{missing}: expected together with its counterpart, got None; the envelope needs the input and "
                "the layer"
            )
        return _without_envelope(actual, expected, tolerances), None
    x, w, b = rows_of(input, weight, bias, actual, channels)
    judged = w.is_floating_point() or w.is_complex()
    chosen = arithmetic if arithmetic is not None or not judged else declared(actual.dtype, device)
    y, e = actual.reshape(len(x), len(w)), expected.reshape(len(x), len(w))
    others = declared(e.dtype, other_device) if judged else None
    plain = all(way is None for tried in ways for way in tried)
    if plain or not bool(x.isfinite().all()):  # copies of an infinity would meet zeros
        found, other = assess_blocks((y, e), (chosen, others), x, w, b)
    else:
        found, other = (
            assess_ways(result, kind, x, [w if way is None else way for way in tried], b)
            for result, kind, tried in zip((y, e), (chosen, others), ways, strict=True)
        )
    verdict = _verdict(actual, y, e, found, other, chosen, tolerances)
    if found.all_inside or not len(x):
        return verdict, None
    output = int(found.ratio.nan_to_num(math.inf, math.inf).amax(0).argmax())
    return verdict, Wrong(y, output, x, w, b)


def _map_of(shape: tuple[int, ...], rows: int, n: int) -> tuple[int, ...]:
    """The map that the trailing dimensions of an input are, or ``(n, 1)`` for rows."""
    tail = shape[1:] if shape[0] == rows else ()
    return tail if 2 <= len(tail) <= 4 and math.prod(tail) == n else (n, 1)


def _verdict(
    actual: Tensor,
    y: Tensor,
    e: Tensor,
    found: Assessment,
    other: Assessment,
    arithmetic: Arithmetic | None,
    tolerances: tuple[float, float] | None,
) -> Verdict:
    same = same_bits(y.to(e.dtype), e)  # exact where expected is wider
    outside = ~(found.inside & other.inside)
    undecided = found.undecided & ~outside & ~same
    conditions, breaks = _conditions(y, e, tolerances)
    counts = _counts(same & ~outside & ~breaks, outside | breaks, undecided & ~breaks)
    outcome = _outcome(counts)
    ratio = torch.maximum(found.ratio, other.ratio)
    max_ratio = float(ratio.max()) if ratio.numel() else 0.0
    worst = None
    if y.numel() and outcome is not Outcome.IDENTICAL:
        worst = _entry(_worst_index(ratio, y, e, outside, breaks, undecided), actual, y, e, found, arithmetic)
    blame = "" if bool(other.inside.all()) else _blame(found, other)
    explanation = (
        _explain(outcome, counts, max_ratio, worst, arithmetic, actual, int(outside.sum()), int(breaks.sum())) + blame
    )
    explanation += f" {arithmetic.note}" if arithmetic and arithmetic.note else ""
    name = arithmetic.name if arithmetic else "integers modulo 2**bits"
    return Verdict(
        outcome, explanation, dtype_name(actual.dtype), tuple(actual.shape), counts, max_ratio, worst, name, conditions
    )


def _outcome(counts: dict[str, int]) -> Outcome:
    for outcome in (Outcome.DIFFERENT, Outcome.UNDECIDED, Outcome.ROUNDING):
        if counts[outcome.value]:
            return outcome
    return Outcome.IDENTICAL


def _counts(same: Tensor, different: Tensor, undecided: Tensor) -> dict[str, int]:
    total = same.numel()
    found = {"identical": int(same.sum()), "different": int(different.sum()), "undecided": int(undecided.sum())}
    return {**found, "rounding": total - sum(found.values()), "total": total}


def _worst_index(ratio: Tensor, y: Tensor, e: Tensor, outside: Tensor, breaks: Tensor, undecided: Tensor) -> int:
    score = torch.where(outside, ratio + 1, ratio).nan_to_num(math.inf, math.inf)
    if not bool(outside.any()):
        if bool(breaks.any()):
            score = torch.where(breaks, _apart(y, e), -1.0)
        elif bool(undecided.any()):
            score = undecided.double()
    return int(score.flatten().argmax())


def _entry(flat: int, actual: Tensor, y: Tensor, e: Tensor, found: Assessment, arithmetic: Arithmetic | None) -> Entry:
    row, column = divmod(flat, y.shape[1])
    index = _index(flat, tuple(actual.shape), y.shape[1])
    exact, size = found.exact[row, column].item(), float(found.magnitude[row, column])
    a, terms = y[row, column].item(), int(found.terms[row, column])
    in_us = cancelled = None
    if arithmetic is not None and arithmetic.u * size > 0 and math.isfinite(size):
        in_us = abs(a - exact) / (arithmetic.u * size)
        cancelled = math.log2(size / abs(exact)) if exact and math.isfinite(abs(exact)) else None
    bounds = (found.lower[row, column].item(), found.upper[row, column].item())
    ratio = float(found.ratio[row, column])
    known = arithmetic is not None
    return Entry(
        index,
        a,
        e[row, column].item(),
        exact,
        *bounds,
        ratio,
        size if known else None,
        terms if known else None,
        in_us,
        cancelled,
    )


def _index(flat: int, shape: tuple[int, ...], outputs: int) -> tuple[int, ...]:
    """Where a flat entry stands in a result of ``shape``, without the trailing ones of a convolution."""
    kept = trimmed(shape) or (1,)
    if outputs == 1 and len(kept) == 1 < len(shape):
        kept = (*kept, 1)
    index = []  # torch.unravel_index imports a second's worth of modules
    for size in reversed(kept):
        flat, place = divmod(flat, size)
        index.append(place)
    return tuple(reversed(index))


def _explain(
    outcome: Outcome,
    counts: dict[str, int],
    max_ratio: float,
    worst: Entry | None,
    arithmetic: Arithmetic | None,
    actual: Tensor,
    outside: int,
    breaks: int,
) -> str:
    total, kind = (
        counts["total"],
        arithmetic.name if arithmetic else f"{dtype_name(actual.dtype)}, exact modulo 2**bits",
    )
    if outcome is Outcome.IDENTICAL:
        return f"{_all(total, 'are', 'is')} the same bit for bit ({kind})." if total else "both results are empty."
    if outcome is Outcome.ROUNDING:
        text = (
            f"{_all(total, 'lie', 'lies')} inside the envelope of right kernels ({kind}); {counts['identical']:,} "
            f"{_verb(counts['identical'], 'are', 'is')} the same bit for bit; the largest error is {max_ratio:.2g} of "
            "its envelope"
        )
        if worst is not None and worst.error_in_uS is not None:
            text += f", {worst.error_in_uS:.2g} units of u*S over {counted(worst.terms or 0, 'term')}"
        return text + "."
    if outcome is Outcome.UNDECIDED:
        return (
            f"for {counts['undecided']:,} of {total:,} outputs right kernels may disagree: the sum of the magnitudes "
            "of the terms reaches the largest finite value, so that some order of summation overflows, or subnormals "
            f"meet infinities ({kind}). Scale the input down to get a verdict."
        )
    if not outside:
        return (
            f"{_all(total, 'lie', 'lies')} inside the envelope of right kernels ({kind}), but {breaks:,} "
            f"{_verb(breaks, 'exceed', 'exceeds')} the tolerance that was asked for."
        )
    if arithmetic is None:
        said = _some(outside, total, "are", "is", "integer outputs")
        return f"{said} wrong: integers are exact in any order ({kind})."
    them = _verb(outside, "them", "it")
    return f"{_some(outside, total, 'lie', 'lies')} outside the envelope: no right kernel gives {them} ({kind})."


def _verb(count: int, many: str, one: str) -> str:
    return one if count == 1 else many


def _all(total: int, many: str, one: str) -> str:
    return f"the one output {one}" if total == 1 else f"all {total:,} outputs {many}"


def _some(count: int, total: int, many: str, one: str, what: str = "outputs") -> str:
    return f"{count:,} of {total:,} {_verb(total, what, what.removesuffix('s'))} {_verb(count, many, one)}"


def _blame(found: Assessment, other: Assessment) -> str:
    mine, theirs = int((~found.inside).sum()), int((~other.inside).sum())
    if mine == 0:
        return f" It is `expected` that is outside ({counted(theirs, 'output')}); all of `actual` is inside."
    return f" `actual` is outside at {counted(mine, 'output')}, `expected` at {theirs:,}."


def _shapes_differ(actual: Tensor, expected: Tensor) -> Verdict:
    text = (
        f"the results have different shapes, {tuple(actual.shape)} and {tuple(expected.shape)}: these are not the same "
        "function."
    )
    return Verdict(Outcome.DIFFERENT, text, dtype_name(actual.dtype), tuple(actual.shape))


def _without_envelope(actual: Tensor, expected: Tensor, tolerances: tuple[float, float] | None) -> Verdict:
    y = actual.reshape(-1)
    e = expected.reshape(-1)
    same = same_bits(y, e) if y.dtype == e.dtype else torch.zeros(y.shape, dtype=torch.bool)
    integer = not (y.is_floating_point() or y.is_complex())
    conditions, breaks = _conditions(y, e, tolerances)
    wrong = breaks | (~same if integer else torch.zeros_like(same))
    counts = _counts(same & ~wrong, wrong, ~same & ~wrong)
    outcome = _outcome(counts)
    total = counts["total"]
    if outcome is Outcome.IDENTICAL:
        text = f"{_all(total, 'are', 'is')} the same bit for bit." if total else "both results are empty."
    elif outcome is Outcome.DIFFERENT and integer:
        said = _some(counts["different"], total, "differ", "differs", "integer outputs")
        text = f"{said}: integers are exact in any order."
    elif outcome is Outcome.DIFFERENT:
        text = f"{_some(counts['different'], total, 'exceed', 'exceeds')} the tolerance that was asked for."
    else:
        text = (
            f"{_some(counts['undecided'], total, 'differ', 'differs')}, and without the input and the layer nobody can "
            "tell rounding from a defect. Pass input= and layer= (or weight= and bias=) for a verdict."
        )
    worst = None
    if outcome is not Outcome.IDENTICAL:
        score = torch.where(same, -1.0, _apart(y, e))
        flat = int(score.argmax())
        index = _index(flat, tuple(actual.shape), 0)
        worst = Entry(index, y[flat].item(), e[flat].item())
    return Verdict(outcome, text, dtype_name(actual.dtype), tuple(actual.shape), counts, None, worst, None, conditions)


def _apart(y: Tensor, e: Tensor) -> Tensor:
    """``|y - e|`` in float64, infinite where it cannot be told; integers do not wrap."""
    wide = torch.complex128 if y.is_complex() or e.is_complex() else torch.float64
    return (y.to(wide) - e.to(wide)).abs().nan_to_num(math.inf, math.inf)


def _conditions(y: Tensor, e: Tensor, tolerances: tuple[float, float] | None) -> tuple[tuple[str, ...], Tensor]:
    """The caller's own tolerance: in words, and where it is exceeded."""
    if tolerances is None:
        return (), torch.zeros(y.shape, dtype=torch.bool)
    rtol, atol = tolerances
    wide = torch.complex128 if y.is_complex() else torch.float64
    a, b = y.to(wide), e.to(wide)
    close = torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    state = "holds" if bool(close.all()) else f"is exceeded at {int((~close).sum()):,} of {y.numel():,} outputs"
    return (f"rtol={rtol:g}, atol={atol:g}: {state}",), ~close
