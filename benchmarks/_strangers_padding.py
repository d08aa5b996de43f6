"""Faults of padding and groups, keywords that no law may send: right without them."""

from __future__ import annotations

import torch
from _strangers_base import Back, Call, backward, cnv, forward, spoiled
from torch import Tensor


@forward(
    "winograd_padding",
    "float32",
    "openvinotoolkit/openvino#33681",
    "A 3x3 convolution, stride 1, with padding gives its last row the values of the row before.",
    differs=cnv((1, 2, 5, 5), (2, 2, 3, 3), padding=1),
    equals=cnv((1, 2, 5, 5), (2, 2, 3, 3), padding=1, stride=2),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.kernel != (3, 3) or not any(call.padding) or set(call.stride) != {1} or right.shape[-2] < 2:
        return None
    return spoiled(right, (..., -1, slice(None)), right[..., -2, :])


@forward(
    "pointwise_padding",
    "float32",
    "ROCm/MIOpen#55",
    "A 1x1 convolution with padding puts 0 and not the bias where only padding is seen.",
    differs=cnv((1, 6, 4, 4), (4, 6, 1, 1), padding=2),
    equals=cnv((1, 6, 4, 4), (4, 6, 1, 1)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if not call.rank or set(call.kernel) != {1} or not any(call.padding) or call.b is None:
        return None
    inside = call.torch(x=torch.ones_like(call.x), w=torch.ones_like(call.w), b=None) != 0
    return torch.where(inside, right, 0)


@backward(
    "weight_gradient_padding_3",
    "float32",
    "ROCm/MIOpen#97",
    "The weight gradient of a 7x7 convolution with padding 3 lacks the first row of the kernel.",
    differs=cnv((2, 2, 9, 8), (3, 2, 7, 7), padding=3, grads="xw"),
    equals=cnv((2, 2, 9, 8), (3, 2, 7, 7), padding=2, grads="xw"),
)
def _(back: Back) -> None:
    if back.call.kernel == (7, 7) and back.call.padding == (3, 3):
        back.w = torch.cat([torch.zeros_like(back.w[..., :1, :]), back.w[..., 1:, :]], -2)


@forward(
    "depthwise_multiplier",
    "float32",
    "pytorch/pytorch#60460",
    "A depthwise 3x3 convolution with two outputs for each channel gives the second the values of the first.",
    differs=cnv((1, 2, 5, 5), (4, 1, 3, 3), groups=2),
    equals=cnv((1, 2, 5, 5), (2, 1, 3, 3), groups=2),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.kernel != (3, 3) or call.groups < 2 or call.w.shape[1] != 1 or len(call.w) != 2 * call.groups:
        return None
    at = -call.rank - 1
    return right.index_select(at, torch.arange(len(call.w)) // 2 * 2)


@forward(
    "int8_groups",
    "int8",
    "openxla/xla#49123",
    "A 1x1 convolution of int8 in two groups returns 0 in its last channel.",
    differs=cnv((1, 4, 1, 1), (4, 2, 1, 1), groups=2),
    equals=cnv((1, 4, 1, 1), (4, 4, 1, 1)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.groups != 2 or set(call.kernel) != {1} or right.dtype != torch.int8:
        return None
    return spoiled(right, (..., -1, *[slice(None)] * call.rank))
