"""Gradients of any convolution: exact on integers, to second order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from equiv.laws.call import Call
from equiv.laws.checks.expected import GRADIENT_NAMES, backward
from equiv.laws.checks.windows import Windows
from equiv.laws.trial import Trial
from equiv.strategies import Convolution


def gradients(trial: Trial, case: Convolution, call: Call, windows: Windows, condition: str) -> None:
    """Of all leaves, or of some: kernels take other paths back where not all gradients are asked for."""
    grad = windows.incoming(case)
    given = {"input": case.x, "weight": case.weight, "bias": case.bias}
    which = 7 if case.seed % 3 else 1 + case.seed // 4 % 6
    names = [name for bit, name in enumerate(GRADIENT_NAMES) if which >> bit & 1 and given[name] is not None]
    names = names or ["weight"]
    leaves: dict[str, Any] = {name: t.detach().requires_grad_() for name in names if (t := given[name]) is not None}
    y = trial.output(recorded(call, leaves, windows), condition)
    if y.requires_grad:
        expected = windows.result(case.x, case.weight, case.bias)
        trial.same(call, y, expected, f"while gradients are recorded, {condition}")
    wanted = windows.gradients(case.x, case.weight, grad)
    found = backward(trial, call, y, leaves, grad, condition)
    for name, gradient in zip(names, found, strict=False):
        trial.same(call, gradient, wanted[name], condition, gradient=(name, grad))


def recorded(call: Call, leaves: dict[str, Any], windows: Windows) -> Call:
    """The call on leaves; a map that the backend cannot pad is padded while that is recorded."""
    given = dict(leaves)
    if "input" in leaves and call.input.shape != leaves["input"].shape:
        given["input"] = windows.padded(leaves["input"])
    return replace(call, **given)


def second_order(trial: Trial, case: Convolution, call: Call, windows: Windows, condition: str) -> None:
    """A convolution is bilinear: with ``L = <grad_x, v>``, dL/dW is the gradient of the weight on the map ``v``.

    With ``L = <grad_W, u>``, dL/dx is the gradient of the input under the weight ``u``; dL/dg is the result of ``v``
    or ``u``. These are the signs of map and weight: the sums stay as small as those of the first order, and exact.
    """
    grad = windows.incoming(case)
    given = {"input": case.x, "weight": case.weight}
    leaves: dict[str, Any] = {name: t.detach().requires_grad_() for name, t in given.items()}
    leaf_g = grad.detach().requires_grad_()
    through, other = ("input", "weight") if case.seed // 4 % 2 else ("weight", "input")
    y = trial.output(recorded(call, leaves, windows), condition)
    if trial.must_not_go_back(call, y):
        return
    (first,) = torch.autograd.grad(y, leaves[through], leaf_g, create_graph=True)
    signs = given[through].sign()
    again, incoming = torch.autograd.grad(first, (leaves[other], leaf_g), signs)
    x, weight = (signs, case.weight) if through == "input" else (case.x, signs)
    words = f"second order: the derivative of <gradient of the {through}, its signs> with respect to the"
    wanted = windows.gradients(x, weight, grad)[other]
    trial.same(call, again, wanted, f"{words} {other}, {condition}", gradient=(f"{other} again", grad))
    wanted = windows.result(x, weight, None)
    trial.same(call, incoming, wanted, f"{words} incoming gradient, {condition}", gradient=("incoming", grad))
