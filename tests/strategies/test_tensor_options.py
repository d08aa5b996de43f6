"""Options of tensors: bounds, what is allowed, distinct entries, drawn shapes and dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from strategies_helpers import assert_all_examples, drawn

from equiv import EquivError
from equiv import strategies as est

FLOATS = (*est.FLOATS, *est.FLOAT8)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("ends", [(None, 1.5), (0, 1), (-3, None), (2, 2.5), (-0.25, -0.125)], ids=str)
def test_floating_entries_keep_their_bounds_and_reach_both(dtype: torch.dtype, ends: tuple[Any, Any]) -> None:
    low, high = ends
    entries = torch.cat([t.double() for t in drawn(est.tensors((40,), dtype, min_value=low, max_value=high), 60)])
    assert not entries.isnan().any()
    assert low is None or entries.min() >= low
    assert high is None or entries.max() <= high
    assert low is None or high is None or entries.isfinite().all()
    assert len(entries.unique()) > 1


def test_excluded_ends_and_bounds_between_two_values_move_inwards() -> None:
    open_ = est.tensors((20,), torch.bfloat16, min_value=0, max_value=1, exclude_min=True, exclude_max=True)
    assert_all_examples(open_, lambda t: t.min() > 0 and t.max() < 1)
    third = est.tensors((20,), torch.float16, min_value=1 / 3, max_value=0.34)
    assert_all_examples(third, lambda t: t.double().min() >= 1 / 3 and t.double().max() <= 0.34)
    assert_all_examples(est.tensors((5,), torch.int16, min_value=2.5, max_value=4.5), lambda t: {*t.tolist()} <= {3, 4})
    assert_all_examples(est.tensors((5,), torch.int64, min_value=2**62), lambda t: t.min() >= 2**62)
    assert_all_examples(est.tensors((5,), torch.uint8, max_value=3, exclude_max=True), lambda t: t.max() <= 2)
    assert_all_examples(est.tensors((5,), torch.bool, min_value=1), lambda t: t.all())


@pytest.mark.parametrize("dtype", [*FLOATS, *est.COMPLEX], ids=str)
def test_what_is_not_allowed_does_not_come(dtype: torch.dtype) -> None:
    def real(t: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(t) if t.is_complex() else t.double()

    def is_subnormal(t: torch.Tensor) -> torch.Tensor:
        return (real(t) != 0) & (real(t).abs() < torch.finfo(dtype).tiny)

    shape = (30,)
    assert_all_examples(est.tensors(shape, dtype, allow_nan=False), lambda t: not real(t).isnan().any())
    assert_all_examples(est.tensors(shape, dtype, allow_infinity=False), lambda t: not real(t).isinf().any())
    assert_all_examples(est.tensors(shape, dtype, allow_subnormal=False), lambda t: not is_subnormal(t).any())


@pytest.mark.parametrize("dtype", [*est.ALL, torch.bool, *est.FLOAT8], ids=str)
def test_unique_entries_all_differ(dtype: torch.dtype) -> None:
    size = {torch.bool: 2}.get(dtype, 15)
    for t in drawn(est.tensors((size,), dtype, unique=True), 20):
        entries = t.tolist()
        assert len({*entries}) == size
        assert all(abs(entry) < float("inf") for entry in entries)
    if not dtype.is_complex and dtype != torch.bool:
        t = drawn(est.tensors((3,), dtype, unique=True, min_value=2, max_value=4), 20)
        assert all(len({*one.tolist()}) == 3 and min(one.tolist()) >= 2 and max(one.tolist()) <= 4 for one in t)


def test_shape_and_dtype_may_be_drawn_and_results_say_so() -> None:
    both = est.tensors(st.tuples(st.integers(1, 3)), est.dtypes(kinds=("float8", "bool", "integer")))
    found = drawn(both, 300)
    assert {t.shape[0] for t in found} == {1, 2, 3}
    assert {t.dtype for t in found} == {torch.bool, *est.INTEGERS, *est.FLOAT8}


def test_broadcastable_shapes_broadcast() -> None:
    assert_all_examples(est.broadcastable_shapes((3, 1, 4)), lambda s: torch.broadcast_shapes(s, (3, 1, 4)) is not None)
    assert_all_examples(
        est.mutually_broadcastable_shapes(num_shapes=3),
        lambda s: torch.broadcast_shapes(*s.input_shapes) == s.result_shape,
    )


def test_from_type_draws_tensors() -> None:
    assert {type(t) for t in drawn(st.from_type(torch.Tensor), 20)} == {torch.Tensor}


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (est.tensors((2,), min_value=2, max_value=1), "max_value: expected bounds with a value"),
        (est.tensors((2,), torch.int8, min_value=0.2, max_value=0.8), "max_value: expected bounds with a value"),
        (est.tensors((2,), torch.int8, min_value=-129), "min_value: expected a number from -128 to 127 for torch.int8"),
        (est.tensors((2,), min_value=float("nan")), "min_value: expected a real number, got nan"),
        (est.tensors((2,), min_value="0"), "min_value: expected a real number, got '0'"),
        (est.tensors((2,), exclude_min=True), "exclude_min: expected False without min_value"),
        (est.tensors((2,), min_value=1, max_value=1, exclude_max=True), "max_value: expected bounds with a value"),
        (est.tensors((2,), allow_nan=True, max_value=1), "allow_nan: expected False or None with max_value"),
        (est.tensors((2,), allow_infinity=True, min_value=0, max_value=1), "allow_infinity: expected False or None"),
        (est.tensors((2,), allow_infinity=False, min_value=float("inf")), "max_value: expected bounds with a value"),
        (est.tensors((2,), torch.int8, allow_nan=True), "allow_nan: expected False or None for torch.int8"),
        (est.tensors((2,), torch.complex64, min_value=0), "dtype: expected a real one with min_value or max_value"),
        (est.tensors((2,), unique=True, kinds=("zeros",)), "kinds: expected None with unique=True"),
        (est.tensors(st.just(-1)), "shape: expected a tuple of integers"),
        (est.tensors((2,), st.just("float32")), "dtype: expected one of"),
        (est.tensors((3,), torch.bool, unique=True), "shape: expected at most 2 entries with unique=True"),
        (est.broadcastable_shapes((2,), min_dims=-1), "min_dims"),
        (est.cases(max_out=0), "max_out: expected an integer of at least 1"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_an_error_of_ours_and_of_hypothesis(strategy: Any, message: str) -> None:
    for kind in (EquivError, InvalidArgument):
        with pytest.raises(kind) as caught:
            drawn(strategy, 1)
        assert message in str(caught.value)


def test_validate_names_a_wrong_argument_without_drawing() -> None:
    for strategy in (est.tensors((-1,)), est.cases(bias="no"), est.layouts(ndim=-1), est.dtypes(kinds=())):  # type: ignore[arg-type]
        with pytest.raises(est.StrategyArgumentError, match="expected"):
            strategy.validate()
