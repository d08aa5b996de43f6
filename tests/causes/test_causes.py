"""Every named mistake is planted and recognised; equal layers and random differences have no cause."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiv import EquivError
from equiv.causes import name_cause, name_output_cause
from equiv.causes.mistakes import column_mistakes
from equiv.causes.permutations import in_words, matching, undone
from equiv.causes.roundings import LOW, ROUNDINGS, flushed, rounded

RUN = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SHAPE = (3, 2, 4)
N, OUT, ROWS = 24, 5, 6
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTS = (torch.uint8, torch.int8, torch.int32, torch.int64)
maps = st.tuples(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(lambda t: (t[0], *t[1]))


def values(shape, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    if dtype in INTS:
        return torch.randint(0, 120, shape, generator=g, dtype=torch.int64).to(dtype)
    return torch.randn(shape, generator=g, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)


def named(w, r, shape=SHAPE, b=None, c=None):
    cause = name_cause(w, r, shape, b, c)
    return None if cause is None else cause.name


# Two weights


def read_as_hwc(w, shape):
    return w.view(len(w), *shape[1:], shape[0]).movedim(-1, 1).reshape(len(w), -1)


def written_as_hwc(w, shape):
    return w.view(len(w), *shape).movedim(1, -1).reshape(len(w), -1)


def read_as_cwh(w, shape):
    return w.view(len(w), shape[0], shape[2], shape[1]).transpose(2, 3).reshape(len(w), -1)


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
    "weight-scaled": (lambda w: w * 3, "multiplied by 3"),
    "weight-scaled (divided)": (lambda w: w / 24, "divided by 24"),
    "weight-scaled (any)": (lambda w: w * 0.7310585, "multiplied by 0.731"),
    "reduction-cut-short": (lambda w: torch.cat([w[:, :-4], torch.zeros(OUT, 4)], 1), "the last 4 of 24"),
    "reduction-starts-late": (lambda w: torch.cat([torch.zeros(OUT, 2), w[:, 2:]], 1), "the first 2 of 24"),
    "rounded-tf32": (lambda w: rounded(w, "rounded-tf32"), "rounded to TF32"),
    "truncated-tf32": (lambda w: rounded(w, "truncated-tf32"), "TF32 (truncated)"),
    "rounded-bfloat16": (lambda w: w.bfloat16().float(), "rounded to bfloat16"),
}


@pytest.mark.parametrize("key", PLANTED)
def test_a_planted_slip_of_the_weight_is_named(key):
    plant, words = PLANTED[key]
    w = values((OUT, N))
    cause = name_cause(plant(w).contiguous(), w, SHAPE)
    assert cause is not None
    assert cause.name == key.split()[0]
    assert words in cause.sentence
    assert str(cause) == f"{cause.name}: {cause.sentence}"


def test_slips_that_need_their_own_weights():
    square = values((N, N))
    assert named(square.T, square) == "weight-transposed"
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
def test_any_column_slip_in_any_dtype_gets_a_name_that_reproduces_it(shape, out, dtype, data):
    n = math.prod(shape)
    slips = column_mistakes(shape)
    if not slips:
        assert n == 1 or n == shape[0] == 1
        return
    slip = data.draw(st.sampled_from(slips), label="slip")
    w = (torch.arange(out * n).view(out, n) % 128).to(dtype)
    assert named(w[:, slip.index], w, shape) == slip.name


@RUN
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_matching_finds_any_permutation_even_of_repeated_rows(rows, random):
    reference = torch.tensor(rows, dtype=torch.float32)[:, None].repeat(1, 3)
    order = list(range(len(rows)))
    random.shuffle(order)
    candidate = reference[order]
    index = matching(candidate, reference)
    assert sorted(index.tolist()) == list(range(len(rows)))
    assert torch.equal(candidate, reference[index])
    candidate = candidate.clone()
    candidate[0, 0] += 10
    assert matching(candidate, reference) is None


def test_permutations_in_words():
    assert in_words(torch.tensor([2, 0, 1])) == "shifted by 1"
    assert in_words(torch.tensor([3, 2, 1, 0])) == "in reverse order"
    assert in_words(torch.tensor([0, 3, 2, 1])) == "1 and 3 exchanged"
    assert in_words(torch.tensor([1, 0, 3, 2, 5, 4])) == (
        "6 of 6 moved: 0 holds 1, 1 holds 0, 2 holds 3, 3 holds 2, ..."
    )


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
def test_a_planted_slip_of_the_bias_is_named(key):
    w, c = values((OUT, N)), values((OUT,), seed=1)
    assert named(w, w, b=BIASES[key](c), c=c) == key.split()[0]


def test_bias_added_and_bias_beside_the_weight():
    w, c = values((OUT, N)), values((OUT,), seed=1)
    assert named(w, w, b=c, c=None) == "bias-added"
    assert named(w, w, b=torch.zeros(OUT), c=None) is None
    assert named(w, w, b=values((OUT,), seed=2), c=c) is None
    hwc = read_as_hwc(w, SHAPE)
    assert name_cause(hwc, w, SHAPE, None, c).sentence.endswith("; the bias is dropped")
    assert name_cause(hwc, w, SHAPE, values((OUT,), seed=2), c).sentence.endswith("; the bias differs as well")
    both = name_cause(w.roll(1, 0), w, SHAPE, c.roll(1), c)
    assert both.name == "outputs-permuted"
    assert "alike" in both.sentence
    assert named(values((OUT, N), seed=9), w, b=None, c=c) is None


# Outputs


def cleanly(x, w, b=None):
    y = x.double() @ w.double().T
    return y if b is None else y + b.double()


X, W, B = values((ROWS, N), seed=10), values((OUT, N), seed=11), values((OUT,), seed=12)
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
def test_a_planted_slip_of_the_outputs_is_named(key):
    cause = output_cause(OUTPUTS[key]().float())
    assert cause is not None
    assert cause.name == key.split()[0]


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


def test_a_low_sum_in_an_unknown_order_is_named_by_its_outputs():
    actual = (EXACT * (1 + 2.0**-6)).bfloat16().float()
    assert output_cause(actual, bound=BOUND * 0 + 1e-12).name == "accumulated-bfloat16"


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


def test_the_closest_slip_wins_where_a_wide_bound_lets_several_fit():
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
    monkeypatch.setattr("equiv.causes.outputs._WEIGHTS", 100)
    monkeypatch.setattr("equiv.causes.outputs._WORST", 4)
    monkeypatch.setattr("equiv.causes.outputs._PAIRS", 10)
    assert output_cause(EXACT.float()) is None
    assert output_cause(OUTPUTS["flattened-hwc"]().float()).name == "flattened-hwc"
    assert output_cause(OUTPUTS["reduction-cut-short"]().float()).name == "reduction-cut-short"
    assert output_cause(EXACT.roll(2, 0).float()).name == "batch-permuted"
    assert output_cause(values((ROWS, OUT), seed=99)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: name_cause(W[0], W, SHAPE), "candidate_weight: expected a tensor (O, n), got (24,)"),
        (lambda: name_cause(None, W, SHAPE), "candidate_weight: expected a tensor (O, n), got None"),
        (lambda: name_cause(W[:2], W, SHAPE), "candidate_weight: expected the shape of reference_weight, (5, 24)"),
        (lambda: name_cause(W, W, (3, 2)), "feature_shape: expected (C, *spatial) with product 24"),
        (lambda: name_cause(W, W, SHAPE, B[:2], B), "candidate_bias: expected shape (5,) or None, got (2,)"),
        (lambda: output_cause(EXACT.T), "expected shape"),
        (lambda: output_cause(EXACT, bound=BOUND[0]), "bound: expected shape (6, 5), got (5,)"),
        (lambda: output_cause(EXACT, w=W[0]), "weight: expected shape (O, n), got (24,)"),
    ],
)
def test_misuse_names_the_argument(call, message):
    with pytest.raises(EquivError) as caught:
        call()
    assert message in str(caught.value)


def test_roundings_know_their_formats():
    t = torch.tensor([1 + 2.0**-10, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8])
    assert rounded(t, "rounded-tf32").tolist() == [1 + 2.0**-10, 1, 1 + 2.0**-9, 1 + 2.0**-8]
    assert rounded(t, "truncated-tf32").tolist() == [1 + 2.0**-10, 1, 1 + 2.0**-10, 1 + 2.0**-8]
    for name in ROUNDINGS:
        c = torch.complex(t, -t)
        assert torch.equal(rounded(c, name).imag, -rounded(t, name))
        assert torch.equal(rounded(torch.tensor([3]), name), torch.tensor([3]))
