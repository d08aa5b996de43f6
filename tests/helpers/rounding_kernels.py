"""Kernels of layers with 16-bit results, for tests of verdicts: some round as right kernels do, others do not.

A kernel adds its products in float32 (or wider) in one of several orders and brings the sum to the dtype of the result.
All of them take ``x (N, n)``, ``weight (O, n)`` and ``bias (O,)`` or None, and return ``(N, O)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiv.numerics import bit_equal, round_down, round_nearest, round_up

Rounding = Callable[[Tensor, torch.dtype], Tensor]
Kernel = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def sequential(p: Tensor) -> Tensor:
    acc = torch.zeros(p.shape[:-1], dtype=p.dtype)
    for term in p.unbind(-1):
        acc = acc + term
    return acc


def backwards(p: Tensor) -> Tensor:
    return sequential(p.flip(-1))


def pairwise(p: Tensor) -> Tensor:
    while p.shape[-1] > 1:
        half = p.shape[-1] // 2
        rest = p[..., 2 * half :]
        p = torch.cat([p[..., :half] + p[..., half : 2 * half], rest], -1)
    return p[..., 0]


def blocked(size: int) -> Callable[[Tensor], Tensor]:
    def order(p: Tensor) -> Tensor:
        missing = -p.shape[-1] % size
        padded = torch.nn.functional.pad(p, (0, missing))
        return sequential(sequential(padded.unflatten(-1, (-1, size))))

    return order


ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sequential": sequential,
    "backwards": backwards,
    "pairwise": pairwise,
    "blocks of 4": blocked(4),
    "blocks of 16": blocked(16),
}


def summed(x: Tensor, weight: Tensor, order: str, accumulator: torch.dtype = torch.float32) -> Tensor:
    """The accumulators ``(N, O)``: products of 16-bit values are exact in float32, so FMA changes nothing."""
    out = torch.empty(len(x), len(weight), dtype=accumulator)
    step = max(1, 2**22 // max(1, weight.numel()))
    for start in range(0, len(x), step):
        part = x[start : start + step].to(accumulator)
        out[start : start + step] = ORDERS[order](part[:, None, :] * weight.to(accumulator))
    return out


def nearest(acc: Tensor, dtype: torch.dtype) -> Tensor:
    return round_nearest(acc.double(), dtype)


def toward_zero(acc: Tensor, dtype: torch.dtype) -> Tensor:
    s = acc.double()
    return torch.where(s < 0, round_up(s, dtype), round_down(s, dtype))


def away_from_zero(acc: Tensor, dtype: torch.dtype) -> Tensor:
    s = acc.double()
    return torch.where(s < 0, round_down(s, dtype), round_up(s, dtype))


def ties_away(acc: Tensor, dtype: torch.dtype) -> Tensor:
    s = acc.double()
    low, high = round_down(s, dtype), round_up(s, dtype)
    tie = s - low.double() == high.double() - s
    return torch.where(tie, away_from_zero(acc, dtype), round_nearest(s, dtype))


def _is_odd(y: Tensor) -> Tensor:
    return (y.view(torch.int16) & 1) == 1


def to_odd(acc: Tensor, dtype: torch.dtype) -> Tensor:
    """Where the sum is no number of the dtype, the neighbour whose last bit is 1."""
    cut, far = toward_zero(acc, dtype), away_from_zero(acc, dtype)
    return torch.where(bit_equal(cut, far) | _is_odd(cut), cut, far)


def half_where_odd(acc: Tensor, dtype: torch.dtype) -> Tensor:
    """Half an ulp is added only where the last kept bit is odd, as one runtime does; elsewhere the sum is cut."""
    cut = toward_zero(acc, dtype)
    return torch.where(_is_odd(cut), ties_away(acc, dtype), cut)


def stochastic(acc: Tensor, dtype: torch.dtype) -> Tensor:
    """Either neighbour, the nearer one more often; the same for the same sum, so that two calls agree."""
    s = acc.double()
    low, high = round_down(s, dtype).double(), round_up(s, dtype).double()
    share = torch.where(high > low, (s - low) / (high - low), 0.0)
    random = (acc.float().view(torch.int32).long() * 2654435761 % 2**31).double() / 2**31
    return torch.where(random < share, high, low).to(dtype)


WRONG: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "toward zero": toward_zero,
    "away from zero": away_from_zero,
    "down": lambda acc, dtype: round_down(acc.double(), dtype),
    "up": lambda acc, dtype: round_up(acc.double(), dtype),
    "ties away": ties_away,
    "to odd": to_odd,
    "half where odd": half_where_odd,
    "stochastic": stochastic,
}


def kernel(
    order: str = "sequential",
    rounding: Callable[[Tensor, torch.dtype], Tensor] = nearest,
    *,
    apart: bool = False,
    accumulator: torch.dtype = torch.float32,
) -> Kernel:
    """A kernel that adds in this order and rounds like this, the products before a bias as well if it is ``apart``."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        acc = summed(x, weight, order, accumulator)
        if bias is None:
            return rounding(acc, x.dtype)
        if apart:
            acc = rounding(acc, x.dtype).to(accumulator)
        return rounding(acc + bias.to(accumulator), x.dtype)

    return run
