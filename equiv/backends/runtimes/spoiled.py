"""Defects that several runtimes share: the calls that they spoil, and a small call in which each shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.backends.runtimes.base import Defect


def _values(call: Any) -> list[Tensor]:
    """Input, weight and bias in float64."""
    return [one.detach().double() for one in (call.input, call.weight, call.bias) if one is not None and one.numel()]


def _may_be_subnormal(dtype: torch.dtype, call: Any) -> bool:
    """Whether a value, a product or a difference of two products may be subnormal, and none of them is zero."""
    if call.input.dtype != dtype:
        return False
    info = torch.finfo(dtype)
    least = [float(one.abs()[one != 0].amin()) if bool((one != 0).any()) else math.inf for one in _values(call)]
    return min(least, default=math.inf) < info.tiny or (
        len(least) > 1 and min(least[0] * least[1], *least[2:], math.inf) < info.tiny / info.eps
    )


def _flushes(dtype: torch.dtype, backend: Any) -> bool:
    x = torch.full((1, 1), torch.finfo(dtype).tiny / 4, dtype=dtype)
    return bool(backend.linear(x, torch.ones_like(x)) == 0)


FLUSHES = tuple(
    Defect("subnormals-in-compiled-runtimes", partial(_may_be_subnormal, dtype), partial(_flushes, dtype))
    for dtype in (torch.float32, torch.float64)
)
"""Subnormal numbers count for zero."""


def _leaves_eleven_bits(call: Any) -> bool:
    """Whether a call in float16 is of no whole numbers, or may have a sum beyond 2048."""
    if call.input.dtype != torch.float16:
        return False
    values = _values(call)
    if any(bool((one != one.round()).any()) for one in values):
        return True  # NaN is no whole number
    largest = [float(one.abs().amax()) for one in values]
    return bool(math.prod(call.weight.shape[1:]) * math.prod(largest[:2]) + sum(largest[2:]) > 2048)


def _adds_in_float16(backend: Any) -> bool:
    ones = torch.ones(1, 5000, dtype=torch.float16)
    return bool(backend.linear(ones, ones) != 5000)


HALF_SUMS = Defect("float16-sums-in-float16", _leaves_eleven_bits, _adds_in_float16)
"""Sums of float16 are kept in float16."""


def _may_be_infinite(call: Any) -> bool:
    """Whether a value is infinite or NaN, or a sum may leave float32."""
    values = _values(call)
    if len(values) < 2:
        return False
    if any(not bool(one.isfinite().all()) for one in values):
        return True
    largest = [float(one.abs().amax()) for one in values]
    sums = math.prod(call.weight.shape[1:]) * math.prod(largest[:2]) + sum(largest[2:])
    return bool(sums > torch.finfo(torch.float32).max)


def _convolved(value: float, rank: int = 2) -> Callable[[Any], Tensor]:
    x = torch.full((1, 1, *(1,) * rank), value)
    return lambda backend: backend.conv(x, torch.ones_like(x))


def _loses_infinity(backend: Any) -> bool:
    return any(not bool(_convolved(math.inf, rank)(backend).isinf().all()) for rank in (2, 3))


CLAMPS = Defect("litert-infinity-becomes-the-largest-float", _may_be_infinite, _loses_infinity)
"""Infinite results become the largest float."""


def _is_depthwise(call: Any) -> bool:
    return call.form != "linear" and call.weight.shape[1] == 1 and _may_be_infinite(call)


DEPTHWISE = Defect(
    "infinity-in-depthwise-xnnpack", _is_depthwise, lambda backend: bool(_convolved(math.inf)(backend).isnan().all())
)
"""Convolutions of one channel per group multiply an infinite input by zero."""
