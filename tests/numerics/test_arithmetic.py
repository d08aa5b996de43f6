"""What is declared of right kernels, and which settings of torch change it."""

from __future__ import annotations

import pytest
import torch
from numerics_helpers import f64, probe

from equiv import EquivError
from equiv.numerics import Arithmetic, Reference, declared, tolerance


def test_the_declared_bounds_are_those_of_the_documentation():
    size = f64(1000.0)

    def units(dtype, op="pointwise", device="cpu"):
        return (declared(dtype, device, op).error(10, size) / size).item()

    assert units(torch.float32) == pytest.approx(10 * 2**-24)
    assert units(torch.float64) == pytest.approx(10 * 2**-53)
    assert units(torch.float16) == pytest.approx(10 * 2**-24)
    assert units(torch.bfloat16) == pytest.approx(10 * 2**-24)
    assert units(torch.float16, "grad_weight") == pytest.approx(10 * 2**-11, rel=1e-3)
    assert units(torch.bfloat16, "grad_weight") == pytest.approx(10 * 2**-8)
    assert units(torch.float16, device="cuda") >= 4 * 26 * 2**-24
    assert declared(torch.float16, "cuda").bias_rounding == "either"
    assert not declared(torch.float32, "cuda").measured
    assert declared(torch.float64, "cuda").error(10, size) == declared(torch.float64).error(10, size)


def test_one_term_has_no_error_of_its_own_unless_products_are_rounded_before():
    arithmetic = declared(torch.float32)
    assert arithmetic.error(1, f64(1.0)).item() == 0
    assert arithmetic.error(torch.tensor([0.0, 1.0, 2.0]), f64(1.0, 1.0, 1.0)).tolist() == pytest.approx(
        [0, 0, 2 * 2**-24], rel=1e-6
    )
    assert arithmetic.error(1, f64(2.0**-149)).item() == pytest.approx(4 * 2.0**-149, rel=1e-6)
    coarse = Arithmetic("tf32", torch.float32, 2.0**-24, 3e38, 2.0**-149, relative=2.0**-10)
    assert coarse.error(1, f64(1.0)).item() > 2.0**-10


def test_a_lower_precision_that_the_user_allows_is_allowed_for():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert declared(torch.float32).relative >= 2 * 2**-8
        assert declared(torch.float64).relative == declared(torch.bfloat16).relative == 0
        arithmetic, of_complex = declared(torch.float32), declared(torch.complex64)
    finally:
        torch.set_float32_matmul_precision(before)
    assert declared(torch.float32).relative == 0
    x, w = torch.full((1, 64), 1e38), torch.full((1, 64), 1e-39)  # oneDNN's kernels take such a weight for zero
    assert Reference(x, w).assess(torch.zeros(1, 1), arithmetic).all_inside
    # Of three products one is rounded up and one down: the imaginary part has both errors.
    x = torch.full((1, 1), complex(1 + 2.0**-8, 2.0**-12), dtype=torch.complex64)
    a, b, c = (part.bfloat16().float() ** 2 for part in (x.real, x.imag, x.real + x.imag))
    reference = Reference(x, x)
    assert reference.assess(torch.complex(a - b, c - a - b), of_complex).all_inside
    assert not reference.assess(torch.complex(a - b, c - a - b), declared(torch.complex64)).all_inside
    assert not reference.assess(torch.complex(a - b, 2 * (c - a)), of_complex).all_inside


def test_flushing_that_is_switched_on_is_allowed_for():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        arithmetic = declared(torch.float32)
    finally:
        torch.set_flush_denormal(False)
    assert (arithmetic.flushes_inputs, arithmetic.flushes_outputs, arithmetic.underflow) == (True, True, 2.0**-126)
    x, w = torch.tensor([[1e-39, 1.0]]), torch.tensor([[1.0, 1e-20]])
    for y in (1e-20, torch.nextafter(torch.tensor(1e-20), torch.tensor(1.0)).item()):
        assert Reference(x, w).assess(torch.tensor([[y]]), arithmetic).all_inside
    assert Reference(x[:, :1], w[:, :1]).assess(torch.zeros(1, 1), arithmetic).all_inside
    assert not declared(torch.float32).flushes_inputs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: declared(torch.float32, op="conv"),
            r"^op: expected one of linear, full, pointwise, .* got 'conv'; use any where",
        ),
        (
            lambda: declared(torch.bool),
            r"^dtype: expected one of float32, .*, got torch.bool; pass such as torch.float32",
        ),
        (lambda: declared(torch.int8), r"^dtype: expected a floating or complex dtype, got torch.int8; integers need"),
        (
            lambda: tolerance(torch.ones(1, 2).int(), torch.ones(1, 2).int()),
            r"^x: expected one of float32, .*, got torch.int32; integers are exact",
        ),
        (
            lambda: probe(style="hairy"),
            r"^style: expected one of sparse, signs, dense, address, one_hot, got 'hairy'; see",
        ),
        (lambda: probe(dtype=torch.bool), r"^dtype: expected one of float32, .* got torch.bool; pass such"),
        (lambda: probe(rows=-1), r"^rows: expected an integer of at least 0, got -1; pass a size"),
        (lambda: probe(in_features=0), r"^in_features: expected an integer of at least 1, got 0; pass a size"),
        (lambda: probe(out_features=True), r"^out_features: expected an integer of at least 1, got True; pass a size"),
    ],
)
def test_misuse_is_told(call, message):
    with pytest.raises(EquivError, match=message):
        call()


@pytest.mark.parametrize(("precision", "largest"), [("medium", 3.397e38), ("high", 3.4025e38)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_factor_that_rounds_to_infinity_leaves_its_outputs_undecided(precision, largest, dtype):
    """bfloat16 ends at 3.3962e38 and TF32 at 3.4020e38: what lies above is infinite there, and NaN times 0."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        arithmetic = declared(dtype)
    finally:
        torch.set_float32_matmul_precision(before)
    x = torch.tensor([[largest, 1.0], [1.0, 1.0]], dtype=dtype)
    w = torch.tensor([[1e-30, 1.0], [0.0, 1.0]], dtype=dtype)
    for value in (torch.inf, torch.nan, 1e8):
        y = torch.full((2, 2), value, dtype=dtype)
        for a, b in ((x, w), (w, x)):
            found = Reference(a, b).assess(y, arithmetic)
            touched = torch.tensor([[True, True], [False, False]])
            assert torch.equal(found.undecided, touched if a is x else touched.T)
            assert torch.equal(found.inside, found.undecided)
            assert Reference(a, b).largest_ratio(y, arithmetic) is None
        exact = Reference(x, w).assess(y, declared(dtype))
        assert not exact.undecided.any()
    below = x.clone()
    below[0, 0] = 3.38e38
    assert not Reference(below, w).assess(y, arithmetic).undecided.any()


def test_products_that_are_rounded_up_may_overflow():
    x, w = torch.full((1, 2), 1.85e19), torch.full((1, 2), 9.2e18)  # magnitudes of 3.387e38
    arithmetic = Arithmetic(
        "bf16", torch.float32, 2.0**-24, torch.finfo(torch.float32).max, 2.0**-149, relative=2.0**-7
    )
    for value in (torch.inf, 3.386e38):
        found = Reference(x, w * torch.tensor([1.0, -0.99])).assess(torch.full((1, 1), value), arithmetic)
        assert found.undecided.all()
