"""The matrix of a convolution holds the bits of its weight, and sums that are rounded once."""

from __future__ import annotations

import itertools
import math
import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_helpers import (
    DTYPES,
    FLOATS,
    INTS,
    MODES,
    assert_dense_is_the_convolution,
    conv_of,
    few,
    integers,
    random_bits,
    raw,
)
from torch import nn

import equiv.mapping.dense_matrix as dense
from equiv.errors import EquivError
from equiv.mapping import conv_to_linear


@few
@given(
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**16),
)
def test_weights_that_are_only_moved_keep_their_bits(
    dtype: torch.dtype, mode: str, kernel: tuple[int, int], groups: int, seed: int
) -> None:
    conv = conv_of(random_bits((4, 2, *kernel), dtype, seed), random_bits((4,), dtype, seed), groups=groups, padding=1)
    conv.padding_mode = mode  # no collision happens in the positions looked at: those that read no padding
    linear = conv_to_linear(conv, (2 * groups, 4, 5))
    out = (4 + 3 - kernel[0], 5 + 3 - kernel[1])
    matrix = linear.weight.view(4, *out, 2 * groups, 4, 5)
    for y, x in itertools.product(range(1, out[0] - 1), range(1, out[1] - 1)):
        for o in range(4):
            own = slice(2 * (o // (4 // groups)), 2 * (o // (4 // groups)) + 2)
            window = matrix[o, y, x, own, y - 1 : y - 1 + kernel[0], x - 1 : x - 1 + kernel[1]]
            assert raw(window) == raw(conv.weight[o])
            assert sum(raw(matrix[o, y, x])) == sum(raw(window))  # every other byte is zero
    assert raw(linear.bias) == raw(conv.bias.repeat_interleave(math.prod(out)))


def test_weights_keep_their_bits_while_subnormals_are_flushed() -> None:
    weight = torch.tensor([1e-40, -1e-45, -0.0]).view(1, 1, 3)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        linear = conv_to_linear(conv_of(weight), (1, 4))
    finally:
        torch.set_flush_denormal(False)
    assert raw(linear.weight[0, :3]) == raw(linear.weight[1, 1:]) == raw(weight)


def test_the_matrix_of_a_convolution_is_the_known_one() -> None:
    linear = conv_to_linear(conv_of(torch.tensor([[[2.0, 3.0, 5.0]]]), torch.tensor([7.0]), padding=1), (1, 3))
    assert linear.weight.tolist() == [[3, 5, 0], [2, 3, 5], [0, 2, 3]]
    assert linear.bias.tolist() == [7, 7, 7]


def test_taps_that_share_an_entry_are_added() -> None:
    conv = conv_of(torch.tensor([[[2.0, 3.0, 5.0]]]), padding=1, padding_mode="reflect")
    assert conv_to_linear(conv, (1, 3)).weight.tolist() == [[3, 7, 0], [2, 3, 5], [0, 7, 3]]


@settings(few, max_examples=150)
@given(st.data())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_any_convolution_equals_its_dense_layer(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([1, 2, 3]))
    mode = data.draw(st.sampled_from(MODES))
    per_axis = lambda values: data.draw(st.tuples(*[values] * dims))  # noqa: E731 - drawn four times
    spatial = per_axis(st.integers(1, 5 if dims < 3 else 3))
    kernel = per_axis(st.integers(1, 3))
    dilation = per_axis(st.integers(1, 2))
    padding: Any = data.draw(st.sampled_from(["same", "valid", "ints"]))
    stride = (1,) * dims if padding == "same" else per_axis(st.integers(1, 3))
    pad = tuple(
        d * (k - 1) - d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
    )
    if padding == "ints":
        pad = padding = per_axis(st.integers(0, 3))
    limits = {"reflect": [s - 1 for s in spatial], "circular": spatial}.get(mode, [99] * dims)
    groups = data.draw(st.sampled_from([1, 2, 3]))
    channels = groups * data.draw(st.integers(1, 2))
    outs = groups * data.draw(st.integers(1, 2))
    bias = integers((outs,), seed=5) if data.draw(st.booleans()) else None
    conv = conv_of(
        integers((outs, channels // groups, *kernel)),
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    shape = (channels, *spatial)
    total = (
        [0] * dims
        if padding == "valid"
        else [d * (k - 1) if padding == "same" else 2 * p for d, k, p in zip(dilation, kernel, pad, strict=True)]
    )
    fits = all(s + t > d * (k - 1) for s, t, d, k in zip(spatial, total, dilation, kernel, strict=True))
    if fits and all(p <= limit for p, limit in zip(pad, limits, strict=True)):
        assert_dense_is_the_convolution(conv, shape)
    else:
        with pytest.raises(EquivError, match=r"^feature_shape: expected .*; pass a larger map"):
            conv_to_linear(conv, shape)
        with pytest.raises(RuntimeError):
            conv(integers((1, *shape)))


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integer_sums_wrap(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    top = torch.tensor([[[info.max, 1, info.max]]], dtype=torch.uint64 if dtype == torch.uint64 else torch.int64).to(
        dtype
    )
    linear = conv_to_linear(conv_of(top, padding=1, padding_mode="replicate"), (1, 1))
    bits = info.bits
    expected = (2 * info.max + 1) % 2**bits
    assert linear.weight.item() % 2**bits == expected


def exact_rounding(values: list[float], dtype: torch.dtype) -> float:
    """Round the exact sum by comparing with the neighbours in the format: another way than the code's."""
    total = sum(map(Fraction, values))
    guess = torch.tensor([float(total)], dtype=torch.float64).to(dtype)
    bits = guess.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[guess.element_size()])
    near = [(bits + i).view(dtype).double().item() for i in (-1, 0, 1)]
    return min(
        (abs(Fraction(v) - total), int((bits + i).item()) % 2, v) for i, v in zip((-1, 0, 1), near, strict=True)
    )[2]


@pytest.mark.parametrize("dtype", FLOATS[:4], ids=str)
@pytest.mark.parametrize("terms", [2, 3, 4])
def test_sums_of_taps_are_rounded_once(dtype: torch.dtype, terms: int) -> None:
    generator = torch.Generator().manual_seed(terms)
    exponents = torch.randint(-14, 3, (200, terms), generator=generator)
    taps = (1 + torch.rand(200, terms, generator=generator, dtype=torch.float64)).ldexp(exponents).to(dtype)
    linear = conv_to_linear(conv_of(taps[:, None], padding=terms, padding_mode="replicate"), (1, 1))
    actual = linear.weight.view(200, -1)[:, 1]  # any position: a map of one entry takes every tap
    for row, value in zip(taps.double().tolist(), actual.double().tolist(), strict=True):
        assert value == exact_rounding(row, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_sum_next_to_a_tie_is_not_rounded_through_a_wider_format(dtype: torch.dtype) -> None:
    """1 + u + a crumb is above the tie, but the crumb is lost in float32 or float64 on the way."""
    u = torch.finfo(dtype).eps / 2
    crumb = 2.0**-140 if dtype != torch.float16 else 2.0**-24
    crumb = crumb if dtype != torch.bfloat16 else 2.0**-130
    taps = torch.tensor([[[1.0, u, crumb]]], dtype=torch.float64).to(dtype)
    linear = conv_to_linear(conv_of(taps, padding=1, padding_mode="circular"), (1, 1))
    assert linear.weight[0, 0].item() == 1 + 2 * u


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_special_sums_follow_ieee(dtype: torch.dtype) -> None:
    top, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    rows = [
        ([-0.0, -0.0, -0.0], -0.0),
        ([-0.0, 0.0, -0.0], 0.0),
        ([1.5, -1.5, -0.0], 0.0),
        ([math.inf, 1.0, 2.0], math.inf),
        ([math.inf, 1.0, -math.inf], math.nan),
        ([math.nan, 1.0, 2.0], math.nan),
        ([top, top, -top], top),
        ([top, top, top], math.inf),
        ([-top, -top, 0.0], -math.inf),
        ([tiny, tiny, -tiny], tiny),
        ([-tiny, -tiny, -tiny], -3 * tiny),
    ]
    taps = torch.tensor([row for row, _ in rows], dtype=torch.float64).to(dtype)[:, None]
    linear = conv_to_linear(conv_of(taps, padding=1, padding_mode="circular"), (1, 1))
    for (row, expected), actual in zip(rows, linear.weight.view(len(rows), -1)[:, 0].double().tolist(), strict=True):
        assert struct.pack("d", actual) == struct.pack("d", expected) or (
            math.isnan(actual) and math.isnan(expected)
        ), row


def test_complex_sums_are_taken_by_parts() -> None:
    taps = torch.tensor([[[1 + 2j, 10 - 1j, complex(-0.0, -2)]]], dtype=torch.complex64)
    linear = conv_to_linear(conv_of(taps, padding=1, padding_mode="circular"), (1, 1))
    assert linear.weight[0].tolist() == [11 - 1j]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_matrix_is_the_same_on_another_device() -> None:
    for dtype, mode in itertools.product(DTYPES, MODES):
        conv = conv_of(integers((4, 3, 3, 3)).abs().to(dtype), padding=2, padding_mode=mode)
        expected = conv_to_linear(conv, (3, 4, 3)).weight
        assert raw(conv_to_linear(conv.to("cuda"), (3, 4, 3)).weight) == raw(expected), (dtype, mode)


def test_entries_are_moved_right_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = conv_of(integers((4, 3, 3, 3)), padding=1, padding_mode="replicate")
    expected = conv_to_linear(conv, (3, 4, 5))
    monkeypatch.setattr(dense, "_CHUNK", 5 * 12)
    assert torch.equal(conv_to_linear(conv, (3, 4, 5)).weight, expected.weight)


def test_a_pointwise_conv_on_a_map_is_its_kernel_on_the_diagonal() -> None:
    weight = integers((4, 3, 1, 1))
    matrix = conv_to_linear(conv_of(weight), (3, 16, 16)).weight
    assert torch.equal(matrix, torch.kron(weight.view(4, 3), torch.eye(256, dtype=torch.float64)))


@pytest.mark.parametrize(("size", "gib"), [(2**20, r"4,096\.0"), (2**40, r"[\d,]+\.0")])
def test_a_matrix_beyond_memory_is_refused_with_its_size(size: int, gib: str) -> None:
    with pytest.raises(
        EquivError, match=rf"^feature_shape: expected a map whose dense matrix fits.* = {gib} GiB; pass a"
    ):
        conv_to_linear(nn.Conv2d(1, 1, 1), (1, size, 1024 if size > 2**20 else 1))


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="this system does not say how much memory is available")
def test_a_matrix_beyond_what_is_available_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(1, 1, 1)
    monkeypatch.setattr(dense, "_ALWAYS_TRIED", 0)
    assert conv_to_linear(conv, (1, 8, 8)).weight.shape == (64, 64)
    available = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 2**10
    monkeypatch.setattr(dense, "_PLACE_BYTES", available)
    with pytest.raises(EquivError, match=r"^feature_shape: expected a map whose dense matrix fits in memory, got"):
        conv_to_linear(conv, (1, 8, 8))


def test_a_matrix_beyond_memory_has_a_meta_form() -> None:
    assert conv_to_linear(nn.Conv1d(1, 1, 1, device="meta"), (1, 2**20)).weight.shape == (2**20, 2**20)
