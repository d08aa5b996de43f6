"""Every order of summation lies in the envelope, and what is a step beyond its bound does not."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from numerics_helpers import ORDERS, accumulator_of, drawn, exact_sum, fraction, nearest, sequential, terms_of, word

from equiv import numerics
from equiv.dtypes import FLOATS
from equiv.numerics import (
    Reference,
    declared,
    exact_affine,
    format_of,
    from_ordinal,
    judge,
    one_hot_rows,
    ordinal,
    round_down,
    round_nearest,
    round_up,
)
from equiv.strategies import FINITE_KINDS, Values


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
    once = replace(declared(torch.float16), bias_rounding="once")
    assert not reference.assess(torch.tensor([[math.inf]]).half(), once).all_inside


def test_a_bias_alone_is_rounded_by_nobody():
    x, w, b = torch.zeros(1, 3).half(), torch.ones(1, 3).half(), torch.tensor([1.0]).half()
    found = Reference(x, w, b).assess(b[None], declared(torch.float16, op="linear"))
    assert found.lower.item() == found.upper.item() == 1.0


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
def test_the_envelope_is_the_stated_bound_rounded_to_nearest(dtype, kind):
    """``[RN(s - E), RN(s + E)]`` with ``E = K*u*S + (2K+2)*nu``, to within a millionth of ``E``."""
    acc, once = format_of(accumulator_of(dtype)), replace(declared(dtype), bias_rounding="once")
    for n, seed in ((2, 2), (13, 3), (40, 5)):
        x, w, b = drawn(kind, n, seed, dtype)
        found = judge(torch.zeros(5, 4, dtype=dtype), exact_affine(x, w, b), once)
        for row, column in itertools.product(range(5), range(4)):
            s, size, terms = exact_sum(x[row], w[column], None if b is None else b[column])
            e = terms * fraction(acc.u) * size + (2 * terms + 2) * fraction(acc.min_subnormal)
            alone = terms <= 1 and size > 4 * fraction(acc.min_subnormal)
            for edge, sign in ((found.lower[row, column], -1), (found.upper[row, column], 1)):
                tight, loose = (s + sign * e * (0 if alone else 1 + f) for f in (0, Fraction(1, 10**6)))
                if dtype == torch.float64 and not alone:  # the reference's own error, below the normal range
                    loose += sign * 4 * fraction(acc.min_subnormal)
                tight, loose = (
                    round_nearest(torch.tensor(float(end), dtype=torch.float64), dtype) for end in (tight, loose)
                )
                assert sign * tight <= sign * edge <= sign * loose


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=word)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_result_that_is_not_rounded_to_nearest_is_outside(dtype, n):
    """Integer sums that the accumulator holds exactly: one rounding, and every other neighbour is wrong."""
    generator = torch.Generator().manual_seed(n)
    x, w = (torch.randint(33, 64, (k, n), generator=generator).to(dtype) for k in (40, 30))
    exact = x.double() @ w.double().T
    right, down, up = (f(exact, dtype) for f in (round_nearest, round_down, round_up))
    inexact = (down != up).any()
    assert Reference(x, w).assess(right, declared(dtype)).all_inside
    for other in (down, up, torch.where(right == down, up, down)):
        assert Reference(x, w).assess(other, declared(dtype)).all_inside == (not inexact)
    any_direction = replace(declared(dtype), output_rounding="any")
    assert Reference(x, w).assess(down, any_direction).all_inside


def test_a_bias_added_after_a_rounding_is_right_at_both_ends():
    """8-bit products round before the bias, or after it: two results, and none between or beside them."""
    x, w, b = (torch.tensor(v, dtype=torch.bfloat16) for v in ([[129.0, 1.0]], [[3.0, 0.5]], [1.5]))
    once, twice = 388.0, 390.0  # 387.5 + 1.5 = 389 is a tie and goes to 388; 387.5 becomes 388, and 389.5 then 390
    reference = Reference(x, w, b)
    for value, right in ((once, True), (twice, True), (386.0, False), (392.0, False)):
        assert reference.assess(torch.tensor([[value]]).bfloat16(), declared(torch.bfloat16)).all_inside == right
    only_once = replace(declared(torch.bfloat16), bias_rounding="once")
    assert reference.assess(torch.tensor([[once]]).bfloat16(), only_once).all_inside


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
