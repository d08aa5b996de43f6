"""Winograd kernels pass in their own arithmetic, whatever the tile, and wrong ones do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent, certify, compare
from equiv.numerics import declared, winograd
from equiv.numerics.winograd import TILES


def by_winograd(x: Tensor, weight: Tensor, tile: int) -> Tensor:
    """A 3x3 convolution without padding in the dtype of ``x``; H and W are such that tiles fit."""
    a, g, b = (torch.tensor(m, dtype=x.dtype) for m in TILES[tile][:3])
    patches = x.unfold(2, tile + 2, tile).unfold(3, tile + 2, tile)  # (N, C, P, Q, t, t)
    d = b @ patches @ b.T
    k = g @ weight @ g.T  # (O, C, t, t)
    m = torch.einsum("ncpqij,ocij->nopqij", d, k)
    y = a @ m @ a.T
    return y.permute(0, 1, 2, 4, 3, 5).reshape(len(x), len(weight), *(tile * size for size in y.shape[2:4]))


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("channels", [1, 64])
def test_winograd_passes_in_its_own_arithmetic(tile: int, channels: int) -> None:
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        conv = nn.Conv2d(channels, 5, 3, bias=False).requires_grad_(False)
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        x = torch.randn(2, channels, 10, 10, generator=generator)
        y = by_winograd(x, conv.weight, tile)
        verdict = compare(y, conv(x), input=x, layer=conv, arithmetic=winograd(torch.float32, tile))
        assert verdict.equivalent, str(verdict)
        assert "is allowed for" in verdict.explanation


def test_wrong_kernels_are_outside_of_it() -> None:
    conv = nn.Conv2d(1, 2, 3, bias=False).requires_grad_(False)
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    wrong = by_winograd(x, conv.weight.flip(3), 4)
    assert not compare(wrong, conv(x), input=x, layer=conv, arithmetic=winograd(torch.float32, 4))


def test_without_its_arithmetic_it_is_different() -> None:
    conv = nn.Conv2d(1, 2, 3, bias=False).requires_grad_(False)
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    verdict = compare(by_winograd(x, conv.weight, 4), conv(x), input=x, layer=conv)
    assert verdict.outcome is Outcome.DIFFERENT


def test_growth_is_that_of_the_matrices() -> None:
    assert winograd(torch.float32, 2).factor == pytest.approx((8 / 3) ** 2)
    assert winograd(torch.float64, 4).factor == pytest.approx(256)
    assert winograd(torch.float32).u == declared(torch.float32).u
    with pytest.raises(EquivError, match="tile: expected one of 2, 4, got 3"):
        winograd(torch.float32, 3)


@pytest.mark.parametrize("tile", [2, 4])
def test_layers_are_asked_on_inputs_of_one_size(tile: int) -> None:
    conv, arithmetic = nn.Conv2d(8, 6, 3, bias=False), winograd(torch.float32, tile)
    options = {"feature_shape": (8, 10, 10), "arithmetic": arithmetic}
    assert_equivalent(lambda x: by_winograd(x, conv.weight, tile), conv, **options)
    with pytest.raises(NotEquivalent, match="on inputs of -1 and 1"):
        assert_equivalent(lambda x: by_winograd(x, conv.weight.roll(1, 1), tile), conv, **options)
    with pytest.raises(EquivError, match="arithmetic: expected one of a kernel that returns each weight"):
        certify(lambda x: by_winograd(x, conv.weight, tile), conv, **options)
    with pytest.raises(EquivError, match="where gradients are asked"):
        assert_equivalent(conv, conv, **options, gradients=True)
