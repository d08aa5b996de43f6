"""Right backends that serve less than all, refuse the rest, and take a fault each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equiv.backends import Capabilities
from equiv.laws.taken import is_plain

Fault = Callable[[Tensor], Tensor]


class RefusedError(Exception):
    """The backend was asked for what it had said that it does not serve."""


class Once(torch.autograd.Function):
    """A dense layer whose gradients cannot be differentiated again; they are changed by faults by name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, faults: dict[str, Fault]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias, ctx.faults = bias is not None, faults
        y = x @ weight.T
        return y if bias is None else y + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        found = {"input": grad @ weight.conj(), "weight": grad.T @ x.conj()}
        if ctx.bias:
            found["bias"] = grad.sum(0)
        return (*(ctx.faults.get(k, lambda t: t)(found[k]) if k in found else None for k in ROLES), None)


ROLES = ("input", "weight", "bias")


class Limited:
    """torch's sums, or another ``product`` of rows, and nothing beyond its capabilities.

    Args:
        product: From rows ``(N, n)``, weight ``(O, n)`` and bias to ``(N, O)``.
        maps: Changes the windows ``(N, *positions, C, *kernel)`` of a convolution before they become rows.
        declared: Capabilities; any call beyond them is refused.
    """

    device = torch.device("cpu")

    def __init__(self, product: Callable[..., Tensor], maps: Fault | None = None, **declared: Any) -> None:
        self.name, self.product, self.maps = "limited", product, maps
        self.serves = self.capabilities = Capabilities(**declared)

    def supports(self, dtype: torch.dtype, form: str) -> bool:
        return dtype in (torch.float32, torch.int32)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = input.flatten(0, -2) if input.ndim > 1 else input[None]
        y = self.product(rows, weight, bias).reshape(*input.shape[:-1], len(weight))
        return self._within(input, weight, bias, y, 1)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        dims = weight.ndim - 2
        if groups > 1 or any(padding or ()):
            self._refuse(self.serves.groups is False and groups > 1, "groups")
            self._refuse(self.serves.padding is False and any(padding or ()), "padding")
            self._refuse(self._lists("spatial_ranks", dims), f"maps of rank {dims}")
            around = [p for one in reversed(padding or ()) for p in (one, one)]
            parts = [None] * groups if bias is None else bias.chunk(groups)
            maps = torch.nn.functional.pad(input, around).chunk(groups, -1 - dims)
            each, inner = zip(maps, weight.chunk(groups), parts, strict=True), Limited(self.product, self.maps)
            y = torch.cat([inner.conv(*one, stride=stride, dilation=dilation) for one in each], -1 - dims)
            return self._within(input, weight, bias, y, dims + 1)
        self._refuse(self._lists("spatial_ranks", dims), f"maps of rank {dims}")
        self._refuse(self.serves.stride is False and any(s != 1 for s in stride), "a stride")
        self._refuse(self.serves.dilation is False and any(d != 1 for d in dilation), "a dilation")
        windows = input if input.ndim == weight.ndim else input[None]
        for d, (k, s, e) in enumerate(zip(weight.shape[2:], stride, dilation, strict=True)):
            windows = windows.unfold(2 + d, (k - 1) * e + 1, s)[..., ::e]
        places = windows.shape[2 : 2 + dims]
        windows = windows.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        windows = windows if self.maps is None else self.maps(windows)
        y = self.product(windows.reshape(-1, weight[0].numel()), weight.flatten(1), bias)
        y = y.reshape(math.prod(windows.shape[:1]), *places, len(weight)).movedim(-1, 1)
        return self._within(input, weight, bias, y if input.ndim == weight.ndim else y[0], dims + 1)

    def _within(self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, sample: int) -> Tensor:
        """The result, where the call is within what is declared."""
        can, tensors = self.serves, [t for t in (x, weight, bias) if t is not None]
        self._refuse(can.empty_batches is False and x.numel() == 0, "an empty batch")
        self._refuse(can.single_samples is False and x.ndim == sample, "an input without a batch dimension")
        self._refuse(can.layouts is False and not all(map(is_plain, tensors)), "a layout that is not contiguous")
        self._refuse(can.gradient_order == 0 and any(t.requires_grad for t in tensors), "to record gradients")
        entries = max(t.numel() for t in (x, weight, y))
        self._refuse(can.largest is not None and entries > can.largest, f"{entries} entries")
        y = y.contiguous()
        if y.requires_grad and can.layouts is False:
            y.register_hook(
                lambda grad: self._refuse(not is_plain(grad), "an incoming gradient that is not contiguous")
            )
        return y

    def _lists(self, name: str, wanted: int) -> bool:
        served = getattr(self.serves, name)
        return served is not None and wanted not in served

    @staticmethod
    def _refuse(condition: bool, what: str) -> None:
        if condition:
            raise RefusedError(what)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Products and their sums."""
    y = (x[:, None, :] * weight).sum(-1, dtype=x.dtype)
    return y if bias is None else y + bias


def by_numpy(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Refuses tensors that record gradients, as NumPy does."""
    a, w = (t.resolve_neg().numpy() for t in (x, weight))
    with np.errstate(all="ignore"):
        y = a @ w.T
        return torch.from_numpy(np.asarray(y if bias is None else y + bias.resolve_neg().numpy(), dtype=y.dtype))


def once(**faults: Fault) -> Callable[..., Tensor]:
    """The product of :class:`Once`; other dtypes than floats take torch's."""

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = Once.apply(x, weight, bias, faults)
        return y

    return product


def split(truncates: bool = False) -> Callable[..., Tensor]:
    """Sums of parts, added in another order in each call; one that truncates drops the last 12 bits of each part."""
    numbers = np.random.default_rng(5)

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        order = torch.from_numpy(numbers.permutation(x.shape[1]))
        y = torch.zeros(len(x), len(weight), dtype=x.dtype)
        for part in order.tensor_split(4):
            found = x[:, part] @ weight[:, part].T
            if truncates and found.dtype == torch.float32:
                found = (found.contiguous().view(torch.int32) & ~0xFFF).view(torch.float32)
            y = y + found
        return y if bias is None else y + bias

    return product
