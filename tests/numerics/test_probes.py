"""Every right kernel returns the exact value of an exact probe."""

from __future__ import annotations

import itertools

import pytest
import torch
from numerics_helpers import ORDERS, exact_sum, four_products_of, probe, products_of, terms_of, word

from equiv.dtypes import COMPLEX, DTYPES, FLOATS, INTEGERS
from equiv.numerics import (
    STYLES,
    address_coded_weight,
    entry_range,
    exact_case,
    exact_integers,
    exact_range,
    one_hot_rows,
)
from equiv.strategies import Recipe, Values, Window, build_case


def sizes_of(t):
    return torch.view_as_real(t).double().abs().sum(-1) if t.is_complex() else t.double().abs()


def assert_held(t, dtype):
    """Integers that the dtype tells apart."""
    parts = torch.view_as_real(t) if t.is_complex() else t
    assert t.dtype == dtype
    assert torch.equal(parts.double(), parts.double().round())
    assert float(parts.double().abs().max() if parts.numel() else 0) <= entry_range(dtype)


SIZES = ((1, 1, 1), (2, 3, 2), (3, 40, 5), (17, 300, 9), (0, 4, 2), (2, 2500, 1), (300, 2, 3), (700, 3, 400))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=word)
def test_the_terms_of_a_probe_stay_within_the_exact_range(style, dtype):
    for (rows, n, out), bias, unrounded, seed in itertools.product(SIZES, (False, True), (False, True), range(2)):
        x, w, b = exact_case(
            seed=seed,
            style=style,
            rows=rows,
            in_features=n,
            out_features=out,
            bias=bias,
            dtype=dtype,
            unrounded=unrounded,
        )
        assert (x.shape, w.shape) == ((rows, n), (out, n))
        assert b is None if not bias else b.shape == (out,)
        for t in (x, w) + (() if b is None else (b,)):
            assert_held(t, dtype)
        size = sizes_of(x) @ sizes_of(w).T + (0 if b is None else sizes_of(b))
        assert not size.numel() or size.max() <= exact_range(dtype, unrounded=unrounded), (rows, n, out, bias)
        if rows >= 17:
            assert x.count_nonzero()
            assert w.count_nonzero()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=word)
def test_the_sums_of_gradients_of_a_probe_stay_within_the_exact_range(style, dtype):
    for rows, n, out in SIZES:
        x, w, _ = exact_case(
            seed=3,
            style=style,
            rows=rows,
            in_features=n,
            out_features=out,
            bias=True,
            dtype=dtype,
            reduction=max(rows, n, out),
        )
        limit = exact_range(dtype, unrounded=True)
        assert sizes_of(w).sum(0).max() <= limit, "gradient of the input, for gradients of -1, 0 and 1"
        assert not rows or sizes_of(x).sum(0).max() <= limit, "gradient of the weight"


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
@pytest.mark.parametrize("style", STYLES)
def test_every_order_gives_the_exact_sum_of_a_probe_even_in_the_dtype_itself(style, dtype):
    for rows, n, out in ((3, 1, 2), (4, 7, 3), (5, 70, 4)):
        x, w, b = exact_case(seed=n, style=style, rows=rows, in_features=n, out_features=out, bias=True, dtype=dtype)
        wanted = exact_integers(x, w, b)
        for row, column in itertools.product(range(rows), range(out)):
            s, _, _ = exact_sum(x[row], w[column], b[column])
            assert wanted[row, column].item() == s
        for order, first in itertools.product(ORDERS, (False, True)):
            y = order(terms_of(x, w, b, dtype, bias_first=first))
            assert torch.equal(y.double(), wanted.double()), order.__name__


@pytest.mark.parametrize("dtype", COMPLEX, ids=word)
@pytest.mark.parametrize("style", STYLES)
def test_three_products_give_the_exact_sum_of_a_complex_probe(style, dtype):
    for n in (1, 7, 300):
        x, w, b = exact_case(seed=n, style=style, rows=4, in_features=n, out_features=3, bias=True, dtype=dtype)
        wanted = exact_integers(x, w, b).double()
        for product in (products_of, four_products_of):
            assert torch.equal(torch.view_as_real(product(x, w, b)).double(), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=word)
def test_a_probe_that_may_round_rounds_once(dtype):
    for style in STYLES:
        x, w, _ = probe(style=style, dtype=dtype, unrounded=False, in_features=33, bias=False)
        wanted = exact_integers(x, w)
        for order in ORDERS:
            total = order(terms_of(x, w, None, torch.float32))
            assert torch.equal(total.double(), wanted.double())
            assert total.to(dtype).isfinite().all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", INTEGERS, ids=word)
def test_integer_probes_wrap_to_the_same_bits_in_any_order(style, dtype):
    x, w, b = probe(style=style, dtype=dtype, in_features=11)
    results = [order(terms_of(x, w, b, dtype)) for order in ORDERS]
    wanted = exact_integers(x, w, b).to(dtype)
    assert all(torch.equal(y, wanted) for y in results)


@pytest.mark.parametrize("dtype", DTYPES, ids=word)
def test_a_window_of_a_probe_is_a_probe(dtype):
    for style, window in itertools.product(STYLES, (Window(end=7), Window(end=9, length=5), Window(ends=1))):
        values = Values("probe", 2, window)
        recipe = Recipe((2, 3, 2), 3, (4,), x=values, weight=values, bias=values, seed=5, style=style, dtype=dtype)
        case = build_case(recipe)
        whole, _, _ = exact_case(seed=5, style=style, rows=4, in_features=12, out_features=3, bias=True, dtype=dtype)
        assert ((case.x == 0) | (case.x == whole)).all()
        if not dtype.is_floating_point and not dtype.is_complex:
            continue
        size = sizes_of(case.x) @ sizes_of(case.weight).T + sizes_of(case.bias)
        assert size.max() <= exact_range(dtype, unrounded=True)


def test_probes_depend_on_nothing_but_their_seed():
    state = torch.get_rng_state()
    first, again, other = probe(seed=7), probe(seed=7), probe(seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", DTYPES, ids=word)
def test_address_coded_weights_are_distinct_and_not_zero(dtype):
    whole = min(2 * entry_range(dtype), 4000) if dtype != torch.uint8 else 255
    out = 5
    w = address_coded_weight(out, whole // out, dtype)
    assert w.dtype == dtype
    assert len(set(w.flatten().tolist())) == w.numel()
    assert w.count_nonzero() == w.numel()


def test_one_hot_rows_select_columns():
    w = Values("distinct").tensor((3, 6), torch.float32)
    rows = one_hot_rows(torch.tensor([5, 0, 5]), 6, torch.float32)
    assert torch.equal(rows @ w.T, w.T[[5, 0, 5]])
    assert one_hot_rows(torch.tensor([], dtype=torch.long), 6, torch.int8).shape == (0, 6)
