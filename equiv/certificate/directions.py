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

from equiv.numerics import DIRECTIONS, Between, between, nearest_of, two_sum

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
        """The sums themselves, or both ends of what the accumulator may hold."""
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
        ends = (-error, error) if bool(error.any()) else (torch.zeros_like(error),)
        return [between(value, rest + far, self.dtype) for far in ends]

    def explained(self, last: Callable[[Between], Tensor], first: Callable[[Between], Tensor] | None) -> Tensor:
        """Where ``last`` makes the result of the sum, or of the bias and the products that ``first`` has rounded."""
        ends = torch.stack([last(at) for at in (self.once if first is None else self.after(first(self.inner)))])
        return ~self.valid | ((ends.amin(0) <= self.seen) & (self.seen <= ends.amax(0)))  # roundings are monotonic

    @cached_property
    def nearest(self) -> Tensor:
        """Where a rounding to nearest makes the result, before the bias as well or not."""
        return self.explained(nearest_of, None) | self.explained(nearest_of, nearest_of)

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
            for last, first in ((rounding, None), (rounding, rounding), (nearest_of, rounding), (rounding, nearest_of)):
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
        value, rest = two_sum(self.products, self.bias.expand(self.seen.shape))
        return nearest_of(between(value, rest + self.rest, self.dtype))
