"""Mistakes planted in the outputs of a layer are named, and their fix gives the right outputs back."""

from __future__ import annotations

import math

import pytest
import torch
from generated_causes import settings_kept
from hypothesis import given
from hypothesis import strategies as st
from planted import (
    COMPLEX,
    FLOATS,
    INTS,
    OUT,
    ROWS,
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

from equiv import EquivError
from equiv.causes import likely_cause, name_output_cause
from equiv.causes.roundings import flushed, rounded


def cleanly(x, w, b=None):
    y = x.double() @ w.double().T
    return y if b is None else y + b.double()


X, W, B = values((ROWS, N), seed=10), values((OUT, N), seed=11), values((OUT,), seed=12)
LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
EXACT = cleanly(X, W, B)
BOUND = (N + 1) * 2.0**-24 * (X.double().abs() @ W.double().abs().T + B.double().abs())

OUTPUTS = {
    "output-zero": lambda: torch.zeros_like(EXACT),
    "product-missing": lambda: B.double().expand_as(EXACT),
    "bias-dropped": lambda: EXACT - B,
    "bias-doubled": lambda: EXACT + B,
    "bias-negated": lambda: EXACT - 2 * B,
    "flattened-hwc": lambda: cleanly(X, read_as_hwc(W, SHAPE), B),
    "flattened-hwc (written)": lambda: cleanly(X, written_as_hwc(W, SHAPE), B),
    "spatial-swapped": lambda: cleanly(X, read_as_cwh(W, SHAPE), B),
    "kernel-flipped": lambda: cleanly(X.view(-1, *SHAPE).flip(2, 3).flatten(1), W, B),
    "kernel-flipped-axis": lambda: cleanly(X.view(-1, *SHAPE).flip(2).flatten(1), W, B),
    "channels-reversed": lambda: cleanly(X.view(-1, *SHAPE).flip(1).flatten(1), W, B),
    "inputs-reversed": lambda: cleanly(X.flip(1), W, B),
    "reduction-cut-short": lambda: cleanly(X[:, :-3], W[:, :-3], B),
    "reduction-cut-short (all but one)": lambda: cleanly(X[:, :1], W[:, :1], B),
    "reduction-starts-late": lambda: cleanly(X[:, 1:], W[:, 1:], B),
    "reduction-overlaps": lambda: EXACT + cleanly(X[:, -8:], W[:, -8:]),
    "batch-permuted": lambda: EXACT[[1, 0, 2, 3, 5, 4]],
    "batch-permuted (shifted)": lambda: EXACT.roll(1, 0),
    "batch-repeated": lambda: EXACT[:1].expand_as(EXACT),
    "outputs-permuted": lambda: EXACT.roll(2, 1),
    "outputs-repeated": lambda: EXACT[:, 1:2].expand_as(EXACT),
    "output-clamped": lambda: EXACT.clamp(min=0),
    "output-absolute": lambda: EXACT.abs(),
    "output-negated": lambda: -EXACT,
    "product-negated": lambda: B - (EXACT - B),
    "output-scaled": lambda: EXACT * 3,
    "product-scaled": lambda: (EXACT - B) / N + B,
    "rounded-tf32": lambda: cleanly(rounded(X, "rounded-tf32"), rounded(W, "rounded-tf32"), B),
    "truncated-tf32": lambda: cleanly(rounded(X, "truncated-tf32"), rounded(W, "truncated-tf32"), B),
    "rounded-bfloat16": lambda: cleanly(X.bfloat16(), W.bfloat16(), B),
    "rounded-bfloat16 (weights)": lambda: cleanly(X, W.bfloat16(), B),
    "rounded-bfloat16 (inputs)": lambda: cleanly(X.bfloat16(), W, B),
    "output-rounded-bfloat16": lambda: EXACT.bfloat16(),
    "output-rounded-float16": lambda: EXACT.half(),
}


def output_cause(actual, exact=EXACT, x=X, w=W, b=B, shape=SHAPE, bound=BOUND):
    return name_output_cause(actual, exact, x=x, weight=w, bias=b, feature_shape=shape, bound=bound)


@pytest.mark.parametrize("key", OUTPUTS)
def test_a_planted_mistake_of_the_outputs_is_named_and_mended(key):
    wrong = OUTPUTS[key]()
    cause = output_cause(wrong.float())
    assert cause is not None
    assert cause.name == key.split()[0]
    if cause.fix.startswith("weight = "):  # the weight that the kernel multiplied with
        assert any(torch.equal(mended(cause, W, weight=w).weight, W) for w in wrong_orders())
    else:
        with settings_kept():
            right = mended(cause, W.double(), B.double(), x=X.double(), y=wrong).y
        torch.testing.assert_close(right, EXACT, rtol=1e-12, atol=1e-12)


def wrong_orders():
    yield read_as_hwc(W, SHAPE)
    yield written_as_hwc(W, SHAPE)
    yield read_as_cwh(W, SHAPE)
    for axes in ((2, 3), (2,), (1,), (1, 2, 3)):
        yield W.view(-1, *SHAPE).flip(axes).flatten(1)


def test_terms_that_are_all_added_twice_are_a_scaled_product():
    cause = output_cause((2 * EXACT - B).float())
    assert cause.sentence == "every product, without the bias, is multiplied by 2"
    x, w, b = (values(s, torch.int32, i) for i, s in enumerate([(4, N), (3, N), (3,)]))
    exact = x.long() @ w.long().T + b.long()
    cause = output_cause((2 * exact - b).int(), exact, x, w, b, SHAPE, 0.0)
    assert cause.sentence == "the product, without the bias, is added twice"
    assert torch.equal(mended(cause, w.long(), x=x.long(), y=2 * exact - b).y, exact)


def test_what_a_setting_of_torch_mends_is_said():
    lossy = cleanly(rounded(X, "rounded-tf32"), rounded(W, "rounded-tf32"), B).float()
    setting = "torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision"
    again = "y = torch.nn.functional.linear(x, reference.weight, reference.bias)"
    assert output_cause(lossy).fix == f'{setting} = "ieee"; {again}'
    assert output_cause(cleanly(X, W.bfloat16(), B).float()).fix == "weight = reference.weight", "no setting does that"


def test_a_likely_cause_is_a_cause_or_none_and_never_an_error():
    x, w, b = torch.ones(2, 4), torch.arange(4.0).view(1, 4), torch.tensor([10.0])
    found = likely_cause(x @ w.T, x=x, weight=w, bias=b, feature_shape=(4, 1))
    assert (found.name, found.sentence, found.fix) == ("bias-dropped", "the bias is dropped", "y = y + reference.bias")
    assert likely_cause(x @ w.T, x=x, weight=w, bias=b, feature_shape=(5, 1)) is None
    assert likely_cause((x @ w.T).int(), x=x, weight=w, bias=b, feature_shape=(4, 1)) is None
    assert likely_cause(x @ w.T + b, x=x, weight=w, bias=b, feature_shape=(4, 1)) is None
    # One number alone fits too many mistakes: its sign could come from any of them.
    one = torch.ones(1, 4)
    assert likely_cause(-(one @ w.T), x=one, weight=w, bias=None, feature_shape=(4, 1)) is None


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("first", [False, True])
def test_sums_in_a_low_format_are_named(low, first):
    total = (B.to(LOW[low]) if first else torch.zeros(OUT, dtype=LOW[low])).expand(ROWS, OUT)
    for j in range(N):
        total = (total.double() + X[:, j, None].double() * W[None, :, j].double()).to(LOW[low])
    actual = total.float() if first else total.float() + B
    assert output_cause(actual).name == f"accumulated-{low}"
    assert output_cause(torch.nextafter(total.float() * 1.5, torch.tensor(9.0))) is None


def test_inputs_rounded_to_float16_are_named_where_tf32_does_not_fit():
    w = W * 1e-4
    exact = cleanly(X, w)
    actual = cleanly(X.half(), w.half()).float()
    assert output_cause(actual, exact, w=w, b=None, bound=BOUND * 1e-4).name == "rounded-float16"


def test_numbers_of_a_low_format_that_no_arithmetic_gives_have_no_cause():
    actual = (EXACT * (1 + 2.0**-6)).bfloat16().float()
    assert output_cause(actual, bound=BOUND * 0 + 1e-12) is None


def test_flushed_subnormals_are_named():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, N, generator=g) * 2.0**100
    w = torch.randn(OUT, N, generator=g) * 2.0**-126
    b = torch.zeros(OUT)
    exact = cleanly(x, w)
    bound = (N + 1) * 2.0**-24 * (x.double().abs() @ w.double().abs().T)
    actual = cleanly(x, flushed(w, w.dtype)).float()
    assert output_cause(actual, exact, x, w, b, bound=bound).name == "subnormals-flushed"
    x = torch.randn(ROWS, N, generator=g) * 2.0**-65
    w = torch.randn(OUT, N, generator=g) * 2.0**-63
    exact = cleanly(x, w)
    bound = (N + 1) * 2.0**-24 * (x.double().abs() @ w.double().abs().T) + 2.0**-149
    assert output_cause(flushed(exact.float(), torch.float32), exact, x, w, b, bound=bound).name == "subnormals-flushed"


@RUN
@given(maps, st.integers(1, 4), st.integers(1, 4), st.sampled_from(FLOATS + COMPLEX + INTS), st.integers(0, 9))
def test_right_outputs_have_no_cause_and_random_ones_neither(shape, rows, out, dtype, seed):
    n = math.prod(shape)
    x, w, b = values((rows, n), dtype, seed), values((out, n), dtype, seed + 1), values((out,), dtype, seed + 2)
    wide = torch.int64 if dtype in INTS else torch.complex128 if dtype.is_complex else torch.float64
    exact = x.to(wide) @ w.to(wide).T + b.to(wide)
    bound = torch.zeros(rows, out) if dtype in INTS else torch.finfo(dtype).eps * exact.abs().double()
    assert output_cause(exact.to(dtype), exact, x, w, b, shape, bound) is None
    if dtype in (torch.float32, torch.float64, *COMPLEX) and rows * out > 2:
        assert output_cause(values((rows, out), dtype, seed + 60), exact, x, w, b, shape, bound) is None
        noise = exact + 1e-3 * values((rows, out), exact.dtype, seed + 70)
        assert output_cause(noise.to(dtype), exact, x, w, b, shape, bound) is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_integers_are_explained_exactly_wrap_included(dtype):
    x, w, b = values((4, N), dtype, 0), values((3, N), dtype, 1), values((3,), dtype, 2)
    exact = x.long() @ w.long().T + b.long()

    def cause(actual):
        return output_cause(actual.to(dtype), exact, x, w, b, SHAPE, 0.0)

    assert cause(exact) is None
    assert cause(exact - b.long()).name == "bias-dropped"
    assert cause(x.long() @ read_as_hwc(w, SHAPE).long().T + b.long()).name == "flattened-hwc"
    assert cause(x[:, :-1].long() @ w[:, :-1].long().T + b.long()).name == "reduction-cut-short"


def test_complex_outputs_are_explained():
    x, w, b = (values(s, torch.complex64, i) for i, s in enumerate([(4, N), (3, N), (3,)]))
    exact = x.to(torch.complex128) @ w.to(torch.complex128).T + b
    bound = 1e-5 * torch.ones(4, 3)
    wrong = x.to(torch.complex128) @ read_as_hwc(w, SHAPE).to(torch.complex128).T + b
    assert output_cause(wrong.to(torch.complex64), exact, x, w, b, SHAPE, bound).name == "flattened-hwc"
    assert output_cause((exact - b).to(torch.complex64), exact, x, w, b, SHAPE, bound).name == "bias-dropped"


def test_the_closest_mistake_wins_where_a_wide_bound_lets_several_fit():
    n = 2048
    x, w = values((16, n), seed=1), values((64, n), seed=2)
    exact = cleanly(x, w)
    wrong = cleanly(x.bfloat16(), w.bfloat16())
    bound = 0.9 * (wrong - exact).abs().max() * torch.ones(16, 64)  # almost as wide as the error
    assert output_cause(wrong.float(), exact, x, w, None, (n, 1), bound).name == "rounded-bfloat16"
    noise = exact + (wrong - exact)[:, torch.arange(63, -1, -1)]
    assert output_cause(noise.float(), exact, x, w, None, (n, 1), bound) is None


def test_special_values_do_not_disturb():
    x = X.clone()
    x[2, 3] = math.nan
    exact = cleanly(x, W, B)
    assert output_cause(exact.float(), exact, x=x) is None
    assert output_cause((exact - B).float(), exact, x=x).name == "bias-dropped"
    x[2, 3] = math.inf
    exact = cleanly(x, W, B)
    assert output_cause((exact - B).float(), exact, x=x).name == "bias-dropped"
    assert output_cause(torch.full((ROWS, OUT), math.nan)) is None


def test_large_layers_are_judged_on_their_worst_outputs(monkeypatch):
    monkeypatch.setattr("equiv.causes.hypotheses._WEIGHTS", 100)
    monkeypatch.setattr("equiv.causes.hypotheses._WORST", 4)
    monkeypatch.setattr("equiv.causes.hypotheses._PAIRS", 10)
    assert output_cause(EXACT.float()) is None
    assert output_cause(OUTPUTS["flattened-hwc"]().float()).name == "flattened-hwc"
    assert output_cause(OUTPUTS["reduction-cut-short"]().float()).name == "reduction-cut-short"
    assert output_cause(EXACT.roll(2, 0).float()).name == "batch-permuted"
    assert output_cause(values((ROWS, OUT), seed=99)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: output_cause(EXACT.T), "expected shape"),
        (lambda: output_cause(EXACT, bound=BOUND[0]), "bound: expected shape (6, 5), got (5,)"),
        (lambda: output_cause(EXACT, w=W[0]), "weight: expected shape (O, n), got (24,)"),
    ],
)
def test_misuse_names_the_argument(call, message):
    with pytest.raises(EquivError) as caught:
        call()
    assert message in str(caught.value)
