"""Right backends that serve a part of what there is, and say so by NotImplementedError or by carrying no gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

CPU = torch.device("cpu")


class Numpy:
    """Products of NumPy, which carry no gradients; no convolutions."""

    name, device = "numpy", CPU

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x, w = (t.detach().resolve_conj().resolve_neg().numpy() for t in (input, weight))
        with np.errstate(all="ignore"):
            y = torch.from_numpy(np.ascontiguousarray(x @ w.T))
        return y if bias is None else y + bias.detach()

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **_: Any) -> Tensor:
        raise NotImplementedError("no convolutions")


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.with_bias = b is not None
        return F.linear(x, w, b)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        to_weight = rows.T @ x.reshape(-1, x.shape[-1]).conj()
        return grad @ w.conj(), to_weight, rows.sum(0) if ctx.with_bias else None


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)


class Once(Numpy):
    """First-order gradients of its own."""

    name = "once"

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _Once.apply(input, weight, bias)  # type: ignore[no-any-return]


class Forward(Numpy):
    """An autograd.Function without a backward pass."""

    name = "forward"

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _Forward.apply(input, weight, bias)  # type: ignore[no-any-return]


class Graphless(Numpy):
    """NumPy as people write it: torch refuses to hand over tensors that record gradients."""

    name = "graphless"

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        with np.errstate(all="ignore"):
            y = torch.from_numpy(input.numpy() @ weight.numpy().T)
        return y if bias is None else y + bias


class Strict:
    """A runtime: contiguous batches of images, no dilation, no more than 5,000 entries, no gradients."""

    name, device = "strict", CPU

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._run(F.linear, input, weight, bias, input.ndim == 2)

    def conv(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: Any = 1, dilation: Any = 1
    ) -> Tensor:
        if weight.ndim != 4:
            raise NotImplementedError("images alone")
        if dilation not in (1, (1, 1)):
            raise NotImplementedError("no dilation")
        return self._run(F.conv2d, input, weight, bias, input.ndim == 4, stride=stride)

    @staticmethod
    def _run(
        kernel: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor | None, batched: bool, **steps: Any
    ) -> Tensor:
        if not (x.is_contiguous() and w.is_contiguous()):
            raise NotImplementedError("contiguous tensors alone")
        if not batched or not len(x):
            raise NotImplementedError("batches alone")
        if max(x.numel(), w.numel()) > 5000:
            raise NotImplementedError(f"{x.numel()} entries")
        with torch.no_grad():
            return kernel(x, w, b, **steps)
