"""What the kernels are judged in: what is declared, or what the caller knows of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import equiv
from equiv import EquivError, certify
from equiv.numerics import declared, format_of


def linear_of(n, outputs, dtype=torch.float32):
    torch.manual_seed(n)
    return nn.Linear(n, outputs, bias=False).to(dtype).requires_grad_(False)


def test_what_flushes_subnormals_is_certified_where_the_arithmetic_says_so():
    linear, least = linear_of(8, 3), format_of(torch.float32).min_normal
    linear.weight[1, 2] = least / 4

    def flushing(x):
        y = x @ linear.weight.T
        return torch.where(y.abs() < least, 0.0, y)

    flushes = replace(declared(torch.float32), name="flushing", flushes_inputs=True, flushes_outputs=True)
    assert certify(flushing, linear).reason == "weights differ"
    found = certify(flushing, linear, arithmetic=replace(flushes, underflow=least))
    assert found, str(found)
    assert "subnormal values are treated as zero by one kernel" in found.explanation
    assert found.scope["arithmetic"] == "flushing"


def test_random_integers_stay_within_what_the_products_hold():
    linear = linear_of(4096, 3)
    coarse = replace(declared(torch.float32), relative=2.0**-7, name="bfloat16 products")
    conv = equiv.linear_to_full_conv(linear, (64, 8, 8))
    assert (
        "integers up to 128 in place of the weights"
        in certify(conv, linear, method="random", arithmetic=coarse).explanation
    )
    narrow = replace(declared(torch.float32), u=2.0**-8, name="a 16-bit accumulator")
    found = certify(conv, linear, method="random", arithmetic=narrow)
    assert found.method == "deterministic"
    assert "too narrow for exact sums" in found.explanation


@pytest.mark.parametrize("method", ["deterministic", "random"])
def test_a_state_belongs_to_one_arithmetic(method):
    linear = linear_of(64, 3)
    conv = equiv.linear_to_full_conv(linear, (16, 2, 2))
    options = {"method": method, "chunk_bytes": 4096, "error_probability": 1e-30}
    part = certify(conv, linear, progress=lambda *_: False, **options)
    assert part.reason == "not finished"
    other = replace(declared(torch.float32), factor=4.0, name="other")
    assert certify(conv, linear, resume=part.state, **options)
    with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
        certify(conv, linear, resume=part.state, arithmetic=other, **options)


def test_what_is_no_arithmetic_of_these_results_is_refused():
    with pytest.raises(EquivError, match=r"arithmetic: expected an equiv.numerics.Arithmetic, got 'exact'"):
        certify(linear_of(4, 3), linear_of(4, 3), arithmetic="exact")
    with pytest.raises(EquivError, match=r"arithmetic: expected one of results of float32, got torch.float16"):
        certify(linear_of(4, 3), linear_of(4, 3), arithmetic=declared(torch.float16))
