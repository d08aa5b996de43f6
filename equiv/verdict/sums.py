"""Exact outputs of one part of a sliding convolution, and which of a result's outputs need to be judged in full.

Every output is judged as ``equiv.numerics`` judges it. That takes some sixty passes over float64 tensors: an output
that provably lies inside, with less of its envelope used than another, is left out by a test of five.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.numerics import (
    SMALL_FACTORS,
    Arithmetic,
    Classes,
    Exact,
    Reference,
    dot_integers,
    exact_affine,
    format_of,
    judge,
)
from equiv.verdict.patches import Box, Patches
from equiv.verdict.tally import NOTHING, Found

Judge = Callable[[Tensor, "Arithmetic | None", float, bool], Found]
"""Judges a result ``(channels, R)`` in its arithmetic. Outputs inside whose ratio is below the float may be left out.

Unless the last argument asks for it exactly, a ratio inside may be the share of ``E``: as if the envelope's ends were
not rounded.
"""


@dataclass(frozen=True, eq=False)
class Block:
    """Weights of some groups, all their channels, or of some channels of one group.

    Attributes:
        groups: Which groups.
        weight: ``(g, o, n)``.
        bias: ``(g, o, 1)`` or None.
        is_finite: Whether they are real, narrower than float64, and finite.
        least: The smallest weight, where they are; also ``largest``, the largest.
    """

    groups: slice
    weight: Tensor
    bias: Tensor | None
    is_finite: bool
    least: float = -math.inf
    largest: float = math.inf

    @cached_property
    def wide(self) -> Tensor:
        """The weight in float64."""
        return self.weight.double()

    @cached_property
    def sizes(self) -> Tensor:
        """Its magnitudes; the same tensor where no weight is negative."""
        return self.wide if self.least >= 0 else self.wide.abs()

    @cached_property
    def size(self) -> float:
        """The largest magnitude of a weight."""
        return max(-self.least, self.largest)

    @cached_property
    def size_of_bias(self) -> float:
        """The largest magnitude of a bias."""
        return 0.0 if self.bias is None else float(self.bias.abs().amax())

    @cached_property
    def has_zeros(self) -> bool:
        """Whether some weight is zero."""
        return self.least <= 0 <= self.largest and int(torch.count_nonzero(self.weight)) < self.weight.numel()


def block_of(weight: Tensor, bias: Tensor | None, groups: slice, channels: slice) -> Block:
    """A block of ``weight`` ``(G, O/G, n)`` and ``bias`` ``(O,)``."""
    some = weight[groups, channels]
    offset = None if bias is None else bias.view(len(weight), -1, 1)[groups, channels]
    if not some.is_floating_point() or some.dtype == torch.float64:
        return Block(groups, some, offset, False)
    least, largest = (float(end) for end in torch.aminmax(some))
    finite = math.isfinite(least) and math.isfinite(largest) and (offset is None or bool(offset.isfinite().all()))
    return Block(groups, some, offset, finite, least, largest)


class Inputs:
    """What some groups of a layer read at a box of positions."""

    def __init__(self, patches: Patches, x: Tensor, box: Box, groups: slice) -> None:
        self._patches, self.box = patches, box
        self.groups = groups.stop - groups.start
        self.slab = patches.slab(x, box, groups)

    @cached_property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest of them; NaN if one is."""
        least, largest = torch.aminmax(self.slab)
        return float(least), float(largest)

    @cached_property
    def columns(self) -> Tensor:
        """In their dtype, ``(g, n, R)``."""
        return self._patches.unfolded(self.slab, self.box, self.groups)

    @cached_property
    def wide(self) -> Tensor:
        """In float64."""
        return self._patches.unfolded(self.slab.double(), self.box, self.groups)

    @cached_property
    def sizes(self) -> Tensor:
        """Their magnitudes, in float64."""
        return self.wide if self.range[0] >= 0 else self.wide.abs()

    @cached_property
    def counted(self) -> Tensor | float:
        """How many of each column are not zero: ``(g, 1, R)``, or the same number for all."""
        if self._patches.terms and (self.range[0] > 0 or self.range[1] < 0):
            return float(self._patches.terms)
        some = self.slab.float().sign()
        some = some if self.range[0] >= 0 else some.abs_()
        some = some.reshape(len(some), self.groups, -1, *some.shape[2:]).sum(2)  # counts below 2^24 are exact
        return self._patches.unfolded(some, self.box, self.groups).sum(1, keepdim=True).double()


def judge_of(inputs: Inputs, block: Block, *, flushes: bool) -> Judge:
    """What judges results of a block of channels at a box of positions; ``flushes`` where subnormals may be lost."""
    finite = block.is_finite and all(math.isfinite(end) for end in inputs.range)
    if finite and not (flushes and _has_subnormals(inputs.slab, block.weight, block.bias)):
        return _of_sums(_sums(inputs, block))
    rows = inputs.columns.transpose(1, 2)  # (g, R, n)
    layers = [
        (part, weight, None if block.bias is None else block.bias[i, :, 0])
        for i, (part, weight) in enumerate(zip(rows, block.weight, strict=True))
    ]
    if not is_inexact(rows.dtype):
        return _of_integers(torch.cat([_integers(*layer) for layer in layers]))
    if rows.is_complex():
        return _together([_of_reference(Reference(*layer)) for layer in layers])
    return _together([_of_sums(_turned(exact_affine(*layer))) for layer in layers])


def _has_subnormals(*tensors: Tensor | None) -> bool:
    limit = min(format_of(t.dtype).min_normal for t in tensors if t is not None)
    return any(bool(((t != 0) & (t.abs() < limit)).any()) for t in tensors if t is not None)


def _sums(inputs: Inputs, block: Block) -> Exact:
    """Exact outputs ``(g*o, R)`` of finite inputs.

    ``uncertainty`` is one number, in units of the magnitude; ``terms`` is ``(1, R)`` where all channels have as many.
    """
    groups, n, size = inputs.wide.shape
    bias = None if block.bias is None else block.bias.double()
    value = _product(block.wide, inputs.wide, bias)
    magnitude = _product(block.sizes, inputs.sizes, None if bias is None else bias.abs())
    if block.has_zeros:
        terms = ((block.wide != 0).float() @ (inputs.wide != 0).float()).double()
    else:
        counted = inputs.counted
        terms = value.new_full((groups, 1, size), counted) if isinstance(counted, float) else counted
    if bias is not None:
        terms = terms + (1.0 if int(torch.count_nonzero(bias)) == bias.numel() else (bias != 0).double())
    if groups > 1:
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
        reach=reach_of(block, max(map(abs, inputs.range))),
        factors=value.new_tensor([[factor]]) if (factor := _largest_factor(inputs, block)) >= SMALL_FACTORS else None,
    )


def _largest_factor(inputs: Inputs, block: Block) -> float:
    return max(block.size, *map(abs, inputs.range))


def reach_of(block: Block, size: float) -> float:
    """As in :class:`equiv.numerics.Exact`, for inputs of at most this magnitude."""
    n = block.weight.shape[2]
    return 1.001 * (n * block.size * size + block.size_of_bias) * (1 + (n + 1) * 2.0**-7)


def _product(weight: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    return weight @ columns if bias is None else torch.baddbmm(bias, weight, columns)


def _turned(exact: Exact) -> Exact:
    """The outputs of rows ``(R, o)`` as ``(o, R)``."""
    bias = None if exact.bias is None else exact.bias[:, None]
    return replace(_of_parts(exact, lambda part: part.T), bias=bias)


def _of_parts(exact: Exact, change: Callable[[Tensor], Tensor]) -> Exact:
    """The same with every tensor of the outputs' shape changed, and nothing said of all of them; the bias is kept."""
    parts: dict[str, Any] = {"terms": change(_terms(exact))}
    for name in (part.name for part in fields(exact) if part.name not in ("bias", "terms")):
        part = getattr(exact, name)
        if isinstance(part, Classes):
            parts[name] = Classes(*(change(getattr(part, one.name)) for one in fields(part)))
        elif isinstance(part, Tensor):
            parts[name] = change(part)
    return replace(exact, **parts, fewest=0, reach=math.inf)


def _terms(exact: Exact) -> Tensor:
    """The number of terms of every output; broadcasts."""
    known = exact.terms
    return known if isinstance(known, Tensor) else torch.full_like(exact.value, known)


def _together(judges: list[Judge]) -> Judge:
    """What judges the results of several groups, one below the other."""
    if len(judges) == 1:
        return judges[0]

    def found(result: Tensor, arithmetic: Arithmetic | None, least: float, exactly: bool) -> Found:
        parts = result.chunk(len(judges))
        each = [judges[i](part, arithmetic, least, exactly) for i, part in enumerate(parts)]
        moved = [one._replace(at=one.at + i * parts[0].numel()) for i, one in enumerate(each)]
        return Found(*(torch.cat(entries) for entries in zip(*moved, strict=True)))

    return found


def _of_integers(exact: Tensor) -> Judge:
    def found(result: Tensor, _arithmetic: Arithmetic | None, _least: float, _exactly: bool) -> Found:
        at = (result != exact).flatten().nonzero().flatten()
        wrong = torch.zeros(len(at), dtype=torch.bool, device="cpu")
        return Found(at, wrong, wrong, torch.full(at.shape, math.inf, dtype=torch.float64, device="cpu"))

    return found


def _integers(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``(o, R)``, modulo ``2**bits``."""
    value = dot_integers(weight, rows)
    return (value if bias is None else value + bias.to(torch.int64)[:, None]).to(rows.dtype)


def _of_reference(reference: Reference) -> Judge:
    def found(result: Tensor, arithmetic: Arithmetic | None, _least: float, _exactly: bool) -> Found:
        judged = reference.assess(result.T, arithmetic)
        at = torch.arange(result.numel(), device="cpu")
        return Found(at, *(part.T.flatten() for part in (judged.inside, judged.undecided, judged.ratio)))

    return found


def _of_sums(exact: Exact) -> Judge:
    known: dict[Arithmetic, Tensor | None] = {}

    def found(result: Tensor, arithmetic: Arithmetic | None, least: float, exactly: bool) -> Found:
        assert arithmetic is not None
        if arithmetic not in known:
            known[arithmetic] = _inverse_error(exact, arithmetic)
        inverse = known[arithmetic]
        if inverse is None:
            at = torch.arange(result.numel(), device="cpu")
        else:
            share, largest = _shares(result, exact, inverse)
            slack = _slack(exact, arithmetic) if exactly and result.itemsize >= 4 else 0.0
            if largest < 1 and largest <= least * (1 - slack):
                return NOTHING
            if largest < 1 and not exactly:
                return _top(share, largest)
            at = _unsure(share, largest, least, slack)
        judged = judge(result.flatten()[at], _at(exact, at), arithmetic)
        return Found(at, judged.inside, judged.undecided, judged.ratio)

    return found


_TINY = 2.0**-1000  # in place of an E of 0: what is not the exact value itself is far outside


@lru_cache(maxsize=32)
def error_table(arithmetic: Arithmetic, most: int) -> tuple[Tensor, Tensor]:
    """``E = a*S + b`` for K from 0 to ``most`` terms: ``a`` and ``b``, float64."""
    terms = torch.arange(most + 1, dtype=torch.float64, device="cpu")
    first, second = (arithmetic.error(terms, torch.full_like(terms, size), fewest=2) for size in (1, 2))
    several = terms > 1
    return torch.where(several, second - first, 0.0), torch.where(several, 2 * first - second, 0.0).clamp_(min=_TINY)


def _inverse_error(exact: Exact, arithmetic: Arithmetic) -> Tensor | None:
    """``1/E`` ``(o, R)``, short of what the reference leaves open.

    None where outputs may overflow or are no numbers: there all of them are judged in full.
    """
    if exact.classes is not None or exact.subnormal is not None or not exact.magnitude.numel():
        return None
    if exact.factors is not None and arithmetic.factor_max < math.inf:
        return None
    terms = _terms(exact).to(torch.int64)
    most = int(terms.amax())
    if not exact.stays_below(arithmetic) and not (
        float(exact.magnitude.amax()) * (1 + arithmetic.relative + 2 * most * arithmetic.u) < arithmetic.accumulator_max
    ):
        return None
    slope, rest = error_table(arithmetic, 2 ** max(4, most.bit_length()))
    return torch.addcmul(rest[terms], exact.magnitude, slope[terms]).reciprocal_()


def _slack(exact: Exact, arithmetic: Arithmetic) -> float:
    """How far, as a share of ``E``, an end may be moved by its rounding, for outputs of two terms or more."""
    terms = _terms(exact)
    slope, _ = error_table(arithmetic, 2 ** max(4, int(terms.amax()).bit_length()))
    fewest = max(2, int(terms.amin()))
    return 1.01 * format_of(arithmetic.output).u / float(slope[fewest]) + 0.01


def _shares(result: Tensor, exact: Exact, inverse: Tensor) -> tuple[Tensor, float]:
    """How far each output is from the exact value as a share of ``E``, and the largest of them.

    Rounding is monotonic: what lies within ``E`` of the exact value lies between the rounded ends, and so does a number
    of 16 bits to which something within ``E`` rounds; of these only the distance beyond that counts.
    """
    distance = result.to(torch.float64, copy=True).sub_(exact.value)
    if exact.low is not None:
        distance -= exact.low
    distance.abs_()
    if result.itemsize < 4:
        distance -= _half_step(result)
    share = distance.mul_(inverse)
    return share, float(share.amax())


def _top(share: Tensor, largest: float) -> Found:
    """The outputs with the largest share, by that."""
    at = (share == largest).flatten().nonzero().flatten()
    right = torch.ones(len(at), dtype=torch.bool, device="cpu")
    return Found(at, right, ~right, share.flatten()[at])


def _unsure(share: Tensor, largest: float, least: float, slack: float) -> Tensor:
    """The outputs that may lie outside, or may have a ratio of ``least`` or more and no less than the others here.

    The ratio is the distance over that to the rounded end: the share, up to ``slack`` of it. In 16 bits, where it is 0,
    it is no more than the share.
    """
    below = largest / (1 + slack) if slack > 0 and largest < math.inf else 0.0
    bar = min(1.0, (1 - slack) * max(least, below)) if largest < math.inf else 1.0
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
        left_open = (chosen.uncertainty * chosen.magnitude).masked_fill(_terms(chosen) <= 1, 0.0)
        chosen = replace(chosen, uncertainty=left_open)
    return chosen if exact.bias is None else replace(chosen, bias=exact.bias.expand(shape)[rows, columns])
