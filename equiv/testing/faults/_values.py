"""Kernels that treat integers, special values or the ends of the range wrongly."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults._arithmetic import given, is_of, result
from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import Kernel, KernelCall, replaced

SPECIAL = ("special_values", "batch", "forward")
TINY = ("forward", "readback", "special_values", "purity")

# --- integers ---------------------------------------------------------------------------------------------------------


def _saturated(c: KernelCall) -> Tensor:
    wide = c.run(x=c.x.int(), weight=c.weight.int(), bias=None if c.bias is None else c.bias.int())
    info = torch.iinfo(c.x.dtype)
    return wide.clamp(info.min, info.max).to(c.x.dtype)


def _by_way_of(dtype: torch.dtype) -> Kernel:
    def wrong(c: KernelCall) -> Tensor:
        bias = None if c.bias is None else c.bias.to(dtype)
        return c.run(x=c.x.to(dtype), weight=c.weight.to(dtype), bias=bias).to(c.x.dtype)

    return wrong


kernel_fault(
    "int8-saturates",
    "int8 ends at its largest number instead of wrapping around.",
    source="textbook: quantized kernels",
    kind="arithmetic",
    dimension="integer overflow",
    dtypes=("int8",),
    when=is_of(torch.int8),
    wrong=_saturated,
    laws=("exact", "forward"),
)
kernel_fault(
    "uint8-saturates-linear",
    "linear in uint8 ends at 255 instead of wrapping around.",
    source="textbook: quantized kernels",
    kind="arithmetic",
    dimension="integer overflow",
    dtypes=("uint8",),
    when=lambda c: not c.is_conv and is_of(torch.uint8)(c),
    wrong=_saturated,
    laws=("exact", "forward"),
)
kernel_fault(
    "uint8-weight-taken-as-signed",
    "linear in uint8 takes weights above 127 for negative ones, and cuts negative sums off at zero.",
    source="textbook: quantized kernels",
    kind="arithmetic",
    dimension="integer overflow",
    dtypes=("uint8",),
    when=lambda c: not c.is_conv and is_of(torch.uint8)(c),
    wrong=lambda c: (
        c.right(c.x.int(), c.weight.to(torch.int8).int(), None if c.bias is None else c.bias.int())
        .clamp(0)
        .to(torch.uint8)
    ),
    laws=("exact", "readback", "forward"),
)
kernel_fault(
    "int16-wraps-at-8-bits",
    "int16 wraps around at 8 bits, above 64 terms.",
    source="textbook: a narrow accumulator",
    kind="arithmetic",
    dimension="integer overflow x reduction",
    dtypes=("int16",),
    when=lambda c: c.n > 64 and is_of(torch.int16)(c),
    wrong=lambda c: c.run().to(torch.int8).to(torch.int16),
    laws=("exact", "forward", "boundaries"),
)
kernel_fault(
    "int32-by-way-of-float32",
    "linear in int32 is computed in float32, which holds 24 bits.",
    source="textbook: integers without a kernel of their own",
    kind="arithmetic",
    dimension="integer overflow",
    dtypes=("int32",),
    when=lambda c: not c.is_conv and is_of(torch.int32)(c),
    wrong=_by_way_of(torch.float32),
    laws=("exact", "forward"),
)
kernel_fault(
    "int64-by-way-of-float64",
    "linear in int64 is computed in float64, which holds 53 bits.",
    source="textbook: integers without a kernel of their own",
    kind="arithmetic",
    dimension="integer overflow",
    dtypes=("int64",),
    when=lambda c: not c.is_conv and is_of(torch.int64)(c),
    wrong=_by_way_of(torch.float64),
    laws=("exact", "forward"),
)
kernel_fault(
    "int32-min-weight",
    "A weight of -2^31 in int32 counts as 2^31 - 1.",
    source="textbook: the number whose negative does not exist",
    kind="arithmetic",
    dimension="integer overflow",
    profile="gate",
    dtypes=("int32",),
    when=is_of(torch.int32),
    wrong=given(lambda t: torch.where(t == -(2**31), torch.full_like(t, 2**31 - 1), t), "weight"),
    laws=("readback", "forward", "exact"),
)

# --- special values and the ends of the range -------------------------------------------------------------------------


def _flushed(t: Tensor) -> Tensor:
    return torch.where(t.abs() < torch.finfo(t.dtype).tiny, torch.zeros_like(t), t)


kernel_fault(
    "subnormal-input-flushed",
    "Subnormal inputs are taken for zero in float32.",
    source="textbook: flush to zero",
    kind="values",
    dimension="subnormals",
    profile="deep",
    when=is_of(torch.float32),
    wrong=given(_flushed, "x"),
    laws=TINY,
)
kernel_fault(
    "tiny-normals-flushed",
    "Inputs from 2^-126 to 2^-100, which are normal numbers, are taken for zero in float32.",
    source="textbook: flush to zero, with a threshold that is too high",
    kind="values",
    dimension="range",
    profile="gate",
    when=is_of(torch.float32),
    wrong=given(lambda t: torch.where((t.abs() >= 2**-126) & (t.abs() < 2**-100), torch.zeros_like(t), t), "x"),
    laws=("readback",),
)
kernel_fault(
    "subnormal-weight-flushed-float16",
    "Subnormal weights are taken for zero in float16.",
    source="docs/findings/subnormals-in-bfloat16-conv.md, in float16",
    kind="values",
    dimension="subnormals",
    profile="gate",
    dtypes=("float16",),
    when=is_of(torch.float16),
    wrong=given(_flushed, "weight"),
    laws=("readback", "forward"),
)
kernel_fault(
    "subnormal-result-flushed-float64",
    "Subnormal results become zero in float64.",
    source="textbook: flush to zero",
    kind="values",
    dimension="subnormals",
    dtypes=("float64",),
    profile="gate",
    when=is_of(torch.float64),
    wrong=result(_flushed),
    laws=("readback", "forward", "special_values"),
)
kernel_fault(
    "overflow-saturates-float32",
    "Results beyond the range of float32 become its largest number instead of infinity.",
    source="textbook: saturating arithmetic",
    kind="values",
    dimension="overflow",
    when=is_of(torch.float32),
    wrong=result(lambda y: y.clamp(torch.finfo(y.dtype).min, torch.finfo(y.dtype).max)),
    laws=SPECIAL,
)
kernel_fault(
    "overflow-saturates-float16",
    "Results beyond the range of float16 become 65504 instead of infinity.",
    source="textbook: saturating arithmetic",
    kind="values",
    dimension="overflow",
    dtypes=("float16",),
    when=is_of(torch.float16),
    wrong=result(lambda y: y.clamp(-65504, 65504)),
    laws=SPECIAL,
)
kernel_fault(
    "nan-in-input-swallowed",
    "NaN in the input counts as zero.",
    source="textbook: max and min that drop NaN",
    kind="values",
    dimension="special values",
    when=is_of(torch.float32),
    wrong=given(lambda t: torch.where(t.isnan(), torch.zeros_like(t), t), "x"),
    laws=SPECIAL,
)
kernel_fault(
    "complex-nan-swallowed",
    "A complex input with NaN in it counts as zero.",
    source="textbook: max and min that drop NaN",
    kind="values",
    dimension="special values x dtype",
    profile="deep",
    dtypes=("complex64",),
    when=is_of(torch.complex64),
    wrong=given(lambda t: torch.where(t.isnan(), torch.zeros_like(t), t), "x"),
    laws=("special_values", "forward"),
)
kernel_fault(
    "nan-in-weight-swallowed-conv",
    "NaN in the weight of a convolution counts as zero.",
    source="textbook: max and min that drop NaN",
    kind="values",
    dimension="special values",
    profile="gate",
    when=lambda c: c.is_conv and is_of(torch.float32)(c),
    wrong=given(lambda t: torch.where(t.isnan(), torch.zeros_like(t), t), "weight"),
    laws=SPECIAL,
)
kernel_fault(
    "nan-in-bias-swallowed",
    "NaN in the bias counts as zero, and infinity as the largest number.",
    source="textbook: max and min that drop NaN",
    kind="values",
    dimension="special values x bias",
    profile="deep",
    when=lambda c: c.bias is not None and is_of(torch.float32)(c),
    wrong=given(lambda t: t.nan_to_num(), "bias"),
    laws=("special_values", "forward"),
)
kernel_fault(
    "negative-infinity-becomes-nan",
    "Results of negative infinity become NaN.",
    source="textbook: infinity minus infinity in a split sum",
    kind="values",
    dimension="special values",
    profile="gate",
    when=is_of(torch.float32),
    wrong=result(lambda y: torch.where(y == -torch.inf, torch.nan, y)),
    laws=SPECIAL,
)
kernel_fault(
    "zero-inputs-skipped",
    "linear skips inputs that are zero in every row, also where the weight is infinite or NaN.",
    source="textbook: sparse shortcuts",
    kind="values",
    dimension="special values",
    profile="gate",
    when=lambda c: not c.is_conv and c.x.ndim == 2 and c.rows > 0 and is_of(torch.float32)(c),
    wrong=lambda c: c.run(weight=torch.where((c.x == 0).all(0), torch.zeros_like(c.weight), c.weight)),
    laws=("special_values", "forward", "layout"),
)
kernel_fault(
    "negative-zero-taken-for-the-smallest",
    "Negative zero in the input counts as the largest negative number.",
    source="textbook: floats compared and ordered as integers",
    kind="values",
    dimension="signed zeros",
    profile="gate",
    when=is_of(torch.float32),
    wrong=given(
        lambda t: torch.where((t == 0) & torch.signbit(t), torch.full_like(t, torch.finfo(t.dtype).min), t), "x"
    ),
    laws=("special_values", "forward", "scaling"),
)
kernel_fault(
    "large-results-negated",
    "Results above 1e30 change their sign.",
    source="textbook: an exponent that overflows into the sign",
    kind="values",
    dimension="overflow",
    when=is_of(torch.float32),
    wrong=result(lambda y: torch.where(y.abs() > 1e30, -y, y)),
    laws=("special_values", "forward", "readback"),
)
kernel_fault(
    "one-weight-off-by-one-ulp",
    "The last weight is one ulp too large, above 64 terms.",
    source="textbook: the smallest fault there is",
    kind="values",
    dimension="precision",
    when=lambda c: c.n > 64 and is_of(torch.float32)(c),
    wrong=lambda c: c.run(weight=replaced(c.weight, _last_next(c.weight.detach()))),
    laws=("readback", "exact"),
)


def _last_next(t: Tensor) -> Tensor:
    changed = t.clone(memory_format=torch.contiguous_format)
    flat = changed.view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.full_like(flat[-1], torch.inf))
    return changed


kernel_fault(
    "result-off-by-one-ulp-above-2-20",
    "Results above 2^20 are one ulp too small.",
    source="textbook: a last rounding that is left out",
    kind="values",
    dimension="precision",
    when=lambda c: is_of(torch.float32)(c),
    wrong=result(lambda y: torch.where(y.abs() > 2**20, torch.nextafter(y, torch.zeros_like(y)), y)),
    laws=("exact", "readback", "forward"),
)
