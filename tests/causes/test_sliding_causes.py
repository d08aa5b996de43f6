"""Mistakes of convolutions that slide over maps: one name from results, from columns read, and from a dense matrix."""

from __future__ import annotations

import pytest
import torch
from mistaken_convolutions import MISTAKES, run
from torch import nn

import equiv
from equiv.causes import name_cause, sliding_cause


def case_of(key):
    make, shape, mistake, name = MISTAKES[key]
    torch.manual_seed(1)
    conv = make()
    x = torch.randn(3, *shape)
    return conv, x, lambda given: mistake(conv, given), name


def refuted(candidate, reference, shape):
    with pytest.raises(equiv.NotEquivalent) as caught:
        equiv.assert_equivalent(candidate, reference, feature_shape=shape)
    return caught.value.verdict.cause


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("key", MISTAKES)
@torch.no_grad()
def test_a_mistake_is_named_in_results_and_on_either_side(key):
    conv, x, wrong, name = case_of(key)
    y, shape = wrong(x), tuple(x.shape[1:])
    assert sliding_cause(y, conv, x).name == name
    assert sliding_cause(y.flatten(1), conv, x, conv(x)).name == name
    assert equiv.compare(y, conv(x), input=x, layer=conv).cause.name == name
    assert equiv.compare(conv(x), y, input=x, layer=conv).cause.name == name
    pair = (wrong, conv) if list(MISTAKES).index(key) % 2 else (conv, wrong)
    assert equiv.certify(*pair, feature_shape=shape).cause.name == name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("key", MISTAKES)
@torch.no_grad()
def test_a_mistake_is_named_on_the_other_side_and_where_it_is_refuted(key):
    conv, x, wrong, name = case_of(key)
    shape = tuple(x.shape[1:])
    pair = (conv, wrong) if list(MISTAKES).index(key) % 2 else (wrong, conv)
    assert equiv.certify(*pair, feature_shape=shape).cause.name == name
    assert refuted(conv, wrong, shape).name == name


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("key", [key for key in MISTAKES if key != "bias dropped"])
@torch.no_grad()
def test_a_mistake_is_named_in_the_matrix_of_a_linear(key):
    conv, x, wrong, name = case_of(key)
    shape = tuple(x.shape[1:])
    bias = wrong(torch.zeros_like(x[:1])).flatten()
    held = conv.bias.clone()
    conv.bias.zero_()
    weight = wrong(torch.eye(x[0].numel()).view(-1, *shape)).flatten(1).T.contiguous()
    conv.bias.copy_(held)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data, linear.bias.data = weight, bias
    assert equiv.certify(linear, conv, feature_shape=shape).cause.name == name
    assert refuted(conv, linear, shape).name == name


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_right_results_and_random_ones_have_no_cause(seed):
    torch.manual_seed(seed)
    padding, stride, dilation, groups = seed % 3, 1 + seed % 2, 1 + seed % 2, 1 + seed % 2
    conv = nn.Conv2d(4, 6, 3, stride, padding, dilation, groups, padding_mode=("zeros", "circular")[seed // 3])
    x = torch.randn(2, 4, 7, 8)
    y = conv(x)
    assert sliding_cause(y, conv, x, y) is None
    assert sliding_cause(torch.randn_like(y), conv, x, y) is None
    assert sliding_cause(y + 1e-3 * torch.randn_like(y), conv, x, y) is None
    assert sliding_cause(run(conv, x, weight=torch.randn_like(conv.weight)), conv, x, y) is None
    one = y.clone()
    one[1, 2, 0, 1] += 1
    assert sliding_cause(one, conv, x, y) is None
    other = nn.Linear(x[0].numel(), y[0].numel())
    assert name_cause(other.weight, equiv.conv_to_linear(conv, (4, 7, 8)).weight, (4, 7, 8), conv=conv) is None


@torch.no_grad()
def test_the_formats_of_a_sliding_convolution_are_named():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 12, 12)
    y = conv(x)
    wrong = run(conv, x.bfloat16().float(), weight=conv.weight.bfloat16().float()).bfloat16().float()
    assert sliding_cause(wrong, conv, x, y).name == "computed-bfloat16"
    with torch.autocast("cpu", torch.bfloat16):
        wrong = conv(x).float()
    assert "inputs, weights and bias are rounded to bfloat16" in str(equiv.compare(wrong, y, input=x, layer=conv).cause)


@torch.no_grad()
def test_integer_convolutions_are_explained_exactly():
    conv, x = nn.Conv2d(2, 3, 3, padding=1, bias=False), torch.randint(-9, 9, (2, 2, 6, 6))
    conv.weight = nn.Parameter(torch.randint(-9, 9, conv.weight.shape), requires_grad=False)
    right = conv(x)
    moved = right.permute(0, 2, 3, 1).reshape(right.shape)
    assert sliding_cause(moved, conv, x, right).name == "outputs-flattened-hwc"
    assert sliding_cause(right, conv, x, right) is None


def test_what_cannot_be_served_has_no_cause():
    conv = nn.Conv2d(2, 3, 3)
    assert sliding_cause(torch.rand(1, 3, 4, 4), conv, torch.rand(1, 3, 6, 6)) is None
    assert sliding_cause(torch.rand(1, 3, 4, 4), conv, torch.rand(2, 6, 6)) is None
    assert sliding_cause(torch.rand(1, 3, 4, 4, dtype=torch.complex64), conv, torch.rand(1, 2, 6, 6)) is None


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_result_that_is_not_finite_prints_nothing(capfd, wrong):
    generator = torch.Generator().manual_seed(0)
    conv, x = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 12, 12, generator=generator)
    y = conv(x).detach()
    y[0, 0, 0, 0] = wrong
    assert sliding_cause(y, conv, x, conv(x).detach()) is None
    assert capfd.readouterr() == ("", "")
