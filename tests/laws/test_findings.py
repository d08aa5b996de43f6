"""What torch was found to do, one test for each page of docs/findings: it fails when torch does something else.

Defects, where torch is plainly wrong, are in `test_known_defects.py`.

The numbers of a page were seen on one kind of machine. Elsewhere the test is skipped with what was seen instead;
what equiv makes of the finding is tested everywhere.
"""

from __future__ import annotations

import math
import platform

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

from equiv import compare
from equiv.numerics import Reference, declared

VERSION = torch.__version__.split("+")[0]
HALVES = {torch.float16: 2048.0, torch.bfloat16: 256.0}


def _cpu(feature):
    return bool(getattr(torch.cpu, feature, lambda: False)())


SEEN_HERE = (
    VERSION == "2.13.0"
    and platform.machine() in ("x86_64", "AMD64")
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and _cpu("_is_avx512_bf16_supported")
    and not _cpu("_is_amx_tile_supported")
    and torch.backends.mkldnn.is_available()
)


def still(holds, what):
    """A finding holds where it was seen; elsewhere it may."""
    if not holds and not SEEN_HERE:
        pytest.skip(f"seen with torch 2.13.0 on AVX512; torch {VERSION} here: {what}")
    assert holds, f"docs/findings and equiv may need a change: {what}"


def assert_right(y, x, weight, bias=None, *, op="any"):
    found = Reference(x, weight, bias).assess(y, declared(y.dtype, op=op))
    assert found.all_inside


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_linear_rounds_the_bias_twice_for_strided_input(dtype):
    big = HALVES[dtype]
    x = torch.tensor([[big, 1.0]] * 4, dtype=dtype).view(2, 2, 2).transpose(0, 1)
    weight, bias = torch.ones(1, 2, dtype=dtype), torch.ones(1, dtype=dtype)
    twice, once = (F.linear(t, weight, bias) for t in (x, x.contiguous()))
    for y in (twice, once, torch.full_like(once, big), torch.full_like(once, big + 2)):
        assert compare(y, once, input=x, weight=weight, bias=bias).equivalent
    assert not compare(once + 4, once, input=x, weight=weight, bias=bias).equivalent
    seen = [twice.unique().tolist(), once.unique().tolist()]
    still(seen == [[big], [big + 2]], f"strided and contiguous give {seen}")


def test_the_weight_gradient_of_a_float16_convolution_is_summed_in_float16():
    found = {}
    for dtype in HALVES:
        x = torch.ones(4096, 1, dtype=dtype)
        weight = torch.ones(1, 1, 1, 1, dtype=dtype, requires_grad=True)
        F.conv2d(x.view(-1, 1, 1, 1), weight).sum().backward()
        found[dtype] = weight.grad.item()
        assert_right(weight.grad.view(1, 1), torch.ones(1, 4096, dtype=dtype), x.T, op="grad_weight")
    x = torch.ones(4096, 1, dtype=torch.float16)
    weight = torch.ones(1, 1, dtype=torch.float16, requires_grad=True)
    F.linear(x, weight).sum().backward()
    seen = (*found.values(), weight.grad.item())
    still(seen == (2048.0, 4096.0, 4096.0), f"float16 and bfloat16 convolutions and a float16 linear give {seen}")


def test_an_infinity_spreads_in_a_bfloat16_convolution_of_odd_channels():
    spread = {}
    for channels in (2, 3):
        weight = torch.ones(1, channels, 2, 2, dtype=torch.bfloat16)
        for position in range(4 * channels):
            x = torch.ones_like(weight)
            x.view(-1)[position] = torch.inf
            y, rows = F.conv2d(x, weight), x.flatten(1)
            assert_right(y.flatten(1), rows, weight.flatten(1), op="full")
            assert F.linear(rows, weight.flatten(1)).item() == math.inf
            if y.isnan():
                spread.setdefault(channels, []).append(position)
    still(spread == {3: [9, 11]}, f"NaN by channels and position: {spread}")
    beside = torch.tensor([[[0.0, math.nan, 1.0, 1.0, 1.0]]], dtype=torch.bfloat16)
    y = F.conv1d(beside, torch.full((2, 1, 1), 54.0, dtype=torch.bfloat16), stride=3)
    still(y.isnan().tolist() == [[[True, False]] * 2], f"a NaN between two windows of a kernel of 1 gives {y.tolist()}")


def test_subnormals_are_zero_to_a_bfloat16_convolution():
    x, weight = torch.tensor([[1e38]], dtype=torch.bfloat16), torch.tensor([[1e-39]], dtype=torch.bfloat16)
    small = F.linear(x, weight)
    conv = F.conv2d(x.view(1, 1, 1, 1), weight.view(1, 1, 1, 1))
    large = F.linear(x.expand(16, 64), weight.expand(32, 64))
    assert compare(conv, small, input=x, weight=weight).equivalent
    assert compare(large, large, input=x.expand(16, 64), weight=weight.expand(32, 64)).equivalent
    assert not compare(small + 0.2, small, input=x, weight=weight).equivalent
    seen = (small.item(), conv.item(), large[0, 0].item())
    still(seen == (0.1005859375, 0.0, 0.0), f"linear, conv and a larger linear give {seen}")


def test_small_integers_have_no_dilated_convolution():
    served = []
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        x, weight = torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 1, 2, 2, dtype=dtype)
        try:
            assert F.conv2d(x, weight, dilation=2).item() == 4
            served.append(dtype)
        except NotImplementedError as error:
            assert "slow_conv_dilated" in str(error)  # noqa: PT017 - which dtypes raise is what is collected
    still(served == [torch.int64], f"dilation is served for {served}")
