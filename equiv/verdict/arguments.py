"""What :func:`equiv.compare` accepts: results, a layer and its input, tolerances; and all of them as rows on the CPU.

A convolution that covers its map with one kernel is rows too. Any other slides over a map, and is judged in patches
(``equiv.verdict.patches``). Every refusal is one sentence that names the argument.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from equiv.arguments import check_tensor, refusal
from equiv.dtypes import DTYPES, dtype_name, dtype_names, is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv, check_linear, is_unpadded, pads_and_positions
from equiv.numerics import Arithmetic, check_arithmetic
from equiv.text import shown

Alternatives: TypeAlias = tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two results of one layer, and everything that they are judged by.

    Attributes:
        actual: The result to judge.
        expected: The result that it is compared with; its dtype may be wider.
        input: What the layer was given.
        weight: Of the layer, ``(O, n)`` or ``(O, C, *kernel)``.
        bias: Of the layer, ``(O,)`` or None.
        arithmetic: What the kernel of ``actual`` computes in; None for what is declared.
        tolerances: ``(rtol, atol)`` that must hold in addition, or None.
        channels: O, where one row's result may also come as ``(O, *positions)``.
        alternative_weights: For each of the two results, the weights that it may come from: None stands for ``weight``;
            others are over copies of the inputs, see :func:`equiv.mapping.tap_weights`.
    """

    actual: Tensor
    expected: Tensor
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    arithmetic: Arithmetic | None = None
    tolerances: tuple[float, float] | None = None
    channels: int | None = None
    alternative_weights: tuple[Alternatives, Alternatives] = ((None,), (None,))

    def alternatives(self, change: Callable[[Tensor], Tensor]) -> tuple[Alternatives, Alternatives]:
        """The alternative weights, each of them changed."""
        a, b = (tuple(w if w is None else change(w) for w in tried) for tried in self.alternative_weights)
        return a, b

    def exchanged(self) -> Comparison:
        """The same with the two results in each other's place."""
        return replace(
            self, actual=self.expected, expected=self.actual, alternative_weights=self.alternative_weights[::-1]
        )


class LayerTensors(NamedTuple):
    """A layer as it is held against its results.

    Attributes:
        weight: As it was passed, or the layer's.
        bias: The same.
        conv: A convolution that slides over its input, else None.
        shape: ``(C, *spatial)`` of that input.
    """

    weight: Tensor | None
    bias: Tensor | None
    conv: Conv | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Maps:
    """Two results of one sliding convolution, on the CPU.

    Attributes:
        actual: ``(B, O, *positions)``.
        expected: The same.
        input: ``(B, C, *spatial)``.
        weight: ``(G, O/G, n)`` for n terms of an output.
        bias: ``(O,)`` or None.
        conv: The convolution.
    """

    actual: Tensor
    expected: Tensor
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    conv: Conv


def check_results(actual: Tensor, expected: Tensor) -> None:
    """Refuse what are not two tensors of one dtype, the second possibly wider."""
    for name, value in (("actual", actual), ("expected", expected)):
        advice = "pass the result of a layer"
        if callable(value):
            advice += ", or compare two layers or functions with equiv.assert_equivalent or equiv.certify"
        check_tensor(name, value, advice=advice)
        if value.dtype not in DTYPES:
            raise EquivError(
                f"{name}: expected a dtype among {dtype_names(DTYPES)}, got {dtype_name(value.dtype)}; convert it first"
            )
    if expected.dtype != actual.dtype and not _is_wider(expected.dtype, actual.dtype):
        raise EquivError(
            f"expected: expected the dtype of actual, {dtype_name(actual.dtype)}, or a wider one of its kind, got "
            f"{dtype_name(expected.dtype)}; pass them the other way round, or compute it in {dtype_name(actual.dtype)}"
        )


def _is_wider(wide: torch.dtype, narrow: torch.dtype) -> bool:
    return (
        is_inexact(wide)
        and wide.is_complex == narrow.is_complex
        and is_inexact(narrow)
        and (wide.itemsize > narrow.itemsize)
    )


def check_given_arithmetic(arithmetic: object, *, gradients: bool = False) -> None:
    """Refuse what is neither None nor an arithmetic, and one whose ``gradients`` nobody knows."""
    if arithmetic is None:
        return
    checked = check_arithmetic(arithmetic, "pass what equiv.numerics.declared(dtype) returns, or leave it out")
    if gradients and checked.mixes:
        expected = "one of a kernel that keeps each weight, where gradients are asked"
        raise refusal("arithmetic", expected, checked.name, "leave gradients= out")


def tolerances_of(rtol: float | None, atol: float | None) -> tuple[float, float] | None:
    """Both tolerances, 0 for one that is left out; None if both are."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max
        ):
            raise EquivError(
                f"{name}: expected a finite number of at least 0, got {shown(value)}; pass one, or leave it out"
            )
    return None if rtol is None and atol is None else (float(rtol or 0.0), float(atol or 0.0))


def layer_tensors(
    layer: nn.Module | None, weight: Tensor | None, bias: Tensor | None, input: Tensor | None, actual: Tensor
) -> LayerTensors:
    """Weight and bias that were passed, or those of the layer on this input."""
    if layer is None:
        return LayerTensors(weight, bias)
    if weight is not None or bias is not None:
        raise EquivError("layer: expected either layer or weight and bias, got both; drop one of them")
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        raise EquivError(
            f"layer: expected a Linear or a convolution, got {type(layer).__name__}; pass weight= and bias= instead"
        )
    if isinstance(layer, nn.Linear):
        check_linear(layer, name="layer")
        return LayerTensors(layer.weight, layer.bias)
    conv = check_conv(layer, name="layer")
    as_map = _map_given(conv, input, actual)
    if conv.groups != 1 and as_map is None:
        raise EquivError(
            f"layer: expected a convolution of one group, got {layer}; pass equiv.conv_to_linear(layer, feature_shape)"
        )
    shape = (conv.in_channels, *conv.kernel_size) if as_map is None else as_map
    if conv.groups == 1 and tuple(conv.weight.shape[2:]) == shape[1:] and is_unpadded(conv):
        return LayerTensors(conv.weight, conv.bias)
    try:
        pads_and_positions(conv, shape[1:])
    except EquivError as error:
        raise EquivError(f"layer: expected a convolution that fits a map {shape}, got {conv}: {error}") from error
    return LayerTensors(conv.weight, conv.bias, conv, shape)


def _map_given(conv: Conv, x: object, actual: Tensor) -> tuple[int, ...] | None:
    """The map ``(C, *spatial)`` that the input holds; None for rows, which are taken for maps of the kernel's size."""
    kernel = tuple(conv.weight.shape[2:])
    rank, of_rows = len(kernel), conv.in_channels * math.prod(kernel)
    if not isinstance(x, Tensor) or x.is_nested or x.ndim <= rank or x.shape[-rank - 1] != conv.in_channels:
        return None
    shape, batch = tuple(x.shape[-rank - 1 :]), math.prod(x.shape[: -rank - 1])
    if x.shape[-1] != of_rows or trimmed(actual.shape) != trimmed((*x.shape[:-1], conv.out_channels)):
        return shape
    try:  # both may fit: then it is a map
        positions = math.prod(pads_and_positions(conv, shape[1:])[1])
    except EquivError:
        return None
    return shape if actual.numel() == batch * conv.out_channels * positions else None


def rows_of(given: Comparison) -> Comparison:
    """The same as results ``(N, O)``, input ``(N, n)`` and weight ``(O, n)`` on the CPU, which fit each other."""
    actual, x, weight, bias = given.actual, given.input, given.weight, given.bias
    _check_dtypes(given)
    if weight.ndim < 2 or weight.shape[0] == 0:
        raise EquivError(
            f"weight: expected shape (O, n) or (O, C, *kernel) with O of at least 1, got {tuple(weight.shape)}; "
            "pass the weight of the layer"
        )
    w = on_cpu(weight).reshape(weight.shape[0], -1)
    outputs, n = w.shape
    if bias is not None:
        check_tensor("bias", bias, (outputs,), advice="pass the layer's, one entry per row of weight")
    batch = _batch_of(given, outputs, n)
    return replace(
        given,
        actual=on_cpu(actual).reshape(batch, outputs),
        expected=on_cpu(given.expected).reshape(batch, outputs),
        input=on_cpu(x).reshape(batch, n),
        weight=w,
        bias=None if bias is None else on_cpu(bias),
    )


def maps_of(given: Comparison, conv: Conv, shape: tuple[int, ...]) -> Maps:
    """The same for a convolution that slides over maps of ``shape``, ``(C, *spatial)``; views where that can be."""
    _check_dtypes(given)
    positions = pads_and_positions(conv, shape[1:])[1]
    outputs = conv.out_channels * math.prod(positions)
    batch = _batch_of(given, outputs, math.prod(shape))
    weight, bias = on_cpu(given.weight), given.bias
    return Maps(
        on_cpu(given.actual).reshape(batch, conv.out_channels, *positions),
        on_cpu(given.expected).reshape(batch, conv.out_channels, *positions),
        on_cpu(given.input).reshape(batch, *shape),
        weight.reshape(conv.groups, conv.out_channels // conv.groups, -1),
        None if bias is None else on_cpu(bias),
        conv,
    )


def _check_dtypes(given: Comparison) -> None:
    """Refuse input, weight and bias that are not tensors of the dtype of ``actual``."""
    dtype = given.actual.dtype
    for name, value in (("input", given.input), ("weight", given.weight), ("bias", given.bias)):
        if value is None:
            continue
        check_tensor(name, value, advice="pass what the kernel was given")
        if value.dtype != dtype:
            raise EquivError(
                f"{name}: expected the dtype of actual, {dtype_name(dtype)}, got {dtype_name(value.dtype)}; the "
                "envelope belongs to one dtype, so pass what the kernel was given"
            )


def _batch_of(given: Comparison, outputs: int, n: int) -> int:
    """How many rows of n features the input holds, such that they fit the result."""
    x, result, channels = given.input, tuple(given.actual.shape), given.channels
    if x.ndim == 0 or (n and x.numel() % n) or (not n and x.shape[-1] != 0):
        raise EquivError(
            f"input: expected (*batch, {n}) or (*batch, C, *spatial) with C*prod(spatial) = {n}, got "
            f"{tuple(x.shape)}; pass what the layer was given"
        )
    shapes: list[tuple[int, ...]] = [(outputs,)]
    if channels is not None and channels in result:  # (*batch, O, *positions)
        tails = [result[i:] for i, size in enumerate(result) if size == channels]
        shapes = [shape for shape in (*shapes, *tails) if math.prod(shape) == outputs]
    for cut in range(x.ndim - 1, -1, -1):  # sizes of 1 can belong to the batch and to the map
        batch = tuple(x.shape[:cut])
        if math.prod(x.shape[cut:]) == n and any(trimmed((*batch, *end)) == trimmed(result) for end in shapes):
            return math.prod(batch)
    raise EquivError(
        f"input: expected one row of {n} features, or one map of as many, per result of shape {result}, got "
        f"{tuple(x.shape)}; pass the very input that gave `actual`"
    )


def on_cpu(values: Tensor) -> Tensor:
    """The values on the CPU as they stand in memory, without gradients."""
    return values.detach().cpu().resolve_conj().resolve_neg()


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its trailing ones: ``(N, O, 1, 1)`` and ``(N, O)`` are the same result."""
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return tuple(shape[:end])
