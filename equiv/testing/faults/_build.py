"""Faults written as a condition and a wrong kernel, or as a condition and a wrong gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults._kernel import Kernel, KernelCall, applied, instead
from equiv.testing.faults._registry import register

When = Callable[[KernelCall], bool]
Incoming = Callable[[KernelCall, Tensor], bool]
_ROLES = {"x": "the input", "weight": "the weight", "bias": "the bias"}


def kernel_fault(
    name: str,
    title: str,
    *,
    when: When,
    wrong: Kernel,
    source: str,
    dimension: str,
    laws: tuple[str, ...],
    kind: str = "kernel",
    profile: str = "dev",
    dtypes: tuple[str, ...] = ("float32",),
    traced: bool = False,
) -> None:
    """Calls for which ``when`` holds get ``wrong``; all others are passed on as they are."""

    def kernel(c: KernelCall) -> Tensor:
        return wrong(c) if when(c) else c.run()

    register(
        name,
        title,
        partial(instead, kernel, traced=traced),
        source=source,
        kind=kind,
        dimension=dimension,
        laws=laws,
        profile=profile,
        dtypes=dtypes,
    )


def stateful_fault(
    name: str,
    title: str,
    *,
    make: Callable[[], Kernel],
    source: str,
    dimension: str,
    laws: tuple[str, ...],
    kind: str = "effect",
    profile: str = "dev",
    dtypes: tuple[str, ...] = ("float32",),
) -> None:
    """A kernel with a memory, made anew each time that the fault is applied."""
    register(
        name,
        title,
        lambda: instead(make()),
        source=source,
        kind=kind,
        dimension=dimension,
        laws=laws,
        profile=profile,
        dtypes=dtypes,
    )


class _Watched(torch.autograd.Function):
    """The identity, whose gradient passes through a function."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.change(grads[0]), None


def watched(t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``t``, whose gradient becomes ``change`` of it."""
    return applied(_Watched, t, change)


def gradient_fault(
    name: str,
    title: str,
    *,
    of: str,
    when: When,
    incoming: Callable[[Tensor], bool] = lambda _: True,
    wrong: Callable[[Tensor], Tensor],
    source: str,
    dimension: str,
    laws: tuple[str, ...] = ("gradients", "layout", "boundaries", "free_parameters"),
    profile: str = "dev",
    dtypes: tuple[str, ...] = ("float32",),
) -> None:
    """The gradient of ``of`` is ``wrong`` of the right one, for calls and incoming gradients that meet a condition.

    Args:
        name: Of the fault.
        title: Its sentence.
        of: ``x``, ``weight`` or ``bias``.
        when: Which calls.
        incoming: Which gradients of the result, by how they lie in memory.
        wrong: From the right gradient to the wrong one.
        source: Of the fault.
        dimension: Of its condition.
        laws: That must tell.
        profile: In which they must.
        dtypes: In which it shows.
    """
    assert of in _ROLES, of

    def kernel(c: KernelCall) -> Tensor:
        leaf: Tensor | None = getattr(c, of)
        if leaf is None or not torch.is_grad_enabled() or not leaf.requires_grad or not when(c):
            return c.run()
        met = False

        def seen(grad: Tensor) -> Tensor:
            nonlocal met
            met = incoming(grad)
            return grad

        changed = watched(leaf, lambda grad: wrong(grad) if met else grad)
        return watched(c.run(**{of: changed}), seen)

    register(
        name,
        title,
        partial(instead, kernel),
        source=source,
        kind="gradient",
        dimension=dimension,
        laws=laws,
        profile=profile,
        dtypes=dtypes,
    )
