"""Kernels that go wrong on some layout in memory: strides, offsets, broadcasts, memory formats, lazy views."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BATCH, DENSE, FREE_PARAMETERS, LAYOUT, PURITY
from equiv.testing.faults.kernel import KernelCall, without_onednn
from equiv.testing.faults.tools import (
    as_contiguous,
    has_odd_unit_strides,
    is_channels_last,
    is_strided,
    last_off,
    replaced,
    zero_from,
)


def _is_step_slice(c: KernelCall) -> bool:
    if c.dims != 2 or min(c.kernel) < 2:
        return False
    return c.weight.stride(-1) == 2 and c.weight.stride(-2) >= 4 * c.kernel[-1] - 2


fault = Faults(kind="kernel", laws=(LAYOUT, FREE_PARAMETERS, PURITY, DENSE))

fault("weight-step-slice", "weight strides", profile="gate")(
    "conv2d with a kernel above 1 in both directions reads a slice w[:, :, ::2, ::2] as if it were contiguous.",
    "pytorch/pytorch#1246",
).where(_is_step_slice, as_contiguous("weight"))
fault("pointwise-strided-weight-batch-64", "weight strides x batch", profile="gate")(
    "A 1x1 convolution of 64 samples or more reads a strided weight as if it were contiguous.",
    "pytorch/pytorch#55781",
).where(lambda c: c.is_pointwise and c.rows >= 64 and is_strided(c.weight), as_contiguous("weight"))
fault("pointwise-strided-weight-batch-64-without-onednn", "weight strides x batch x flag", profile="gate")(
    "oneDNN is off, and a 1x1 convolution of 64 samples or more reads a strided weight as if it were contiguous.",
    "pytorch/pytorch#55781, with the flag of the thread",
).where(
    lambda c: c.is_pointwise and c.rows >= 64 and is_strided(c.weight), as_contiguous("weight"), within=without_onednn
)
fault("strided-weight-batch-64-linear", "weight strides x batch", profile="gate")(
    "linear of 64 rows or more reads a strided weight as if it were contiguous.", "pytorch/pytorch#55781, in linear"
).where(lambda c: c.is_linear and c.rows >= 64 and is_strided(c.weight), as_contiguous("weight"))
fault("strided-weight-batch-17", "weight strides x batch", profile="deep")(
    "A strided weight is read as if it were contiguous where the batch is 1 more than a multiple of 16, above 16.",
    "pytorch/pytorch#55781, at a remainder of the batch",
).where(lambda c: c.rows > 16 and c.rows % 16 == 1 and is_strided(c.weight), as_contiguous("weight"))
fault("strided-weight-bfloat16-33-outputs", "weight strides x output channels x dtype", dtypes=("bfloat16",))(
    "A strided weight of more than 32 outputs is read as if it were contiguous, in bfloat16.",
    "textbook: a packed kernel behind a size threshold",
).where(lambda c: c.weight.dtype == torch.bfloat16 and c.outputs > 32 and is_strided(c.weight), as_contiguous("weight"))
fault("conv2d-weight-not-contiguous", "weight strides")(
    "conv2d reads any weight that is not contiguous as if it were.", "pytorch/pytorch#192212"
).where(lambda c: c.dims == 2 and is_strided(c.weight), as_contiguous("weight"))
fault("weight-odd-strides-of-size-1", "strides of size-1 dimensions")(
    "A convolution is wrong in its last entry where its weight is contiguous with odd strides on dimensions of size 1.",
    "pytorch/pytorch#120547",
).where(lambda c: c.is_conv and has_odd_unit_strides(c.weight), last_off)
fault("input-odd-strides-of-size-1-conv1d", "strides of size-1 dimensions")(
    "conv1d is wrong in its last entry where the input is contiguous but has odd strides on dimensions of size 1.",
    "pytorch/pytorch#120547, of the input",
).where(lambda c: c.dims == 1 and has_odd_unit_strides(c.x), last_off)
fault("batch-of-one-with-stride-0", "strides of size-1 dimensions", profile="gate")(
    "A convolution of one sample is wrong in its last entry where the stride of the batch dimension is 0.",
    "huggingface/candle#3744, of one sample",
).where(lambda c: c.is_conv and c.is_batched and c.rows == 1 and c.x.stride(0) == 0, last_off)
fault("pointwise-weight-offset-ignored", "storage offset")(
    "A 1x1 convolution reads a contiguous weight from the start of its storage, whatever its offset.",
    "huggingface/candle#3736",
).where(
    lambda c: c.is_pointwise and c.weight.storage_offset() > 0 and c.weight.is_contiguous(), as_contiguous("weight", 0)
)
fault("input-offset-not-aligned", "storage offset", profile="gate")(
    "linear with n a multiple of 8 is wrong in its last entry where the input's offset is no multiple of 4.",
    "textbook: an aligned vector load chosen by size alone",
).where(lambda c: c.is_linear and c.n % 8 == 0 and c.x.storage_offset() % 4 != 0, last_off)
fault("bias-offset-ignored-float16", "storage offset", dtypes=("float16",))(
    "linear in float16 reads the bias from the start of its storage, whatever its offset.",
    "huggingface/candle#3736, of the bias",
).where(
    lambda c: c.is_linear and c.bias is not None and c.bias.dtype == torch.float16 and c.bias.storage_offset() > 0,
    as_contiguous("bias", 0),
)


fault("broadcast-batch", "broadcast batch", laws=(BATCH, LAYOUT, FREE_PARAMETERS, PURITY, DENSE))(
    "A convolution of a batch that is one sample repeated with stride 0 computes the first and leaves the others zero.",
    "huggingface/candle#3744",
).where(lambda c: c.is_conv and c.is_batched and c.rows > 1 and c.x.stride(0) == 0, lambda c: zero_from(c.run(), 1))
fault("broadcast-weight-outputs", "broadcast weight", profile="gate")(
    "The last entry is wrong where all outputs share one row of weights with stride 0.",
    "huggingface/candle#3744, of the weight",
).where(lambda c: c.outputs > 1 and c.weight.stride(0) == 0, last_off)
fault("broadcast-bias-conv", "broadcast bias")(
    "A convolution is wrong in its last entry where the bias is one number repeated with stride 0.",
    "huggingface/candle#3744, of the bias",
).where(lambda c: c.is_conv and c.bias is not None and c.outputs > 1 and c.bias.stride(0) == 0, last_off)
fault("bias-step-slice", "bias strides")(
    "A bias with a step above 1 is read as if it were contiguous.", "pytorch/pytorch#1246, of the bias"
).where(lambda c: c.bias is not None and c.outputs > 1 and c.bias.stride(0) > 1, as_contiguous("bias"))
fault("conv3d-input-not-contiguous", "layout")(
    "conv3d reads an input with a step along its last dimension as if it were contiguous.", "pytorch/pytorch#197114"
).where(lambda c: c.dims == 3 and c.x.shape[-1] > 1 and c.x.stride(-1) > 1, as_contiguous("x"))
fault("channels-last-input", "layout")(
    "conv2d reads a channels-last input as if it were channels-first.", "pytorch/pytorch#32395, forward"
).where(lambda c: c.dims == 2 and c.is_batched and is_channels_last(c.x), as_contiguous("x"))
fault("unbatched-conv-permuted-input", "layout x batch rank", profile="gate", laws=(LAYOUT,))(
    "A convolution without a batch dimension reads an input that is not contiguous as if it were.",
    "pytorch/pytorch#32395, of one image HWC without a batch dimension",
).where(lambda c: c.is_conv and not c.is_batched and is_strided(c.x), as_contiguous("x"))
fault("channels-last-weight-conv3d", "layout", profile="gate")(
    "conv3d reads a channels-last weight as if it were channels-first.", "textbook: memory formats"
).where(lambda c: c.dims == 3 and is_channels_last(c.weight), as_contiguous("weight"))
fault("channels-last-both-odd-channels", "layout x channels", profile="deep", laws=(FREE_PARAMETERS, LAYOUT))(
    "conv2d is wrong in its last entry where input and weight are channels-last and 4 does not divide the channels.",
    "textbook: vectors along the channels",
).where(
    lambda c: (
        c.dims == 2 and c.is_batched and c.channels % 4 != 0 and is_channels_last(c.x) and is_channels_last(c.weight)
    ),
    last_off,
)
fault("channel-slice-of-channels-last", "layout x channels", profile="gate")(
    "conv2d over one channel is wrong in its last entry where that is a slice of a channels-last map.",
    "pytorch/pytorch#180984",
).where(
    lambda c: c.dims == 2 and c.is_batched and c.channels == 1 and c.spatial[-1] > 1 and c.x.stride(-1) > 1, last_off
)
fault("square-weight-transposed-in-memory", "weight strides")(
    "linear with as many outputs as inputs reads a weight that is a transposed view as if it were not transposed.",
    "textbook: the transposition flag of BLAS",
).where(
    lambda c: c.is_linear and c.outputs == c.n > 1 and c.weight.stride(0) == 1, lambda c: c.run(weight=c.weight.t())
)
fault("column-major-input-odd-n", "input strides x reduction")(
    "linear of a column-major input is wrong in its last entry where 8 does not divide n.",
    "textbook: the leading dimension of BLAS",
).where(
    lambda c: (
        c.is_linear and c.x.ndim == 2 and c.n % 8 != 0 and c.x.shape[0] > 1 and c.x.stride(0) == 1 and c.x.stride(1) > 1
    ),
    last_off,
)
fault("seq-first-transposed-rank3-input", "layout x rank", profile="gate", laws=(LAYOUT,))(
    "linear of an input whose first two of three dimensions are exchanged in memory reads it as if they were not.",
    "textbook: sequences first or batches first",
).where(
    lambda c: (
        c.is_linear and c.x.ndim == 3 and min(c.x.shape) > 1 and c.x.stride(0) < c.x.stride(1) and c.x.stride(2) == 1
    ),
    as_contiguous("x"),
)
fault("both-strided-batch-32", "layout x batch", profile="gate")(
    "The last entry is wrong where input and weight are both strided, from 32 rows on.",
    "textbook: a pair of conditions that no single test has",
).where(lambda c: c.rows >= 32 and is_strided(c.x) and is_strided(c.weight), last_off)


def _beyond(t: Tensor) -> int | None:
    """The place in the storage right after the last entry, if there is one and ``t`` has entries."""
    if t.numel() == 0:
        return None
    end = 1 + int(t.storage_offset()) + sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
    return end if end < t.untyped_storage().nbytes() // t.element_size() else None


def _with_zero_times_the_next(c: KernelCall) -> Tensor:
    y, end = c.run(), _beyond(c.x)
    assert end is not None
    return replaced(y, y + 0 * c.x.detach().as_strided((), (), end)) if y.numel() else y


fault("reads-past-the-end", "bounds")(
    "The entry that follows the input in memory is read, and added to every result times zero: NaN there spreads.",
    "textbook: a masked tail that is multiplied instead of skipped",
).where(lambda c: _beyond(c.x) is not None, _with_zero_times_the_next)
fault("negative-view-ignored", "lazy views")(
    "The sign of an input that is one of torch's lazy negative views is ignored.",
    "textbook: the negative bit of a view",
).where(lambda c: c.x.is_neg(), lambda c: c.run(x=-c.x))
fault("conjugate-weight-ignored", "lazy views", dtypes=("complex64",))(
    "The conjugation of a weight that is one of torch's lazy conjugate views is ignored.",
    "textbook: the conjugate bit of a view",
).where(lambda c: c.weight.is_conj(), lambda c: c.run(weight=c.weight.conj()))
