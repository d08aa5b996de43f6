"""Roundings that are not to nearest: which of them gives the results that were seen, where rounding to nearest fails.

A single 16-bit result of many terms proves little: the bound on its accumulator reaches beyond both neighbours. But all
results of a kernel come from one rounding. With ``e``, how far accumulators of float32 sums really lie from the exact
sums of these very data (:func:`summation_error`), a result is *off* where no rounding to nearest of any value within
``e`` gives it. Where many are off, and one other rounding explains every result, that is what the kernel does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from equiv.numerics.formats import format_of, from_ordinal, ordinal, round_down, round_nearest, round_up
from equiv.numerics.reference import two_sum

Rounding = Callable[[Tensor, torch.dtype], Tensor]
Ends: TypeAlias = tuple[Rounding, Rounding]


class Between(NamedTuple):
    """Exact values between two neighbouring numbers of a dtype, which are equal where a value is such a number.

    Attributes:
        low: The neighbour below, float64.
        high: The one above.
        side: Sign of the distance from the middle: -1 is nearer to low, 0 a tie.
        negative: Whether the value is.
        odd: Whether the last bit of low is 1.
    """

    low: Tensor
    high: Tensor
    side: Tensor
    negative: Tensor
    odd: Tensor


def between(value: Tensor, rest: Tensor | None, dtype: torch.dtype) -> Between:
    """Where float64 values lie, with a second word if there is one; as told exactly in every dtype.

    Example:
        >>> at = between(torch.tensor([257.0], dtype=torch.float64), None, torch.bfloat16)
        >>> at.low.item(), at.high.item(), at.side.item()
        (256.0, 258.0, 0.0)
    """
    if rest is not None:
        value, rest = two_sum(value, rest)
    low, high = round_down(value, dtype), round_up(value, dtype)
    side = (value - low.double()) - (high.double() - value)
    if rest is not None:
        whole = low == high
        low = torch.where(whole & (rest < 0), from_ordinal(ordinal(low) - 1, dtype), low)
        high = torch.where(whole & (rest > 0), from_ordinal(ordinal(high) + 1, dtype), high)
        side = ((value - low.double()) - (high.double() - value)) + 2 * rest
    return Between(low.double(), high.double(), side.sign(), value < 0, ordinal(low) % 2 == 1)


def nearest_of(at: Between) -> Tensor:
    """To nearest, ties to even: float64."""
    return torch.where((at.side < 0) | ((at.side == 0) & ~at.odd), at.low, at.high)


def _toward_zero(at: Between) -> Tensor:
    return torch.where(at.negative, at.high, at.low)


def _away_from_zero(at: Between) -> Tensor:
    return torch.where(at.negative, at.low, at.high)


def _ties_away(at: Between) -> Tensor:
    return torch.where(at.side == 0, _away_from_zero(at), nearest_of(at))


def _to_odd(at: Between) -> Tensor:
    return torch.where(at.odd, at.low, at.high)


def _half_where_odd(at: Between) -> Tensor:
    cut_is_odd = at.odd ^ (at.negative & (at.low != at.high))  # of two neighbours one is odd
    return torch.where(cut_is_odd, _ties_away(at), _toward_zero(at))


DIRECTIONS: dict[str, Callable[[Between], Tensor]] = {
    "toward-zero": _toward_zero,
    "ties-away": _ties_away,
    "away-from-zero": _away_from_zero,
    "down": lambda at: at.low,
    "up": lambda at: at.high,
    "half-where-odd": _half_where_odd,
    "to-odd": _to_odd,
}
"""The wrong roundings to one value, each with how it chooses, float64; all of them are monotonic."""


def _rounding(name: str) -> Rounding:
    return lambda s, dtype: DIRECTIONS[name](between(s, None, dtype)).to(dtype)


WRONG_ROUNDINGS: dict[str, Ends] = {name: (_rounding(name), _rounding(name)) for name in DIRECTIONS}
"""Each with what it makes of the smallest and of the largest sum: itself."""

STOCHASTIC, TIES_AWAY = "stochastic", "ties-away"
_NEAREST: Ends = (round_nearest, round_nearest)
_EITHER: Ends = (round_down, round_up)  # a stochastic rounding gives one of the two neighbours


class Sums(NamedTuple):
    """Outputs that were seen, and what is known of them: float64 tensors of one shape but for ``result``.

    Attributes:
        result: What the kernel returned, finite, in its dtype.
        exact: The exact sums.
        bias: The bias among them, 0 for none.
        error: How far the accumulator may be from ``exact``.
    """

    result: Tensor
    exact: Tensor
    bias: Tensor
    error: Tensor


def nearest_bounds(y: Sums, *, apart: bool) -> tuple[Tensor, Tensor]:
    """What rounding to nearest gives of sums within their error, float64; ``apart``: before the bias as well."""
    return _ends(y, _NEAREST if apart else None, _NEAREST)


def explaining_roundings(y: Sums) -> Iterator[str]:
    """The names of the wrong roundings that give every result, the one closest to rounding to nearest first."""
    for name in (*WRONG_ROUNDINGS, STOCHASTIC):
        if any(count == y.exact.numel() for count in explained_by(name, y)):
            yield name


def explained_by(name: str, y: Sums) -> Iterator[int]:
    """How many results a wrong rounding gives, for each way in which it may take part before the bias."""
    seen = y.result.double()
    for first, last in _ways(y, WRONG_ROUNDINGS.get(name, _EITHER)):
        lower, upper = _ends(y, first, last)
        yield int(((lower <= seen) & (seen <= upper)).sum())


def _ways(y: Sums, rounding: Ends) -> Iterator[tuple[Ends | None, Ends]]:
    """Roundings of the products, None for no such rounding, and of the result."""
    yield None, rounding
    if bool(y.bias.any()):
        yield from ((rounding, rounding), (_NEAREST, rounding), (rounding, _NEAREST))


def _ends(y: Sums, first: Ends | None, last: Ends) -> tuple[Tensor, Tensor]:
    """Smallest and largest result of sums within their error that are rounded like this, float64."""
    dtype, low, high = y.result.dtype, y.exact - y.error, y.exact + y.error
    if first is not None:
        products = y.exact - y.bias
        apart = first[0](products - y.error, dtype).double(), first[1](products + y.error, dtype).double()
        low, high = (torch.where(y.bias == 0, end, each + y.bias) for end, each in zip((low, high), apart, strict=True))
    return last[0](low, dtype).double(), last[1](high, dtype).double()


_STEPS = 2**21  # terms that are added one by one, over all orders and outputs


def summation_error(products: Tensor) -> float:
    """Largest error of float32 sums of ``products`` ``(M, K)``, float64, as a multiple of ``u*S``; at least 1.

    The orders are the worst practical ones, each term by term: as given, backwards, all positive terms and then all
    negative ones (the largest first, and the smallest first), and by magnitude from both ends.

    Example:
        >>> products = torch.rand(4, 512, dtype=torch.float64)
        >>> 1 <= summation_error(products) < 512
        True
    """
    fmt, count = format_of(torch.float32), products.shape[1]
    if not products.numel():
        return 1.0
    products = products[: max(1, _STEPS // (6 * count))]
    ordered = products.sort(1).values
    by_size = products.gather(1, products.abs().argsort(1))
    positive_first = torch.cat([ordered.clamp(min=0), ordered.clamp(max=0)], 1)
    orders = (products, products.flip(1), ordered.flip(1), positive_first, by_size, by_size.flip(1))
    errors = [_sequential_error(order) for order in orders]
    size = products.abs().sum(1)
    shares = torch.stack(errors).amax(0) / (fmt.u * size)
    return max(1.0, float(shares.nan_to_num(0.0, 0.0).max()))


def _sequential_error(products: Tensor) -> Tensor:
    total = torch.zeros(len(products), dtype=torch.float32)
    for term in products.float().T.contiguous():
        total += term
    return (total.double() - products.sum(1)).abs()
