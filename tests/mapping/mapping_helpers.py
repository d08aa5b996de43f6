"""Layers, weights and bit patterns for the tests of equiv.mapping."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor, nn

from equiv.mapping import conv_to_linear

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
INTS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
DTYPES = FLOATS + INTS
MODES = ["zeros", "reflect", "replicate", "circular"]
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def raw(x: Tensor) -> bytes:
    """The entries' bits in logical order."""
    x = x.detach().cpu().resolve_conj().contiguous().reshape(-1)
    return x.view(torch.uint8).numpy().tobytes()


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Any bit pattern: NaN payloads, infinities, subnormals, -0.0."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.empty((), dtype=dtype).element_size()
    data = torch.randint(0, 256, (math.prod(shape) * width,), generator=generator, dtype=torch.uint8)
    x = data.view(dtype).reshape(shape).clone()
    if dtype.is_floating_point:
        x.view(-1)[:6] = torch.tensor([-0.0, 0.0, math.nan, -math.inf, math.inf, torch.finfo(dtype).tiny / 2])[
            : x.numel()
        ]
    return x


def conv_of(weight: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
    groups = options.get("groups", 1)
    kernel = tuple(weight.shape[2:])
    conv = CONVS[len(kernel)](
        weight.shape[1] * groups, len(weight), kernel, bias=bias is not None, device="meta", **options
    )
    conv.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv


def integers(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=generator).to(dtype)


def assert_dense_is_the_convolution(conv: Any, shape: tuple[int, ...]) -> None:
    x = integers((3, *shape), seed=1)
    expected = conv(x)
    actual = conv_to_linear(conv, shape)(x.flatten(1))
    assert torch.equal(actual, expected.flatten(1))
