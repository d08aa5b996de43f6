"""Sums that are kept in a 16-bit format: they depend on their order, and their envelope allows nearly anything.

They are simulated instead, and named where an order gives nearly all of the very outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from equiv.causes.profiles import Profile
from equiv.numerics import format_of, rounding_to

if TYPE_CHECKING:
    from equiv.causes.hypotheses import Outputs

_TERMS, _CELLS = 4096, 2**12  # terms and outputs of a simulated sum
_ALIKE = 0.75  # the share of outputs that must be the very same: inner sums may be rounded otherwise
_BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Fit(NamedTuple):
    """A profile that explains the outputs, how closely, and how many rounded results are not its very own."""

    profile: Profile
    distance: float
    missed: int = 0


class _Order(NamedTuple):
    block: int  # terms that are added exactly
    product_rounded: bool
    bias_first: bool


def in_low_sums(y: Outputs, rows: Tensor, outs: Tensor) -> Iterator[Fit]:
    """Profiles whose sums are kept in a 16-bit format; an order is refuted on some rows and outputs first."""
    n = y.ws.shape[1]
    if n > _TERMS or y.a.numel() > _CELLS:
        return
    for low in (torch.float16, torch.bfloat16):
        if format_of(y.dtype).precision < format_of(low).precision or not _may_end_in(y, low):
            continue
        kept = rounding_to(low)
        rounded = [kept(t) for t in (y.xs, y.ws)]
        changes = [None if torch.equal(t, r) else kept for t, r in zip((y.xs, y.ws), rounded, strict=True)]
        for x, w in (rounded, (y.xs, y.ws)) if any(changes) else (rounded,):
            for order in _orders(n):
                part = _low_sum(x[rows], w[outs], y.b[outs], low, order)
                if _ending(y.a[rows][:, outs], part, y.b[outs], low, y.dtype) is None:
                    continue
                ending = _ending(y.a, _low_sum(x, w, y.b, low, order), y.b, low, y.dtype)
                if ending is not None:
                    results = kept if ending[0] and format_of(y.dtype).precision > format_of(low).precision else None
                    of_x, of_w = changes if x is rounded[0] else (None, None)
                    yield Fit(Profile(of_x, of_w, None, low, results), y.distance(ending[1]))


def _orders(n: int) -> Iterator[_Order]:
    for block in _BLOCKS:
        if block >= n > 1:
            break
        for first in (False, True):
            yield _Order(block, product_rounded=False, bias_first=first)
            if block == 1:
                yield _Order(block, product_rounded=True, bias_first=first)


def _low_sum(x: Tensor, w: Tensor, b: Tensor, low: torch.dtype, order: _Order) -> Tensor:
    """Sums (r, o) kept in a low format after every block of terms, which float32 adds; float64."""
    x, w, total = x.float(), w.float().T, (b if order.bias_first else torch.zeros_like(b)).to(low).float()
    total = total.expand(len(x), -1)
    for j in range(0, x.shape[1], order.block):
        part = x[:, j : j + order.block] @ w[j : j + order.block]
        total = (total + (part.to(low).float() if order.product_rounded else part)).to(low).float()
    return total.double()


def _may_end_in(y: Outputs, low: torch.dtype) -> bool:
    """Whether outputs are numbers of a low format, or such numbers and the bias."""
    kept = rounding_to(low)
    with_bias = (kept(y.a - y.b) + y.b).to(y.dtype).to(y.wide)
    return torch.equal(kept(y.a), y.a) or torch.equal(with_bias, y.a)


def _ending(a: Tensor, total: Tensor, b: Tensor, low: torch.dtype, dtype: torch.dtype) -> tuple[bool, Tensor] | None:
    """What the sum became: as it is, or with the bias added, in the low format or (False) in that of the results."""
    kept = rounding_to(low)
    step = 8 * format_of(low).u * torch.maximum(a.abs(), total.abs()) + 2.0**-24
    ends = [
        (True, total),
        (True, kept(total + b)),
        (True, kept(total + kept(b))),
        (False, (total + b).to(dtype).double()),
    ]
    share, (is_low, h) = max(((float((a == h).double().mean()), (low, h)) for low, h in ends), key=lambda end: end[0])
    return (is_low, h) if share >= _ALIKE and bool(((a - h).abs() <= step).all()) else None
