"""A matrix product with a backward of its own, which cannot be differentiated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from equiv.backends import Capabilities
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from tinykernels.defects import has


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.has_bias = bias is not None  # type: ignore[attr-defined]
        return torch.nn.functional.linear(rows, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    # torch's decorator drops the names of parameters.
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        (grad,) = grad_outputs
        rows, weight = ctx.saved_tensors
        of_weight = grad.T @ rows
        if has("once-weight-gradient"):
            of_weight = of_weight.abs()
        of_bias = grad.sum(0) if ctx.has_bias else None
        if has("once-bias-gradient") and of_bias is not None:
            of_bias = grad[:1].sum(0)  # of the first row alone
        return grad @ weight, of_weight, of_bias


class OnceLayers:
    """A backend of torch-equiv: convolutions as windows times a matrix. What it does not declare is found by asking."""

    name = "once"
    device = torch.device("cpu")
    capabilities = Capabilities(dtypes=("float32", "float64"))

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = input.reshape(-1, weight.shape[1])
        y: Tensor = _Product.apply(rows, weight, bias)  # type: ignore[no-untyped-call, unused-ignore]
        return y.reshape(*input.shape[:-1], weight.shape[0])

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Tensor:
        dims = weight.ndim - 2
        kernel, windows = weight.shape[2:], input
        steps, gaps = ((value,) * dims if isinstance(value, int) else tuple(value) for value in (stride, dilation))
        first = input.ndim - dims
        for axis, (size, step, gap) in enumerate(zip(kernel, steps, gaps, strict=True)):
            windows = windows.unfold(first + axis, (size - 1) * gap + 1, step)[..., ::gap]
        # (..., C, *out, *kernel) -> (..., *out, C * kernel)
        windows = windows.movedim(first - 1, first - 1 + dims)
        y = self.linear(windows.flatten(-dims - 1), weight.flatten(1), bias)
        return y.movedim(-1, first - 1)
