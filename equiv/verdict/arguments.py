"""What :func:`equiv.compare` accepts: results, a layer and its input, tolerances; and all of them as rows on the CPU.

A convolution becomes the dense layer that it is on the input's map. Where its padding mode repeats inputs, several taps
land on one of them, and an entry of that layer's weight is their sum, rounded: the convolution itself adds other terms,
which :func:`tap_weights` lays side by side. Every refusal is here, in one sentence that names the argument. What is
found is the business of ``verdict``.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv, check_linear, conv_to_linear, is_unpadded, pads_and_positions, tap_weights


def check_results(actual: Tensor, expected: Tensor) -> None:
    for name, value in (("actual", actual), ("expected", expected)):
        if not isinstance(value, Tensor):
            advice = "pass the result of a layer"
            if callable(value):
                advice += ", or compare two layers or functions with equiv.assert_equivalent or equiv.certify"
            raise EquivError(f"{name}: expected a torch.Tensor, got {type(value).__name__}; {advice}")
        if value.dtype not in DTYPES:
            served = ", ".join(dtype_name(d) for d in DTYPES)
            raise EquivError(
                f"{name}: expected a dtype among {served}, got {dtype_name(value.dtype)}; convert it first"
            )
        _check_values(name, value)

    if expected.dtype != actual.dtype and not is_wider(expected.dtype, actual.dtype):
        raise EquivError(
            f"expected: expected the dtype of actual, {dtype_name(actual.dtype)}, or a wider one of its kind, got "
            f"{dtype_name(expected.dtype)}; pass them the other way round, or compute it in {dtype_name(actual.dtype)}"
        )


def _check_values(name: str, value: Tensor) -> None:
    if value.device.type == "meta":
        raise EquivError(
            f"{name}: expected values, got a tensor on the meta device, which has none; run the layer on a real device"
        )
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested tensor" if value.is_nested else value.layout
        raise EquivError(f"{name}: expected a strided tensor, got {kind}; convert it with to_dense()")


class Given(NamedTuple):
    """A layer as it is held against its results.

    ``channels`` is O where one row's result may also come as ``(O, *positions)``, ``taps`` what :func:`tap_weights`
    returns.
    """

    weight: Tensor | None
    bias: Tensor | None
    channels: int | None = None
    taps: Tensor | None = None


def layer_tensors(
    layer: nn.Module | None, weight: Tensor | None, bias: Tensor | None, input: Tensor | None, actual: Tensor
) -> Given:
    """Weight and bias that were passed, or those of the layer on this input."""
    if layer is None:
        return Given(weight, bias)
    if weight is not None or bias is not None:
        raise EquivError("layer: expected either layer or weight and bias, got both; drop one of them")
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        raise EquivError(
            f"layer: expected a Linear or a convolution, got {type(layer).__name__}; pass weight= and bias= instead"
        )
    held = layer._parameters.get("weight")
    if held is not None and is_lazy(held):
        raise EquivError(
            f"layer: expected an initialized layer, got {type(layer).__name__}; run it once on an example input first"
        )
    if isinstance(layer, nn.Linear):
        check_linear(layer, name="layer")
        return Given(layer.weight, layer.bias)
    as_map = None if layer.transposed else _map_given(check_conv(layer, name="layer"), input, actual)
    if layer.transposed or (layer.groups != 1 and as_map is None):
        raise EquivError(
            f"layer: expected a convolution of one group, got {layer}; pass equiv.conv_to_linear(layer, feature_shape)"
        )
    conv = check_conv(layer, name="layer")
    shape = (conv.in_channels, *conv.kernel_size) if as_map is None else as_map
    if conv.groups == 1 and tuple(conv.weight.shape[2:]) == shape[1:] and is_unpadded(conv):
        return Given(conv.weight, conv.bias)
    try:
        dense = conv_to_linear(conv, shape)
    except EquivError as error:
        raise EquivError(f"layer: expected a convolution that fits a map {shape}, got {conv}: {error}") from error
    return Given(dense.weight, dense.bias, conv.out_channels, tap_weights(conv, shape))


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


def tolerances_of(rtol: float | None, atol: float | None) -> tuple[float, float] | None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max
        ):
            raise EquivError(
                f"{name}: expected a finite number of at least 0, got {value!r:.60}; pass one, or leave it out"
            )
    return None if rtol is None and atol is None else (float(rtol or 0.0), float(atol or 0.0))


def rows_of(
    x: Tensor, weight: Tensor, bias: Tensor | None, actual: Tensor, channels: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias as ``(N, n)``, ``(O, n)``, ``(O,)`` on the CPU, checked against the result.

    One row's result may come as ``(channels, *positions)`` where ``channels`` is given.
    """
    given: list[tuple[str, Tensor | None]] = [("input", x), ("weight", weight), ("bias", bias)]
    for name, value in given:
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise EquivError(
                f"{name}: expected a torch.Tensor, got {type(value).__name__}; pass what the kernel was given"
            )
        _check_values(name, value)
        if value.dtype != actual.dtype:
            raise EquivError(
                f"{name}: expected the dtype of actual, {dtype_name(actual.dtype)}, got {dtype_name(value.dtype)}; the envelope "
                "belongs to one dtype, so pass what the kernel was given"
            )
    if weight.ndim < 2 or weight.shape[0] == 0:
        raise EquivError(
            f"weight: expected shape (O, n) or (O, C, *kernel) with O of at least 1, got {tuple(weight.shape)}; "
            "pass the weight of the layer"
        )
    w = weight.detach().cpu().reshape(weight.shape[0], -1)
    outputs, n = w.shape
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise EquivError(
            f"bias: expected shape ({outputs},), one per row of weight, got {tuple(bias.shape)}; pass the layer's"
        )
    if x.ndim == 0 or (n and x.numel() % n) or (not n and x.shape[-1] != 0):
        raise EquivError(
            f"input: expected (*batch, {n}) or (*batch, C, *spatial) with C*prod(spatial) = {n}, got "
            f"{tuple(x.shape)}; pass what the layer was given"
        )
    shapes: list[tuple[int, ...]] = [(outputs,)]
    if channels is not None and channels in actual.shape:  # (*batch, O, *positions)
        shapes += [tuple(actual.shape[i:]) for i, size in enumerate(actual.shape) if size == channels]
        shapes = [shape for shape in shapes if math.prod(shape) == outputs]
    fitting = [
        batch
        for batch in _batches_of(tuple(x.shape), n)
        if any(trimmed((*batch, *shape)) == trimmed(actual.shape) for shape in shapes)
    ]
    if not fitting:
        raise EquivError(
            f"input: expected one row of {n} features, or one map of as many, per result of shape "
            f"{tuple(actual.shape)}, got {tuple(x.shape)}; pass the very input that gave `actual`"
        )
    batch = fitting[0]
    b = None if bias is None else bias.detach().cpu()
    return x.detach().cpu().resolve_conj().resolve_neg().reshape(math.prod(batch), n), w, b


def _batches_of(shape: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    """What may be the leading dimensions: all cuts that leave ``n`` features (sizes of 1 can belong to either side)."""
    return [shape[:cut] for cut in range(len(shape) - 1, -1, -1) if math.prod(shape[cut:]) == n]


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its trailing ones: ``(N, O, 1, 1)`` and ``(N, O)`` are the same result."""
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return tuple(shape[:end])


def is_wider(wide: torch.dtype, narrow: torch.dtype) -> bool:
    kinds = [(dtype.is_complex, dtype.is_floating_point) for dtype in (wide, narrow)]
    return kinds[0] == kinds[1] != (False, False) and wide.itemsize > narrow.itemsize
