"""Layers that models really have, and the sizes that are drawn from them.

A layer is its feature shape ``(C, *kernel)``, or ``(n,)`` of a fully connected one, and its number of outputs. From the
shapes follow the numbers of channels that go with a kernel; from all, the sizes that are worth drawing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

LAYERS: dict[str, tuple[tuple[tuple[int, ...], int], ...]] = {
    "ResNet-50": (
        ((3, 7, 7), 64),
        ((64, 1, 1), 256),
        ((64, 3, 3), 64),
        ((256, 1, 1), 128),
        ((128, 3, 3), 128),
        ((256, 3, 3), 256),
        ((512, 3, 3), 512),
        ((1024, 1, 1), 2048),
        ((2048,), 1000),
    ),
    "VGG-16": (((3, 3, 3), 64), ((64, 3, 3), 128), ((512, 3, 3), 512), ((512, 7, 7), 4096), ((4096,), 1000)),
    "MobileNet v2": (((3, 3, 3), 32), ((1, 3, 3), 32), ((16, 1, 1), 96), ((24, 1, 1), 144), ((320, 1, 1), 1280)),
    "EfficientNet": (((1, 5, 5), 240), ((40, 1, 1), 240), ((80, 1, 1), 480), ((112, 1, 1), 672)),
    "ViT": (
        ((3, 16, 16), 768),
        ((3, 14, 14), 1280),
        ((3, 32, 32), 768),
        ((192,), 576),
        ((384,), 1536),
        ((768,), 2304),
        ((3072,), 768),
    ),
    "Swin": (((3, 4, 4), 96), ((96,), 288), ((384,), 192)),
    "GPT-2": (((768,), 2304), ((768,), 3072), ((1600,), 6400), ((768,), 50257)),
    "Llama": (((4096,), 4096), ((4096,), 1024), ((4096,), 11008), ((4096,), 14336), ((4096,), 32000)),
    "Whisper": (((80, 3), 384), ((128, 3), 1280), ((384, 3), 384), ((512,), 2048), ((1280,), 51865)),
    "U-Net 3d": (
        ((1, 3, 3, 3), 32),
        ((32, 3, 3, 3), 64),
        ((64, 3, 3, 3), 128),
        ((64, 2, 2, 2), 32),
        ((32, 1, 1, 1), 3),
    ),
    "Stable Diffusion": (((4, 3, 3), 320), ((320, 3, 3), 320), ((640, 1, 1), 1280), ((1280,), 320)),
}


class Sliding(NamedTuple):
    """A convolution that slides over its map. Channels and outputs are those of all groups."""

    channels: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _sliding(
    channels: int, outputs: int, kernel: str, stride: int = 1, padding: str = "", dilation: int = 1, groups: int = 1
) -> Sliding:
    """``kernel`` as ``3x3``; without ``padding`` the one that keeps the size of a map at stride 1."""
    edges = tuple(map(int, kernel.split("x")))
    same = tuple(dilation * (k - 1) // 2 for k in edges)
    pads = tuple(map(int, padding.split("x"))) if padding else same
    alike = (1,) * len(edges)
    steps = (tuple(stride * a for a in alike), pads, tuple(dilation * a for a in alike))
    return Sliding(channels, outputs, edges, *steps, groups)


SLIDING: dict[int, tuple[Sliding, ...]] = {
    1: (
        _sliding(80, 384, "3"),  # Whisper
        _sliding(384, 384, "3", 2),
        _sliding(64, 64, "4", padding="3", groups=64),  # Mamba
        _sliding(1, 512, "10", 5, "0"),  # wav2vec 2.0
        _sliding(64, 64, "16", padding="8", groups=16),
        _sliding(32, 32, "31", groups=32),  # Conformer
        _sliding(64, 64, "3", dilation=4),  # WaveNet, TCN
        _sliding(64, 128, "1"),
    ),
    2: (
        _sliding(64, 64, "3x3"),  # ResNet, VGG, U-Net
        _sliding(32, 64, "3x3"),
        _sliding(128, 128, "3x3", 2),
        _sliding(3, 64, "3x3"),
        _sliding(3, 32, "3x3", 2),  # MobileNet
        _sliding(3, 64, "7x7", 2),  # ResNet
        _sliding(64, 256, "1x1"),
        _sliding(256, 512, "1x1", 2),
        _sliding(32, 32, "3x3", groups=32),  # MobileNet
        _sliding(96, 96, "3x3", 2, groups=96),
        _sliding(40, 40, "5x5", 2, groups=40),  # EfficientNet
        _sliding(96, 96, "7x7", groups=96),  # ConvNeXt
        _sliding(16, 32, "3x3", groups=16),  # depthwise with a multiplier
        _sliding(64, 64, "3x3", groups=32),  # ResNeXt
        _sliding(32, 32, "3x3", groups=2),  # AlexNet
        _sliding(64, 64, "3x3", dilation=2),  # DeepLab
        _sliding(64, 64, "3x3", dilation=6),
        _sliding(3, 64, "11x11", 4, "2x2"),  # AlexNet
        _sliding(64, 192, "5x5"),
        _sliding(6, 16, "5x5", padding="0x0"),  # LeNet
        _sliding(64, 64, "1x7"),  # Inception
        _sliding(64, 64, "7x1"),
        _sliding(64, 128, "4x4", 2, "1x1"),  # DCGAN
        _sliding(4, 32, "8x8", 4, "0x0"),  # DQN
        _sliding(3, 64, "7x7", 4, "3x3"),  # SegFormer
        _sliding(96, 192, "2x2", 2, "0x0"),  # ConvNeXt
        _sliding(3, 96, "4x4", 4, "0x0"),  # Swin
        _sliding(3, 768, "14x14", 14, "0x0"),  # ViT
        _sliding(3, 768, "16x16", 16, "0x0"),
    ),
    3: (
        _sliding(32, 64, "3x3x3"),  # U-Net 3d
        _sliding(1, 32, "3x3x3"),
        _sliding(16, 32, "3x3x3", 2),
        _sliding(64, 32, "2x2x2", 2, "0x0x0"),
        _sliding(32, 32, "1x3x3"),  # R(2+1)D
        _sliding(32, 32, "3x1x1"),
        _sliding(32, 32, "3x3x3", groups=32),  # X3D
        _sliding(3, 96, "2x4x4", 2, "0x0x0"),
    ),
}
"""Convolutions that slide over maps, by the number of their dimensions."""

_ALL = tuple(layer for layers in LAYERS.values() for layer in layers)

SIZES = frozenset({size for shape, outputs in _ALL for size in (shape[0], outputs) if size > 3})
"""Channels, features and outputs of the layers."""


@lru_cache(maxsize=4096)
def channels_of(kernel: tuple[int, ...], high: int) -> tuple[int, ...]:
    """The channels that layers with this kernel have, sorted, at most ``high``; more are halved until they fit.

    Example:
        >>> channels_of((7, 7), 20)
        (3, 16)
    """
    found = {shape[0] for shape, _ in _ALL if shape[1:] == kernel}
    return tuple(sorted({max(1, channels >> max(0, math.ceil(math.log2(channels / high)))) for channels in found}))
