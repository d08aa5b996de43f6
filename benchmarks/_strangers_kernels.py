"""Faults of kernels, strides and dilations, most of them over maps that are larger than the kernel."""

# ruff: noqa: ARG001 - all faults of a kind get the same, whatever they look at
from __future__ import annotations

from typing import Any

import torch
from _strangers_base import Back, Call, Owned, Torch, backward, cnv, fault, forward, own, spoiled, tf32
from torch import Tensor


@forward(
    "dilation_ignored_3d",
    "float32",
    "deeplearning4j/deeplearning4j#8320",
    "A 3-D convolution ignores its dilation.",
    differs=cnv((1, 2, 5, 5, 5), (2, 2, 2, 2, 2), dilation=2),
    equals=cnv((1, 2, 5, 5), (2, 2, 2, 2), dilation=2),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 3 or set(call.dilation) == {1}:
        return None
    size = [slice(0, one) for one in right.shape[-3:]]
    return call.torch(dilation=1)[(..., *size)]


@forward(
    "winograd_last_tile",
    "float32",
    "adam-dziedzic/winograd#1",
    "A 3x3 convolution, stride 1, in tiles of 4x4: in a last tile that is not whole, columns repeat the first.",
    differs=cnv((1, 2, 8, 8), (2, 2, 3, 3)),
    equals=cnv((1, 2, 6, 6), (2, 2, 3, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    width = right.shape[-1]
    if call.kernel != (3, 3) or not call.plain or width <= 4 or not width % 4:
        return None
    first = width // 4 * 4
    if width - first < 2:
        return None
    return spoiled(right, (..., slice(first, None)), right[..., first : first + 1])


@forward(
    "tall_kernel",
    "float32",
    "apache/tvm#3648",
    "A 2-D convolution with a kernel that is taller than wide, and wider than 1, stops after as many rows as columns.",
    differs=cnv((1, 2, 5, 5), (2, 2, 3, 2)),
    equals=cnv((1, 2, 5, 5), (2, 2, 2, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 2 or not call.kernel[0] > call.kernel[1] > 1:
        return None
    return call.torch(w=spoiled(call.w, (..., slice(call.kernel[1], None), slice(None))))


@forward(
    "kernel_256",
    "float32",
    "pytorch/pytorch#188359",
    "A 2-D convolution with a kernel of 256 rows or columns and more leaves out the 256th and all beyond.",
    differs=cnv((1, 1, 256, 2), (2, 1, 256, 1)),
    equals=cnv((1, 1, 256, 2), (2, 1, 255, 1)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 2 or max(call.kernel) < 256:
        return None
    return call.torch(w=spoiled(spoiled(call.w, (..., slice(255, None), slice(None))), (..., slice(255, None))))


@forward(
    "patches_of_14",
    "float32",
    "NVIDIA/TensorRT#4678",
    "A 2-D convolution with kernel and stride both 14 takes patches row by row where it should go column by column.",
    differs=cnv((1, 3, 28, 28), (4, 3, 14, 14), stride=14),
    equals=cnv((1, 3, 26, 26), (4, 3, 13, 13), stride=13),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 2 or call.kernel != (14, 14) or call.stride != (14, 14) or right.shape[-1] != right.shape[-2]:
        return None
    return right.transpose(-1, -2).contiguous() if right.shape[-1] > 1 else None


@forward(
    "pointwise_stride",
    "float32",
    "pulp-platform/pulp-nn#9",
    "A 1x1 convolution with a stride takes the first positions of the map, as a matrix product without strides does.",
    differs=cnv((1, 3, 5, 5), (2, 3, 1, 1), stride=2),
    equals=cnv((1, 3, 5, 5), (2, 3, 1, 1)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if not call.rank or set(call.kernel) != {1} or set(call.stride) == {1} or not call.slides or any(call.padding):
        return None
    sizes = tuple(slice(0, one) for one in right.shape[-call.rank :])
    return call.torch(x=call.x[(..., *sizes)], stride=1)


@forward(
    "winograd_tf32",
    "float32",
    "ml-explore/mlx#4242",
    "A 3x3 convolution, stride 1, of multiples of 32 channels to multiples of 32 multiplies in TF32.",
    differs=cnv((1, 32, 4, 4), (32, 32, 3, 3), x=lambda x: x + x * 2.0**-12),
    equals=cnv((1, 31, 4, 4), (32, 31, 3, 3), x=lambda x: x + x * 2.0**-12),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    outputs, channels = call.w.shape[:2]
    if call.kernel != (3, 3) or not call.plain or channels % 32 or outputs % 32 or right.dtype != torch.float32:
        return None
    return call.torch(x=tf32(call.x), w=tf32(call.w))


@forward(
    "strided_depth",
    "float32",
    "ml-explore/mlx#2038",
    "A 3-D convolution with stride 2 and an even kernel depth takes each depth but the first one too early.",
    differs=cnv((1, 2, 6, 5, 5), (2, 2, 2, 3, 3), stride=2),
    equals=cnv((1, 2, 7, 5, 5), (2, 2, 3, 3, 3), stride=2),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 3 or call.stride[0] != 2 or call.kernel[0] % 2 or right.shape[-3] < 2 or any(call.padding):
        return None
    early = call.torch(x=call.x[..., 1:, :, :])
    wrong = right.clone()
    wrong[..., 1:, :, :] = early[..., : right.shape[-3] - 1, :, :]
    return wrong


@backward(
    "gradient_of_remainder",
    "float32",
    "torch/DEPRECEATED-torch7-distro#20",
    "Where the stride leaves a remainder, the input gradient of positions that no kernel reaches repeats the last.",
    differs=cnv((1, 2, 8), (2, 2, 3), stride=2, grads="xw"),
    equals=cnv((1, 2, 7), (2, 2, 3), stride=2, grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if not call.rank or any(call.padding):
        return
    left = (call.x.shape[-1] - call.dilation[-1] * (call.kernel[-1] - 1) - 1) % call.stride[-1]
    if left:
        reached = back.x[..., :-left]
        back.x = torch.cat([reached, *[reached[..., -1:]] * left], -1)


@backward(
    "pointwise_gradient_planes",
    "float32",
    "soumith/cudnn.torch#28",
    "The input gradient of a 1x1 convolution over a map reaches the first channel alone.",
    differs=cnv((1, 2, 3, 3), (2, 2, 1, 1), grads="xw"),
    equals=cnv((1, 2, 1, 1), (2, 2, 1, 1), grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if call.rank == 2 and call.kernel == (1, 1) and call.slides:
        at = -call.rank - 1
        first = back.x.narrow(at, 0, 1)
        back.x = torch.cat([first, torch.zeros_like(back.x.narrow(at, 1, back.x.shape[at] - 1))], at)


@backward(
    "weight_gradient_shuffled",
    "float32",
    "apple/tensorflow_macos#230",
    "The weight gradient of a sliding 2-D convolution of several channels has the right entries in HWIO's order.",
    differs=cnv((1, 2, 3, 3), (1, 2, 2, 2), grads="xw"),
    equals=cnv((1, 1, 3, 3), (1, 1, 2, 2), grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if call.rank == 2 and call.slides and call.w.shape[1] > 1:
        back.w = back.w.permute(0, 2, 3, 1).reshape(back.w.shape)


@backward(
    "weight_gradient_odd_width",
    "float32",
    "ROCm/MIOpen#77",
    "The weight gradient of a 3x3 convolution with a horizontal stride of 2 over an odd width lacks the last column.",
    differs=cnv((1, 2, 5, 7), (1, 2, 3, 3), stride=(1, 2), grads="xw"),
    equals=cnv((1, 2, 5, 8), (1, 2, 3, 3), stride=(1, 2), grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if call.kernel == (3, 3) and call.stride[1] == 2 and call.x.shape[-1] % 2 and back.g.shape[-1] > 1:
        cut = torch.cat([back.g[..., :-1], torch.zeros_like(back.g[..., -1:])], -1)
        x, g = (call.x, cut) if call.batched else (call.x[None], cut[None])
        back.w = torch.ops.aten.convolution_backward(
            g,
            x,
            call.w,
            None,
            call.stride,
            call.padding,
            call.dilation,
            False,
            [0, 0],
            call.groups,
            [False, True, False],
        )[1]


@backward(
    "weight_gradient_wide_stride",
    "float32",
    "pytorch/pytorch#68868",
    "The weight gradient of a 3-D convolution whose stride is larger than its kernel counts the first sample alone.",
    differs=cnv((2, 2, 5, 5, 5), (1, 2, 2, 2, 2), stride=3, grads="xw"),
    equals=cnv((2, 2, 5, 5, 5), (1, 2, 2, 2, 2), stride=2, grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if call.rank == 3 and call.batched and call.rows > 1 and call.stride[0] > call.kernel[0]:
        back.w = torch.nn.grad.conv3d_weight(
            call.x[:1], call.w.shape, back.g[:1], call.stride, call.padding, call.dilation, call.groups
        )


def _twice(backend: Any, dtype: torch.dtype) -> list[Tensor]:
    first = cnv((1, 3, 9, 9), (3, 3, 2, 2), stride=3, grads="xw")
    second = cnv((1, 3, 9, 9), (3, 3, 2, 2), stride=3, dilation=2, grads="xw")
    return [*first(backend, dtype), *second(backend, dtype)]


@fault(
    "dilation_of_cached_plan",
    "float32",
    "pytorch/xla#1017",
    "The plan of an input gradient is found by shapes and stride alone: another dilation before it is used again.",
    differs=_twice,
    equals=cnv((1, 3, 9, 9), (3, 3, 2, 2), stride=3, dilation=2, grads="xw"),
)
class CachedPlan(Torch):
    control = Owned

    def __init__(self) -> None:
        self.memory: dict[Any, Any] = {}

    def run(self, call: Call) -> Tensor:
        return own(call, self.alter, self.memory) if call.rank and call.batched else call.torch()

    def alter(self, back: Back) -> None:
        call = back.call
        key = (call.x.shape, call.w.shape, call.stride, call.padding)
        dilation = self.memory.setdefault(key, call.dilation)
        sizes = call.torch(dilation=dilation).shape[2:]
        if dilation != call.dilation and sizes == back.g.shape[2:]:
            back.x = torch.ops.aten.convolution_backward(
                *(back.g, call.x, call.w, None, call.stride, call.padding, dilation, False, [0] * call.rank),
                *(call.groups, [True, False, False]),
            )[0]
