"""Layouts move values and change none of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from strategies_helpers import bits, drawn, minimal

from equiv import strategies as est

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
