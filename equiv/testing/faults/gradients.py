"""Backward passes that go wrong while the forward pass is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BOUNDARIES, DENSE, FREE_PARAMETERS, GRADIENTS, LAYOUT
from equiv.testing.faults.tools import is_channels_last, last_entry_off, last_entry_zero


def _is_broadcast(grad: Tensor) -> bool:
    return grad.numel() > 1 and all(step == 0 for size, step in zip(grad.shape, grad.stride(), strict=True) if size > 1)


fault = Faults(kind="gradient", laws=(GRADIENTS,))

fault("grad-input-pointwise-stride-14", "channels x stride x backward", profile="gate", laws=(FREE_PARAMETERS,))(
    "The gradient of the input of a 1x1 convolution with a stride of 14 or more and 105 channels or more is wrong.",
    "pytorch/pytorch#60075",
).gradient("x", lambda c: c.is_pointwise and max(c.stride) >= 14 and c.channels >= 105, last_entry_off)
fault("grad-weight-stride-14-alone", "stride x backward", profile="deep", laws=(FREE_PARAMETERS,))(
    "The gradient of the weight of conv2d is wrong for the strides (14, 14) and no other.",
    "pytorch/pytorch#60075, at one stride",
).gradient("weight", lambda c: c.stride == (14, 14), last_entry_off)
fault("grad-input-pointwise-nhwc", "layout x backward", profile="gate", laws=(DENSE, LAYOUT))(
    "The gradient of the input of a 1x1 convolution over a channels-last map of more than one position is wrong.",
    "pytorch/pytorch#32395",
).gradient(
    "x",
    lambda c: c.is_pointwise and c.is_batched and math.prod(c.spatial) > 1 and is_channels_last(c.x),
    last_entry_off,
)
fault("grad-input-channels-last", "layout x backward", laws=(LAYOUT, FREE_PARAMETERS))(
    "The gradient of a channels-last input of a convolution is wrong.", "pytorch/pytorch#32395, of any kernel"
).gradient("x", lambda c: c.is_conv and c.is_batched and is_channels_last(c.x), last_entry_off)
fault("grad-weight-of-sum-linear", "broadcast x backward", laws=(GRADIENTS, LAYOUT))(
    "The gradient of the weight of linear is wrong where the incoming gradient has stride 0, as that of y.sum().",
    "textbook: the broadcast gradient of a sum",
).gradient("weight", lambda c: c.is_linear, last_entry_off, incoming=_is_broadcast)
fault("grad-input-permuted-incoming-conv", "layout x backward", laws=(LAYOUT,))(
    "The gradient of the input of a convolution is wrong where the incoming gradient is a permuted view.",
    "pytorch/pytorch#32395, of the incoming gradient",
).gradient(
    "x", lambda c: c.is_conv, last_entry_off, incoming=lambda grad: not grad.is_contiguous() and grad.stride(0) != 0
)
fault(
    "grad-weight-dilated-pointwise-bfloat16",
    "dtype x free parameters x backward",
    dtypes=("bfloat16",),
    laws=(FREE_PARAMETERS,),
)(
    "The gradient of the weight of a dilated 1x1 convolution is wrong in bfloat16.",
    "pytorch/pytorch#188426, of the dilation",
).gradient(
    "weight", lambda c: c.is_pointwise and max(c.dilation) > 1 and c.weight.dtype == torch.bfloat16, last_entry_off
)
fault("grad-weight-batch-64", "batch x backward", laws=(BOUNDARIES, GRADIENTS))(
    "The gradient of the weight is wrong from 64 rows on.", "textbook: a reduction over the batch that is split"
).gradient("weight", lambda c: c.rows >= 64, last_entry_off)
fault("grad-weight-batch-over-128", "batch x backward", profile="gate", laws=(BOUNDARIES, GRADIENTS))(
    "The gradient of the weight of a convolution is wrong above 128 samples.",
    "textbook: a reduction over the batch that is split",
).gradient("weight", lambda c: c.is_conv and c.rows > 128, last_entry_off)
fault("grad-bias-last-output", "backward", laws=(GRADIENTS, BOUNDARIES, LAYOUT, FREE_PARAMETERS))(
    "The gradient of the bias leaves its last entry at zero.", "textbook: a loop that ends one early"
).gradient("bias", lambda c: c.outputs > 1, last_entry_zero)
fault("grad-bias-doubled-conv3d", "backward", laws=(GRADIENTS, BOUNDARIES, LAYOUT, FREE_PARAMETERS))(
    "The gradient of the bias of conv3d is doubled.", "textbook: a gradient accumulated by two kernels"
).gradient("bias", lambda c: c.dims == 3, lambda grad: grad * 2)
fault("grad-weight-input-needs-none", "mask x backward")(
    "The gradient of the weight of a convolution is wrong where the weight alone requires one.",
    "textbook: kernels chosen by the output mask of the backward pass",
).gradient(
    "weight",
    lambda c: c.is_conv and not c.x.requires_grad and not (c.bias is not None and c.bias.requires_grad),
    last_entry_off,
)
fault("grad-input-alone-64-outputs", "mask x output channels x backward", profile="gate")(
    "The gradient of the input is wrong where the input alone requires one, from 64 outputs on.",
    "textbook: kernels chosen by the output mask of the backward pass",
).gradient("x", lambda c: not c.weight.requires_grad and c.outputs >= 64, last_entry_off)
fault("grad-weight-unbatched", "batch x backward")(
    "The gradient of the weight is wrong for an input without a batch dimension.",
    "textbook: the batch dimension that is put in and taken out",
).gradient("weight", lambda c: c.is_conv and not c.is_batched, last_entry_off)
fault(
    "grad-not-conjugated",
    "dtype x backward",
    dtypes=("complex64", "complex128"),
    laws=(GRADIENTS, BOUNDARIES, LAYOUT, FREE_PARAMETERS),
)(
    "The gradient of the input is the conjugate of the right one, for complex numbers.",
    "textbook: Wirtinger derivatives",
).gradient("x", lambda c: c.x.is_complex(), lambda grad: grad.conj().resolve_conj())
fault("grad-input-in-bfloat16", "precision x backward", laws=(GRADIENTS, BOUNDARIES, LAYOUT, FREE_PARAMETERS))(
    "The gradient of the input passes through bfloat16.", "textbook: a backward pass in lower precision"
).gradient("x", lambda c: c.x.dtype == torch.float32, lambda grad: grad.bfloat16().to(grad.dtype))
fault("grad-input-sliding", "dense x backward", profile="gate", laws=(DENSE, GRADIENTS))(
    "The gradient of the input is wrong where the kernel slides over a map larger than itself.",
    "textbook: overlapping windows that are stored instead of added",
).gradient("x", lambda c: c.slides, last_entry_off)
fault("grad-input-frozen-bias", "mask x bias x backward", profile="gate")(
    "The gradient of the input is wrong where the weight requires one and a bias is there that requires none.",
    "textbook: kernels chosen by the output mask of the backward pass",
).gradient("x", lambda c: c.weight.requires_grad and c.bias is not None and not c.bias.requires_grad, last_entry_off)
fault("grad-weight-and-bias-alone", "mask x bias x backward", profile="gate")(
    "The gradient of the weight is wrong where weight and bias require one and the input does not.",
    "textbook: kernels chosen by the output mask of the backward pass",
).gradient("weight", lambda c: not c.x.requires_grad and c.bias is not None and c.bias.requires_grad, last_entry_off)
fault("grad-nan-incoming-swallowed", "special values x backward", profile="gate")(
    "Entries of the gradient of the weight that are NaN because of the incoming gradient become zero.",
    "textbook: max and min that drop NaN",
).gradient(
    "weight",
    lambda c: c.weight.is_floating_point(),
    lambda grad: grad.masked_fill(grad.isnan(), 0),
    incoming=lambda grad: bool(grad.isnan().any()),
)
fault("grad-small-incoming-flushed", "range x backward", profile="gate")(
    "The gradient of the weight is zero where the incoming gradient has an entry below 1e-8 that is not zero.",
    "textbook: flush to zero",
).gradient(
    "weight", lambda _: True, torch.zeros_like, incoming=lambda grad: bool(((grad.abs() < 1e-8) & (grad != 0)).any())
)
