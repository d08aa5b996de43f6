"""Mistakes planted in a weight or a bias are named, and their fix gives the right one back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import (
    COMPLEX,
    FLOATS,
    INTS,
    OUT,
    RUN,
    SHAPE,
    N,
    maps,
    mended,
    read_as_cwh,
    read_as_hwc,
    values,
    written_as_hwc,
)

from equiv import Cause, EquivError
from equiv.causes import name_cause
from equiv.causes.mistakes import column_mistakes
from equiv.causes.roundings import rounded


def named(w, r, shape=SHAPE, b=None, c=None):
    cause = name_cause(w, r, shape, b, c)
    return None if cause is None else cause.name


def blocks(w, order):
    return w.view(len(w), SHAPE[0], -1)[:, order].reshape(len(w), -1)


PLANTED = {
    "flattened-hwc": (lambda w: read_as_hwc(w, SHAPE), "flattened as HWC instead of CHW"),
    "flattened-hwc (written)": (lambda w: written_as_hwc(w, SHAPE), "flattened as HWC instead of CHW"),
    "spatial-swapped": (lambda w: read_as_cwh(w, SHAPE), "H and W exchanged"),
    "spatial-swapped (written)": (
        lambda w: w.view(-1, *SHAPE).transpose(2, 3).reshape(len(w), -1),
        "H and W exchanged",
    ),
    "axes-permuted": (lambda w: w.view(-1, *SHAPE).permute(0, 2, 1, 3).reshape(len(w), -1), "HCW instead of CHW"),
    "kernel-flipped": (lambda w: w.view(-1, *SHAPE).flip(2, 3).flatten(1), "along H and W, turned by 180 degrees"),
    "kernel-flipped-axis": (lambda w: w.view(-1, *SHAPE).flip(3).flatten(1), "flipped along W"),
    "channels-reversed": (lambda w: w.view(-1, *SHAPE).flip(1).flatten(1), "channels in reverse order"),
    "inputs-reversed": (lambda w: w.flip(1), "all inputs in reverse order"),
    "channels-permuted": (lambda w: blocks(w, [1, 2, 0]), "channels shifted by -1"),
    "channels-permuted (two)": (lambda w: blocks(w, [1, 0, 2]), "channels 0 and 1 exchanged"),
    "outputs-permuted": (lambda w: w.roll(1, 0), "output features shifted by 1"),
    "inputs-permuted": (lambda w: w.roll(1, 1), "inputs shifted by 1"),
    "inputs-permuted (random)": (
        lambda w: w[:, torch.randperm(N, generator=torch.Generator().manual_seed(1))],
        "moved",
    ),
    "weight-zero": (torch.zeros_like, "every weight is zero"),
    "weight-negated": (lambda w: -w, "other sign"),
    "weight-absolute": (torch.abs, "absolute value"),
    "weight-scaled": (lambda w: w * 3, "multiplied by 3"),
    "weight-scaled (divided)": (lambda w: w / 24, "divided by 24"),
    "weight-scaled (any)": (lambda w: w * 0.7310585, "multiplied by 0.731"),
    "reduction-cut-short": (
        lambda w: torch.cat([w[:, :-4], torch.zeros(OUT, 4)], 1),
        "the last 4 of 24 columns are zero",
    ),
    "reduction-starts-late": (
        lambda w: torch.cat([torch.zeros(OUT, 2), w[:, 2:]], 1),
        "the first 2 of 24 columns are zero",
    ),
    "rounded-tf32": (lambda w: rounded(w, "rounded-tf32"), "rounded to TF32"),
    "truncated-tf32": (lambda w: rounded(w, "truncated-tf32"), "TF32 (truncated)"),
    "rounded-bfloat16": (lambda w: w.bfloat16().float(), "rounded to bfloat16"),
}


@pytest.mark.parametrize("key", PLANTED)
def test_a_planted_mistake_of_the_weight_is_named_and_mended(key):
    plant, words = PLANTED[key]
    w = values((OUT, N))
    wrong = plant(w).contiguous()
    cause = name_cause(wrong, w, SHAPE)
    assert cause is not None
    assert cause.name == key.split()[0]
    assert words in cause.sentence
    assert str(cause) == f"{cause.name}: {cause.sentence}"
    weight = mended(cause, w, weight=wrong).weight
    scaled = key.startswith("weight-scaled")  # multiplying and dividing round once each
    torch.testing.assert_close(weight, w, rtol=2.0**-22 if scaled else 0, atol=0)


def test_a_fix_is_one_line_in_the_terms_of_the_layer():
    w = values((OUT, N))
    assert name_cause(read_as_hwc(w, SHAPE), w, SHAPE) == Cause(
        "flattened-hwc",
        "flattened as HWC instead of CHW: columns in the order CHW were read as HWC",
        "weight = weight.reshape(-1, 3, 2, 4).permute(0, 2, 3, 1).flatten(1)",
    )
    fixes = {
        "weight = weight.reshape(-1, 3, 2, 4).flip(2, 3).flatten(1)": w.view(-1, *SHAPE).flip(2, 3).flatten(1),
        "weight = weight.reshape(-1, 3, 2, 4)[:, [1, 0, 2]].flatten(1)": blocks(w, [1, 0, 2]),
        "weight = weight.roll(-1, 0)": w.roll(1, 0),
        "weight = weight / 4": w * 4,
        "weight = reference.weight": w.bfloat16().float(),
    }
    for fix, wrong in fixes.items():
        assert name_cause(wrong, w, SHAPE).fix == fix


def test_an_order_that_would_fill_a_screen_is_not_written_out():
    wide = values((1, 65))
    wrong = wide[:, [1, 0, 3, 2, *range(4, 65)]]
    cause = name_cause(wrong, wide, (65, 1))
    words = (
        "inputs in another order (4 of 65 moved: place 0 holds 1, place 1 holds 0, place 2 holds 3, place 3 holds 2)"
    )
    assert cause == Cause("inputs-permuted", words, "weight = reference.weight")
    assert name_cause(wide.roll(9, 1), wide, (65, 1)).fix == "weight = weight.roll(-9, 1)"


def test_channels_of_rows_are_inputs():
    w = values((OUT, 6))
    assert named(w.flip(1), w, (6, 1)) == "inputs-reversed"
    assert named(w[:, [1, 0, 2, 3, 4, 5]], w, (6, 1, 1)) == "inputs-permuted"


def test_mistakes_that_need_their_own_weights():
    square = values((N, N))
    cause = name_cause(square.T, square, SHAPE)
    assert cause.name == "weight-transposed"
    assert torch.equal(mended(cause, weight=square.T).weight, square)
    wide = values((OUT, N), torch.float64)
    assert named(wide.float().double(), wide) == "rounded-float32"
    assert named(wide.float(), wide) == "rounded-float32"
    small = values((OUT, N)) * 1e-4  # where float16 has fewer bits than TF32
    assert named(small.half().float(), small) == "rounded-float16"
    assert named(square.half().float(), square) == "rounded-tf32"
    tiny = values((OUT, N)) * 1e-38
    assert named(torch.where(tiny.abs() < 2.0**-126, 0, tiny), tiny) == "subnormals-flushed"
    flat = values((OUT, 12))
    assert named(flat.view(OUT, 3, 4).flip(2).flatten(1), flat, (3, 4)) == "kernel-flipped"
    deep = values((OUT, 24))
    moved = deep.view(OUT, 2, 2, 3, 2).permute(0, 1, 4, 3, 2).reshape(OUT, -1)
    cause = name_cause(moved, deep, (2, 2, 3, 2))
    assert cause.name == "spatial-swapped"
    assert "D and W exchanged" in cause.sentence


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_entry_off_by_an_ulp_is_placed(dtype):
    w = values((OUT, N), dtype)
    wrong = w.clone()
    wrong[3, 13] = torch.nextafter(w[3, 13], torch.tensor(math.inf, dtype=dtype))
    cause = name_cause(wrong, w, SHAPE)
    assert cause.name == "one-entry"
    assert "weight[3, 13], input (1, 1, 1)," in cause.sentence
    assert cause.sentence.endswith("1 ulp apart")
    assert torch.equal(mended(cause, w, weight=wrong).weight, w)


@RUN
@given(maps, st.integers(1, 4), st.sampled_from(FLOATS + COMPLEX + INTS), st.booleans(), st.integers(0, 9))
def test_equal_layers_have_no_cause_and_random_ones_neither(shape, out, dtype, bias, seed):
    n = math.prod(shape)
    w, b = values((out, n), dtype, seed), values((out,), dtype, seed) if bias else None
    assert name_cause(w, w.clone(), shape, b, b) is None
    if out * n > 2 and dtype not in INTS:
        assert name_cause(values((out, n), dtype, seed + 50), w, shape, b, b) is None
        assert name_cause(w + 1e-2 * values((out, n), dtype, seed + 90), w, shape, b, b) is None


@RUN
@given(maps, st.integers(1, 4), st.sampled_from(FLOATS + COMPLEX + INTS), st.data())
def test_any_wrong_order_of_columns_in_any_dtype_is_named_and_mended(shape, out, dtype, data):
    n = math.prod(shape)
    mistakes = column_mistakes(shape)
    if not mistakes:
        assert n == 1 or n == shape[0] == 1
        return
    mistake = data.draw(st.sampled_from(mistakes), label="mistake")
    w = (torch.arange(out * n).view(out, n) % 128).to(dtype)
    cause = name_cause(w[:, mistake.index], w, shape)
    assert cause.name == mistake.cause.name
    assert torch.equal(mended(cause, weight=w[:, mistake.index]).weight, w)


BIASES = {
    "bias-dropped": lambda _: None,
    "bias-dropped (zeros)": torch.zeros_like,
    "bias-doubled": lambda c: c * 2,
    "bias-negated": lambda c: -c,
    "bias-permuted": lambda c: c.roll(1),
    "bias-one-entry": lambda c: torch.cat([c[:-1], c[-1:] + 1]),
    "bias-rounded-bfloat16": lambda c: c.bfloat16().float(),
}


@pytest.mark.parametrize("key", BIASES)
def test_a_planted_mistake_of_the_bias_is_named_and_mended(key):
    w, c = values((OUT, N)), values((OUT,), seed=1)
    wrong = BIASES[key](c)
    cause = name_cause(w, w, SHAPE, wrong, c)
    assert cause.name == key.split()[0]
    assert torch.equal(mended(cause, w, c, bias=wrong).bias, c)


def test_bias_added_and_bias_beside_the_weight():
    w, c = values((OUT, N)), values((OUT,), seed=1)
    added = name_cause(w, w, SHAPE, c, None)
    assert added.name == "bias-added"
    assert mended(added, bias=c).bias is None
    assert named(w, w, b=torch.zeros(OUT), c=None) is None
    assert named(w, w, b=values((OUT,), seed=2), c=c) is None
    hwc = read_as_hwc(w, SHAPE)
    for bias, words in ((None, "the bias is dropped"), (values((OUT,), seed=2), "the bias differs as well")):
        cause = name_cause(hwc, w, SHAPE, bias, c)
        assert cause.name == "flattened-hwc"
        assert cause.sentence.endswith(f"; {words}")
        right = mended(cause, w, c, weight=hwc, bias=bias)
        assert torch.equal(right.weight, w)
        assert torch.equal(right.bias, c)
    both = name_cause(w.roll(1, 0), w, SHAPE, c.roll(1), c)
    assert both.name == "outputs-permuted"
    assert both.sentence == "output features shifted by 1; bias shifted by 1"
    right = mended(both, weight=w.roll(1, 0), bias=c.roll(1))
    assert torch.equal(right.weight, w)
    assert torch.equal(right.bias, c)
    assert named(values((OUT, N), seed=9), w, b=None, c=c) is None


W, B = values((OUT, N), seed=11), values((OUT,), seed=12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: name_cause(W[0], W, SHAPE), "candidate_weight: expected shape (O, n), got (24,)"),
        (lambda: name_cause(None, W, SHAPE), "candidate_weight: expected a torch.Tensor, got NoneType"),
        (lambda: name_cause(W[:2], W, SHAPE), "candidate_weight: expected shape (5, 24), got (2, 24)"),
        (lambda: name_cause(W, W, (3, 2)), "feature_shape: expected (C, *spatial) with product 24"),
        (lambda: name_cause(W, W, SHAPE, B[:2], B), "candidate_bias: expected shape (5,), got (2,)"),
    ],
)
def test_misuse_names_the_argument(call, message):
    with pytest.raises(EquivError) as caught:
        call()
    assert message in str(caught.value)
