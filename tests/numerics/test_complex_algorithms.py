"""Every way to multiply complex numbers with three or four real products lies in the envelope, in any order."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
import torch
from numerics_helpers import ORDERS, drawn, flushing, fraction, nearest, sequential

from equiv.numerics import Reference, declared, format_of
from equiv.strategies import Values

# Real and imaginary part of (a + bi)(c + di) as signed products of sums of parts, each part a sign of a, b, c, d.
A, B, C, D = ((part, 1) for part in "abcd")
NO = {"a": ("a", -1), "b": ("b", -1), "c": ("c", -1), "d": ("d", -1)}
ALGORITHMS = {
    "four": (
        [(1, (A,), (C,)), (-1, (B,), (D,))],
        [(1, (A,), (D,)), (1, (B,), (C,))],
    ),
    "Karatsuba": (
        [(1, (A,), (C,)), (-1, (B,), (D,))],
        [(1, (A, B), (C, D)), (-1, (A,), (C,)), (-1, (B,), (D,))],
    ),
    "Karatsuba, differences": (
        [(1, (A,), (C,)), (-1, (B,), (D,))],
        [(-1, (A, NO["b"]), (C, NO["d"])), (1, (A,), (C,)), (1, (B,), (D,))],
    ),
    "Ungar": (
        [(1, (A, B), (C, NO["d"])), (1, (A,), (D,)), (-1, (B,), (C,))],
        [(1, (A,), (D,)), (1, (B,), (C,))],
    ),
    "Ungar, the other sign": (
        [(1, (A, NO["b"]), (C, D)), (-1, (A,), (D,)), (1, (B,), (C,))],
        [(1, (A,), (D,)), (1, (B,), (C,))],
    ),
    "Gauss": (
        [(1, (C,), (A, B)), (-1, (B,), (C, D))],
        [(1, (C,), (A, B)), (1, (A,), (D, NO["c"]))],
    ),
    "Gauss, factors exchanged": (
        [(1, (A,), (C, D)), (-1, (D,), (A, B))],
        [(1, (A,), (C, D)), (1, (C,), (B, NO["a"]))],
    ),
    "Gauss, differences": (
        [(1, (C,), (A, NO["b"])), (1, (B,), (C, NO["d"]))],
        [(1, (D,), (A, NO["b"])), (1, (B,), (C, D))],
    ),
    "Gauss, the other difference": (
        [(1, (D,), (A, NO["b"])), (1, (A,), (C, NO["d"]))],
        [(1, (D,), (A, NO["b"])), (1, (B,), (C, D))],
    ),
}


def factor(parts, of):
    """A sum of signed parts ``{"a": tensor, ...}``, rounded as the parts' dtype does."""
    first, *rest = (sign * of[name] for name, sign in parts)
    return first + rest[0] if rest else first


def terms(part, of):
    """Each product of one part of the result: ``(N, O, n)``, signed."""
    names = {"a", "b"}
    out = []
    for sign, left, right in part:
        x, w = (left, right) if left[0][0] in names else (right, left)
        out.append(sign * factor(x, of)[:, None] * factor(w, of)[None])
    return out


def apart(part, of, order):
    """Each product summed over n by itself, then the sums: as matrix products."""
    return sequential(torch.stack([order(t) for t in terms(part, of)], -1))


def together(part, of, order):
    """The products of each complex term first, then their sum."""
    return order(sequential(torch.stack(terms(part, of), -1)))


def merged(part, of, order):
    """All products of all terms in one sum, one complex term after another."""
    return order(torch.stack(terms(part, of), -1).flatten(-2))


def parts_of(x, w):
    return {"a": x.real, "b": x.imag, "c": w.real, "d": w.imag}


def assert_inside(name, x, w, bias, order, how):
    of = parts_of(x, w)
    real, imag = (how(part, of, order) for part in ALGORITHMS[name])
    y = torch.complex(real, imag)
    y = y if bias is None else y + bias
    found = Reference(x, w, bias).assess(y, declared(x.dtype))
    assert found.all_inside, (name, order.__name__, how.__name__, found.max_ratio)
    return found.max_ratio


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_algorithms_multiply_complex_numbers(name):
    x, w, _ = drawn("small_integers", 6, 1, torch.complex64)
    of = parts_of(x, w)
    real, imag = (apart(part, of, sequential) for part in ALGORITHMS[name])
    assert torch.equal(torch.complex(real, imag), x @ w.T)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("kind", ["normals", "wide", "cancelling", "subnormal", "constant"])
def test_every_algorithm_lies_in_the_envelope_in_any_order(name, kind):
    for (n, seed), how in itertools.product(((1, 1), (2, 2), (9, 3), (40, 5)), (apart, together, merged)):
        x, w, b = drawn(kind, n, seed, torch.complex64)
        for order in ORDERS:
            assert_inside(name, x, w, b, order, how)


def hostile(seed, n):
    """Parts that nearly cancel in sums or differences of parts."""
    chance = torch.Generator().manual_seed(seed)
    x, w = (Values("normals", seed + i).tensor((1, n), torch.complex64) for i in range(2))
    off = 1 + 2.0**-23 * torch.randint(-2, 3, (1, n), generator=chance)
    return torch.complex(x.real, x.real * off), torch.complex(w.real, -w.real * off)


def lost_beside_one(n):
    """i, and then complex terms whose three products are each just below half an ulp, as Karatsuba adds them."""
    h, golden = 0.98 * 2.0**-24, (1 + 5**0.5) / 2
    x, w = torch.full((1, n), complex(1, -(golden**2))), torch.full((1, n), complex(-h, h / golden**2))
    x[0, 0], w[0, 0] = 1, 1j
    return x, w


@pytest.mark.parametrize("name", ALGORITHMS)
def test_hostile_terms_lie_in_the_envelope_of_every_algorithm(name):
    for seed, n, how in itertools.product(range(3), (2, 15), (apart, together, merged)):
        assert_inside(name, *hostile(seed, n), None, sequential, how)
        x, w = lost_beside_one(4 * n)
        for a, b in ((x, w), (w, x), (x.conj(), w), (x, w.conj()), (1j * x, w), (x, 1j * w)):
            assert_inside(name, a.resolve_conj(), b.resolve_conj(), None, sequential, how)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_both_parts_may_lose_what_is_flushed_by_every_algorithm(name):
    least = format_of(torch.float32).min_normal

    def look():
        assert not (torch.tensor(least) / 2).any()
        for seed, n, how in itertools.product(range(4), (1, 2, 9), (apart, together, merged)):
            x, w, _ = drawn("subnormal" if seed % 2 else "normals", n, seed, torch.complex64)
            for a, b in ((x * least, w), (w, x * least), (x * 2.0**-70, w * 2.0**-60), (x * least, w * 2.0**80)):
                assert_inside(name, a, b, None, sequential, how)
        x, w = (Values("normals", i).tensor((2, 3), torch.complex64) for i in range(2))
        x = torch.complex(x.real * least * 8, -x.real * least * 8 * (1 + 2.0**-5))  # their sum is flushed
        assert_inside(name, x, w * 2.0**90, None, sequential, apart)

    flushing(look)


def test_three_products_in_one_sum_err_by_more_than_two_units_a_term():
    x, w = lost_beside_one(60)
    y = merged(ALGORITHMS["Karatsuba"][1], parts_of(x, w), sequential).double()
    size = (x.real.abs() + x.imag.abs()).double() @ (w.real.abs() + w.imag.abs()).double().T
    error = (y - Reference(x, w).value.imag).abs() / (2.0**-24 * size)
    assert 2 * 60 + 10 < error.item() < 6 * 60 + 4


@pytest.mark.parametrize("name", ALGORITHMS)
def test_fused_multiply_add_lies_in_the_envelope_of_every_algorithm(name):
    chance, fmt = random.Random(3), format_of(torch.float32)
    for n in (1, 2, 7):
        x, w, _ = drawn("normals", n, n, torch.complex64)
        x, w, of = x[:2], w[:2], parts_of(x[:2], w[:2])
        y = []
        for part, row, column in itertools.product(ALGORITHMS[name], range(2), range(2)):
            total = Fraction(0)
            for k, (sign, left, right) in itertools.product(range(n), chance.sample(part, len(part))):
                at = {"a": (row, k), "b": (row, k), "c": (column, k), "d": (column, k)}
                p, q = (
                    nearest(sum(s * fraction(of[letter][at[letter]]) for letter, s in f), fmt) for f in (left, right)
                )
                total = nearest(total + sign * p * q, fmt)
            y.append(float(total))
        real, imag = torch.tensor(y, dtype=torch.float64).view(2, 2, 2).unbind(0)
        assert Reference(x, w).assess(torch.complex(real, imag).to(x.dtype), declared(x.dtype)).all_inside


def test_what_no_algorithm_gives_is_outside():
    """One of 64 products left out, one part exchanged, or factors in half precision."""
    x, w = (Values("normals", seed).tensor((8, 64), torch.complex64) for seed in (1, 2))
    reference, arithmetic = Reference(x, w), declared(torch.complex64)
    exact = reference.value
    rounded = x.real.half().double() + 1j * x.imag.half().double()
    for wrong in (exact - x[:, :1] * w[:, 0], x.conj() @ w.T, rounded @ w.to(torch.complex128).T):
        assert not reference.assess(wrong.to(torch.complex64), arithmetic).all_inside


def test_the_bound_is_the_documented_one():
    """``(6K + 4)*u*S3`` for either part, which leaves the real dtypes alone."""
    x, w = (Values("normals", seed).tensor((5, 33), torch.complex64) for seed in (3, 4))
    found = Reference(x, w).assess(x @ w.T, declared(torch.complex64))
    size_x, size_w = (t.real.double().abs() + t.imag.double().abs() for t in (x, w))
    size = size_x @ size_w.T
    for lower, upper in ((found.lower.real, found.upper.real), (found.lower.imag, found.upper.imag)):
        half = (upper - lower) / 2
        assert (half <= 2.0**-24 * (6 * 33 + 4 + 1) * size).all()
        assert (half >= 2.0**-24 * (6 * 33 + 4 - 1) * size).all()
    assert torch.allclose(found.magnitude, size, rtol=1e-12)
