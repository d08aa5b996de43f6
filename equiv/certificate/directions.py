"""Which rounding made results of known sums: to nearest with ties to even, or another one that a kernel may have.

A sum is two float64 words, so that in every dtype its neighbours, and ties, are told exactly. Which sums to ask for,
and what follows from the answer, is the business of ``rounding``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from equiv.numerics import from_ordinal, ordinal, round_down, round_up, two_sum


@dataclass(frozen=True)
class Between:
    """Exact values between two neighbouring numbers of a dtype, which are equal where a value is such a number."""

    low: Tensor  # float64
    high: Tensor
    side: Tensor  # sign of the distance from the middle: -1 is nearer to low, 0 a tie
    negative: Tensor
    odd: Tensor  # whether the last bit of low is 1


def between(value: Tensor, rest: Tensor, dtype: torch.dtype) -> Between:
    """Where ``value + rest`` lies, two words in float64."""
    value, rest = two_sum(value, rest)
    low, high = round_down(value, dtype), round_up(value, dtype)
    whole = low == high
    low = torch.where(whole & (rest < 0), from_ordinal(ordinal(low) - 1, dtype), low)
    high = torch.where(whole & (rest > 0), from_ordinal(ordinal(high) + 1, dtype), high)
    side = (((value - low.double()) - (high.double() - value)) + 2 * rest).sign()
    return Between(low.double(), high.double(), side, value < 0, ordinal(low) % 2 == 1)


def _nearest(at: Between) -> Tensor:
    return torch.where((at.side < 0) | ((at.side == 0) & ~at.odd), at.low, at.high)


def _toward_zero(at: Between) -> Tensor:
    return torch.where(at.negative, at.high, at.low)


def _away_from_zero(at: Between) -> Tensor:
    return torch.where(at.negative, at.low, at.high)


def _ties_away(at: Between) -> Tensor:
    return torch.where(at.side == 0, _away_from_zero(at), _nearest(at))


def _to_odd(at: Between) -> Tensor:
    return torch.where(at.odd, at.low, at.high)


def _half_where_odd(at: Between) -> Tensor:
    cut_is_odd = at.odd ^ (at.negative & (at.low != at.high))  # of two neighbours one is odd
    return torch.where(cut_is_odd, _ties_away(at), _toward_zero(at))


DIRECTIONS: dict[str, Callable[[Between], Tensor]] = {
    "toward-zero": _toward_zero,
    "away-from-zero": _away_from_zero,
    "down": lambda at: at.low,
    "up": lambda at: at.high,
    "ties-away": _ties_away,
    "to-odd": _to_odd,
    "half-where-odd": _half_where_odd,
}
"""Each rounding to one value: how it chooses. The names are those of :func:`equiv.causes.rounding_cause`."""
STOCHASTIC = "stochastic"

_ASKED = 8  # results of an output that say how it rounds


@dataclass(frozen=True)
class Results:
    """What a map returned, and the exact sums: float64 ``(R, O)`` but for ``bias`` ``(O,)``; all of them finite."""

    seen: Tensor
    dtype: torch.dtype
    products: Tensor  # the sum of an output's products
    rest: Tensor  # its second word
    bias: Tensor
    error: Tensor  # how far the accumulator may be from the sum of products and bias
    unit: float  # unit roundoff of the accumulator; 0.0 where the bias is added in the dtype of the result
    valid: Tensor  # bool; the others are ignored

    @cached_property
    def once(self) -> list[Between]:
        """The sums themselves, and both ends of what the accumulator may hold."""
        value, rest = two_sum(self.products, self.bias.expand(self.seen.shape))
        return self._around(value, rest + self.rest, self.error)

    @cached_property
    def inner(self) -> Between:
        """The sums of products, as a kernel may round them before it adds the bias."""
        return between(self.products, self.rest, self.dtype)

    def after(self, rounded: Tensor) -> list[Between]:
        """The sums of the bias and of products that were rounded."""
        value, rest = two_sum(rounded, self.bias.expand(self.seen.shape))
        inexact = (value.to(torch.float32) != value) | (rest != 0)
        return self._around(value, rest, torch.where(inexact, self.unit * (rounded.abs() + self.bias.abs()), 0.0))

    def _around(self, value: Tensor, rest: Tensor, error: Tensor) -> list[Between]:
        if not bool(error.any()):
            return [between(value, rest, self.dtype)]
        found = [between(value, rest + far, self.dtype) for far in (0.0, -error, error)]
        if self.unit:  # a sum in float32 may have become a number of the result's dtype, which nothing rounds again
            found.append(between(value.float().double(), torch.zeros_like(value), self.dtype))
        return found

    def explained(self, last: Callable[[Between], Tensor], first: Callable[[Between], Tensor] | None) -> Tensor:
        """Where ``last`` makes the result of the sum, or of the bias and the products that ``first`` has rounded."""
        found = ~self.valid
        for at in self.once if first is None else self.after(first(self.inner)):
            found = found | (last(at) == self.seen)
        return found

    @cached_property
    def nearest(self) -> Tensor:
        """Where a rounding to nearest makes the result, before the bias as well or not."""
        return self.explained(_nearest, None) | self.explained(_nearest, _nearest)

    @property
    def known(self) -> bool:
        """Whether any exact sum is known."""
        return bool(self.valid.any())

    @property
    def rounds_once(self) -> bool:
        """Whether all results are those of a rounding to nearest."""
        return bool(self.nearest.all())

    @property
    def is_faithful(self) -> bool:
        """Whether all results are one of two neighbours, and many outputs have some that is not the nearest.

        The neighbours of the sum, or of the bias and a neighbour of the products.
        """
        ways = (None, DIRECTIONS["down"], DIRECTIONS["up"])
        ends = [self.explained(DIRECTIONS[end], first) for first in ways for end in ("down", "up")]
        asked, wrong = self.valid.sum(0) >= _ASKED, (~self.nearest).any(0)
        return bool(torch.stack(ends).any(0).all()) and 2 * int((wrong & asked).sum()) >= int(asked.sum())

    def direction(self) -> str | None:
        """The one rounding of all results, of the products before the bias or not; None if none makes all."""
        for name, rounding in DIRECTIONS.items():
            for last, first in ((rounding, None), (rounding, rounding), (_nearest, rounding), (rounding, _nearest)):
                if bool(self.explained(last, first).all()):
                    return name
        return None

    def with_error(self, relative: float) -> Results:
        """The same where the sum may be off by this much of its size."""
        return replace(self, error=self.error + relative * (self.products.abs() + self.bias.abs()))

    @property
    def exact(self) -> Tensor:
        """The sums, as far as one word holds them."""
        return self.products + self.bias

    @property
    def rounded(self) -> Tensor:
        """Their nearest numbers."""
        return _nearest(self.once[0])
