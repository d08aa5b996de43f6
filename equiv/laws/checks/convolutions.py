"""Any convolution, its dense layer, and what both must give: stride, dilation, padding and its modes, groups."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from equiv.laws.trial import Trial
from equiv.mapping import conv_to_linear
from equiv.strategies import Case

_MODES = ("zeros", "reflect", "replicate", "circular")
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def any_convolution(trial: Trial, case: Case) -> None:
    """A small convolution of -1, 0, 1 and its dense layer must both give the exact result; all is drawn from the seed.

    At most 135 terms and a bias: no sum is rounded in any dtype. The layer keeps what a mapping is to keep, and leaves
    its source as it was.
    """
    generator = torch.Generator().manual_seed(case.seed % 2**63 + 3)

    def upto(high: int, low: int = 1) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    dims = len(case.feature_shape) - 1
    groups = upto(3)
    channels, outputs = groups * upto(3), groups * upto(3)
    kernel, stride, dilation, padding = (tuple(upto(h, low) for _ in range(dims)) for h, low in _RANGES)
    longer = upto(dims) - 1
    kernel = (*kernel[:longer], upto(5), *kernel[longer + 1 :])
    chosen: Any = padding
    if upto(4) == 1:  # in words
        chosen = ("same", "valid")[upto(2) - 1]
        stride = (1,) * dims if chosen == "same" else stride
        padding = (0,) * dims
    # 16-bit and complex padding other than with zeros is not served by every torch.
    mode = _MODES[upto(3, 0)] if case.dtype in (torch.float32, torch.float64) else "zeros"
    kind: Any = _CONVS[dims - 1]
    more = {"padding_mode": mode, "bias": case.bias is not None, "device": "meta", "dtype": case.dtype}
    conv = kind(channels, outputs, kernel, stride=stride, padding=chosen, dilation=dilation, groups=groups, **more)
    reach = [e * (k - 1) + 1 for k, e in zip(kernel, dilation, strict=True)]
    size = tuple(max(r + upto(2, 0), p + 1) for r, p in zip(reach, padding, strict=True))

    def ternary(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).to(case.dtype).to(case.device)

    for name, parameter in tuple(conv.named_parameters()):  # made on meta: nothing is drawn from the global state
        setattr(conv, name, nn.Parameter(ternary(*parameter.shape), requires_grad=upto(2) == 1))
    conv.train(upto(2) == 1)
    before = copy.deepcopy(conv)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that "same" with an even kernel may copy
        x = ternary(2, channels, *size)
        exact = _exact(conv, x).flatten(1)
        what = f"{conv} on a map of {size}"
        right = torch.equal(conv(x).flatten(1), exact)
        if right or not trial.is_known_of_module(conv, x):
            trial.holds(right, "full", f"{what} does not give the exact result")
        layer = conv_to_linear(conv, (channels, *size))
        trial.holds(torch.equal(layer(x.flatten(1)), exact), "full", f"the layer of {what} does not give its result")
    for name, source in conv.named_parameters():
        found = getattr(layer, name)
        kept = found.requires_grad == source.requires_grad and layer.training == conv.training
        trial.holds(kept, "full", f"the layer of {what} does not keep requires_grad of the {name}, or training mode")
        same = (
            torch.equal(source, getattr(before, name)) and source.requires_grad == getattr(before, name).requires_grad
        )
        trial.holds(same and conv.training == before.training, "full", f"conv_to_linear changed the {name} of {what}")
        apart = found.untyped_storage().data_ptr() != source.untyped_storage().data_ptr()
        trial.holds(apart, "full", f"conv_to_linear shares the {name} of {what} although nobody asked for it")


_RANGES = ((3, 1), (3, 1), (2, 1), (2, 0))
"""Highest and lowest of kernel, stride, dilation and padding."""


def _sides(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[tuple[int, int]]:
    """How much is padded before and after each dimension; "same" puts the odd one after."""
    if not isinstance(conv.padding, str):
        return [(p, p) for p in conv.padding]
    reach = [e * (k - 1) * (conv.padding == "same") for k, e in zip(conv.kernel_size, conv.dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in reach]


def _exact(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """The result ``(N, O, *positions)``: the windows of the padded map, entry by entry, summed in float64."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    around = [p for sides in reversed(_sides(conv)) for p in sides]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    windows = functional.pad(x.to(wide), around, mode=mode)
    dims = len(conv.kernel_size)
    for d, (k, s, e) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        windows = windows.unfold(2 + d, e * (k - 1) + 1, s)[..., ::e]
    # (N, C, *positions, *kernel) -> (N, groups, C / groups, positions, kernel)
    positions = windows.shape[2 : 2 + dims]
    parts = windows.reshape(len(x), conv.groups, x.shape[1] // conv.groups, positions.numel(), -1)
    weight = conv.weight.to(wide).reshape(conv.groups, -1, parts.shape[2], parts.shape[-1])
    y = (parts[:, :, None] * weight[None, :, :, :, None]).sum((3, 5)).reshape(len(x), -1, *positions)
    if conv.bias is not None:
        y = y + conv.bias.to(wide).view(-1, *(1,) * dims)
    return y.to(x.dtype)
