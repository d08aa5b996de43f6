"""Inputs that no one-hot probe is: what rounds, clamps or saturates them is found, right kernels in any order pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import equiv
from equiv import certify
from equiv.certificate.operations import structure_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def layer(n, outputs, dtype=torch.float32, seed=0, *, bias=True):
    g = torch.Generator().manual_seed(seed)
    linear = nn.Linear(n, outputs, bias=bias).requires_grad_(False)
    for name in ("weight", "bias") if bias else ("weight",):
        shape = getattr(linear, name).shape
        if dtype.is_floating_point or dtype.is_complex:
            values = torch.randn(shape, generator=g, dtype=torch.complex128 if dtype.is_complex else torch.float64) / 4
        else:
            values = torch.randint(0, 9, shape, generator=g)
        setattr(linear, name, nn.Parameter(values.to(dtype), requires_grad=False))
    return linear


LINEAR = layer(12, 5)


def cut(x, bits):
    """Without the last bits of the mantissa."""
    return (x.contiguous().view(torch.int32) & -(1 << bits)).view(torch.float32)


def cut_at(x, index):
    return torch.cat([x[:, :index], cut(x[:, index : index + 1], 13), x[:, index + 1 :]], 1)


NOT_AFFINE = {
    "bfloat16 inputs": lambda x: LINEAR(x.bfloat16().float()),
    "TF32 inputs": lambda x: LINEAR(cut(x, 13)),
    "one input in TF32": lambda x: LINEAR(cut_at(x, 7)),
    "half inputs": lambda x: LINEAR(x.clamp(-6e4, 6e4).half().float()),
    "clamped from above": lambda x: LINEAR(x.clamp(max=100.0)),
    "clamped far out": lambda x: LINEAR(x.clamp(max=1e30)),
    "one input clamped": lambda x: LINEAR(torch.cat([x[:, :8], x[:, 8:9].clamp(max=1e6), x[:, 9:]], 1)),
    "rounded to halves": lambda x: LINEAR((2 * x).round() / 2),
}


@pytest.mark.parametrize("change", NOT_AFFINE, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_changes_its_input_is_no_affine_map(change, seed):
    found = certify(NOT_AFFINE[change], LINEAR, seed=seed)
    assert not found
    assert found.reason == "not affine"
    both = certify(NOT_AFFINE[change], NOT_AFFINE[change], in_features=12, seed=seed)
    assert both.reason == "not affine"


@pytest.mark.parametrize("n", [1, 12, 700])
def test_few_bits_of_the_input_that_are_lost_are_outside_the_envelope(n):
    linear = layer(n, 5, bias=False)
    found = certify(lambda x: linear(cut(x, 2)), linear)
    assert not found
    assert found.reason == "kernels differ"
    assert "agree bit for bit, but the candidate gives" in found.explanation
    assert "where right kernels of the weights that were read give" in found.explanation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_inputs_of_half_precision_are_not_rounded_further(dtype):
    linear = layer(24, 5, dtype)
    for narrower in (torch.float8_e4m3fn, torch.float8_e5m2):
        found = certify(lambda x, to=narrower: linear(x.clamp(-400, 400).to(to).to(dtype)), linear)
        assert found.reason in ("not affine", "kernels differ", "weights differ")
    assert not certify(lambda x: linear((x.contiguous().view(torch.int16) & -2).view(dtype)), linear)


def in_order(linear, order, wide):
    """One product after the other, in an accumulator of a dtype; the bias before, or after."""

    def run(x):
        n = x.shape[1]
        places = {"up": range(n), "down": range(n - 1, -1, -1)}.get(order, torch.randperm(n).tolist())
        total = torch.zeros(len(x), linear.out_features, dtype=wide) + (linear.bias.to(wide) if order == "up" else 0)
        for i in places:
            total = total + x[:, i : i + 1].to(wide) * linear.weight[:, i].to(wide)
        return (total if order == "up" else total + linear.bias.to(wide)).to(x.dtype)

    return run


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_right_kernels_in_any_order_lie_in_the_envelope(dtype, seed, monkeypatch):
    monkeypatch.setattr("equiv.certificate.affine.AffineTest._is_single", lambda *_: True)
    linear = layer(37, 6, dtype, seed)
    wide = {torch.float64: (torch.float64,), torch.complex64: (torch.complex64, torch.complex128)}
    for kind in wide.get(dtype, (torch.float32, torch.float64)):
        for order in ("up", "down"):
            found = certify(in_order(linear, order, kind), linear, seed=seed)
            assert found, found
    conv = equiv.linear_to_pointwise_conv(linear)
    assert certify(lambda x: conv(x[:, :, None, None]), linear, seed=seed)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64, torch.complex128], ids=str)
def test_convolutions_in_functions_are_certified_against_their_dense_layer(dtype):
    conv = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2).to(dtype)
    dense = equiv.conv_to_linear(conv, (4, 5, 5))
    found = certify(lambda x: conv(x), dense, feature_shape=(4, 5, 5))
    assert found, found


def test_layers_in_a_row_are_not_held_against_the_envelope_of_one():
    torch.manual_seed(0)  # where their weights cancel, what the inner layer rounds is left over: see certify
    first, last = nn.Linear(8, 8), nn.Linear(8, 3)
    for linear in (first, last):
        linear.weight.data.mul_(16).round_()
        linear.bias.data.mul_(16).round_()
    merged = nn.Linear(8, 3)
    merged.weight.data = last.weight.data @ first.weight.data
    merged.bias.data = last(first.bias).detach()
    assert certify(nn.Sequential(first, last), merged)
    conv = nn.Conv2d(1, 2, 2, padding=1, padding_mode="replicate")
    dense = equiv.conv_to_linear(conv, (1, 3, 3))
    conv.weight.data.mul_(8).round_()
    dense = equiv.conv_to_linear(conv, (1, 3, 3))
    assert certify(lambda x: conv(x), dense, feature_shape=(1, 3, 3))


def test_a_structure_is_one_layer_or_not():
    x, conv = torch.randn(2, 12), nn.Conv2d(12, 3, 1)
    single = {
        "layer": lambda: LINEAR(x),
        "product and bias": lambda: x @ LINEAR.weight.T + LINEAR.bias,
        "rounded": lambda: LINEAR(x.bfloat16().float().clamp(max=3)),
        "sum": lambda: x.sum(1, keepdim=True),
    }
    for name, run in single.items():
        assert structure_of(run).single, name
        assert not structure_of(run).convolves
    several = [lambda: LINEAR(x) + LINEAR(x), lambda: LINEAR(x * 3), lambda: LINEAR(x) + 1, lambda: torch.relu(x)]
    for run in several:
        assert not structure_of(run).single
    assert structure_of(lambda: conv(x[:, :, None, None])).convolves
    assert structure_of(lambda: conv(x[:, :, None, None])).single


# --- integers ---------------------------------------------------------------------------------------------------------


def wrapped(linear, wide):
    return lambda x: (x.to(wide) @ linear.weight.to(wide).T + linear.bias.to(wide)).to(x.dtype)


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integers_wrap_in_right_kernels_and_saturate_in_wrong_ones(dtype):
    linear, info = layer(12, 5, dtype), torch.iinfo(dtype)
    assert certify(lambda x: linear(x), linear)
    assert certify(wrapped(linear, torch.int64), linear)
    assert certify(wrapped(linear, dtype), wrapped(copy.deepcopy(linear), torch.int64), in_features=12, dtype=dtype)
    weight, bias = linear.weight.double(), linear.bias.double()
    clamped = certify(lambda x: (x.double() @ weight.T + bias).clamp(info.min, info.max).to(dtype), linear)
    assert clamped.reason == "not affine"
    if info.bits >= 32:
        rounded = certify(lambda x: (x.float() @ linear.weight.float().T + linear.bias).to(dtype), linear)
        assert rounded.reason == "not affine"
