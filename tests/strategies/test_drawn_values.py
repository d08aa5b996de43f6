"""Every kind of values is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from strategies_helpers import N, bits, nonzeros

from equiv import strategies as est


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
