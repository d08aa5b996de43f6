"""Where a convolution reads its map, and the exact results and gradients that follow from that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from equiv.strategies import Convolution, ConvolutionRecipe


@dataclass(frozen=True)
class Windows:
    """Where a convolution reads its map, and what follows from that in a dtype in which every sum is exact."""

    recipe: ConvolutionRecipe

    @cached_property
    def map(self) -> Tensor:
        """For each place of the padded map which entry lies there, counted from 1; 0 for none. ``(*padded)``."""
        size, padding = self.recipe.size, self.recipe.steps[1]
        places = torch.arange(1.0, math.prod(size) + 1, dtype=torch.float64).view(1, 1, *size)
        mode = "constant" if self.recipe.padding_mode == "zeros" else self.recipe.padding_mode
        return functional.pad(places, [p for each in reversed(padding) for p in (each, each)], mode)[0, 0].long()

    @cached_property
    def read(self) -> Tensor:
        """The same for each position and tap: ``(positions, taps)``."""
        found, (stride, _, dilation) = self.map, self.recipe.steps
        for d, (k, s, e) in enumerate(zip(self.recipe.kernel, stride, dilation, strict=True)):
            found = found.unfold(d, e * (k - 1) + 1, s)[..., ::e]
        return found.reshape(-1, math.prod(self.recipe.kernel))

    def padded(self, x: Tensor) -> Tensor:
        """The padded map, ``(N, C, *padded)``."""
        return torch.cat([x.new_zeros(*x.shape[:2], 1), x.flatten(2)], 2)[:, :, self.map.to(x.device)]

    def rows(self, x: Tensor) -> Tensor:
        """What each output of a group reads: ``(groups, N * positions, C / groups * taps)``."""
        r = self.recipe
        flat = torch.cat([x.new_zeros(*x.shape[:2], 1), x.flatten(2)], 2)[:, :, self.read.to(x.device)]
        parts = flat.view(len(x), r.groups, -1, *self.read.shape).permute(1, 0, 3, 2, 4)
        return parts.reshape(r.groups, len(x) * len(self.read), -1)

    def by_group(self, y: Tensor) -> Tensor:
        """``(N, O, *positions)`` as ``(groups, N * positions, O / groups)``."""
        parts = y.reshape(len(y), self.recipe.groups, -1, len(self.read)).permute(1, 0, 3, 2)
        return parts.reshape(self.recipe.groups, len(y) * len(self.read), -1)

    def incoming(self, case: Convolution) -> Tensor:
        """The case's incoming gradient ``(N, O, *positions)``; its first corner where there are fewer positions."""
        assert case.grad is not None
        grad = case.grad
        for dimension, size in enumerate(self.recipe.positions, 2):
            grad = grad.narrow(dimension, 0, size)
        return grad.contiguous()

    def result(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The exact result ``(N, O, *positions)`` of integers."""
        groups, kind = self.recipe.groups, _wide(x)
        y = self.rows(x.to(kind)) @ weight.to(kind).view(groups, weight.shape[0] // groups, -1).mT
        y = y.view(groups, len(x), len(self.read), -1).permute(1, 0, 3, 2).reshape(len(x), len(weight), -1)
        y = y if bias is None else y + bias.to(kind)[:, None]
        return y.view(*y.shape[:2], *self.recipe.positions).to(x.dtype)

    def gradients(self, x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The exact gradients of integers, for an incoming gradient ``(N, O, *positions)``."""
        groups, kind = self.recipe.groups, _wide(x)
        g, rows = self.by_group(grad.to(kind)), self.rows(x.to(kind)).conj()
        parts = g @ weight.to(kind).view(groups, len(weight) // groups, -1).conj()
        taps = self.read.shape[1]
        parts = parts.view(groups, len(x), len(self.read), -1, taps).permute(1, 0, 3, 2, 4)
        spread = parts.new_zeros(*x.shape[:2], 1 + math.prod(self.recipe.size))
        spread.index_add_(2, self.read.flatten().to(x.device), parts.reshape(*x.shape[:2], -1))
        found = {"input": spread[..., 1:], "weight": g.mT @ rows, "bias": grad.to(kind).flatten(2).sum((0, 2))}
        shapes = {"input": x.shape, "weight": weight.shape, "bias": weight.shape[:1]}
        return {name: t.resolve_conj().reshape(shapes[name]).to(x.dtype) for name, t in found.items()}


def _wide(t: Tensor) -> torch.dtype:
    return torch.complex128 if t.is_complex() else torch.float64 if t.is_floating_point() else torch.int64
