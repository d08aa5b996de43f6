"""How a mistake takes the place of one of equiv's mappings, and what it does to the module that they make.

Functions of ``equiv.mapping`` are replaced in every loaded module that holds them: in the laws, in the public
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

Right = Callable[..., Any]
Mistake = Callable[..., Any]  # of the right function and its arguments

FULL, POINTWISE, BACK = "linear_to_full_conv", "linear_to_pointwise_conv", "conv_to_linear"


@contextmanager
def mapping_replaced(wrong: Mistake, *names: str) -> Iterator[None]:
    """``wrong`` in the place of these functions of :mod:`equiv.mapping`, wherever they are bound."""
    rights = [getattr(mapping, name) for name in names]
    pairs = [(right, functools.wraps(right)(partial(wrong, right))) for right in rights]
    try:
        for right, replacement in pairs:
            _rebind(right, replacement)
        yield
    finally:
        for right, replacement in pairs:
            _rebind(replacement, right)


def _rebind(old: object, new: object) -> None:
    for module in list(sys.modules.values()):
        held = getattr(module, "__dict__", None)
        if isinstance(held, dict):
            for name in [name for name, value in list(held.items()) if value is old]:
                held[name] = new


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


def changed(change: Callable[[Any], Any]) -> Mistake:
    """The right module, changed."""
    return lambda right, *args, **options: change(right(*args, **options))


def weights(change: Callable[[Tensor], Tensor]) -> Mistake:
    """The right module with another weight."""
    return changed(lambda module: with_weight(module, change))


def biases(change: Callable[[Tensor], Tensor | None]) -> Mistake:
    """The right module with another bias."""
    return changed(lambda module: with_bias(module, change))


def everything(change: Callable[[Tensor], Tensor]) -> Mistake:
    """The right module with another weight and another bias."""
    return changed(lambda module: with_bias(with_weight(module, change), change))
