"""Complex and integer results, and the tolerance between two right kernels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics_helpers import (
    ORDERS,
    accumulator_of,
    drawn,
    four_products_of,
    lanes,
    pairwise,
    products_of,
    sequential,
    terms_of,
    tree,
    word,
)

from equiv.dtypes import COMPLEX, FLOATS, INTEGERS
from equiv.errors import EquivError
from equiv.numerics import Reference, declared, format_of, tolerance
from equiv.strategies import KINDS, Values


@pytest.mark.parametrize("dtype", COMPLEX, ids=word)
@pytest.mark.parametrize("kind", ["small_integers", "normals", "wide", "repeated", "constant", "subnormal"])
def test_complex_kernels_of_three_and_of_four_products_lie_in_the_envelope(dtype, kind):
    for n, seed in ((1, 1), (2, 2), (17, 4), (40, 5)):
        x, w, b = drawn(kind, n, seed, dtype)
        for product in (products_of, four_products_of):
            found = Reference(x, w, b).assess(product(x, w, b), declared(dtype))
            assert found.all_inside, (product.__name__, n, seed)
        terms = (x[0] != 0).logical_and(w[0] != 0).sum() + (0 if b is None else (b[0] != 0))
        assert found.terms[0, 0] == terms


@pytest.mark.parametrize("dtype", COMPLEX, ids=word)
def test_three_complex_products_need_more_room_than_four_already_for_one_term(dtype):
    x, w = (Values("normals", seed).tensor((200, 1), dtype) for seed in (1, 2))
    found = Reference(x, w).assess(products_of(x, w, None), declared(dtype))
    assert found.all_inside
    size = (x.real.abs() + x.imag.abs()).double() @ (w.real.abs() + w.imag.abs()).double().T
    exact = x.to(torch.complex128) @ w.to(torch.complex128).T
    u = format_of(dtype).u
    if dtype == torch.complex64:
        assert ((products_of(x, w, None).imag - exact.imag).abs() > 1.2 * u * size).any()
    assert (found.upper.imag - found.lower.imag <= u * (20.1 * size + 4.1 * exact.abs())).all()  # 10, and two steps


@pytest.mark.parametrize("dtype", COMPLEX, ids=word)
def test_complex_gradients_of_three_products_lie_in_the_envelope(dtype):
    for seed in range(8):
        x, w, g = (Values("wide" if seed % 2 else "normals", seed + i).tensor((9, 12), dtype) for i in range(3))
        (gr, gi), (wr, wi) = (g.real, g.imag), (w.conj().real, w.conj().resolve_conj().imag)
        # conj(w) = wr - i*wi', so that real and imaginary part are gr*wr - gi*wi and gr*wi + gi*wr, here through
        # (gr - gi)*wr + gi*(wr - wi) and the like.
        real = sequential(terms_of(gr - gi, wr, None, gr.dtype)) + pairwise(terms_of(gi, wr - wi, None, gr.dtype))
        imag = lanes(terms_of(gr + gi, wi, None, gr.dtype)) + tree(terms_of(gi, wr - wi, None, gr.dtype))
        reference = Reference(g, w.conj())
        assert reference.assess(torch.complex(real, imag), declared(dtype)).all_inside
        del x


def test_a_wrong_sign_in_a_complex_product_is_outside():
    x, w, _ = drawn("normals", 30, 2, torch.complex64)
    reference = Reference(x, w)
    for wrong in (reference.value.conj(), reference.value * 1.001, reference.value + 0.01):
        assert not reference.assess(wrong.to(torch.complex64), declared(torch.complex64)).all_inside


def test_parts_that_overflow_when_added_leave_complex_results_undecided():
    large = torch.full((1, 1), complex(2e38, 2e38), dtype=torch.complex64)
    small = torch.full((1, 1), 1e-10 + 0j, dtype=torch.complex64)
    for x, w, b in ((large, small, None), (small, large, None), (small, small, large[0])):
        for y in (complex(math.nan, math.nan), 0.0):
            found = Reference(x, w, b).assess(torch.full((1, 1), y, dtype=torch.complex64), declared(torch.complex64))
            assert found.undecided.all()
            assert found.all_inside
    # Only the imaginary part overflows, but torch multiplies it by i before it adds the real one.
    x, w = (torch.full((1, 1), v, dtype=torch.complex64) for v in (3e19 + 0j, 3e19j))
    found = Reference(x, w).assess(torch.full((1, 1), complex(math.nan, math.inf)), declared(torch.complex64))
    assert found.undecided.all()
    assert found.all_inside
    found = Reference(large.real + 0j, small).assess(
        torch.zeros(1, 1, dtype=torch.complex64), declared(torch.complex64)
    )
    assert not found.all_inside


@pytest.mark.parametrize("dtype", INTEGERS, ids=word)
def test_integers_are_exact_modulo_their_range(dtype):
    x, w, b = (Values("wide", i).tensor(s, dtype) for i, s in enumerate(((4, 9), (5, 9), (5,))))
    reference = Reference(x, w, b)
    bits = 8 * dtype.itemsize
    for row, column in itertools.product(range(4), range(5)):
        s = sum(p * q for p, q in zip(x[row].tolist(), w[column].tolist(), strict=True)) + b[column].item()
        assert (reference.value[row, column].item() - s) % 2**bits == 0
    assert reference.assess(reference.value, None).all_inside
    found = reference.assess(reference.value + torch.eye(4, 5, dtype=dtype), None)
    assert torch.equal(~found.inside, torch.eye(4, 5, dtype=torch.bool))
    assert found.ratio.max() == math.inf


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=word)
def test_the_largest_ratio_is_that_of_the_assessment_or_is_not_said(dtype):
    said = 0
    for seed, (kind, op) in enumerate(itertools.product(KINDS, ("linear", "full", "grad_weight"))):
        for n in (1, 2, 12):
            x, w, b = drawn(kind, n, seed, dtype)
            reference, arithmetic = Reference(x, w, b), declared(dtype, op=op)
            exact = reference.value.to(dtype)
            for y in (x @ w.T + (0 if b is None else b), exact, exact + exact.abs().amax() * 0.01, exact.clone()):
                found, ratio = (
                    reference.assess(y.to(dtype), arithmetic),
                    reference.largest_ratio(y.to(dtype), arithmetic),
                )
                said += ratio is not None
                expected = (found.max_ratio, True, False)
                assert ratio is None or (ratio, found.all_inside, found.any_undecided) == expected, (kind, n, op)
    assert said > 100


def test_floats_need_an_arithmetic():
    with pytest.raises(EquivError, match=r"^arithmetic: expected an equiv\.numerics\.Arithmetic, got None"):
        Reference(torch.ones(1, 1), torch.ones(1, 1)).assess(torch.ones(1, 1), None)


def test_tolerance_covers_any_two_right_kernels_and_is_infinite_where_they_may_overflow():
    for dtype in FLOATS:
        x, w, b = drawn("normals", 50, 4, dtype)
        width = tolerance(x, w, b)
        results = [order(terms_of(x, w, b, accumulator_of(dtype))).to(dtype).double() for order in ORDERS]
        assert all(((p - q).abs() <= width).all() for p, q in itertools.combinations(results, 2))
    assert tolerance(torch.full((1, 2), 3e38), torch.ones(1, 2)).item() == math.inf


def test_integers_with_a_bias_that_is_none_are_summed_in_two_words():
    for dtype in (torch.float64, torch.complex128):
        x, w = (Values("small_integers", seed).tensor((3, 8), dtype) for seed in (1, 2))
        b = torch.full((3,), 2.0**-60, dtype=dtype)
        reference = Reference(x, w, b)
        assert reference.exact.low is not None
        assert (reference.exact.value + reference.exact.low != reference.exact.low).any()
        assert reference.exact.low.abs().amax() == 2.0**-60
        assert Reference(x, w).exact.low is None
