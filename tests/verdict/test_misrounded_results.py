"""Results that are not rounded to nearest are different, and the rounding is named; right kernels pass on any data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import rounding_kernels as kernels
import torch
from torch import Tensor, nn

from equiv import NotEquivalent, Outcome, assert_equivalent, compare
from equiv.causes import name_misrounding
from equiv.numerics import declared, round_down, round_up
from equiv.verdict.probes import rounding_probes

LOW = (torch.float16, torch.bfloat16)
NAMES = {wrong: f"rounding-{wrong.replace(' ', '-')}" for wrong in kernels.WRONG}


def word(value):
    return str(value).removeprefix("torch.")


def integers(*shape, g, dtype, size=40):
    return torch.randint(-size, size + 1, shape, generator=g).to(dtype)


def layer_of(n, dtype, *, bias, seed=0, rows=16, outputs=32, ties=False):
    """Normal values, or integers, among whose sums are ties."""
    g = torch.Generator().manual_seed(seed)
    if ties:
        x, w = (integers(size, n, g=g, dtype=dtype, size=127 if n < 8 else 30) for size in (rows, outputs))
        return x, w, integers(outputs, g=g, dtype=dtype) if bias else None
    x, w = torch.randn(rows, n, generator=g), torch.randn(outputs, n, generator=g)
    return x.to(dtype), w.to(dtype), torch.randn(outputs, generator=g).to(dtype) if bias else None


def judged(kernel, x, w, b):
    right = kernels.kernel("pairwise")
    return compare(kernel(x, w, b), right(x, w, b), input=x, weight=w, bias=b)


# Wrong roundings


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("dtype", LOW, ids=word)
@pytest.mark.parametrize("wrong", kernels.WRONG)
def test_every_wrong_rounding_is_different_at_any_size_and_named(wrong, dtype, bias):
    for n, order in ((1, "sequential"), (3, "backwards"), (60, "blocks of 4"), (700, "pairwise")):
        apart = bias and n in (3, 700)
        kernel = kernels.kernel(order, kernels.WRONG[wrong], apart=apart)
        x, w, b = layer_of(n, dtype, bias=bias, seed=n, ties=wrong == "ties away")
        verdict = judged(kernel, x, w, b)
        assert verdict.outcome is Outcome.DIFFERENT, (n, verdict)
        assert verdict.cause is not None, (n, verdict)
        assert verdict.cause.name == NAMES[wrong], (n, verdict)
        assert "not what rounding to nearest gives" in verdict.explanation


@pytest.mark.parametrize(
    ("dtype", "wrong"), [(torch.float16, "stochastic"), (torch.float16, "toward zero"), (torch.bfloat16, "to odd")]
)
def test_a_wrong_rounding_shows_where_the_envelope_holds_every_output(dtype, wrong):
    x, w, b = layer_of(4096, dtype, bias=True, rows=8)
    right, cut = (kernels.kernel("pairwise", rounding) for rounding in (kernels.nearest, kernels.WRONG[wrong]))
    wide = replace(declared(dtype), factor=1.0001)  # no sum of IEEE arithmetic: the envelope alone
    y, e = cut(x, w, b), right(x, w, b)
    if dtype == torch.float16:
        assert compare(y, e, input=x, weight=w, bias=b, arithmetic=wide).outcome is Outcome.ROUNDING
    verdict = compare(y, e, input=x, weight=w, bias=b)
    assert verdict.outcome is Outcome.DIFFERENT
    assert verdict.cause.name == NAMES[wrong]
    swapped = compare(e, y, input=x, weight=w, bias=b)
    assert swapped.outcome is Outcome.DIFFERENT
    assert "It is `expected` that is outside" in swapped.explanation


def test_the_numbers_of_a_runtime_that_adds_half_where_the_last_bit_is_odd():
    x, w, y = (torch.tensor([[value]], dtype=torch.bfloat16) for value in (185.0, -203.0, -37376.0))
    right = torch.tensor([[-37632.0]], dtype=torch.bfloat16)
    assert compare(y, right, input=x, weight=w).outcome is Outcome.DIFFERENT
    assert compare(right, y, input=x, weight=w).outcome is Outcome.DIFFERENT
    assert compare(right, right, input=x, weight=w).equivalent


def test_one_wrong_tie_among_integer_sums_of_a_large_layer_is_different():
    x, w, _ = layer_of(2048, torch.bfloat16, bias=False, ties=True)
    y = kernels.kernel("pairwise")(x, w)
    s = x.double() @ w.double().T
    low, high = (rounding(s, torch.bfloat16) for rounding in (round_down, round_up))
    ties = (s - low.double() == high.double() - s) & (low != high)
    assert int(ties.sum()) > 3
    at = tuple(ties.nonzero()[0])
    changed = y.clone()
    changed[at] = low[at] if y[at] == high[at] else high[at]
    assert compare(y, y, input=x, weight=w).equivalent
    verdict = compare(changed, y, input=x, weight=w)
    assert verdict.counts["different"] == 1
    assert verdict.worst.index == tuple(map(int, at))
    assert verdict.worst.lower == verdict.worst.upper == y[at].item()


def test_all_results_round_before_the_bias_or_none_does():
    x, w, b = layer_of(6, torch.bfloat16, bias=True)
    once, twice = (kernels.kernel(apart=apart)(x, w, b) for apart in (False, True))
    assert int((once != twice).sum()) > 20
    mixed = torch.where(torch.arange(len(x))[:, None] % 2 == 0, once, twice)
    assert compare(once, twice, input=x, weight=w, bias=b).equivalent
    assert compare(mixed, once, input=x, weight=w, bias=b).outcome is Outcome.DIFFERENT


def test_float32_results_of_one_product_must_be_the_nearest_ones_beside_a_bias_too():
    def cut(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        p = x.double() * w.double().T
        p = torch.where(p < 0, round_up(p, torch.float32), round_down(p, torch.float32))
        return p if b is None else p + b

    x, w, _ = layer_of(1, torch.float32, bias=False)
    verdict = compare(cut(x, w), x @ w.T, input=x, weight=w)
    assert verdict.cause.name == "rounding-toward-zero"
    b = torch.full((32,), 2.0**-60)
    assert compare(x @ w.T + b, x @ w.T, input=x, weight=w, bias=b).equivalent
    assert compare(cut(x, w, b), x @ w.T, input=x, weight=w, bias=b).outcome is Outcome.DIFFERENT


# Right kernels


def test_right_kernels_pass_on_data_that_is_hard_to_sum():
    g = torch.Generator().manual_seed(5)

    def cancelling(rows: int, n: int) -> Tensor:
        pairs = torch.randn(rows, n // 2, generator=g)
        return torch.stack([pairs, -pairs], 2).flatten(1)

    hard = {
        "equal": lambda rows, n: torch.full((rows, n), 0.1),
        "equal in a row": lambda rows, n: torch.rand(rows, 1, generator=g).expand(rows, n),
        "positive": lambda rows, n: torch.rand(rows, n, generator=g),
        "few values": lambda rows, n: torch.randint(1, 4, (rows, n), generator=g) / 3,
        "heavy tails": lambda rows, n: torch.randn(rows, n, generator=g) * torch.randn(rows, n, generator=g).exp() ** 2,
        "cancelling": cancelling,
        "sorted": lambda rows, n: torch.randn(rows, n, generator=g).sort(1).values,
        "integers": lambda rows, n: torch.randint(-256, 257, (rows, n), generator=g).float(),
    }
    seen = 0
    for i, (first, inputs) in enumerate(hard.items()):
        for j, (second, weights) in enumerate(hard.items()):
            if (i + j) % 2:
                continue
            dtype, n = LOW[(i + j) // 2 % 2], (2, 50, 600)[(i + j) // 2 % 3]
            x, w = inputs(8, n).to(dtype), weights(32, n).to(dtype)
            b = torch.randn(32, generator=g).to(dtype) if i % 2 else None
            right = kernels.kernel("pairwise")(x, w, b)
            for k, order in enumerate(kernels.ORDERS):
                accumulator = torch.float64 if k == i % 5 else torch.float32
                y = kernels.kernel(order, apart=b is not None and k % 2 == 1, accumulator=accumulator)(x, w, b)
                verdict = compare(y, right, input=x, weight=w, bias=b)
                assert verdict.outcome in (Outcome.IDENTICAL, Outcome.ROUNDING), (first, second, order, verdict)
                seen += 1
    assert seen >= 100


def test_no_pattern_is_looked_for_where_the_arithmetic_is_not_of_ieee():
    x, w, _ = layer_of(700, torch.float16, bias=False)
    y, e = (kernels.kernel("pairwise", rounding)(x, w) for rounding in (kernels.toward_zero, kernels.nearest))
    for changes in ({"relative": 2.0**-9}, {"factor": 4.0}, {"extra_terms": 16, "factor": 4.0}):
        arithmetic = replace(declared(torch.float16), **changes)
        verdict = compare(y, e, input=x, weight=w, arithmetic=arithmetic)
        assert verdict.cause is None or verdict.counts["different"] < 20, changes


def test_a_few_results_that_are_off_by_an_ulp_are_given_no_name():
    x, w, _ = layer_of(3, torch.bfloat16, bias=False)
    y = kernels.kernel()(x, w)
    for share in (4, 100):
        changed = y.clone()
        changed.view(-1)[::share] = (y.view(torch.int16).view(-1)[::share] + 1).view(torch.bfloat16)
        assert name_misrounding(changed, x=x, weight=w) is None
    assert name_misrounding(y, x=x, weight=w) is None


# assert_equivalent


def linear(n, dtype, *, bias, seed=0, outputs=24):
    torch.manual_seed(seed)
    return nn.Linear(n, outputs, bias=bias).to(dtype)


def as_function(kernel, layer):
    bias = None if layer.bias is None else layer.bias.detach()
    return lambda x: kernel(x, layer.weight.detach(), bias)


@pytest.mark.parametrize("dtype", LOW, ids=word)
@pytest.mark.parametrize("wrong", kernels.WRONG)
def test_inputs_of_one_or_two_entries_show_every_wrong_rounding(wrong, dtype):
    for n, bias, apart in ((1, True, False), (5, False, False), (300, True, True), (300, True, False)):
        layer = linear(n, dtype, bias=bias, seed=n)
        candidate = as_function(kernels.kernel("pairwise", kernels.WRONG[wrong], apart=apart), layer)
        with pytest.raises(NotEquivalent) as caught:
            assert_equivalent(candidate, layer)
        assert caught.value.verdict.cause.name == NAMES[wrong], caught.value


@pytest.mark.parametrize("dtype", LOW, ids=word)
def test_right_kernels_of_every_order_are_equivalent(dtype):
    for n, order in zip((1, 2, 9, 70, 300), kernels.ORDERS, strict=True):
        for bias, apart in ((False, False), (True, False), (True, True)):
            layer = linear(n, dtype, bias=bias, seed=n)
            assert_equivalent(as_function(kernels.kernel(order, apart=apart), layer), layer)
            assert_equivalent(layer, layer)


def test_ties_of_weights_that_are_powers_of_two_take_two_terms():
    layer = linear(6, torch.bfloat16, bias=False)
    layer.weight.data = torch.where(layer.weight > 0, 1.0, -1.0).bfloat16()
    assert_equivalent(as_function(kernels.kernel(), layer), layer)
    with pytest.raises(NotEquivalent, match="ties are rounded away from zero"):
        assert_equivalent(as_function(kernels.kernel(rounding=kernels.ties_away), layer), layer)


def test_an_arithmetic_is_that_of_the_candidate_in_every_comparison():
    layer = linear(9, torch.bfloat16, bias=True)
    cut = as_function(kernels.kernel(rounding=kernels.toward_zero), layer)
    any_rounding = replace(declared(torch.bfloat16), output_rounding="any", name="a device that cuts")
    assert_equivalent(cut, layer, arithmetic=any_rounding)
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(layer, cut, arithmetic=any_rounding)
    assert "It is `expected` that is outside" in str(caught.value.verdict.explanation)
    with pytest.raises(ValueError, match=r"arithmetic: expected an equiv\.numerics\.Arithmetic"):
        assert_equivalent(cut, layer, arithmetic="bfloat16")


def test_float16_probes_stay_finite_beside_small_weights():
    weight, bias = torch.full((2, 3), 2.0**-6).half(), torch.tensor([1.0, -0.5]).half()
    x, _ = rounding_probes(weight, bias, torch.Generator().manual_seed(0))
    assert x.isfinite().all()
