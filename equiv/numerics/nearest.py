"""Results of a kernel that does not round to nearest: single ones that no right kernel gives, and the pattern of all.

All results of a kernel come from one arithmetic: rounded to nearest once, or in 16 bits before a bias as well.

Proved: a result that neither gives, or that the one which gives the others does not, with the bound of the envelope or
with the little that the terms leave open (:mod:`equiv.numerics.settled`).

A pattern: with ``e``, twice the largest error of float32 sums of these very terms in the worst practical orders,
results are *off* where no rounding to nearest of a sum within ``e`` gives them. Where at least 6 results of different
sums and 1 of 64 are off (of ties that went away from zero 3), and one wrong rounding (`equiv.numerics.directions`)
gives every result within ``e``, that is what the kernel does. Neither is looked for where sums are not IEEE's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from equiv.numerics.arithmetic import Arithmetic
from equiv.numerics.directions import (
    STOCHASTIC,
    TIES_AWAY,
    Sums,
    explained_by,
    explaining_roundings,
    nearest_bounds,
    summation_error,
)
from equiv.numerics.formats import format_of
from equiv.numerics.settled import Terms, is_ieee, last_bit, settled_error, two_term_bounds

_SAFETY = 2.0  # times the largest error in the worst orders
_OFF, _ONE_OF = 6, 64  # how many results must be off, and which share of all
_NAMED, _AMONG = 2, 16  # how many must be off, of how many, for a name where a single one proves a defect
_TIES = 3  # how many where all of them are ties
_SAMPLED = 64  # outputs whose terms are summed in several orders
_TAKEN = 2**25  # terms that are taken one by one
_BLOCK = 2**20
_SEARCHED = 16  # terms by which outputs are sorted out first


Places: TypeAlias = tuple[Tensor, ...]  # rows and outputs


@dataclass(frozen=True, eq=False)
class Rounded:
    """Results of a layer beside the exact ones. Tensors ``(N, O)`` but for input, weight and bias.

    Attributes:
        result: What the kernel returned, a real floating dtype.
        x: Its input ``(N, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.
        exact: Exact values, float64.
        magnitude: ``S``, float64.
        terms: ``K``, float64.
        usable: Bool; where the three above say what right kernels give: no overflow, NaN or infinity.
        arithmetic: What the kernel should compute in.
    """

    result: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    exact: Tensor
    magnitude: Tensor
    terms: Tensor
    usable: Tensor
    arithmetic: Arithmetic

    @cached_property
    def judged(self) -> Tensor:
        """Bool; the usable ones far from overflow, and with nothing that may be flushed."""
        fmt, size = format_of(self.result.dtype), self.exact.abs()
        largest = size if self.bias is None else size + self.bias.double().abs()
        judged = self.usable & (largest < fmt.max / 2) & self.result.isfinite()
        if self.arithmetic.flushes_outputs:
            judged &= size > 2 * fmt.min_normal
        if self.arithmetic.flushes_inputs:
            small = [(t != 0) & (t.abs() < fmt.min_normal) for t in (self.x, self.weight)]
            judged &= ~(small[0].any(1)[:, None] | small[1].any(1)[None, :])
            if self.bias is not None:
                judged &= (self.bias == 0) | (self.bias.abs() >= fmt.min_normal)
        return judged

    @cached_property
    def ways(self) -> tuple[bool, ...]:
        """Whether right kernels round before the bias: no, or no and yes."""
        apart = self.bias is not None and self.arithmetic.bias_rounding == "either"
        return (False, True) if apart else (False,)

    @cached_property
    def last_bits(self) -> tuple[Tensor, Tensor]:
        """Of some of the inputs ``(N, k)`` and weights ``(O, k)``."""
        some = slice(0, None, max(1, self.x.shape[1] // _SEARCHED))
        x, w = (last_bit(t[:, some].double()).int() for t in (self.x, self.weight))
        return x, w

    def sums(self, at: Places, error: Tensor) -> Sums:
        """Results and exact sums of some outputs, with what these may be off by."""
        return Sums(self.result[at], self.exact[at], self._bias_at(at), error)

    def terms_at(self, at: Places) -> Terms:
        """The terms of some outputs."""
        return Terms(self.x[at[0]].double(), self.weight[at[1]].double(), self._bias_at(at))

    def _bias_at(self, at: Places) -> Tensor:
        return torch.zeros(len(at[1])).double() if self.bias is None else self.bias[at[1]].double()


class Misrounding(NamedTuple):
    """Results that no kernel gives which rounds to nearest.

    Attributes:
        name: The rounding that gives all results, of ``directions.WRONG_ROUNDINGS`` or ``"stochastic"``; None where
            none does.
        off: Bool ``(N, O)``; results that rounding to nearest does not give.
        lower: Smallest result that it gives, float64 ``(N, O)``; meaningful where ``off``.
        upper: The largest.
    """

    name: str | None
    off: Tensor
    lower: Tensor
    upper: Tensor


def misrounding(seen: Rounded) -> Misrounding | None:
    """What is not rounded to nearest, proved or by the pattern of all results; None for nothing."""
    arithmetic, dtype = seen.arithmetic, seen.result.dtype
    if not is_ieee(arithmetic) or arithmetic.output != dtype or arithmetic.u > format_of(torch.float32).u:
        return None
    unlike = [(apart, _unlike(seen, apart)) for apart in seen.ways]
    unlike.sort(key=lambda way: int(way[1].sum()))
    proved: list[Misrounding] = []
    for apart, where in unlike:
        found = _off(seen, apart, where)
        if found is None:
            break
        proved.append(found)
    is_proved = len(proved) == len(unlike)
    if not is_proved and not _may_show(seen, [where for _, where in unlike]):
        return None
    largest = _largest_error(seen) if dtype.itemsize == 2 else None
    ways = [_off(seen, apart, where, largest) for apart, where in unlike]
    if not all(ways):
        return None
    refuted = sorted((way for way in ways if way is not None), key=lambda way: int(way.off.sum()))
    found = refuted[0]
    at = seen.judged.nonzero(as_tuple=True)
    error = _bound(seen, at) if largest is None else torch.minimum(_bound(seen, at), largest[at])
    is_unlike = torch.stack([where for _, where in unlike]).any(0)[at]
    error[is_unlike] = torch.minimum(error[is_unlike], _settled(seen, tuple(i[is_unlike] for i in at))[0])
    if dtype == torch.float32:  # two terms are rounded as the ways say, and then known to within float64
        error = torch.where(seen.terms[at] <= 2, seen.magnitude[at] * 2.0**-50, error)
    sums = seen.sums(at, error)
    off = {TIES_AWAY: refuted[-1].off[at]}  # one that comes after a rounding before the bias shows in that way alone
    for name in explaining_roundings(sums):
        if _is_shown(name, sums, off.get(name, found.off[at]), is_proved):
            return found._replace(name=name)
    return min(proved, key=lambda way: int(way.off.sum())) if is_proved else None


def _unlike(seen: Rounded, apart: bool) -> Tensor:
    """Where a result is not the exact value rounded to nearest, and this may tell something."""
    if seen.result.dtype.itemsize > 2:
        return seen.judged & (seen.result != seen.exact.to(seen.result.dtype)) & _is_small(seen)
    bias = torch.zeros(1, dtype=torch.float64) if seen.bias is None else seen.bias.double()
    sums = Sums(seen.result, seen.exact, bias.expand_as(seen.exact), torch.zeros_like(seen.exact))
    return seen.judged & (seen.result.double() != nearest_bounds(sums, apart=apart)[0])


def _off(seen: Rounded, apart: bool, unlike: Tensor, largest: Tensor | None = None) -> Misrounding | None:
    """The results that rounding to nearest does not give, of those that are not the nearest; None for none."""
    at = unlike.nonzero(as_tuple=True)
    error, least, most = _settled(seen, at)
    error = torch.minimum(error, _bound(seen, at) if largest is None else torch.minimum(_bound(seen, at), largest[at]))
    ends = nearest_bounds(seen.sums(at, error), apart=apart)
    values, lower, upper = seen.result[at].double(), torch.maximum(ends[0], least), torch.minimum(ends[1], most)
    off = (values < lower) | (values > upper)
    if not bool(off.any()):
        return None
    nothing = torch.zeros_like(seen.exact)
    found = (torch.zeros_like(unlike).index_put(at, off), *(nothing.index_put(at, end) for end in (lower, upper)))
    return Misrounding(None, *found)


def _bound(seen: Rounded, at: Places) -> Tensor:
    """How far accumulators may be from the exact sums, in any order; infinite where this does not settle a result."""
    size, terms = seen.magnitude[at], seen.terms[at]
    if seen.result.dtype.itemsize > 2:
        one = (terms <= 1) & (size > 2.0**30 * seen.arithmetic.underflow) & (seen.result.dtype == torch.float32)
        return torch.where(one, 0.0, math.inf).double()
    error = seen.arithmetic.error(terms, size) * (1 + 2.0**-30)
    return (error + (seen.x.shape[1] + 4) * 2.0**-52 * size).masked_fill(terms <= 1, 0.0)


def _settled(seen: Rounded, at: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Error of the accumulator and bounds of the result of some outputs, infinite where they are not settled."""
    error = torch.full((len(at[0]),), math.inf, dtype=torch.float64)
    lower, upper = -error, error.clone()
    which = _may_be_settled(seen, at).nonzero()[:, 0]
    n = max(1, seen.x.shape[1])
    which = which[:: max(1, -(-len(which) * n // _TAKEN))]
    for start in range(0, len(which), step := max(1, _BLOCK // n)):
        few = which[start : start + step]
        terms = seen.terms_at(tuple(i[few] for i in at))
        error[few] = settled_error(terms, seen.arithmetic)
        lower[few], upper[few] = two_term_bounds(terms, seen.arithmetic)
    return error, lower, upper


def _is_small(seen: Rounded) -> Tensor:
    """Bool ``(N, O)``; two terms at most, or a magnitude that one of the terms allows to be settled."""
    few = seen.terms <= 2
    if not seen.x.shape[1]:
        return few
    x, w = (torch.exp2(last[:, 0].clamp(-500, 500).double()) for last in seen.last_bits)
    return few | (seen.magnitude <= (x * (2 / seen.arithmetic.u))[:, None] * w)


def _may_be_settled(seen: Rounded, at: Places) -> Tensor:
    """Whether the terms of some outputs may leave no choice, as far as a few of them show."""
    few = seen.terms[at] <= 2
    if not seen.x.shape[1]:
        return few
    last = (seen.last_bits[0][at[0]] + seen.last_bits[1][at[1]]).amin(1)
    size = torch.exp2(last.clamp(-1000, 1000).double()) * (2 / seen.arithmetic.u)  # no smaller for all terms
    return few | (seen.magnitude[at] <= size)


def _largest_error(seen: Rounded) -> Tensor:
    """``e`` of every output: how far float32 sums of these terms lie from the exact ones, and as much again."""
    count = min(_SAMPLED, seen.exact.numel())
    k = torch.arange(count)
    share = summation_error(seen.terms_at((k * len(seen.x) // count, k * 7919 % len(seen.weight))).all)
    return _SAFETY * share * seen.arithmetic.u * seen.magnitude


def _may_show(seen: Rounded, nearest: list[Tensor]) -> bool:
    """Whether a pattern is possible: enough results are not the nearest, or some ties went away from zero."""
    if seen.result.dtype.itemsize > 2:
        return False
    if _is_clear(min(int(unlike.sum()) for unlike in nearest), seen.exact.numel()):
        return True
    for where in nearest:
        at = where.nonzero(as_tuple=True)
        count = max(explained_by(TIES_AWAY, seen.sums(at, torch.zeros(len(at[0]), dtype=torch.float64))))
        if count < max(_TIES, len(at[0]) // 2):
            return False
    return True


def _is_clear(count: int, total: int) -> bool:
    """Whether so many results are off that it cannot be chance."""
    return count >= _OFF and count * _ONE_OF >= total


def _is_shown(name: str, sums: Sums, off: Tensor, is_proved: bool) -> bool:
    """Whether the results that are off are evidence for a rounding that gives all of them."""
    exact = sums.exact[off]
    different = len(set(exact.tolist()))
    if name == TIES_AWAY:  # what is off at ties alone is off for no other reason
        return is_proved or different >= _TIES
    if name == STOCHASTIC:
        above = sums.result[off].double() > exact
        return bool(above.any()) and not bool(above.all()) and _is_clear(different, len(off))
    return (is_proved and different >= _NAMED and len(off) >= _AMONG) or _is_clear(different, len(off))
