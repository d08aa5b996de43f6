"""Every promise of equiv.strategies, asserted: what is reached, what it shrinks to, what it refuses."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from torch import nn

from equiv import EquivError
from equiv import strategies as est
from equiv.numerics import STYLES

T = TypeVar("T")
N = 16384
QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def minimal(strategy: st.SearchStrategy[T], condition: Callable[[T], Any] = lambda _: True) -> T:
    """What ``condition`` shrinks to."""
    return find(strategy, lambda value: bool(condition(value)), settings=QUIET)


def drawn(strategy: st.SearchStrategy[T], examples: int) -> list[T]:
    """That many examples, not shrunk."""
    values: list[T] = []

    @settings(QUIET, max_examples=examples, phases=[Phase.generate])
    @given(strategy)
    def collect(value: T) -> None:
        values.append(value)

    collect()
    return values


def assert_all_examples(strategy: st.SearchStrategy[T], condition: Callable[[T], Any], examples: int = 100) -> None:
    """``condition`` holds for every example."""

    @settings(QUIET, max_examples=examples)
    @given(strategy)
    def check(value: T) -> None:
        assert condition(value), value

    check()


def bits(t: torch.Tensor) -> list[int]:
    """The bytes of the values in C order."""
    plain = t.detach().resolve_conj().resolve_neg().cpu().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).tolist()


def nonzeros(t: torch.Tensor) -> int:
    return int((t != 0).sum())


def residues(values: set[int], modulus: int) -> set[int]:
    return {value % modulus for value in values}


WIDTHS = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 105, 127, 128, 129}


# dtypes and devices


def test_dtypes_are_those_that_linear_and_conv2d_serve_and_shrink_to_float32() -> None:
    assert {*drawn(est.dtypes(), 100)} == {*est.ALL} == {*est.FLOATS, *est.COMPLEX, *est.INTEGERS}
    assert minimal(est.dtypes()) is torch.float32
    assert minimal(est.dtypes(kinds=("integer", "complex"))) is torch.complex64
    assert {*drawn(est.dtypes(kinds=["integer"]), 100)} == {*est.INTEGERS}
    for dtype in est.ALL:
        one = torch.ones((1, 1), dtype=dtype)
        assert torch.nn.functional.linear(one, one).dtype is dtype
        assert torch.nn.functional.conv2d(one[..., None, None], one[..., None, None]).dtype is dtype


def test_devices_are_those_present_with_the_cpu_first() -> None:
    assert minimal(est.devices()) == torch.device("cpu")
    assert {*drawn(est.devices(kinds=("cpu",)), 10)} == {torch.device("cpu")}
    assert_all_examples(est.devices(), lambda device: torch.empty(1, device=device).device == device, 10)


def test_importing_and_drawing_for_the_cpu_initialises_no_accelerator() -> None:
    code = (
        "import torch\n"
        "def refuse(*a, **k): raise AssertionError('asked for an accelerator')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = refuse\n"
        "from hypothesis import find, settings\n"
        "from equiv import strategies as est\n"
        "quiet = settings(database=None, derandomize=True)\n"
        "for s in (est.cases(), est.dtypes(), est.devices(kinds=('cpu',)), est.tensors((3,)),\n"
        "          est.layers(in_features=2, out_features=2)):\n"
        "    find(s, lambda _: True, settings=quiet)\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# shapes


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


# layouts

SHAPES = [(), (5,), (2, 3), (4, 2, 3), (2, 3, 4, 5), (2, 3, 2, 2, 3), (2, 1, 3, 1, 2, 2)]


@pytest.mark.parametrize("dtype", est.ALL, ids=str)
def test_every_layout_keeps_shape_dtype_and_bits(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        t = est.Values("wide", seed=3).tensor(shape, dtype)
        for layout in drawn(est.layouts(ndim=len(shape), dtype=dtype), 20):
            laid = layout.apply(t)
            assert (laid.shape, laid.dtype, laid.device) == (t.shape, t.dtype, t.device)
            assert laid.data_ptr() != t.data_ptr()
            if not layout.changes_values:
                assert bits(laid) == bits(t), layout


def test_layouts_keep_the_payload_of_nan_and_the_sign_of_zero() -> None:
    patterns = torch.tensor([0x7FC12345, 0x7F812345, -0x3EDCBB, -(2**31), 1], dtype=torch.int32).view(torch.float32)
    for layout in est.all_layouts(1, torch.float32):
        if not layout.changes_values:
            assert bits(layout.apply(patterns)) == bits(patterns), layout
    pairs = torch.stack((patterns, patterns.flip(0)), dim=1)
    for layout in est.all_layouts(1, torch.complex64):
        if not layout.changes_values:
            assert bits(layout.apply(torch.view_as_complex(pairs))) == bits(pairs), layout


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_layout_really_differs_in_memory(shape: tuple[int, ...]) -> None:
    t = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain = t.stride()
    laid = {layout.kind: layout.apply(t) for layout in est.all_layouts(len(shape))}
    assert laid["offset"].storage_offset() % 2 == 1
    assert laid["neg"].is_neg()
    if shape:
        assert laid["step"].stride() != plain
        assert laid["step"].storage_offset() > 0
        assert laid["padded"].untyped_storage().nbytes() > 4 * t.numel()
        assert 0 in laid["broadcast"].stride()
    if len(shape) > 1:
        assert laid["permuted"].stride() != plain
        assert not laid["permuted"].is_contiguous()
    if len(shape) == 4:
        assert laid["channels_last"].is_contiguous(memory_format=torch.channels_last)
        assert not laid["channels_last"].is_contiguous()
    if len(shape) == 5:
        assert laid["channels_last"].is_contiguous(memory_format=torch.channels_last_3d)
    if len(shape) == 3:
        assert laid["channels_last"].stride() == (6, 1, 2)
    if 1 in shape:
        assert laid["odd_strides"].stride() != plain
    assert est.Layout("conj").apply(t.to(torch.complex64)).is_conj()


def test_what_lies_around_the_values_is_nan_or_85() -> None:
    for kind in ("step", "padded", "offset"):
        laid = est.Layout(kind).apply(torch.ones(3))
        whole = laid.as_strided((laid.untyped_storage().nbytes() // 4,), (1,), 0)
        assert whole.isnan().sum() == whole.numel() - 3 > 0
        laid = est.Layout(kind).apply(torch.ones(3, dtype=torch.int8))
        whole = laid.as_strided((laid.untyped_storage().nbytes(),), (1,), 0)
        assert (whole == 85).sum() == whole.numel() - 3


def test_broadcast_repeats_index_zero_along_its_dimensions() -> None:
    t = torch.arange(6.0).view(2, 3)
    assert est.Layout("broadcast").apply(t).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert est.Layout("broadcast", 1).apply(t).tolist() == [[0, 0, 0], [3, 3, 3]]
    assert est.Layout("broadcast", 2).apply(t).stride() == (0, 0)


def test_layouts_reach_every_kind_every_permutation_and_steps_of_two_and_three() -> None:
    t = torch.zeros(2, 3, 4, 5)
    laid = [(layout, layout.apply(t)) for layout in drawn(est.layouts(ndim=4, dtype=torch.float32), 1200)]
    assert {layout.kind for layout, _ in laid} == {*est.LAYOUTS} - {"conj"}
    orders = {tuple(np.argsort(y.stride())[::-1]) for layout, y in laid if layout.kind == "permuted"}
    assert len(orders) == 23
    steps = {y.stride(-1) for layout, y in laid if layout.kind == "step"}
    assert steps == {1, 2, 3}
    assert len({y.storage_offset() for layout, y in laid if layout.kind == "offset"}) == 8
    assert minimal(est.layouts(ndim=4)) == est.Layout("contiguous")
    assert minimal(est.layouts(ndim=4), lambda x: x.kind == "permuted") == est.Layout("permuted")


def test_a_layout_gives_a_leaf_with_the_same_requires_grad() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    for layout in est.all_layouts(2):
        y = layout.apply(x * 2)
        assert y.is_leaf
        assert y.requires_grad
        y.sum().backward()
        assert y.grad is not None
        assert not layout.apply(torch.ones(2, 3)).requires_grad
    assert x.grad is None


def test_layouts_serve_empty_tensors_and_sides_of_one() -> None:
    for shape in ((0,), (0, 3), (3, 0, 2), (1, 1, 1, 1)):
        for dtype in (torch.float32, torch.complex64, torch.int64):
            t = torch.zeros(shape, dtype=dtype)
            for layout in est.all_layouts(len(shape), dtype):
                assert layout.apply(t).shape == t.shape


# values and tensors


@pytest.mark.parametrize("dtype", est.ALL, ids=str)
def test_every_kind_is_what_it_says_and_the_same_at_every_call(dtype: torch.dtype) -> None:
    for kind in est.kinds_for(dtype):
        for seed in (0, 1, 77):
            values = est.Values(kind, seed=seed)
            t = values.tensor((4, 33), dtype)
            assert t.dtype is dtype
            assert t.is_contiguous()
            assert bits(t) == bits(values.tensor((4, 33), dtype))
            real = torch.view_as_real(t) if dtype.is_complex else t
            assert bool(torch.isfinite(real).all()) == (kind != "specials")
            if kind == "zeros":
                assert nonzeros(t) == 0
            if kind == "one_hot":
                assert t.flatten()[seed % 132] == 1
                assert nonzeros(t) == 1
            if kind == "constant":
                assert (t == t[0, 0]).all()
            if kind == "small_integers":
                assert real.abs().max() <= 4
                assert (real == real.round()).all()
            if kind == "distinct":
                assert len((real[..., 0] if dtype.is_complex else real).unique()) == t.numel()
                assert nonzeros(t) == t.numel()
            if kind == "repeated":
                assert (t[:, 0:32:2] == t[:, 1::2]).all()
            if kind == "cancelling":
                sums = (real[:, 0:32:2] + real[:, 1::2]).double().abs()
                assert (sums <= 8 * torch.finfo(dtype).eps * real[:, 1::2].double().abs()).all()
            if kind == "subnormal":
                tiny = (real != 0) & (real.abs() < torch.finfo(dtype).tiny)
                assert 0.3 < tiny.double().mean() < 0.7
            if kind == "near_overflow":
                assert real.abs().max() > torch.finfo(dtype).max / 4
            if kind == "wide" and dtype.is_floating_point:
                exponents = real[real != 0].abs().double().log2()
                assert exponents.max() - exponents.min() > 0.3 * np.log2(torch.finfo(dtype).max)


@pytest.mark.parametrize(
    ("dtype", "held"),
    [(torch.float32, N), (torch.float16, 4096), (torch.bfloat16, 512), (torch.int8, 254), (torch.uint8, 255)],
    ids=str,
)
def test_distinct_holds_as_many_integers_as_the_dtype_does(dtype: torch.dtype, held: int) -> None:
    for seed in (0, 5):
        t = est.Values("distinct", seed=seed).tensor((N,), dtype).double()
        assert len(t.unique()) == held
        assert (t == t.round()).all()
        assert nonzeros(t) == N


def test_distinct_is_distinct_above_a_hundred_thousand_entries() -> None:
    for seed in (0, 9):
        assert len(est.Values("distinct", seed=seed).tensor((100003,), torch.float32).unique()) == 100003


def test_specials_hold_all_five() -> None:
    t = est.Values("specials", seed=1).tensor((400,), torch.float32)
    zeros = t[t == 0]
    assert t.isnan().any()
    assert {float("inf"), -float("inf")} == {*t[t.isinf()].tolist()}
    assert {*zeros.signbit().tolist()} == {True, False}


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


# layers


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


# cases


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
    ("mistake", "shape"),
    [(ninth_input_dropped, (9, 1)), (flattened_as_hwc, (2, 2)), (height_and_width_exchanged, (1, 2, 2))],
)
def test_a_mistake_shrinks_to_the_smallest_shape_that_shows_it(
    mistake: Callable[[est.Case], bool], shape: tuple[int, ...], exact: bool
) -> None:
    kinds = None if exact else est.FINITE_KINDS
    case = minimal(est.cases(exact=exact, kinds=kinds), mistake)
    assert (case.feature_shape, case.batch_shape, case.weight.shape[0]) == (shape, (), 1)
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


# all of them


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
    (lambda: est.dtypes(kinds=("floats",)), r"kinds: expected one of float, complex, integer, got 'floats'; remove it"),
    (lambda: est.dtypes(kinds="float"), r"kinds: expected a tuple of members .* got 'float'; pass such as kinds=\('float',\)"),
    (lambda: est.dtypes(kinds=()), r"kinds: expected at least one of .* got \(\); leave kinds out"),
    (lambda: est.dtypes(device="gpu"), r"device: expected a torch device or its name, got 'gpu'; pass such as 'cpu'"),
    (lambda: est.dtypes(device="meta"), r"device: expected a device that is present .* got 'meta'; see `equiv env`"),
    (lambda: est.devices(kinds=("tpu",)), r"kinds: expected one of cpu, cuda.*got 'tpu'"),
    (lambda: est.batch_shapes(min_dims=3, max_dims=2), r"max_dims: expected an integer from 3 to 8, got 2; pass"),
    (lambda: est.batch_shapes(max_rows=0), r"max_rows: expected an integer of at least 1, got 0"),
    (lambda: est.batch_shapes(max_side=1.5), r"max_side: expected an integer of at least 1, got 1.5"),
    (lambda: est.batch_shapes(allow_empty="no"), r"allow_empty: expected True or False, got 'no'; pass a bool"),
    (lambda: est.feature_shapes(spatial_dims=(4,)), r"spatial_dims: expected one of 1, 2, 3, got 4"),
    (lambda: est.feature_shapes(max_features=1, min_positions=2), r"max_features: expected an integer of at least 2, got 1; it"),
    (lambda: est.layouts(ndim=-1), r"ndim: expected an integer of at least 0, got -1"),
    (lambda: est.layouts(ndim=2, kinds=("conj",)), r"kinds: expected one of contiguous, .*got 'conj'"),
    (lambda: est.tensors((2,), "float32"), r"dtype: expected one of float32, .* got 'float32'; pass such as torch.float32"),
    (lambda: est.tensors((2,), torch.bool), r"dtype: expected one of float32, .* got torch.bool"),
    (lambda: est.tensors((2, -1)), r"shape: expected a tuple of integers of at least 0, got \(2, -1\); pass a shape"),
    (lambda: est.tensors(st.just((2,))), r"shape: expected a tuple of integers of at least 0, got just"),
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
        r"kinds: expected None with exact=True, got \('zeros',\); choose",
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
        (lambda: est.Values("odd").tensor((2,)), r"kind: expected one of .* got 'odd'; choose another kind, or another dtype"),
        (lambda: est.Values("zeros").tensor((2,), torch.bool), r"dtype: expected one of"),
        (lambda: est.Layout("odd").apply(torch.zeros(2)), r"kind: expected one of contiguous, .* got 'odd'; correct"),
        (lambda: est.Layout("conj").apply(torch.zeros(2)), r"t.dtype: expected one of complex64, complex128, got torch.float32; choose another layout"),
        (lambda: est.Layout("neg").apply(torch.zeros(2).half()), r"t.dtype: expected one of float32, float64, got"),
        (lambda: est.Layout("step").apply([1]), r"t: expected a torch.Tensor, got \[1\]; convert it"),
        (lambda: est.build_case({}), r"recipe: expected an equiv.strategies.Recipe, got {}; pass case.recipe"),
        (lambda: est.all_layouts("2"), r"ndim: expected an integer of at least 0, got '2'"),
    ],
)
def test_a_wrong_value_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(EquivError, match="^" + message):
        call()
