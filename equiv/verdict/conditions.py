"""The tolerance that a caller asks for in addition: where it is exceeded, and in words."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def apart(y: Tensor, e: Tensor) -> Tensor:
    """``|y - e|`` in float64, infinite where it is no number; integers do not wrap."""
    wide = torch.complex128 if y.is_complex() or e.is_complex() else torch.float64
    return (y.to(wide) - e.to(wide)).abs().nan_to_num(math.inf, math.inf)


def conditions_of(y: Tensor, e: Tensor, tolerances: tuple[float, float] | None) -> tuple[tuple[str, ...], Tensor]:
    """The caller's own tolerance: in words, and where it is exceeded."""
    if tolerances is None:
        return (), torch.zeros(y.shape, dtype=torch.bool)
    rtol, atol = tolerances
    wide = torch.complex128 if y.is_complex() else torch.float64
    close = torch.isclose(y.to(wide), e.to(wide), rtol=rtol, atol=atol, equal_nan=True)
    return condition_words(tolerances, int((~close).sum()), y.numel()), ~close


def condition_words(tolerances: tuple[float, float] | None, breaks: int, total: int) -> tuple[str, ...]:
    """The caller's tolerance with what came of it; nothing where there is none."""
    if tolerances is None:
        return ()
    state = f"is exceeded at {breaks:,} of {total:,} outputs" if breaks else "holds"
    return (f"rtol={tolerances[0]:g}, atol={tolerances[1]:g}: {state}",)
