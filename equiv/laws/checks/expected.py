"""Exact results and gradients in the dtype of a case, and the gradients of a call held against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.laws.call import Call, raised
from equiv.laws.trial import Trial
from equiv.numerics import Reference, exact_integers, exact_range

GRADIENT_NAMES = ("input", "weight", "bias")
Tensors = tuple[Tensor, ...]


def reference_of(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Reference:
    """The exact result of ``x @ weight.T + bias``, computed on the CPU."""
    return Reference(x.cpu(), weight.cpu(), None if bias is None else bias.cpu())


def whole(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of integers ``(N, n)``, ``(O, n)``, ``(O,)``, in the dtype and on the device of ``x``."""
    x = x.detach()
    y = exact_integers(x.cpu(), weight.detach().cpu(), None if bias is None else bias.detach().cpu())
    if x.is_complex():
        y = torch.complex(y[..., 0].double(), y[..., 1].double())
    return y.to(x.dtype).to(x.device)


def gradients_of(
    trial: Trial, call: Call, grad: Tensor, condition: str = "", *, result: Tensor | None = None
) -> Tensors:
    """Gradients of input, weight and bias of one call, for an incoming gradient ``(rows, O)``.

    They come back in the shapes ``(rows, n)``, ``(O, n)`` and ``(O,)``; ``grad`` reaches autograd with its own strides.
    Nothing comes back where torch refuses the call, or would damage memory, for a defect that is written down. The
    result computed while gradients are recorded must be ``result``, where that is given.
    """
    leaves = leaves_of(call)
    y = trial.run(replace(call, **leaves), condition)
    if result is not None:
        trial.same(call, y, result, f"while gradients are recorded{condition and ', '}{condition}")
    found = backward(trial, call, y, leaves, grad, condition)
    if not found:
        return ()
    n, outputs = call.weight[0].numel(), call.weight.shape[0]
    return (found[0].reshape(-1, n), found[1].reshape(outputs, n), *found[2:])


def leaves_of(call: Call) -> dict[str, Any]:
    """The tensors of a call by name, each a leaf that records gradients."""
    tensors = {name: getattr(call, name) for name in GRADIENT_NAMES}
    return {name: t.detach().requires_grad_() for name, t in tensors.items() if t is not None}


def backward(trial: Trial, call: Call, y: Tensor, leaves: dict[str, Tensor], grad: Tensor, condition: str) -> Tensors:
    """The gradients of the leaves of a call that gave ``y``; none where a written-down defect of torch forbids it."""
    if trial.is_known_to_corrupt(call, y):
        return ()
    try:
        return torch.autograd.grad(y, [*leaves.values()], grad)
    except Exception as error:
        if trial.is_known_refusal(call, error):
            return ()
        raise raised(error, call, condition=condition, where="in the backward pass") from error


def same_gradients(
    trial: Trial, call: Call, grad: Tensor, wanted: Tensors, condition: str = "", result: Tensor | None = None
) -> None:
    """The gradients of a call must be those that are wanted; see :func:`gradients_of`."""
    found = gradients_of(trial, call, grad, condition, result=result)
    for name, actual, exact in zip(GRADIENT_NAMES, found, wanted, strict=False):
        trial.same(call, actual, exact, condition, gradient=(name, grad))


def exact_gradients(x: Tensor, weight: Tensor, grad: Tensor, *, bias: bool) -> Tensors:
    """What :func:`gradients_of` must give on integers: ``g @ conj(W)``, ``g.T @ conj(x)``, column sums of ``g``."""
    grad = grad.detach().resolve_conj()
    x, weight = x.detach().conj().resolve_conj(), weight.detach().conj().resolve_conj()
    ones = torch.ones(1, grad.shape[0], dtype=grad.dtype, device=grad.device)
    found = (whole(grad, weight.T), whole(grad.T, x.T))
    return (*found, whole(grad.T, ones)[:, 0]) if bias else found


def stays_exact(x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None = None) -> bool:
    """Whether all sums of magnitudes, forward and backward, are within the exact range still.

    A broadcast layout repeats entries, which may put more or larger ones into a sum than the probe was made with.
    """
    if not is_inexact(x.dtype):
        return True
    limit = exact_range(x.dtype, unrounded=True) // (4 if x.dtype.is_complex else 1)
    a, w = _magnitudes(x), _magnitudes(weight)
    sums = [a @ w.T + (0.0 if bias is None else _magnitudes(bias))]
    if grad is not None:
        g = _magnitudes(grad)
        sums += [g @ w, g.T @ a, g.sum(0)]
    return all(s.numel() == 0 or float(s.max()) <= limit for s in sums)


def _magnitudes(t: Tensor) -> Tensor:
    t = t.detach().cpu().resolve_conj().resolve_neg()
    return torch.view_as_real(t).double().abs().sum(-1) if t.is_complex() else t.double().abs()
