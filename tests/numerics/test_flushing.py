"""Subnormals that a thread flushes: what is exact does not depend on it, what a kernel may return does."""

import subprocess
import sys

import pytest
import torch
from numerics_helpers import flushing
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

import equiv
from equiv.dtypes import COMPLEX, FLOATS
from equiv.numerics import Reference, declared, format_of

X, W = torch.tensor([[1e38]]), torch.tensor([[1e-39]])  # a subnormal weight; the product is 0.1


def test_the_reference_is_the_same_where_subnormals_are_flushed():
    assert flushing(lambda: Reference(X, W).value.item()) == Reference(X, W).value.item() != 0.0


def test_a_flushed_result_is_right_where_the_flag_is_on_and_the_verdict_says_so():
    verdict = flushing(lambda: equiv.compare(F.linear(X, W), F.linear(X, W), input=X, weight=W))
    assert verdict.outcome is equiv.Outcome.IDENTICAL
    assert "set_flush_denormal" in verdict.explanation


def test_a_result_that_was_not_flushed_is_right_there_too():
    exact = F.linear(X, W)
    assert flushing(lambda: equiv.compare(exact, exact, input=X, weight=W).equivalent)


def test_a_flushed_result_is_wrong_where_the_flag_is_off():
    flushed = flushing(lambda: F.linear(X, W))
    assert flushed.item() == 0.0
    verdict = equiv.compare(flushed, F.linear(X, W), input=X, weight=W)
    assert verdict.outcome is equiv.Outcome.DIFFERENT
    assert not declared(torch.float32).flushes_inputs


def test_the_flag_is_put_back_after_a_comparison():
    def look():
        equiv.compare(torch.zeros(1, 1), torch.zeros(1, 1), input=X, weight=W)
        return declared(torch.float32).flushes_inputs

    assert flushing(look)


def test_formats_do_not_depend_on_the_flag_at_the_first_import():
    code = """
import torch
torch.set_flush_denormal(True)
from equiv.numerics import declared, format_of
print(format_of(torch.float64).min_subnormal.hex(), declared(torch.float32).flushes_inputs)
torch.set_flush_denormal(False)
print(format_of(torch.float64).min_subnormal.hex(), declared(torch.float32).flushes_inputs)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    least = format_of(torch.float64).min_subnormal.hex()
    assert done.stdout.split()[1::2] == ["True", "False"]
    assert done.stdout.split()[2] == least == "0x0.0000000000001p-1022"


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=str)
def test_without_a_non_zero_term_nothing_but_zero_is_right(dtype):
    x, w = torch.zeros(1, 3, dtype=dtype), torch.ones(1, 3, dtype=dtype)
    for value, outcome in (
        (0.0, equiv.Outcome.IDENTICAL),
        (format_of(dtype).min_subnormal, equiv.Outcome.DIFFERENT),
    ):
        y = torch.full((1, 1), value, dtype=dtype)
        assert equiv.compare(y, y, input=x, weight=w).outcome is outcome


def test_complex_factors_whose_parts_have_a_subnormal_sum_may_lose_it():
    """Three real products begin with sums of parts: flushed, what a large factor then multiplies is gone."""
    least = format_of(torch.float32).min_normal
    small, large = torch.tensor([[complex(1.5, -1.25)]]) * least, torch.tensor([[complex(2.0**100, 2.0**99)]])
    for x, w in ((small, large), (large, small)):

        def look(x=x, w=w):
            a, b, c = x.real * w.real, x.imag * w.imag, (x.real + x.imag) * (w.real + w.imag)
            assert not c.any()
            arithmetic = declared(torch.complex64)
            return Reference(x, w).assess(torch.complex(a - b, c - a - b), arithmetic)

        assert flushing(look).all_inside
        kept = Reference(x, w).assess(flushing(lambda x=x, w=w: F.linear(x, w)), declared(x.dtype))
        assert kept.all_inside  # four products lose nothing, with or without the flag
    assert not Reference(small, large).assess(torch.zeros(1, 1) * 1j, declared(torch.complex64)).all_inside


def test_the_reference_is_the_same_where_worker_threads_flush_too():
    code = """
import torch
torch.set_num_threads(4)
torch.set_flush_denormal(True)  # before the workers start: they take the flag over, and keep it
from equiv.numerics import Reference
x = torch.full((2000, 200), 713624, dtype=torch.int32).view(torch.float32)  # 1e-39
print(int((x * 1.0 != 0).sum()), torch.get_num_threads())
print(int((Reference(x, torch.ones(3, 200)).value == 0).sum()), torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split()[1:] == ["4", "0", "4"]
