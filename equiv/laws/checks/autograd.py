"""What must not matter to gradients: which tensors need them, whether these are leaves, what else is done meanwhile.

Parts of the law about gradients; each gets a call on which the gradients, and how often they are added up, are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from equiv.laws.call import Call, raised
from equiv.laws.checks.expected import GRADIENT_NAMES, Tensors, backward, leaves_of
from equiv.laws.trial import Trial


def some_leaves(trial: Trial, call: Call, exact: Tensors, result: Tensor, grad: Tensor, turn: int) -> None:
    """Kernels take other paths when only some of the gradients are asked for: results and gradients are the same.

    Every second time these are gradients of leaves by way of tensors that are none. Asked for a second time, with the
    incoming gradient negated, they are negated, and those of the first time stay as they were.
    """
    which = 1 + turn % (2 ** len(exact) - 2)  # a bit for each; neither none nor all
    names = [name for bit, name in enumerate(GRADIENT_NAMES) if which >> bit & 1]
    leaves = {name: getattr(call, name).detach().requires_grad_() for name in names}
    through = turn // 6 % 2 == 1
    trial.cover("tensors that need gradients", "results of operations" if through else "leaves")
    given: dict[str, Any] = {name: leaf.clone() if through else leaf for name, leaf in leaves.items()}
    asked = f"asked for {' and '.join(names)} alone{', which are no leaves' if through else ''}"
    y = trial.run(replace(call, **given), asked)
    trial.same(call, y, result, f"while gradients are recorded, {asked}")
    if trial.must_not_go_back(call, y):
        return
    wanted = {name: exact[GRADIENT_NAMES.index(name)] for name in names}
    first = torch.autograd.grad(y, [*leaves.values()], grad, retain_graph=True)
    _same(trial, call, first, wanted, grad, asked)
    second = torch.autograd.grad(y, [*leaves.values()], -grad)
    _same(trial, call, second, {name: -e for name, e in wanted.items()}, -grad, f"{asked} a second time, negated")
    _same(trial, call, first, wanted, grad, f"{asked}, after they were asked for a second time")


def _same(trial: Trial, call: Call, found: Tensors, wanted: dict[str, Tensor], grad: Tensor, condition: str) -> None:
    for gradient, (name, exact) in zip(found, wanted.items(), strict=True):
        trial.same(call, gradient.reshape(exact.shape), exact, condition, gradient=(name, grad))


def around_backward(trial: Trial, call: Call, exact: Tensors, grad: Tensor, turn: int) -> None:
    """One of the conditions below, in turn."""
    name, check = _AROUND[turn % len(_AROUND)]
    trial.cover("around the backward pass", name)
    check(trial, call, exact, grad)


def _changed_in_place(trial: Trial, call: Call, exact: Tensors, grad: Tensor) -> None:
    """Weight and input changed after the forward pass: their gradients are as before, or refused as torch does."""
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves_of(call).items()}
    condition = "after input and weight were changed in place"
    y = trial.run(replace(call, **leaves))
    if trial.must_not_go_back(call, y):
        return
    with torch.no_grad():
        leaves["input"].add_(1)
        leaves["weight"].add_(1)
    try:
        found = torch.autograd.grad(y, [*leaves.values()], grad)
    except RuntimeError as error:
        if isinstance(error, NotImplementedError):
            raise raised(error, call, condition=condition, where="in the backward pass") from error
        return  # a tensor that is needed has been modified: torch's own answer
    _same(trial, call, found, dict(zip(GRADIENT_NAMES, exact, strict=False)), grad, condition)


def _called_twice(trial: Trial, call: Call, exact: Tensors, grad: Tensor) -> None:
    """The backward pass of a call after another call with the same weight."""
    leaves = leaves_of(call)
    y = trial.run(replace(call, **leaves))
    trial.run(replace(call, **{**leaves, "input": -call.input}))
    condition = "after another call with the same weight"
    found = backward(trial, call, y, leaves, grad, condition)
    if found:
        _same(trial, call, found, dict(zip(GRADIENT_NAMES, exact, strict=False)), grad, condition)


def _accumulated(trial: Trial, call: Call, exact: Tensors, grad: Tensor) -> None:
    """``.backward()`` adds to what is in ``.grad``: the second time, with the incoming gradient negated, to zeros."""
    leaves = leaves_of(call)
    y = trial.run(replace(call, **leaves))
    if trial.must_not_go_back(call, y):
        return
    # A copy: torch may keep an incoming gradient as the .grad of the bias, and add to it in place.
    for incoming, factor, times in ((grad.clone(), 1, "once"), (-grad, 0, "twice, the second time negated")):
        condition = f"in .grad after .backward() {times}"
        torch.autograd.backward(y, incoming, retain_graph=factor == 1)
        held = [leaf.grad for leaf in leaves.values()]
        trial.holds(None not in held, call.form, f"leaves a .grad empty, {condition}", call)
        found = tuple(t for t in held if t is not None)
        wanted = dict(zip(GRADIENT_NAMES, (e * factor for e in exact), strict=False))
        _same(trial, call, found, wanted, incoming, condition)


_AROUND: tuple[tuple[str, Callable[[Trial, Call, Tensors, Tensor], None]], ...] = (
    ("tensors changed in place before it", _changed_in_place),
    ("another call before it", _called_twice),
    (".grad accumulated", _accumulated),
)
AROUND = tuple(name for name, _ in _AROUND)
