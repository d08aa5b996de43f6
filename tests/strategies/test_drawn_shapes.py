"""Shapes keep their bounds, reach the sizes where kernels change, and shrink to ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from strategies_helpers import WIDTHS, assert_all_examples, drawn, minimal, residues

from equiv import strategies as est
from equiv.strategies.traffic import channels_of


def test_batch_shapes_reach_every_rank_no_rows_one_row_and_large_single_dimensions() -> None:
    shapes = {*drawn(est.batch_shapes(), 3000)}
    assert {len(shape) for shape in shapes} == {0, 1, 2, 3, 4, 5}
    assert {(), (0,), (1,), (64,), (65,)} <= shapes
    assert any(shape.count(0) > 1 for shape in shapes)
    assert any(0 in shape and max(shape) > 1 for shape in shapes)
    assert max(np.prod(shape) for shape in shapes) <= 256


@pytest.mark.parametrize(
    ("options", "promise"),
    [
        ({"min_dims": 2, "max_dims": 3}, lambda s: 2 <= len(s) <= 3),
        ({"max_rows": 5}, lambda s: np.prod(s) <= 5),
        ({"max_side": 4, "max_rows": 1000}, lambda s: all(side <= 4 for side in s)),
        ({"allow_empty": False}, lambda s: 0 not in s),
        ({"max_dims": 0}, lambda s: s == ()),
    ],
)
def test_batch_shapes_keep_their_bounds(options: dict[str, Any], promise: Callable[[Any], bool]) -> None:
    assert_all_examples(est.batch_shapes(**options), promise)


def test_batch_shapes_shrink_to_the_least_rank_with_sides_of_one() -> None:
    assert minimal(est.batch_shapes()) == ()
    assert minimal(est.batch_shapes(min_dims=3)) == (1, 1, 1)
    assert minimal(est.batch_shapes(), lambda s: 0 in s) == (0,)
    assert minimal(est.batch_shapes(), lambda s: np.prod(s) >= 8) == (8,)


def test_feature_shapes_reach_the_boundaries_in_their_product_and_in_their_channels() -> None:
    shapes = drawn(est.feature_shapes(), 3000)
    n, c = {int(np.prod(s)) for s in shapes}, {s[0] for s in shapes}
    assert n >= WIDTHS
    assert c >= WIDTHS
    assert max(n) == 512
    for modulus in (8, 16):
        assert residues(n, modulus) == residues(c, modulus) == {*range(modulus)}
    assert {len(s) for s in shapes} == {2, 3, 4}
    assert any(len(s) == 3 and s[1] > 1 and s[2] == 1 for s in shapes)
    assert any(len(s) == 3 and s[1] == 1 and s[2] > 1 for s in shapes)
    assert any(s[0] > 1 and set(s[1:]) == {1} for s in shapes)
    assert any(len(s) == 4 and min(s) > 1 for s in shapes)


def test_feature_shapes_keep_their_bounds_and_shrink_to_ones() -> None:
    assert_all_examples(
        est.feature_shapes(spatial_dims=(2, 3), max_features=40, min_positions=4),
        lambda s: len(s) in (3, 4) and np.prod(s) <= 40 and np.prod(s[1:]) >= 4,
    )
    assert minimal(est.feature_shapes()) == (1, 1)
    assert minimal(est.feature_shapes(spatial_dims=(3,))) == (1, 1, 1, 1)
    assert minimal(est.feature_shapes(min_positions=2)) == (1, 2)
    assert minimal(est.feature_shapes(max_features=70000), lambda s: s[0] >= 32767) == (32767, 1)


def test_kernels_come_with_the_channels_that_models_have() -> None:
    assert 64 in channels_of((3, 3), 113)
    assert max(channels_of((3, 3), 113)) <= 113
    assert channels_of((7, 7), 20) == (3, 16)
    assert channels_of((7, 7), 1) == (1,)
    assert channels_of((11, 3), 20) == ()
