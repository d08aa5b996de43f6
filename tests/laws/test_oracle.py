"""A kernel of one's own passes every law; a broken one fails the laws that it breaks, and no others."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import equiv.laws
import equiv.testing
from equiv.backends import TorchEager
from equiv.testing import faults


class Sums:
    """A layer carried out without torch's matrix kernels: products, and torch's sum of them, in float32 or wider."""

    name = "sums"
    device = torch.device("cpu")

    def linear(self, input, weight, bias=None):
        return self.dense(input.reshape(-1, weight.shape[1]), weight, bias).reshape(*input.shape[:-1], len(weight))

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        dims = weight.ndim - 2
        windows = input if input.ndim == weight.ndim else input[None]
        stride, dilation = ((v,) * dims if isinstance(v, int) else v for v in (stride, dilation))
        for d, (k, s, e) in enumerate(zip(weight.shape[2:], stride, dilation, strict=True)):
            windows = windows.unfold(2 + d, (k - 1) * e + 1, s)[..., ::e]
        places = windows.shape[2 : 2 + dims]
        rows = windows.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        weight = weight.flatten(1)
        y = self.dense(rows.reshape(-1, weight.shape[1]), weight, bias)
        y = y.reshape(len(windows), *places, len(weight)).movedim(-1, 1)
        return y if input.ndim == dims + 2 else y[0]

    def dense(self, x, weight, bias):
        wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        terms = x.to(wide)[:, None, :] * weight.to(wide)[None]
        if bias is not None:
            terms = torch.cat([terms, bias.to(wide)[None, :, None].expand(len(x), -1, 1)], -1)
        return terms.sum(-1, dtype=wide).to(x.dtype)


class Mine(TorchEager):
    """torch's kernels as a backend of one's own: no defect of torch is excused here."""

    transforms = False

    def __init__(self):
        super().__init__()
        self.name = "mine"


LAWS = [name for name, law in equiv.laws.LAWS.items() if not law.needs_torch]


def broken_by(backend, dtype, laws, examples):
    results = equiv.testing.check_backend(backend, laws=laws, dtypes=[dtype], examples=examples, seed=3)
    return {result.law: result.failure for result in results if result.failure is not None}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int32", "float64", "float16"])
def test_a_kernel_of_ones_own_passes_every_law(dtype):
    quick = [law for law in LAWS if law != "layout"]
    found = broken_by(Sums(), dtype, quick, 8) | broken_by(Sums(), dtype, ["layout"], 2)
    assert not found, "\n".join(failure.render() for failure in found.values())


BROKEN = {  # fault, dtype: laws that it breaks, laws that it keeps, what is said of the cause or the form
    ("last-odd-channel-dropped", "float32"): (("exact", "weight_recovery"), ("scaling", "purity"), ""),
    ("kernel-read-as-hwc", "float32"): (("exact", "weight_recovery"), ("scaling", "purity"), "full"),
    ("conv1d-kernel-flipped", "bfloat16"): (("exact", "weight_recovery"), ("scaling", "purity"), "full"),
    ("bias-imaginary-part-dropped", "complex64"): (("exact", "weight_recovery"), ("purity",), ""),
    ("bias-doubled-float16", "float16"): (("exact",), ("weight_recovery", "purity"), "the bias is added twice"),
    ("nan-in-input-swallowed", "float32"): (("special_values", "batch"), ("exact", "weight_recovery", "purity"), ""),
    ("conv2d-weight-not-contiguous", "float32"): (("layout",), ("exact", "weight_recovery", "purity"), ""),
    ("products-in-bfloat16", "float32"): (("exact", "forward"), ("scaling", "purity"), "bfloat16"),
    ("products-in-tf32", "float32"): (("exact", "weight_recovery"), ("scaling", "purity"), "TF32"),
    ("bfloat16-accumulator", "bfloat16"): (("exact", "forward"), ("scaling", "purity"), ""),
    ("int8-saturates", "int8"): (("exact", "forward", "purity"), (), ""),
    ("rows-shifted", "float16"): (("exact", "batch"), ("scaling", "purity"), ""),
    ("packed-weight-cached-by-shape", "float32"): (("boundaries", "purity"), (), "another result"),
    ("input-altered-batch-of-one", "float32"): (("purity",), (), "changes its inputs"),
    ("stride-ignored", "int32"): (("dense",), ("exact", "weight_recovery", "free_parameters"), "stride"),
    ("batch-of-one-squeezed", "float32"): (("batch",), (), "linear"),
}
EXAMPLES = {"boundaries": 40, "layout": 40, "weight_recovery": 40, "special_values": 40}


@pytest.mark.parametrize(("fault", "dtype"), BROKEN)
def test_a_broken_kernel_fails_the_laws_that_it_breaks_and_no_others(fault, dtype):
    breaks, keeps, words = BROKEN[fault, dtype]
    found = {}
    for law in (*breaks, *keeps):
        with faults.inject(fault):
            found |= broken_by(Mine(), dtype, [law], EXAMPLES.get(law, 20))
    assert set(found) == set(breaks)
    said = " ".join(f"{failure.cause} {failure.summary}" for failure in found.values())
    assert words in said


class OnMaps(torch.autograd.Function):
    """A gradient that is wrong where the output has more than one position, and right elsewhere."""

    @staticmethod
    def forward(ctx, t, wrong):
        ctx.wrong = wrong
        return t.view_as(t)

    @staticmethod
    def backward(ctx, grad):
        return grad * (2 if ctx.wrong() else 1), None


class WrongBackOnMaps:
    """Doubles one gradient on maps larger than the kernel."""

    name, device = "mine", torch.device("cpu")

    def __init__(self, role):
        self.role = role

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        where = []
        given = {"input": input, "weight": weight, "bias": bias}
        if given[self.role] is not None:
            given[self.role] = OnMaps.apply(given[self.role], lambda: where[0] > 1)
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.ndim - 3]
        y = conv(given["input"], given["weight"], given["bias"], stride=stride, dilation=dilation)
        where.append(y.shape[2:].numel())
        return y

    def linear(self, input, weight, bias=None):
        return functional.linear(input, weight, bias)


@pytest.mark.parametrize("role", ["input", "weight", "bias"])
def test_a_gradient_that_is_wrong_on_larger_maps_alone_breaks_dense(role):
    found = broken_by(WrongBackOnMaps(role), "float32", ["dense", "gradients", "free_parameters"], 20)
    assert set(found) == {"dense"}
    assert f"gradient of the {role}" in found["dense"].note
