"""Mistakes in the way back from a convolution to a layer, and in the shapes of inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equiv.mapping import Conv
from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import EXACT, FORWARD, PURITY, ROUND_TRIP
from equiv.testing.faults.mistake import BACK, Mistake, Right, biases, with_bias, with_weight

# --- back to a layer --------------------------------------------------------------------------------------------------


def _linear_from(change: Callable[[Conv], Tensor]) -> Mistake:
    """For kernels that cover the map; others are left alone."""

    def wrong(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
        linear = right(conv, feature_shape, **options)
        if tuple(conv.weight.shape[2:]) != tuple(feature_shape)[1:]:
            return linear
        return with_weight(linear, lambda _: change(conv).reshape(linear.weight.shape))

    return wrong


fault = Faults(kind="mapping", laws=(ROUND_TRIP,), family="mapping mistake")

fault("linear-flattened-hwc", "flatten order")(
    "A convolution over the whole map becomes a layer over a map flattened in the order HWC.",
    "FCN.tensorflow#47, axis order",
).mistake(_linear_from(lambda conv: conv.weight.detach().movedim(1, -1)), BACK)
fault("linear-flipped", "kernel orientation")(
    "A convolution over the whole map becomes a layer with its kernel turned around.", "convolution for correlation"
).mistake(_linear_from(lambda conv: conv.weight.detach().flip(*range(2, conv.weight.ndim))), BACK)
fault("linear-bias-dropped", "bias")("A convolution with bias becomes a layer without.", "bias dropped").mistake(
    biases(lambda _: None), BACK
)


def _as_if(option: str, value: Callable[[Conv], Any]) -> Mistake:
    """The layer of the same convolution with another option, cut to the right number of rows."""

    def wrong(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
        linear = right(conv, feature_shape, **options)
        if getattr(conv, option) == value(conv):
            return linear
        other = copy.copy(conv)
        other._parameters = dict(conv._parameters)
        setattr(other, option, value(conv))
        dense = right(other, feature_shape).weight.detach()
        rows = linear.weight.shape[0]
        return with_weight(linear, lambda weight: torch.cat([dense, torch.zeros_like(weight)])[:rows])

    return wrong


fault("linear-ignores-stride", "stride", profile="gate")(
    "The layer of a convolution with a stride is that of the same convolution without one.", "stride ignored"
).mistake(_as_if("stride", lambda conv: (1,) * len(conv.kernel_size)), BACK)
fault("linear-ignores-dilation", "dilation", profile="gate")(
    "The layer of a dilated convolution is that of the same convolution without dilation.", "dilation ignored"
).mistake(_as_if("dilation", lambda conv: (1,) * len(conv.kernel_size)), BACK)
fault("linear-ignores-padding", "padding", profile="gate")(
    "The layer of a convolution with padding is that of the same convolution without padding.",
    "tensorflow-fcn#27, the other way round",
).mistake(_as_if("padding", lambda conv: (0,) * len(conv.kernel_size)), BACK)


def _groups_merged(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
    linear = right(conv, feature_shape, **options)
    if conv.groups == 1:
        return linear
    merged = copy.copy(conv)
    merged._parameters = dict(conv._parameters)
    every_group = conv.weight.detach().repeat(1, conv.groups, *(1,) * (conv.weight.ndim - 2))
    merged.groups, merged.weight = 1, nn.Parameter(every_group, requires_grad=False)
    return with_weight(linear, lambda _: right(merged, feature_shape).weight.detach())


fault("linear-ignores-groups", "groups", profile="gate")(
    "The layer of a convolution in groups connects every output to the channels of all groups.", "groups ignored"
).mistake(_groups_merged, BACK)


def _bias_tiled(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
    linear, whole = right(conv, feature_shape, **options), conv.bias
    return with_bias(linear, lambda bias: bias if whole is None else whole.detach().repeat(len(bias) // len(whole)))


fault("linear-bias-tiled", "bias", profile="gate")(
    "The bias of a convolution with several positions is repeated as a whole instead of entry by entry.",
    "repeat for repeat_interleave",
).mistake(_bias_tiled, BACK)

# --- inputs -----------------------------------------------------------------------------------------------------------


def _map_as_hwc(right: Right, x: Tensor, feature_shape: Any) -> Tensor:
    shape = tuple(feature_shape)
    y: Tensor = right(x, shape)
    return y.reshape(*x.shape[:-1], *shape[1:], shape[0]).movedim(-1, x.ndim - 1)


def _map_transposed(right: Right, x: Tensor, feature_shape: Any) -> Tensor:
    y: Tensor = right(x, feature_shape)
    return y.transpose(-1, -2) if len(feature_shape) > 2 and y.shape[-1] == y.shape[-2] else y


input_fault = Faults(kind="mapping", laws=(EXACT, FORWARD, PURITY), family="mapping mistake")

input_fault("map-read-as-hwc", "flatten order")(
    "Flattened inputs are taken for maps in the order HWC.", "NHWC data"
).mistake(_map_as_hwc, "to_feature_map")
input_fault("square-maps-transposed", "flatten order", profile="gate")(
    "H and W of a square map are exchanged.", "H and W exchanged where they are equal"
).mistake(_map_transposed, "to_feature_map")
input_fault("features-reversed", "channel order", laws=(PURITY,))(
    "The features of an input to the pointwise form are in reverse order.", "an index that runs backwards"
).mistake(lambda right, x, *args, **options: right(x.flip(-1), *args, **options), "to_channels")
