"""Matrix products of slices are what exact fractions say, within their bound; integers are right modulo 2^bits."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from equiv.numerics import dot_integers, exact_affine, exact_integers
from equiv.numerics.splitting import dot_in_slices, dot_wide


def drawn(n: int, spread: int):
    generator = torch.Generator().manual_seed(n + spread)
    x = torch.randn(5, n, generator=generator, dtype=torch.float64)
    x *= torch.exp2(torch.randint(-spread, spread + 1, (5, n), generator=generator).double())
    x[0, 1:] = 0  # one term
    x[1, ::2] = 0
    return x, torch.randn(4, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spread", [0, 5, 40, 300])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 65, 300])
def test_slices_keep_their_bound(n, spread):
    x, weight = drawn(n, spread)
    size, terms = x.abs() @ weight.abs().T, (x != 0).double() @ (weight != 0).double().T
    for words in (dot_in_slices(x, weight), dot_wide(x, weight, size, terms)):
        for i, row in enumerate(x.tolist()):
            for j, column in enumerate(weight.tolist()):
                exact = sum(Fraction(a) * Fraction(b) for a, b in zip(row, column, strict=True))
                high, low, bound = (word[i, j].item() for word in words)
                if math.isfinite(bound):
                    slack = Fraction(bound) + Fraction(size[i, j].item()) * n * Fraction(2) ** -100
                    assert abs(Fraction(high) + Fraction(low) - exact) <= slack
    assert bool((dot_wide(x, weight, size, terms)[2] <= size * terms * 2.0**-61).all())


def test_large_layers_of_float64_are_as_exact_as_small_ones():
    x, weight = drawn(300, 0)
    bias = torch.randn(4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wide = exact_affine(x.repeat(20, 1), weight, bias)  # 120,000 products
    narrow = exact_affine(x, weight, bias)
    assert wide.low is not None
    assert narrow.low is not None
    apart = (wide.value[:5] - narrow.value) + (wide.low[:5] - narrow.low)
    assert bool((apart.abs() <= wide.uncertainty[:5] + narrow.uncertainty).all())
    assert bool((wide.uncertainty <= 2.0**-59 * wide.terms * wide.magnitude).all())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_limbs_are_exact_modulo_two_to_the_bits(dtype):
    info, generator = torch.iinfo(dtype), torch.Generator().manual_seed(1)
    x, weight = (torch.randint(info.min, info.max, (k, 200), dtype=dtype, generator=generator) for k in (6, 5))
    x[0], weight[0] = info.min, info.min
    x[1], weight[1] = info.max, info.max
    assert torch.equal(dot_integers(x, weight).to(dtype), exact_integers(x, weight).to(dtype))
