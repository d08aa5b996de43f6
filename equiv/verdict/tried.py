"""The inputs on which two layers, or a layer and a function, are tried, each with words."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from equiv.dtypes import is_inexact
from equiv.numerics import Arithmetic, one_hot_rows
from equiv.verdict.probes import rounding_probes

_ONE_HOTS = 256
_ROWS = 32

Tried = Iterator[tuple[str, Tensor, Tensor | None]]


def inputs_to_try(layer: nn.Linear, given: Tensor | None, seed: int, arithmetic: Arithmetic | None) -> Tried:
    """What to try: the caller's input, zero and one-hot rows, signs, and values of ordinary size.

    Each with words, and with the only columns in which it is not zero where these are few. Of a kernel that ``mixes``
    inputs those of one size alone are asked.
    """
    if arithmetic is not None and arithmetic.mixes:
        yield from _of_one_size(layer, given, seed)
        return
    n, dtype, device = layer.in_features, layer.weight.dtype, layer.weight.device
    if given is not None and given.numel():
        yield "on the input given", given.detach().reshape(-1, n), None
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(n) if n <= _ONE_HOTS else torch.randperm(n, generator=generator)[:_ONE_HOTS].sort().values
    probes = torch.cat([torch.zeros(1, n, dtype=dtype, device=device), one_hot_rows(columns, n, dtype, device)])
    yield "on the zero input and one-hot inputs", probes, columns.to(device) if n > _ONE_HOTS else None
    if dtype.is_floating_point:
        x, columns = rounding_probes(
            layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), generator
        )
        yield "on inputs of one or two entries", x, columns
    low = 0 if not dtype.is_signed else -1
    yield "on inputs of -1, 0 and 1", torch.randint(low, 2, (_ROWS, n), generator=generator).to(dtype).to(device), None
    if is_inexact(dtype):
        wide = torch.complex128 if dtype.is_complex else torch.float64
        normal = torch.randn(_ROWS, n, generator=generator, dtype=wide).to(dtype).to(device)
        yield "on normal inputs", normal, None
        yield "on one input without a batch of others", normal[:1], None


def _of_one_size(layer: nn.Linear, given: Tensor | None, seed: int) -> Tried:
    """What a kernel that computes with sums of several inputs is asked: the caller's, signs, and values from 1 to 2."""
    n, dtype, device = layer.in_features, layer.weight.dtype, layer.weight.device
    if given is not None and given.numel():
        yield "on the input given", given.detach().reshape(-1, n), None
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (_ROWS, n), generator=generator) * 2.0 - 1
    yield "on inputs of -1 and 1", signs.to(dtype).to(device), None
    values = (1 + torch.rand(_ROWS, n, generator=generator)) * signs
    yield "on inputs of one size", values.to(dtype).to(device), None
    yield "on one input without a batch of others", values[:1].to(dtype).to(device), None
