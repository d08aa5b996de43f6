"""The two maps that are compared: what one of them returns for rows of features, and what is known of a plain layer.

How a layer, a module or a function is run is the business of ``equiv.backends``; nothing that the caller passed in is
altered. Which inputs to try is up to ``one_hot``, ``affine`` and ``random_integers``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equiv.backends import Function
from equiv.dtypes import DTYPES
from equiv.errors import EquivError
from equiv.mapping import Conv, check_attributes, conv_to_linear, covers, is_plain_layer

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
    call: Any  # what the caller passed in
    layer: Layer | None  # the same object where it is a plain layer, whose weights define it
    shape: tuple[int, ...]  # what one row is given as: (n,) or (C, *spatial)
    function: Function  # what runs in its place
    outputs: list[int] = field(default_factory=list)  # how many it has; empty before the first run

    def run(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """``(N, n)`` -> ``(N, outputs)``, with other tensors in place of the named parameters.

        Raises:
            EquivError: It does not run, or what it returns is no tensor of N rows, or of other rows than before.
        """
        y = self.function.run(x, **parameters)
        if y.ndim == 0 or len(y) != len(x):
            problem = f"a result of shape (N, ...) with values for N = {len(x)} rows, got {tuple(y.shape)}"
            raise EquivError(f"{self.name}: expected {problem}; the first dimension is the batch")
        if y.numel() == 0:
            problem = f"at least one output, got a result of shape {tuple(y.shape)}; there is nothing to certify"
            raise EquivError(f"{self.name}: expected {problem}")
        if y.shape[1:] != torch.Size(self.outputs or y.shape[1:]):
            problem = f"{self.outputs[0]:,} outputs for each row, as it returned before, got {y.shape[1]:,}"
            raise EquivError(f"{self.name}: expected {problem}; return as many for every input and batch")
        self.outputs[:] = y.shape[1:]
        return y


def side_of(name: str, given: object, shape: tuple[int, ...], as_map: bool) -> Side:
    """One argument of `certify` as a `Side`.

    Raises:
        EquivError: It is neither a module nor a function, or has no values yet.
    """
    if not callable(given):
        raise EquivError(
            f"{name}: expected a layer, a module or a function of a batch, got {type(given).__name__}; "
            "to compare two results use equiv.compare, for a session pass a function that runs it"
        )
    function = Function(name, given, shape, as_map=as_map)
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
    plain = is_plain_layer(layer) and layer.weight.dtype in DTYPES
    return Side(name, given, layer if plain else None, shape if takes_map else (math.prod(shape),), function)


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
