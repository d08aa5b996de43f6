"""Failing tensors shrink to the few plain numbers that a person would have written down."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import find, settings
from hypothesis import strategies as st
from strategies_helpers import QUIET

from equiv import strategies as est
from equiv.backends import TorchEager
from equiv.laws import items, run_item

SMALL = est.tensors((2, 3))
ONE = {
    "at least 2": (SMALL, lambda t: (t >= 2).any(), {2.0}),
    "largest of many": (est.tensors((16384,)), lambda t: t.max() >= 2, {2.0}),
    "below -1.5": (SMALL, lambda t: (t < -1.5).any(), {-2.0}),
    "two values": (SMALL, lambda t: len(t.unique()) > 1, {1.0}),
    "infinite": (SMALL, lambda t: t.isinf().any(), {torch.inf}),
    "at one place": (SMALL, lambda t: t[1, 2] > 2, {3.0}),
    "of normals": (est.tensors((8, 9), kinds=("normals",)), lambda t: (t > 2).any(), {3.0}),
    "within bounds": (est.tensors((8, 9), min_value=-3.5, max_value=100), lambda t: (t >= 2).any(), {2.0}),
    "first above the rest": (est.tensors((4,)), lambda t: t[0] > t[1:].abs().sum() + 3, {4.0}),
    "a large one": (est.tensors((40,)), lambda t: t.abs().max() > 1e5, {200000.0}),
    "an integer": (est.tensors((3,), torch.int64), lambda t: (t == 7).any(), {7}),
    "a byte": (est.tensors((3,), torch.uint8), lambda t: (t >= 100).any(), {100}),
    "complex": (est.tensors((3,), torch.complex64), lambda t: (t.real >= 2).any(), {2 + 0j}),
    "float8": (est.tensors((3,), est.FLOAT8[0]), lambda t: (t.float() >= 2).any(), {2.0}),
}


def minimal(strategy: st.SearchStrategy[Any], condition: Callable[[Any], Any]) -> Any:
    return find(
        strategy,
        lambda value: bool(condition(value)),
        settings=settings(QUIET, derandomize=False, max_examples=3000),
        random=Random(0),
    )


@pytest.mark.parametrize("name", ONE)
def test_one_number_remains_and_it_is_the_natural_one(name: str) -> None:
    strategy, condition, numbers = ONE[name]
    found = minimal(strategy, condition).flatten().tolist()
    assert {number for number in found if number != 0} == numbers
    assert sum(number != 0 for number in found) == 1


def test_a_sum_shrinks_to_small_whole_numbers_that_just_reach_it() -> None:
    for strategy in (SMALL, est.tensors((16384,))):
        found = minimal(strategy, lambda t: t.sum() > 10)
        assert (found == found.round()).all()
        assert found.min() >= 0
        assert 10 < found.sum() <= 12


def test_nan_and_negative_zero_remain_alone() -> None:
    nan = minimal(SMALL, lambda t: t.isnan().any()).flatten()
    assert nan.isnan().sum() == 1
    assert (nan == 0).sum() == 5
    negative = minimal(SMALL, lambda t: (t.signbit() & (t == 0)).any()).flatten()
    assert (negative == 0).all()
    assert negative.signbit().sum() == 1


def test_fractions_have_few_binary_places_and_signs_stay_where_they_matter() -> None:
    fraction = minimal(SMALL, lambda t: ((t > 0.1) & (t < 0.9)).any()).flatten()
    assert [number for number in fraction.tolist() if number] in ([0.5], [0.25], [0.75])
    mixed = minimal(est.tensors((5,)), lambda t: (t > 0).any() and (t < 0).any()).tolist()
    assert sorted(mixed) == [-1, 0, 0, 0, 1]


def test_shapes_and_layouts_shrink_with_the_values() -> None:
    strategy = est.tensors(est.batch_shapes(min_dims=1), est.dtypes())
    found = minimal(strategy, lambda t: t.shape[0] > 3)
    assert (found.dtype, found.tolist()) == (torch.float32, [0, 0, 0, 0])
    laid = minimal(est.tensors((2, 3), layouts=True), lambda t: not t.is_contiguous())
    assert (laid.stride(), laid.tolist()) == ((1, 2), [[0, 0, 0], [0, 0, 0]])


def test_a_law_is_broken_by_zeros_or_ones_where_these_will_do() -> None:
    class OffByOne(TorchEager):
        name = "off by one"

        def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            return super().linear(x, weight, bias) + 1

    (item,) = items([OffByOne()], laws=["exact"], forms=["linear"], dtypes=["float32"])
    for seed in range(2):
        failure = run_item(item, examples=20, seed=seed).failure
        assert failure is not None
        assert "weight = torch.tensor([[0.0]]" in failure.snippet
