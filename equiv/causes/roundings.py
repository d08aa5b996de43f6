"""The roundings that a weight or a bias may have gone through, by the name of the mistake."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.numerics import Rounding, format_of

_ROUNDINGS = {
    "rounded-float32": ("float32", Rounding("float32")),
    "rounded-tf32": ("TF32 (or float16: within its range they round alike)", Rounding("TF32")),
    "truncated-tf32": ("TF32 (truncated)", Rounding("TF32 (cut off)")),
    "rounded-float16": ("float16", Rounding("float16")),
    "rounded-bfloat16": ("bfloat16", Rounding("bfloat16")),
}
ROUNDINGS = {name: words for name, (words, _) in _ROUNDINGS.items()}
ROUNDING_OF = {name: rounding for name, (_, rounding) in _ROUNDINGS.items()}


def rounded(values: Tensor, name: str) -> Tensor:
    """Values after a rounding of `ROUNDINGS`; integers are left alone.

    Example:
        >>> rounded(torch.tensor([1 + 2**-10, 1 + 2**-12]), "rounded-tf32").tolist()
        [1.0009765625, 1.0]
    """
    return ROUNDING_OF[name](values)


def flushed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values with what is subnormal in ``dtype`` replaced by zero."""
    if values.is_complex():
        return torch.view_as_complex(flushed(torch.view_as_real(values), format_of(dtype).dtype))
    if not is_inexact(dtype) or not values.is_floating_point():
        return values
    return torch.where(values.abs() < format_of(dtype).min_normal, torch.zeros_like(values), values)
