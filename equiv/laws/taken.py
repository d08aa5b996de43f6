"""A call as its backend takes it: made contiguous where that is all it takes, or not made at all.

Every call of every law goes through here, so that no law asks for what a backend does not serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from equiv.laws.call import Call

Asks = Callable[..., bool]
"""``Trial.asks``."""


def taken(call: Call, asks: Asks, *, limited: bool) -> Call | None:
    """The call with tensors that the backend takes; None where it serves no such call.

    ``limited`` says that there is a largest size.
    """
    form = call.form
    if form != "linear" and not asks("spatial_ranks", form, wanted=call.dims):
        return None
    if call.input.ndim == call.weight.ndim - 1 and not asks("single_samples", form):
        if form != "linear":
            return None
        call = replace(call, input=call.input[None])  # (n,) is one row
    if call.input.numel() == 0 and not asks("empty_batches", form):
        return None
    asked = {name: any(step != 1 for step in getattr(call, name)) for name in ("stride", "dilation")}
    asked |= {"padding": any(call.padding), "groups": call.groups != 1}
    if not all(asks(name, form) for name, is_asked in asked.items() if is_asked):
        return None
    entries = (call.input.numel(), call.weight.numel(), math.prod(shape_of_result(call))) if limited else (0,)
    if not asks("largest", form, wanted=max(entries)):
        return None
    return _plain_where_needed(call, asks)


def _plain_where_needed(call: Call, asks: Asks) -> Call:
    tensors = [t for t in (call.input, call.weight, call.bias) if t is not None]
    if any(t.is_conj() or t.is_neg() for t in tensors) and not asks("layouts", call.form, wanted="lazy"):
        bias = None if call.bias is None else _resolved(call.bias)
        return _plain_where_needed(
            replace(call, input=_resolved(call.input), weight=_resolved(call.weight), bias=bias), asks
        )
    if all(map(is_plain, tensors)) or asks("layouts", call.form):
        return call
    bias = None if call.bias is None else plain(call.bias)
    return replace(call, input=plain(call.input), weight=plain(call.weight), bias=bias)


def _resolved(t: Tensor) -> Tensor:
    """The same values without torch's lazy views, which no other library knows."""
    return t.resolve_conj().resolve_neg()


def shape_of_result(call: Call) -> tuple[int, ...]:
    """``(*batch, O)``, or ``(*batch, O, *positions)`` of a convolution."""
    batch, outputs = call.input.shape[: call.input.ndim - call.weight.ndim + 1], call.weight.shape[0]
    if call.form == "linear":
        return (*batch, outputs)
    added = call.padding or (0,) * call.dims
    sizes = zip(call.input.shape[-call.dims :], call.weight.shape[2:], *call.steps, added, strict=True)
    return (*batch, outputs, *((size + 2 * p - (k - 1) * e - 1) // s + 1 for size, k, s, e, p in sizes))


def is_plain(t: Tensor) -> bool:
    """Whether a tensor is contiguous, with the strides of a new tensor also where its size is 1, and no lazy view."""
    if not t.is_contiguous() or t.is_conj() or t.is_neg():
        return False
    if 1 not in t.shape:
        return True
    step = 1
    for size, stride in zip(reversed(t.shape), reversed(t.stride()), strict=True):
        if stride != step and t.numel():
            return False
        step *= size
    return True


def plain(t: Tensor) -> Tensor:
    """The same values in a tensor that :func:`is_plain`; itself where it is."""
    if is_plain(t):
        return t
    return t.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
