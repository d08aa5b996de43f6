"""The benchmark of real layers: which they are, and that both kinds of verdict come out right."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def real_layers(monkeypatch):
    monkeypatch.setenv("HYPOTHESIS_NO_PLUGINS", "1")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("real_layers")


def test_the_layers_are_those_of_the_nets(real_layers):
    layers = real_layers.layers()
    assert len(layers) == len(set(layers))
    assert {layer.net for layer in layers} == {"vgg16", "resnet50", "unet3d"}
    assert sum(layer.net == "vgg16" for layer in layers) == 9  # of 13, the others alike
    assert str(layers[0]) == "vgg16 3->64 3^2 on 224x224"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_layer_is_measured(real_layers):
    index = next(i for i, layer in enumerate(real_layers.layers()) if str(layer).endswith("64->64 1^2 on 56x56"))
    found = real_layers.measure(index, torch.float32)
    assert (found["right"], found["wrong"]) == ("ROUNDING", "DIFFERENT")
    assert 0 < found["passes"] < 1000
