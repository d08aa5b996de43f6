"""torch's four kernels replaced: what a call looks like to a replacement, where it is put, and tools to write one.

``nn.Linear``, ``nn.Conv1d/2d/3d`` and everything else in Python looks the kernels up in ``torch.nn.functional`` at each
call, so that is where they are replaced. ``torch.conv1d/2d/3d`` stay: dynamo makes its table of known functions from
that namespace when it first compiles, and keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_NAMES = ("linear", "conv1d", "conv2d", "conv3d")


@dataclass(frozen=True)
class KernelCall:
    """What a kernel is called with: tensors as they lie in memory, and the right kernel to fall back on.

    Attributes:
        dims: Spatial dimensions; 0 for linear.
        x: ``(*batch, n)`` for linear, else ``(N, C, *spatial)`` or ``(C, *spatial)``.
        weight: ``(O, n)`` or ``(O, C, *kernel)``.
        bias: ``(O,)`` or None.
        stride: One for each spatial dimension.
        padding: As it was given.
        dilation: One for each spatial dimension.
        groups: Of the convolution.
        right: The kernel that was there before.
    """

    dims: int
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    right: Callable[..., Tensor]

    def run(self, **changed: Any) -> Tensor:
        """The right result, of other tensors, stride or dilation where they are given."""

        def of(name: str) -> Any:
            return changed[name] if name in changed else getattr(self, name)

        if self.dims == 0:
            return self.right(of("x"), of("weight"), of("bias"))
        return self.right(of("x"), of("weight"), of("bias"), of("stride"), of("padding"), of("dilation"), of("groups"))

    @property
    def is_conv(self) -> bool:
        """Whether this is a convolution."""
        return self.dims > 0

    @property
    def outputs(self) -> int:
        """O."""
        return self.weight.shape[0]

    @property
    def channels(self) -> int:
        """C, or n for linear."""
        return self.weight.shape[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial sizes of the weight; () for linear."""
        return tuple(self.weight.shape[2:])

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial sizes of the input; () for linear."""
        return tuple(self.x.shape[self.x.ndim - self.dims :])

    @property
    def n(self) -> int:
        """Terms of one output."""
        return math.prod(self.weight.shape[1:])

    @property
    def is_batched(self) -> bool:
        """Whether a convolution's input has a batch dimension."""
        return self.x.ndim == self.dims + 2

    @property
    def rows(self) -> int:
        """Samples of a convolution, rows of a linear layer."""
        if self.is_conv:
            return self.x.shape[0] if self.is_batched else 1
        return math.prod(self.x.shape[:-1])

    @property
    def is_pointwise(self) -> bool:
        """Whether this is a convolution with a kernel of one entry."""
        return self.is_conv and math.prod(self.kernel) == 1

    @property
    def slides(self) -> bool:
        """Whether the map of a convolution is larger than its kernel."""
        return self.is_conv and self.spatial != self.kernel


Kernel = Callable[[KernelCall], Tensor]


@contextmanager
def instead(kernel: Kernel, *, traced: bool = False) -> Iterator[None]:
    """Put ``kernel`` in the place of torch's four.

    Args:
        kernel: From a call to its result.
        traced: Whether it also stands in where torch traces a program or wraps its tensors (compile, export, vmap, the
            meta device); otherwise the right kernel is called there, because memory means nothing to such tensors.
    """
    before = {name: getattr(functional, name) for name in _NAMES}
    try:
        for name, right in before.items():
            put = _linear(right, kernel, traced) if name == "linear" else _conv(name, right, kernel, traced)
            setattr(functional, name, put)
        yield
    finally:
        for name, right in before.items():
            setattr(functional, name, right)


def _linear(right: Callable[..., Tensor], kernel: Kernel, traced: bool) -> Callable[..., Tensor]:
    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not traced and (torch.compiler.is_compiling() or not _are_plain(input, weight, bias)):
            return right(input, weight, bias)
        return kernel(KernelCall(0, input, weight, bias, (), 0, (), 1, right))

    return linear


def _conv(name: str, right: Callable[..., Tensor], kernel: Kernel, traced: bool) -> Callable[..., Tensor]:
    dims = int(name[4])

    def conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        if not traced and (torch.compiler.is_compiling() or not _are_plain(input, weight, bias)):
            return right(input, weight, bias, stride, padding, dilation, groups)
        each = _each(stride, dims), _each(dilation, dims)
        return kernel(KernelCall(dims, input, weight, bias, each[0], padding, each[1], groups, right))

    return conv


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * dims if len(given) == 1 else given


def _are_plain(*tensors: Tensor | None) -> bool:
    return all(t is None or is_plain(t) for t in tensors)


def is_plain(t: Tensor) -> bool:
    """Whether a tensor has memory of its own: no meta or fake tensor, no subclass, none that a transform wraps."""
    known = type(t) is Tensor or type(t) is torch.nn.Parameter
    return known and not t.is_meta and not torch._C._functorch.is_functorch_wrapped_tensor(t)


@contextmanager
def without_onednn() -> Iterator[None]:
    """With ``torch.backends.mkldnn.enabled`` off."""
    switch: Any = torch.backends.mkldnn  # its flags() would set what float32 products are rounded to as well
    before = switch.enabled
    switch.enabled = False
    try:
        yield
    finally:
        switch.enabled = before


# --- tools ------------------------------------------------------------------------------------------------------------


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


def last_entry_zero(t: Tensor) -> Tensor:
    """The last entry left at zero."""
    if t.numel() == 0:
        return t
    kept = torch.ones_like(t, memory_format=torch.contiguous_format)
    kept[(-1,) * t.ndim] = 0
    return torch.where(kept != 0, t, torch.zeros_like(t))


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


def over_outputs(c: KernelCall, bias: Tensor) -> Tensor:
    """A bias ``(O,)`` as it is added to the result of a call."""
    return bias.reshape(-1, *(1,) * c.dims)
