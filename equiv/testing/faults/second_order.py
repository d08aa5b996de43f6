"""Gradients that cannot be differentiated again rightly, and results that lose their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BOUNDARIES, CONVOLUTION, FREE_PARAMETERS, GRADIENTS, LAYOUT
from equiv.testing.faults.kernel import Kernel, KernelCall
from equiv.testing.faults.tools import applied, last_off, through, watched


def _records(c: KernelCall) -> bool:
    return torch.is_grad_enabled() and c.x.requires_grad and c.weight.requires_grad


class _WeightConstantInBackward(torch.autograd.Function):
    """linear without bias whose backward pass does not remember that it depends on the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, c: KernelCall) -> Tensor:
        ctx.save_for_backward(x, weight)
        return c.right(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        rows, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        return grad @ weight.detach().conj(), rows.T @ flat.conj(), None


fault = Faults(kind="gradient", laws=(GRADIENTS,))

fault("second-order-loses-the-weight", "second order")(
    "The gradient of the input of linear without bias does not depend on the weight: its own derivative is lost.",
    "textbook: a detached tensor in the backward pass",
).where(
    lambda c: _records(c) and c.is_linear and c.bias is None and c.x.ndim > 1,
    lambda c: applied(_WeightConstantInBackward, c.x, c.weight, c),
)


def _doubled_later(grad: Tensor) -> Tensor:
    return grad + (grad - grad.detach()) if grad.requires_grad else grad


def _doubled_through(of: str) -> Kernel:
    """The gradient of ``of`` is right, and its own derivative twice the right one."""
    return lambda c: c.run(**{of: watched(getattr(c, of), _doubled_later)})


fault("second-order-doubled-conv", "second order")(
    "The second derivative of a convolution is twice the right one; the first is right.",
    "textbook: the double backward pass",
).where(lambda c: _records(c) and c.is_conv, _doubled_through("x"))
fault("second-order-doubled-complex", "second order x dtype", profile="gate", dtypes=("complex64",))(
    "The derivative of the gradient of the input is twice the right one, for complex numbers.",
    "textbook: the double backward pass of complex numbers",
).where(lambda c: _records(c) and c.x.is_complex(), _doubled_through("x"))
fault("second-order-through-grad-weight-doubled", "second order", profile="gate")(
    "The derivative of the gradient of the weight is twice the right one; that of the gradient of the input is right.",
    "textbook: the double backward pass, of the weight",
).where(_records, _doubled_through("weight"))
fault("second-order-doubled-with-bias", "second order x bias", profile="gate")(
    "The derivative of the gradient of the input is twice the right one where a bias requires a gradient.",
    "textbook: the double backward pass, of a layer with bias",
).where(lambda c: _records(c) and c.bias is not None and c.bias.requires_grad, _doubled_through("x"))
fault("second-order-doubled-stride", "second order x stride", profile="gate", laws=(CONVOLUTION,))(
    "The derivative of the gradient of the input of a convolution with a stride above 1 is twice the right one.",
    "textbook: the double backward pass, of a transposed convolution",
).where(lambda c: _records(c) and c.is_conv and max(c.stride) > 1, _doubled_through("x"))


fault("second-order-result-in-bfloat16", "second order x precision")(
    "The derivative of the gradient of the input with respect to the weight passes through bfloat16.",
    "textbook: the double backward pass in 16 bits",
).where(lambda c: _records(c) and c.x.dtype == torch.float32, lambda c: _weight_again_rounded(c))


def _weight_again_rounded(c: KernelCall) -> Tensor:
    """The first gradient that reaches the weight from a backward pass is right; what reaches it later is rounded."""
    asked = 0

    def of_input(grad: Tensor) -> Tensor:
        nonlocal asked
        asked += grad.requires_grad
        return grad

    def of_weight(grad: Tensor) -> Tensor:
        return through(torch.bfloat16)(grad) if asked else grad

    return c.run(x=watched(c.x, of_input), weight=watched(c.weight, of_weight))


def _zero_when_asked_again(c: KernelCall) -> Tensor:
    asked = 0

    def change(grad: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return grad if asked == 1 else torch.zeros_like(grad)

    return c.run(x=watched(c.x, change))


fault("second-backward-through-graph-is-zero", "repeat x backward", profile="gate")(
    "The gradient of the input is zero when it is asked for a second time of the same result.",
    "textbook: buffers of the backward pass that are freed although the graph is retained",
).where(lambda c: torch.is_grad_enabled() and c.x.requires_grad, _zero_when_asked_again)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: Any, *grads: Any) -> Any:
        return grads[0].clone()


fault("double-backward-raises", "second order")(
    "The gradient of a convolution cannot be differentiated again.", "textbook: once_differentiable"
).where(lambda c: torch.is_grad_enabled() and c.is_conv and c.x.requires_grad, lambda c: c.run(x=applied(_Once, c.x)))
fault("result-detached-conv1d", "backward", laws=(GRADIENTS, BOUNDARIES, LAYOUT, FREE_PARAMETERS))(
    "The result of conv1d is detached: no gradient flows back through it.", "textbook: requires_grad lost"
).where(
    lambda c: c.dims == 1 and torch.is_grad_enabled() and (c.x.requires_grad or c.weight.requires_grad),
    lambda c: c.run().detach(),
)
fault("wrong-while-recording", "recording x batch", laws=(GRADIENTS, BOUNDARIES))(
    "The last entry is wrong where gradients are recorded for the weight and the number of rows is odd.",
    "textbook: another kernel in training mode",
).where(lambda c: torch.is_grad_enabled() and c.weight.requires_grad and c.rows % 2 == 1, last_off)
