"""What holds for every strategy: no global random state, and wrong arguments are named on first use."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import find
from hypothesis import strategies as st
from strategies_helpers import QUIET, bits, drawn

from equiv import EquivError
from equiv import strategies as est


def test_no_global_random_state_is_read_or_set() -> None:
    strategies = (
        est.cases(),
        est.cases(exact=True),
        est.tensors((40,), layouts=True),
        est.layers(in_features=3, out_features=2),
    )

    def build(recipe: est.Recipe) -> list[int]:
        return bits(est.build_case(recipe).x)

    for strategy in strategies:
        torch.manual_seed(12345)
        before = torch.get_rng_state()
        drawn(strategy, 50)
        assert torch.equal(torch.get_rng_state(), before)
    recipe = est.Recipe((5, 1), 3, (2,), est.Values("normals", seed=4), est.Values("wide", seed=5))
    states = random.getstate(), np.random.get_state()[1].tolist()
    first = build(recipe)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    torch.manual_seed(999)
    assert build(recipe) == first


REFUSED: list[tuple[Callable[[], st.SearchStrategy[Any]], str]] = [
    (
        lambda: est.dtypes(kinds=("floats",)),
        r"kinds: expected one of float, complex, integer, bool, float8, got 'floats'; remove it",
    ),
    (
        lambda: est.dtypes(kinds="float"),
        r"kinds: expected a tuple of members .* got 'float'; pass such as kinds",
    ),
    (lambda: est.dtypes(kinds=()), r"kinds: expected at least one of .* got \(\); leave kinds out"),
    (lambda: est.dtypes(device="gpu"), r"device: expected a torch device or its name, got 'gpu'; pass such as 'cpu'"),
    (lambda: est.dtypes(device="meta"), r"device: expected a torch device that is present .* got 'meta'; see"),
    (lambda: est.devices(kinds=("tpu",)), r"kinds: expected one of cpu, cuda.*got 'tpu'"),
    (lambda: est.batch_shapes(min_dims=3, max_dims=2), r"max_dims: expected an integer from 3 to 8, got 2; pass"),
    (lambda: est.batch_shapes(max_rows=0), r"max_rows: expected an integer of at least 1, got 0"),
    (lambda: est.batch_shapes(max_side=1.5), r"max_side: expected an integer of at least 1, got 1.5"),
    (lambda: est.batch_shapes(allow_empty="no"), r"allow_empty: expected True or False, got 'no'; pass a bool"),
    (lambda: est.feature_shapes(spatial_dims=(4,)), r"spatial_dims: expected one of 1, 2, 3, got 4"),
    (
        lambda: est.feature_shapes(max_features=1, min_positions=2),
        r"max_features: expected an integer of at least 2, got 1",
    ),
    (lambda: est.layouts(ndim=-1), r"ndim: expected an integer of at least 0, got -1"),
    (lambda: est.layouts(ndim=2, kinds=("conj",)), r"kinds: expected one of contiguous, .*got 'conj'"),
    (
        lambda: est.tensors((2,), "float32"),
        r"dtype: expected one of float32, .* got 'float32'; pass such as torch",
    ),
    (lambda: est.tensors((2,), torch.uint16), r"dtype: expected one of float32, .* got torch.uint16"),
    (lambda: est.tensors((2, -1)), r"shape: expected a tuple of integers of at least 0, got \(2, -1\); pass a shape"),
    (lambda: est.tensors(st.just(2)), r"shape: expected a tuple of integers of at least 0, got 2; pass"),
    (lambda: est.tensors((2,), torch.int8, kinds=("normals",)), r"kinds: expected one of zeros, .*got 'normals'"),
    (
        lambda: est.tensors((2,), torch.int8, requires_grad=True),
        r"requires_grad: expected False for torch.int8, got Tr",
    ),
    (lambda: est.layers(in_features=True, out_features=1), r"in_features: expected an integer of at least 0, got True"),
    (lambda: est.cases(batch_dims=3), r"batch_dims: expected a pair \(least, most\), got 3; pass for example"),
    (lambda: est.cases(batch_dims=(2, 1)), r"batch_dims\[1\]: expected an integer from 2 to 8, got 1"),
    (
        lambda: est.cases(exact=True, kinds=("zeros",)),
        r"kinds: expected None with exact=True, got \('zeros',\); leave",
    ),
    (lambda: est.cases(gradients=True), r"gradients: expected False without exact=True, got True; add exact=True"),
    (lambda: est.cases(max_work=0), r"max_work: expected an integer of at least 1, got 0; it bounds rows \* O \* n"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[f"refused-{i}" for i in range(len(REFUSED))])
def test_a_wrong_argument_is_named_with_its_value_on_first_use(make: Any, message: str) -> None:
    strategy = make()  # lazily: making it raises nothing
    with pytest.raises(EquivError, match="^" + message):
        find(strategy, lambda _: True, settings=QUIET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: est.Values("normals").tensor((2,), torch.int8),
            r"kind: expected one of zeros, .*, got 'normals'; .*torch.int8",
        ),
        (
            lambda: est.Values("odd").tensor((2,)),
            r"kind: expected one of .* got 'odd'; choose another kind, or",
        ),
        (lambda: est.Values("zeros").tensor((2,), torch.uint16), r"dtype: expected one of"),
        (lambda: est.Layout("odd").apply(torch.zeros(2)), r"kind: expected one of contiguous, .* got 'odd'; correct"),
        (
            lambda: est.Layout("conj").apply(torch.zeros(2)),
            r"t.dtype: expected one of complex64, complex128, got torch.float32; choose another layout",
        ),
        (lambda: est.Layout("neg").apply(torch.zeros(2).half()), r"t.dtype: expected one of float32, float64, got"),
        (lambda: est.Layout("step").apply([1]), r"t: expected a torch.Tensor, got list; convert it"),
        (lambda: est.build_case({}), r"recipe: expected an equiv.strategies.Recipe, got {}; pass case.recipe"),
        (lambda: est.all_layouts("2"), r"ndim: expected an integer of at least 0, got '2'"),
    ],
)
def test_a_wrong_value_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(EquivError, match="^" + message):
        call()
