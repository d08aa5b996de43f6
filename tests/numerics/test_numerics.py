"""The bounds hold for right kernels in any order, are no wider than they say, and the exact probes are exact.

References here are Python's own integers and fractions, never the code under test.
"""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiv import EquivError, numerics
from equiv.dtypes import COMPLEX, DTYPES, FLOATS, INTEGERS
from equiv.numerics import (
    STYLES,
    Arithmetic,
    Reference,
    address_coded_weight,
    bit_equal,
    declared,
    dot_double_double,
    entry_range,
    exact_affine,
    exact_case,
    exact_integers,
    exact_range,
    format_of,
    from_ordinal,
    judge,
    one_hot_rows,
    ordinal,
    round_down,
    round_up,
    same_bits,
    tolerance,
)
from equiv.strategies import FINITE_KINDS, Recipe, Values, Window, build_case

NARROW = (torch.float32, torch.float16, torch.bfloat16)
RUN = settings(max_examples=60)
doubles = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)


def word(value):
    return str(value).removeprefix("torch.")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def fraction(value):
    return Fraction(float(value))


def nearest(q, fmt):
    """A fraction rounded to nearest even in a format; a float where it overflows."""
    if q == 0:
        return Fraction(0)
    exponent = abs(q.numerator).bit_length() - q.denominator.bit_length()
    if Fraction(2) ** exponent > abs(q):
        exponent -= 1
    step = Fraction(2) ** max(exponent - fmt.precision + 1, round(math.log2(fmt.min_subnormal)))
    value = round(q / step) * step
    return value if abs(value) <= fraction(fmt.max) else math.copysign(math.inf, q)


def exact_sum(x, w, b):
    """The value, the sum of magnitudes and the number of non-zero terms of one output, as fractions."""
    terms = [fraction(p) * fraction(q) for p, q in zip(x.tolist(), w.tolist(), strict=True)]
    terms += [] if b is None else [fraction(b)]
    return sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0)), sum(t != 0 for t in terms)


# Formats


@pytest.mark.parametrize("dtype", NARROW, ids=word)
@RUN
@given(st.one_of(doubles, st.floats(-1e-37, 1e-37), st.floats(-70000, 70000)))
def test_rounding_outwards_brackets_a_value_with_nothing_between(dtype, value):
    v = f64(value)
    low, high = round_down(v, dtype), round_up(v, dtype)
    assert low.double() <= v <= high.double()
    steps = int(ordinal(high) - ordinal(low))
    assert steps == (0 if low.double() == v else 1)


@pytest.mark.parametrize("dtype", NARROW, ids=word)
def test_rounding_outwards_at_the_edges_of_the_range(dtype):
    fmt = format_of(dtype)
    nu, top = fmt.min_subnormal, fmt.max
    between = f64(nu / 2, -nu / 2, fmt.min_normal - nu / 2, top * (1 + 2**-40), -top * (1 + 2**-40), 1e300, -1e300)
    assert round_down(between, dtype).tolist() == [0, -nu, fmt.min_normal - nu, top, -math.inf, top, -math.inf]
    assert round_up(between, dtype).tolist() == [nu, 0, fmt.min_normal, math.inf, -top, math.inf, -top]
    kept = f64(0.0, nu, -nu, fmt.min_normal, top, -top, math.inf, -math.inf)
    assert torch.equal(round_down(kept, dtype).double(), kept)
    assert torch.equal(round_up(kept, dtype).double(), kept)


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_format_constants_are_those_that_rounding_shows(dtype):
    fmt = format_of(dtype)
    one = torch.ones((), dtype=dtype)
    assert from_ordinal(ordinal(one) + 1, dtype).item() - 1 == 2 * fmt.u
    assert from_ordinal(torch.tensor(1), dtype).item() == fmt.min_subnormal
    assert from_ordinal(ordinal(torch.tensor(math.inf, dtype=dtype)) - 1, dtype).item() == fmt.max
    if dtype != torch.float64:
        assert f64(fmt.overflow).to(dtype).item() == math.inf
        assert f64(math.nextafter(fmt.overflow, 0)).to(dtype).item() == (
            fmt.max if dtype == torch.float32 else f64(fmt.overflow).float().to(dtype).item()  # torch rounds by float32
        )
        assert nearest(fraction(math.nextafter(fmt.overflow, 0)), fmt) == fraction(fmt.max)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=word)
def test_ordinals_of_every_16_bit_pattern_come_back_in_order(dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[~values.isnan()]
    order = ordinal(values)
    assert torch.equal(from_ordinal(order, dtype), values + 0.0)  # -0.0 comes back as 0.0
    assert (values[order.argsort()].double().diff() >= 0).all()
    assert order.unique().diff().eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=word)
@RUN
@given(finite)
def test_ordinals_come_back_and_neighbours_differ_by_one(dtype, value):
    v = torch.tensor(value, dtype=dtype)
    assert from_ordinal(ordinal(v), dtype) == v
    assert int(ordinal(torch.nextafter(v, torch.tensor(math.inf, dtype=dtype))) - ordinal(v)) in (0, 1)


def test_bits_of_nan_are_equal_and_zeros_of_both_signs_are_not():
    nan, other = torch.tensor([math.nan]), (torch.tensor([math.inf]) - math.inf)
    assert bit_equal(nan, other)
    assert not bit_equal(torch.tensor([0.0]), torch.tensor([-0.0]))
    pair = torch.tensor([complex(math.nan, 1.0)]), torch.tensor([complex(math.nan, 2.0)])
    assert same_bits(*pair).tolist() == [False]
    assert not bit_equal(torch.zeros(2), torch.zeros(2, 1))
    assert bit_equal(torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j]))


# References


@settings(max_examples=150)
@given(st.data())
def test_double_double_is_as_exact_as_it_says(data):
    n = data.draw(st.integers(1, 9))
    widest = data.draw(st.sampled_from((30, 400, 402, 1074)))  # products of moderate numbers are not scaled
    exponents = st.integers(-widest, min(widest, 1023))
    number = st.builds(math.ldexp, st.floats(0.5, 1).flatmap(lambda v: st.sampled_from((v, -v, 0.0))), exponents)
    x, w = (data.draw(st.lists(number, min_size=n, max_size=n)) for _ in range(2))
    if data.draw(st.booleans()):  # cancel all but a little
        x, w = x + [-v for v in x], w + [v * (1 + data.draw(st.sampled_from((0, 2**-52, 2**-40)))) for v in w]
    b = data.draw(st.none() | number)
    s, size, _ = exact_sum(f64(*x), f64(*w), b)
    if size > fraction(format_of(torch.float64).max):
        return
    bias = None if b is None else f64(b)
    high, low = (t.item() for t in dot_double_double(f64(*x)[None], f64(*w)[None], bias))
    error = abs(fraction(high) + fraction(low) - s)
    assert error <= (len(x) + 4) * Fraction(2) ** -100 * size + 4 * Fraction(2) ** -1074
    exact = exact_affine(f64(*x)[None], f64(*w)[None], bias)
    assert error <= fraction(exact.uncertainty)


def test_double_double_works_through_blocks_and_on_empty_shapes():
    x, w, b = (torch.randn(*s, dtype=torch.float64, generator=torch.Generator()) for s in ((70, 300), (90, 300), (90,)))
    high, low = dot_double_double(x, w, b)
    for row, column in ((0, 0), (69, 89), (33, 44)):
        s, size, _ = exact_sum(x[row], w[column], b[column])
        assert abs(fraction(high[row, column]) + fraction(low[row, column]) - s) <= 304 * Fraction(2) ** -100 * size
    assert dot_double_double(x[:0], w)[0].shape == (0, 90)
    assert torch.equal(dot_double_double(x[:, :0], w[:, :0])[0], torch.zeros(70, 90, dtype=torch.float64))


@RUN
@given(st.data())
def test_integer_reference_is_exact_modulo_2_to_the_64(data):
    n = data.draw(st.integers(1, 6))
    numbers = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n)
    x, w, b = data.draw(numbers), data.draw(numbers), data.draw(st.integers(-(2**63), 2**63 - 1))
    found = exact_integers(torch.tensor([x]), torch.tensor([w]), torch.tensor([b])).item()
    assert (found - sum(p * q for p, q in zip(x, w, strict=True)) - b) % 2**64 == 0


def test_integer_reference_of_complex_entries_gives_both_parts():
    x, w, b = torch.tensor([[1 + 2j, -3j]]), torch.tensor([[4 - 1j, 2 + 5j]]), torch.tensor([7 - 8j])
    assert exact_integers(x, w, b)[0, 0].tolist() == [(x @ w.T + b).item().real, (x @ w.T + b).item().imag]


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
                assert exact.terms[row, column] == terms


# Right kernels in any order


def sequential(terms):
    total = terms[..., 0]
    for k in range(1, terms.shape[-1]):
        total = total + terms[..., k]
    return total


def backwards(terms):
    return sequential(terms.flip(-1))


def pairwise(terms):
    while terms.shape[-1] > 1:
        half = (terms.shape[-1] + 1) // 2
        rest = terms.shape[-1] - half
        terms = torch.cat([terms[..., :rest] + terms[..., half:], terms[..., rest:half]], -1)
    return terms[..., 0]


def lanes(terms):
    """Eight partial sums, as a vector register keeps them."""
    terms = torch.nn.functional.pad(terms, (0, -terms.shape[-1] % 8))
    return pairwise(sequential(terms.unflatten(-1, (-1, 8)).transpose(-1, -2)))


def blocks(terms):
    return sequential(torch.stack([pairwise(part) for part in terms.split(5, -1)], -1))


def shuffled(terms):
    return sequential(terms[..., torch.randperm(terms.shape[-1], generator=torch.Generator().manual_seed(5))])


def tree(terms):
    chance, pool = random.Random(7), list(terms.unbind(-1))
    while len(pool) > 1:
        a, b = (pool.pop(chance.randrange(len(pool))) for _ in range(2))
        pool.append(a + b)
    return pool[0]


ORDERS = (sequential, backwards, pairwise, lanes, blocks, shuffled, tree)


def terms_of(x, w, b, accumulator, *, bias_first=False):
    """The rounded terms of every output, ``(N, O, n)`` or with the bias ``(N, O, n + 1)``."""
    terms = x.to(accumulator)[:, None, :] * w.to(accumulator)[None]
    if b is None:
        return terms
    column = b.to(accumulator)[None, :, None].expand(len(x), -1, 1)
    return torch.cat([column, terms] if bias_first else [terms, column], -1)


def accumulator_of(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def drawn(kind, n, seed, dtype):
    partner = "repeated" if kind == "cancelling" else kind if seed % 2 else "normals"
    x, w = Values(kind, seed).tensor((5, n), dtype), Values(partner, seed + 1).tensor((4, n), dtype)
    return x, w, Values(partner, seed + 2).tensor((4,), dtype) if seed % 3 else None


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
@pytest.mark.parametrize("kind", [*FINITE_KINDS, "near_overflow"])
def test_every_order_of_summation_lies_in_the_envelope(dtype, kind):
    for n, seed in ((1, 10), (2, 11), (3, 12), (8, 13), (17, 14), (40, 15), (64, 16)):
        x, w, b = drawn(kind, n, seed, dtype)
        exact, arithmetic = exact_affine(x, w, b), declared(dtype, op="pointwise")
        for order, first in itertools.product(ORDERS, (False, True)):
            y = order(terms_of(x, w, b, accumulator_of(dtype), bias_first=first)).to(dtype)
            found = judge(y, exact, arithmetic)
            assert found.inside.all(), (order.__name__, n, seed)
            assert ((found.ratio >= 0) & (found.ratio <= 1)).all()
        if dtype != torch.float64:
            higher = sequential(terms_of(x, w, b, torch.float64)).to(dtype)
            assert judge(higher, exact, arithmetic).inside.all(), "a higher precision is right too"


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_every_order_lies_in_the_envelope_on_random_cases(dtype):
    chance = random.Random(3)
    for seed in range(60):
        kind = chance.choice(FINITE_KINDS)
        x, w, b = drawn(kind, chance.randint(1, 90), seed, dtype)
        y = chance.choice(ORDERS)(terms_of(x, w, b, accumulator_of(dtype))).to(dtype)
        assert Reference(x, w, b).assess(y, declared(dtype, op="full")).all_inside, (kind, seed)


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
@pytest.mark.parametrize("kind", ["normals", "wide", "cancelling", "subnormal", "constant"])
def test_fused_multiply_add_lies_in_the_envelope(dtype, kind):
    acc, out = format_of(accumulator_of(dtype)), format_of(dtype)
    for n, seed in ((1, 1), (2, 2), (9, 3), (20, 4)):
        x, w, b = drawn(kind, n, seed, dtype)
        y = torch.zeros(5, 4, dtype=torch.float64)
        for row, column in itertools.product(range(5), range(4)):
            total = Fraction(0) if b is None else fraction(b[column])
            for p, q in zip(x[row].tolist(), w[column].tolist(), strict=True):
                total = nearest(total + fraction(p) * fraction(q), acc)
            y[row, column] = float(nearest(total, out))
        assert Reference(x, w, b).assess(y.to(dtype), declared(dtype, op="full")).all_inside, (n, seed)


@pytest.mark.parametrize("kind", FINITE_KINDS)
def test_bfloat16_that_flushes_subnormals_lies_in_the_envelope(kind):
    tiny = format_of(torch.bfloat16).min_normal

    def flush(t):
        return torch.where(t.abs() < tiny, 0.0, t)

    for n, seed in ((1, 1), (2, 2), (16, 3), (33, 4), (7, 5)):
        x, w, b = drawn(kind, n, seed, torch.bfloat16)
        x = torch.where(torch.arange(n) % 3 == 1, x * 1e-38, x)  # products that underflow too
        total = torch.zeros(5, 4)
        for k in range(n):
            total = flush(total + flush(flush(x.float())[:, None, k] * flush(w.float())[None, :, k]))
        total = total if b is None else flush(total + flush(b.float()))
        y = flush(total.to(torch.bfloat16))
        assert Reference(x, w, b).assess(y, declared(torch.bfloat16)).all_inside, (n, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=word)
@pytest.mark.parametrize("kind", [*FINITE_KINDS, "near_overflow"])
def test_a_bias_added_after_rounding_lies_in_the_envelope_of_linear(dtype, kind):
    for n, seed in ((1, 1), (2, 2), (16, 4), (33, 5)):
        x, w, b = drawn(kind, n, seed, dtype)
        products = sequential(terms_of(x, w, None, torch.float32)).to(dtype)
        y = (products.float() + b.float()).to(dtype)
        assert Reference(x, w, b).assess(y, declared(dtype, op="linear")).all_inside, (n, seed)


def test_a_sum_of_products_that_rounds_to_infinity_may_stay_there_whatever_the_bias():
    x, w, b = (torch.full(s, v, dtype=torch.float16) for s, v in (((1, 6), 100.0), ((1, 6), 120.0), ((1,), -20000.0)))
    reference = Reference(x, w, b)
    for value, right in ((52000.0, True), (math.inf, True), (-math.inf, False), (40000.0, False)):
        y = torch.tensor([[value]], dtype=torch.float16)
        assert reference.assess(y, declared(torch.float16, op="linear")).all_inside == right
    assert not reference.assess(torch.tensor([[math.inf]]).half(), declared(torch.float16, op="full")).all_inside


def test_a_bias_alone_is_rounded_by_nobody():
    x, w, b = torch.zeros(1, 3).half(), torch.ones(1, 3).half(), torch.tensor([1.0]).half()
    found = Reference(x, w, b).assess(b[None], declared(torch.float16, op="linear"))
    assert found.lower.item() == found.upper.item() == 1.0


# No wider than it says


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
@pytest.mark.parametrize("kind", ["normals", "wide", "cancelling", "distinct", "subnormal"])
def test_one_step_beyond_the_bound_is_outside(dtype, kind):
    arithmetic = declared(dtype, op="pointwise")
    for n, seed in ((1, 1), (2, 2), (16, 3), (50, 4)):
        x, w, b = drawn(kind, n, seed, dtype)
        exact = exact_affine(x, w, b)
        edges = judge(torch.zeros(5, 4, dtype=dtype), exact, arithmetic)
        low, high = edges.lower.to(dtype), edges.upper.to(dtype)
        assert judge(low, exact, arithmetic).inside.all()
        assert judge(high, exact, arithmetic).inside.all()
        for beyond in (from_ordinal(ordinal(low) - 1, dtype), from_ordinal(ordinal(high) + 1, dtype)):
            found = judge(beyond, exact, arithmetic)
            assert not (found.inside & (beyond != 0)).any()
            assert (found.ratio[beyond != 0] >= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=word)
@pytest.mark.parametrize("kind", ["normals", "wide", "cancelling", "subnormal"])
def test_the_envelope_is_the_stated_bound_rounded_outwards(dtype, kind):
    """``[RD(s - E), RU(s + E)]`` with ``E = K*u*S + (2K+2)*nu``, to within a millionth of ``E``."""
    acc, fmt = format_of(accumulator_of(dtype)), format_of(dtype)
    for n, seed in ((2, 2), (13, 3), (40, 5)):
        x, w, b = drawn(kind, n, seed, dtype)
        found = judge(torch.zeros(5, 4, dtype=dtype), exact_affine(x, w, b), declared(dtype, op="full"))
        for row, column in itertools.product(range(5), range(4)):
            s, size, terms = exact_sum(x[row], w[column], None if b is None else b[column])
            e = terms * fraction(acc.u) * size + (2 * terms + 2) * fraction(acc.min_subnormal)
            alone = terms <= 1 and size > 4 * fraction(acc.min_subnormal)
            for edge, sign in ((found.lower[row, column], -1), (found.upper[row, column], 1)):
                tight, loose = (s + sign * e * (0 if alone else 1 + f) for f in (0, Fraction(1, 10**6)))
                assert sign * fraction(edge) >= sign * tight
                step = max(abs(loose) * 2 * fraction(fmt.u), fraction(fmt.min_subnormal))
                if dtype == torch.float64 and not alone:  # the reference's own error, below the normal range
                    step += 4 * fraction(fmt.min_subnormal)
                assert sign * fraction(edge) < sign * loose + step


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_one_hot_probes_leave_a_single_value(dtype):
    w = Values("wide", 3).tensor((7, 20), dtype)
    if dtype == torch.bfloat16:
        w[w.abs() < 8 * format_of(dtype).min_normal] = 1.0  # may be flushed
    x = one_hot_rows(torch.arange(20), 20, dtype)
    for op in ("linear", "full", "pointwise"):
        found = Reference(x, w).assess(w.T.contiguous(), declared(dtype, op=op))
        assert found.all_inside
        assert torch.equal(found.lower, found.upper)
        assert torch.equal(found.lower, w.T.double())


def test_a_term_dropped_from_a_constant_sum_is_outside():
    for dtype, n in ((torch.float32, 2000), (torch.float64, 2000), (torch.float16, 60), (torch.bfloat16, 60)):
        x, w = torch.ones(1, n, dtype=dtype), torch.ones(1, n, dtype=dtype)
        y = torch.tensor([[n - 1]]).to(dtype)
        assert not Reference(x, w).assess(y, declared(dtype)).all_inside


# Classes: NaN, infinities, what cannot be told


@pytest.mark.parametrize("op", ["full", "linear"])
def test_special_values_are_what_every_order_gives(op):
    menu = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.0)
    chance = random.Random(1)
    for _ in range(150):
        x, w = ([chance.choice(menu) for _ in range(3)] for _ in range(2))
        b = chance.choice(menu)
        terms = [p * q for p, q in zip(x, w, strict=True)] + [b]
        sums = {str(((p[0] + p[1]) + p[2]) + p[3] + 0.0) for p in itertools.permutations(terms)}
        assert len(sums) == 1
        wanted = float(sums.pop())
        args = torch.tensor([x]), torch.tensor([w]), torch.tensor([b])
        for value in (math.nan, math.inf, -math.inf, 0.5 if wanted == 0 else 0.0, wanted):
            found = Reference(*args).assess(torch.tensor([[value]]), declared(torch.float32, op=op))
            same = value == wanted or (math.isnan(value) and math.isnan(wanted))
            assert found.all_inside == same, (x, w, b, value)
            assert not found.undecided.any()


def test_a_subnormal_that_meets_an_infinity_is_undecided_unless_it_is_nan_anyway():
    x = torch.tensor([[math.inf, 1.0]])
    w = torch.tensor([[1e-40, 1.0], [1e-40, math.nan]])
    for value in (math.nan, math.inf):
        found = Reference(x, w).assess(torch.full((1, 2), value), declared(torch.float32))
        assert found.undecided.tolist() == [[True, False]]
        assert found.inside.tolist() == [[True, math.isnan(value)]]


def test_an_infinity_may_spread_in_bfloat16_convolutions_and_nowhere_else():
    x, w = torch.tensor([[1.0, math.inf]]).bfloat16(), torch.ones(1, 2).bfloat16()
    nan = torch.tensor([[math.nan]]).bfloat16()
    decided = {
        op: Reference(x, w).assess(nan, declared(torch.bfloat16, op=op)).undecided.item() for op in ("full", "linear")
    }
    assert decided == {"full": True, "linear": False}
    assert not Reference(x, w).assess(-x[:, 1:], declared(torch.bfloat16, op="full")).all_inside


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_what_an_order_can_overflow_is_undecided_and_below_that_is_not(dtype):
    top = format_of(accumulator_of(dtype)).max
    if dtype == torch.float16:  # its largest products stay far below float32's range: never an accumulator's overflow
        x = torch.full((1, 4), 65504.0, dtype=dtype)
        found = Reference(x, x).assess(torch.tensor([[math.inf]]).to(dtype), declared(dtype))
        assert found.all_inside
        assert not found.undecided.any()
        return
    x = torch.tensor([[top * 0.9, -top * 0.9]], dtype=torch.float64).to(dtype)
    for scale, undecided in ((1.0, True), (0.5, False)):
        w = torch.full((1, 2), scale, dtype=dtype)
        found = Reference(x, w).assess(torch.tensor([[math.nan]]).to(dtype), declared(dtype))
        assert found.undecided.item() == undecided
        assert found.all_inside == undecided


def test_sums_that_are_kept_in_16_bits_overflow_and_underflow_there():
    arithmetic = declared(torch.float16, op="grad_weight")
    g, x = torch.full((1, 64), 40.0).half(), torch.full((1, 64), 300.0).half()
    g[:, 32:] *= -1
    assert Reference(g, x).assess(torch.tensor([[math.inf]]).half(), arithmetic).undecided.all()
    small = torch.full((1, 40), 2.0**-13).half()  # products of 2^-26 are lost to float16, whose smallest is 2^-24
    assert Reference(small, small).assess(torch.zeros(1, 1).half(), arithmetic).all_inside
    assert not Reference(small, small).assess(torch.zeros(1, 1).half(), declared(torch.float16)).all_inside


def test_infinity_begins_half_a_step_beyond_the_largest_number():
    x = torch.ones(1, 2).half()
    for extra, sign in itertools.product((6.0, 26.0), (1, -1)):  # 65510 rounds to 65504, 65530 to infinity
        w = sign * torch.tensor([[65504.0, extra]]).half()
        for value in (65504.0, math.inf):
            found = Reference(x, w).assess(torch.tensor([[sign * value]]).half(), declared(torch.float16, op="full"))
            assert found.all_inside == ((value == math.inf) == (extra > 16))


# Complex


def products_of(x, w, b):
    """The complex layer as torch's convolution computes it, by three real products."""
    (xr, xi), (wr, wi) = ((t.real, t.imag) for t in (x, w))
    a = sequential(terms_of(xr, wr, None if b is None else b.real, xr.dtype))
    c = pairwise(terms_of(xr + xi, wr + wi, None if b is None else b.real + b.imag, xr.dtype))
    d = lanes(terms_of(xi, wi, None, xr.dtype))
    return torch.complex(a - d, c - a - d)


def four_products_of(x, w, b):
    (xr, xi), (wr, wi) = ((t.real, t.imag) for t in (x, w))
    real = blocks(terms_of(torch.cat([xr, -xi], 1), torch.cat([wr, wi], 1), None if b is None else b.real, xr.dtype))
    imag = tree(terms_of(torch.cat([xr, xi], 1), torch.cat([wi, wr], 1), None if b is None else b.imag, xr.dtype))
    return torch.complex(real, imag)


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
    assert (found.upper.imag - found.lower.imag <= u * (24.1 * size + 4.1 * exact.abs())).all()  # 12, and two steps


@pytest.mark.parametrize("dtype", COMPLEX, ids=word)
def test_complex_gradients_of_three_products_lie_in_the_envelope(dtype):
    for seed in range(8):
        x, w, g = (Values("wide" if seed % 2 else "normals", seed + i).tensor((9, 12), dtype) for i in range(3))
        (gr, gi), (wr, wi) = (g.real, g.imag), (w.conj().real, w.conj().resolve_conj().imag)
        # conj(w) = wr - i*wi', so that real and imaginary part are gr*wr - gi*wi and gr*wi + gi*wr, here through
        # (gr - gi)*wr + gi*(wr - wi) and the like.
        real = sequential(terms_of(gr - gi, wr, None, gr.dtype)) + pairwise(terms_of(gi, wr - wi, None, gr.dtype))
        imag = lanes(terms_of(gr + gi, wi, None, gr.dtype)) + tree(terms_of(gi, wr - wi, None, gr.dtype))
        reference = Reference(g, w.conj(), gradient=True)
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


# Integers


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


def test_floats_need_an_arithmetic():
    with pytest.raises(TypeError, match="arithmetic"):
        Reference(torch.ones(1, 1), torch.ones(1, 1)).assess(torch.ones(1, 1), None)


# Arithmetic


def test_the_declared_bounds_are_those_of_the_documentation():
    size = f64(1000.0)

    def units(dtype, op="pointwise", device="cpu"):
        return (declared(dtype, device, op).error(10, size) / size).item()

    assert units(torch.float32) == pytest.approx(10 * 2**-24)
    assert units(torch.float64) == pytest.approx(10 * 2**-53)
    assert units(torch.float16) == pytest.approx(10 * 2**-24)
    assert units(torch.bfloat16) == pytest.approx(10 * 2**-24)
    assert units(torch.float16, "grad_weight") == pytest.approx(10 * 2**-11, rel=1e-3)
    assert units(torch.bfloat16, "grad_weight") == pytest.approx(10 * 2**-8)
    assert units(torch.float16, device="cuda") >= 4 * 26 * 2**-24
    assert declared(torch.float16, "cuda").bias_rounding == "either"
    assert not declared(torch.float32, "cuda").measured
    assert declared(torch.float64, "cuda").error(10, size) == declared(torch.float64).error(10, size)


def test_one_term_has_no_error_of_its_own_unless_products_are_rounded_before():
    arithmetic = declared(torch.float32)
    assert arithmetic.error(1, f64(1.0)).item() == 0
    assert arithmetic.error(torch.tensor([0.0, 1.0, 2.0]), f64(1.0, 1.0, 1.0)).tolist() == pytest.approx(
        [0, 0, 2 * 2**-24], rel=1e-6
    )
    assert arithmetic.error(1, f64(2.0**-149)).item() == pytest.approx(4 * 2.0**-149, rel=1e-6)
    coarse = Arithmetic("tf32", torch.float32, 2.0**-24, 3e38, 2.0**-149, relative=2.0**-10)
    assert coarse.error(1, f64(1.0)).item() > 2.0**-10


def test_a_lower_precision_that_the_user_allows_is_allowed_for():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert declared(torch.float32).relative >= 2 * 2**-8
        assert declared(torch.float64).relative == declared(torch.bfloat16).relative == 0
    finally:
        torch.set_float32_matmul_precision(before)
    assert declared(torch.float32).relative == 0


def test_flushing_that_is_switched_on_is_allowed_for():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        arithmetic = declared(torch.float32)
    finally:
        torch.set_flush_denormal(False)
    assert (arithmetic.flushes_inputs, arithmetic.flushes_outputs, arithmetic.underflow) == (True, True, 2.0**-126)
    x, w = torch.tensor([[1e-39, 1.0]]), torch.tensor([[1.0, 1e-20]])
    for y in (1e-20, torch.nextafter(torch.tensor(1e-20), torch.tensor(1.0)).item()):
        assert Reference(x, w).assess(torch.tensor([[y]]), arithmetic).all_inside
    assert Reference(x[:, :1], w[:, :1]).assess(torch.zeros(1, 1), arithmetic).all_inside
    assert not declared(torch.float32).flushes_inputs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: declared(torch.float32, op="conv"),
            r"^op: expected one of linear, full, pointwise, .* got 'conv'; use any where",
        ),
        (
            lambda: declared(torch.bool),
            r"^dtype: expected one of float32, .*, got torch.bool; pass such as torch.float32",
        ),
        (lambda: declared(torch.int8), r"^dtype: expected a floating or complex dtype, got torch.int8; integers need"),
        (lambda: tolerance(torch.ones(1, 2).int(), torch.ones(1, 2).int()), r"^x: expected one of float32, .*, got torch.int32; integers are exact"),
        (
            lambda: probe(style="hairy"),
            r"^style: expected one of sparse, signs, dense, address, one_hot, got 'hairy'; see",
        ),
        (lambda: probe(dtype=torch.bool), r"^dtype: expected one of float32, .* got torch.bool; pass such"),
        (lambda: probe(rows=-1), r"^rows: expected an integer of at least 0, got -1; pass a size"),
        (lambda: probe(in_features=0), r"^in_features: expected an integer of at least 1, got 0; pass a size"),
        (lambda: probe(out_features=True), r"^out_features: expected an integer of at least 1, got True; pass a size"),
    ],
)
def test_misuse_is_told(call, message):
    with pytest.raises(EquivError, match=message):
        call()


def test_tolerance_covers_any_two_right_kernels_and_is_infinite_where_they_may_overflow():
    for dtype in FLOATS:
        x, w, b = drawn("normals", 50, 4, dtype)
        width = tolerance(x, w, b)
        results = [order(terms_of(x, w, b, accumulator_of(dtype))).to(dtype).double() for order in ORDERS]
        assert all(((p - q).abs() <= width).all() for p, q in itertools.combinations(results, 2))
    assert tolerance(torch.full((1, 2), 3e38), torch.ones(1, 2)).item() == math.inf


# Exact probes


def probe(**options):
    given = {"seed": 1, "style": "dense", "rows": 3, "in_features": 5, "out_features": 4, "bias": True}
    return exact_case(**{**given, "dtype": torch.float32, **options})


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


@pytest.mark.parametrize("answer", [-math.inf, math.nan, 3.4e38, 0.0])
def test_an_overflow_that_no_order_avoids_is_decided(answer):
    one = torch.tensor([[1e30]])
    assert judged(one, one, torch.tensor([[math.inf]])).inside.all()
    found = judged(one, one, torch.tensor([[answer]]))
    assert not found.undecided.any()
    assert not found.inside.any()
    pair, same_sign = torch.full((1, 2), 3e38), torch.ones(1, 2)
    assert not judged(pair, same_sign, torch.tensor([[answer]])).inside.any()


def test_an_overflow_that_some_order_avoids_is_not():
    x = torch.tensor([[3e38, 3e38, -3e38]])
    assert judged(x, torch.ones(1, 3), torch.tensor([[math.inf]])).undecided.all()


def judged(x, weight, result):
    return numerics.judge(result, numerics.exact_affine(x, weight), numerics.declared(torch.float32))


def test_an_infinity_may_meet_an_overflow_of_the_other_sign():
    x, weight = torch.tensor([[1.0, -3e38]]), torch.tensor([[math.inf, 2.0]])
    assert judged(x, weight, torch.tensor([[math.nan]])).undecided.all()
