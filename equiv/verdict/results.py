"""Compare two results of one layer: the outcome, its evidence, and a paragraph that explains it.

How far right results may lie from the exact ones is the business of ``equiv.numerics``; which inputs to try, of
``equiv.verdict.layers``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.arguments import check_tensor
from equiv.causes import on_maps
from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv, plain_form
from equiv.numerics import Arithmetic, Assessment, declared, gap_words, plain_torch, same_bits, subnormals_kept
from equiv.verdict.arguments import (
    Comparison,
    Maps,
    check_given_arithmetic,
    check_results,
    layer_tensors,
    maps_of,
    on_cpu,
    rows_of,
    tolerances_of,
    trimmed,
)
from equiv.verdict.blocks import assess_both, cause_of_outputs
from equiv.verdict.chain_causes import cannot_be_told, cause_in_chain, wrong_fold
from equiv.verdict.chains import ChainResults, bound_of
from equiv.verdict.conditions import apart, condition_words, conditions_of
from equiv.verdict.entries import entry_of, index_in, outcome_of
from equiv.verdict.explanation import blamed, explained, without_layer
from equiv.verdict.links import Chain, is_chain, links_of
from equiv.verdict.outcome import Entry, Outcome, Verdict
from equiv.verdict.rounding import held_to_nearest
from equiv.verdict.sliding import SMALL, cause_of_sliding, one_output, some_outputs, tally_of


@plain_torch()
def compare(  # noqa: PLR0913 - the options are the interface
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
        layer: A plain Linear or convolution, instead of weight and bias, or an ``nn.Sequential`` of affine layers:
            these, batch norms in eval mode, average pooling, reshapes, dropout in eval mode, LoRA layers of peft.
            Results of a chain may come from its layers or from a layer into which they were folded, by right formulas,
            in the dtype or a wider one: the envelope has the rounding of folded parameters too, and the explanation
            says what that hides. A convolution is judged at every output position, of any real size: in a few MiB, or
            less than its input, weight and result take; an input of rows is read as flattened maps of the kernel's
            size. Its results, ``(*batch, O, *positions)``, may come flattened, and may be those of its dense layer. A
            layer that computes anything else, such as one with forward hooks or a weight that is computed, is refused.
        arithmetic: What the kernel of ``actual`` computes in; by default what is declared for its dtype and device.
            ``equiv.numerics.measure(...).arithmetic`` is what it was found to compute in; where that is weaker than
            declared, the explanation says so.
        rtol: In addition, ``|actual - expected| <= atol + rtol*|expected|`` must hold everywhere.
        atol: See ``rtol``; each is 0 when only the other is given.

    Raises:
        EquivError: Arguments that do not fit together, or a dtype that is not served.

    A convolution takes some ten times as long as its forward pass in float32, and up to a hundred times in other dtypes
    (docs/performance.md). The memory is a few MiB, or what input, weight and result take together where that is more.
    Where results differ, finding the likely mistake takes up to some 200 MiB besides.

    Example:
        >>> linear = torch.nn.Linear(64, 3)
        >>> x = torch.rand(5, 64)
        >>> verdict = compare(linear(x.flip(0)).flip(0), linear(x), input=x, layer=linear)
        >>> verdict.equivalent
        True
    """
    check_results(actual, expected)
    tolerances = tolerances_of(rtol, atol)
    check_given_arithmetic(arithmetic)
    if is_chain(layer):
        return _of_chain(actual, expected, input, (weight, bias), (layer, arithmetic, tolerances))
    layer, input = plain_form(layer, input)
    weight, bias, conv, map_shape = layer_tensors(layer, weight, bias, input, actual)
    if input is None or weight is None:
        known = not (input is None and weight is None and bias is None)
        if known and trimmed(actual.shape) == trimmed(expected.shape):
            missing = "weight (or layer)" if weight is None else "input"
            raise EquivError(
                f"{missing}: expected a tensor, got None; pass both the input and the layer, or neither to compare "
                "bits alone"
            )
        return _without_layer(on_cpu(actual), on_cpu(expected), tolerances)
    comparison = Comparison(*(actual, expected, input, weight, bias), arithmetic, tolerances)
    if conv is not None:
        return compare_sliding(replace(comparison, channels=conv.out_channels), conv, map_shape)
    verdict, mismatch = compare_rows(comparison)
    if mismatch is None:
        return verdict
    rows, n = len(mismatch.rows.input), mismatch.rows.weight.shape[1]
    shape = tuple(weight.shape[1:]) if weight.ndim > 2 else _map_of(tuple(input.shape), rows, n)
    conv = layer if isinstance(layer, Conv) and input.shape[-len(shape) :] == shape else None
    return replace(verdict, cause=cause_of_outputs(mismatch.rows, mismatch.output, shape, conv))


def _of_chain(
    actual: Tensor,
    expected: Tensor,
    x: Tensor | None,
    given: tuple[Tensor | None, Tensor | None],
    judged_by: tuple[Any, Arithmetic | None, tuple[float, float] | None],
) -> Verdict:
    """:func:`compare` for a chain of affine layers."""
    layer, arithmetic, tolerances = judged_by
    if any(t is not None for t in given):
        raise EquivError("layer: expected either layer or weight and bias, got both; drop one of them")
    chain = links_of(layer)
    if x is None:
        raise EquivError("input: expected a tensor, got None; pass what the layer was given")
    check_tensor("input", x, advice="pass what the layer was given")
    return compare_chain(Comparison(actual, expected, x, actual, None, arithmetic, tolerances), chain)


def compare_chain(given: Comparison, chain: Chain) -> Verdict:
    """:func:`compare` for the links of a chain; the weight and bias of ``given`` are not looked at."""
    if trimmed(given.actual.shape) != trimmed(given.expected.shape):
        return _shapes_differ(given.actual, given.expected)
    shape = tuple(given.actual.shape)
    given, other = _with_arithmetic(given, given)
    mine = given.arithmetic
    with torch.no_grad(), subnormals_kept():
        results = ChainResults(given.actual, given.expected, given.input, chain)
        tally = results.tally((mine, other), given.tolerances)
        verdict = Verdict(
            tally.outcome,
            "",
            dtype_name(given.actual.dtype),
            shape,
            tally.counts,
            max_ratio=tally.max_ratio,
            arithmetic=_name(mine),
            conditions=condition_words(given.tolerances, tally.breaks, tally.total),
        )
        text = explained(verdict, mine, tally.outside, tally.breaks) + blamed(tally.mine, tally.theirs)
        if tally.total and verdict.outcome is not Outcome.IDENTICAL:
            known, judged, (y, e) = results.one(tally.worst, mine)
            at = tally.worst % results.outputs
            verdict = replace(
                verdict,
                worst=Entry(
                    _index(tally.worst, shape, results.outputs),
                    y.item(),
                    e.item(),
                    known.value[0, at].item(),
                    judged.lower[0].item(),
                    judged.upper[0].item(),
                    float(judged.ratio[0]),
                    None if mine is None else float(known.size[0, at]),
                    None if mine is None else results.terms,
                ),
            )
            text += _of_difference(results, shape)
        if mine is not None and results.shapes:
            text += cannot_be_told(chain, verdict, bound_of(chain, results.shapes, mine, results.dtype))
        verdict = replace(verdict, explanation=f"{text} {mine.note}" if mine and mine.note else text)
        if verdict.outcome is Outcome.ROUNDING:
            return _unless_wrong_fold(verdict, results)
        if tally.mine or tally.theirs:
            flat = tally.mine_ratio.flat if tally.mine else tally.worst
            verdict = replace(verdict, cause=cause_in_chain(results, 0 if tally.mine else 1, flat, mine))
        return verdict


def _unless_wrong_fold(verdict: Verdict, results: ChainResults) -> Verdict:
    """The verdict, unless one of the results, taken together, is that of a wrong fold."""
    for which, name in enumerate(("`actual`", "`expected`")):
        cause = wrong_fold(results, which)
        if cause is not None:
            counts = {**verdict.counts, "different": verdict.counts["rounding"], "rounding": 0}
            text = (
                f"every output lies inside the envelope, which allows for rounded parameters, but {name} as a whole "
                f"differs from the exact results just as a wrong fold does: {cause.sentence}. {verdict.explanation}"
            )
            return replace(verdict, outcome=Outcome.DIFFERENT, counts=counts, cause=cause, explanation=text)
    return verdict


def _of_difference(results: ChainResults, shape: tuple[int, ...]) -> str:
    """How far the two results are apart, in a sentence."""
    largest, flat = results.furthest()
    y, e = (result.flatten()[flat] for result in results.results)
    words = gap_words(y, e) if y.dtype == e.dtype else ""
    at = list(_index(flat, shape, results.outputs))
    return f" The largest difference between the two is {largest:.3g}{f' ({words})' if words else ''}, at {at}."


_TOGETHER = 2**17  # weights of a sliding convolution whose results are judged together


class Mismatch(NamedTuple):
    """Results that right kernels do not give, as rows, and the output that is furthest off.

    Where only ``expected`` is wrong, the two have changed places in ``rows``.
    """

    rows: Comparison
    output: int
    of_expected: bool


def compare_rows(given: Comparison) -> tuple[Verdict, Mismatch | None]:
    """:func:`compare` without a cause, and what to find one from where ``actual`` is outside the envelope."""
    check_results(given.actual, given.expected)
    if trimmed(given.actual.shape) != trimmed(given.expected.shape):
        return _shapes_differ(given.actual, given.expected), None
    rows, other_arithmetic = _with_arithmetic(given, rows_of(given))
    with subnormals_kept():
        found, other = assess_both(rows, (rows.arithmetic, other_arithmetic))
        found, rounding = held_to_nearest(rows, rows.actual, found, rows.arithmetic)
        other, others = held_to_nearest(rows, rows.expected, other, other_arithmetic)
        verdict = _verdict(rows, tuple(given.actual.shape), found, other, rounding or others)
    of_expected = found.all_inside
    wrong = other if of_expected else found
    if wrong.all_inside or not len(rows.input):
        return verdict, None
    rows = rows.exchanged() if of_expected else rows
    return verdict, Mismatch(rows, int(wrong.ratio.nan_to_num(math.inf, math.inf).amax(0).argmax()), of_expected)


def compare_sliding(given: Comparison, conv: Conv, shape: tuple[int, ...]) -> Verdict:
    """:func:`compare` for a convolution that slides over maps of ``shape``."""
    if trimmed(given.actual.shape) != trimmed(given.expected.shape):
        return _shapes_differ(given.actual, given.expected)
    maps = maps_of(given, conv, shape)
    given, other = _with_arithmetic(given, given)
    arithmetic = given.arithmetic
    with torch.no_grad(), subnormals_kept():
        tally = tally_of(maps, (arithmetic, other), given.tolerances)
        verdict = Verdict(
            tally.outcome,
            "",
            dtype_name(given.actual.dtype),
            tuple(given.actual.shape),
            tally.counts,
            max_ratio=tally.max_ratio,
            arithmetic=_name(arithmetic),
            conditions=condition_words(given.tolerances, tally.breaks, tally.total),
        )
        if tally.total and verdict.outcome is not Outcome.IDENTICAL:
            one = one_output(given, maps, tally.worst)
            index = _index(tally.worst, verdict.shape, math.prod(maps.actual.shape[1:]))
            found = assess_both(one, (arithmetic, other))
            verdict = replace(verdict, worst=replace(_entry(0, one, (1,), found[0]), index=index))
            if not tally.outside and maps.actual.numel() > SMALL:
                verdict = replace(verdict, max_ratio=max(each.max_ratio for each in found))
        text = explained(verdict, arithmetic, tally.outside, tally.breaks) + blamed(tally.mine, tally.theirs)
        verdict = replace(verdict, explanation=f"{text} {arithmetic.note}" if arithmetic and arithmetic.note else text)
        if not tally.outside and maps.actual.is_floating_point() and maps.actual.itemsize == 2 and tally.total:
            return _held_to_nearest(verdict, maps, given)
        if tally.mine:
            return replace(verdict, cause=cause_of_sliding(maps, tally.mine_ratio.flat))
        if tally.theirs and given.expected.dtype == given.actual.dtype:
            turned = replace(maps, actual=maps.expected, expected=maps.actual)
            return replace(verdict, cause=cause_of_sliding(turned, tally.worst))
        return verdict


def _held_to_nearest(verdict: Verdict, maps: Maps, given: Comparison) -> Verdict:
    """The verdict on a sliding convolution, unless some of its results, taken together, are not rounded to nearest."""
    rows, places = some_outputs(maps, 0, alone=True, weights=_TOGETHER)
    some, mismatch = compare_rows(replace(rows, arithmetic=given.arithmetic))
    if mismatch is None or some.worst is None:
        return verdict
    off = some.counts["different"]
    of_identical = int(same_bits(rows.actual.to(rows.expected.dtype), rows.expected).sum()) - some.counts["identical"]
    counts = {**verdict.counts, "different": off, "identical": verdict.counts["identical"] - of_identical}
    counts["rounding"] -= off - of_identical
    row, output = (*some.worst.index, 0)[:2]
    flat = int(places[row * len(rows.weight) + output])
    worst = replace(some.worst, index=_index(flat, verdict.shape, math.prod(maps.actual.shape[1:])))
    text = f"judged together at {len(places):,} of {verdict.counts['total']:,} outputs: {some.explanation}"
    cause = cause_of_outputs(mismatch.rows, mismatch.output, tuple(maps.conv.weight.shape[1:]))
    cause = None if cause is None else on_maps(cause, maps.conv)
    return replace(
        some,
        shape=verdict.shape,
        conditions=verdict.conditions,
        counts=counts,
        worst=worst,
        explanation=text,
        cause=cause,
    )


def _with_arithmetic(given: Comparison, rows: Comparison) -> tuple[Comparison, Arithmetic | None]:
    """``rows`` with the arithmetic of ``actual``, and that of ``expected``; None for integers."""
    if not is_inexact(given.actual.dtype):
        return rows, None
    mine = given.arithmetic or declared(given.actual.dtype, given.actual.device)
    return replace(rows, arithmetic=mine), declared(given.expected.dtype, given.expected.device)


def _name(arithmetic: Arithmetic | None) -> str:
    return arithmetic.name if arithmetic else "integers modulo 2**bits"


def _map_of(shape: tuple[int, ...], rows: int, n: int) -> tuple[int, ...]:
    """The map that the trailing dimensions of an input are, or ``(n, 1)`` for rows."""
    tail = shape[1:] if shape[0] == rows else ()
    return tail if 2 <= len(tail) <= 4 and math.prod(tail) == n else (n, 1)


def _verdict(
    rows: Comparison, shape: tuple[int, ...], found: Assessment, other: Assessment, rounding: str | None
) -> Verdict:
    y, e, arithmetic = rows.actual, rows.expected, rows.arithmetic
    same = same_bits(y.to(e.dtype), e)  # exact where expected is wider
    outside = ~(found.inside & other.inside)
    undecided = found.undecided & ~outside & ~same
    conditions, breaks = conditions_of(y, e, rows.tolerances)
    counts = _counts(same & ~outside & ~breaks, outside | breaks, undecided & ~breaks)
    ratio = torch.maximum(found.ratio, other.ratio)
    verdict = Verdict(
        outcome_of(counts),
        "",
        dtype_name(y.dtype),
        shape,
        counts,
        max_ratio=float(ratio.max()) if ratio.numel() else 0.0,
        arithmetic=_name(arithmetic),
        conditions=conditions,
    )
    if y.numel() and verdict.outcome is not Outcome.IDENTICAL:
        score = torch.where(outside, ratio + 1, ratio).nan_to_num(math.inf, math.inf)
        if not bool(outside.any()) and bool(breaks.any()):
            score = torch.where(breaks, apart(y, e), -1.0)
        elif not bool(outside.any()) and bool(undecided.any()):
            score = undecided.double()
        verdict = replace(verdict, worst=_entry(int(score.flatten().argmax()), rows, shape, found))
    text = explained(verdict, arithmetic, int(outside.sum()), int(breaks.sum()), rounding)
    text += blamed(int((~found.inside).sum()), int((~other.inside).sum()))
    return replace(verdict, explanation=f"{text} {arithmetic.note}" if arithmetic and arithmetic.note else text)


def _counts(same: Tensor, different: Tensor, undecided: Tensor) -> dict[str, int]:
    total = same.numel()
    found = {"identical": int(same.sum()), "different": int(different.sum()), "undecided": int(undecided.sum())}
    return {**found, "rounding": total - sum(found.values()), "total": total}


def _entry(flat: int, rows: Comparison, shape: tuple[int, ...], found: Assessment) -> Entry:
    at = divmod(flat, rows.actual.shape[1])
    index = _index(flat, shape, rows.actual.shape[1])
    return entry_of(at, index, rows, found, rows.expected[at].item(), rows.arithmetic)


def _index(flat: int, shape: tuple[int, ...], outputs: int) -> tuple[int, ...]:
    """Where a flat entry stands in a result of ``shape``, without the trailing ones of a convolution."""
    kept = trimmed(shape) or (1,)
    if outputs == 1 and len(kept) == 1 < len(shape):
        kept = (*kept, 1)
    return index_in(flat, kept)


def _shapes_differ(actual: Tensor, expected: Tensor) -> Verdict:
    text = (
        f"the results have different shapes, {tuple(actual.shape)} and {tuple(expected.shape)}: these are not the same "
        "function."
    )
    return Verdict(Outcome.DIFFERENT, text, dtype_name(actual.dtype), tuple(actual.shape))


def _without_layer(actual: Tensor, expected: Tensor, tolerances: tuple[float, float] | None) -> Verdict:
    if trimmed(actual.shape) != trimmed(expected.shape):
        return _shapes_differ(actual, expected)
    y, e, integers = actual.reshape(-1), expected.reshape(-1), not is_inexact(actual.dtype)
    same = same_bits(y, e) if y.dtype == e.dtype else torch.zeros(y.shape, dtype=torch.bool)
    conditions, breaks = conditions_of(y, e, tolerances)
    wrong = breaks | (~same if integers else torch.zeros_like(same))
    counts = _counts(same & ~wrong, wrong, ~same & ~wrong)
    shape = tuple(actual.shape)
    verdict = Verdict(outcome_of(counts), "", dtype_name(y.dtype), shape, counts, conditions=conditions)
    if verdict.outcome is not Outcome.IDENTICAL:
        flat = int(torch.where(same, -1.0, apart(y, e)).argmax())
        verdict = replace(verdict, worst=Entry(_index(flat, shape, 0), y[flat].item(), e[flat].item()))
    return replace(verdict, explanation=without_layer(verdict, integers=integers))
