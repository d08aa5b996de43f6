"""Steps that values are kept in, as by int8 quantization: those that they may be given, and those that they have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product as combinations

import torch
from torch import Tensor

from equiv.numerics import Rounding

_LEVELS = ((127.0, False), (127.5, False), (255.0, True), (127.0, True), (7.0, False), (15.0, True))
_MOST = 2**16  # steps from zero to the largest value


def steps_of(values: Tensor, *, weights: bool) -> Iterator[Rounding]:
    """Steps that these values (m, n) may be kept in: powers of two, and parts of their size or range."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not largest:
        return
    top = math.frexp(largest)[1]
    for bits in range(3, 17):
        yield Rounding("steps", 2.0 ** (top - bits))
    for power in (top - 7, top - 8, top - 9):
        yield Rounding("steps", 2.0**power, least=-128.0, most=127.0)
    for (levels, ranged), inverse in combinations(_LEVELS, (False, True)):
        whole = Rounding("steps", levels=levels, ranged=ranged, by_inverse=inverse)
        # A weight has the same step whatever part of it is looked at; that of inputs is found anew for every batch.
        step = float(whole.step_of(values))
        yield Rounding("steps", step, by_inverse=inverse) if weights else whole
        yield replace(whole, by_row=True)


def common_step(values: Tensor) -> float | None:
    """The step of which all values, as float32 keeps them at least, are multiples; None where there is none.

    Example:
        >>> common_step(torch.tensor([0.5, -0.25, 1.75]).double()), common_step(torch.rand(9).double())
        (0.25, None)
    """
    sizes = torch.unique(values.abs())
    sizes = sizes[(sizes > 0) & sizes.isfinite()]
    if len(sizes) < 2:
        return None
    gaps = torch.cat([sizes[:1], sizes.diff()])
    gap = float(gaps[gaps > 2.0**-22 * sizes[-1]].min())
    if gap * _MOST < float(sizes[-1]):
        return None
    return next((step for parts in range(1, 9) if (step := _step_near(sizes, gap / parts)) is not None), None)


def _step_near(sizes: Tensor, step: float) -> float | None:
    """The step near this one of which all sizes, in rising order, are multiples once rounded to float32."""
    low, high = 0.5 * step, 2.0 * step
    for size in sizes.tolist():  # from small to large: each narrows the step for the next
        count = round(size / step)
        half = math.ulp(size) * 2.0**28  # of a float32
        if count == 0:
            return None
        low, high = max(low, (size - half) / count), min(high, (size + half) / count)
        if low > high:
            return None
        step = (low + high) / 2
    single = float(torch.tensor(step, dtype=torch.float32))
    return next((s for s in (2.0 ** round(math.log2(step)), single) if low <= s <= high), step)
