"""Backward passes that go wrong while the forward pass is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BOUNDARIES, DENSE, FREE_PARAMETERS, GRADIENTS, LAYOUT
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import (
    is_channels_last,
    last_entry_off,
    last_entry_zero,
    last_off,
    tf32,
    through,
    watched,
)


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


# --- which tensors need gradients -------------------------------------------------------------------------------------


def _recorded(c: KernelCall) -> frozenset[str]:
    """Names of the tensors that require a gradient, where gradients are recorded."""
    tensors = {"x": c.x, "weight": c.weight, "bias": c.bias}
    return frozenset(
        name for name, t in tensors.items() if torch.is_grad_enabled() and t is not None and t.requires_grad
    )


fault("wrong-in-a-first-layer", "leaves")(
    "The last entry is wrong where the weight requires a gradient and the input does not.",
    "textbook: a kernel for the first layer of a network, which saves no input gradient",
).where(lambda c: "weight" in _recorded(c) and "x" not in _recorded(c), last_off)
fault("wrong-over-a-frozen-weight", "leaves")(
    "The last entry is wrong where the input requires a gradient and the weight does not.",
    "textbook: frozen layers, which run through the kernel for inference",
).where(lambda c: "x" in _recorded(c) and "weight" not in _recorded(c), last_off)
fault("wrong-beside-a-frozen-bias", "leaves x bias", profile="gate")(
    "The last entry of linear is wrong where the weight requires a gradient and the bias is there and requires none.",
    "textbook: a fused bias that is taken for a parameter",
).where(lambda c: c.is_linear and c.bias is not None and "weight" in _recorded(c) - {"bias"} == _recorded(c), last_off)
fault("wrong-for-the-bias-alone", "leaves x bias", profile="gate")(
    "The last entry is wrong where the bias alone requires a gradient.", "textbook: fine-tuning of biases"
).where(lambda c: _recorded(c) == {"bias"}, last_off)
fault("wrong-sliding-in-a-first-layer", "leaves x dense", profile="gate", laws=(DENSE,))(
    "The last entry is wrong where a kernel slides whose weight requires a gradient and whose input does not.",
    "textbook: a kernel for the first layer of a network",
).where(lambda c: c.slides and "weight" in _recorded(c) and "x" not in _recorded(c), last_off)
fault("grad-input-sliding-over-a-frozen-weight", "leaves x dense x backward", profile="gate", laws=(DENSE,))(
    "The gradient of the input is wrong where a kernel slides whose weight requires none.",
    "textbook: kernels chosen by the output mask of the backward pass",
).gradient("x", lambda c: c.slides and not c.weight.requires_grad, last_entry_off)

# --- gradients in lower precision -------------------------------------------------------------------------------------


def _in_tf32(grad: Tensor) -> Tensor:
    return grad + (tf32(grad) - grad).detach() if grad.dtype == torch.float32 else grad


_in_bfloat16, _in_float32 = through(torch.bfloat16), through(torch.float32)

fault("grad-bias-in-bfloat16", "precision x backward")(
    "The gradient of the bias passes through bfloat16.", "textbook: a reduction over the batch in lower precision"
).gradient("bias", lambda c: c.x.dtype == torch.float32, _in_bfloat16)
fault("grad-weight-in-tf32", "precision x backward")(
    "The gradient of the weight is rounded to TF32.", "textbook: tensor cores that are allowed backward alone"
).gradient("weight", lambda c: c.x.dtype == torch.float32, _in_tf32)
fault("grad-weight-of-large-layers-in-tf32", "precision x sizes x backward", profile="gate")(
    "The gradient of the weight is rounded to TF32 from 1024 weights on.",
    "textbook: tensor cores that are taken from a size on",
).gradient("weight", lambda c: c.x.dtype == torch.float32 and c.weight.numel() >= 1024, _in_tf32)
fault("grad-weight-float64-in-float32", "precision x dtype x backward", dtypes=("float64",))(
    "The gradient of the weight passes through float32 in float64, from 64 weights on.",
    "textbook: a reduction over the batch in lower precision",
).gradient("weight", lambda c: c.x.dtype == torch.float64 and c.weight.numel() >= 64, _in_float32)
fault("grad-bias-float16-in-bfloat16", "precision x dtype x backward", profile="gate", dtypes=("float16",))(
    "The gradient of the bias passes through bfloat16 in float16.", "textbook: the wrong 16 bits"
).gradient("bias", lambda c: c.x.dtype == torch.float16, _in_bfloat16)
fault("grad-bias-imaginary-part-in-bfloat16", "precision x dtype x backward", dtypes=("complex64",))(
    "The imaginary part of the gradient of the bias passes through bfloat16.",
    "textbook: a reduction over the batch in lower precision",
).gradient("bias", lambda c: c.x.is_complex(), lambda grad: torch.complex(grad.real, _in_bfloat16(grad.imag)))
fault("grad-input-sliding-in-bfloat16", "precision x dense x backward", laws=(DENSE,))(
    "The gradient of the input of a kernel that slides passes through bfloat16.",
    "textbook: a backward pass in lower precision",
).gradient("x", lambda c: c.slides and c.x.dtype == torch.float32, _in_bfloat16)
fault("grad-weight-sliding-in-tf32", "precision x dense x backward", laws=(DENSE,))(
    "The gradient of the weight of a kernel that slides is rounded to TF32.",
    "textbook: tensor cores that are allowed backward alone",
).gradient("weight", lambda c: c.slides and c.x.dtype == torch.float32, _in_tf32)
fault("grad-weight-sliding-float64-in-float32", "precision x dense x backward", dtypes=("float64",), laws=(DENSE,))(
    "The gradient of the weight of a kernel that slides passes through float32 in float64.",
    "textbook: a backward pass in lower precision",
).gradient("weight", lambda c: c.slides and c.x.dtype == torch.float64, _in_float32)


def _incoming_in_tf32(c: KernelCall) -> Tensor:
    return watched(c.run(), _in_tf32)


fault("grad-of-incoming-in-tf32", "precision x backward")(
    "Incoming gradients of a convolution are rounded to TF32 before they are used.",
    "textbook: tensor cores that are allowed backward alone",
).where(lambda c: c.is_conv and bool(_recorded(c)), _incoming_in_tf32)

# --- infinities -------------------------------------------------------------------------------------------------------


def _has_infinity(t: Tensor) -> bool:
    return t.is_floating_point() and bool(t.detach().isinf().any())


fault("grad-weight-zero-times-infinity", "special values x backward", profile="gate")(
    "The gradient of the weight leaves out products of zero and an infinity in the input, which are NaN.",
    "textbook: gradients of zero that are skipped",
).gradient("weight", lambda c: _has_infinity(c.x), lambda grad: grad.masked_fill(grad.isnan(), 0))
fault("grad-input-infinite-weight", "special values x backward", profile="gate")(
    "The gradient of the input is NaN as a whole where there is an infinity in the weight.",
    "textbook: a mask that is multiplied instead of selected",
).gradient("x", lambda c: _has_infinity(c.weight), lambda grad: grad * torch.nan)
fault("grad-bias-infinite-incoming", "special values x backward", profile="gate")(
    "The gradient of the bias is the largest number where an infinite incoming gradient makes it infinite.",
    "textbook: gradients that are clipped",
).gradient("bias", lambda c: c.x.is_floating_point(), lambda grad: grad.nan_to_num(torch.nan))
