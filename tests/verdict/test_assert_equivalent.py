"""``assert_equivalent`` accepts what is the same function, and names what is wrong with what is not."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

import equiv
from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent
from equiv.dtypes import DTYPES
from equiv.numerics import declared
from equiv.verdict.blocks import assess_blocks

SHAPE = (3, 2, 4)
N, OUT = 24, 5


def word(value):
    return str(value).removeprefix("torch.")


def linear(dtype=torch.float32, *, bias=True, seed=0):
    layer = nn.Linear(N, OUT, bias=bias, device="meta")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        if not (dtype.is_floating_point or dtype.is_complex):
            return torch.randint(1, 100, shape, generator=generator).to(dtype)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)

    layer.weight = nn.Parameter(draw(OUT, N), requires_grad=False)
    layer.bias = nn.Parameter(draw(OUT), requires_grad=False) if bias else None
    return layer


def refuted(candidate, reference, *args, **options):
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(candidate, reference, *args, **options)
    assert str(caught.value) == str(caught.value.verdict)
    return caught.value.verdict


# The same function


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=word)
def test_both_forms_and_functions_are_equivalent_to_their_layer(dtype, bias):
    layer = linear(dtype, bias=bias)
    full = equiv.linear_to_full_conv(layer, SHAPE)
    pointwise = equiv.linear_to_pointwise_conv(layer)

    def rows(x):
        return F.linear(x, layer.weight, layer.bias)

    def maps(x):
        return rows(x.flatten(1))[..., None, None]

    assert_equivalent(full, layer)
    assert_equivalent(layer, full)
    assert_equivalent(pointwise, layer)
    assert_equivalent(layer, layer)
    assert_equivalent(full, full)
    assert_equivalent(rows, layer)
    assert_equivalent(layer, rows)
    assert_equivalent(maps, layer, feature_shape=SHAPE)
    assert_equivalent(full, maps, feature_shape=SHAPE)
    assert_equivalent(nn.Sequential(nn.Flatten(), layer), full, feature_shape=SHAPE)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_spatial_dimensions(dims):
    layer, shape = linear(), {1: (4, 6), 2: (6, 4, 1), 3: (1, 2, 3, 4)}[dims]
    assert_equivalent(equiv.linear_to_full_conv(layer, shape), layer)
    assert_equivalent(equiv.linear_to_pointwise_conv(layer, dims), layer)


def test_other_orders_of_summation_are_equivalent():
    layer = linear()
    assert_equivalent(lambda x: layer(x.double().float()), layer)
    assert_equivalent(
        lambda x: (x[:, :7] @ layer.weight[:, :7].T + layer.bias) + x[:, 7:] @ layer.weight[:, 7:].T, layer
    )
    assert_equivalent(lambda x: (x.double() @ layer.weight.double().T + layer.bias.double()).float(), layer)
    assert_equivalent(lambda x: torch.stack([layer(row) for row in x]), layer)


def test_a_convolution_with_a_smaller_kernel_is_equivalent_to_its_dense_layer():
    conv = nn.Conv2d(3, 2, 2, stride=2, padding=1)
    assert_equivalent(equiv.conv_to_linear(conv, SHAPE), conv, feature_shape=SHAPE)
    assert_equivalent(conv, lambda x: conv(x).clone(), feature_shape=SHAPE)


def test_a_missing_bias_is_a_bias_of_zeros():
    with_bias, without = linear(), linear(bias=False)
    with_bias.bias.zero_()
    assert_equivalent(with_bias, without)
    assert_equivalent(without, with_bias)


def test_the_input_given_is_tried_too():
    layer = linear()
    x = torch.full((2, N), 7.25)

    def wrong_at_seven(x):
        return layer(x) + (x == 7.25).all(1, keepdim=True)

    assert_equivalent(wrong_at_seven, layer)
    v = refuted(wrong_at_seven, layer, x)
    assert v.explanation.startswith("on the input given, 10 of 10 outputs lie outside the envelope")
    assert_equivalent(wrong_at_seven, layer, x[0] * 2)
    refuted(equiv.linear_to_full_conv(layer, SHAPE), wrong_at_seven, x.view(2, *SHAPE))


def test_a_function_that_works_in_place_is_judged_by_what_it_was_given():
    layer = linear()
    refuted(lambda x: layer(x.mul_(2)), layer)
    assert_equivalent(lambda x: layer(x.mul_(2).mul_(0.5)), layer)
    x = torch.ones(1, N)
    assert_equivalent(lambda x: layer(x.neg_().neg_()), layer, x)
    assert torch.equal(x, torch.ones(1, N))


def test_neither_modes_nor_gradients_nor_the_random_state_change():
    layer = nn.Linear(N, OUT)
    conv = equiv.linear_to_full_conv(layer, SHAPE).eval()
    before, state = layer.weight.clone(), torch.get_rng_state()
    assert_equivalent(conv, layer)
    assert torch.equal(layer.weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.grad is None
    assert layer.weight.requires_grad
    assert (layer.training, conv.training) == (True, False)


# Another function, with its cause


WEIGHTS = {
    "a layer flattened as (H, W, C)": lambda w: w.view(-1, *SHAPE).permute(0, 2, 3, 1).reshape(-1, N),
    "width flipped": lambda w: w.view(-1, *SHAPE).flip(3).reshape(-1, N),
    "channels": lambda w: w.view(-1, *SHAPE).flip(1).reshape(-1, N),
    "negat": lambda w: -w,
    "output": lambda w: w.flip(0),
    "one entry": lambda w: w.clone().index_put_((torch.tensor(1), torch.tensor(3)), torch.tensor(9.0)),
}
SEEN = {
    "a layer flattened as (H, W, C)": ("HWC", "(H, W, C)"),
    "width flipped": ("flip", "reversed"),
    "channels": ("channel",),
    "negat": ("other sign",),
    "output": ("output features",),
    "one entry": ("one entry differs: weight[1, 3]",),
}


@pytest.mark.parametrize("mistake", WEIGHTS)
def test_a_wrong_weight_is_refuted_and_named(mistake):
    layer, wrong = linear(), linear()
    wrong.weight.copy_(WEIGHTS[mistake](layer.weight))
    if mistake == "output":
        wrong.bias.copy_(layer.bias.flip(0))
    v = refuted(equiv.linear_to_full_conv(wrong, SHAPE), layer)
    assert v.outcome is Outcome.DIFFERENT
    verb = "differs" if mistake == "one entry" else "differ"
    assert f"entries of the weight {verb} once both are written as one dense layer" in v.explanation
    assert any(words in v.cause.sentence for words in SEEN[mistake]), v.cause
    assert v.worst.actual == wrong.weight[v.worst.index].item()
    assert v.worst.expected == layer.weight[v.worst.index].item()


def test_a_weight_that_differs_by_one_ulp_is_refuted():
    layer, wrong = linear(), linear()
    wrong.weight[2, 5] = torch.nextafter(wrong.weight[2, 5], torch.tensor(9.0))
    v = refuted(wrong, layer)
    assert v.worst.index == (2, 5)
    assert "1 of 120 entries of the weight differ" in v.explanation
    assert v.explanation.endswith("1 ulp apart.")
    layer.bias = wrong.bias = None  # a bias would hide it from one who sees outputs only
    v = refuted(lambda x: wrong(x), layer)
    assert v.explanation.startswith("on the zero input and one-hot inputs, 1 of 125 outputs lies outside")
    assert v.worst.index == (6, 2)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, w, _: F.linear(x, w), "the bias is dropped"),
        (lambda x, w, b: F.linear(x, w, 2 * b), "the bias is added twice"),
        (lambda x, w, b: F.linear(x, w, -b), "the bias is subtracted"),
        (lambda x, w, b: -F.linear(x, w, b), "other sign"),
        (lambda x, w, b: F.linear(x, w, b) * 0, "every output is zero"),
        (lambda x, _, b: b.expand(len(x), -1), "the bias alone"),
        (lambda x, w, b: F.linear(x, w, b).clamp(min=0), "ReLU"),
    ],
)
def test_a_wrong_function_is_refuted_and_named(function, words):
    layer = linear()
    v = refuted(lambda x: function(x, layer.weight, layer.bias), layer)
    assert v.outcome is Outcome.DIFFERENT
    assert words in v.cause.sentence
    assert f"  cause        {v.cause.sentence}" in str(v).splitlines()
    assert not v.cause.fix or str(v).splitlines()[-1] == f"  fix          {v.cause.fix}"
    assert v.to_dict()["cause"] == {"name": v.cause.name, "sentence": v.cause.sentence, "fix": v.cause.fix}


OTHERS = {
    "last term dropped": lambda x, w, b: F.linear(x[:, :-1], w[:, :-1], b),
    "flattened as HWC": lambda x, w, b: F.linear(x.view(-1, *SHAPE).permute(0, 2, 3, 1).flatten(1), w, b),
    "rows reversed": lambda x, w, b: F.linear(x, w, b).flip(0),
    "one output off": lambda x, w, b: (
        F.linear(x, w, b) + torch.eye(32, OUT)[: len(x)] if len(x) == 32 else F.linear(x, w, b)
    ),
    "bfloat16": lambda x, w, b: F.linear(x.bfloat16(), w.bfloat16(), b.bfloat16()).float(),
    "a single row": lambda x, w, b: F.linear(x, w, b) if len(x) > 1 else F.linear(x, w, b) + 1,
    "NaN": lambda x, w, b: F.linear(x, w, b).nan_to_num(0.0) + math.nan,
    "twice as many": lambda x, w, b: torch.cat([F.linear(x, w, b)] * 2, 1),
    "one row kept": lambda x, w, b: F.linear(x, w, b)[:1],
}


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_wrong_functions_are_refuted(mistake):
    layer, function = linear(), OTHERS[mistake]
    assert refuted(lambda x: function(x, layer.weight, layer.bias), layer).outcome is Outcome.DIFFERENT
    assert refuted(layer, lambda x: function(x, layer.weight, layer.bias)).outcome is Outcome.DIFFERENT


def test_other_sizes_and_dtypes_are_other_functions():
    v = refuted(nn.Linear(N, OUT + 1), linear())
    assert v.explanation == (
        "the candidate is a layer 24 -> 6 of float32, the reference a layer 24 -> 5 of float32: these are not the same "
        "function."
    )
    assert "of float64" in refuted(linear(torch.float64), linear()).explanation
    v = refuted(lambda x: linear()(x).double(), linear())
    assert v.explanation.startswith("the candidate returns float64 for an input of float32: another arithmetic")


def test_a_tolerance_makes_nothing_equivalent_and_can_refute():
    layer, wrong = linear(), linear()
    wrong.bias[0] += 1e-3
    refuted(wrong, layer, atol=1.0)
    assert_equivalent(layer, layer, rtol=0.0)
    parts = lambda x: x[:, :7] @ layer.weight[:, :7].T + (layer.bias + x[:, 7:] @ layer.weight[:, 7:].T)  # noqa: E731
    assert_equivalent(parts, layer)
    assert refuted(parts, layer, rtol=0.0).conditions[0].startswith("rtol=0, atol=0: is exceeded")


def test_an_undecided_verdict_raises():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3e38, 3e38]])
    v = refuted(lambda x: layer(x / 2) * 2, layer)
    assert v.outcome is Outcome.UNDECIDED
    assert "scale the input down" in v.explanation


# Misuse


def bool_layer():
    layer = linear()
    layer.weight = nn.Parameter(layer.weight > 0, requires_grad=False)
    return layer


def unsigned_layer():
    layer = linear()
    layer.weight = nn.Parameter(layer.weight.abs().to(torch.uint16), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: assert_equivalent(abs, abs),
            "reference: expected at least one side to be a Linear or a convolution, got t",
        ),
        (
            lambda: assert_equivalent(3, linear()),
            "candidate: expected a layer or a function of a batch, got int; to compare",
        ),
        (lambda: assert_equivalent(linear(), "x"), "reference: expected a layer or a function of a batch, got str"),
        (
            lambda: assert_equivalent(nn.Linear(2, 2, device="meta"), linear()),
            "candidate: expected a layer with values, got",
        ),
        (
            lambda: assert_equivalent(linear(), nn.Conv2d(2, 2, 1, device="meta")),
            "reference: expected a layer with values, got one on the meta device",
        ),
        (
            lambda: assert_equivalent(linear(torch.float32), linear(), feature_shape=(3, 3)),
            r"feature_shape: expected .* product 24 \(= the features of the layer\), got \(3, 3\) with product 9; pass",
        ),
        (
            lambda: assert_equivalent(linear(), linear(), feature_shape=24),
            r"feature_shape: expected a tuple \(C, \*spatial",
        ),
        (
            lambda: assert_equivalent(linear(), linear(), torch.ones(1, 5)),
            "input: expected a tensor of float32 with 24 feat",
        ),
        (
            lambda: assert_equivalent(linear(), linear(), torch.ones(1, N).double()),
            "input: expected a tensor of float32 wi",
        ),
        (lambda: assert_equivalent(linear(), linear(), [1.0] * N), "input: expected a torch.Tensor, got list"),
        (
            lambda: assert_equivalent(lambda x: x.view(3, 7), linear()),
            r"candidate: expected to run on an input of shape \(",
        ),
        (
            lambda: assert_equivalent(lambda _: None, linear()),
            "candidate: expected a function that returns a tensor, got N",
        ),
        (
            lambda: assert_equivalent(linear(), linear(), atol=-1),
            "atol: expected a finite number of at least 0, got -1",
        ),
        (
            lambda: assert_equivalent(bool_layer(), linear()),
            "candidate.weight: expected one of float32, float64, .* got torch.b",
        ),
        (
            lambda: assert_equivalent(unsigned_layer(), linear()),
            "candidate: expected weights of a dtype among .* uint16",
        ),
        (
            lambda: assert_equivalent(nn.Conv2d(3, 5, 2), linear()),
            r"feature_shape: expected .* product 24, got none, and the convolution's kernel \(3, 2, 2\), .* product 12",
        ),
    ],
)
def test_misuse_is_told(call, message):
    with pytest.raises(EquivError, match="^" + message):
        call()


# Large layers


@pytest.mark.parametrize("dtype", DTYPES, ids=word)
def test_blocks_of_outputs_say_what_the_whole_says(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    layer = linear(dtype)
    x = (torch.randn(7, N, generator=generator) * 50).to(dtype)
    y = F.linear(x, layer.weight, layer.bias).clone()
    y[3, 4] = 0
    if dtype.is_floating_point:
        x[1, 2], x[2, 3], layer.weight.data[1, 5] = math.inf, math.nan, -math.inf
    arithmetic = declared(dtype) if dtype.is_floating_point or dtype.is_complex else None
    given = (y, y + 1), (arithmetic,) * 2, x, layer.weight.data, layer.bias.data
    whole = assess_blocks(*given)
    monkeypatch.setattr("equiv.verdict.blocks._ENTRIES", 2 * N)
    for one, other in zip(whole, assess_blocks(*given), strict=True):
        for name in ("inside", "undecided", "terms"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("ratio", "exact", "lower", "upper", "magnitude"):  # matrix products of other sizes round elsewhere
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-12, equal_nan=True)


WIDE = [dtype for dtype in DTYPES if dtype in (torch.float64, torch.complex128) or not dtype.is_floating_point]
WIDE = [dtype for dtype in WIDE if dtype != torch.complex64]


def large(dtype, outputs=300):
    """A layer with more outputs than are judged once the budget is made small."""
    layer = nn.Linear(N, outputs, device="meta")
    generator = torch.Generator().manual_seed(3)
    kind = torch.complex128 if dtype.is_complex else torch.float64
    for name, shape in (("weight", (outputs, N)), ("bias", (outputs,))):
        values = torch.randn(shape, generator=generator, dtype=kind)
        values = values if dtype.is_floating_point or dtype.is_complex else (values.abs() * 9)
        setattr(layer, name, nn.Parameter(values.to(dtype), requires_grad=False))
    return layer


@pytest.fixture
def small_budget(monkeypatch):
    monkeypatch.setattr("equiv.verdict.blocks._WIDE_TERMS", 2**14)
    monkeypatch.setattr("equiv.verdict.blocks._WHOLE_TERMS", 2**14)


@pytest.mark.parametrize("dtype", WIDE, ids=word)
@pytest.mark.parametrize("output", [0, 17, 211, 299])
def test_one_wrong_output_of_a_large_layer_is_among_those_that_are_judged(dtype, output, small_budget):
    layer = large(dtype)

    def wrong(x):
        y = F.linear(x, layer.weight, layer.bias)
        shifted = y[:, output] + 1
        # One-hot inputs come out right: it takes a dense one to see it.
        y[:, output] = torch.where((x != 0).sum(1) > 2, shifted, y[:, output])
        return y

    found = refuted(wrong, layer)
    assert found.outcome is Outcome.DIFFERENT
    assert found.worst.index[1] == output
    assert re.match(
        r"on inputs of -1, 0 and 1, judged at \d+ of 300 outputs \(those where the two differ most, and oth",
        found.explanation,
    )
    assert found.counts["total"] < 32 * 300
    assert_equivalent(lambda x: F.linear(x, layer.weight, layer.bias), layer)


def test_a_small_layer_is_judged_at_every_output():
    layer = large(torch.float64)
    found = refuted(lambda x: F.linear(x, layer.weight, layer.bias) + 1, layer)
    assert found.counts["total"] == (N + 1) * 300
    assert "judged at" not in found.explanation


def test_a_tolerance_is_held_against_every_output(small_budget):
    layer = large(torch.float64)
    layer.weight.data[:] = 1.0
    layer.weight.data[200] = 1e9  # an ulp of this output is large, but small beside its terms
    layer.bias.data[:] = 0.0

    def nudged(x):
        y = F.linear(x, layer.weight, layer.bias)
        up = torch.nextafter(y, torch.tensor(math.inf, dtype=y.dtype))
        up[:, 100:200], up[:, 201:] = y[:, 100:200], y[:, 201:]
        return torch.where((x != x.round()).sum(1, keepdim=True) > 2, up, y)  # sums of integers are exact

    x = torch.rand(32, N, dtype=torch.float64)
    assert_equivalent(nudged, layer, x)
    found = refuted(nudged, layer, x, rtol=0.0, atol=1e-8)
    assert "exceed the tolerance" in found.explanation


def test_infinite_weights_are_not_read_column_by_column():
    layer = nn.Linear(600, 3)
    layer.weight.data[1, 599] = math.inf
    assert_equivalent(lambda x: F.linear(x, layer.weight, layer.bias), layer)
    found = refuted(lambda x: F.linear(x, layer.weight, layer.bias).nan_to_num(), layer)
    assert found.explanation.startswith("on the zero input and one-hot inputs, ")


def test_a_layer_of_many_inputs_is_read_at_some_and_named_at_its_place():
    layer = nn.Linear(600, 3)

    def wrong(x):
        y = F.linear(x, layer.weight, layer.bias)
        y[5, 2] += 1  # the fifth of the one-hot inputs
        return y

    found = refuted(wrong, layer)
    assert found.worst.index == (5, 2)
    assert found.counts["total"] == 257 * 3


def test_two_functions_are_sent_to_certify():
    with pytest.raises(EquivError, match=r"^reference: .* got two functions; .*equiv\.certify, which reads two"):
        assert_equivalent(lambda x: x, lambda x: x)
