"""Exact results and gradients in the dtype of a case, and the gradients of a call held against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.laws.call import Broken, Call, raised
from equiv.laws.inputs import changed, copies
from equiv.laws.taken import is_plain, plain
from equiv.laws.trial import Trial
from equiv.numerics import Reference, exact_integers, exact_range

GRADIENT_NAMES = ("input", "weight", "bias")
Tensors = tuple[Tensor, ...]


def reference_of(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Reference:
    """The exact result of ``x @ weight.T + bias``, computed on the CPU."""
    return Reference(x.cpu(), weight.cpu(), None if bias is None else bias.cpu())


def reference_of_call(call: Call) -> Reference:
    """The exact result ``(rows, O)`` of a call whose map is as large as its kernel."""
    _, outputs, n = call.sizes
    return reference_of(plain(call.input).reshape(-1, n), plain(call.weight).reshape(outputs, n), call.bias)


def whole(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of integers ``(N, n)``, ``(O, n)``, ``(O,)``, in the dtype and on the device of ``x``."""
    x = x.detach()
    y = exact_integers(x.cpu(), weight.detach().cpu(), None if bias is None else bias.detach().cpu())
    if x.is_complex():
        y = torch.complex(y[..., 0].double(), y[..., 1].double())
    return y.to(x.dtype).to(x.device)


def goes_back(trial: Trial, form: str = "", order: int = 1) -> bool:
    """Whether a form, or one of them, has gradients of this order to judge."""
    if not is_inexact(trial.dtype):
        return False
    served = [trial.asks("gradient_order", one, wanted=order) for one in ([form] if form else trial.forms)]
    return any(served)  # each is asked: what is left out is noted for each


def grad_as_taken(trial: Trial, form: str, grad: Tensor) -> Tensor:
    """An incoming gradient as the backend takes it: contiguous where it takes nothing else."""
    return grad if is_plain(grad) or trial.asks("layouts", form) else plain(grad)


def gradients_of(
    trial: Trial, call: Call, grad: Tensor, condition: str = "", *, result: Tensor | None = None
) -> Tensors:
    """Gradients of input, weight and bias of one call, for an incoming gradient ``(rows, O)``.

    They come back in the shapes ``(rows, n)``, ``(O, n)`` and ``(O,)``; ``grad`` reaches autograd with its own strides.
    Nothing comes back where the backend serves no such call or has no gradients; or where torch refuses the call, or
    would damage memory, for a defect that is written down. The result computed while gradients are recorded must be
    ``result``, where that is given.
    """
    served = trial.taken(call) if goes_back(trial, call.form) else None
    if served is None:
        return ()
    call = served
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
    if trial.must_not_go_back(call, y):
        return ()
    grad = grad_as_taken(trial, call.form, grad)
    tensors = {**leaves, "incoming gradient": grad}
    before = copies(tensors)
    try:
        found = torch.autograd.grad(y, [*leaves.values()], grad)
    except Exception as error:
        if trial.is_known_refusal(call, error):
            return ()
        raise raised(error, call, condition=condition, where="in the backward pass") from error
    wrong = changed(tensors, before)
    if wrong:
        trial.tally[call.form].count("different")
        raise Broken(f"{wrong}, in the backward pass", form=call.form, call=call, condition=condition, kind="mutation")
    return found


def same_gradients(
    trial: Trial, call: Call, grad: Tensor, wanted: Tensors, condition: str = "", result: Tensor | None = None
) -> None:
    """The gradients of a call must be those that are wanted, if it has some; see :func:`gradients_of`."""
    grad = grad_as_taken(trial, call.form, grad)
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


def largest_exact(dtype: torch.dtype) -> int:
    """The largest magnitude for which no sum of integers is rounded, where their factors are at most 1.

    Such a factor is 1 + i in complex numbers, whose product with a + bi sums up 2 (|a| + |b|).
    """
    return exact_range(dtype, unrounded=True) // (16 if dtype.is_complex else 1)


def integers_like(t: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Integers of at most this magnitude in the shape, dtype and place of a tensor; of complex numbers both parts."""
    shape = (*t.shape, 2) if t.is_complex() else t.shape
    values = torch.randint(-largest, largest + 1, shape, generator=generator).double()
    return (torch.view_as_complex(values) if t.is_complex() else values).to(t.dtype).to(t.device)


def _magnitudes(t: Tensor) -> Tensor:
    t = t.detach().cpu().resolve_conj().resolve_neg()
    return torch.view_as_real(t).double().abs().sum(-1) if t.is_complex() else t.double().abs()
