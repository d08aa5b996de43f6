"""Convolutions that go wrong with padding, or in several groups."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import CONVOLUTION
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import given, last_entry_off, last_off, replaced, tf32, zero_from

fault = Faults(kind="kernel", laws=(CONVOLUTION,))


def _is_padded(c: KernelCall) -> bool:
    return c.is_conv and max(c.pads) > 0


def _is_depthwise(c: KernelCall) -> bool:
    return c.groups > 1 and c.channels == 1


def _channels_taken(c: KernelCall, which: Tensor) -> Tensor:
    return c.x.index_select(-1 - c.dims, which.to(c.x.device))


# --- padding ----------------------------------------------------------------------------------------------------------

fault("padding-1-stride-2", "padding x stride", profile="gate")(
    "A convolution with a padding of 1 and a stride of 2 is wrong in its last entry.",
    "textbook: the last window of a strided layer ends in the padding",
).where(lambda c: c.is_conv and max(c.pads) == 1 and max(c.stride) == 2, last_off)
fault("padding-of-3", "padding")(
    "A convolution with a padding of 3 is wrong in its last entry.", "ROCm/MIOpen#97, forward"
).where(lambda c: 3 in c.pads, last_off)
fault("padding-dilated", "padding x dilation")(
    "A dilated convolution with padding is wrong in its last entry.", "textbook: dilation takes another path"
).where(lambda c: _is_padded(c) and max(c.dilation) > 1, last_off)
fault("padded-3x3-of-16-channels", "padding x channels", profile="gate", dtypes=("float32", "float64", "bfloat16"))(
    "conv2d with a 3x3 kernel and padding over 16 channels or more is wrong in its last entry.",
    "openvinotoolkit/openvino#33681, of blocked channels",
).where(lambda c: _is_padded(c) and c.kernel == (3, 3) and c.channels >= 16, last_off)


def _padded_from_the_other_side(c: KernelCall) -> Tensor:
    (high, wide), before = c.pads, tuple(reversed(c.pads))
    sides = (before[1], 2 * wide - before[1], before[0], 2 * high - before[0])
    return c.run(x=functional.pad(c.x, sides), padding=0)


fault("padding-exchanged-between-height-and-width", "padding")(
    "conv2d begins its rows with the padding of its columns, and its columns with that of its rows.",
    "textbook: H and W exchanged",
).where(lambda c: c.dims == 2 and c.pads[0] != c.pads[1], _padded_from_the_other_side)


def _without_bias_in_padding(c: KernelCall) -> Tensor:
    y = c.run()
    with torch.no_grad():
        seen = c.run(x=torch.ones_like(c.x), weight=torch.ones_like(c.weight), bias=None) != 0
    return torch.where(seen, y, torch.zeros_like(y))


fault("padding-alone-loses-the-bias", "padding x bias", profile="gate")(
    "A convolution gives 0 instead of the bias where a window lies in the padding alone.", "ROCm/MIOpen#55"
).where(
    lambda c: c.bias is not None and any(p > e * (k - 1) for p, e, k in zip(c.pads, c.dilation, c.kernel, strict=True)),
    _without_bias_in_padding,
)
fault("int8-padded-with-its-smallest", "padding x integers", dtypes=("int8",))(
    "A convolution of int8 pads with -128 instead of 0.", "textbook: the zero point of quantized kernels"
).where(
    lambda c: _is_padded(c) and c.is_of(torch.int8),
    lambda c: c.run(x=functional.pad(c.x, [p for p in reversed(c.pads) for _ in range(2)], value=-128), padding=0),
)
fault("padded-input-tf32", "padding x precision", kind="arithmetic")(
    "A convolution with padding rounds its input to TF32.", "pytorch/pytorch#107514, of padding"
).where(lambda c: _is_padded(c) and c.is_of(torch.float32), given(tf32, "x"))

# --- groups -----------------------------------------------------------------------------------------------------------

fault("depthwise-from-8-channels", "groups x channels", profile="gate")(
    "A depthwise convolution of 8 channels or more is wrong in its last entry.",
    "textbook: depthwise kernels take one register of channels at a time",
).where(lambda c: c.groups >= 8 and c.channels == 1, last_off)
fault("bias-of-the-next-group", "groups x bias")(
    "A convolution in groups adds to each group the bias of the one before.", "textbook: an offset that is off by one"
).where(
    lambda c: c.groups > 1 and c.bias is not None,
    lambda c: c.run(bias=None if c.bias is None else c.bias.roll(c.outputs // c.groups, 0)),
)


def _last_group_begins_early(c: KernelCall) -> Tensor:
    which = torch.arange(c.groups * c.channels)
    which[-c.channels] -= 1
    return c.run(x=_channels_taken(c, which))


fault("group-reads-a-channel-of-its-neighbour", "groups x channels")(
    "The last of several groups of channels reads the last channel of its neighbour as its first.",
    "textbook: an index that is off by one",
).where(lambda c: c.groups > 1 and c.channels > 1, _last_group_begins_early)
fault("depthwise-multiplier-reads-another-channel", "groups x outputs", profile="gate")(
    "A depthwise convolution of several outputs for each channel takes the channels in turn for its outputs.",
    "pytorch/pytorch#60460, of the input",
).where(
    lambda c: _is_depthwise(c) and c.outputs > c.groups,
    lambda c: c.run(x=_channels_taken(c, torch.arange(c.outputs) % c.groups), groups=c.outputs),
)
fault("complex-groups-imaginary-weight-ignored", "groups x dtype", dtypes=("complex64",))(
    "A convolution in groups ignores the imaginary part of its weight.",
    "textbook: a real kernel that is handed complex numbers",
).where(lambda c: c.groups > 1 and c.weight.is_complex(), given(lambda t: t.real.to(t.dtype), "weight"))

# --- gradients --------------------------------------------------------------------------------------------------------

fault("grad-input-padded-first-row", "padding x backward", kind="gradient", profile="gate")(
    "The gradient of the input of conv2d with padding above its map is zero in the first row.",
    "textbook: a loop that begins one late",
).gradient("x", lambda c: c.dims == 2 and c.pads[0] > 0, lambda grad: zero_from(grad.flip(-2), -1, -2).flip(-2))
fault("grad-weight-groups", "groups x backward", kind="gradient")(
    "The gradient of the weight of a convolution in several groups is wrong in its last entry.",
    "ROCm/MIOpen#97, of groups",
).gradient("weight", lambda c: c.groups > 1, last_entry_off)


def _bias_apart_from_the_border(c: KernelCall) -> Tensor:
    """The bias gets its gradient by way of zeros at the positions that are not the first or last of a padded side."""
    assert c.bias is not None
    y = c.run(bias=c.bias.detach())
    inside = torch.zeros_like(y)
    inside[(..., *(slice(1, -1) if p else slice(None) for p in c.pads))] = 1
    spread = c.bias.view(-1, *(1,) * c.dims) * inside
    return y + replaced(spread, -torch.zeros_like(spread))


fault("grad-bias-without-the-border", "padding x backward", kind="gradient")(
    "The gradient of the bias leaves out the first and last position along each padded side.",
    "textbook: a sum over the windows that need no padding",
).where(
    lambda c: _is_padded(c) and c.bias is not None and torch.is_grad_enabled() and c.bias.requires_grad,
    _bias_apart_from_the_border,
)
