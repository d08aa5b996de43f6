"""``assert_equivalent`` for convolutions whose dense layer is too large to be built: which, and on which maps.

What the results mean is the business of ``equiv.verdict.results``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv, pads_and_positions
from equiv.verdict.patches import Patches

_DENSE = 2**24  # weights up to which the dense layer is built: 64 MiB in float32
_LATTICES = 4


def is_large(conv: Conv, shape: tuple[int, ...]) -> bool:
    """Whether a convolution slides over maps of ``shape``, ``(C, *spatial)``, and its dense layer has many weights.

    Example:
        >>> is_large(torch.nn.Conv2d(64, 96, 3, padding=1), (64, 28, 28))
        True
    """
    if len(shape) != conv.weight.ndim - 1 or shape[0] != conv.in_channels:
        return False
    return dense_size(conv, shape) > _DENSE


def dense_size(conv: Conv, shape: tuple[int, ...]) -> int:
    """How many weights the dense layer of a convolution has on maps of ``shape``.

    Example:
        >>> dense_size(torch.nn.Conv2d(64, 96, 3, padding=1), (64, 28, 28))
        3776446464
    """
    return conv.out_channels * math.prod(pads_and_positions(conv, shape[1:])[1]) * math.prod(shape)


def check_dense(conv: Conv, shape: tuple[int, ...], *, gradients: bool) -> None:
    """Refuse gradients of a convolution whose dense layer is not built."""
    if gradients:
        raise EquivError(
            f"gradients: expected a dense layer of at most {_DENSE:,} weights, got one of {dense_size(conv, shape):,} "
            f"on maps {shape}; pass a smaller feature_shape, on which gradients are asked"
        )


def maps_to_try(conv: Conv, shape: tuple[int, ...], given: Tensor | None, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Batches of maps in words: the caller's, zero, lattices of ones, signs, and values of ordinary size.

    A lattice has ones so far apart in one channel that no output reads two: every output is one weight, or the bias.
    """
    dtype, device = conv.weight.dtype, conv.weight.device
    if given is not None and given.numel():
        yield "on the input given", given.detach().reshape(-1, *shape)
    generator = torch.Generator().manual_seed(seed)
    lattices = torch.zeros((1 + _LATTICES, *shape), dtype=dtype, device=device)
    apart = [(axis.taps - 1) * axis.dilation + 1 for axis in Patches(conv, shape).axes]
    for one in lattices[1:]:
        channel, *first = (int(torch.randint(size, (), generator=generator)) for size in (shape[0], *apart))
        one[(channel, *(slice(start, None, step) for start, step in zip(first, apart, strict=True)))] = 1
    yield "on zero and on lattices of ones", lattices
    low = 0 if not dtype.is_signed else -1
    signs = torch.randint(low, 2, (2, *shape), generator=generator)
    yield "on inputs of -1, 0 and 1", signs.to(dtype).to(device)
    if is_inexact(dtype):
        wide = dtype if dtype.itemsize >= 8 else torch.float32  # torch draws no 16 bits on some devices
        normal = torch.randn((2, *shape), generator=generator, dtype=wide).to(dtype).to(device)
        yield "on normal inputs", normal
        yield "on one input without a batch of others", normal[:1]
