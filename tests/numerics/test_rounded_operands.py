"""Roundings of operands and results in an arithmetic: what is judged is the layer of the rounded operands."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from equiv.numerics import Reference, Rounding, declared


def a_layer(n=24):
    g = torch.Generator().manual_seed(0)
    return torch.randn(16, n, generator=g), torch.randn(8, n, generator=g), torch.randn(8, generator=g)


BFLOAT16 = Rounding("bfloat16")


def test_a_reference_rounds_operands_as_its_arithmetic_says():
    x, w, b = a_layer()
    reference = Reference(x, w, b)
    y = torch.nn.functional.linear(x.bfloat16().float(), w.bfloat16().float(), b)
    rounded = replace(declared(torch.float32), operands=(BFLOAT16, BFLOAT16, None))
    assert reference.assess(y, rounded).all_inside
    assert not reference.assess(y, declared(torch.float32)).all_inside
    assert not reference.assess(torch.nn.functional.linear(x, w, b), rounded).all_inside
    assert not reference.assess(y - 0.1 * b, rounded).all_inside
    assert reference.largest_ratio(reference.value.float(), rounded) is None


@pytest.mark.parametrize("kept", [BFLOAT16, Rounding("float16"), Rounding("steps", 2.0**-4), Rounding("TF32")])
def test_results_are_rounded_once_and_no_otherwise(kept):
    x, w, b = a_layer()
    arithmetic = replace(declared(torch.float32), results=kept)
    reference = Reference(x, w, b)
    y = kept(torch.nn.functional.linear(x, w, b))
    found = reference.assess(y, arithmetic)
    assert found.all_inside
    assert found.max_ratio <= 1
    assert not reference.assess(torch.nn.functional.linear(x, w, b), arithmetic).all_inside
    apart = kept(kept(torch.nn.functional.linear(x, w)) + b)
    assert not reference.assess(apart, arithmetic).all_inside
    assert reference.assess(apart, replace(arithmetic, bias_rounding="either")).all_inside


def test_steps_follow_from_the_values_or_are_given():
    values = torch.tensor([[0.0, 1.0, -127.0], [0.5, 0.25, 0.1]])
    assert torch.equal(Rounding("steps", levels=127.0)(values)[0], values[0])
    rows = Rounding("steps", levels=127.0, by_row=True)(values)
    assert rows[1].tolist() == pytest.approx([0.5, 64 * 0.5 / 127, 25 * 0.5 / 127])
    assert Rounding("steps", 0.5, least=-2.0, most=1.0)(values)[0].tolist() == [0.0, 0.5, -1.0]
    ranged = Rounding("steps", levels=255.0, ranged=True)(values)
    assert ranged[0].tolist() == pytest.approx([0.0, 2 * 128 / 255, -253 * 128 / 255])
    assert torch.equal(Rounding("steps", levels=127.0)(torch.zeros(2, 2)), torch.zeros(2, 2))
    assert [str(Rounding("steps", step)) for step in (0.25, 0.043)] == ["steps of 2^-2", "steps of 0.043"]
    assert torch.equal(Rounding("bfloat16")(torch.tensor([3])), torch.tensor([3]))
    z = torch.complex(values, -values)
    assert torch.equal(BFLOAT16(z).imag, -BFLOAT16(values))
