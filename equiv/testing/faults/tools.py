"""What faults are written with: other values in the place of tensors and gradients, wrong kernels, conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.kernel import Kernel, KernelCall

# --- other values, whose gradient is that of the right ones -----------------------------------------------------------


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, _t: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """``function.apply(*arguments)``, which has no types of its own."""
    apply: Callable[..., Tensor] = getattr(function, "apply")  # noqa: B009 - untyped in torch
    return apply(*arguments)


def replaced(t: Tensor, values: Tensor) -> Tensor:
    """Other values in the place of ``t``, whose gradient is taken for that of ``t``."""
    if torch.is_grad_enabled() and t.requires_grad:
        return applied(_Replaced, t, values.detach())
    return values.detach()


class _Watched(torch.autograd.Function):
    """The identity, whose gradient passes through a function."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.change(grads[0]), None


def watched(t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``t``, whose gradient becomes ``change`` of it."""
    return applied(_Watched, t, change)


def zero_from(t: Tensor, start: int, dim: int = 0) -> Tensor:
    """Zero from ``start`` along a dimension on; negative counts from the end."""
    kept, lost = t.tensor_split([start], dim)
    return torch.cat([kept, torch.zeros_like(lost)], dim)


def last_entry_zero(t: Tensor) -> Tensor:
    """The last entry left at zero."""
    return zero_from(t.flatten(), -1).view(t.shape)


# --- wrong kernels ----------------------------------------------------------------------------------------------------


def read_as_contiguous(t: Tensor, offset: int | None = None) -> Tensor:
    """The values that a kernel sees which takes memory from the storage offset on as contiguous.

    Beyond the end of the storage it begins at its start again, where a real kernel would read what lies there.
    """
    with torch.no_grad():
        size = t.untyped_storage().nbytes() // t.element_size()
        if size == 0:
            return t
        memory = t.detach().as_strided((size,), (1,), 0)
        start = t.storage_offset() if offset is None else offset
        values = memory[(torch.arange(t.numel(), device=t.device) + start) % size].view(t.shape)
    return replaced(t, values)


def as_contiguous(name: str, offset: int | None = None) -> Kernel:
    """The right kernel, which takes the memory of one tensor as contiguous; see :func:`read_as_contiguous`."""

    def wrong(c: KernelCall) -> Tensor:
        t: Tensor | None = getattr(c, name)
        return c.run(**{name: None if t is None else read_as_contiguous(t, offset)})

    return wrong


def last_entry_off(y: Tensor) -> Tensor:
    """The last entry wrong by its own magnitude, at least by 1; nothing where there is none."""
    if y.numel() == 0:
        return y
    with torch.no_grad():
        last = y.detach()[(-1,) * y.ndim]
        wrong = torch.zeros_like(y, memory_format=torch.contiguous_format)
        size = last.abs()
        wrong[(-1,) * y.ndim] = torch.where(size >= 1, size, torch.ones_like(size)).to(y.dtype)
    return y + wrong


def last_off(c: KernelCall) -> Tensor:
    """The right result but for its last entry; see :func:`last_entry_off`."""
    return last_entry_off(c.run())


def given(change: Callable[[Tensor], Tensor], *names: str) -> Kernel:
    """The right kernel on other values of the named tensors."""

    def wrong(c: KernelCall) -> Tensor:
        tensors = {name: t for name in names if (t := getattr(c, name)) is not None}
        return c.run(**{name: replaced(t, change(t.detach())) for name, t in tensors.items()})

    return wrong


def result(change: Callable[[Tensor], Tensor]) -> Kernel:
    """Other values in the place of the right result."""

    def wrong(c: KernelCall) -> Tensor:
        y = c.run()
        return replaced(y, change(y.detach()))

    return wrong


def through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Floats rounded to another dtype and back."""
    return lambda t: t.to(dtype).to(t.dtype) if t.is_floating_point() else t


def cut_off(t: Tensor, bits: int) -> Tensor:
    """float32 with these bits of the mantissa at zero; NaN and infinities stay."""
    return torch.where(t.isfinite(), (t.contiguous().view(torch.int32) & ~bits).view(torch.float32), t)


def tf32(t: Tensor) -> Tensor:
    """float32 to nearest even in 10 bits of mantissa; NaN and infinities stay."""
    bits = t.detach().contiguous().view(torch.int32)
    kept = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.where(t.isfinite(), kept.view(torch.float32), t)


# --- conditions -------------------------------------------------------------------------------------------------------


def is_strided(t: Tensor) -> bool:
    """Whether its entries do not lie in order without gaps."""
    return not t.is_contiguous()


def is_channels_last(t: Tensor) -> bool:
    """Channels innermost in memory, and more than one of them and more than one position."""
    return t.ndim >= 3 and t.shape[1] > 1 and t.stride(1) == 1 and not t.is_contiguous()


def has_odd_unit_strides(t: Tensor) -> bool:
    """Contiguous but for the strides of dimensions of size 1, which mean nothing."""
    expected = 1
    odd = False
    for size, stride in zip(reversed(t.shape), reversed(t.stride()), strict=True):
        odd |= size == 1 and stride != expected
        expected *= max(1, size)
    return odd and t.is_contiguous()
