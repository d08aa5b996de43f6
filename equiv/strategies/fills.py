"""How the kinds of values are filled in: whole-tensor operations on an explicit generator, for real dtypes.

bool is made as uint8, and float8, in which torch computes nothing, as float32 values that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from equiv.dtypes import INTEGERS, SIGNED_OF_SIZE
from equiv.numerics import format_of

_NAMES = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
FLOAT8 = tuple(getattr(torch, name) for name in _NAMES if hasattr(torch, name))
"""The dtypes of eight bits with a sign, a zero and a NaN that this version of torch has.

Example:
    >>> all(dtype.itemsize == 1 for dtype in FLOAT8)
    True
"""


def filled(kind: str, numel: int, last: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """The values of a kind, flat: in ``dtype``, but uint8 for bool and float32 for a float8."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(int(kind == "constant"), 2, (numel,), generator=generator, dtype=torch.uint8)
    if dtype in FLOAT8:
        return _float8(kind, numel, last, dtype, seed, generator)
    return _FILLS[kind](numel, last, dtype, seed, generator)


def _float8(kind: str, n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    """As float32 values that ``dtype`` holds; ``wide`` has every finite bit pattern, ``specials`` what there is."""
    if kind == "wide":
        drawn = torch.randint(0, 256, (n,), generator=g, dtype=torch.uint8).view(dtype).float()
        return torch.where(drawn.isfinite(), drawn, 0.0)
    if kind == "distinct":
        most = most_distinct(dtype)
        index = (torch.arange(n) + seed) % (2 * most)
        return torch.where(index < most, index + 1, most - 1 - index).float()
    values = _FILLS[kind](n, last, torch.float32, seed, g)
    if dtype != torch.float8_e5m2:  # it alone has infinities
        values[values.isinf()] = math.nan
    return values.to(dtype).float()


def most_distinct(dtype: torch.dtype) -> int:
    """The largest M such that 1..M are exact in the real ``dtype`` (capped at 2^40)."""
    if dtype in FLOAT8:
        return 16 if "e4m3" in str(dtype) else 8
    if dtype == torch.bool:
        return 1
    return int(torch.iinfo(dtype).max) if dtype in INTEGERS else 2 ** min(format_of(dtype).precision, 40)


# The fills: (numel, size of the last dimension, real dtype, seed, generator) -> (numel,)


def _constant(n: int, _last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(1, 5, (), generator=g) if dtype in INTEGERS else torch.randn((), generator=g)
    return torch.full((n,), float(drawn) if seed else 1.0, dtype=dtype)


def _small_integers(n: int, _last: int, dtype: torch.dtype, _seed: int, g: torch.Generator) -> torch.Tensor:
    return torch.randint(-4 if dtype.is_signed else 0, 5, (n,), generator=g, dtype=dtype)


def _distinct(n: int, _last: int, dtype: torch.dtype, seed: int, _g: torch.Generator) -> torch.Tensor:
    small = n < 2**15  # then no product below leaves int32, whose remainder is faster
    index = torch.arange(n, dtype=torch.int32 if small else torch.int64)
    if seed and n > 2:
        step = (2 * seed + 1) % n or 1
        while math.gcd(step, n) != 1:
            step += 1
        index.mul_(step % n).add_(seed % n).remainder_(n)
    most = most_distinct(dtype)
    if n <= most:
        values = index.add_(1)
        if seed and dtype.is_signed:
            values[1::2].neg_()
    elif dtype.is_signed:
        index.remainder_(2 * most)
        values = torch.where(index < most, index + 1, most - 1 - index)
    else:
        values = index.remainder_(most).add_(1)
    return values.to(dtype)


def _normals(n: int, _last: int, dtype: torch.dtype, _seed: int, g: torch.Generator) -> torch.Tensor:
    return torch.randn(n, generator=g, dtype=_work(dtype)).to(dtype)


def _repeated(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    values = _normals(n, last, dtype, seed, g)
    rows = values.view(-1, last)
    rows[:, 1::2] = rows[:, : last - last % 2 : 2]
    return values


def _wide(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    if dtype in INTEGERS:
        bounds = torch.iinfo(dtype)
        values = torch.empty(n, dtype=dtype)
        high = None if dtype == torch.int64 else bounds.max + 1  # None: the whole range of int64
        values.random_(bounds.min, high, generator=g)
        ends = torch.tensor([bounds.min, bounds.max], dtype=dtype)
        return torch.where(_chosen(n, 16, g), ends[torch.randint(0, 2, (n,), generator=g)], values)
    quarter = int(math.log2(torch.finfo(dtype).max)) // 4
    exponents = torch.randint(-quarter, quarter + 1, (n,), generator=g, dtype=torch.int32)
    return torch.ldexp(_normals(n, last, _work(dtype), seed, g), exponents).to(dtype)


def _cancelling(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    values = _repeated(n, last, dtype, seed, g)
    as_bits = SIGNED_OF_SIZE[dtype.itemsize]
    ulps = torch.randint(-2, 3, (n,), generator=g, dtype=as_bits)
    values = (values.view(as_bits) + ulps).view(dtype)
    values.view(-1, last)[:, 1::2].neg_()
    return values


def _subnormal(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    stored, as_bits = format_of(dtype).precision - 1, SIGNED_OF_SIZE[dtype.itemsize]
    bits = torch.randint(1, 2**stored, (n,), generator=g, dtype=as_bits)
    signs = torch.randint(0, 2, (n,), generator=g, dtype=as_bits) * torch.iinfo(as_bits).min
    above = torch.randint(1, 6, (n,), generator=g, dtype=as_bits) << stored
    normals = torch.where(_chosen(n, 2, g), (bits | above | signs).view(dtype), _normals(n, last, dtype, seed, g))
    return torch.where(_chosen(n, 2, g), (bits | signs).view(dtype), normals)


def _near_overflow(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    normals = _normals(n, last, dtype, seed, g)
    work = _work(dtype)
    share = 0.25 + 0.75 * torch.rand(n, generator=g, dtype=work)
    large = (share * torch.finfo(dtype).max).clamp_(max=torch.finfo(dtype).max).to(dtype)
    return torch.where(_chosen(n, 4, g), torch.copysign(large, normals), normals)


def _specials(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    menu = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0], dtype=dtype)
    drawn = menu[torch.randint(0, 5, (n,), generator=g)]
    return torch.where(_chosen(n, 8, g), drawn, _normals(n, last, dtype, seed, g))


def _chosen(n: int, one_in: int, g: torch.Generator) -> torch.Tensor:
    """A mask of about n / one_in entries, at least one."""
    mask = torch.randint(0, one_in, (n,), generator=g, dtype=torch.uint8) == 0
    mask[torch.randint(0, n, (), generator=g)] = True
    return mask


def _work(dtype: torch.dtype) -> torch.dtype:
    """The dtype that random numbers are made in before they are rounded to ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_Fill = Callable[[int, int, torch.dtype, int, torch.Generator], torch.Tensor]
_FILLS: dict[str, _Fill] = {
    "constant": _constant,
    "small_integers": _small_integers,
    "distinct": _distinct,
    "normals": _normals,
    "repeated": _repeated,
    "wide": _wide,
    "cancelling": _cancelling,
    "subnormal": _subnormal,
    "near_overflow": _near_overflow,
    "specials": _specials,
}
