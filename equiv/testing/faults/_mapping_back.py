"""Slips in the way back from a convolution to a layer, and in the shapes of inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equiv.mapping import Conv
from equiv.testing.faults._slip import BACK, Right, Slip, biases, slip, with_bias, with_weight

# --- back to a layer --------------------------------------------------------------------------------------------------

BACKWARDS = ("round_trip",)


def _linear_from(change: Callable[[Conv], Tensor]) -> Slip:
    """For kernels that cover the map; others are left alone."""

    def wrong(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
        linear = right(conv, feature_shape, **options)
        if tuple(conv.weight.shape[2:]) != tuple(feature_shape)[1:]:
            return linear
        return with_weight(linear, lambda _: change(conv).reshape(linear.weight.shape))

    return wrong


slip(
    "linear-flattened-hwc",
    "A convolution over the whole map becomes a layer over a map flattened in the order HWC.",
    of=(BACK,),
    wrong=_linear_from(lambda conv: conv.weight.detach().movedim(1, -1)),
    source="mapping slip: FCN.tensorflow#47, axis order",
    dimension="flatten order",
    laws=BACKWARDS,
)
slip(
    "linear-flipped",
    "A convolution over the whole map becomes a layer with its kernel turned around.",
    of=(BACK,),
    wrong=_linear_from(lambda conv: conv.weight.detach().flip(*range(2, conv.weight.ndim))),
    source="mapping slip: convolution for correlation",
    dimension="kernel orientation",
    laws=BACKWARDS,
)
slip(
    "linear-bias-dropped",
    "A convolution with bias becomes a layer without.",
    of=(BACK,),
    wrong=biases(lambda _: None),
    source="mapping slip: bias dropped",
    dimension="bias",
    laws=BACKWARDS,
)


def _as_if(option: str, value: Callable[[Conv], Any]) -> Slip:
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


slip(
    "linear-ignores-stride",
    "The layer of a convolution with a stride is that of the same convolution without.",
    of=(BACK,),
    wrong=_as_if("stride", lambda conv: (1,) * len(conv.kernel_size)),
    source="mapping slip: stride ignored",
    dimension="stride",
    profile="gate",
    laws=BACKWARDS,
)
slip(
    "linear-ignores-dilation",
    "The layer of a dilated convolution is that of the same convolution without.",
    of=(BACK,),
    wrong=_as_if("dilation", lambda conv: (1,) * len(conv.kernel_size)),
    source="mapping slip: dilation ignored",
    dimension="dilation",
    profile="gate",
    laws=BACKWARDS,
)
slip(
    "linear-ignores-padding",
    "The layer of a convolution with padding is that of the same convolution without.",
    of=(BACK,),
    wrong=_as_if("padding", lambda conv: (0,) * len(conv.kernel_size)),
    source="mapping slip: tensorflow-fcn#27, the other way round",
    dimension="padding",
    profile="gate",
    laws=BACKWARDS,
)


def _groups_merged(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
    linear = right(conv, feature_shape, **options)
    if conv.groups == 1:
        return linear
    merged = copy.copy(conv)
    merged._parameters = dict(conv._parameters)
    merged.groups, merged.weight = (
        1,
        nn.Parameter(conv.weight.detach().repeat(1, conv.groups, *(1,) * (conv.weight.ndim - 2)), False),
    )
    return with_weight(linear, lambda _: right(merged, feature_shape).weight.detach())


slip(
    "linear-ignores-groups",
    "The layer of a convolution in groups connects every output to the channels of all groups.",
    of=(BACK,),
    wrong=_groups_merged,
    source="mapping slip: groups ignored",
    dimension="groups",
    profile="gate",
    laws=BACKWARDS,
)


def _bias_tiled(right: Right, conv: Conv, feature_shape: Any, **options: Any) -> Any:
    linear = right(conv, feature_shape, **options)
    if conv.bias is None:
        return linear
    return with_bias(linear, lambda bias: conv.bias.detach().repeat(len(bias) // conv.out_channels))  # type: ignore[union-attr]


slip(
    "linear-bias-tiled",
    "The bias of a convolution with several positions is repeated as a whole instead of entry by entry.",
    of=(BACK,),
    wrong=_bias_tiled,
    source="mapping slip: repeat for repeat_interleave",
    dimension="bias",
    profile="gate",
    laws=BACKWARDS,
)

# --- inputs -----------------------------------------------------------------------------------------------------------


def _map_as_hwc(right: Right, x: Tensor, feature_shape: Any) -> Tensor:
    shape = tuple(feature_shape)
    y: Tensor = right(x, shape)
    return y.reshape(*x.shape[:-1], *shape[1:], shape[0]).movedim(-1, x.ndim - 1)


def _map_transposed(right: Right, x: Tensor, feature_shape: Any) -> Tensor:
    y: Tensor = right(x, feature_shape)
    return y.transpose(-1, -2) if len(feature_shape) > 2 and y.shape[-1] == y.shape[-2] else y


slip(
    "map-read-as-hwc",
    "Flattened inputs are taken for maps in the order HWC.",
    of=("to_feature_map",),
    wrong=_map_as_hwc,
    source="mapping slip: NHWC data",
    dimension="flatten order",
    laws=("exact", "forward", "purity"),
)
slip(
    "square-maps-transposed",
    "H and W of a square map are exchanged.",
    of=("to_feature_map",),
    wrong=_map_transposed,
    source="mapping slip: H and W exchanged where shapes do not tell",
    dimension="flatten order",
    profile="gate",
    laws=("exact", "forward", "purity"),
)
slip(
    "features-reversed",
    "The features of an input to the pointwise form are in reverse order.",
    of=("to_channels",),
    wrong=lambda right, x, *args, **options: right(x.flip(-1), *args, **options),
    source="mapping slip: an index that runs backwards",
    dimension="channel order",
    laws=("purity",),
)
