"""Verdicts, certificates and laws do not depend on the modes of torch that a caller has switched on."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import find

import equiv
from equiv import numerics, strategies
from equiv.backends import TorchEager, measure_form
from equiv.laws import check_case, items, run_item
from equiv.testing import check_backend


@contextlib.contextmanager
def _default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        yield
    finally:
        torch.set_num_threads(before)


MODES = {
    "none": contextlib.nullcontext,
    "default device meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": _default_dtype,
    "deterministic algorithms": _deterministic,
    "three threads": _threads,
}
MODE = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
ON_CPU = {"device": "cpu", "dtype": torch.float32}


def layers():
    linear = torch.nn.Linear(12, 5, **ON_CPU)
    return linear, equiv.linear_to_full_conv(linear, (3, 2, 2))


@MODE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_compare(mode, dtype):
    with mode():
        x, weight = (torch.randn(k, 12, device="cpu", dtype=dtype) for k in (4, 5))
        wide = torch.complex128 if dtype.is_complex else torch.float64
        y = (x.to(wide)[:, None] * weight.to(wide)).sum(-1).to(dtype)
        assert equiv.compare(y, y.clone(), input=x, weight=weight).outcome is equiv.Outcome.IDENTICAL
        assert equiv.compare(y * 2, y, input=x, weight=weight).outcome is equiv.Outcome.DIFFERENT
        found = numerics.Reference(x, weight).assess(y, numerics.declared(dtype))
        assert found.all_inside
        assert found.exact.dtype == wide


@MODE
def test_assert_equivalent(mode):
    with mode():
        linear, conv = layers()
        equiv.assert_equivalent(conv, linear)
        equiv.assert_equivalent(lambda x: conv(x), linear, feature_shape=(3, 2, 2))
        wrong = torch.nn.Conv2d(3, 5, 2, **ON_CPU)
        with pytest.raises(equiv.NotEquivalent, match="DIFFERENT"):
            equiv.assert_equivalent(lambda x: wrong(x), linear, feature_shape=(3, 2, 2))


@MODE
def test_certify(mode):
    with mode():
        linear, conv = layers()
        assert equiv.certify(conv, linear).equivalent
        assert equiv.certify(lambda x: conv(x), linear, feature_shape=(3, 2, 2)).equivalent
        assert not equiv.certify(torch.nn.Conv2d(3, 5, 2, **ON_CPU), linear).equivalent


@MODE
def test_laws_and_what_they_apply_to(mode):
    backend = TorchEager()
    expected = [item.id for item in items([backend], dtypes=["float32"])]
    with mode():
        assert [item.id for item in items([backend], dtypes=["float32"])] == expected
        for item in items([backend], dtypes=["float32"]):
            if item.law.id != "transforms":  # it compiles, which takes seconds
                assert run_item(item, examples=1, seed=1).failure is None, item.id
        assert [
            result.failure for result in check_backend(backend, laws=["gradients"], dtypes=["float64"], examples=2)
        ] == [None]
        case = strategies.build_case(
            strategies.Recipe((2, 1), 1, (), x=strategies.Values("distinct"), weight=strategies.Values("constant"))
        )
        for law in ("exact", "gradients", "layout"):
            check_case(law, case)


@MODE
def test_measuring_and_drawing(mode):
    sizes = {
        "dtype": torch.float32,
        "out_features": 2,
        "feature_shape": (3, 2, 2),
        "batch_shape": (4,),
        "keep": False,
        "order_limit": 0,
    }
    drawn = find(strategies.tensors((2, 2)), lambda t: t[1, 0] != 0)
    with mode():
        assert measure_form(TorchEager(), "full", **sizes).operands.value == 24
        x = find(strategies.tensors((2, 2)), lambda t: bool(t[1, 0] != 0))
        assert (x.device.type, x.dtype, x.tolist()) == ("cpu", torch.float32, drawn.tolist())


@MODE
def test_the_modes_are_as_before(mode):
    def state():
        fresh = torch.empty(0)
        return (
            fresh.device,
            fresh.dtype,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    linear, conv = layers()
    [item] = items([TorchEager()], laws=["exact"], dtypes=["int8"])
    with mode():
        before = state()
        equiv.assert_equivalent(conv, linear)
        equiv.certify(conv, linear)
        run_item(item, examples=2)
        with pytest.raises(equiv.EquivError):
            equiv.certify(conv, 3)
        assert state() == before
