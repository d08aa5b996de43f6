"""Layers that models really have, and the sizes that are drawn from them.

A layer is its feature shape ``(C, *kernel)``, or ``(n,)`` of a fully connected one, and its number of outputs. From the
shapes follow the numbers of channels that go with a kernel; from all, the sizes that are worth drawing.
"""

from __future__ import annotations

import math
from functools import lru_cache

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
