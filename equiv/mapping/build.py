"""Modules built around parameters that are already there: nothing is drawn, and a source's settings are kept.

Every mapping keeps dtype, device, bias or its absence, ``requires_grad`` of each parameter, and training mode; it draws
no random numbers and leaves its source alone. The result holds contiguous copies, or views with ``share=True``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from equiv.errors import EquivError

_Module = TypeVar("_Module", bound=nn.Module)


def undrawn(kind: type[_Module], *, bias: bool, **sizes: Any) -> _Module:
    """A module as its constructor leaves it, but of other sizes, with parameters on meta that are to be replaced.

    The constructor draws parameters, on meta too, where they have no entries; that takes most of its time.

    Args:
        kind: `nn.Linear`, a convolution or a transposed one.
        bias: Whether it has one.
        sizes: The attributes that say how large it is, ``in_features`` or ``kernel_size`` for example.

    Example:
        >>> undrawn(nn.Linear, bias=False, in_features=3, out_features=2)
        Linear(in_features=3, out_features=2, bias=False)
    """
    module = kind.__new__(kind)
    state, own = _constructed(cast(Any, kind), bias)
    held = module.__dict__
    held.update(state)
    for name, value in own:
        held[name] = value.copy()
    held.update(sizes)
    return module


@cache
def _constructed(kind: Any, bias: bool) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """The attributes of a module of sizes 1, and which of them (its hooks and parameters) each must have to itself."""
    ones = (1, 1) if kind is nn.Linear else (1, 1, 1)
    state = vars(kind(*ones, bias=bias, device="meta", dtype=torch.float32))
    return state, tuple((name, value) for name, value in state.items() if isinstance(value, (dict, set, list)))


def dressed(module: _Module, weight: Tensor, bias: Tensor | None, source: Any) -> _Module:
    """Give a module built on meta its parameters, and the source's ``requires_grad`` and training mode."""
    held = module._parameters  # setting attributes takes three times as long, for checks that hold here
    held["weight"] = _parameter(weight, source.weight.requires_grad)
    if bias is not None and source.bias is not None:
        held["bias"] = _parameter(bias, source.bias.requires_grad)
    module.training = source.training
    return module


def _parameter(data: Tensor, requires_grad: bool) -> nn.Parameter:
    if data.is_inference() == torch.is_inference_mode_enabled():
        return nn.Parameter(data, requires_grad=requires_grad)
    with torch.inference_mode(data.is_inference()):  # a view of an inference tensor may require grad in there only
        return nn.Parameter(data, requires_grad=requires_grad)


def rearranged(source: Tensor, shape: tuple[int, ...], share: bool, name: str) -> Tensor:
    """The same entries, in the same order, in another shape: a view, or a contiguous copy."""
    if share and not torch.is_inference_mode_enabled():
        return viewed(source.detach(), shape, name)
    with torch.inference_mode(False), torch.no_grad():
        source = source.detach()
        if share:
            return viewed(source, shape, name)
        copy = source.new_empty(shape)
        copy.view(source.shape).copy_(source)
        return copy


def viewed(source: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """The same memory in another shape."""
    try:
        return source.view(shape)
    except RuntimeError as error:
        raise EquivError(
            f"share: expected False for a {name} that cannot be flattened in place, got True with strides "
            f"{source.stride()} for shape {tuple(source.shape)}; pass share=False, or make the weight contiguous"
        ) from error


@torch.inference_mode(False)
@torch.no_grad()
def repeated(bias: Tensor, positions: int) -> Tensor:
    """Each entry as many times as there are positions, in a row."""
    copy = bias.detach().new_empty((len(bias), positions))
    copy.copy_(bias.detach()[:, None])
    return copy.view(-1)
