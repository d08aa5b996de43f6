"""Cases are consistent, reach what laws need, and shrink to the smallest that shows a mistake."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from strategies_helpers import WIDTHS, assert_all_examples, bits, drawn, minimal, nonzeros, residues

from equiv import strategies as est
from equiv.numerics import STYLES


@pytest.fixture(scope="module")
def many() -> list[est.Case]:
    return drawn(est.cases(dtype=torch.float32), 1800)


def test_cases_are_consistent_and_within_their_bounds(many: list[est.Case]) -> None:
    for case in many:
        o, n = case.weight.shape
        rows = int(np.prod(case.batch_shape))
        assert n == np.prod(case.feature_shape) <= 512
        assert o <= 256
        assert rows <= 160
        assert rows * o * n <= 2**18
        assert case.x.shape == (*case.batch_shape, n)
        assert case.bias is None or case.bias.shape == (o,)
        assert case.x.is_contiguous()
        assert case.weight.is_contiguous()
        assert {*case.layouts} == {"x", "weight", "bias", "grad"}
        assert case.dtype is case.x.dtype is case.weight.dtype


def test_cases_reach_the_sizes_where_kernels_change(many: list[est.Case]) -> None:
    n, o = {case.weight.shape[1] for case in many}, {case.weight.shape[0] for case in many}
    rows = {int(np.prod(case.batch_shape)) for case in many}
    assert n >= WIDTHS
    assert o >= WIDTHS
    assert rows >= WIDTHS | {0}
    for modulus in (8, 16):
        assert residues(n, modulus) == residues(o, modulus) == residues(rows, modulus) == {*range(modulus)}
    assert (max(n), max(o)) == (512, 256)
    assert max(rows) > 129
    assert any(np.prod(c.batch_shape) >= 64 and c.weight.numel() <= 16 for c in many)
    assert any(c.weight.shape[0] >= 128 and 0 < np.prod(c.batch_shape) <= 4 for c in many)
    assert any(c.weight.shape[1] >= 105 and np.prod(c.batch_shape) >= 64 for c in many)
    assert {len(c.batch_shape) for c in many} == {0, 1, 2, 3, 4, 5}
    assert {c.bias is None for c in many} == {True, False}
    assert {c.recipe.x.kind for c in many} == {*est.KINDS} == {c.recipe.weight.kind for c in many}
    for role in ("x", "weight", "grad"):
        assert {c.layouts[role].kind for c in many} == {*est.LAYOUTS} - {"conj"}
    assert {"step", "offset", "broadcast"} <= {c.layouts["bias"].kind for c in many}


def test_nearly_every_case_has_sizes_of_its_own() -> None:
    cases = drawn(est.cases(), 200)
    assert len({(case.feature_shape, case.weight.shape, case.batch_shape) for case in cases}) >= 180


def test_the_layouts_of_a_case_really_change_input_weight_bias_and_gradient(many: list[est.Case]) -> None:
    changed = {"x": 0, "weight": 0, "bias": 0, "grad": 0}
    for case in many[:400]:
        grad = case.x.new_zeros((*case.batch_shape, case.weight.shape[0]))
        tensors = {"x": case.x, "weight": case.weight, "bias": case.bias, "grad": grad}
        for role, t in tensors.items():
            if t is not None:
                laid = case.layouts[role].apply(t)
                changed[role] += (laid.stride(), laid.storage_offset()) != (t.stride(), 0) or laid.is_neg()
    assert min(changed.values()) >= 40, changed


def test_a_case_is_built_again_from_its_recipe_and_from_its_printed_form(many: list[est.Case]) -> None:
    names = {"torch": torch, **{name: getattr(est, name) for name in est.__all__}}
    for case in many[:200]:
        for again in (est.build_case(case.recipe), eval(repr(case), dict(names))):
            assert bits(again.x) == bits(case.x)
            assert bits(again.weight) == bits(case.weight)
            assert (again.bias is None) == (case.bias is None)
            assert case.bias is None or bits(again.bias) == bits(case.bias)
            assert again.recipe == case.recipe
            assert again.layouts == case.layouts
        ast.parse(repr(case.recipe), mode="eval")
        assert len(repr(case)) < 900


def test_cases_shrink_to_one_of_everything_and_zeros() -> None:
    case = minimal(est.cases())
    assert (case.feature_shape, case.batch_shape, case.weight.shape) == ((1, 1), (), (1, 1))
    assert repr(case) == (
        "build_case(Recipe(feature_shape=(1, 1), out_features=1, batch_shape=(), "
        "x=Values(kind='zeros'), weight=Values(kind='zeros')))"
    )


def results(case: est.Case, weight: torch.Tensor) -> torch.Tensor:
    return case.x.double() @ weight.double().T


def ninth_input_dropped(case: est.Case) -> bool:
    cut = case.weight.clone()
    cut[:, 8:] = 0
    return not torch.equal(results(case, case.weight), results(case, cut))


def flattened_as_hwc(case: est.Case) -> bool:
    maps = case.weight.view(-1, *case.feature_shape)
    return not torch.equal(results(case, case.weight), results(case, maps.movedim(1, -1).flatten(1)))


def height_and_width_exchanged(case: est.Case) -> bool:
    maps = case.weight.view(-1, *case.feature_shape)
    return maps.ndim > 3 and not torch.equal(results(case, case.weight), results(case, maps.transpose(2, 3).flatten(1)))


@pytest.mark.parametrize("exact", [False, True], ids=["any values", "probes"])
@pytest.mark.parametrize(
    ("mistake", "shapes"),
    [(ninth_input_dropped, [(9, 1), (1, 9)]), (flattened_as_hwc, [(2, 2)]), (height_and_width_exchanged, [(1, 2, 2)])],
)
def test_a_mistake_shrinks_to_the_smallest_shape_that_shows_it(
    mistake: Callable[[est.Case], bool], shapes: list[tuple[int, ...]], exact: bool
) -> None:
    kinds = None if exact else est.FINITE_KINDS
    case = minimal(est.cases(exact=exact, kinds=kinds), mistake)
    assert (case.batch_shape, case.weight.shape[0]) == ((), 1)
    assert case.feature_shape in shapes
    assert nonzeros(case.x) == nonzeros(case.weight) == 1
    assert {*case.layouts.values()} == {est.Layout("contiguous")}


def test_cases_keep_every_option() -> None:
    narrow = est.cases(
        dtype=torch.bfloat16, spatial_dims=(2,), max_features=24, max_out=5, max_rows=7, max_work=100, min_positions=2,
        batch_dims=(1, 2), allow_empty=False, bias=True, kinds=("normals", "distinct"), layouts=False,
    )  # fmt: skip

    def is_right(case: est.Case) -> bool:
        o, n = case.weight.shape
        rows = int(np.prod(case.batch_shape))
        return (
            case.dtype is torch.bfloat16
            and len(case.feature_shape) == 3
            and np.prod(case.feature_shape[1:]) >= 2
            and n <= 24
            and o <= 5
            and 1 <= rows <= 7
            and rows * o * n <= 100
            and len(case.batch_shape) in (1, 2)
            and case.bias is not None
            and {case.recipe.x.kind, case.recipe.weight.kind} <= {"normals", "distinct"}
            and {*case.layouts.values()} == {est.Layout("contiguous")}
        )

    assert_all_examples(narrow, is_right, 200)
    assert_all_examples(est.cases(bias=False), lambda case: case.bias is None, 50)


@pytest.mark.parametrize("dtype", est.ALL, ids=str)
def test_cases_serve_every_dtype(dtype: torch.dtype) -> None:
    cases = drawn(est.cases(dtype=dtype, max_work=4096), 80)
    assert all(case.x.dtype is case.weight.dtype is dtype for case in cases)
    assert len({case.layouts["x"].kind for case in cases}) >= 7


def test_exact_cases_are_probes_in_every_style_and_shrink_to_few_non_zeros() -> None:
    cases = drawn(est.cases(exact=True), 100)
    assert {case.recipe.style for case in cases} == {*STYLES}
    for case in cases[:40]:
        assert bits(est.build_case(case.recipe).x) == bits(case.x)
        x, w = case.x.double(), case.weight.double()
        assert (x == x.round()).all()
        bound = x.abs() @ w.abs().T + (0 if case.bias is None else case.bias.double().abs())
        assert bound.numel() == 0 or bound.max() <= 2**24
    case = minimal(
        est.cases(exact=True, max_features=64, max_out=16),
        lambda c: c.weight.shape[1] >= 8 and ((c.x @ c.weight.T) != 0).any(),
    )
    assert nonzeros(case.x) == nonzeros(case.weight) == 1


def test_exact_cases_for_gradients_ask_for_the_longest_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    home = sys.modules["equiv.strategies.case"]
    real = home.exact_case
    monkeypatch.setattr(home, "exact_case", lambda **given: asked.append(given) or real(**given))
    drawn(est.cases(exact=True, gradients=True, dtype=torch.float64), 30)
    assert all(g["reduction"] == max(g["rows"], g["in_features"], g["out_features"]) for g in asked)
    asked.clear()
    drawn(est.cases(exact=True), 5)
    assert {g["reduction"] for g in asked} == {None}
