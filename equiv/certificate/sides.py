"""The two maps that are compared: how one of them is run on rows of features, and what is known of a plain layer.

A plain layer runs with other parameters in their place, a module on copies of its buffers, a function as it is; nothing
that the caller passed in is altered. Which inputs to try is up to ``one_hot``, ``affine`` and ``random_integers``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.mapping import Conv, check_attributes, conv_to_linear, covers, has_valid_attributes, is_plain_layer
from equiv.text import first_line

Layer: TypeAlias = nn.Linear | Conv
CAP = 64
"""How many differences are named; the others are counted."""


class Difference(NamedTuple):
    """Where two maps differ: output and input index, counted in the flattened result and input.

    ``input`` is None for the bias. The values are the weights, or what the two kernels return for that input alone.
    """

    output: int
    input: int | None
    candidate: Any
    reference: Any


@dataclass
class Differences:
    """The entries in which two maps differ: all of them counted, the first ``CAP`` named."""

    named: list[Difference] = field(default_factory=list)
    weights: int = 0
    biases: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return self.weights + self.biases

    def add(self, wrong: Tensor, a: Tensor, b: Tensor, place: Callable[[int, int], tuple[int, int]] | None) -> None:
        """Note the entries of two matrices that are ``wrong``.

        ``place`` makes (output, input) of an entry's two indices; None is for biases, as ``(1, outputs)``.
        """
        count, free = int(wrong.sum()), CAP - len(self.named)
        for i, j in wrong.nonzero()[:free].tolist() if count and free > 0 else ():
            output, column = (j, None) if place is None else place(i, j)
            self.named.append(Difference(output, column, a[i, j].item(), b[i, j].item()))
        if place is None:
            self.biases += count
        else:
            self.weights += count


@dataclass(frozen=True)
class Side:
    """One of the two maps."""

    name: str  # "candidate" or "reference", for messages
    call: Any  # what runs
    layer: Layer | None  # the same object where it is a plain layer, whose weights define it
    shape: tuple[int, ...]  # what one row is given as: (n,) or (C, *spatial)

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
            raise EquivError(
                f"{self.name}: expected to run on an input of shape {tuple(given.shape)} of {dtype_name(x.dtype)}, got "
                f"{type(error).__name__}: {first_line(error, 200)}; pass feature_shape= if it takes maps, leave it out "
                "if it takes rows"
            ) from error
        self._check_result(y, len(x))
        return y.detach().reshape(len(x), -1)  # type: ignore[no-any-return]

    def _check_result(self, y: object, rows: int) -> None:
        if not isinstance(y, Tensor):
            problem = f"a function that returns a tensor, got {type(y).__name__}; return the result alone"
        elif y.is_nested or y.layout != torch.strided or y.is_quantized:
            kind = "nested" if y.is_nested else "quantized" if y.is_quantized else str(y.layout)
            problem = f"a strided tensor as a result, got a {kind} one; make it dense"
        elif y.ndim == 0 or y.shape[0] != rows or y.device.type == "meta":
            got = f"{tuple(y.shape)} on {y.device}; the first dimension is the batch"
            problem = f"a result of shape (N, ...) with values for N = {rows} rows, got {got}"
        elif y.numel() == 0:
            problem = f"at least one output, got a result of shape {tuple(y.shape)}; there is nothing to certify"
        else:
            return
        raise EquivError(f"{self.name}: expected {problem}")


def side_of(name: str, given: object, shape: tuple[int, ...], as_map: bool) -> Side:
    """One argument of `certify` as a `Side`.

    Raises:
        EquivError: It is neither a module nor a function, or has no values yet.
    """
    if not callable(given):
        raise EquivError(
            f"{name}: expected a layer, a module or a function of a batch, got {type(given).__name__}; "
            "to compare two results use equiv.compare"
        )
    if isinstance(given, nn.Module):
        kind = type(given).__name__
        for tensor in (*given.parameters(), *given.buffers()):
            if is_lazy(tensor):
                raise EquivError(
                    f"{name}: expected initialized parameters, got a lazy {kind}; run it once on an example input first"
                )
            if tensor.device.type == "meta":
                raise EquivError(f"{name}: expected values, got a {kind} on the meta device; load its weights first")
        check_attributes(given, name)
    takes_map = isinstance(given, Conv) or (as_map and not isinstance(given, nn.Linear))
    layer: Any = given
    plain = is_plain_layer(layer) and layer.weight.dtype in DTYPES and has_valid_attributes(layer)
    return Side(name, given, layer if plain else None, shape if takes_map else (math.prod(shape),))


def with_parameters(layer: Layer, weight: Tensor, bias: Tensor | None) -> Any:
    """The layer with other parameters; the module itself is left alone."""
    other: Any = copy.copy(layer)
    given = {"weight": weight, "bias": bias}
    other._parameters = {
        name: None if value is None else nn.Parameter(value, requires_grad=False) for name, value in given.items()
    }
    return other


def resolved(parameter: Tensor) -> Tensor:
    """A parameter's values, detached."""
    return parameter.detach().resolve_conj().resolve_neg()


def dense_rows(layer: Layer, shape: tuple[int, ...]) -> Tensor:
    """The dense weight with the output first: ``(O, n)``, or ``(O, C, *kernel)`` a view where the layer covers the map.

    Raises:
        EquivError: The map does not fit the layer, or the matrix cannot be allocated.
    """
    if isinstance(layer, nn.Linear) or covers(layer, shape):
        return resolved(layer.weight)
    return conv_to_linear(layer, shape).weight.detach()


def same_values(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise: equal, the sign of zero ignored, or both not a number."""
    return (a == b) | (a.isnan() & b.isnan())
