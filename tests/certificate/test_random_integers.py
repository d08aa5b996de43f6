"""Random integers in place of the weights: how often a wrong kernel passes, against what is promised."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import equiv
from equiv import certify
from equiv.certificate.random_integers import Plan, Weights, pair_of, plan
from equiv.certificate.sides import side_of

INTS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
SHAPE = (4, 2, 2)


def layer(dtype, bias=True):
    found = nn.Linear(16, 4, bias=bias, device="meta")
    found.weight = nn.Parameter(torch.arange(64).remainder(5).view(4, 16).to(dtype), requires_grad=False)
    if bias:
        found.bias = nn.Parameter(torch.arange(4).to(dtype), requires_grad=False)
    return found


def passes(fault, dtype, monkeypatch, tries, bias=True):
    """How many of so many seeds certify a convolution that is wrong by ``fault(x, w, b)``, and the bound for each."""
    linear = layer(dtype, bias)
    conv = equiv.linear_to_full_conv(linear, SHAPE)
    right, passed, bounds = torch.nn.functional.conv2d, 0, set()

    def wrong(x, w, b, *args):
        y = right(x, w, b, *args).clone()
        y[:, 1, 0, 0] += fault(x, w, b)
        return y

    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    for seed in range(tries):
        found = certify(conv, linear, method="random", seed=seed, error_probability=0.2)
        assert found.method == "random"
        passed += found.equivalent
        bounds |= {found.error_probability} if found.equivalent else set()
    monkeypatch.undo()
    return passed, max(bounds, default=0.0)


def top(dtype):
    return torch.iinfo(dtype).bits - 1


FAULTS = {
    "one product": lambda x, w, b: (x[:, 2, 1, 1] * w[1, 2, 1, 1]) << top(x.dtype),
    "of other outputs": lambda x, w, b: (
        ((x[:, 0, 0, 0] + x[:, 1, 0, 1]) * (w[0, 0, 0, 0] - w[3, 2, 1, 1])) << top(x.dtype)
    ),
    "of a row and a column": lambda x, w, b: (x.flatten(1).sum(1) * w[2].sum()).to(x.dtype) << top(x.dtype),
    "the bias": lambda x, w, b: b[2] << top(x.dtype),
    "bias and product": lambda x, w, b: (b[0] + x[:, 0, 0, 0] * w[1, 0, 0, 0]) << top(x.dtype),
    "a quarter": lambda x, w, b: (x[:, 2, 1, 1] * w[1, 2, 1, 1]) << (top(x.dtype) - 1),
}


@pytest.mark.parametrize(
    ("fault", "dtype", "tries"),
    [("one product", dtype, 100) for dtype in INTS]
    + [pytest.param("one product", dtype, 400, marks=pytest.mark.slow) for dtype in INTS]
    + [(fault, torch.int32, 100) for fault in list(FAULTS)[1:]]
    + [pytest.param(fault, torch.uint8, 100, marks=pytest.mark.slow) for fault in list(FAULTS)[1:]],
)
def test_integer_kernels_that_differ_in_high_bits_pass_no_more_often_than_promised(fault, dtype, tries, monkeypatch):
    passed, bound = passes(FAULTS[fault], dtype, monkeypatch, tries)
    assert bound <= 0.2
    # Four standard deviations above the bound: where that is attained, one test in 30,000 fails.
    assert passed <= tries * bound + 4 * math.sqrt(tries * bound)


@pytest.mark.slow
def test_the_bound_for_integers_is_nearly_attained(monkeypatch):
    passed, bound = passes(FAULTS["one product"], torch.int32, monkeypatch, 400)
    assert passed >= 400 * bound - 4 * math.sqrt(400 * bound)


@pytest.mark.parametrize("dtype", INTS, ids=str)
@pytest.mark.parametrize("terms", [1, 7, 48])
def test_integers_are_drawn_with_fair_parities_and_leave_no_range(dtype, terms):
    found = plan(terms, dtype, torch.device("cpu"), 1, 1e-12)
    assert found is not None
    assert 1 / 2 < found.miss < 1
    assert found.error_probability <= 1e-12
    assert terms * found.weight * found.input + found.bias <= torch.iinfo(dtype).max
    linear = layer(dtype)
    sides = tuple(side_of(name, copy.deepcopy(linear), SHAPE, False) for name in ("candidate", "reference"))
    pair = pair_of(sides, tuple(side.layer for side in sides), SHAPE)
    assert pair is not None
    for radius in {found.weight, found.bias, found.input}:
        weights = Weights(pair, Plan(radius, radius, radius, 1, 1, 0.5))
        values = weights._integers(radius, (20_000,), torch.Generator().manual_seed(3)).long()
        assert int(values.max()) <= radius
        assert int(values.min()) > -radius
        assert abs(int((values % 2).sum()) - 10_000) < 4 * math.sqrt(5_000)


def test_right_integer_kernels_are_certified_at_random():
    for dtype in INTS:
        linear = layer(dtype)
        found = certify(equiv.linear_to_full_conv(linear, SHAPE), linear, method="random")
        assert found
        assert found.method == "random"
        assert 0 < found.error_probability <= 1e-12


@pytest.mark.parametrize("radius", [1, 2, 3, 8, 55])
def test_uniform_integers_are_sub_gaussian_with_their_variance(radius):
    variance = radius * (radius + 1) / 3
    for t in (step / 50 for step in range(1, 200)):
        mean = sum(math.exp(k * t) for k in range(-radius, radius + 1)) / (2 * radius + 1)
        assert math.log(mean) <= variance * t * t / 2 * (1 + 1e-12)


@pytest.mark.parametrize("terms", [4096, 25088, 10**6])
def test_sums_of_random_integers_stay_in_the_exact_range_but_for_a_chance_below_1e_minus_30(terms):
    chosen = plan(terms, torch.float32, torch.device("cpu"), 1, 1e-12)
    variance = chosen.input * (chosen.input + 1) / 3 * terms * chosen.weight**2
    room = 2**24 - chosen.bias
    certain = chosen.weight * chosen.input * terms <= room
    assert certain or 2 * math.exp(-(room**2) / (2 * variance)) < 1e-30
