"""The law about gradients, first and second order."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.common import (
    GRADIENT_NAMES,
    exact_cases,
    exact_gradients,
    gradients_of,
    integer_grad,
    rows_of,
    stays_exact,
    whole,
)
from equiv.laws.registry import Context, law
from equiv.laws.trial import Call, Trial
from equiv.numerics import Reference
from equiv.strategies import Case

_SMALL = 2**13  # terms: references of three gradients in double-double for float64


def _draw(context: Context) -> SearchStrategy[Case]:
    return exact_cases(context, gradients=True)


@law(7, "gradients", draw=_draw, kinds=("float", "complex"))
def gradients(trial: Trial, case: Case) -> None:
    """Gradients agree through the mapping, to second order, and for broadcast incoming gradients."""
    rows, outputs = math.prod(case.batch_shape), case.weight.shape[0]
    x = rows_of(case)
    grad = integer_grad(case, rows)
    result = whole(x, case.weight, case.bias)
    ones = torch.ones((), dtype=case.dtype, device=case.device).expand(rows, outputs)  # what y.sum() sends back
    for form in trial.forms:
        call = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        for incoming, words in ((grad, "for an incoming gradient of -1, 0, 1"), (ones, "of y.sum()")):
            if incoming is ones and not stays_exact(x, case.weight, case.bias, ones):
                continue
            expected = exact_gradients(x, case.weight, incoming, bias=case.bias is not None)
            found = gradients_of(trial, call, incoming, note=words, result=result)
            for name, a, e in zip(GRADIENT_NAMES, found, expected, strict=False):
                trial.same(call, a, e, note=f"gradient of the {name} {words}", gradient=(name, incoming))
        _one_leaf_at_a_time(trial, call, x, case, grad)
        _second_order(trial, call, x, case, grad)
        if form != "linear" and rows:
            # Without a batch dimension kernels take another path back.
            one = replace(call, input=call.input[0])
            wanted = exact_gradients(x[:1], case.weight, grad[:1], bias=case.bias is not None)
            found = gradients_of(trial, one, grad[:1], note="without a batch dimension", result=result[:1])
            for name, a, e in zip(GRADIENT_NAMES, found, wanted, strict=False):
                note = f"gradient of the {name} without a batch dimension"
                trial.same(one, a, e, note=note, gradient=(name, grad[:1]))
    if case.x.numel() * outputs <= _SMALL:
        _on_ordinary_values(trial, case, rows)


def _one_leaf_at_a_time(trial: Trial, call: Call, x: Tensor, case: Case, grad: Tensor) -> None:
    """Kernels take other paths when only some of the gradients are asked for."""
    expected = exact_gradients(x, case.weight, grad, bias=case.bias is not None)
    which = case.seed % len(expected)
    name = GRADIENT_NAMES[which]
    leaf = getattr(call, name).detach().requires_grad_()
    y = trial.run(replace(call, **{name: leaf}))
    (found,) = torch.autograd.grad(y, leaf, grad)
    trial.same(
        call,
        found.reshape(expected[which].shape),
        expected[which],
        note=f"gradient of the {name} alone",
        gradient=(name, grad),
    )


def _second_order(trial: Trial, call: Call, x: Tensor, case: Case, grad: Tensor) -> None:
    """The layer is bilinear: with ``L = <grad_x, v>``, dL/dW = g.T @ v and dL/dg = v @ W.T (real dtypes).

    ``v`` is the sign of the input, so that the sums stay as small as those of the probe and exact.
    """
    if case.dtype.is_complex or len(x) == 0:
        return
    leaf_x, leaf_w = call.input.detach().requires_grad_(), call.weight.detach().requires_grad_()
    leaf_g = grad.detach().requires_grad_()
    y = trial.run(replace(call, input=leaf_x, weight=leaf_w))
    (grad_x,) = torch.autograd.grad(y, leaf_x, leaf_g, create_graph=True)
    v = call.input.detach().sign()
    grad_w, grad_g = torch.autograd.grad(grad_x, (leaf_w, leaf_g), v)
    flat_v = v.reshape(x.shape)
    note = "second order: the derivative of <grad of input, sign of input> with respect to the"
    trial.same(
        call,
        grad_w.reshape(case.weight.shape),
        whole(grad.T, flat_v.T),
        note=f"{note} weight",
        gradient=("weight again", grad),
    )
    trial.same(call, grad_g, whole(flat_v, case.weight), note=f"{note} incoming gradient", gradient=("incoming", grad))


def _on_ordinary_values(trial: Trial, case: Case, rows: int) -> None:
    """The same on normal values, in the envelopes of the three sums."""
    generator = torch.Generator().manual_seed(case.seed % 2**63)
    parts = torch.float64 if case.dtype in (torch.float64, torch.complex128) else torch.float32
    wide = (torch.complex128 if parts == torch.float64 else torch.complex64) if case.dtype.is_complex else parts

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=wide).to(case.dtype).to(case.device)

    outputs, n = case.weight.shape
    x, weight, grad = normal(rows, n), normal(outputs, n), normal(rows, outputs)
    conj_x, conj_w = x.conj().resolve_conj(), weight.conj().resolve_conj()
    references = (
        ("grad_input", Reference(grad.cpu(), conj_w.T.contiguous().cpu(), gradient=True)),
        ("grad_weight", Reference(grad.T.contiguous().cpu(), conj_x.T.contiguous().cpu(), gradient=True)),
    )
    for form in trial.forms:
        call = trial.arrange(form, x, weight, None, case.feature_shape)
        for found, (op, reference) in zip(gradients_of(trial, call, grad), references, strict=False):
            trial.judge(
                call, found, reference, op=op, note=f"{op.replace('grad_', 'gradient of the ')} on normal values"
            )
