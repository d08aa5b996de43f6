"""The law about gradients, first and second order."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.common import (
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
from equiv.laws.trial import Trial
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
        _some_leaves(trial, call, x, case, grad)
        _scaled_and_special(trial, call, x, case, grad)
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


def _some_leaves(trial: Trial, call: Call, x: Tensor, case: Case, grad: Tensor) -> None:
    """Kernels take other paths when only some of the gradients are asked for; asked twice, they are the same."""
    expected = exact_gradients(x, case.weight, grad, bias=case.bias is not None)
    which = 1 + case.seed % (2 ** len(expected) - 2)  # a bit for each; neither none nor all
    names = [name for bit, name in enumerate(GRADIENT_NAMES) if which >> bit & 1]
    leaves = {name: getattr(call, name).detach().requires_grad_() for name in names}
    y = trial.run(replace(call, **leaves))
    for again in ("", ", asked for once more"):
        found = torch.autograd.grad(y, [*leaves.values()], grad, retain_graph=True)
        for name, gradient in zip(names, found, strict=True):
            wanted = expected[GRADIENT_NAMES.index(name)]
            note = f"gradient of {' and '.join(names)} alone{again}: that of the {name}"
            trial.same(call, gradient.reshape(wanted.shape), wanted, note=note, gradient=(name, grad))


def _scaled_and_special(trial: Trial, call: Call, x: Tensor, case: Case, grad: Tensor) -> None:
    """An incoming gradient times a power of two multiplies all gradients; a NaN in it reaches its row and output."""
    if not len(x) or not case.dtype.is_floating_point:
        return
    expected = exact_gradients(x, case.weight, grad, bias=case.bias is not None)
    factor = 2.0 ** ((-8, 2) if case.dtype == torch.float16 else (-40, 40))[case.seed % 2]
    safe = [wanted.abs().max() * factor < torch.finfo(case.dtype).max for wanted in expected if wanted.numel()]
    if all(safe):
        incoming = grad * factor
        found = gradients_of(trial, call, incoming, note=f"incoming gradient times {factor:g}")
        for name, a, e in zip(GRADIENT_NAMES, found, expected, strict=False):
            note = f"gradient of the {name} for an incoming gradient times {factor:g}"
            trial.same(call, a, e * factor, note=note, gradient=(name, incoming))
    row, output = case.seed % len(x), case.seed % case.weight.shape[0]
    incoming = grad.clone()
    incoming[row, output] = torch.nan
    found = gradients_of(trial, call, incoming, note="NaN in the incoming gradient")
    for name, a, e in zip(GRADIENT_NAMES, found, expected, strict=False):
        wanted = e.clone()
        wanted[row if name == "input" else output] = torch.nan
        note = f"gradient of the {name} for a NaN in the incoming gradient at {[row, output]}"
        trial.same(call, a, wanted, note=note, gradient=(name, incoming))


def _second_order(trial: Trial, call: Call, x: Tensor, case: Case, grad: Tensor) -> None:
    """The layer is bilinear: with ``L = <grad_x, v>``, dL/dW = g.T @ conj(v) and dL/dg = v @ W.T.

    With ``L = <grad_W, u>``, dL/dx = g @ conj(u) and dL/dg = x @ u.T. ``v`` and ``u`` are the signs of the (real parts
    of the) input and the weight, so that the sums stay as small as those of the probe and exact.
    """
    if len(x) == 0:
        return
    names = GRADIENT_NAMES[: 2 + (call.bias is not None and case.seed % 2)]
    leaves = {name: getattr(call, name).detach().requires_grad_() for name in names}
    leaf_g = grad.detach().requires_grad_()
    y = trial.run(replace(call, **leaves))
    through = GRADIENT_NAMES[case.seed // 2 % 2]
    other = "weight" if through == "input" else "input"
    (first,) = torch.autograd.grad(y, leaves[through], leaf_g, create_graph=True)
    v = _signs(getattr(call, through))
    again, incoming = torch.autograd.grad(first, (leaves[other], leaf_g), v)
    conj_v = v.conj().resolve_conj()
    if through == "input":
        flat_v = v.reshape(x.shape)
        wanted, wanted_g = whole(grad.T, conj_v.reshape(x.shape).T), whole(flat_v, case.weight)
    else:
        flat_v = v.reshape(case.weight.shape)
        wanted, wanted_g = whole(grad, conj_v.reshape(case.weight.shape).T), whole(x, flat_v)
    note = f"second order: the derivative of <grad of {through}, sign of {through}> with respect to the"
    trial.same(call, again.reshape(wanted.shape), wanted, note=f"{note} {other}", gradient=(f"{other} again", grad))
    trial.same(call, incoming, wanted_g, note=f"{note} incoming gradient", gradient=("incoming", grad))


def _signs(t: Tensor) -> Tensor:
    t = t.detach().resolve_conj()
    return torch.complex(t.real.sign(), torch.zeros_like(t.real)) if t.is_complex() else t.sign()


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
