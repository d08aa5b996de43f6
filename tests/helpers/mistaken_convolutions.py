"""Convolutions that slide over maps with one mistake each, as functions of (conv, x), with the cause that names it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d, pad

Mistake = Callable[[nn.Module, Tensor], Tensor]


def run(conv, x, *, weight=None, bias=None, pads=None, mode=None, stride=None, dilation=None) -> Tensor:
    """The convolution with something else in the place of its own: ``pads`` are (before, after) of every axis."""
    weight = conv.weight if weight is None else weight
    rank = weight.ndim - 2
    mode = conv.padding_mode if mode is None else mode
    pads = [(p, p) for p in conv.padding] if pads is None else pads
    flat = [size for pair in reversed(pads) for size in pair]
    x = pad(x, flat, mode={"zeros": "constant"}.get(mode, mode))
    f = {1: conv1d, 2: conv2d, 3: conv3d}[rank]
    bias = conv.bias if bias is None else bias
    return f(x, weight, bias, stride or conv.stride, 0, dilation or conv.dilation, conv.groups)


def _two(**options) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(4, 6, 3, **{"padding": 1, **options})


def nhwc_outputs(conv, x):
    y = run(conv, x)
    return y.permute(0, 2, 3, 1).reshape(y.shape)


def outputs_from_nhwc(conv, x):
    y = run(conv, x)
    n, o, h, w = y.shape
    return y.reshape(n, h, w, o).permute(0, 3, 1, 2)


MISTAKES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Mistake, str]] = {
    # the convolution, the map, the mistake, and the name of its cause
    "kernel flipped": (_two(), (4, 6, 7), lambda c, x: run(c, x, weight=c.weight.flip(2, 3)), "kernel-flipped"),
    "kernel flipped in 1d": (
        lambda: nn.Conv1d(3, 5, 4, padding=2),
        (3, 9),
        lambda c, x: run(c, x, weight=c.weight.flip(2)),
        "kernel-flipped",
    ),
    "kernel flipped in 3d": (
        lambda: nn.Conv3d(2, 3, 2),
        (2, 4, 4, 3),
        lambda c, x: run(c, x, weight=c.weight.flip(2, 3, 4)),
        "kernel-flipped",
    ),
    "kernel flipped along H": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, weight=c.weight.flip(2)),
        "kernel-flipped-axis",
    ),
    "kernel transposed": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, weight=c.weight.transpose(2, 3)),
        "spatial-swapped",
    ),
    "kernel read as HWC": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, weight=c.weight.reshape(6, 3, 3, 4).permute(0, 3, 1, 2)),
        "flattened-hwc",
    ),
    "input channels reversed": (_two(), (4, 6, 7), lambda c, x: run(c, x.flip(1)), "channels-reversed"),
    "output channels shifted": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, weight=c.weight.roll(1, 0), bias=c.bias.roll(1)),
        "outputs-permuted",
    ),
    "input channels permuted": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, weight=c.weight[:, [2, 0, 3, 1]]),
        "channels-permuted",
    ),
    "taps permuted": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, weight=c.weight.flatten(2)[:, :, [3, 0, 1, 2, 8, 5, 6, 7, 4]].view_as(c.weight)),
        "inputs-permuted",
    ),
    "output channels permuted": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x)[:, [3, 0, 5, 1, 2, 4]],
        "outputs-permuted",
    ),
    "bias dropped": (_two(), (4, 6, 7), lambda c, x: run(c, x, bias=torch.zeros(6)), "bias-dropped"),
    "SAME of TensorFlow": (
        _two(stride=2),
        (4, 8, 6),
        lambda c, x: run(c, x, pads=[(0, 1), (0, 1)]),
        "padding-shifted",
    ),
    "even kernel, padded behind": (
        lambda: nn.Conv2d(3, 4, 2, padding="same"),
        (3, 5, 6),
        lambda c, x: run(c, x, pads=[(1, 0), (1, 0)]),
        "padding-shifted",
    ),
    "zeros, not reflected": (
        _two(padding_mode="reflect"),
        (4, 6, 7),
        lambda c, x: run(c, x, mode="zeros"),
        "padding-mode",
    ),
    "circular, not zeros": (_two(), (4, 6, 7), lambda c, x: run(c, x, mode="circular"), "padding-mode"),
    "replicated, not zeros": (_two(), (4, 6, 7), lambda c, x: run(c, x, mode="replicate"), "padding-mode"),
    "dilation 2": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x, dilation=2, pads=[(2, 2), (2, 2)]),
        "dilation-wrong",
    ),
    "dilation 1": (
        _two(dilation=2, padding=2),
        (4, 6, 7),
        lambda c, x: run(c, x, dilation=1, pads=[(1, 1), (1, 1)]),
        "dilation-wrong",
    ),
    "every second from the other place": (
        _two(stride=2),
        (4, 8, 8),
        lambda c, x: run(c, x, stride=1)[:, :, 1::2, 1::2],
        "padding-shifted",
    ),
    "cropped, not strided": (
        _two(stride=2),
        (4, 8, 8),
        lambda c, x: run(c, x, stride=1)[:, :, :4, :4],
        "stride-wrong",
    ),
    "results read as NHWC": (_two(), (4, 6, 7), nhwc_outputs, "outputs-flattened-hwc"),
    "results of NHWC": (_two(), (4, 6, 7), outputs_from_nhwc, "outputs-flattened-hwc"),
    "results transposed": (_two(), (4, 6, 6), lambda c, x: run(c, x).transpose(2, 3), "outputs-spatial-swapped"),
    "input read as NHWC": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x.reshape(-1, 6, 7, 4).permute(0, 3, 1, 2)),
        "input-flattened-hwc",
    ),
    "input of NHWC": (
        _two(),
        (4, 6, 7),
        lambda c, x: run(c, x.permute(0, 2, 3, 1).reshape(x.shape)),
        "input-flattened-hwc",
    ),
    "input transposed": (_two(), (4, 6, 6), lambda c, x: run(c, x.transpose(2, 3)), "input-spatial-swapped"),
    "groups exchanged": (
        _two(groups=2),
        (4, 6, 7),
        lambda c, x: run(c, x.roll(2, 1)),
        "input-groups-exchanged",
    ),
    "results of groups exchanged": (
        _two(groups=2),
        (4, 6, 7),
        lambda c, x: run(c, x).roll(3, 1),
        "outputs-groups-exchanged",
    ),
    "results of groups shuffled": (
        _two(groups=2),
        (4, 6, 7),
        lambda c, x: run(c, x).unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
        "outputs-groups-shuffled",
    ),
}
