"""Backward passes that are right by themselves, and wrong for what autograd does around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import GRADIENTS
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import applied, last_entry_off, watched

fault = Faults(kind="gradient", laws=(GRADIENTS,))

fault("grad-input-no-leaf", "autograd")(
    "The gradient of an input that another operation returned is wrong.",
    "textbook: tested with leaves alone, where inputs of inner layers are none",
).gradient("x", lambda c: c.x.grad_fn is not None, last_entry_off)
fault("grad-weight-no-leaf", "autograd", profile="gate")(
    "The gradient of a weight of linear that another operation returned is wrong.",
    "textbook: parametrized weights, as by weight_norm",
).gradient("weight", lambda c: c.is_linear and c.weight.grad_fn is not None, last_entry_off)


def _in_a_buffer(of: str) -> Any:
    def kernel(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
        leaf: Tensor = getattr(c, of)
        if not torch.is_grad_enabled() or not leaf.requires_grad:
            return c.run()

        def change(grad: Tensor) -> Tensor:
            if grad.requires_grad:
                return grad
            key = tuple(grad.shape), grad.dtype
            if key not in memory:
                memory[key] = torch.empty_like(grad)
            found: Tensor = memory[key].copy_(grad)
            return found

        return c.run(**{of: watched(leaf, change)})

    return kernel


fault("grad-weight-in-one-buffer", "autograd")(
    "The gradient of the weight lies in a buffer that the next backward pass overwrites.",
    "textbook: workspaces that are handed out",
).stateful(_in_a_buffer("weight"))
fault("grad-input-in-one-buffer", "autograd")(
    "The gradient of the input lies in a buffer that the next backward pass overwrites.",
    "textbook: workspaces that are handed out",
).stateful(_in_a_buffer("x"))


class _ReadsLater(torch.autograd.Function):
    """linear without bias that saves nothing: its backward pass reads input and weight as ``read`` gives them then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, c: KernelCall, read: Any) -> Tensor:
        ctx.read = read
        return c.right(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,), (x, weight) = grads, ctx.read()
        rows, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        needed = ctx.needs_input_grad
        return (
            grad @ weight.conj() if needed[0] else None,
            rows.T @ flat.conj() if needed[1] else None,
            None,
            None,
        )


def _is_plain_linear(c: KernelCall) -> bool:
    return c.is_linear and c.x.ndim > 1 and torch.is_grad_enabled() and (c.x.requires_grad or c.weight.requires_grad)


def _biased(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias


fault("backward-reads-the-weight-then", "autograd x mutation")(
    "The backward pass of linear reads weight and input as they are then, not as they were.",
    "textbook: pointers kept in place of save_for_backward",
).where(_is_plain_linear, lambda c: _biased(applied(_ReadsLater, c.x, c.weight, c, lambda: (c.x, c.weight)), c.bias))


def _one_place(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if not _is_plain_linear(c):
        return c.run()
    key = tuple(c.x.shape), tuple(c.weight.shape)
    memory[key] = c.x
    return _biased(applied(_ReadsLater, c.x, c.weight, c, lambda: (memory[key], c.weight)), c.bias)


fault("second-call-overwrites-what-was-saved", "autograd x repeat")(
    "The backward pass of linear takes the input of the last call of that size for its own.",
    "textbook: what is saved is kept on the layer, which is called twice",
).stateful(_one_place)


def _added_to_grad(c: KernelCall) -> Tensor:
    def change(grad: Tensor) -> Tensor:
        if c.weight.is_leaf and c.weight.grad is not None:
            with torch.no_grad():
                c.weight.grad.add_(grad)
        return grad

    return c.run(weight=watched(c.weight, change))


fault("grad-weight-accumulated-twice", "autograd x accumulation")(
    "The backward pass adds to the .grad of the weight, where there is one, before autograd does.",
    "textbook: fused accumulation of gradients",
).where(lambda c: torch.is_grad_enabled() and c.weight.requires_grad, _added_to_grad)


def _second_grad_lost(c: KernelCall) -> Tensor:
    def change(grad: Tensor) -> Tensor:
        if c.x.is_leaf and c.x.grad is not None:
            c.x.grad = None
        return grad

    return c.run(x=watched(c.x, change))


fault("grad-input-not-accumulated", "autograd x accumulation")(
    "The backward pass drops what was in the .grad of the input.", "textbook: a gradient that is stored, not added"
).where(lambda c: torch.is_grad_enabled() and c.x.requires_grad, _second_grad_lost)
