"""The bound on the error of a reference covers the truth."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from numerics_helpers import exact_sum, fraction, word

from equiv.dtypes import FLOATS
from equiv.numerics import exact_affine
from equiv.strategies import FINITE_KINDS, Values


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
@pytest.mark.parametrize("kind", FINITE_KINDS)
def test_the_uncertainty_of_a_reference_covers_the_truth(dtype, kind):
    for n, seed in ((1, 1), (2, 2), (17, 3), (64, 4)):
        x, w, b = (Values(kind, seed + i).tensor(s, dtype) for i, s in enumerate(((2, n), (3, n), (3,))))
        for bias in (None, b):
            exact = exact_affine(x, w, bias)
            for row, column in itertools.product(range(2), range(3)):
                s, size, terms = exact_sum(x[row], w[column], None if bias is None else bias[column])
                value = fraction(exact.value[row, column])
                value += 0 if exact.low is None else fraction(exact.low[row, column])
                assert abs(value - s) <= fraction(exact.uncertainty[row, column])
                assert (
                    abs(fraction(exact.magnitude[row, column]) - size)
                    <= size * Fraction(n + 2, 2**53) + (n + 1) * Fraction(2) ** -1074
                )
                assert torch.as_tensor(exact.terms).expand(2, 3)[row, column] == terms
