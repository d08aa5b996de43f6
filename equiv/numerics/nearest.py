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
from typing import NamedTuple

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

    def sums(self, error: Tensor) -> Sums:
        """Results and exact sums with what these may be off by."""
        bias = torch.zeros(1, dtype=torch.float64) if self.bias is None else self.bias.double()
        return Sums(self.result, self.exact, bias.expand_as(self.exact), error)

    def terms_at(self, rows: Tensor, outputs: Tensor) -> Terms:
        """The terms of some outputs."""
        bias = torch.zeros(len(rows)) if self.bias is None else self.bias[outputs]
        return Terms(self.x[rows].double(), self.weight[outputs].double(), bias.double())


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
    if not is_ieee(seen.arithmetic):
        return None
    nearest = [_unlike(seen, apart) for apart in seen.ways]
    if not all(bool(unlike.any()) for unlike in nearest):
        return None
    error, lower, upper = _proved_error(seen, torch.stack(nearest).any(0))
    proved = _off(seen, error, lower, upper)
    is_proved = bool(proved.off.any())
    if not is_proved and not _may_show(seen, nearest):
        return None
    if seen.result.dtype.itemsize == 2:
        error = torch.minimum(error, _largest_error(seen))
    found = _off(seen, error, lower, upper)
    sums = Sums(*(each[seen.judged] for each in seen.sums(error)))
    off = found.off[seen.judged]
    name = next((name for name in explaining_roundings(sums) if _is_shown(name, sums, off, is_proved)), None)
    if name is not None:
        return found._replace(name=name)
    return proved if is_proved else None


def _unlike(seen: Rounded, apart: bool) -> Tensor:
    """Where a result is not the exact value rounded to nearest."""
    nearest, _ = nearest_bounds(seen.sums(torch.zeros_like(seen.exact)), apart=apart)
    return seen.judged & (seen.result.double() != nearest)


def _off(seen: Rounded, error: Tensor, least: Tensor, most: Tensor) -> Misrounding:
    """The results that rounding to nearest of sums within their error does not give, in the way with the fewest."""
    values, found = seen.result.double(), []
    for apart in seen.ways:
        lower, upper = nearest_bounds(seen.sums(error), apart=apart)
        lower, upper = torch.maximum(lower, least), torch.minimum(upper, most)
        found.append(Misrounding(None, seen.judged & ((values < lower) | (values > upper)), lower, upper))
    return min(found, key=lambda each: int(each.off.sum()))


def _proved_error(seen: Rounded, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far accumulators may be from the exact sums, and bounds of results, infinite where none are known.

    The bound of the envelope for 16-bit results; for others, and where candidates are settled, what that leaves.
    """
    if seen.result.dtype.itemsize == 2:
        error = seen.arithmetic.error(seen.terms, seen.magnitude) + (seen.x.shape[1] + 4) * 2.0**-52 * seen.magnitude
        error = error.masked_fill(seen.terms <= 1, 0.0)
    else:
        one = (seen.terms <= 1) & (seen.result.dtype == torch.float32)
        error = torch.where(one & (seen.magnitude > 2.0**30 * seen.arithmetic.underflow), 0.0, math.inf).double()
    lower, upper = torch.full_like(error, -math.inf), torch.full_like(error, math.inf)
    rows, outputs = _some_candidates(seen, candidates)
    step = max(1, _BLOCK // max(1, seen.x.shape[1]))
    for start in range(0, len(rows), step):
        at = rows[start : start + step], outputs[start : start + step]
        terms = seen.terms_at(*at)
        error[at] = torch.minimum(error[at], settled_error(terms, seen.arithmetic))
        lower[at], upper[at] = two_term_bounds(terms, seen.arithmetic)
    return error, lower, upper


def _some_candidates(seen: Rounded, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and outputs of those whose terms may leave no choice, as far as some of the terms show."""
    n = seen.x.shape[1]
    some = torch.arange(0, n, max(1, n // 4))[:4]
    x, w = seen.x[:, some].double(), seen.weight[:, some].double()
    last = (last_bit(x)[:, None, :] + last_bit(w)[None, :, :]).amin(2) if n else torch.zeros_like(candidates).long()
    fine = torch.ldexp(seen.magnitude, (-last).clamp(-1000, 1000)) <= 2 / seen.arithmetic.u
    rows, outputs = (candidates & (fine | (seen.terms <= 2))).nonzero(as_tuple=True)
    every = max(1, -(-len(rows) * n // _TAKEN))
    return rows[::every], outputs[::every]


def _largest_error(seen: Rounded) -> Tensor:
    """``e`` of every output: how far float32 sums of these terms lie from the exact ones, and as much again."""
    count = min(_SAMPLED, seen.exact.numel())
    k = torch.arange(count)
    share = summation_error(seen.terms_at(k * len(seen.x) // count, k * 7919 % len(seen.weight)).all)
    return _SAFETY * share * seen.arithmetic.u * seen.magnitude


def _may_show(seen: Rounded, nearest: list[Tensor]) -> bool:
    """Whether a pattern is possible: enough results are not the nearest, or some ties went away from zero."""
    if seen.result.dtype.itemsize > 2:
        return False
    if _is_clear(min(int(unlike.sum()) for unlike in nearest), seen.exact.numel()):
        return True
    sums = seen.sums(torch.zeros_like(seen.exact))
    return all(any(n >= _TIES for n in explained_by(TIES_AWAY, Sums(*(each[at] for each in sums)))) for at in nearest)


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
