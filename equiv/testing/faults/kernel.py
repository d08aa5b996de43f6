"""torch's four kernels replaced: what a call looks like to a replacement, and where it is put.

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
        """The right result, of other tensors and arguments where they are given."""

        def of(name: str) -> Any:
            return changed[name] if name in changed else getattr(self, name)

        if self.dims == 0:
            return self.right(of("x"), of("weight"), of("bias"))
        return self.right(of("x"), of("weight"), of("bias"), of("stride"), of("padding"), of("dilation"), of("groups"))

    def run_in(self, dtype: torch.dtype) -> Tensor:
        """The right result of all tensors in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return self.run(x=self.x.to(dtype), weight=self.weight.to(dtype), bias=bias)

    def is_of(self, *dtypes: torch.dtype) -> bool:
        """Whether input and weight are of one of these dtypes."""
        return self.weight.dtype in dtypes and self.x.dtype == self.weight.dtype

    @property
    def is_conv(self) -> bool:
        """Whether this is a convolution."""
        return self.dims > 0

    @property
    def is_linear(self) -> bool:
        """Whether this is linear."""
        return self.dims == 0

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
    def pads(self) -> tuple[int, ...]:
        """Padding for each spatial dimension, the larger end of ``same``; () for linear."""
        if self.padding == "same":
            return tuple((e * (k - 1) + 1) // 2 for e, k in zip(self.dilation, self.kernel, strict=True))
        return _each(0 if self.padding == "valid" else self.padding, self.dims)

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
