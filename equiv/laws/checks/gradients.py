"""The law about gradients, first and second order."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.drawing import exact_cases, generator_of, integer_grad, rows_of
from equiv.laws.checks.expected import (
    GRADIENT_NAMES,
    exact_gradients,
    goes_back,
    gradients_of,
    reference_of,
    same_gradients,
    stays_exact,
    whole,
)
from equiv.laws.reach import Reach, leaves, sizes
from equiv.laws.registry import law
from equiv.laws.trial import Trial
from equiv.strategies import Case

_SMALL = 2**13  # terms: references of three gradients in double-double for float64


_JUDGED = tuple(f"{name} exactly" for name in GRADIENT_NAMES)
_TWICE = ("input again exactly", "weight again exactly", "incoming exactly")
_REACHES = (
    leaves(
        "input", "weight", "bias", "input and weight", "input and bias", "weight and bias", "input, weight and bias"
    ),
    Reach("gradients judged", (*_JUDGED, "input by its envelope", "weight by its envelope"), needs=("gradient_order",)),
    Reach("gradients judged", _TWICE, needs=("gradient_order",)),
    sizes("samples", least=1),
    sizes("channels"),
    sizes("kernel"),
)


@law(7, "gradients", draw=partial(exact_cases, backward=True), kinds=("float", "complex"), reaches=_REACHES)
def gradients(trial: Trial, case: Case) -> None:
    """Gradients of all forms agree, to second order, and also for broadcast incoming gradients."""
    if not goes_back(trial):
        return
    x, grad = rows_of(case), integer_grad(case)
    result = whole(x, case.weight, case.bias)
    exact = exact_gradients(x, case.weight, grad, bias=case.bias is not None)
    ones = torch.ones((), dtype=case.dtype, device=case.device).expand(result.shape)  # what y.sum() sends back
    of_sum = None
    if stays_exact(x, case.weight, case.bias, ones):
        of_sum = exact_gradients(x, case.weight, ones, bias=case.bias is not None)
    for call in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        if not goes_back(trial, call.form):
            continue
        same_gradients(trial, call, grad, exact, "for an incoming gradient of -1, 0, 1", result=result)
        if of_sum is not None:
            same_gradients(trial, call, ones, of_sum, "of y.sum()", result=result)
        _some_leaves(trial, call, exact, case, grad)
        _scaled_and_special(trial, call, exact, case, grad)
        if goes_back(trial, call.form, order=2):
            _second_order(trial, call, x, case, grad)
        if call.form != "linear" and len(x):
            # Without a batch dimension kernels take another path back.
            one = replace(call, input=call.input[0])
            wanted = exact_gradients(x[:1], case.weight, grad[:1], bias=case.bias is not None)
            same_gradients(trial, one, grad[:1], wanted, "without a batch dimension", result=result[:1])
    if case.x.numel() * case.weight.shape[0] <= _SMALL:
        _on_ordinary_values(trial, case)


def _some_leaves(trial: Trial, call: Call, expected: tuple[Tensor, ...], case: Case, grad: Tensor) -> None:
    """Kernels take other paths when only some of the gradients are asked for; asked twice, they are the same."""
    which = 1 + case.seed % (2 ** len(expected) - 2)  # a bit for each; neither none nor all
    names = [name for bit, name in enumerate(GRADIENT_NAMES) if which >> bit & 1]
    leaves = {name: getattr(call, name).detach().requires_grad_() for name in names}
    y = trial.run(replace(call, **leaves))
    for again in ("", " a second time"):
        found = torch.autograd.grad(y, [*leaves.values()], grad, retain_graph=True)
        for name, gradient in zip(names, found, strict=True):
            wanted = expected[GRADIENT_NAMES.index(name)]
            condition = f"asked for {' and '.join(names)} alone{again}"
            trial.same(call, gradient.reshape(wanted.shape), wanted, condition, gradient=(name, grad))


def _scaled_and_special(trial: Trial, call: Call, expected: tuple[Tensor, ...], case: Case, grad: Tensor) -> None:
    """An incoming gradient times a power of two multiplies all gradients; a NaN in it reaches its row and output."""
    if not len(grad) or not case.dtype.is_floating_point:
        return
    factor = 2.0 ** ((-8, 2) if case.dtype == torch.float16 else (-40, 40))[case.seed % 2]
    safe = [wanted.abs().max() * factor < torch.finfo(case.dtype).max for wanted in expected if wanted.numel()]
    if all(safe):
        scaled = tuple(e * factor for e in expected)
        same_gradients(trial, call, grad * factor, scaled, f"for an incoming gradient times {factor:g}")
    row, output = case.seed % len(grad), case.seed % case.weight.shape[0]
    incoming = grad.clone()
    incoming[row, output] = torch.nan
    with_nan = tuple(e.clone() for e in expected)
    for name, e in zip(GRADIENT_NAMES, with_nan, strict=False):
        e[row if name == "input" else output] = torch.nan
    same_gradients(trial, call, incoming, with_nan, f"for a NaN in the incoming gradient at {[row, output]}")


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
    condition = f"second order: the derivative of <gradient of the {through}, its signs> with respect to the"
    trial.same(call, again.reshape(wanted.shape), wanted, f"{condition} {other}", gradient=(f"{other} again", grad))
    trial.same(call, incoming, wanted_g, f"{condition} incoming gradient", gradient=("incoming", grad))


def _signs(t: Tensor) -> Tensor:
    t = t.detach().resolve_conj()
    return torch.complex(t.real.sign(), torch.zeros_like(t.real)) if t.is_complex() else t.sign()


def _on_ordinary_values(trial: Trial, case: Case) -> None:
    """Gradients of input and weight on normal values lie in the envelopes of their sums."""
    generator = generator_of(case)
    parts = torch.float64 if case.dtype in (torch.float64, torch.complex128) else torch.float32
    wide = (torch.complex128 if parts == torch.float64 else torch.complex64) if case.dtype.is_complex else parts

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=wide).to(case.dtype).to(case.device)

    rows, (outputs, n) = len(rows_of(case)), case.weight.shape
    x, weight, grad = normal(rows, n), normal(outputs, n), normal(rows, outputs)
    conj_x, conj_w = x.conj().resolve_conj(), weight.conj().resolve_conj()
    references = {
        "input": reference_of(grad, conj_w.T.contiguous()),
        "weight": reference_of(grad.T.contiguous(), conj_x.T.contiguous()),
    }
    for call in trial.calls(x, weight, None, case.feature_shape):
        for found, (name, reference) in zip(gradients_of(trial, call, grad), references.items(), strict=False):
            trial.judge(call, found, reference, f"gradient of the {name} on normal values", gradient=name)
