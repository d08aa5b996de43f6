"""Exact outputs of one part of a sliding convolution, and which of a result's outputs need to be judged in full.

Every output is judged as ``equiv.numerics`` judges it. That takes some sixty passes over float64 tensors: an output
that provably lies inside, with less of its envelope used than another, is left out by a test of five.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.numerics import Arithmetic, Classes, Exact, Reference, dot_integers, exact_affine, format_of, judge
from equiv.verdict.patches import Box, Patches
from equiv.verdict.tally import Found

Judge = Callable[[Tensor, "Arithmetic | None", float], Found]
"""Judges a result ``(channels, R)`` in its arithmetic; outputs whose ratio is below the float may be left out."""


@dataclass(frozen=True, eq=False)
class Block:
    """Weights of some groups, all their channels, or of some channels of one group.

    Attributes:
        groups: Which groups.
        weight: ``(g, o, n)``.
        bias: ``(g, o, 1)`` or None.
        wide: The weight in float64, for real dtypes narrower than that and finite weights; else None.
        sizes: Its magnitudes; the same tensor where no weight is negative.
        has_zeros: Whether some weight is zero.
    """

    groups: slice
    weight: Tensor
    bias: Tensor | None
    wide: Tensor | None
    sizes: Tensor | None
    has_zeros: bool


def block_of(weight: Tensor, bias: Tensor | None, groups: slice, channels: slice) -> Block:
    """A block of ``weight`` ``(G, O/G, n)`` and ``bias`` ``(O,)``."""
    some = weight[groups, channels]
    offset = None if bias is None else bias.view(len(weight), -1, 1)[groups, channels]
    finite = all(bool(t.isfinite().all()) for t in (some, offset) if t is not None)
    if not some.is_floating_point() or some.dtype == torch.float64 or not finite:
        return Block(groups, some, offset, None, None, True)
    wide = some.double()
    least, largest = (float(end) for end in torch.aminmax(wide))
    has_zeros = least <= 0 <= largest and bool((wide == 0).any())
    return Block(groups, some, offset, wide, wide if least >= 0 else wide.abs(), has_zeros)


def judge_of(patches: Patches, x: Tensor, box: Box, block: Block, *, flushes: bool) -> Judge:
    """What judges results of a block of channels at a box of positions; ``flushes`` where subnormals may be lost."""
    slab = patches.slab(x, box, block.groups)
    groups = len(block.weight)
    if block.wide is not None and not (flushes and _has_subnormals(slab, block.weight, block.bias)):
        least, largest = (float(end) for end in torch.aminmax(slab))
        if math.isfinite(least) and math.isfinite(largest):
            counted = _nonzero_inputs(patches, slab, box, groups) if least <= 0 <= largest else None
            return _of_sums(_sums(patches.unfolded(slab.double(), box, groups), block, counted, least))
    rows = patches.unfolded(slab, box, groups).transpose(1, 2)  # (g, R, n)
    layers = [
        (part, weight, None if block.bias is None else block.bias[i, :, 0])
        for i, (part, weight) in enumerate(zip(rows, block.weight, strict=True))
    ]
    if not is_inexact(x.dtype):
        return _of_integers(torch.cat([_integers(*layer) for layer in layers]))
    if x.is_complex():
        return _together([_of_reference(Reference(*layer)) for layer in layers])
    return _together([_of_sums(_turned(exact_affine(*layer))) for layer in layers])


def _has_subnormals(*tensors: Tensor | None) -> bool:
    limit = min(format_of(t.dtype).min_normal for t in tensors if t is not None)
    return any(bool(((t != 0) & (t.abs() < limit)).any()) for t in tensors if t is not None)


def _nonzero_inputs(patches: Patches, slab: Tensor, box: Box, groups: int) -> Tensor:
    """How many inputs of each column are not zero: float64 ``(g, 1, R)``."""
    channels = (slab != 0).reshape(len(slab), groups, -1, *slab.shape[2:]).sum(2, dtype=torch.float64)
    return patches.unfolded(channels, box, groups).sum(1, keepdim=True)


def _sums(columns: Tensor, block: Block, counted: Tensor | None, least: float) -> Exact:
    """Exact outputs ``(g*o, R)`` of finite columns ``(g, n, R)`` in float64, which is written into.

    ``uncertainty`` is one number, in units of the magnitude; ``terms`` is ``(1, R)`` where all channels have as many.
    """
    assert block.wide is not None
    assert block.sizes is not None
    groups, n, size = columns.shape
    value = block.wide @ columns
    if block.has_zeros:
        terms = ((block.wide != 0).float() @ (columns != 0).float()).double()  # counts below 2^24 are exact
    else:
        terms = columns.new_full((groups, 1, size), float(n)) if counted is None else counted
    magnitude = block.sizes @ (columns if least >= 0 else columns.abs_())
    bias = None
    if block.bias is not None:
        bias = block.bias.double()
        value += bias
        magnitude += bias.abs()
        terms = terms + (1.0 if bool((bias != 0).all()) else (bias != 0).double())
    if terms.shape[:2] != value.shape[:2] and groups > 1:
        terms = terms.expand(value.shape)
    return Exact(
        value.flatten(0, 1),
        None,
        torch.tensor((n + 4) * 2.0**-52, dtype=torch.float64, device="cpu"),
        magnitude.flatten(0, 1),
        terms.flatten(0, 1),
        None if bias is None else bias.flatten(0, 1),
        None,
        None,
    )


def _turned(exact: Exact) -> Exact:
    """The outputs of rows ``(R, o)`` as ``(o, R)``."""
    bias = None if exact.bias is None else exact.bias[:, None]
    return replace(_of_parts(exact, lambda part: part.T), bias=bias)


def _of_parts(exact: Exact, change: Callable[[Tensor], Tensor]) -> Exact:
    """The same with every tensor of the outputs' shape changed, and nothing said of all of them; the bias is kept."""
    classes = exact.classes
    if classes is not None:
        classes = Classes(*(change(getattr(classes, part.name)) for part in fields(classes)))
    return Exact(
        change(exact.value),
        None if exact.low is None else change(exact.low),
        change(exact.uncertainty),
        change(exact.magnitude),
        change(exact.terms),
        exact.bias,
        None if exact.subnormal is None else change(exact.subnormal),
        classes,
        exact.plain,
    )


def _together(judges: list[Judge]) -> Judge:
    """What judges the results of several groups, one below the other."""
    if len(judges) == 1:
        return judges[0]

    def found(result: Tensor, arithmetic: Arithmetic | None, least: float) -> Found:
        parts = result.chunk(len(judges))
        each = [judges[i](part, arithmetic, least) for i, part in enumerate(parts)]
        moved = [one._replace(at=one.at + i * parts[0].numel()) for i, one in enumerate(each)]
        return Found(*(torch.cat(entries) for entries in zip(*moved, strict=True)))

    return found


def _of_integers(exact: Tensor) -> Judge:
    def found(result: Tensor, _arithmetic: Arithmetic | None, _least: float) -> Found:
        at = (result != exact).flatten().nonzero().flatten()
        wrong = torch.zeros(len(at), dtype=torch.bool, device="cpu")
        return Found(at, wrong, wrong, torch.full(at.shape, math.inf, dtype=torch.float64, device="cpu"))

    return found


def _integers(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``(o, R)``, modulo ``2**bits``."""
    value = dot_integers(weight, rows)
    return (value if bias is None else value + bias.to(torch.int64)[:, None]).to(rows.dtype)


def _of_reference(reference: Reference) -> Judge:
    def found(result: Tensor, arithmetic: Arithmetic | None, _least: float) -> Found:
        judged = reference.assess(result.T, arithmetic)
        at = torch.arange(result.numel(), device="cpu")
        return Found(at, *(part.T.flatten() for part in (judged.inside, judged.undecided, judged.ratio)))

    return found


def _of_sums(exact: Exact) -> Judge:
    known: dict[Arithmetic, _Error | None] = {}

    def found(result: Tensor, arithmetic: Arithmetic | None, least: float) -> Found:
        assert arithmetic is not None
        if arithmetic not in known:
            known[arithmetic] = _error(exact, arithmetic)
        error = known[arithmetic]
        at = torch.arange(result.numel(), device="cpu") if error is None else _unsure(result, exact, error, least)
        judged = judge(result.flatten()[at], _at(exact, at), arithmetic)
        return Found(at, judged.inside, judged.undecided, judged.ratio)

    return found


class _Error(NamedTuple):
    """``E`` ``(o, R)``, short of what the reference leaves open; and by how much of itself an end may be rounded."""

    size: Tensor
    slack: float


_TINY = 2.0**-1070  # in place of an E of 0: what is not the exact value itself is far outside


def _error(exact: Exact, arithmetic: Arithmetic) -> _Error | None:
    """None where outputs may overflow or are no numbers: there all of them are judged in full."""
    if exact.classes is not None or exact.subnormal is not None or not exact.magnitude.numel():
        return None
    largest = float(exact.magnitude.amax()) * (1 + 2 * float(exact.terms.amax()) * arithmetic.u)
    if not largest < arithmetic.accumulator_max:
        return None
    one = torch.ones_like(exact.terms)
    first, second = (arithmetic.error(exact.terms, size * one, fewest=2) for size in (1, 2))  # affine in the size
    several = exact.terms > 1
    slope = torch.where(several, second - first, 0.0)
    rest = torch.where(several, 2 * first - second, _TINY)
    least = float(torch.where(several, slope, 1.0).amin())
    slack = 1.01 * format_of(arithmetic.output).u / least + 0.01
    return _Error(torch.addcmul(rest, exact.magnitude, slope), slack)


def _unsure(result: Tensor, exact: Exact, error: _Error, least: float) -> Tensor:
    """The outputs that may lie outside, or may have a ratio of ``least`` or more and no less than the others here.

    Rounding is monotonic: what lies within ``E`` of the exact value, or rounds from there, lies between the rounded
    ends. The ratio is the distance over that to the rounded end, which is ``E`` up to half an ulp.
    """
    y = result.double()
    distance = y - exact.value
    if exact.low is not None:
        distance -= exact.low
    distance.abs_()
    if result.itemsize < 4:
        share = distance.sub_(_half_step(result)).div_(error.size)
        bar = min(1.0, least)
    else:
        share = distance.div_(error.size)
        largest = float(share.amax())
        if largest < 1 and largest <= least * (1 - error.slack):
            return torch.zeros(0, dtype=torch.int64, device="cpu")
        bar = min(1.0, (1 - error.slack) * max(least, largest / (1 + error.slack))) if largest < math.inf else 1.0
    unsure = ~(share < bar) if bar > 0 else ~(share <= 0)
    return unsure.flatten().nonzero().flatten()


def _half_step(result: Tensor) -> Tensor:
    """Half the distance to the next number of 16 bits toward zero: what rounds to nearest from within it is this."""
    size = result.abs()
    below = (size.view(torch.int16) - 1).view(result.dtype).double()  # of 0: a NaN
    return ((size.double() - below) / 2).nan_to_num(nan=0.0, posinf=math.inf)


def _at(exact: Exact, at: Tensor) -> Exact:
    """The outputs at some places, with their own uncertainty."""
    shape = exact.magnitude.shape
    rows, columns = at // shape[1], at % shape[1]
    chosen = _of_parts(exact, lambda part: part.expand(shape)[rows, columns])
    if not exact.uncertainty.ndim:
        left_open = (chosen.uncertainty * chosen.magnitude).masked_fill(chosen.terms <= 1, 0.0)
        chosen = replace(chosen, uncertainty=left_open)
    return chosen if exact.bias is None else replace(chosen, bias=exact.bias.expand(shape)[rows, columns])
