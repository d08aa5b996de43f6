"""Functions that round otherwise than to nearest are found and named; right kernels and layers in a row are not."""

from __future__ import annotations

import copy
import random
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from operator import mul

import pytest
import rounding_kernels as kernels
import torch
from torch import nn

from equiv import certify
from equiv.causes import rounding_cause
from equiv.numerics import DIRECTIONS, between, declared

HALVES = (torch.float16, torch.bfloat16)
POOL = ThreadPoolExecutor(1)
NAMES = {words.replace(" ", "-"): words for words in kernels.WRONG}
SLOW = [range(12), *(pytest.param(range(k, k + 22), marks=pytest.mark.slow) for k in range(12, 100, 22))]


def opaque(run):
    """The same function where torch cannot see what it calls: in another thread."""
    return lambda x: POOL.submit(run, x).result()


def drawn(seed, wrong):
    """A layer of 16-bit results, a kernel for it, and the name of its rounding."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dtype, n = rng.choice(HALVES), rng.choice((1, 2, 3, int(2 ** rng.uniform(0, 12))))
    outputs = rng.choice((1, 2, 8)) if n > 600 else rng.choice((1, 4, 16))
    linear = nn.Linear(n, outputs, bias=rng.random() < 0.5, dtype=dtype).requires_grad_(False)
    for parameter in linear.parameters():
        values = torch.randn(parameter.shape, generator=generator)
        parameter.copy_((9 * values).round() + 0.5 if rng.random() < 0.3 else values)
    order = "pairwise" if n > 600 else rng.choice(list(kernels.ORDERS))
    options = {"apart": rng.random() < 0.3, "accumulator": rng.choice((torch.float32, torch.float64))}
    name = rng.choice(list(NAMES)) if wrong else "nearest"
    run = kernels.kernel(order, kernels.WRONG[NAMES[name]] if wrong else kernels.nearest, **options)
    return linear, lambda x: run(x, linear.weight, linear.bias), name


@pytest.mark.parametrize("seeds", SLOW, ids=str)
def test_misrounded_kernels_are_named_and_right_ones_certified(seeds):
    for seed in seeds:
        linear, run, name = drawn(seed, wrong=True)
        sides = (run, opaque(run))[seed % 2], linear
        found = certify(*(sides if seed % 3 else sides[::-1]))
        if linear.weight.numel() > 2 or linear.bias is not None:  # one weight may be a power of two: nothing is rounded
            assert found.reason == "rounding differs", (seed, name, str(found))
            assert found.cause.name == f"rounding-{name}", (seed, name, str(found))
        linear, run, _ = drawn(seed, wrong=False)
        sides = (run, opaque(run))[seed % 2], linear
        found = certify(*(sides if seed % 3 else sides[::-1]))
        assert found, (seed, str(found))


def exact_words(x, weight, bias):
    """``x @ weight.T + bias`` as two float64, the first of them the nearest to the exact sum."""
    rows, matrix, offset = ([[Fraction(v) for v in row] for row in t.tolist()] for t in (x, weight, bias[None]))
    sums = [[sum(map(mul, row, w), b) for w, b in zip(matrix, offset[0], strict=True)] for row in rows]
    high = [[float(s) for s in row] for row in sums]
    low = [[float(s - Fraction(h)) for s, h in zip(*pair, strict=True)] for pair in zip(sums, high, strict=True)]
    return torch.tensor(high, dtype=torch.float64), torch.tensor(low, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_results_of_full_precision_are_rounded_to_nearest_as_well(dtype, bias, name):
    torch.manual_seed(0)
    linear, rounding = nn.Linear(3, 5, bias=bias, dtype=dtype).requires_grad_(False), DIRECTIONS[name]
    weight, b = linear.weight, torch.zeros(5, dtype=dtype) if linear.bias is None else linear.bias

    def run(x):
        return rounding(between(*exact_words(x, weight, b), dtype)).to(dtype)

    found = certify(run, linear)
    assert found.reason == "rounding differs", str(found)
    assert found.cause == rounding_cause(name)
    assert (found.differences, found.difference_count) == ((), 0)
    assert "results that right kernels round once" in found.explanation
    assert certify(lambda x: linear(x), run, in_features=3, dtype=dtype).cause.name == f"rounding-{name}"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_weights_that_are_powers_of_two_show_it_in_sums(dtype):
    linear = nn.Linear(5, 3, bias=False, dtype=dtype).requires_grad_(False)
    linear.weight.copy_(torch.tensor([[1.0, -2, 0.5, 0, 1]]).expand(3, 5))
    for name, words in NAMES.items():
        run = kernels.kernel(rounding=kernels.WRONG[words])
        assert certify(lambda x, run=run: run(x, linear.weight, None), linear).cause.name == f"rounding-{name}"
    run = kernels.kernel()
    assert certify(lambda x: run(x, linear.weight, None), linear)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_function_that_rounds_twice_is_certified_where_torch_sees_it(dtype):
    torch.manual_seed(0)
    linear = nn.Linear(12, 5, bias=False).to(dtype).requires_grad_(False)
    linear.weight.mul_(64).round_()
    scaled = copy.deepcopy(linear)
    scaled.weight.mul_(1.5)
    run = lambda x: 1.5 * linear(x)  # noqa: E731
    assert certify(run, scaled)
    assert certify(opaque(run), lambda x: scaled(x), in_features=12, dtype=dtype)
    found = certify(opaque(run), scaled)
    assert found.reason == "kernels differ"
    assert "What rounds several times, as a layer with a factor behind it does" in found.explanation
    known = declared(dtype)
    loose = type(known)(**{**vars(known), "relative": 4 * 2.0**-8, "output_rounding": "any", "name": "rounds twice"})
    assert certify(opaque(run), scaled, arithmetic=loose)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_weights_of_more_bits_than_the_layer_has_are_found(dtype):
    torch.manual_seed(0)
    wide = nn.Linear(12, 5, bias=False).requires_grad_(False)
    linear = copy.deepcopy(wide).to(dtype)
    found = certify(lambda x: wide(x.float()).to(dtype), linear)
    assert found.reason == "kernels differ"


def test_a_weight_off_by_one_ulp_is_no_rounding():
    for dtype in HALVES:
        linear = drawn(7, wrong=False)[0].to(dtype)
        wrong = copy.deepcopy(linear)
        wrong.weight[0, 0] = torch.nextafter(wrong.weight[0, 0], torch.tensor(9.0, dtype=dtype))
        found = certify(lambda x, wrong=wrong: wrong(x), linear)
        assert found.reason == "weights differ"
