"""Kernels that go wrong for some stride, dilation or order of entries, and on maps larger than the kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.testing.faults._arithmetic import given, is_of, tf32, through
from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import KernelCall, is_channels_last, is_strided, last_entry_off, replaced

FREE = ("free_parameters", "dense")
DENSE = ("dense", "not_equivalent")
ORDER = ("exact", "readback", "forward", "boundaries")


def _last_off(c: KernelCall) -> Tensor:
    return last_entry_off(c.run())


# --- stride and dilation ----------------------------------------------------------------------------------------------

kernel_fault(
    "stride-equals-kernel-bfloat16",
    "A convolution in bfloat16 whose stride equals its kernel, above 1, errs in its last entry where the width is 1.",
    source="pytorch/pytorch#188426, oneDNN#4684",
    dimension="dtype x free parameters",
    profile="gate",
    dtypes=("bfloat16",),
    when=lambda c: (
        c.is_conv
        and c.weight.dtype == torch.bfloat16
        and c.stride == c.kernel
        and min(c.kernel) > 1
        and c.spatial[-1] < 2 * c.kernel[-1]
    ),
    wrong=_last_off,
    laws=FREE,
)
kernel_fault(
    "patch-embedding-stride",
    "conv2d whose stride equals its kernel, above 1, errs in its last entry.",
    source="oneDNN#2303, in float32",
    dimension="free parameters",
    profile="deep",
    when=lambda c: c.dims == 2 and c.stride == c.kernel and min(c.kernel) > 1,
    wrong=_last_off,
    laws=FREE,
)
kernel_fault(
    "stride-above-1-full",
    "A convolution with a kernel and a stride above 1 errs in its last entry.",
    source="pytorch/pytorch#82921",
    dimension="free parameters",
    when=lambda c: c.is_conv and max(c.kernel) > 1 and max(c.stride) > 1,
    wrong=_last_off,
    laws=FREE,
)
kernel_fault(
    "unequal-strides",
    "conv2d errs in its last entry where its two strides differ.",
    source="pytorch/pytorch#83180",
    dimension="free parameters",
    when=lambda c: c.dims == 2 and c.stride[0] != c.stride[1],
    wrong=_last_off,
    laws=FREE,
)
kernel_fault(
    "equal-strides-above-1",
    "conv2d errs in its last entry where its two strides are the same and above 1.",
    source="pytorch/pytorch#82921, in two dimensions",
    dimension="free parameters",
    when=lambda c: c.dims == 2 and c.stride[0] == c.stride[1] > 1,
    wrong=_last_off,
    laws=FREE,
)
kernel_fault(
    "stride-over-16",
    "A convolution with a stride above 16 errs in its last entry.",
    source="pytorch/pytorch#60075, forward",
    dimension="free parameters",
    profile="gate",
    when=lambda c: c.is_conv and max(c.stride) > 16,
    wrong=_last_off,
    laws=("free_parameters",),
)
kernel_fault(
    "stride-2-batch-64",
    "A convolution with a stride of 2 or more errs in its last entry from 64 samples on.",
    source="textbook: a pair of conditions that no single test has",
    dimension="free parameters x batch",
    profile="gate",
    when=lambda c: c.is_conv and max(c.stride) > 1 and c.rows >= 64,
    wrong=_last_off,
    laws=FREE,
)
kernel_fault(
    "dilated-pointwise-conv1d",
    "conv1d with a kernel of 1 and a dilation above 1 errs in its last entry.",
    source="textbook: a dilation that does nothing takes another path",
    dimension="free parameters",
    when=lambda c: c.dims == 1 and c.is_pointwise and c.dilation[0] > 1,
    wrong=_last_off,
    laws=("free_parameters",),
)
kernel_fault(
    "bias-scaled-with-stride",
    "A convolution with a stride above 1 adds the bias twice.",
    source="openxla/xla#46110",
    dimension="bias x free parameters",
    when=lambda c: c.is_conv and c.bias is not None and max(c.stride) > 1,
    wrong=lambda c: c.run(bias=None if c.bias is None else c.bias * 2),
    laws=FREE,
)


def _positions(c: KernelCall, y: Tensor) -> bool:
    return math.prod(y.shape[y.ndim - c.dims :]) > 1


def _with_stride_1(c: KernelCall) -> Tensor:
    """The windows of stride 1 in the places of the others."""
    y = c.run(stride=(1,) * c.dims)
    size = c.run().shape
    return y[tuple(slice(0, s) for s in size)].contiguous()


kernel_fault(
    "stride-ignored",
    "A convolution that slides takes its windows one step apart, whatever its stride.",
    source="textbook: stride ignored",
    dimension="dense x free parameters",
    when=lambda c: c.slides and max(c.stride) > 1,
    wrong=_with_stride_1,
    laws=DENSE,
)
kernel_fault(
    "dilation-ignored",
    "A convolution with a kernel above 1 is not dilated, whatever its dilation.",
    source="textbook: dilation ignored",
    dimension="dense x free parameters",
    profile="gate",
    when=lambda c: c.is_conv and any(d > 1 and k > 1 for d, k in zip(c.dilation, c.kernel, strict=True)),
    wrong=lambda c: c.run(dilation=(1,) * c.dims)[tuple(slice(0, s) for s in c.run().shape)].contiguous(),
    laws=("round_trip",),
)
kernel_fault(
    "groups-ignored",
    "A convolution in groups gives every group the weights of the first.",
    source="textbook: groups ignored",
    dimension="groups",
    profile="gate",
    when=lambda c: c.groups > 1,
    wrong=lambda c: c.run(weight=c.weight[: c.outputs // c.groups].repeat(c.groups, *(1,) * (c.dims + 1))),
    laws=("round_trip",),
)
kernel_fault(
    "padding-repeats-the-edge",
    "A convolution with padding errs in its last entry.",
    source="tensorflow-fcn#27, of the kernel",
    dimension="padding",
    profile="gate",
    when=lambda c: c.is_conv and not (c.padding == "valid" or c.padding in (0, (0,) * c.dims)),
    wrong=_last_off,
    laws=("round_trip",),
)

# --- sliding ----------------------------------------------------------------------------------------------------------

kernel_fault(
    "sliding-last-position",
    "A convolution that slides leaves its last position at zero.",
    source="textbook: a loop that ends one early",
    dimension="dense",
    when=lambda c: c.slides,
    wrong=lambda c: (
        torch.cat([(y := c.run())[..., :-1], torch.zeros_like(y[..., -1:])], -1) if c.run().shape[-1] > 1 else c.run()
    ),
    laws=DENSE,
)
kernel_fault(
    "sliding-stride-3-conv3d",
    "conv3d that slides with a stride of 3 errs in its last entry.",
    source="textbook: a combination that no fixed list of tests has",
    dimension="dense x free parameters",
    profile="gate",
    when=lambda c: c.dims == 3 and c.slides and 3 in c.stride,
    wrong=_last_off,
    laws=DENSE,
)
kernel_fault(
    "sliding-strided-weight",
    "A convolution that slides errs in its last entry where its weight is strided.",
    source="pytorch/pytorch#1246, on maps larger than the kernel",
    dimension="dense x weight strides",
    profile="gate",
    when=lambda c: c.slides and is_strided(c.weight),
    wrong=_last_off,
    laws=("dense",),
)
kernel_fault(
    "sliding-map-over-32",
    "A convolution that slides over a map with a side above 32 errs in its last entry.",
    source="textbook: tiles of 32 positions",
    dimension="dense",
    profile="gate",
    when=lambda c: c.slides and max(c.spatial) > 32,
    wrong=_last_off,
    laws=DENSE,
)
kernel_fault(
    "pointwise-nhwc-map",
    "A 1x1 convolution over a channels-last map of more than one position errs in its last entry.",
    source="pytorch/pytorch#32395, forward",
    dimension="dense x layout",
    profile="gate",
    when=lambda c: c.is_pointwise and c.is_batched and c.slides and is_channels_last(c.x),
    wrong=_last_off,
    laws=("dense",),
)
kernel_fault(
    "pointwise-map-batch-4",
    "A 1x1 convolution over 4 maps of more than one position errs in its last entry.",
    source="textbook: a batch of one vector",
    dimension="dense x batch",
    profile="gate",
    when=lambda c: c.is_pointwise and c.slides and c.rows == 4,
    wrong=_last_off,
    laws=DENSE,
)
kernel_fault(
    "positions-transposed",
    "A 1x1 conv2d over a square map exchanges the rows and columns of its result.",
    source="textbook: H and W exchanged",
    dimension="dense",
    profile="gate",
    when=lambda c: c.dims == 2 and c.is_pointwise and c.spatial[0] == c.spatial[1] > 1 and c.stride == (1, 1),
    wrong=lambda c: c.run().transpose(-1, -2),
    laws=DENSE,
)
kernel_fault(
    "pointwise-map-input-tf32",
    "A 1x1 convolution over more than one position rounds its input to TF32.",
    source="pytorch/pytorch#107514, of maps",
    kind="arithmetic",
    dimension="dense x precision",
    profile="gate",
    when=lambda c: c.is_pointwise and math.prod(c.spatial) > 1 and is_of(torch.float32)(c),
    wrong=given(tf32, "x"),
    laws=("dense",),
)
kernel_fault(
    "sliding-input-fp16",
    "A convolution with a kernel above 1 over a map larger than that rounds its input to float16.",
    source="apple/coremltools#1671, of maps",
    kind="arithmetic",
    dimension="dense x precision",
    profile="gate",
    when=lambda c: c.slides and not c.is_pointwise and is_of(torch.float32)(c),
    wrong=given(through(torch.float16), "x"),
    laws=("dense",),
)


def _nan_everywhere(c: KernelCall) -> Tensor:
    y = c.run()
    each = (-1, *(1,) * (c.dims + 1)) if c.is_batched else ()
    spoilt = c.x.detach().isnan().flatten(1 if c.is_batched else 0).any(-1)
    return replaced(y, torch.where(spoilt.view(each), torch.nan, y.detach()))


kernel_fault(
    "sliding-nan-spreads-over-map",
    "A convolution over a map larger than its kernel gives NaN at every position of a sample with NaN in it.",
    source="textbook: convolution by a transform of the whole map",
    kind="values",
    dimension="dense x special values",
    profile="gate",
    when=lambda c: c.slides and c.x.is_floating_point() and bool(c.x.isnan().any()),
    wrong=_nan_everywhere,
    laws=("dense",),
)
kernel_fault(
    "kernel-spans-height-batch",
    "conv2d whose kernel spans the height of the map, above 1, is wrong in its last sample from two samples on.",
    source="pytorch/pytorch#188335",
    dimension="kernel x batch",
    when=lambda c: c.dims == 2 and c.is_batched and c.rows > 1 and c.kernel[0] == c.spatial[0] > 1,
    wrong=_last_off,
    laws=ORDER,
)
kernel_fault(
    "width-1-height-above",
    "conv2d over a map of width 1 and a height above 1 errs in its last entry.",
    source="pytorch/pytorch#188335, of the width",
    dimension="kernel",
    when=lambda c: c.dims == 2 and c.spatial[1] == 1 and c.spatial[0] > 1,
    wrong=_last_off,
    laws=ORDER,
)

# --- order of the entries ---------------------------------------------------------------------------------------------

kernel_fault(
    "kernel-read-as-hwc",
    "conv2d reads the entries of its weight in the order HWC.",
    source="vlfeat/matconvnet#657, in the kernel",
    dimension="order",
    when=lambda c: c.dims == 2,
    wrong=lambda c: c.run(weight=c.weight.permute(0, 2, 3, 1).reshape(c.weight.shape)),
    laws=ORDER,
)
kernel_fault(
    "square-kernel-transposed",
    "conv2d exchanges rows and columns of a square kernel.",
    source="textbook: H and W exchanged",
    dimension="order",
    profile="gate",
    when=lambda c: c.dims == 2 and c.kernel[0] == c.kernel[1] > 1,
    wrong=lambda c: c.run(weight=c.weight.transpose(2, 3)),
    laws=ORDER,
)
kernel_fault(
    "conv1d-kernel-flipped",
    "conv1d turns its kernel around: the convolution of mathematics instead of the correlation.",
    source="textbook: convolution and correlation",
    dimension="order",
    when=lambda c: c.dims == 1,
    wrong=lambda c: c.run(weight=c.weight.flip(2)),
    laws=ORDER,
)
kernel_fault(
    "cube-depth-and-width-exchanged",
    "conv3d exchanges depth and width of a kernel in which they are the same.",
    source="textbook: D and W exchanged",
    dimension="order",
    profile="gate",
    when=lambda c: c.dims == 3 and c.kernel[0] == c.kernel[2] > 1,
    wrong=lambda c: c.run(weight=c.weight.transpose(2, 4)),
    laws=ORDER,
)
kernel_fault(
    "channels-shifted-by-one",
    "A convolution shifts the channels by one where 16 divides their number.",
    source="textbook: blocked channels",
    dimension="order x channels",
    profile="gate",
    when=lambda c: c.is_conv and c.channels % 16 == 0,
    wrong=lambda c: c.run(weight=c.weight.roll(1, 1)),
    laws=ORDER,
)
kernel_fault(
    "rows-shifted",
    "The rows of the result are shifted by one.",
    source="textbook: an index that is off by one",
    dimension="batch",
    when=lambda c: c.rows > 1 and (c.is_batched if c.is_conv else c.x.ndim == 2),
    wrong=lambda c: c.run().roll(1, 0),
    laws=("exact", "batch", "forward"),
)
