"""Tensors and layers are full of what was asked for, and shrink to little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from strategies_helpers import N, assert_all_examples, drawn, minimal, nonzeros
from torch import nn

from equiv import strategies as est


def test_tensors_are_mostly_full() -> None:
    full = [nonzeros(t) == N for t in drawn(est.tensors((N,), kinds=("distinct",)), 100)]
    assert sum(full) >= 0.75 * len(full)


@pytest.mark.parametrize("kinds", [None, ("distinct",)], ids=["all", "distinct"])
@pytest.mark.parametrize(
    ("condition", "most"),
    [
        (lambda t: t.sum() > 5, 6),
        (lambda t: t.abs().max() > 100, 1),
        (lambda t: t[5000] != 0, 1),
        (lambda t: (t != 0).sum() >= 3, 3),
        (lambda t: t[100] != 0 and t[9000] != 0, 2),
    ],
    ids=["sum", "max", "one entry", "three of any", "two far apart"],
)
def test_a_failing_tensor_shrinks_to_a_few_non_zeros(kinds: Any, condition: Callable[[Any], bool], most: int) -> None:
    assert nonzeros(minimal(est.tensors((N,), kinds=kinds), condition)) <= most


def test_a_nan_shrinks_to_one_nan() -> None:
    t = minimal(est.tensors((N,)), lambda t: t.isnan().any())
    assert nonzeros(t) == 1


def test_tensors_change_single_entries_only_when_kinds_are_left_open() -> None:
    assert_all_examples(est.tensors((40,), kinds=("one_hot",)), lambda t: t.sum() == 1, 200)
    assert minimal(est.tensors((3,), dtype=torch.int64), lambda t: (t == 7).any()).tolist().count(0) == 2


def test_tensors_take_layout_dtype_device_and_requires_grad() -> None:
    assert_all_examples(est.tensors((2, 3)), lambda t: t.is_contiguous() and t.is_leaf and not t.requires_grad)
    assert_all_examples(est.tensors((2,), torch.float64, requires_grad=True), lambda t: t.is_leaf and t.requires_grad)
    assert not minimal(est.tensors((2, 3), layouts=True), lambda t: not t.is_contiguous()).is_contiguous()
    for shape in ((), (0,), (2, 0), (1,)):
        for dtype in est.ALL:
            assert_all_examples(est.tensors(shape, dtype, layouts=True), lambda t, s=shape: t.shape == s, 20)


@pytest.mark.parametrize("dtype", est.ALL, ids=str)
def test_layers_are_linear_layers_of_the_size_asked_for(dtype: torch.dtype) -> None:
    def is_right(layer: nn.Linear) -> bool:
        trains = dtype.is_floating_point or dtype.is_complex
        x = torch.zeros((2, 3), dtype=dtype)
        return (
            (layer.in_features, layer.out_features) == (3, 5)
            and layer.weight.shape == (5, 3)
            and all(p.dtype is dtype and p.requires_grad == trains for p in layer.parameters())
            and layer(x).shape == (2, 5)
        )

    layers = drawn(est.layers(in_features=3, out_features=5, dtype=dtype), 30)
    assert all(map(is_right, layers))
    assert {layer.bias is None for layer in layers} == {True, False}


def test_layers_without_inputs_or_outputs_are_served() -> None:
    assert minimal(est.layers(in_features=0, out_features=2, bias=True))(torch.zeros(1, 0)).shape == (1, 2)
    assert minimal(est.layers(in_features=2, out_features=0, bias=False))(torch.zeros(1, 2)).shape == (1, 0)
