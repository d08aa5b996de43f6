"""Functions are asked at every size that their dtype has: dead zones, saturation, products and jumps are found."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from equiv import certify
from equiv.certificate.scales import exponents
from equiv.numerics import format_of

pytestmark = pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def layer(n, outputs, dtype=torch.float32, *, bias=True):
    torch.manual_seed(n)
    return nn.Linear(n, outputs, bias=bias).to(dtype).requires_grad_(False)


def at(x, index, change):
    """A change of one feature alone."""
    return torch.cat([x[:, :index], change(x[:, index : index + 1]), x[:, index + 1 :]], 1)


def dead(x, below):
    return torch.where(x.abs() < below, 0, x)


N = 24
CHANGES = {
    **{f"dead below 2^{k}": lambda x, k=k: dead(x, 2.0**k) for k in (-119, -60, -23, 3, 70)},
    "one dead below 2^-60": lambda x: at(x, 17, lambda v: dead(v, 2.0**-60)),
    "dead between 2^40 and 2^44": lambda x: torch.where((x.abs() > 2.0**40) & (x.abs() < 2.0**44), 0, x),
    "saturates at 60,000": lambda x: x.clamp(-6e4, 6e4),
    "one saturates at 1e36": lambda x: at(x, 20, lambda v: v.clamp(max=1e36)),
    "negative ones above 200": lambda x: torch.where(x < -200, x - 1, x),
    "jump of one at 200": lambda x: at(x, 5, lambda v: v + (v > 200)),
    "one ulp above 200": lambda x: torch.where(x > 200, torch.nextafter(x, torch.full_like(x, 1e38)), x),
    "three is four": lambda x: at(x, 9, lambda v: torch.where(v == 3, 4, v)),
    "periodic": lambda x: x + 2.0**-8 * torch.sin(2 * torch.pi * x),
    "a product": lambda x: at(x, 3, lambda v: v + 1e-6 * v * x[:, 19:20]),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_changes_inputs_of_some_size_alone_is_found(change):
    linear = layer(N, 5, bias=False)
    run = lambda x: linear(CHANGES[change](x))  # noqa: E731
    for pair in ((run, linear), (linear, run), (run, run)):
        found = certify(*pair, in_features=N)
        assert not found or (pair == (run, run) and "ulp" in change), str(found)


@pytest.mark.parametrize("change", ["dead", "product", "jump"])
def test_a_bias_hides_no_more_than_its_rounding(change):
    linear = layer(N, 16)
    run = {
        "dead": lambda x: linear(dead(x, 1e-7)),
        "product": lambda x: linear(x) + 1e-6 * x[:, :1] * x[:, 1:2],
        "jump": lambda x: linear(x) + (x[:, :1] > 200),
    }[change]
    assert not certify(run, linear)
    assert not certify(linear, run)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [1, 40, 300])
def test_right_functions_are_certified_at_every_size(dtype, n):
    for bias in (False, True):
        linear = layer(n, 4, dtype, bias=bias)
        assert certify(lambda x, linear=linear: linear(x), copy.deepcopy(linear))
        wide = torch.complex128 if dtype.is_complex else torch.float64

        def run(x, linear=linear, wide=wide):
            y = x.to(wide) @ linear.weight.T.to(wide)
            return (y if linear.bias is None else y + linear.bias.to(wide)).to(x.dtype)

        found = certify(run, linear)
        assert found, str(found)


def test_what_flushes_is_certified_where_the_dtype_may():
    linear, least = layer(N, 5, torch.bfloat16, bias=False), format_of(torch.bfloat16).min_normal

    def run(x):
        y = linear(torch.where(x.abs() < least, 0, x))
        return torch.where(y.abs() < least, 0, y)

    assert certify(run, linear)


def test_a_factor_that_overflows_on_the_way_is_no_affine_map_and_overflow_of_the_result_is_no_fault():
    linear = layer(N, 5, bias=False)
    large = copy.deepcopy(linear)
    large.weight.mul_(2.0**100)
    assert certify(lambda x: large(x), copy.deepcopy(large))
    assert certify(lambda x: linear(x) * 2.0**100, large)
    assert certify(lambda x: linear(x * 2.0**100) * 2.0**-100, linear).reason == "not affine"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sizes_cover_the_normal_numbers(dtype):
    sizes, fmt = exponents(dtype), format_of(dtype)
    assert 2.0 ** int(sizes[0]) == fmt.min_normal
    step = int(sizes[1] - sizes[0])
    assert fmt.max / 2 ** (step + 1) <= 2.0 ** int(sizes[-1]) <= fmt.max
    assert len(sizes) <= 128
