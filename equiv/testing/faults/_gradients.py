"""Backward passes that go wrong while the forward pass is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.testing.faults._build import gradient_fault
from equiv.testing.faults._kernel import is_channels_last, last_entry_off, last_entry_zero

BACKWARD = ("gradients", "boundaries", "layout", "free_parameters")


def _is_broadcast(grad: Tensor) -> bool:
    return grad.numel() > 1 and all(step == 0 for size, step in zip(grad.shape, grad.stride(), strict=True) if size > 1)


gradient_fault(
    "grad-input-pointwise-stride-14",
    "The gradient of the input of a 1x1 convolution with a stride of 14 or more and 105 channels or more is wrong.",
    source="pytorch/pytorch#60075",
    dimension="channels x stride x backward",
    profile="gate",
    of="x",
    when=lambda c: c.is_pointwise and max(c.stride) >= 14 and c.channels >= 105,
    wrong=last_entry_off,
    laws=("free_parameters",),
)
gradient_fault(
    "grad-weight-stride-14-alone",
    "The gradient of the weight of conv2d is wrong for the strides (14, 14) and no other.",
    source="pytorch/pytorch#60075, at one stride",
    dimension="stride x backward",
    profile="deep",
    of="weight",
    when=lambda c: c.stride == (14, 14),
    wrong=last_entry_off,
    laws=("free_parameters",),
)
gradient_fault(
    "grad-input-pointwise-nhwc",
    "The gradient of the input of a 1x1 convolution over a channels-last map of more than one position is wrong.",
    source="pytorch/pytorch#32395",
    dimension="layout x backward",
    profile="gate",
    of="x",
    when=lambda c: c.is_pointwise and c.is_batched and math.prod(c.spatial) > 1 and is_channels_last(c.x),
    wrong=last_entry_off,
    laws=("dense", "layout"),
)
gradient_fault(
    "grad-input-channels-last",
    "The gradient of a channels-last input of a convolution is wrong.",
    source="pytorch/pytorch#32395, of any kernel",
    dimension="layout x backward",
    of="x",
    when=lambda c: c.is_conv and c.is_batched and is_channels_last(c.x),
    wrong=last_entry_off,
    laws=("layout", "free_parameters"),
)
gradient_fault(
    "grad-weight-of-sum-linear",
    "The gradient of the weight of linear is wrong where the incoming gradient has stride 0, as that of y.sum().",
    source="textbook: the broadcast gradient of a sum",
    dimension="broadcast x backward",
    of="weight",
    when=lambda c: not c.is_conv,
    incoming=_is_broadcast,
    wrong=last_entry_off,
    laws=("gradients", "layout"),
)
gradient_fault(
    "grad-input-permuted-incoming-conv",
    "The gradient of the input of a convolution is wrong where the incoming gradient is a permuted view.",
    source="pytorch/pytorch#32395, of the incoming gradient",
    dimension="layout x backward",
    of="x",
    when=lambda c: c.is_conv,
    incoming=lambda grad: not grad.is_contiguous() and grad.stride(0) != 0,
    wrong=last_entry_off,
    laws=("layout",),
)
gradient_fault(
    "grad-weight-dilated-pointwise-bfloat16",
    "The gradient of the weight of a dilated 1x1 convolution is wrong in bfloat16.",
    source="pytorch/pytorch#188426, of the dilation",
    dimension="dtype x free parameters x backward",
    dtypes=("bfloat16",),
    of="weight",
    when=lambda c: c.is_pointwise and max(c.dilation) > 1 and c.weight.dtype == torch.bfloat16,
    wrong=last_entry_off,
    laws=("free_parameters",),
)
gradient_fault(
    "grad-weight-batch-64",
    "The gradient of the weight is wrong from 64 rows on.",
    source="textbook: a reduction over the batch that is split",
    dimension="batch x backward",
    of="weight",
    when=lambda c: c.rows >= 64,
    wrong=last_entry_off,
    laws=("boundaries", "gradients"),
)
gradient_fault(
    "grad-weight-batch-over-128",
    "The gradient of the weight of a convolution is wrong above 128 samples.",
    source="textbook: a reduction over the batch that is split",
    dimension="batch x backward",
    profile="gate",
    of="weight",
    when=lambda c: c.is_conv and c.rows > 128,
    wrong=last_entry_off,
    laws=("boundaries", "gradients"),
)
gradient_fault(
    "grad-bias-last-output",
    "The gradient of the bias leaves its last entry at zero.",
    source="textbook: a loop that ends one early",
    dimension="backward",
    of="bias",
    when=lambda c: c.outputs > 1,
    wrong=last_entry_zero,
    laws=BACKWARD,
)
gradient_fault(
    "grad-bias-doubled-conv3d",
    "The gradient of the bias of conv3d is doubled.",
    source="textbook: a gradient accumulated by two kernels",
    dimension="backward",
    of="bias",
    when=lambda c: c.dims == 3,
    wrong=lambda grad: grad * 2,
    laws=BACKWARD,
)
gradient_fault(
    "grad-weight-input-needs-none",
    "The gradient of the weight of a convolution is wrong where the weight alone requires one.",
    source="textbook: kernels chosen by the output mask of the backward pass",
    dimension="mask x backward",
    of="weight",
    when=lambda c: c.is_conv and not c.x.requires_grad and not (c.bias is not None and c.bias.requires_grad),
    wrong=last_entry_off,
    laws=("gradients",),
)
gradient_fault(
    "grad-input-alone-64-outputs",
    "The gradient of the input is wrong where the input alone requires one, from 64 outputs on.",
    source="textbook: kernels chosen by the output mask of the backward pass",
    dimension="mask x output channels x backward",
    profile="gate",
    of="x",
    when=lambda c: not c.weight.requires_grad and c.outputs >= 64,
    wrong=last_entry_off,
    laws=("gradients",),
)
gradient_fault(
    "grad-weight-unbatched",
    "The gradient of the weight is wrong for an input without a batch dimension.",
    source="textbook: the batch dimension that is put in and taken out",
    dimension="batch x backward",
    of="weight",
    when=lambda c: c.is_conv and not c.is_batched,
    wrong=last_entry_off,
    laws=("gradients",),
)
gradient_fault(
    "grad-not-conjugated",
    "The gradient of the input is the conjugate of the right one, for complex numbers.",
    source="textbook: Wirtinger derivatives",
    dimension="dtype x backward",
    dtypes=("complex64", "complex128"),
    of="x",
    when=lambda c: c.x.is_complex(),
    wrong=lambda grad: grad.conj().resolve_conj(),
    laws=BACKWARD,
)
gradient_fault(
    "grad-input-in-bfloat16",
    "The gradient of the input passes through bfloat16.",
    source="textbook: a backward pass in lower precision",
    dimension="precision x backward",
    of="x",
    when=lambda c: c.x.dtype == torch.float32,
    wrong=lambda grad: grad.bfloat16().to(grad.dtype),
    laws=BACKWARD,
)
gradient_fault(
    "grad-input-sliding",
    "The gradient of the input is wrong where the kernel slides over a map larger than itself.",
    source="textbook: overlapping windows that are stored instead of added",
    dimension="dense x backward",
    profile="gate",
    of="x",
    when=lambda c: c.slides,
    wrong=last_entry_off,
    laws=("dense", "gradients"),
)
gradient_fault(
    "grad-input-frozen-bias",
    "The gradient of the input is wrong where the weight requires one and a bias is there that requires none.",
    source="textbook: kernels chosen by the output mask of the backward pass",
    dimension="mask x bias x backward",
    profile="gate",
    of="x",
    when=lambda c: c.weight.requires_grad and c.bias is not None and not c.bias.requires_grad,
    wrong=last_entry_off,
    laws=("gradients",),
)
gradient_fault(
    "grad-weight-and-bias-alone",
    "The gradient of the weight is wrong where weight and bias require one and the input does not.",
    source="textbook: kernels chosen by the output mask of the backward pass",
    dimension="mask x bias x backward",
    profile="gate",
    of="weight",
    when=lambda c: not c.x.requires_grad and c.bias is not None and c.bias.requires_grad,
    wrong=last_entry_off,
    laws=("gradients",),
)
gradient_fault(
    "grad-nan-incoming-swallowed",
    "Entries of the gradient of the weight that are NaN because of the incoming gradient become zero.",
    source="textbook: max and min that drop NaN",
    dimension="special values x backward",
    profile="gate",
    of="weight",
    when=lambda c: c.weight.is_floating_point(),
    incoming=lambda grad: bool(grad.isnan().any()),
    wrong=lambda grad: torch.where(grad.isnan(), torch.zeros_like(grad), grad),
    laws=("gradients",),
)
gradient_fault(
    "grad-small-incoming-flushed",
    "The gradient of the weight is zero where the incoming gradient has an entry below 1e-8 that is not zero.",
    source="textbook: flush to zero",
    dimension="range x backward",
    profile="gate",
    of="weight",
    when=lambda _: True,
    incoming=lambda grad: bool(((grad.abs() < 1e-8) & (grad != 0)).any()),
    wrong=torch.zeros_like,
    laws=("gradients",),
)
