"""Kernels that go wrong for some stride, dilation or order of entries, and on maps larger than the kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import (
    BATCH,
    BOUNDARIES,
    DENSE,
    EXACT,
    FORWARD,
    FREE_PARAMETERS,
    NOT_EQUIVALENT,
    ROUND_TRIP,
    WEIGHT_RECOVERY,
)
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import (
    given,
    is_channels_last,
    is_strided,
    last_off,
    replaced,
    result,
    tf32,
    through,
    zero_from,
)

# --- stride and dilation ----------------------------------------------------------------------------------------------

stride_fault = Faults(kind="kernel", laws=(FREE_PARAMETERS, DENSE))

stride_fault("stride-equals-kernel-bfloat16", "dtype x free parameters", profile="gate", dtypes=("bfloat16",))(
    "A bfloat16 convolution whose stride equals its kernel, above 1, is wrong in its last entry where the width is 1.",
    "pytorch/pytorch#188426, oneDNN#4684",
).where(
    lambda c: (
        c.is_conv
        and c.weight.dtype == torch.bfloat16
        and c.stride == c.kernel
        and min(c.kernel) > 1
        and c.spatial[-1] < 2 * c.kernel[-1]
    ),
    last_off,
)
stride_fault("patch-embedding-stride", "free parameters", profile="deep")(
    "conv2d whose stride equals its kernel, above 1, is wrong in its last entry.", "oneDNN#2303, in float32"
).where(lambda c: c.dims == 2 and c.stride == c.kernel and min(c.kernel) > 1, last_off)
stride_fault("stride-above-1-full", "free parameters")(
    "A convolution with a kernel and a stride above 1 is wrong in its last entry.", "pytorch/pytorch#82921"
).where(lambda c: c.is_conv and max(c.kernel) > 1 and max(c.stride) > 1, last_off)
stride_fault("unequal-strides", "free parameters")(
    "conv2d is wrong in its last entry where its two strides differ.", "pytorch/pytorch#83180"
).where(lambda c: c.dims == 2 and c.stride[0] != c.stride[1], last_off)
stride_fault("equal-strides-above-1", "free parameters")(
    "conv2d is wrong in its last entry where its two strides are the same and above 1.",
    "pytorch/pytorch#82921, in two dimensions",
).where(lambda c: c.dims == 2 and c.stride[0] == c.stride[1] > 1, last_off)
stride_fault("stride-over-16", "free parameters", profile="gate", laws=(FREE_PARAMETERS,))(
    "A convolution with a stride above 16 is wrong in its last entry.", "pytorch/pytorch#60075, forward"
).where(lambda c: c.is_conv and max(c.stride) > 16, last_off)
stride_fault("stride-2-batch-64", "free parameters x batch", profile="gate")(
    "A convolution with a stride of 2 or more is wrong in its last entry from 64 samples on.",
    "textbook: a pair of conditions that no single test has",
).where(lambda c: c.is_conv and max(c.stride) > 1 and c.rows >= 64, last_off)
stride_fault("dilated-pointwise-conv1d", "free parameters", laws=(FREE_PARAMETERS,))(
    "conv1d with a kernel of 1 and a dilation above 1 is wrong in its last entry.",
    "textbook: a dilation that does nothing takes another path",
).where(lambda c: c.dims == 1 and c.is_pointwise and c.dilation[0] > 1, last_off)
stride_fault("bias-scaled-with-stride", "bias x free parameters")(
    "A convolution with a stride above 1 adds the bias twice.", "openxla/xla#46110"
).where(
    lambda c: c.is_conv and c.bias is not None and max(c.stride) > 1,
    lambda c: c.run(bias=None if c.bias is None else c.bias * 2),
)


def _first_windows(c: KernelCall, **changed: Any) -> Tensor:
    """What another stride or dilation gives, cut to the size of the right result."""
    return c.run(**changed)[tuple(slice(0, size) for size in c.run().shape)].contiguous()


stride_fault("stride-ignored", "dense x free parameters", laws=(DENSE, NOT_EQUIVALENT))(
    "A convolution over a map larger than its kernel takes its windows one step apart, whatever its stride.",
    "textbook: stride ignored",
).where(lambda c: c.slides and max(c.stride) > 1, lambda c: _first_windows(c, stride=(1,) * c.dims))
stride_fault("dilation-ignored", "dense x free parameters", profile="gate", laws=(ROUND_TRIP,))(
    "A convolution with a kernel above 1 is not dilated, whatever its dilation.", "textbook: dilation ignored"
).where(
    lambda c: c.is_conv and any(d > 1 and k > 1 for d, k in zip(c.dilation, c.kernel, strict=True)),
    lambda c: _first_windows(c, dilation=(1,) * c.dims),
)
stride_fault("groups-ignored", "groups", profile="gate", laws=(ROUND_TRIP,))(
    "A convolution in groups gives every group the weights of the first.", "textbook: groups ignored"
).where(
    lambda c: c.groups > 1,
    lambda c: c.run(weight=c.weight[: c.outputs // c.groups].repeat(c.groups, *(1,) * (c.dims + 1))),
)
stride_fault("padding-repeats-the-edge", "padding", profile="gate", laws=(ROUND_TRIP,))(
    "A convolution with padding is wrong in its last entry.", "tensorflow-fcn#27, of the kernel"
).where(lambda c: any(c.pads), last_off)

# --- sliding ----------------------------------------------------------------------------------------------------------

map_fault = Faults(kind="kernel", laws=(DENSE, NOT_EQUIVALENT))

map_fault("sliding-last-position", "dense")(
    "A convolution over a map larger than its kernel leaves its last position at zero.",
    "textbook: a loop that ends one early",
).where(lambda c: c.slides, lambda c: zero_from(y, -1, -1) if (y := c.run()).shape[-1] > 1 else y)
map_fault("sliding-stride-3-conv3d", "dense x free parameters", profile="gate")(
    "conv3d with a stride of 3 over a map larger than its kernel is wrong in its last entry.",
    "textbook: a combination that no fixed list of tests has",
).where(lambda c: c.dims == 3 and c.slides and 3 in c.stride, last_off)
map_fault("sliding-strided-weight", "dense x weight strides", profile="gate", laws=(DENSE,))(
    "A convolution over a map larger than its kernel is wrong in its last entry where its weight is strided.",
    "pytorch/pytorch#1246, on maps larger than the kernel",
).where(lambda c: c.slides and is_strided(c.weight), last_off)
map_fault("sliding-map-over-32", "dense", profile="gate")(
    "A convolution over a map larger than its kernel, with a side above 32, is wrong in its last entry.",
    "textbook: tiles of 32 positions",
).where(lambda c: c.slides and max(c.spatial) > 32, last_off)
map_fault("pointwise-nhwc-map", "dense x layout", profile="gate", laws=(DENSE,))(
    "A 1x1 convolution over a channels-last map of more than one position is wrong in its last entry.",
    "pytorch/pytorch#32395, forward",
).where(lambda c: c.is_pointwise and c.is_batched and c.slides and is_channels_last(c.x), last_off)
map_fault("pointwise-map-batch-4", "dense x batch", profile="gate")(
    "A 1x1 convolution over 4 maps of more than one position is wrong in its last entry.",
    "textbook: a batch of one vector",
).where(lambda c: c.is_pointwise and c.slides and c.rows == 4, last_off)
map_fault("positions-transposed", "dense", profile="gate")(
    "A 1x1 conv2d over a square map exchanges the rows and columns of its result.", "textbook: H and W exchanged"
).where(
    lambda c: c.dims == 2 and c.is_pointwise and c.spatial[0] == c.spatial[1] > 1 and c.stride == (1, 1),
    lambda c: c.run().transpose(-1, -2),
)
map_fault("pointwise-map-input-tf32", "dense x precision", kind="arithmetic", profile="gate", laws=(DENSE,))(
    "A 1x1 convolution over more than one position rounds its input to TF32.", "pytorch/pytorch#107514, of maps"
).where(lambda c: c.is_pointwise and math.prod(c.spatial) > 1 and c.is_of(torch.float32), given(tf32, "x"))
map_fault("sliding-input-fp16", "dense x precision", kind="arithmetic", profile="gate", laws=(DENSE,))(
    "A convolution with a kernel above 1 over a map larger than that rounds its input to float16.",
    "apple/coremltools#1671, of maps",
).where(lambda c: c.slides and not c.is_pointwise and c.is_of(torch.float32), given(through(torch.float16), "x"))


def _nan_everywhere(c: KernelCall) -> Tensor:
    y = c.run()
    each = (-1, *(1,) * (c.dims + 1)) if c.is_batched else ()
    spoilt = c.x.detach().isnan().flatten(1 if c.is_batched else 0).any(-1)
    return replaced(y, torch.where(spoilt.view(each), torch.nan, y.detach()))


map_fault("sliding-nan-spreads-over-map", "dense x special values", kind="values", profile="gate", laws=(DENSE,))(
    "A convolution over a map larger than its kernel gives NaN at every position of a sample with NaN in it.",
    "textbook: convolution by a transform of the whole map",
).where(lambda c: c.slides and c.x.is_floating_point() and bool(c.x.isnan().any()), _nan_everywhere)
map_fault("sliding-3x3-of-16-channels", "dense x channels", profile="gate", laws=(DENSE,))(
    "conv2d with a 3x3 kernel over 16 channels or more is wrong in its last entry on a larger map.",
    "textbook: blocked channels",
).where(lambda c: c.slides and c.kernel == (3, 3) and c.channels >= 16, last_off)
map_fault("sliding-7x7-stride-2-of-3-channels", "dense x channels x stride", profile="gate", laws=(DENSE,))(
    "conv2d with a 7x7 kernel and a stride of 2 over 3 channels is wrong in its last entry.",
    "textbook: the first layer of ResNet has a kernel of its own",
).where(lambda c: c.kernel == (7, 7) and c.stride == (2, 2) and c.channels == 3 and c.slides, last_off)
map_fault("sliding-batch-over-16", "dense x batch", profile="gate", laws=(DENSE,))(
    "A convolution with a kernel above 1 over more than 16 maps larger than that is wrong in its last entry.",
    "textbook: a batch of one vector",
).where(lambda c: c.slides and not c.is_pointwise and c.rows > 16, last_off)
map_fault("pointwise-map-batch-over-32", "dense x batch", profile="gate", laws=(DENSE,))(
    "A 1x1 convolution over more than 32 maps of more than one position is wrong in its last entry.",
    "textbook: a batch of one tile",
).where(lambda c: c.slides and c.is_pointwise and c.rows > 32, last_off)
map_fault("sliding-dilated", "dense x dilation", profile="gate", laws=(DENSE, ROUND_TRIP))(
    "A dilated convolution with a kernel above 1 is wrong in its last entry on a larger map.",
    "textbook: dilation takes another path",
).where(lambda c: c.slides and not c.is_pointwise and max(c.dilation) > 1, last_off)
map_fault("sliding-infinity-becomes-nan", "dense x special values", kind="values", profile="gate", laws=(DENSE,))(
    "A convolution over a map larger than its kernel gives NaN where the result is infinite.",
    "textbook: convolution by a transform of tiles",
).where(lambda c: c.slides and c.is_of(torch.float32), result(lambda y: y.masked_fill(y.isinf(), torch.nan)))
map_fault("sliding-negative-zero-taken-for-the-smallest", "dense x signed zeros", kind="values", laws=(DENSE,))(
    "A convolution over a map larger than its kernel takes negative zero for the most negative number.",
    "textbook: floats compared and ordered as integers",
).where(
    lambda c: c.slides and c.is_of(torch.float32),
    given(lambda t: t.masked_fill((t == 0) & t.signbit(), torch.finfo(t.dtype).min), "x"),
)
map_fault("sliding-nan-in-weight-swallowed", "dense x special values", kind="values", profile="gate", laws=(DENSE,))(
    "NaN in the weight counts as zero in a convolution over a map larger than its kernel.",
    "textbook: max and min that drop NaN",
).where(lambda c: c.slides and c.is_of(torch.float32), given(lambda t: t.masked_fill(t.isnan(), 0), "weight"))
map_fault("sliding-imaginary-input-ignored", "dense x dtype", dtypes=("complex64",), laws=(DENSE,))(
    "A convolution over a map larger than its kernel ignores the imaginary part of its input.",
    "textbook: a real kernel that is handed complex numbers",
).where(lambda c: c.slides and c.x.is_complex(), given(lambda t: t.real.to(t.dtype), "x"))
map_fault("sliding-input-conjugated", "dense x dtype", dtypes=("complex128",), laws=(DENSE, NOT_EQUIVALENT))(
    "A convolution over a map larger than its kernel conjugates its input.", "textbook: a correlation of signals"
).where(lambda c: c.slides and c.x.is_complex(), given(lambda t: t.conj().resolve_conj(), "x"))
map_fault("sliding-uint8-input-clamped-at-127", "dense x integers", dtypes=("uint8",), laws=(DENSE,))(
    "A convolution over a map larger than its kernel takes inputs above 127 in uint8 for 127.",
    "textbook: quantized kernels with signed inputs",
).where(lambda c: c.slides and c.is_of(torch.uint8), given(lambda t: t.clamp(max=127), "x"))
map_fault("sliding-int16-input-in-8-bits", "dense x integers", dtypes=("int16",), laws=(DENSE,))(
    "A convolution over a map larger than its kernel takes the low 8 bits of its input in int16.",
    "textbook: a narrow load",
).where(lambda c: c.slides and c.is_of(torch.int16), given(lambda t: t.to(torch.int8).to(torch.int16), "x"))
map_fault("sliding-int8-products-saturate", "dense x integers", dtypes=("int8",), laws=(DENSE, NOT_EQUIVALENT))(
    "A convolution over a map larger than its kernel stops at the ends of int8 instead of wrapping around.",
    "textbook: quantized kernels",
).where(lambda c: c.slides and c.is_of(torch.int8), lambda c: c.run_in(torch.int32).clamp(-128, 127).to(torch.int8))
map_fault("kernel-spans-height-batch", "kernel x batch", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, BOUNDARIES))(
    "conv2d whose kernel spans the height of the map, above 1, is wrong in its last sample from two samples on.",
    "pytorch/pytorch#188335",
).where(lambda c: c.dims == 2 and c.is_batched and c.rows > 1 and c.kernel[0] == c.spatial[0] > 1, last_off)
map_fault("width-1-height-above", "kernel", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, BOUNDARIES))(
    "conv2d over a map of width 1 and a height above 1 is wrong in its last entry.",
    "pytorch/pytorch#188335, of the width",
).where(lambda c: c.dims == 2 and c.spatial[1] == 1 and c.spatial[0] > 1, last_off)

# --- order of the entries ---------------------------------------------------------------------------------------------

order_fault = Faults(kind="kernel", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, BOUNDARIES))

order_fault("kernel-read-as-hwc", "order")(
    "conv2d reads the entries of its weight in the order HWC.", "vlfeat/matconvnet#657, in the kernel"
).where(lambda c: c.dims == 2, lambda c: c.run(weight=c.weight.permute(0, 2, 3, 1).reshape(c.weight.shape)))
order_fault("square-kernel-transposed", "order", profile="gate")(
    "conv2d exchanges rows and columns of a square kernel.", "textbook: H and W exchanged"
).where(lambda c: c.dims == 2 and c.kernel[0] == c.kernel[1] > 1, lambda c: c.run(weight=c.weight.transpose(2, 3)))
order_fault("conv1d-kernel-flipped", "order")(
    "conv1d turns its kernel around: the convolution of mathematics instead of the correlation.",
    "textbook: convolution and correlation",
).where(lambda c: c.dims == 1, lambda c: c.run(weight=c.weight.flip(2)))
order_fault("cube-depth-and-width-exchanged", "order", profile="gate")(
    "conv3d exchanges depth and width of a kernel in which they are the same.", "textbook: D and W exchanged"
).where(lambda c: c.dims == 3 and c.kernel[0] == c.kernel[2] > 1, lambda c: c.run(weight=c.weight.transpose(2, 4)))
order_fault("channels-shifted-by-one", "order x channels", profile="gate")(
    "A convolution shifts the channels by one where 16 divides their number.", "textbook: blocked channels"
).where(lambda c: c.is_conv and c.channels % 16 == 0, lambda c: c.run(weight=c.weight.roll(1, 1)))
order_fault("rows-shifted", "batch", laws=(EXACT, BATCH, FORWARD))(
    "The rows of the result are shifted by one.", "textbook: an index that is off by one"
).where(lambda c: c.rows > 1 and (c.is_batched if c.is_conv else c.x.ndim == 2), lambda c: c.run().roll(1, 0))
