"""Gradients that cannot be differentiated again rightly, and results that lose their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults._build import kernel_fault, watched
from equiv.testing.faults._kernel import Kernel, KernelCall, applied, last_entry_off


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


def _constant_weight(c: KernelCall) -> Tensor:
    return applied(_WeightConstantInBackward, c.x, c.weight, c)


kernel_fault(
    "second-order-loses-the-weight",
    "The gradient of the input of linear without bias does not depend on the weight: its own derivative is lost.",
    source="textbook: a detached tensor in the backward pass",
    kind="gradient",
    dimension="second order",
    when=lambda c: _records(c) and not c.is_conv and c.bias is None and c.x.ndim > 1,
    wrong=_constant_weight,
    laws=("gradients",),
)


def _doubled_later(grad: Tensor) -> Tensor:
    return grad + (grad - grad.detach()) if grad.requires_grad else grad


def _doubled_through(of: str) -> Kernel:
    """The gradient of ``of`` is right, and its own derivative twice the right one."""
    return lambda c: c.run(**{of: watched(getattr(c, of), _doubled_later)})


kernel_fault(
    "second-order-doubled-conv",
    "The second derivative of a convolution is twice the right one; the first is right.",
    source="textbook: the double backward pass",
    kind="gradient",
    dimension="second order",
    when=lambda c: _records(c) and c.is_conv,
    wrong=_doubled_through("x"),
    laws=("gradients",),
)
kernel_fault(
    "second-order-doubled-complex",
    "The derivative of the gradient of the input is twice the right one, for complex numbers.",
    source="textbook: the double backward pass of complex numbers",
    kind="gradient",
    dimension="second order x dtype",
    profile="gate",
    dtypes=("complex64",),
    when=lambda c: _records(c) and c.x.is_complex(),
    wrong=_doubled_through("x"),
    laws=("gradients",),
)
kernel_fault(
    "second-order-through-grad-weight-doubled",
    "The derivative of the gradient of the weight is twice the right one; that of the gradient of the input is right.",
    source="textbook: the double backward pass, of the weight",
    kind="gradient",
    dimension="second order",
    profile="gate",
    when=_records,
    wrong=_doubled_through("weight"),
    laws=("gradients",),
)
kernel_fault(
    "second-order-doubled-with-bias",
    "The derivative of the gradient of the input is twice the right one where a bias requires a gradient.",
    source="textbook: the double backward pass, of a layer with bias",
    kind="gradient",
    dimension="second order x bias",
    profile="gate",
    when=lambda c: _records(c) and c.bias is not None and c.bias.requires_grad,
    wrong=_doubled_through("x"),
    laws=("gradients",),
)
kernel_fault(
    "second-order-doubled-stride",
    "The derivative of the gradient of the input of a convolution with a stride above 1 is twice the right one.",
    source="textbook: the double backward pass, of a transposed convolution",
    kind="gradient",
    dimension="second order x stride",
    profile="deep",
    when=lambda c: _records(c) and c.is_conv and max(c.stride) > 1,
    wrong=_doubled_through("x"),
    laws=("free_parameters", "gradients"),
)


def _zero_when_asked_again(c: KernelCall) -> Tensor:
    asked = 0

    def change(grad: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return grad if asked == 1 else torch.zeros_like(grad)

    return c.run(x=watched(c.x, change))


kernel_fault(
    "second-backward-through-graph-is-zero",
    "The gradient of the input is zero when it is asked for a second time of the same result.",
    source="textbook: buffers of the backward pass that are freed although the graph is retained",
    kind="gradient",
    dimension="repeat x backward",
    profile="gate",
    when=lambda c: torch.is_grad_enabled() and c.x.requires_grad,
    wrong=_zero_when_asked_again,
    laws=("gradients",),
)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: Any, *grads: Any) -> Any:
        return grads[0].clone()


kernel_fault(
    "double-backward-raises",
    "The gradient of a convolution cannot be differentiated again.",
    source="textbook: once_differentiable",
    kind="gradient",
    dimension="second order",
    when=lambda c: torch.is_grad_enabled() and c.is_conv and c.x.requires_grad,
    wrong=lambda c: c.run(x=applied(_Once, c.x)),
    laws=("gradients",),
)
kernel_fault(
    "result-detached-conv1d",
    "The result of conv1d does not remember what it was computed from.",
    source="textbook: requires_grad lost",
    kind="gradient",
    dimension="backward",
    when=lambda c: c.dims == 1 and torch.is_grad_enabled() and (c.x.requires_grad or c.weight.requires_grad),
    wrong=lambda c: c.run().detach(),
    laws=("gradients", "boundaries", "layout", "free_parameters"),
)
kernel_fault(
    "wrong-while-recording",
    "The last entry is wrong where gradients are recorded for the weight and the number of rows is odd.",
    source="textbook: another kernel in training mode",
    kind="gradient",
    dimension="recording x batch",
    when=lambda c: torch.is_grad_enabled() and c.weight.requires_grad and c.rows % 2 == 1,
    wrong=lambda c: last_entry_off(c.run()),
    laws=("gradients", "boundaries"),
)
