"""What is asked of a layer or a function while it is certified: rows in, rows out, nothing altered.

Knows how one side is run: plain layers with other parameters in their place, modules on copies of their buffers,
functions as they are. Which inputs to try, and what the answers mean, is the business of ``equiv.certificate.one_hot`` (every
column of a map) and ``equiv.certificate.random_integers`` (random integers in place of the weights).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.mapping import (
    Conv,
    check_conv,
    check_linear,
    conv_to_linear,
    covers,
    has_valid_attributes,
)

CAP = 64
"""How many differences are named; the others are counted."""
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Progress = Callable[[int, int, dict[str, Any]], object]


class Difference(NamedTuple):
    """Where two maps differ: output and input index, counted in the flattened result and input.

    ``input`` is None for the bias. The values are the weights, or what the two kernels return for that input alone.
    """

    output: int
    input: int | None
    candidate: Any
    reference: Any


@dataclass(frozen=True)
class Side:
    """One of the two maps.

    Attributes:
        name: ``"candidate"`` or ``"reference"``, for messages.
        call: What runs.
        layer: The same object where it is a plain layer, whose weights define it; else None.
        shape: What one row is given as: ``(n,)`` or ``(C, *spatial)``.
    """

    name: str
    call: Any
    layer: nn.Linear | Conv | None
    shape: tuple[int, ...]

    def run(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """``(N, n)`` -> ``(N, outputs)``, with other tensors in place of the named parameters.

        Raises:
            EquivError: It does not run, or what it returns is no tensor of N rows.
        """
        given = x.reshape(-1, *self.shape)
        given = given if self.layer is not None else given.clone()  # a function may work in place
        try:
            with torch.no_grad():
                if isinstance(self.call, nn.Module):
                    buffers = {name: buffer.clone() for name, buffer in self.call.named_buffers()}
                    y = functional_call(self.call, {**buffers, **parameters}, (given,))
                else:
                    y = self.call(given)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise EquivError(
                f"{self.name}: expected to run on an input of shape {tuple(given.shape)} of {dtype_name(x.dtype)}, got "
                f"{type(error).__name__}: {reason}; pass feature_shape= if it takes maps, leave it out if rows"
            ) from error
        if not isinstance(y, Tensor):
            raise EquivError(f"{self.name}: expected a function that returns a tensor, got {type(y).__name__}")
        if y.is_nested or y.layout != torch.strided or y.is_quantized:
            kind = "nested" if y.is_nested else "quantized" if y.is_quantized else str(y.layout)
            raise EquivError(f"{self.name}: expected a strided tensor as a result, got a {kind} one; make it dense")
        if y.ndim == 0 or y.shape[0] != len(x) or y.device.type == "meta":
            raise EquivError(
                f"{self.name}: expected a result of shape (N, ...) with values for N = {len(x)} rows, got "
                f"{tuple(y.shape)} on {y.device}; the first dimension is the batch"
            )
        if y.numel() == 0:
            raise EquivError(
                f"{self.name}: expected at least one output, got a result of shape {tuple(y.shape)}; there is nothing "
                "to certify"
            )
        return y.detach().reshape(len(x), -1)


def side_of(name: str, given: object, shape: tuple[int, ...], as_map: bool) -> Side:
    """Take one argument apart.

    Raises:
        EquivError: It is neither a module nor a function, or has no values yet.
    """
    if not callable(given):
        raise EquivError(
            f"{name}: expected a layer, a module or a function of a batch, got {type(given).__name__}; "
            "to compare two results use equiv.compare"
        )
    if isinstance(given, nn.Module):
        for tensor in (*given.parameters(), *given.buffers()):
            if is_lazy(tensor):
                raise EquivError(
                    f"{name}: expected initialized parameters, got a lazy {type(given).__name__}; run it once on an "
                    "example input first"
                )
            if tensor.device.type == "meta":
                raise EquivError(
                    f"{name}: expected values, got a {type(given).__name__} on the meta device; load its weights first"
                )
    takes_map = isinstance(given, _LAYERS[1:]) or (as_map and not isinstance(given, nn.Linear))
    return Side(name, given, _plain(given), shape if takes_map else (math.prod(shape),))


def _plain(given: object) -> nn.Linear | Conv | None:
    """The layer, if it computes from its weight and bias and nothing else; subclasses, hooks and the like do not."""
    try:
        found = check_linear(given) if isinstance(given, nn.Linear) else check_conv(given)
    except (EquivError, ZeroDivisionError, TypeError):  # attributes of any kind may have been set on a module
        return None
    return found if found.weight.dtype in DTYPES and has_valid_attributes(found) else None


def weight_of(layer: nn.Linear | Conv) -> Tensor:
    """The weight, detached."""
    return layer.weight.detach().resolve_conj().resolve_neg()


def bias_of(layer: nn.Linear | Conv) -> Tensor | None:
    """The bias, detached, or None."""
    return None if layer.bias is None else layer.bias.detach().resolve_conj().resolve_neg()


def without_bias(layer: nn.Linear | Conv) -> dict[str, Tensor]:
    """Parameters that take a layer's bias away: adding zero rounds nothing."""
    return {} if layer.bias is None else {"bias": torch.zeros_like(layer.bias, requires_grad=False)}


def dense_rows(layer: nn.Linear | Conv, shape: tuple[int, ...]) -> Tensor:
    """The dense weight with the output first: ``(O, n)``, or ``(O, C, *kernel)`` a view where the layer covers the map.

    Raises:
        EquivError: The map does not fit the layer, or the matrix cannot be allocated.
    """
    if covers(layer, shape):
        return weight_of(layer)
    assert not isinstance(layer, nn.Linear)
    return conv_to_linear(layer, shape).weight.detach()


def same_values(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise: equal, the sign of zero ignored, or both not a number."""
    return (a == b) | (a.isnan() & b.isnan()) if a.is_floating_point() or a.is_complex() else a == b
