"""Values as narrower formats keep them. Dtype and shape stay; the parts of a complex number are treated one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.numerics import format_of


def _cast(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda values: values.to(dtype).to(values.dtype)


def _tf32(values: Tensor, *, truncated: bool = False) -> Tensor:
    """10 bits of mantissa, to nearest even or cut off, in the exponent range of float32."""
    bits = values.to(torch.float32).contiguous().view(torch.int32)
    bits = bits if truncated else bits + 0xFFF + ((bits >> 13) & 1)
    return (bits & ~0x1FFF).view(torch.float32).to(values.dtype)


_ROUNDINGS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rounded-float32": ("float32", _cast(torch.float32)),
    "rounded-tf32": ("TF32 (or float16: within its range they round alike)", _tf32),
    "truncated-tf32": ("TF32 (truncated)", partial(_tf32, truncated=True)),
    "rounded-float16": ("float16", _cast(torch.float16)),
    "rounded-bfloat16": ("bfloat16", _cast(torch.bfloat16)),
}
ROUNDINGS = {name: words for name, (words, _) in _ROUNDINGS.items()}
LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # the coarser first: its numbers are often the other's


def rounded(values: Tensor, name: str) -> Tensor:
    """Values after a rounding of `ROUNDINGS`; integers are left alone.

    Example:
        >>> rounded(torch.tensor([1 + 2**-10, 1 + 2**-12]), "rounded-tf32").tolist()
        [1.0009765625, 1.0]
    """
    return _by_parts(values, _ROUNDINGS[name][1])


def flushed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values with what is subnormal in ``dtype`` replaced by zero."""
    if not is_inexact(dtype):
        return values
    least = format_of(dtype).min_normal
    return _by_parts(values, lambda part: torch.where(part.abs() < least, torch.zeros_like(part), part))


def _by_parts(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    if values.is_complex():
        return torch.view_as_complex(change(torch.view_as_real(values).contiguous()))
    return change(values) if values.is_floating_point() else values
