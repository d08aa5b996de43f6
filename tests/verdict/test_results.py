"""The four outcomes of ``compare``, the evidence that comes with each, and what it says of misuse."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

from equiv import EquivError, Outcome, Verdict, compare
from equiv.dtypes import FLOATS
from equiv.numerics import declared, from_ordinal, gap_words, ordinal
from equiv.strategies import Values

IDENTICAL, ROUNDING, DIFFERENT, UNDECIDED = Outcome


def word(value):
    return str(value).removeprefix("torch.")


def layer(dtype=torch.float32, n=24, out=3, rows=4, *, bias=True):
    x, w, b = (Values("normals", i).tensor(s, dtype) for i, s in enumerate(((rows, n), (out, n), (out,))))
    return x, w, b if bias else None


def right(x, w, b=None):
    """The exact result rounded once."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    y = x.to(wide) @ w.to(wide).T
    return (y if b is None else y + b.to(wide)).to(x.dtype)


def moved(y, index, steps):
    y = y.clone()
    y[index] = from_ordinal(ordinal(y[index]) + steps, y.dtype)
    return y


# The four outcomes


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_the_same_bits_are_identical(dtype):
    x, w, b = layer(dtype)
    y = right(x, w, b)
    v = compare(y, y.clone(), input=x, weight=w, bias=b)
    assert v.outcome is IDENTICAL
    assert v.equivalent
    assert bool(v)
    assert v.worst is None
    assert v.counts == {"identical": 12, "rounding": 0, "different": 0, "undecided": 0, "total": 12}
    assert (v.dtype, v.shape) == (word(dtype), (4, 3))
    assert v.explanation.startswith("all 12 outputs are the same bit for bit")


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_a_step_within_the_envelope_is_rounding(dtype):
    x, w, b = layer(dtype, n=200)
    y = right(x, w, b)
    found = compare(y, y, input=x, weight=w, bias=b)
    assert found.max_ratio <= 1
    if dtype in (torch.float16, torch.bfloat16):  # 16-bit results have a choice only close to a tie
        return
    v = compare(moved(y, (2, 1), 1), y, input=x, weight=w, bias=b)
    assert v.outcome is ROUNDING
    assert v.equivalent
    assert v.counts == {"identical": 11, "rounding": 1, "different": 0, "undecided": 0, "total": 12}
    assert 0 < v.max_ratio < 1
    assert v.arithmetic == declared(dtype).name
    assert "all 12 outputs lie inside the envelope" in v.explanation
    assert "11 are the same bit for bit" in v.explanation


@pytest.mark.parametrize("dtype", FLOATS, ids=word)
def test_a_step_beyond_the_envelope_is_different_and_the_evidence_names_it(dtype):
    x, w, b = layer(dtype)
    y = right(x, w, b)
    wrong = y.clone()
    wrong[3, 2] = y[3, 2] + 1
    wrong[1, 0] = y[1, 0] - 4
    v = compare(wrong, y, input=x, weight=w, bias=b)
    assert v.outcome is DIFFERENT
    assert not v.equivalent
    assert not v
    assert v.counts["different"] == 2
    worst = v.worst
    assert worst.index in ((3, 2), (1, 0))
    assert worst.actual == wrong[worst.index].item()
    assert worst.expected == y[worst.index].item()
    exact = (x.double() @ w.double().T + b.double())[worst.index].item()
    assert worst.exact == pytest.approx(exact, rel=1e-12)
    assert worst.lower <= worst.exact <= worst.upper
    assert not worst.lower <= worst.actual <= worst.upper
    size = (x.double().abs() @ w.double().abs().T + b.double().abs())[worst.index].item()
    assert worst.magnitude == pytest.approx(size)
    assert worst.terms == 25
    assert worst.ratio == v.max_ratio > 1
    assert worst.error_in_uS == pytest.approx(abs(worst.actual - exact) / (declared(dtype).u * size), rel=1e-6)
    assert worst.bits_cancelled == pytest.approx(math.log2(size / abs(exact)))
    assert v.explanation.startswith("2 of 12 outputs lie outside the envelope: no right kernel gives them")


def test_the_worst_is_the_furthest_outside():
    x, w, b = layer()
    y = right(x, w, b)
    for index in ((0, 0), (2, 1), (3, 2)):
        wrong = y + 0.01
        wrong[index] += 1
        assert compare(wrong, y, input=x, weight=w, bias=b).worst.index == index


def test_what_an_order_may_overflow_is_undecided():
    x, w = torch.tensor([[2e38, 2e38, -2e38], [1.0, 1.0, 1.0]]), torch.ones(2, 3)
    y = torch.tensor([[math.inf, 2e38], [3.0, 3.0]])
    v = compare(y, y.flip(1), input=x, weight=w)
    assert v.outcome is UNDECIDED
    assert not v.equivalent
    assert v.counts == {"identical": 2, "rounding": 0, "different": 0, "undecided": 2, "total": 4}
    assert v.worst.index == (0, 0)
    assert "for 2 of 4 outputs right kernels may disagree" in v.explanation
    assert "scale the input down" in v.explanation
    wrong = torch.tensor([[math.inf, 2e38], [3.0, 4.0]])
    assert compare(wrong, y, input=x, weight=w).outcome is DIFFERENT, "a defect elsewhere is a defect"


def test_both_wrong_alike_is_different():
    x, w, b = layer()
    wrong = right(x, w, b) + 1
    v = compare(wrong, wrong, input=x, weight=w, bias=b)
    assert v.outcome is DIFFERENT
    assert v.counts["different"] == 12
    assert "`actual` is outside at 12 outputs, `expected` at 12." in v.explanation


def test_expected_may_be_the_wrong_one_and_is_named():
    x, w, b = layer()
    y = right(x, w, b)
    wrong = y.clone()
    wrong[1, 2] += 1
    v = compare(y, wrong, input=x, weight=w, bias=b)
    assert v.outcome is DIFFERENT
    assert v.worst.index == (1, 2)
    assert v.explanation.endswith("It is `expected` that is outside (1 output); all of `actual` is inside.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=word)
def test_expected_may_be_given_in_float64(dtype):
    x, w, b = layer(dtype)
    y, wide = right(x, w, b), x.double() @ w.double().T + b.double()
    assert compare(y, wide, input=x, weight=w, bias=b).outcome is ROUNDING
    v = compare(y, wide + 1e-6, input=x, weight=w, bias=b)
    assert v.outcome is DIFFERENT, "it is judged in its own arithmetic"
    assert "It is `expected` that is outside (12 outputs)" in v.explanation


# Shapes


@pytest.mark.parametrize("tail", [(), (1,), (1, 1), (1, 1, 1)])
def test_trailing_ones_of_either_side_do_not_matter(tail):
    x, w, b = layer()
    y = right(x, w, b)
    wrong = y.clone()
    wrong[2, 1] += 1
    v = compare(wrong.reshape(4, 3, *tail), y, input=x, weight=w, bias=b)
    assert v.worst.index[:2] == (2, 1)
    assert v.shape == (4, 3, *tail)
    assert compare(y, y.reshape(4, 3, *tail), input=x.view(4, 2, 3, 4), weight=w.view(3, 2, 3, 4), bias=b)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (2, 1, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("out", [1, 3])
def test_any_batch_shape_and_a_map_or_rows_as_input(batch, out):
    n = 12
    x = Values("normals", 1).tensor((*batch, n), torch.float32)
    w, b = Values("normals", 2).tensor((out, n), torch.float32), torch.ones(out)
    y = F.linear(x, w, b)
    for given in (x, x.view(*batch, 3, 2, 2), x.view(*batch, n, 1, 1)):
        assert compare(y, y, input=given, weight=w, bias=b).outcome is IDENTICAL
        if y.numel():
            assert compare(y + 1, y, input=given, weight=w, bias=b).counts["different"] == y.numel()


def test_an_unbatched_convolution_is_compared():
    conv = nn.Conv2d(3, 5, (2, 4))
    x = Values("normals", 1).tensor((3, 2, 4), torch.float32)
    with torch.no_grad():
        v = compare(conv(x), F.linear(x.flatten(), conv.weight.flatten(1), conv.bias), input=x, layer=conv)
    assert v.equivalent
    assert v.shape == (5, 1, 1)


def test_empty_results_are_identical():
    v = compare(torch.zeros(0, 3), torch.zeros(0, 3), input=torch.zeros(0, 7), weight=torch.zeros(3, 7))
    assert v.outcome is IDENTICAL
    assert v.explanation == "both results are empty."
    assert v.counts["total"] == 0
    assert compare(torch.zeros(0, 3), torch.zeros(0, 3)).explanation == "both results are empty."


def test_other_shapes_are_different():
    v = compare(torch.zeros(2, 3), torch.zeros(3, 2))
    assert v.outcome is DIFFERENT
    assert v.explanation.startswith("the results have different shapes, (2, 3) and (3, 2)")
    assert v.worst is None
    str(v)


def test_strides_conjugates_and_gradients_do_not_matter():
    x, w, b = layer(torch.complex64)
    y = right(x, w, b)
    v = compare(y.conj().conj().T.contiguous().T, y.requires_grad_(), input=x.conj().conj(), weight=w, bias=b)
    assert v.outcome is IDENTICAL


# Other values


def test_integers_are_exact():
    x, w, b = (Values("wide", i).tensor(s, torch.int8) for i, s in enumerate(((4, 6), (3, 6), (3,))))
    y = (x.long() @ w.long().T + b.long()).to(torch.int8)
    assert compare(y, y, input=x, weight=w, bias=b).outcome is IDENTICAL
    wrong = y.clone()
    wrong[1, 1] += 1
    v = compare(wrong, y, input=x, weight=w, bias=b)
    assert v.outcome is DIFFERENT
    assert v.worst.index == (1, 1)
    assert (v.worst.actual, v.worst.expected, v.worst.exact) == (wrong[1, 1].item(), y[1, 1].item(), y[1, 1].item())
    assert v.explanation.startswith("1 of 12 integer outputs is wrong: integers are exact in any order")
    assert v.arithmetic == "integers modulo 2**bits"
    assert (v.worst.magnitude, v.worst.terms) == (None, None)
    assert compare(y, wrong, input=x, weight=w, bias=b).worst.index == (1, 1)


def test_unsigned_distances_do_not_wrap():
    a, b = torch.tensor([1, 10, 200], dtype=torch.uint8), torch.tensor([2, 60, 200], dtype=torch.uint8)
    v = compare(a, b)
    assert v.outcome is DIFFERENT
    assert v.worst.index == (1,)


def test_complex_parts_are_judged_apart():
    x, w, b = layer(torch.complex64)
    y = right(x, w, b)
    assert compare(y, y, input=x, weight=w, bias=b).outcome is IDENTICAL
    for delta in (1, 1j):
        wrong = y.clone()
        wrong[0, 2] += delta
        v = compare(wrong, y, input=x, weight=w, bias=b)
        assert v.outcome is DIFFERENT
        assert v.worst.index == (0, 2)
        assert isinstance(v.worst.actual, complex)
        assert v.worst.terms == 25
    assert compare(y, y.to(torch.complex128), input=x, weight=w, bias=b).outcome is DIFFERENT, "rounded to complex64"


def test_special_values_are_compared_by_class():
    x = torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [1.0, 2.0]])
    w = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    y = torch.tensor([[math.inf, math.nan], [math.nan, math.nan], [3.0, 2.0]])
    assert compare(y, y.clone(), input=x, weight=w).outcome is IDENTICAL
    for index, value in (
        ((0, 0), math.nan),
        ((0, 0), -math.inf),
        ((1, 1), 1.0),
        ((0, 1), math.inf),
        ((2, 0), math.inf),
    ):
        wrong = y.clone()
        wrong[index] = value
        v = compare(wrong, y, input=x, weight=w)
        assert v.outcome is DIFFERENT
        assert v.worst.index == index
        str(v)


def test_zeros_of_both_signs_are_equivalent():
    x, w = torch.zeros(1, 2), torch.ones(1, 2)
    v = compare(torch.tensor([[-0.0]]), torch.tensor([[0.0]]), input=x, weight=w)
    assert v.outcome is ROUNDING
    assert v.max_ratio == 0


# Without the layer, and with tolerances


def test_without_the_layer_only_bits_and_tolerances_are_judged():
    a = torch.tensor([1.0, 2.0, math.nan])
    b = torch.tensor([1.0, 2.5, math.nan])
    assert compare(a, a.clone()).outcome is IDENTICAL
    v = compare(a, b)
    assert v.outcome is UNDECIDED
    assert v.counts == {"identical": 2, "rounding": 0, "different": 0, "undecided": 1, "total": 3}
    assert "1 of 3 outputs differs, and without the input and the layer nobody can tell" in v.explanation
    assert (v.worst.index, v.worst.actual, v.worst.expected) == ((1,), 2.0, 2.5)
    assert (v.max_ratio, v.arithmetic, v.worst.exact) == (None, None, None)
    assert compare(a, b, atol=0.1).outcome is DIFFERENT
    assert compare(a, b, atol=1.0).outcome is UNDECIDED, "a tolerance is no evidence of equivalence"
    assert compare(a, a.double()).outcome is UNDECIDED


def test_integers_need_no_layer():
    v = compare(torch.tensor([[1, 2]]), torch.tensor([[1, 3]]))
    assert v.outcome is DIFFERENT
    assert "1 of 2 integer outputs differ" in v.explanation


@pytest.mark.parametrize(
    ("tolerances", "text", "outcome"),
    [
        ({"rtol": 1e-3}, "rtol=0.001, atol=0: holds", ROUNDING),
        ({"atol": 0.0}, "rtol=0, atol=0: is exceeded at 1 of 12 outputs", DIFFERENT),
        ({"rtol": 0, "atol": 1e-9}, "rtol=0, atol=1e-09: is exceeded at 1 of 12 outputs", DIFFERENT),
    ],
)
def test_a_tolerance_is_a_further_condition_and_is_named(tolerances, text, outcome):
    x, w, b = layer(n=200)
    y = right(x, w, b)
    v = compare(moved(y, (2, 1), 1), y, input=x, weight=w, bias=b, **tolerances)
    assert v.outcome is outcome
    assert v.conditions == (text,)
    assert f"  condition    {text}" in str(v)
    if outcome is DIFFERENT:
        assert v.worst.index == (2, 1)
        assert "1 exceeds the tolerance that was asked for" in v.explanation


def test_a_tolerance_forgives_nothing():
    x, w, b = layer()
    y = right(x, w, b)
    v = compare(y + 0.01, y, input=x, weight=w, bias=b, atol=1.0)
    assert v.outcome is DIFFERENT
    assert v.conditions == ("rtol=0, atol=1: holds",)


def test_an_arithmetic_may_be_given():
    x, w, b = layer(n=64)
    y = right(x.bfloat16().float(), w.bfloat16().float(), b)
    assert compare(y, right(x, w, b), input=x, weight=w, bias=b).outcome is DIFFERENT
    from dataclasses import replace

    low = replace(declared(torch.float32), name="bfloat16 products", relative=2 * 2**-8 + 2**-16)
    v = compare(y, right(x, w, b), input=x, weight=w, bias=b, arithmetic=low)
    assert v.outcome is ROUNDING
    assert v.arithmetic == "bfloat16 products"


def test_the_layer_may_be_a_module():
    x, w, b = layer()
    linear = nn.Linear(24, 3)
    linear.load_state_dict({"weight": w, "bias": b})
    conv = nn.Conv2d(2, 3, (3, 4), bias=False)
    conv.load_state_dict({"weight": w.view(3, 2, 3, 4)})
    assert compare(right(x, w, b), right(x, w, b), input=x, layer=linear).outcome is IDENTICAL
    assert compare(right(x, w), right(x, w), input=x.view(4, 2, 3, 4), layer=conv).outcome is IDENTICAL
    assert compare(right(x, w, b), right(x, w, b), input=x, layer=conv).outcome is DIFFERENT


# In words and as data


def verdicts():
    for dtype in (*FLOATS, torch.complex64, torch.complex128, torch.int8, torch.int64):
        x, w, b = (Values("small_integers", i).tensor(s, dtype) for i, s in enumerate(((4, 9), (3, 9), (3,))))
        y = (
            (x.to(torch.complex128) @ w.to(torch.complex128).T + b.to(torch.complex128))
            .to(torch.complex128 if dtype.is_complex else torch.float64)
            .to(dtype)
            if dtype.is_complex
            else (x.double() @ w.double().T + b.double()).to(dtype)
        )
        yield compare(y, y, input=x, weight=w, bias=b)
        yield compare(y + 1, y, input=x, weight=w, bias=b)
        yield compare(y + 1, y)
        if dtype.is_floating_point or dtype.is_complex:
            large = torch.full_like(y, 1e38 if dtype != torch.float16 else 6e4)
            yield compare(large * (1 / 3), y, input=x, weight=w, bias=b, rtol=1e-300, atol=1e-300)
            yield compare(torch.full_like(y, math.nan), y, input=x, weight=w, bias=b)
            yield compare(y, large, input=torch.full_like(x, 1e38 if dtype != torch.float16 else 6e4), weight=w * 9)
    yield compare(torch.zeros(2, 3), torch.zeros(3, 2))
    small = torch.full((1, 1), complex(-1.23456789012e-308, -1.23456789012e-308), dtype=torch.complex128)
    yield compare(small * 3, small, input=small, weight=torch.ones(1, 1, dtype=torch.complex128))


def test_every_verdict_is_json_and_at_most_80_columns_wide():
    seen = set()
    for v in verdicts():
        seen.add(v.outcome)
        data = json.loads(json.dumps(v.to_dict(), allow_nan=False))
        assert data["outcome"] == v.outcome.value
        assert data["equivalent"] is v.equivalent
        assert set(data) == {
            "outcome",
            "equivalent",
            "explanation",
            "dtype",
            "shape",
            "counts",
            "max_ratio",
            "worst",
            "arithmetic",
            "conditions",
            "cause",
        }
        lines = str(v).splitlines()
        lines = [line for line in lines if not line.startswith("  fix ")]  # code, which is not wrapped
        assert max(map(len, lines)) <= 80, max(lines, key=len)
        assert lines[0].startswith(v.outcome.name)
        assert sum(v.counts.values()) in (0, 2 * v.counts.get("total", 0))
    assert seen == {IDENTICAL, DIFFERENT, UNDECIDED}


def test_the_words_of_a_difference():
    x, w = torch.ones(1, 4), torch.ones(1, 4)
    v = compare(torch.tensor([[5.0]]), torch.tensor([[4.0]]), input=x, weight=w)
    assert str(v).splitlines() == [
        "DIFFERENT: 1 of 1 output lies outside the envelope: no right kernel gives it",
        "(float32 on cpu, float32 accumulator).",
        "  worst at     [0, 0]",
        "  actual       5",
        "  expected     4",
        "  exact        4",
        "  envelope     [3.99999905, 4.00000095]",
        "               4 terms of total size 4",
        "  error        over a million times the envelope",
    ]


def test_a_verdict_does_not_change():
    v = compare(torch.zeros(1), torch.zeros(1))
    with pytest.raises(AttributeError):
        v.outcome = DIFFERENT


# Misuse

ONE = torch.ones(1, 2)
W = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([1.0], ONE), "actual: expected a torch.Tensor, got list; pass the result of a layer"),
        (lambda: compare(ONE, 1.0), "expected: expected a torch.Tensor, got float; pass the result of a layer"),
        (lambda: compare(ONE.bool(), ONE), "actual: expected a dtype among float32, float64, .*, got bool; convert"),
        (lambda: compare(ONE.to("meta"), ONE), "actual: expected values, got a tensor on the meta device"),
        (
            lambda: compare(ONE, ONE.half()),
            "expected: expected the dtype of actual, float32, or a wider one of its kind, ",
        ),
        (
            lambda: compare(ONE, ONE.int()),
            "expected: expected the dtype of actual, float32, or a wider one .* got int32;",
        ),
        (
            lambda: compare(ONE.half(), ONE.bfloat16()),
            "expected: expected the dtype of actual, float16, or a wider one",
        ),
        (lambda: compare(ONE.char(), ONE.int()), "expected: expected the dtype of actual, int8, .* got int32"),
        (
            lambda: compare(ONE, ONE.to(torch.complex64)),
            "expected: expected the dtype of actual, float32, .* complex64",
        ),
        (
            lambda: compare(ONE, ONE, input=ONE),
            r"weight \(or layer\): expected a tensor, got None; pass both",
        ),
        (lambda: compare(ONE, ONE, weight=W), "input: expected a tensor, got None; pass both"),
        (lambda: compare(ONE, ONE, bias=ONE[0]), r"weight \(or layer\): expected a tensor, got None"),
        (
            lambda: compare(ONE, ONE, input=ONE, weight=W, layer=nn.Linear(2, 2)),
            "layer: expected either layer or weight",
        ),
        (lambda: compare(ONE, ONE, input=ONE, layer=nn.ReLU()), "layer: expected a Linear or a convolution, got ReLU"),
        (
            lambda: compare(ONE, ONE, input=ONE, layer=nn.Conv1d(2, 2, 1, groups=2)),
            "layer: expected a convolution of one group, got Conv1d",
        ),
        (
            lambda: compare(ONE, ONE, input=ONE, layer=nn.ConvTranspose2d(3, 2, 1)),
            r"input: expected \(\*batch, 3, \*spatial\) with 2 spatial sizes, got \(1, 2\)",
        ),
        (
            lambda: compare(ONE, ONE, input=ONE.double(), weight=W),
            "input: expected the dtype of actual, float32, got fl",
        ),
        (
            lambda: compare(ONE, ONE, input=ONE, weight=W.half()),
            "weight: expected the dtype of actual, float32, got fl",
        ),
        (lambda: compare(ONE, ONE, input=[1, 2], weight=W), "input: expected a torch.Tensor, got list"),
        (lambda: compare(ONE, ONE, input=ONE, weight=W[0]), r"weight: expected shape \(O, n\) or .* got \(2,\)"),
        (
            lambda: compare(ONE, ONE, input=ONE, weight=W, bias=ONE),
            r"bias: expected shape \(2,\), got \(1, 2\); pass the layer's, one entry per row of weight",
        ),
        (lambda: compare(ONE, ONE, input=torch.ones(1, 3), weight=W), r"input: expected \(\*batch, 2\) or .* \(1, 3\)"),
        (
            lambda: compare(ONE, ONE, input=torch.ones(2, 2), weight=W),
            "input: expected one row of 2 features, or one map",
        ),
        (lambda: compare(ONE, ONE, rtol=-1.0), "rtol: expected a finite number of at least 0, got -1.0"),
        (lambda: compare(ONE, ONE, atol=True), "atol: expected a finite number of at least 0, got True"),
        (lambda: compare(ONE, ONE, atol=math.nan), "atol: expected a finite number of at least 0, got nan"),
        (lambda: compare(ONE, ONE, rtol="1e-3"), "rtol: expected a finite number of at least 0, got '1e-3'"),
    ],
)
def test_misuse_is_told(call, message):
    with pytest.raises(EquivError, match="^" + message):
        call()


def test_a_verdict_is_true_where_it_is_equivalent_and_says_so():
    a = torch.tensor([1.0, 2.0])
    for actual, truth in ((a.clone(), True), (a + 1, False)):
        v = compare(actual, a)
        assert bool(v) is v.equivalent is truth  # UNDECIDED is no evidence: false
    assert compare(a + 1, a).outcome is UNDECIDED
    for text in ("``if verdict:``", "``str(verdict)``", "``UNDECIDED``"):
        assert text in Verdict.__doc__


def test_functions_in_place_of_results_are_sent_to_where_they_are_served():
    with pytest.raises(EquivError, match=r"actual: expected a torch.Tensor, got function; .*equiv.assert_equivalent"):
        compare(lambda x: x, lambda x: x)
    with pytest.raises(EquivError, match=r"equiv\.certify"):
        compare(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(EquivError, match=r"actual: expected a torch.Tensor, got int; pass the result of a layer$"):
        compare(1, 2)


@pytest.mark.parametrize(
    ("value", "other", "words"),
    [
        (1.0, 1.0, "0 ulp apart"),
        (1.0, 1.0 + 2**-23, "1 ulp apart"),
        (1.0, 1.0 + 2**-23 * 999_999, "999,999 ulp apart"),
        (2.0**-149, 0.0, "1 ulp apart"),
        (1.0, 0.0, ""),
        (-1.0, 1.0, "of opposite sign"),
        (-(2.0**-149), 2.0**-149, "2 ulp apart"),
        (1.0, 100.0, "a factor of 100 apart"),
        (1.0, math.inf, ""),
        (math.nan, 1.0, ""),
    ],
)
def test_the_distance_of_two_numbers_is_said_in_words_that_tell(value, other, words):
    assert gap_words(torch.tensor(value), torch.tensor(other)) == words


def test_the_distance_of_numbers_with_more_digits():
    one = torch.tensor(1.0, dtype=torch.float64)
    assert gap_words(one + 2**-30, one) == "9.3e-10 of its size apart"
    assert gap_words(torch.tensor(3), torch.tensor(5)) == ""
    assert gap_words(torch.tensor(3j), torch.tensor(5j)) == ""
