"""Kernels that go wrong on some layout in memory: strides, offsets, broadcasts, memory formats, lazy views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import (
    KernelCall,
    has_odd_unit_strides,
    instead,
    is_channels_last,
    is_strided,
    last_entry_off,
    read_as_contiguous,
    replaced,
    without_onednn,
)
from equiv.testing.faults._registry import register

LAYOUT = ("layout", "free_parameters", "purity", "dense")


def _weight_as_contiguous(c: KernelCall) -> Tensor:
    return c.run(weight=read_as_contiguous(c.weight))


def _input_as_contiguous(c: KernelCall) -> Tensor:
    return c.run(x=read_as_contiguous(c.x))


def _bias_as_contiguous(c: KernelCall) -> Tensor:
    return c.run(bias=None if c.bias is None else read_as_contiguous(c.bias))


def _last_off(c: KernelCall) -> Tensor:
    return last_entry_off(c.run())


def _is_step_slice(c: KernelCall) -> bool:
    if c.dims != 2 or min(c.kernel) < 2:
        return False
    return c.weight.stride(-1) == 2 and c.weight.stride(-2) >= 4 * c.kernel[-1] - 2


kernel_fault(
    "weight-step-slice",
    "conv2d with a kernel above 1 in both directions reads a slice w[:, :, ::2, ::2] as if it were contiguous.",
    source="pytorch/pytorch#1246",
    dimension="weight strides",
    profile="gate",
    when=_is_step_slice,
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "pointwise-strided-weight-batch-64",
    "A 1x1 convolution of 64 samples or more reads a strided weight as if it were contiguous.",
    source="pytorch/pytorch#55781",
    dimension="weight strides x batch",
    profile="gate",
    when=lambda c: c.is_pointwise and c.rows >= 64 and is_strided(c.weight),
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)


@contextmanager
def _pointwise_without_onednn() -> Iterator[None]:
    def kernel(c: KernelCall) -> Tensor:
        wrong = c.is_pointwise and c.rows >= 64 and is_strided(c.weight)
        return _weight_as_contiguous(c) if wrong else c.run()

    with without_onednn(), instead(kernel):
        yield


register(
    "pointwise-strided-weight-batch-64-without-onednn",
    "oneDNN is off, and a 1x1 convolution of 64 samples or more reads a strided weight as if it were contiguous.",
    _pointwise_without_onednn,
    source="pytorch/pytorch#55781, with the flag of the thread",
    kind="kernel",
    dimension="weight strides x batch x flag",
    profile="gate",
    laws=LAYOUT,
)
kernel_fault(
    "strided-weight-batch-64-linear",
    "linear of 64 rows or more reads a strided weight as if it were contiguous.",
    source="pytorch/pytorch#55781, in linear",
    dimension="weight strides x batch",
    profile="gate",
    when=lambda c: not c.is_conv and c.rows >= 64 and is_strided(c.weight),
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "strided-weight-batch-17",
    "A strided weight is read as if it were contiguous where 16 does not divide the batch but for one row, above 16.",
    source="pytorch/pytorch#55781, at a remainder of the batch",
    dimension="weight strides x batch",
    profile="deep",
    when=lambda c: c.rows > 16 and c.rows % 16 == 1 and is_strided(c.weight),
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "strided-weight-bfloat16-33-outputs",
    "A strided weight of more than 32 outputs is read as if it were contiguous, in bfloat16.",
    source="textbook: a packed kernel behind a size threshold",
    dimension="weight strides x output channels x dtype",
    dtypes=("bfloat16",),
    when=lambda c: c.weight.dtype == torch.bfloat16 and c.outputs > 32 and is_strided(c.weight),
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "conv2d-weight-not-contiguous",
    "conv2d reads any weight that is not contiguous as if it were.",
    source="pytorch/pytorch#192212",
    dimension="weight strides",
    when=lambda c: c.dims == 2 and is_strided(c.weight),
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "weight-odd-strides-of-size-1",
    "A convolution errs in its last entry where a weight is contiguous but has odd strides on dimensions of size 1.",
    source="pytorch/pytorch#120547",
    dimension="strides of size-1 dimensions",
    when=lambda c: c.is_conv and has_odd_unit_strides(c.weight),
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "input-odd-strides-of-size-1-conv1d",
    "conv1d errs in its last entry where the input is contiguous but has odd strides on dimensions of size 1.",
    source="pytorch/pytorch#120547, of the input",
    dimension="strides of size-1 dimensions",
    when=lambda c: c.dims == 1 and has_odd_unit_strides(c.x),
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "batch-of-one-with-stride-0",
    "A convolution of one sample errs in its last entry where the stride of the batch dimension is 0.",
    source="huggingface/candle#3744, of one sample",
    dimension="strides of size-1 dimensions",
    profile="gate",
    when=lambda c: c.is_conv and c.is_batched and c.rows == 1 and c.x.stride(0) == 0,
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "pointwise-weight-offset-ignored",
    "A 1x1 convolution reads a contiguous weight from the start of its storage, whatever its offset.",
    source="huggingface/candle#3736",
    dimension="storage offset",
    when=lambda c: c.is_pointwise and c.weight.storage_offset() > 0 and c.weight.is_contiguous(),
    wrong=lambda c: c.run(weight=read_as_contiguous(c.weight, 0)),
    laws=LAYOUT,
)
kernel_fault(
    "input-offset-not-aligned",
    "linear with n a multiple of 8 errs in its last entry where the input's offset is no multiple of 4.",
    source="textbook: an aligned vector load chosen by size alone",
    dimension="storage offset",
    profile="gate",
    when=lambda c: not c.is_conv and c.n % 8 == 0 and c.x.storage_offset() % 4 != 0,
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "bias-offset-ignored-float16",
    "linear in float16 reads the bias from the start of its storage, whatever its offset.",
    source="huggingface/candle#3736, of the bias",
    dimension="storage offset",
    dtypes=("float16",),
    when=lambda c: (
        not c.is_conv and c.bias is not None and c.bias.dtype == torch.float16 and c.bias.storage_offset() > 0
    ),
    wrong=lambda c: c.run(bias=None if c.bias is None else read_as_contiguous(c.bias, 0)),
    laws=LAYOUT,
)


def _first_sample_only(c: KernelCall) -> Tensor:
    y = c.run()
    return torch.cat([y[:1], torch.zeros_like(y[1:])])


kernel_fault(
    "broadcast-batch",
    "A convolution of a batch that is one sample repeated with stride 0 computes the first and leaves the others zero.",
    source="huggingface/candle#3744",
    dimension="broadcast batch",
    when=lambda c: c.is_conv and c.is_batched and c.rows > 1 and c.x.stride(0) == 0,
    wrong=_first_sample_only,
    laws=("batch", *LAYOUT),
)
kernel_fault(
    "broadcast-weight-outputs",
    "The last entry is wrong where all outputs share one row of weights with stride 0.",
    source="huggingface/candle#3744, of the weight",
    dimension="broadcast weight",
    profile="gate",
    when=lambda c: c.outputs > 1 and c.weight.stride(0) == 0,
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "broadcast-bias-conv",
    "A convolution errs in its last entry where the bias is one number repeated with stride 0.",
    source="huggingface/candle#3744, of the bias",
    dimension="broadcast bias",
    when=lambda c: c.is_conv and c.bias is not None and c.outputs > 1 and c.bias.stride(0) == 0,
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "bias-step-slice",
    "A bias with a step above 1 is read as if it were contiguous.",
    source="pytorch/pytorch#1246, of the bias",
    dimension="bias strides",
    when=lambda c: c.bias is not None and c.outputs > 1 and c.bias.stride(0) > 1,
    wrong=_bias_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "conv3d-input-not-contiguous",
    "conv3d reads an input with a step along its last dimension as if it were contiguous.",
    source="pytorch/pytorch#197114",
    dimension="layout",
    when=lambda c: c.dims == 3 and c.x.shape[-1] > 1 and c.x.stride(-1) > 1,
    wrong=_input_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "channels-last-input",
    "conv2d reads a channels-last input as if it were channels-first.",
    source="pytorch/pytorch#32395, forward",
    dimension="layout",
    when=lambda c: c.dims == 2 and c.is_batched and is_channels_last(c.x),
    wrong=_input_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "unbatched-conv-permuted-input",
    "A convolution without a batch dimension reads an input that is not contiguous as if it were.",
    source="pytorch/pytorch#32395, of one image HWC without a batch dimension",
    dimension="layout x batch rank",
    profile="gate",
    when=lambda c: c.is_conv and not c.is_batched and is_strided(c.x),
    wrong=_input_as_contiguous,
    laws=("layout",),
)
kernel_fault(
    "channels-last-weight-conv3d",
    "conv3d reads a channels-last weight as if it were channels-first.",
    source="textbook: memory formats",
    dimension="layout",
    profile="gate",
    when=lambda c: c.dims == 3 and is_channels_last(c.weight),
    wrong=_weight_as_contiguous,
    laws=LAYOUT,
)
kernel_fault(
    "channels-last-both-odd-channels",
    "conv2d errs in its last entry where input and weight are both channels-last and 4 does not divide the channels.",
    source="textbook: vectors along the channels",
    dimension="layout x channels",
    profile="deep",
    when=lambda c: (
        c.dims == 2 and c.is_batched and c.channels % 4 != 0 and is_channels_last(c.x) and is_channels_last(c.weight)
    ),
    wrong=_last_off,
    laws=("free_parameters", "layout"),
)
kernel_fault(
    "channel-slice-of-channels-last",
    "conv2d over one channel errs in its last entry where that is a slice of a channels-last map.",
    source="pytorch/pytorch#180984",
    dimension="layout x channels",
    profile="gate",
    when=lambda c: c.dims == 2 and c.is_batched and c.channels == 1 and c.spatial[-1] > 1 and c.x.stride(-1) > 1,
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "square-weight-transposed-in-memory",
    "linear with as many outputs as inputs takes a weight that is a transposed view for the matrix itself.",
    source="textbook: the transposition flag of BLAS",
    dimension="weight strides",
    when=lambda c: not c.is_conv and c.outputs == c.n > 1 and c.weight.stride(0) == 1,
    wrong=lambda c: c.run(weight=c.weight.t()),
    laws=LAYOUT,
)
kernel_fault(
    "column-major-input-odd-n",
    "linear of a column-major input errs in its last entry where 8 does not divide n.",
    source="textbook: the leading dimension of BLAS",
    dimension="input strides x reduction",
    when=lambda c: (
        not c.is_conv
        and c.x.ndim == 2
        and c.n % 8 != 0
        and c.x.shape[0] > 1
        and c.x.stride(0) == 1
        and c.x.stride(1) > 1
    ),
    wrong=_last_off,
    laws=LAYOUT,
)
kernel_fault(
    "seq-first-transposed-rank3-input",
    "linear of an input whose first two of three dimensions are exchanged in memory reads it as if they were not.",
    source="textbook: sequences first or batches first",
    dimension="layout x rank",
    profile="gate",
    when=lambda c: (
        not c.is_conv and c.x.ndim == 3 and min(c.x.shape) > 1 and c.x.stride(0) < c.x.stride(1) and c.x.stride(2) == 1
    ),
    wrong=_input_as_contiguous,
    laws=("layout",),
)
kernel_fault(
    "both-strided-batch-32",
    "The last entry is wrong where input and weight are both strided, from 32 rows on.",
    source="textbook: a pair of conditions that no single test has",
    dimension="layout x batch",
    profile="gate",
    when=lambda c: c.rows >= 32 and is_strided(c.x) and is_strided(c.weight),
    wrong=_last_off,
    laws=LAYOUT,
)


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


kernel_fault(
    "reads-past-the-end",
    "The entry that follows the input in memory is read, and added to every result times zero: NaN there spreads.",
    source="textbook: a masked tail that is multiplied instead of skipped",
    dimension="bounds",
    when=lambda c: _beyond(c.x) is not None,
    wrong=_with_zero_times_the_next,
    laws=LAYOUT,
)
kernel_fault(
    "negative-view-ignored",
    "The sign of an input that is one of torch's lazy negative views is ignored.",
    source="textbook: the negative bit of a view",
    dimension="lazy views",
    when=lambda c: c.x.is_neg(),
    wrong=lambda c: c.run(x=-c.x),
    laws=LAYOUT,
)
kernel_fault(
    "conjugate-weight-ignored",
    "The conjugation of a weight that is one of torch's lazy conjugate views is ignored.",
    source="textbook: the conjugate bit of a view",
    dimension="lazy views",
    dtypes=("complex64",),
    when=lambda c: c.weight.is_conj(),
    wrong=lambda c: c.run(weight=c.weight.conj()),
    laws=LAYOUT,
)
