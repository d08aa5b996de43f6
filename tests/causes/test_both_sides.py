"""The cause of a difference has one name, whichever of candidate and reference is the layer and whichever is wrong."""

from __future__ import annotations

import pytest
import torch
from planted import OUT, SHAPE, N, values
from test_output_causes import OUTPUTS
from test_weight_causes import BIASES, PLANTED
from torch import nn
from torch.nn.functional import linear

import equiv


def a_layer():
    layer = nn.Linear(N, OUT)
    layer.weight.data, layer.bias.data = values((OUT, N)), values((OUT,), seed=1)
    return layer


def causes(function, layer):
    found = []
    for pair in ((function, layer), (layer, function)):
        found.append(equiv.certify(*pair, feature_shape=SHAPE).cause)
        with pytest.raises(equiv.NotEquivalent) as caught:
            equiv.assert_equivalent(*pair, feature_shape=SHAPE)
        found.append(caught.value.verdict.cause)
    return [None if cause is None else (cause.name, cause.sentence) for cause in found]


@pytest.mark.parametrize("key", PLANTED)
def test_a_mistake_of_the_weight(key):
    layer, plant = a_layer(), PLANTED[key][0]
    wrong = plant(layer.weight.detach()).contiguous()
    read, seen, read_again, seen_again = causes(lambda x: linear(x.flatten(1), wrong, layer.bias), layer)
    assert read[0] == key.split()[0]
    assert read_again == read
    assert seen_again == seen


@pytest.mark.parametrize("key", BIASES)
def test_a_mistake_of_the_bias(key):
    layer, plant = a_layer(), BIASES[key]
    wrong = plant(layer.bias.detach())
    read, seen, read_again, seen_again = causes(lambda x: linear(x.flatten(1), layer.weight, wrong), layer)
    assert read[0] == key.split()[0]
    assert read_again == read
    assert seen_again == seen


RESULTS = {
    "output-zero": lambda y: y * 0,
    "bias-dropped": lambda y: y - a_layer().bias,
    "outputs-permuted": lambda y: y.roll(2, 1),
    "outputs-repeated": lambda y: y[:, 1:2].expand_as(y),
    "output-clamped": torch.relu,
    "output-absolute": torch.abs,
    "output-negated": torch.neg,
    "output-scaled": lambda y: y * 3,
}


@pytest.mark.parametrize("key", RESULTS)
def test_a_mistake_of_the_results(key):
    layer = a_layer()
    assert key in OUTPUTS

    def function(x):
        return RESULTS[key](layer(x.flatten(1)))

    for actual, expected in (("wrong", "right"), ("right", "wrong")):
        x = values((6, N), seed=3)
        results = {"wrong": function(x).detach(), "right": layer(x).detach()}
        verdict = equiv.compare(results[actual], results[expected], input=x, layer=layer)
        assert verdict.cause.name == key
