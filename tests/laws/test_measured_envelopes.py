"""Envelopes that follow measured arithmetic: weaker kernels pass and are named, broken ones still fail."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

from equiv import EquivError
from equiv.backends import TorchEager
from equiv.laws import Call, items, run_item
from equiv.laws.arithmetic import arithmetic_of, usable, weaker_arithmetic
from equiv.testing import check_backend

FORWARD_LAWS = ["forward", "exact", "special_values"]


def cut_to_tf32(t):
    return (t.resolve_neg().view(torch.int32) & -(1 << 13)).view(torch.float32)


def rounded_to_bfloat16(t):
    return t.bfloat16().float()


class Weak:
    """A float32 backend whose factors, or whose results, lose bits."""

    device = torch.device("cpu")

    def __init__(self, name, factor=lambda t: t, result=lambda t: t):
        self.name, self.factor, self.result = name, factor, result

    def supports(self, dtype, form):
        return dtype == torch.float32

    def linear(self, input, weight, bias=None):
        return self.result(F.linear(self.factor(input), self.factor(weight), bias))

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        conv = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return self.result(conv(self.factor(input), self.factor(weight), bias, stride=stride, dilation=dilation))


TF32, BF16 = Weak("tf32", cut_to_tf32), Weak("bf16", rounded_to_bfloat16)


def run(backend, law, arithmetic, *, examples=10, dtype="float32"):
    (item,) = items([backend], laws=[law], dtypes=[dtype])
    return run_item(item, examples=examples, seed=3, arithmetic=arithmetic)


@pytest.mark.parametrize("law", FORWARD_LAWS)
@pytest.mark.parametrize(("backend", "bits"), [(TF32, 11), (BF16, 8)], ids=["tf32", "bf16"])
def test_a_kernel_of_fewer_bits_passes_when_measured_and_is_named(backend, bits, law):
    found = run(backend, law, "measured", examples=8)
    assert found.failure is None
    assert any(f"factors keep {bits} of 24 bits" in text for text in found.coverage["weaker than declared"])


@pytest.mark.parametrize(("backend", "bits"), [(TF32, 11), (BF16, 8)], ids=["tf32", "bf16"])
def test_the_same_kernel_breaks_the_law_as_declared_and_its_arithmetic_is_the_cause(backend, bits):
    found = run(backend, "forward", "declared", examples=60)
    assert found.failure is not None
    words = {8: ("bfloat16",), 11: ("TF32",)}[bits]
    assert any(word in found.failure.cause.sentence for word in words)
    assert "weaker than declared" not in found.coverage


BROKEN = {
    "a thousandth too large": lambda y: y * 1.001,
    "last entry not added": lambda y: torch.cat([y.flatten()[:-1], y.new_zeros(1)]).view(y.shape) if y.numel() else y,
    "twice": lambda y: 2 * y,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_kernel_is_no_weaker_arithmetic(name):
    backend = Weak("wrong", result=BROKEN[name])
    assert run(backend, "exact", "measured").failure is not None
    assert run(backend, "forward", "measured").failure is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("law", ["forward", "special_values"])
def test_torch_lies_in_the_envelope_that_it_is_measured_to_have(law, dtype):
    found = run(TorchEager(), law, "measured", dtype=dtype, examples=6)
    assert found.failure is None
    x = torch.ones(17, 35, dtype=getattr(torch, dtype))
    x[1] = torch.nan
    weaker = set(found.coverage.get("weaker than declared", ()))
    if F.linear(x, torch.ones(16, 35, dtype=x.dtype))[0].isnan().any():  # docs/findings/linear-reads-the-next-row.md
        weaker = {text for text in weaker if "linear: an infinite input spreads" not in text}
    assert not weaker


def call(x=None, form="linear", bias=None):
    x = torch.ones(3, 8) if x is None else x
    return Call(form, x, torch.ones(2, *x.shape[1:], dtype=x.dtype), bias)


def test_layout_and_sizes_of_the_call_are_those_of_the_probes():
    seen = []

    class Watching(Weak):
        def linear(self, input, weight, bias=None):
            seen.append((tuple(input.shape), input.stride(), weight.stride()))
            return super().linear(input, weight, bias)

    x = torch.ones(8, 3).T
    assert arithmetic_of(Watching("watching"), call(x)).operands.value == 24
    assert {entry[:2] for entry in seen} == {((3, 8), (1, 3))}
    one = torch.ones(1).expand(3, 8)  # rows that share memory cannot hold probes: they are laid out as they come
    assert arithmetic_of(Watching("watching"), call(one)).operands.value == 24


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_what_cannot_be_measured_is_taken_as_declared(dtype):
    assert arithmetic_of(TorchEager(), call(torch.ones(3, 8, dtype=dtype))) is None
    assert arithmetic_of(TorchEager(), call(torch.ones(0, 8))) is None


def test_a_result_is_explained_by_weaker_arithmetic_only_inside_its_envelope():
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.rand(3, 64, generator=generator), torch.rand(2, 64, generator=generator)
    this = Call("linear", x, weight, None)
    y = TF32.linear(x, weight)
    assert weaker_arithmetic(TF32, this, y).ratio < 1
    assert "11 of 24 bits" in weaker_arithmetic(TF32, this, y).cause.sentence
    assert weaker_arithmetic(TF32, this, y * 1.01) is None
    assert weaker_arithmetic(TorchEager(), this, y) is None
    assert weaker_arithmetic(TF32, this, y[:1]) is None


def test_products_that_are_wrong_in_another_way_give_no_wider_envelope():
    measured = arithmetic_of(Weak("wrong", result=BROKEN["a thousandth too large"]), call(torch.ones(3, 4)))
    assert measured is None or (measured.arithmetic.relative > 0 and usable(measured) is None)


def test_a_suite_may_ask_for_measured_envelopes():
    how = {"laws": ["exact"], "dtypes": ["float32"], "examples": 6, "seed": 3}
    assert check_backend(BF16, **how)[0].failure is not None
    assert check_backend(BF16, **how, arithmetic="measured")[0].failure is None


def test_another_word_for_the_arithmetic_is_refused():
    (item,) = items([TorchEager()], laws=["exact"], dtypes=["float32"])
    with pytest.raises(EquivError, match="arithmetic: expected one of declared, measured, got 'guessed'"):
        run_item(item, arithmetic="guessed")
