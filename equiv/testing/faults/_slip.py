"""How a slip takes the place of one of equiv's mappings, and what a slip does to a module.

The five functions of ``equiv.mapping.convert`` are replaced in every loaded module that holds them: in the laws, in the public
face of ``equiv``, in a caller's own module. A name that was bound inside a function before keeps the right one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equiv import mapping
from equiv.testing.faults._registry import register

Right = Callable[..., Any]
Slip = Callable[..., Any]  # of the right function and its arguments

FULL, POINTWISE, BACK = "linear_to_full_conv", "linear_to_pointwise_conv", "conv_to_linear"


@contextmanager
def instead_of(names: tuple[str, ...], slip: Slip) -> Iterator[None]:
    """Put ``slip`` in the place of functions of ``equiv.mapping.convert``, wherever they are bound."""
    before = [(name, getattr(mapping, name)) for name in names]
    wrong = [(right, functools.wraps(right)(partial(slip, right))) for _, right in before]
    try:
        for right, replacement in wrong:
            _rebind(right, replacement)
        yield
    finally:
        for right, replacement in wrong:
            _rebind(replacement, right)


def _rebind(old: object, new: object) -> None:
    for module in list(sys.modules.values()):
        held = getattr(module, "__dict__", None)
        if isinstance(held, dict):
            for name in [name for name, value in list(held.items()) if value is old]:
                held[name] = new


def slip(
    name: str,
    title: str,
    *,
    of: tuple[str, ...],
    wrong: Slip,
    source: str,
    dimension: str,
    laws: tuple[str, ...],
    profile: str = "dev",
    dtypes: tuple[str, ...] = ("float32",),
) -> None:
    register(
        name,
        title,
        partial(instead_of, of, wrong),
        source=source,
        kind="mapping",
        dimension=dimension,
        laws=laws,
        profile=profile,
        dtypes=dtypes,
    )


def with_weight(module: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The module with another weight, of its own memory; itself where nothing changes."""
    weight = change(module.weight.detach())
    if weight.shape == module.weight.shape and torch.equal(weight, module.weight):
        return module
    fresh = weight.clone(memory_format=torch.contiguous_format)
    module.weight = nn.Parameter(fresh, requires_grad=module.weight.requires_grad)
    return module


def with_bias(module: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
    """The module with another bias, of its own memory; None drops it; itself where nothing changes."""
    if module.bias is not None:
        bias = change(module.bias.detach())
        wanted = module.bias.requires_grad
        if bias is not None and torch.equal(bias, module.bias):
            return module
        module.bias = None if bias is None else nn.Parameter(bias.clone(), requires_grad=wanted)
    return module


def weights(change: Callable[[Tensor], Tensor]) -> Slip:
    return lambda right, *args, **options: with_weight(right(*args, **options), change)


def biases(change: Callable[[Tensor], Tensor | None]) -> Slip:
    return lambda right, *args, **options: with_bias(right(*args, **options), change)


def everything(change: Callable[[Tensor], Tensor]) -> Slip:
    return lambda right, *args, **options: with_bias(with_weight(right(*args, **options), change), change)
