"""The law about gradients, first and second order."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.autograd import AROUND, around_backward, some_leaves
from equiv.laws.checks.drawing import exact_cases, generator_of, integer_grad, rows_of
from equiv.laws.checks.expected import (
    GRADIENT_NAMES,
    exact_gradients,
    goes_back,
    grad_as_taken,
    gradients_of,
    integers_like,
    largest_exact,
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
    Reach(
        "gradient probe", tuple(f"large integers in the {name}" for name in ("input", "weight", "incoming gradient"))
    ),
    Reach("tensors that need gradients", ("leaves", "results of operations")),
    Reach("around the backward pass", AROUND),
    sizes("samples", least=1),
    sizes("channels"),
    sizes("kernel"),
)


@law(7, "gradients", draw=partial(exact_cases, backward=True), kinds=("float", "complex"), reaches=_REACHES)
def gradients(trial: Trial, case: Case) -> None:
    """Gradients of all forms agree, to second order, and also for broadcast incoming gradients.

    Integers as large as all sums allow take turns as input, weight and incoming gradient: no bit of them may be lost.
    Whatever tensors need gradients, whether they are leaves, and what else autograd is asked meanwhile changes nothing.
    """
    if not goes_back(trial):
        return
    large, x, weight, bias, grad = _probe(case)
    trial.cover("gradient probe", f"large integers in the {large}" if large else "integers as drawn")
    rows = x.reshape(-1, weight.shape[1])
    result = whole(rows, weight, bias)
    exact = exact_gradients(rows, weight, grad, bias=bias is not None)
    ones = torch.ones((), dtype=case.dtype, device=case.device).expand(result.shape)  # what y.sum() sends back
    of_sum = None
    if stays_exact(rows, weight, bias, ones):
        of_sum = exact_gradients(rows, weight, ones, bias=bias is not None)
    for turn, call in enumerate(trial.calls(x, weight, bias, case.feature_shape), case.seed // 4):
        if not goes_back(trial, call.form):
            continue
        same_gradients(trial, call, grad, exact, "for an incoming gradient of integers", result=result)
        if of_sum is not None:
            same_gradients(trial, call, ones, of_sum, "of y.sum()", result=result)
        some_leaves(trial, call, exact, result, grad, turn)
        if len(rows) and not (case.dtype.is_complex and turn % 2):  # which cost more
            around_backward(trial, call, exact, grad, turn)
        _scaled_and_special(trial, call, exact, case, grad, turn)
        if goes_back(trial, call.form, order=2):
            _second_order(trial, call, rows, weight, case.seed, grad, large)
        if call.form != "linear" and len(rows):
            # Without a batch dimension kernels take another path back.
            one = replace(call, input=call.input[0])
            wanted = exact_gradients(rows[:1], weight, grad[:1], bias=bias is not None)
            same_gradients(trial, one, grad[:1], wanted, "without a batch dimension", result=result[:1])
    if case.x.numel() * case.weight.shape[0] <= _SMALL:
        _on_ordinary_values(trial, case)


def _probe(case: Case) -> tuple[str, Tensor, Tensor, Tensor | None, Tensor]:
    """Which tensor holds large integers, then input, weight, bias and incoming gradient.

    The others are signs, so that all sums of the three gradients and of the result stay exact. A case of the first
    kind is as drawn, with an incoming gradient of -1, 0, 1; so is one that leaves no room for more.
    """
    x, weight, bias, grad = case.x, case.weight, case.bias, integer_grad(case)
    large = ("", "incoming gradient", "input", "weight")[case.seed % 4]
    if not large:
        return large, x, weight, bias, grad
    outputs, n = weight.shape
    longest = max(outputs, len(grad), 0 if large == "incoming gradient" else n)  # terms; a bias is one more
    largest = largest_exact(case.dtype) // (longest + 1)
    if largest < 2:
        return "", x, weight, bias, grad
    generator = generator_of(case, 29)

    def of(name: str, t: Tensor) -> Tensor:
        return integers_like(t, largest, generator) if name == large else _both_signs(t)

    bias = None if bias is None else _both_signs(bias)
    return large, of("input", x), of("weight", weight), bias, of("incoming gradient", grad)


def _scaled_and_special(
    trial: Trial, call: Call, expected: tuple[Tensor, ...], case: Case, grad: Tensor, turn: int
) -> None:
    """An incoming gradient times a power of two multiplies all gradients; NaN and infinities reach what they should."""
    if not len(grad) or not case.dtype.is_floating_point:
        return
    if turn % 3 == 0:
        factor = 2.0 ** ((-8, 2) if case.dtype == torch.float16 else (-40, 40))[turn // 3 % 2]
        safe = [wanted.abs().max() * factor < torch.finfo(case.dtype).max for wanted in expected if wanted.numel()]
        if all(safe):
            scaled = tuple(e * factor for e in expected)
            same_gradients(trial, call, grad * factor, scaled, f"for an incoming gradient times {factor:g}")
        return
    row, output = case.seed % len(grad), case.seed % case.weight.shape[0]
    if turn % 3 == 2 and case.dtype.itemsize > 2:  # docs/findings/infinity-spreads-in-bfloat16-conv.md, also float16
        _one_infinity(trial, call, expected, grad, (row, output, case.seed % case.weight.shape[1]), turn // 3)
        return
    incoming = grad.clone()
    incoming[row, output] = torch.nan
    with_nan = tuple(e.clone() for e in expected)
    for name, e in zip(GRADIENT_NAMES, with_nan, strict=False):
        e[row if name == "input" else output] = torch.nan
    same_gradients(trial, call, incoming, with_nan, f"for a NaN in the incoming gradient at {[row, output]}")


def _one_infinity(
    trial: Trial, call: Call, expected: tuple[Tensor, ...], grad: Tensor, place: tuple[int, int, int], turn: int
) -> None:
    """An infinity reaches the gradients that it is part of, and no others.

    Times zero it is NaN, else an infinity; NaN will do for it too, since compensated sums subtract what they add.
    """
    name = ("input", "weight", "incoming gradient")[turn % 3]
    row, output, feature = place
    wanted = tuple(e.clone() for e in expected)
    rows, weight = call.input.reshape(len(grad), -1), call.weight.flatten(1)
    if name == "incoming gradient":
        grad = grad.clone()
        grad[row, output] = torch.inf
        wanted[0][row] = torch.inf * weight[output]
        wanted[1][output] = torch.inf * rows[row]
        if len(wanted) > 2:
            wanted[2][output] = torch.inf
    else:
        changed = getattr(call, name).clone()
        entries = changed.view(rows.shape if name == "input" else weight.shape)
        entries[row if name == "input" else output, feature] = torch.inf
        call = replace(call, **{name: changed})
        if name == "input":
            wanted[1][:, feature] = torch.inf * grad[row]
        else:
            wanted[0][:, feature] = torch.inf * grad[:, output]
    condition, grad = f"with an infinity in the {name}", grad_as_taken(trial, call.form, grad)
    for which, actual, exact in zip(GRADIENT_NAMES, gradients_of(trial, call, grad, condition), wanted, strict=False):
        unbounded = ~(exact.isfinite() | actual.isfinite())
        trial.same(call, torch.where(unbounded, exact, actual), exact, condition, gradient=(which, grad))


def _second_order(trial: Trial, call: Call, x: Tensor, weight: Tensor, seed: int, grad: Tensor, large: str) -> None:
    """The layer is bilinear: with ``L = <grad_x, v>``, dL/dW = g.T @ conj(v) and dL/dg = v @ W.T.

    With ``L = <grad_W, u>``, dL/dx = g @ conj(u) and dL/dg = x @ u.T. ``v`` and ``u`` are the signs of the (real parts
    of the) input and the weight, so that the sums stay as small as those of the probe and exact; or, where these hold
    the large integers of the probe, the input and the weight themselves.
    """
    if len(x) == 0:
        return
    names = GRADIENT_NAMES[: 2 + (call.bias is not None and seed // 4 % 2)]
    leaves = {name: getattr(call, name).detach().requires_grad_() for name in names}
    leaf_g = grad.detach().requires_grad_()
    y = trial.run(replace(call, **leaves))
    if trial.must_not_go_back(call, y):
        return
    through = GRADIENT_NAMES[seed // 8 % 2]
    other = "weight" if through == "input" else "input"
    (first,) = torch.autograd.grad(y, leaves[through], leaf_g, create_graph=True)
    v = getattr(call, through)
    v = v.detach() if large == through else _signs(v)
    again, incoming = torch.autograd.grad(first, (leaves[other], leaf_g), v)
    conj_v = v.conj().resolve_conj()
    if through == "input":
        flat_v = v.reshape(x.shape)
        wanted, wanted_g = whole(grad.T, conj_v.reshape(x.shape).T), whole(flat_v, weight)
    else:
        flat_v = v.reshape(weight.shape)
        wanted, wanted_g = whole(grad, conj_v.reshape(weight.shape).T), whole(x, flat_v)
    condition = f"second order: the derivative of <gradient of the {through}, its signs> with respect to the"
    trial.same(call, again.reshape(wanted.shape), wanted, f"{condition} {other}", gradient=(f"{other} again", grad))
    trial.same(call, incoming, wanted_g, f"{condition} incoming gradient", gradient=("incoming", grad))


def _both_signs(t: Tensor) -> Tensor:
    """Real and imaginary parts replaced by their signs."""
    return torch.complex(t.real.sign(), t.imag.sign()) if t.is_complex() else t.sign()


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
