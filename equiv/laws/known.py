"""Conditions under which torch itself is known to be wrong: each narrow, each with a finding that shows it.

A comparison that fails under one of them on torch's own CPU kernels is counted as undecided and named in the coverage,
instead of breaking the law; a gradient that would damage memory is not asked for, and counted likewise, also where
another backend leaves it to torch. The tests in ``tests/laws/test_known_defects.py`` tell when the behaviour changes, and
the entry can go. Results of other backends are never excused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from equiv.backends import conv_kernel
from equiv.laws.call import Call

_OF_FLOAT32 = (torch.float32, torch.complex64, torch.bfloat16)
"""Where kernels of float32 and bfloat16 run: a complex convolution is made of three real ones."""


@dataclass(frozen=True)
class Known:
    """One defect of torch: its finding under ``docs/findings/``, and the calls and gradients that it spoils.

    ``corrupts`` where the kernel reads and writes beyond its tensors: it must not be called at all.
    """

    finding: str
    spoils: Callable[[Call, str | None], bool]
    corrupts: bool = False


def _one_channel_channels_last(call: Call, gradient: str | None) -> bool:
    """conv2d, conv3d over one channel, input or weight channels-last, output of width 1, last stride alone above 1."""
    x, kernel = call.input, call.weight
    if gradient is not None or x.ndim < 4 or x.dtype not in (torch.float32, torch.bfloat16, torch.complex64):
        return False
    stride = call.stride or (1,) * (x.ndim - 2)
    out_height, out_width = x.shape[-2] - kernel.shape[-2] + 1, (x.shape[-1] - kernel.shape[-1]) // stride[-1] + 1
    plain = x.shape[1] == 1 and stride[-2] == 1 and stride[-1] > 1 and out_width == 1 and out_height > 1
    return plain and (_is_channels_last(x) or _is_channels_last(kernel))


def _strided_weight_gradient(call: Call, gradient: str | None) -> bool:
    """bfloat16, a last stride larger than the kernel's width, fewer than 16 channels."""
    if gradient != "weight" or call.input.dtype != torch.bfloat16:
        return False
    channels, width = call.weight.shape[1], call.weight.shape[-1]
    return (call.stride or (1,))[-1] > width and channels < 16


def _strided_pointwise_weight_gradient(call: Call, gradient: str | None) -> bool:
    """float32, complex64, bfloat16, 1x1 kernels with a stride, 2 to 15 channels, closest in memory in the input."""
    x, kernel = call.input, call.weight
    if gradient != "weight" or x.dtype not in _OF_FLOAT32 or x.ndim < 4:
        return False
    steps = max(call.stride or (1,)) > 1 and all(size == 1 for size in kernel.shape[2:])
    closest = any(size > 1 and x.stride(1) < step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))
    return steps and 1 < kernel.shape[1] < 16 and closest


def _wide_strided_input_gradient(call: Call, gradient: str | None) -> bool:
    """float32, complex64, bfloat16, kernels wider than 128 with a stride along the width."""
    if gradient != "input" or call.input.dtype not in _OF_FLOAT32:
        return False
    return call.weight.shape[-1] > 128 and (call.stride or (1,))[-1] > 1


def _weight_gradient_of_one_map(call: Call, gradient: str | None) -> bool:
    """float32, complex64, no stride, one sample of 14 to 19 columns, a kernel as wide.

    And fewer than 4 channels, 32 rows or more, a kernel of 4 or more; or 16 channels or more (two, on 14 columns), 16
    rows or more, a kernel of 15 or more.
    """
    x, kernel = call.input, call.weight
    if gradient != "weight" or x.dtype not in (torch.float32, torch.complex64) or kernel.ndim != 4:
        return False
    (rows, width), high, channels = x.shape[-2:], kernel.shape[-2], kernel.shape[1]
    one = x.shape[0] == 1 and max(call.stride or (1,)) == 1
    few = channels < 4 and rows >= 32 and high >= 4
    many = (channels >= 16 or (channels == 2 and width == 14)) and rows >= 16 and high >= 15
    return one and width == kernel.shape[-1] and 14 <= width <= 19 and (few or many)


def _nnpack(call: Call, gradient: str | None) -> bool:
    """float32 or complex64 with oneDNN off: NNPACK convolves by transforms, which round where a sum would be exact.

    The derivatives of a derivative are convolutions forward again: with respect to an incoming gradient the same one,
    with respect to the weight one whose samples are the channels, and whose kernel is the incoming gradient.
    """
    if gradient not in (None, "incoming", "weight again"):
        return False
    x, kernel = (t.real if t.is_complex() else t for t in (call.input, call.weight))
    ones = (1,) * (kernel.ndim - 2)
    stride, dilation = call.stride or ones, call.dilation or ones
    if gradient == "weight again":
        if x.ndim != kernel.ndim:
            return False
        turned = torch.empty((kernel.shape[0], x.shape[0], *ones), dtype=x.dtype)
        return conv_kernel(x.transpose(0, 1), turned, None, dilation, stride) == "NnpackSpatial"
    return conv_kernel(x, kernel, None, stride, dilation) == "NnpackSpatial"


def _is_channels_last(t: torch.Tensor) -> bool:
    memory_format = torch.channels_last if t.ndim == 4 else torch.channels_last_3d
    return t.is_contiguous(memory_format=memory_format) and t.stride(1) == 1


def _tall_kernel_input_gradient(call: Call, gradient: str | None) -> bool:
    """bfloat16, one sample, input or weight channels-last, kernel n x 1, n >= 32, O > 32 and no multiple of 32."""
    x, outputs = call.input, call.weight.shape[0]
    if gradient != "input" or x.dtype != torch.bfloat16 or x.ndim < 4 or x.shape[0] != 1:
        return False
    tall = max(call.weight.shape[2:-1]) >= 32 and call.weight.shape[-1] == 1
    return tall and outputs > 32 and outputs % 32 != 0 and 1 in (x.stride(1), call.weight.stride(1))


def _whole_width_stride(call: Call, gradient: str | None) -> bool:
    """bfloat16, channels closest in memory, output of width 1, map and stride multiples of the kernel's width k.

    And C even, C < 32, C * k a multiple of 32 and above 32.
    """
    x, kernel = call.input, call.weight
    if gradient is not None or x.dtype != torch.bfloat16:
        return False
    channels, k, width, stride = kernel.shape[1], kernel.shape[-1], x.shape[-1], (call.stride or (1,))[-1]
    fits = k > 1 and stride % k == 0 and width % k == 0 and width - k < stride
    folds = channels % 2 == 0 and channels < 32 and channels * k % 32 == 0 and channels * k > 32
    closest = any(t.stride(1) < t.stride(-1) for t in (kernel, x)[: x.ndim - 2])
    return fits and folds and closest


KNOWN = (
    Known("one-channel-channels-last", _one_channel_channels_last),
    Known("tall-kernel-input-gradient", _tall_kernel_input_gradient),
    Known("strided-weight-gradient-in-bfloat16", _strided_weight_gradient, corrupts=True),
    Known("strided-1x1-weight-gradient", _strided_pointwise_weight_gradient, corrupts=True),
    Known("wide-strided-input-gradient", _wide_strided_input_gradient, corrupts=True),
    Known("weight-gradient-of-one-map", _weight_gradient_of_one_map),
    Known("whole-width-kernel-with-its-stride", _whole_width_stride),
    Known("transforms-in-nnpack", _nnpack),
)


_REFUSALS = {"slow_conv2d: grad_weight must be contiguous": "odd-strides-stop-backward"}


def known_refusal(error: Exception) -> str | None:
    """The finding about this error, which torch raises in the backward pass of calls that it should serve, or None."""
    return next((finding for text, finding in _REFUSALS.items() if text in str(error)), None)


def known_defect(call: Call, gradient: str | None) -> str | None:
    """The finding that covers this call of torch's CPU kernels, or None."""
    if call.form == "linear" or call.input.device.type != "cpu":
        return None
    call = _batched(call)
    return next((known.finding for known in KNOWN if known.spoils(call, gradient)), None)


def known_corruption(call: Call) -> str | None:
    """The finding that says why torch's CPU kernels must not be asked for the gradients of this call, or None."""
    if call.input.device.type != "cpu" or call.form == "linear":
        return None
    asked, call = ("input", "weight"), _batched(call)
    return next((k.finding for k in KNOWN if k.corrupts and any(k.spoils(call, name) for name in asked)), None)


def _batched(call: Call) -> Call:
    """One sample without a batch dimension as a batch of one, which torch makes of it."""
    return replace(call, input=call.input[None]) if call.input.ndim < call.weight.ndim else call


def differentiated_by_torch(y: torch.Tensor) -> bool:
    """Whether the gradients of ``y`` pass through torch's own convolution."""
    waiting, met = [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        if type(node).__name__ == "ConvolutionBackward0":
            return True
        met.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False
