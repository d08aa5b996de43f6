"""What a layer is taken for: a convolution with padding and groups, repeated inputs, a layer that is not plain."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it
from torch.nn.utils import prune

import equiv
from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent, compare
from equiv.mapping import tap_weights

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
REPEATING = ("reflect", "replicate", "circular")


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def conv_of(*sizes: Any, kind=nn.Conv2d, seed=0, **options: Any):
    found = seeded(lambda: kind(*sizes, **options), seed)
    found.requires_grad_(False)
    return found


def normal(*shape: int, dtype=torch.float32, seed=1):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


# compare(layer=conv): the layer that the convolution is on this input


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "stride": 3},
        {"padding": 1},
        {"padding": 1, "groups": 3},
        {"dilation": 2, "padding": 1},
        {"padding": (1, 0), "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 3, 4)], ids=str)
def test_results_of_any_convolution_are_judged_by_what_it_is_on_the_map(options, shape):
    conv = conv_of(3, 6, 2, **options)
    x = normal(4, *shape)
    y = conv(x)
    dense = equiv.conv_to_linear(conv, shape)
    rows = dense(x.flatten(1))
    assert compare(y, y, input=x, layer=conv)
    assert compare(y, rows.view(y.shape), input=x, layer=conv)
    assert compare(y.flatten(1), rows, input=x, layer=conv)
    assert compare(conv(x[0]), rows[0].view(y[0].shape), input=x[0], layer=conv)
    bad = y.clone()
    bad[1, 5] += 1e-3
    found = compare(bad, y, input=x, layer=conv)
    assert found.outcome is Outcome.DIFFERENT
    assert found.worst is not None
    assert found.worst.index[:2] == (1, 5)


def test_a_result_without_the_padding_is_not_the_layers():
    conv = conv_of(3, 5, 2, padding=1, stride=3)
    x = normal(4, 3, 2, 2)
    wrong = F.conv2d(x, conv.weight, conv.bias)  # of the same shape
    assert compare(conv(x), conv(x), input=x, layer=conv).equivalent
    assert compare(wrong, wrong, input=x, layer=conv).outcome is Outcome.DIFFERENT
    dense = conv_of(3, 5, 2, padding=1)
    with pytest.raises(EquivError, match=r"^input: expected one row of 12 features, or one map of as many, per"):
        compare(wrong, wrong, input=x, layer=dense)


def test_the_last_axis_of_a_map_is_not_taken_for_channels():
    conv = conv_of(3, 3, 1)
    x = normal(4, 3, 2, 3)
    assert compare(conv(x), conv(x), input=x, layer=conv)
    wrong = F.linear(x, conv.weight.flatten(1), conv.bias)
    assert compare(wrong, wrong, input=x, layer=conv).outcome is Outcome.DIFFERENT


def test_rows_are_maps_of_the_kernels_size():
    conv = conv_of(2, 4, 3, kind=nn.Conv1d)
    x = normal(5, 2, 6)
    y = F.linear(x, conv.weight.flatten(1), conv.bias)
    assert compare(y, y, input=x, layer=conv)
    assert compare(conv(x), conv(x), input=x, layer=conv)  # the same input as maps of width 6


def hooked():
    layer = seeded(lambda: nn.Linear(4, 3))
    layer.register_forward_hook(lambda _m, _x, y: y * 2)
    return layer


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def normed(*, stale=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(seeded(lambda: nn.Linear(4, 3)))
    layer(torch.zeros(1, 4))
    if stale:
        with torch.no_grad():
            layer.weight_g *= 2  # the weight follows in the next forward
    return layer


def parametrized():
    return nn.utils.parametrizations.weight_norm(seeded(lambda: nn.Linear(4, 3)))


def pruned():
    return prune.l1_unstructured(seeded(lambda: nn.Linear(4, 3)), "weight", amount=3)


ODD = {
    "hooked": hooked,
    "subclass": lambda: seeded(lambda: Doubled(4, 3)),
    "normed": normed,
    "stale": lambda: normed(stale=True),
    "parametrized": parametrized,
    "pruned": pruned,
}


@pytest.mark.parametrize("name", ODD)
def test_layers_that_compute_something_else_are_refused_by_compare(name):
    layer = ODD[name]()
    x = normal(5, 4)
    with torch.no_grad():
        y = layer(x)
    with pytest.raises(EquivError, match=r"^layer: expected .*got a .*; "):
        compare(y, y, input=x, layer=layer)


@pytest.mark.parametrize("name", ODD)
def test_layers_that_compute_something_else_are_judged_as_functions(name):
    layer = ODD[name]()
    run, right = ODD[name](), nn.Linear(4, 3)
    with torch.no_grad():
        run(torch.zeros(1, 4))
        times = 2 if name in ("subclass", "hooked") else 1
        right.weight.copy_(times * run.weight)
        right.bias.copy_(times * run.bias)
    for pair in ((layer, right), (right, layer)):
        assert_equivalent(*pair)
    with torch.no_grad():
        right.weight[1, 2] += 2**-12
    for pair in ((layer, right), (right, layer)):
        with pytest.raises(NotEquivalent):
            assert_equivalent(*pair)
    with pytest.raises(EquivError, match=r"^reference: expected .*got a .*; "):
        assert_equivalent(layer, ODD[name]())


def test_a_stale_weight_is_no_difference():
    layer = normed(stale=True)
    right = nn.Linear(4, 3)
    with torch.no_grad():
        right.weight.copy_(2 * layer.weight)
        right.bias.copy_(layer.bias)
    assert_equivalent(layer, right)  # twice: running it renews the weight
    assert_equivalent(layer, right)


# Padding that repeats inputs: several taps on one of them


CASES = [
    (nn.Conv2d, (1, 2, 2), {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"}),
    (nn.Conv2d, (2, 3, 2), {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "groups": 2}),
    (nn.Conv2d, (2, 3, 3), {"kernel_size": (3, 2), "padding": 2, "padding_mode": "reflect"}),
    (nn.Conv1d, (2, 2), {"kernel_size": 5, "padding": 4, "padding_mode": "replicate", "dilation": 2}),
    (nn.Conv3d, (1, 1, 2, 2), {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}),
    (nn.Conv1d, (2, 2), {"kernel_size": 3, "padding": "same", "padding_mode": "circular"}),
]


@pytest.mark.parametrize(("kind", "shape", "options"), CASES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_convolution_whose_padding_repeats_is_its_dense_layer(dtype, bias, kind, shape, options):
    for seed in range(3):
        conv = conv_of(shape[0], 4, kind=kind, bias=bias, seed=seed, dtype=dtype, **options)
        linear = equiv.conv_to_linear(conv, shape)
        for pair in itertools.permutations([conv, linear, lambda x, conv=conv: conv(x)], 2):
            if conv in pair:
                assert_equivalent(*pair, feature_shape=shape, seed=seed)
        assert_equivalent(conv, copy.deepcopy(conv), feature_shape=shape)
        x = normal(3, *shape, dtype=dtype)
        y = conv(x)
        for result in itertools.product((y, linear(x.flatten(1)).view(y.shape)), repeat=2):
            assert compare(*result, input=x, layer=conv)


@pytest.mark.parametrize(("kind", "shape", "options"), CASES, ids=str)
def test_what_is_allowed_is_the_rounding_of_sums_of_taps_and_no_more(kind, shape, options):
    conv = conv_of(shape[0], 4, kind=kind, bias=False, **options)
    linear = equiv.conv_to_linear(conv, shape)
    taps = tap_weights(conv, shape)
    assert taps is not None
    blocks = taps.view(len(taps), -1, linear.in_features)
    assert torch.equal(blocks.double().sum(1).float(), linear.weight)
    for tiny in (2.0**-18, -(2.0**-18)):
        for kernel in (lambda x: conv(x) * (1 + tiny), lambda x: linear(x.flatten(1)) * (1 + tiny)):  # noqa: B023
            for reference in (conv, linear):
                with pytest.raises(NotEquivalent):
                    assert_equivalent(kernel, reference, feature_shape=shape)
    # The layer has no such freedom: what it is judged by is its own weight.
    x = normal(3, *shape).flatten(1)
    one = torch.nn.functional.one_hot(torch.arange(linear.in_features), linear.in_features).float()
    y = linear(one)
    assert compare(y, y, input=one, weight=linear.weight)
    largest = y.abs().argmax()
    y.view(-1)[largest] = torch.nextafter(y.view(-1)[largest], torch.tensor(9.0))
    assert compare(y, y, input=one, weight=linear.weight).outcome is Outcome.DIFFERENT
    # Nor has a convolution whose weight is another one by an ulp.
    other = copy.deepcopy(conv)
    entry = other.weight.data.flatten().abs().argmax()
    other.weight.data.view(-1)[entry] *= 1 + 2**-20
    assert not torch.equal(other(x.view(3, *shape)), conv(x.view(3, *shape)))
    for pair in ((other, conv), (other, linear), (conv, equiv.conv_to_linear(other, shape))):
        with pytest.raises(NotEquivalent):
            assert_equivalent(*pair, feature_shape=shape)


def test_many_features_and_many_terms_are_judged_by_taps_too():
    conv = conv_of(16, 3, 3, padding=2, padding_mode="replicate", bias=False)
    shape = (16, 4, 5)
    assert_equivalent(conv, equiv.conv_to_linear(conv, shape), feature_shape=shape)  # 320 features: 256 one-hot inputs
    wide = conv_of(40, 16, 3, padding=1, padding_mode="circular").double()
    shape = (40, 9, 8)  # outputs are judged at some
    assert_equivalent(wide, equiv.conv_to_linear(wide, shape), feature_shape=shape)


def test_infinite_inputs_are_judged_by_the_dense_layer():
    conv = conv_of(1, 1, 3, padding=2, padding_mode="replicate", bias=False)
    x = normal(2, 1, 2, 2)
    x[0, 0, 0, 0] = torch.inf
    y = F.linear(x.flatten(1), equiv.conv_to_linear(conv, (1, 2, 2)).weight)
    assert compare(y, y, input=x, layer=conv)


def test_paddings_that_repeat_nothing_have_no_taps():
    assert tap_weights(conv_of(1, 1, 3, padding=1), (1, 4, 4)) is None
    assert tap_weights(conv_of(1, 1, 1, padding=1, padding_mode="replicate"), (1, 4, 4)) is None
    whole = conv_of(1, 1, 3, padding=1, padding_mode="circular")
    whole.weight = nn.Parameter(whole.weight.to(torch.int32), requires_grad=False)
    assert tap_weights(whole, (1, 2, 2)) is None
