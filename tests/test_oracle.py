"""Right kernels in other orders of summation pass every law; broken ones fail the laws they break, and no others."""

from __future__ import annotations

import random

import pytest
import torch

import equiv.laws
import equiv.testing


class Kernel:
    """A layer carried out without torch's matrix kernels: products, and a sum of them in a given order.

    Args:
        name: Of the backend.
        order: ``(rows, O, K)`` -> ``(rows, O)``.
        accumulator: Dtype of products and sums for real floats; by default float32, float64 for float64.
        bias_first: Whether the bias is the first term or the last.
    """

    def __init__(self, name, order, *, accumulator=None, bias_first=False):
        self.name = name
        self.device = torch.device("cpu")
        self.order = order
        self.accumulator = accumulator
        self.bias_first = bias_first

    def linear(self, input, weight, bias=None):
        return self.dense(input.reshape(-1, weight.shape[1]), weight, bias).reshape(*input.shape[:-1], len(weight))

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        dims = weight.ndim - 2
        batched = input if input.ndim == weight.ndim else input[None]
        windows = self.windows(batched, weight.shape[2:], stride, dilation)
        places = windows.shape[2 : 2 + dims]
        rows = windows.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        weight = self.flattened(weight)
        y = self.dense(rows.reshape(-1, weight.shape[1]), weight, bias)
        y = y.reshape(len(batched), *places, len(weight)).movedim(-1, 1)
        return y if batched is input else y[0]

    def windows(self, x, kernel, stride, dilation):
        """``(N, C, *places, *kernel)``."""
        stride, dilation = ((v,) * len(kernel) if isinstance(v, int) else v for v in (stride, dilation))
        for d, (k, s, e) in enumerate(zip(kernel, stride, dilation, strict=True)):
            x = x.unfold(2 + d, (k - 1) * e + 1, s)[..., ::e]
        return x

    def flattened(self, weight):
        return weight.flatten(1)

    def dense(self, x, weight, bias):
        dtype, wide = x.dtype, self.wide(x.dtype)
        terms = x.to(wide)[:, None, :] * weight.to(wide)[None]
        if bias is not None:
            column = bias.to(wide)[None, :, None].expand(len(x), -1, 1)
            terms = torch.cat([column, terms] if self.bias_first else [terms, column], -1)
        return self.order(terms).to(dtype)

    def wide(self, dtype):
        if not dtype.is_floating_point:
            return dtype
        return self.accumulator or (torch.float64 if dtype == torch.float64 else torch.float32)


def sequential(terms):
    total = terms[..., 0]
    for k in range(1, terms.shape[-1]):
        total = total + terms[..., k]
    return total


def backwards(terms):
    return sequential(terms.flip(-1))


def pairwise(terms):
    while terms.shape[-1] > 1:
        half = (terms.shape[-1] + 1) // 2
        rest = terms.shape[-1] - half
        terms = torch.cat([terms[..., :rest] + terms[..., half:], terms[..., rest:half]], -1)
    return terms[..., 0]


def blocked(terms):
    return sequential(torch.stack([pairwise(part) for part in terms.split(13, -1)], -1))


def tree(terms):
    chance, pool = random.Random(7), list(terms.unbind(-1))
    while len(pool) > 1:
        a, b = (pool.pop(chance.randrange(len(pool))) for _ in range(2))
        pool.append(a + b)
    return pool[0]


RIGHT = (
    Kernel("sequential", sequential),
    Kernel("backwards", backwards),
    Kernel("pairwise", pairwise),
    Kernel("blocked", blocked, bias_first=True),
    Kernel("tree", tree),
    Kernel("float64_rounded_once", blocked, accumulator=torch.float64),
)


class Sums(Kernel):
    """A right kernel on torch's own sum, to put one fault in."""

    def __init__(self):
        super().__init__(type(self).__name__, lambda terms: terms.sum(-1))


class DropsTheLastTerm(Sums):
    def dense(self, x, weight, bias):
        return super().dense(x[:, :-1], weight[:, :-1], bias) if x.shape[1] > 1 else super().dense(x, weight, bias)


class FlattensAsHWC(Sums):
    def flattened(self, weight):
        return weight.movedim(1, -1).flatten(1)


class FlipsTheKernel(Sums):
    def flattened(self, weight):
        return weight.flip(*range(2, weight.ndim)).flatten(1)


class DropsTheBias(Sums):
    def dense(self, x, weight, _bias):
        return super().dense(x, weight, None)


class DoublesTheBias(Sums):
    def dense(self, x, weight, bias):
        return super().dense(x, weight, None if bias is None else bias + bias)


class SwallowsNaN(Sums):
    def dense(self, x, weight, bias):
        return super().dense(x.nan_to_num(0.0), weight, bias)


class BreaksFromBatch64(Sums):
    """Reads a strided weight as if it were contiguous, once there are 64 rows."""

    def dense(self, x, weight, bias):
        if len(x) >= 64 and not weight.is_contiguous() and weight.untyped_storage().nbytes() >= weight.nbytes:
            weight = weight.as_strided(weight.shape, (weight.shape[1], 1), weight.storage_offset())
        return super().dense(x, weight, bias)

    def flattened(self, weight):
        return weight.reshape(len(weight), -1)


class ComputesInBfloat16(Sums):
    def dense(self, x, weight, bias):
        x, weight = x.bfloat16().to(x.dtype), weight.bfloat16().to(weight.dtype)
        return super().dense(x, weight, bias)


class RoundsLikeTF32(Sums):
    def dense(self, x, weight, bias):
        return super().dense(self.cut(x), self.cut(weight), bias)

    def cut(self, t):
        return t if t.dtype != torch.float32 else (t.resolve_neg().view(torch.int32) & ~0x1FFF).view(torch.float32)


class AccumulatesInBfloat16(Sums):
    def __init__(self):
        super().__init__()
        self.order = sequential
        self.accumulator = torch.bfloat16


class Saturates(Sums):
    def dense(self, x, weight, bias):
        exact = super().dense(x.long(), weight.long(), None if bias is None else bias.long())
        info = torch.iinfo(x.dtype)
        return exact.clamp(info.min, info.max).to(x.dtype)


class ShiftsRows(Sums):
    def dense(self, x, weight, bias):
        return super().dense(x, weight, bias).roll(1, 0)


class RemembersTheLastCall(Sums):
    last = 0.0

    def dense(self, x, weight, bias):
        y = super().dense(x, weight, bias) + self.last
        self.last = 0.0 if self.last else 1.0
        return y


class AltersItsInput(Sums):
    def dense(self, x, weight, bias):
        y = super().dense(x, weight, bias)
        x.zero_()
        return y


class IgnoresStride(Sums):
    def windows(self, x, kernel, _stride, dilation):
        return super().windows(x, kernel, 1, dilation)


class LosesTheBatchOfOne(Sums):
    def linear(self, input, weight, bias=None):
        return super().linear(input, weight, bias).squeeze(0)


DTYPES = ("float32", "bfloat16", "complex64", "int32", "float64", "float16")
LAWS = [name for name, law in equiv.laws.LAWS.items() if not law.needs_torch and name != "layout"]


def broken_by(kernel, dtype, laws, examples):
    results = equiv.testing.check_backend(kernel, laws=laws, dtypes=[dtype], examples=examples, seed=3)
    return {result.law: result.failure for result in results if result.failure is not None}


@pytest.mark.parametrize("kernel", RIGHT, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("half", [0, 1])
def test_a_right_kernel_passes_every_law_in_any_order_of_summation(kernel, half):
    """Every kernel in two dtypes, every dtype in two kernels."""
    dtype = DTYPES[(RIGHT.index(kernel) + 3 * half) % len(DTYPES)]
    found = broken_by(kernel, dtype, LAWS, 8) | broken_by(kernel, dtype, ["layout"], 2)
    assert not found, "\n".join(failure.render() for failure in found.values())


BROKEN = {  # kernel, dtype: laws that it breaks, laws that it keeps, what is said of the cause or the form
    (DropsTheLastTerm, "float32"): (("exact", "readback"), ("scaling", "purity"), ""),
    (FlattensAsHWC, "float32"): (("exact", "readback"), ("scaling", "purity"), "full"),
    (FlipsTheKernel, "bfloat16"): (("exact", "readback"), ("scaling", "purity"), "full"),
    (DropsTheBias, "complex64"): (("exact", "readback"), ("purity",), ""),
    (DoublesTheBias, "float32"): (("exact", "readback"), ("scaling", "purity"), "the bias is added twice"),
    (SwallowsNaN, "float32"): (("special_values", "batch"), ("exact", "readback", "purity"), ""),
    (BreaksFromBatch64, "float32"): (("layout",), ("exact", "readback", "purity"), ""),
    (ComputesInBfloat16, "float32"): (("exact", "forward"), ("scaling", "purity"), "bfloat16"),
    (RoundsLikeTF32, "float32"): (("exact", "readback"), ("scaling", "purity"), "TF32"),
    (AccumulatesInBfloat16, "float32"): (("exact", "forward"), ("scaling", "purity"), ""),
    (Saturates, "int8"): (("exact", "forward"), ("purity",), ""),
    (ShiftsRows, "float16"): (("exact", "batch"), ("scaling", "purity"), "rows of the batch shifted by 1"),
    (RemembersTheLastCall, "float32"): (("exact", "purity"), (), ""),
    (AltersItsInput, "float32"): (("purity",), (), "the call changed its inputs"),
    (IgnoresStride, "int32"): (("dense",), ("exact", "readback", "free_parameters"), "full"),
    (LosesTheBatchOfOne, "float32"): (("batch",), (), "linear"),
}
EXAMPLES = {"layout": 40, "special_values": 40}


@pytest.mark.parametrize(("kind", "dtype"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_kernel_fails_the_laws_that_it_breaks_and_no_others(kind, dtype):
    breaks, keeps, words = BROKEN[kind, dtype]
    found = {}
    for law in (*breaks, *keeps):
        found |= broken_by(kind(), dtype, [law], EXAMPLES.get(law, 12))
    assert set(found) == set(breaks)
    said = " ".join(f"{failure.cause} {failure.note} {failure.form}" for failure in found.values())
    assert words in said
