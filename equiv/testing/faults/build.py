"""How a fault is written: a condition with a wrong kernel or a wrong gradient, or a kernel that remembers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.kernel import Kernel, KernelCall, instead
from equiv.testing.faults.registry import Applied
from equiv.testing.faults.tools import watched

Condition = Callable[[KernelCall], bool]


def where(condition: Condition, wrong: Kernel, *, traced: bool = False) -> Applied:
    """Calls for which the condition holds get ``wrong``; all others are passed on as they are.

    ``traced``: also where torch traces a program or wraps its tensors; see :func:`instead`.
    """

    def kernel(c: KernelCall) -> Tensor:
        return wrong(c) if condition(c) else c.run()

    return partial(instead, kernel, traced=traced)


def stateful(kernel: Callable[[KernelCall, dict[Any, Any]], Tensor]) -> Applied:
    """A kernel that remembers earlier calls in a dictionary, empty each time that the fault is applied."""

    def applied() -> AbstractContextManager[None]:
        memory: dict[Any, Any] = {}
        return instead(lambda c: kernel(c, memory))

    return applied


def gradient(
    of: str, condition: Condition, wrong: Callable[[Tensor], Tensor], incoming: Callable[[Tensor], bool] | None = None
) -> Applied:
    """The gradient of ``of`` is ``wrong`` of the right one, for calls and incoming gradients that meet a condition.

    Args:
        of: ``x``, ``weight`` or ``bias``.
        condition: Which calls.
        wrong: From the right gradient to the wrong one.
        incoming: Which gradients of the result, by how they lie in memory; None for all.
    """
    assert of in ("x", "weight", "bias"), of

    def kernel(c: KernelCall) -> Tensor:
        leaf: Tensor | None = getattr(c, of)
        if leaf is None or not torch.is_grad_enabled() or not leaf.requires_grad or not condition(c):
            return c.run()
        met = False

        def seen(grad: Tensor) -> Tensor:
            nonlocal met
            met = incoming is None or incoming(grad)
            return grad

        changed = watched(leaf, lambda grad: wrong(grad) if met else grad)
        return watched(c.run(**{of: changed}), seen)

    return partial(instead, kernel)
