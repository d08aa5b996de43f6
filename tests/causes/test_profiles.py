"""Layers computed in other formats: each profile is recognised, its arithmetic judges kernels, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from profile_kernels import HALF, PROFILES, UNRELATED, kernel, layer, low_sums
from torch import nn
from torch.nn.functional import linear

import equiv
from equiv.causes import likely_cause, name_cause
from equiv.causes.steps import common_step
from equiv.numerics import Rounding

SIZES = ((24, 8, 16, True), (256, 8, 16, False))  # n, outputs, rows, bias


def verdict_of(y, x, w, b, **options):
    return equiv.compare(y, linear(x, w, b), input=x, weight=w, bias=b, **options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", PROFILES)
def test_a_profile_is_recognised_and_its_arithmetic_tells_right_from_wrong(key, size):
    run, name, words = PROFILES[key]
    n, outputs, rows, bias = size
    x, w, b = layer(0, n, outputs, rows, bias=bias)
    y = run(x, w, b)
    cause = verdict_of(y, x, w, b).cause
    assert cause.name == name, cause
    assert all(part in cause.sentence for part in words), cause.sentence
    other = layer(1, n, outputs, rows, bias=bias)[0]
    arithmetic = cause.arithmetic
    for inputs in (x, other):
        right = run(inputs, w, b)
        assert _is_inside(right, inputs, w, b, arithmetic)
        if key == "bfloat16 sums":
            continue  # 256 terms in any order may be off by as much as they are large
        wrong = run(inputs, w.roll(1, 0), b)
        assert not _is_inside(wrong, inputs, w, b, arithmetic)
        if b is not None and "sums" not in key:
            assert not _is_inside(run(inputs, w, None), inputs, w, b, arithmetic)


def _is_inside(y, x, w, b, arithmetic):
    found = verdict_of(y, x, w, b, arithmetic=arithmetic)
    return found.outcome is not equiv.Outcome.DIFFERENT


@pytest.mark.parametrize("key", UNRELATED)
def test_other_differences_are_no_profile(key):
    for seed, (n, outputs, rows, bias) in enumerate(((256, 8, 16, True), (8, 4, 4, True), (100, 32, 4, False))):
        x, w, b = layer(seed, n, outputs, rows, bias=bias)
        y = UNRELATED[key](x, w, b, torch.Generator().manual_seed(seed))
        cause = verdict_of(y, x, w, b).cause
        assert cause is None or cause.arithmetic is None, cause


def test_one_output_that_is_off_belongs_to_no_profile():
    x, w, b = layer(0, 24, 8, 16, bias=True)
    y = PROFILES["autocast to bfloat16"][0](x, w, b)
    y[3, 4] *= 1.05
    assert verdict_of(y, x, w, b).cause is None


@pytest.mark.parametrize("key", PROFILES)
def test_certify_names_the_formats_of_a_function_on_either_side(key):
    run, name, _ = PROFILES[key]
    torch.manual_seed(0)
    reference = nn.Linear(40, 8)

    def function(x):
        return run(x, reference.weight.detach(), reference.bias.detach())

    for pair in ((function, reference), (reference, function)):
        certificate = equiv.certify(*pair)
        assert not certificate
        assert certificate.cause.name == name, (certificate.reason, certificate.cause)
        assert certificate.cause.arithmetic is not None


def test_what_data_cannot_tell_is_not_said():
    x, w, b = layer(0, 24, 8, 16, bias=True)
    x = x.mul(4).round()  # small integers are the same in every format
    cause = verdict_of(kernel(HALF, HALF, HALF)(x, w, b), x, w, b).cause
    assert cause.sentence.startswith("weights and bias are rounded to float16, sums and results are float32")
    assert "inputs" not in cause.sentence
    plain = verdict_of(kernel(HALF, HALF)(x / 4 + 0.1, w, None), x / 4 + 0.1, w, None).cause
    assert plain.name == "rounded-tf32"
    assert "or to float16, which rounds these values alike" in plain.sentence


def test_a_layer_of_float64_that_computes_in_float32():
    x, w, b = (t.double() for t in layer(0, 24, 8, 16, bias=True))
    x, w, b = x * (1 + 2.0**-40), w * (1 + 2.0**-40), b * (1 + 2.0**-40)
    y = linear(x.float(), w.float(), b.float()).double()
    cause = verdict_of(y, x, w, b).cause
    assert cause.name == "computed-float32"
    assert _is_inside(y, x, w, b, cause.arithmetic)


def test_a_layer_of_float16_that_sums_in_float16():
    x, w, b = (t.half() for t in layer(0, 256, 8, 16, bias=True))
    y = low_sums(torch.float16)(x.float(), w.float(), b.float()).half()
    cause = likely_cause(y, x=x, weight=w, bias=b, feature_shape=(256, 1))
    assert cause.name == "accumulated-float16"


def test_weights_in_steps_are_named_bit_for_bit():
    w, b = layer(0, 24, 8, 1, bias=True)[1:]
    for stored, words in (
        (PROFILES["weights in int8"], "steps of 0.00"),
        (PROFILES["weights in int8 by row"], "in a row"),
    ):
        eye = torch.eye(24)
        cause = name_cause(stored[0](eye, w, None).T.contiguous(), w, (24, 1))
        assert cause.name == "rounded-steps"
        assert words in cause.sentence
    both = name_cause(HALF(w), w, (24, 1), HALF(b), b)
    assert both.sentence == "weights and bias rounded to float16"
    assert both.arithmetic.operands[1:] == (Rounding("float16"), Rounding("float16"))


def test_steps_of_values():
    values = torch.randint(-100, 100, (50,), generator=torch.Generator().manual_seed(0))
    for step in (2.0**-4, 0.043, 3e-5, 7.0):
        found = common_step((values.float() * step).double())
        assert found == pytest.approx(step, rel=1e-6)
        kept = Rounding("steps", found)(values.float() * step)
        assert torch.equal(kept, values.float() * step)
    assert common_step(torch.rand(50, generator=torch.Generator().manual_seed(1)).double()) is None
