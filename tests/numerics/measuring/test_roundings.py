"""How sums, products and the bias are rounded: told apart, said where it is weaker, and allowed for in the envelope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import equiv
from equiv import numerics
from equiv.numerics import Measured, declared, measure

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def found(kernel: Any, dtype: torch.dtype = F32, *, n: int = 24, order_limit: int = 256) -> Measured:
    return measure(kernel, dtype=dtype, rows=3, out_features=2, in_features=n, order_limit=order_limit)


_WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest": torch.round,
    "nearest-away": lambda t: torch.trunc(t + 0.5 * t.sign()),
    "truncated": torch.trunc,
    "up": torch.ceil,
    "down": torch.floor,
    "away": lambda t: t.sign() * t.abs().ceil(),
}


def to_bits(t: Tensor, bits: int, way: str = "nearest") -> Tensor:
    mantissa, exponent = torch.frexp(t.double())
    return torch.ldexp(_WAYS[way](mantissa * 2.0**bits) * 2.0**-bits, exponent)


def stepwise(way: str, bits: int = 24, *, reverse: bool = False, product: Any = None, bias_bits: int = 53) -> Any:
    """A running sum whose every step is rounded in a stated way."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        terms = list(x.double().T[:, :, None] * weight.double().T[:, None, :])
        terms = [to_bits(t, bits, way) if product is None else product(t) for t in terms]
        total, *others = terms[::-1] if reverse else terms
        for term in others:
            total = to_bits(total + term, bits, way)
        if bias is not None:
            total = to_bits(total + to_bits(bias, bias_bits), bits, way)
        return total.to(x.dtype)

    return run


ORDERS = [(False, 24), (True, 14), *(pytest.param(*both, marks=pytest.mark.slow) for both in ((True, 24), (False, 14)))]


@pytest.mark.parametrize(("reverse", "bits"), ORDERS)
@pytest.mark.parametrize("way", _WAYS)
def test_the_rounding_of_sums_is_told_by_both_signs_ties_and_quarters(way: str, reverse: bool, bits: int) -> None:
    run = stepwise(way, bits, reverse=reverse)
    for dtype in (F32, BF16, F16) if bits == 24 and way in ("nearest", "truncated") else (F32,):
        m = found(run, dtype, n=96, order_limit=8)
        assert m.accumulator_rounding.value == way, str(m)
        said = [text for text in m.agrees_with() if "rounding to nearest is declared" in text]
        assert bool(said) == (not way.startswith("nearest"))
        words = {"away": "away from zero", "up": "rounded up", "down": "rounded down", "truncated": "truncated"}
        assert all(words[way] in text for text in said)
        for x in (torch.full((3, 96), 2.0**-9), torch.randn(3, 96, generator=torch.Generator().manual_seed(2))):
            for sign in (1, -1):
                given = sign * x.to(dtype)
                given[:, 0] = sign
                w = torch.ones(2, 96).to(dtype)
                assert numerics.assess(run(given, w, None), given, w, None, m.arithmetic).all_inside


def test_a_sum_that_is_rounded_up_lies_in_its_own_envelope() -> None:
    run = stepwise("up")
    m = found(run, n=96, order_limit=96)
    x, w = torch.full((1, 96), 2.0**-30), torch.ones(1, 96)
    x[0, 0] = 1.0
    y = run(x, w, None)
    assert numerics.assess(y, x, w, None, m.arithmetic).max_ratio < 1
    assert "sums are rounded up where rounding to nearest is declared" in m.arithmetic.note
    assert equiv.compare(y, y, input=x, weight=w).outcome is equiv.Outcome.DIFFERENT  # nothing allows it unasked


def test_different_roundings_in_one_result_are_mixed() -> None:
    up, down = stepwise("up"), stepwise("down")

    def mixed(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.cat([up(x[:1], w, b), down(x[1:], w, b)])

    m = found(mixed, n=20, order_limit=0)
    assert m.accumulator_rounding.value == "mixed"
    assert any("rounded in mixed ways" in text for text in m.agrees_with())
    assert m.arithmetic.factor == 4


@pytest.mark.parametrize(("dtype", "bits"), [(F32, 8), (F32, 11), (F16, 8), (BF16, 5)])
def test_a_bias_that_loses_bits_is_noticed_and_allowed_for(dtype: torch.dtype, bits: int) -> None:
    run = stepwise("nearest", bias_bits=bits)
    m = found(run, dtype, n=12, order_limit=8)
    assert m.bias_bits.value == bits
    assert any(f"the bias keeps {bits} of" in text for text in m.agrees_with())
    generator = torch.Generator().manual_seed(4)
    x, w, b = (torch.randn(*s, generator=generator).to(dtype) for s in ((9, 12), (7, 12), (7,)))
    assert numerics.assess(run(0.01 * x, w, b), 0.01 * x, w, b, m.arithmetic).all_inside
    assert not numerics.assess(run(0.01 * x, w, b), 0.01 * x, w, b, declared(dtype, op="full")).all_inside


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_products_rounded_to_sixteen_bits_before_a_wide_sum_are_noticed(dtype: torch.dtype) -> None:
    run = stepwise("nearest", product=lambda t: t.to(dtype).double())
    m = found(run, dtype, n=96, order_limit=8)
    assert m.products.value == "rounded", str(m)
    assert any("products are rounded to" in text for text in m.agrees_with())
    generator = torch.Generator().manual_seed(4)
    x, w = (torch.randn(*s, generator=generator).to(dtype) for s in ((9, 96), (7, 96)))
    assert numerics.assess(run(x, w, None), x, w, None, m.arithmetic).all_inside
    assert not numerics.assess(run(x, w, None), x, w, None, declared(dtype)).all_inside
