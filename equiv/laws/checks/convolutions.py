"""Any convolution, its dense layer, and what both must give: stride, dilation, padding and its modes, groups."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from equiv.laws.checks.drawing import generator_of
from equiv.laws.trial import Trial
from equiv.mapping import CONVS, Conv, conv_to_linear, pads_and_positions
from equiv.strategies import Case

_MODES = ("zeros", "reflect", "replicate", "circular")
_RANGES = ((3, 1), (3, 1), (2, 1), (2, 0))
"""Highest and lowest of kernel, stride, dilation and padding."""


def any_convolution(trial: Trial, case: Case) -> None:
    """A small convolution of -1, 0, 1 and its dense layer must both give the exact result; all is drawn from the seed.

    At most 135 terms and a bias: no sum is rounded in any dtype. The layer keeps what a mapping is to keep, and leaves
    its source as it was.
    """
    generator = generator_of(case, 3)
    conv, size = _drawn(trial, case, generator)
    before = copy.deepcopy(conv)
    x = _ternary(case, generator, 2, conv.in_channels, *size)
    what = f"{conv} on a map of {size}"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that "same" with an even kernel may copy
        exact = _exact(conv, x).flatten(1)
        is_right = torch.equal(conv(x).flatten(1), exact)
        if is_right or not trial.is_known_of_module(conv, x):
            trial.holds(is_right, "full", f"does not give the exact result for {what}")
        layer = conv_to_linear(conv, (conv.in_channels, *size))
        is_right = torch.equal(layer(x.flatten(1)), exact)
        trial.holds(is_right, "full", f"becomes a layer with another result by conv_to_linear for {what}")
    for name, source in conv.named_parameters():
        found, old = getattr(layer, name), getattr(before, name)
        kept = found.requires_grad == source.requires_grad and layer.training == conv.training
        words = f"becomes a layer with another requires_grad of the {name}, or training mode, for {what}"
        trial.holds(kept, "full", words)
        same = torch.equal(source, old) and source.requires_grad == old.requires_grad
        same = same and conv.training == before.training
        trial.holds(same, "full", f"is changed in its {name} by conv_to_linear for {what}")
        apart = found.untyped_storage().data_ptr() != source.untyped_storage().data_ptr()
        trial.holds(apart, "full", f"shares its {name} with the layer of conv_to_linear for {what}")


def _drawn(trial: Trial, case: Case, generator: torch.Generator) -> tuple[Conv, tuple[int, ...]]:
    """A convolution in the dtype and dimensions of a case, and the size of a map for it."""
    serves = {name: trial.asks(name, "full") for name in ("groups", "stride", "dilation", "padding")}

    def upto(high: int, low: int = 1) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    dims = len(case.feature_shape) - 1
    groups = upto(3) if serves["groups"] else 1
    channels, outputs = groups * upto(3), groups * upto(3)
    kernel, stride, dilation, padding = (tuple(upto(h, low) for _ in range(dims)) for h, low in _RANGES)
    plain = (1,) * dims
    stride, dilation = stride if serves["stride"] else plain, dilation if serves["dilation"] else plain
    longer = upto(dims) - 1
    kernel = (*kernel[:longer], upto(5), *kernel[longer + 1 :])
    chosen: Any = padding
    if not serves["padding"]:
        chosen = padding = (0,) * dims
    elif upto(4) == 1:  # padding by name
        chosen = ("same", "valid")[upto(2) - 1]
        stride = (1,) * dims if chosen == "same" else stride
        padding = (0,) * dims
    # 16-bit and complex padding other than with zeros is not served by every torch.
    any_mode = serves["padding"] and case.dtype in (torch.float32, torch.float64)
    mode = _MODES[upto(3, 0)] if any_mode else "zeros"
    kind: Any = CONVS[dims]
    more = {"padding_mode": mode, "bias": case.bias is not None, "device": "meta", "dtype": case.dtype}
    conv: Conv = kind(
        channels, outputs, kernel, stride=stride, padding=chosen, dilation=dilation, groups=groups, **more
    )
    reach = [e * (k - 1) + 1 for k, e in zip(kernel, dilation, strict=True)]
    size = tuple(max(r + upto(2, 0), p + 1) for r, p in zip(reach, padding, strict=True))
    for name, parameter in tuple(conv.named_parameters()):  # made on meta: nothing is drawn from the global state
        values = _ternary(case, generator, *parameter.shape)
        setattr(conv, name, nn.Parameter(values, requires_grad=upto(2) == 1))
    conv.train(upto(2) == 1)
    return conv, size


def _ternary(case: Case, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(-1, 2, shape, generator=generator).to(case.dtype).to(case.device)


def _exact(conv: Conv, x: Tensor) -> Tensor:
    """The result ``(N, O, *positions)``: the windows of the padded map, entry by entry, summed in float64."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    pads, positions = pads_and_positions(conv, tuple(x.shape[2:]))
    around = [p for sides in reversed(pads) for p in sides]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    windows = functional.pad(x.to(wide), around, mode=mode)
    dims = len(conv.kernel_size)
    for d, (k, s, e) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        windows = windows.unfold(2 + d, e * (k - 1) + 1, s)[..., ::e]
    # (N, C, *positions, *kernel) -> (N, groups, C / groups, positions, kernel)
    parts = windows.reshape(len(x), conv.groups, x.shape[1] // conv.groups, math.prod(positions), -1)
    weight = conv.weight.to(wide).reshape(conv.groups, -1, parts.shape[2], parts.shape[-1])
    y = (parts[:, :, None] * weight[None, :, :, :, None]).sum((3, 5)).reshape(len(x), -1, *positions)
    if conv.bias is not None:
        y = y + conv.bias.to(wide).view(-1, *(1,) * dims)
    return y.to(x.dtype)
