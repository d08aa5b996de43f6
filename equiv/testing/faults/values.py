"""Kernels that treat integers, special values or the ends of the range wrongly."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import (
    BATCH,
    BOUNDARIES,
    EXACT,
    FORWARD,
    LAYOUT,
    PURITY,
    SCALING,
    SPECIAL_VALUES,
    WEIGHT_RECOVERY,
)
from equiv.testing.faults.kernel import Kernel, KernelCall
from equiv.testing.faults.tools import given, replaced, result

# --- integers ---------------------------------------------------------------------------------------------------------


def _saturated(c: KernelCall) -> Tensor:
    info = torch.iinfo(c.x.dtype)
    return c.run_in(torch.int32).clamp(info.min, info.max).to(c.x.dtype)


def _by_way_of(dtype: torch.dtype) -> Kernel:
    return lambda c: c.run_in(dtype).to(c.x.dtype)


integer_fault = Faults(kind="arithmetic", laws=(EXACT, FORWARD))

integer_fault("int8-saturates", "integer overflow", dtypes=("int8",))(
    "Results in int8 stop at its largest number instead of wrapping around.", "textbook: quantized kernels"
).where(lambda c: c.is_of(torch.int8), _saturated)
integer_fault("uint8-saturates-linear", "integer overflow", dtypes=("uint8",))(
    "Results of linear in uint8 stop at 255 instead of wrapping around.", "textbook: quantized kernels"
).where(lambda c: c.is_linear and c.is_of(torch.uint8), _saturated)
integer_fault(
    "uint8-weight-taken-as-signed", "integer overflow", dtypes=("uint8",), laws=(EXACT, WEIGHT_RECOVERY, FORWARD)
)(
    "linear in uint8 takes weights above 127 for negative ones, and cuts negative sums off at zero.",
    "textbook: quantized kernels",
).where(
    lambda c: c.is_linear and c.is_of(torch.uint8),
    lambda c: (
        c.right(c.x.int(), c.weight.to(torch.int8).int(), None if c.bias is None else c.bias.int())
        .clamp(0)
        .to(torch.uint8)
    ),
)
integer_fault(
    "int16-wraps-at-8-bits", "integer overflow x reduction", dtypes=("int16",), laws=(EXACT, FORWARD, BOUNDARIES)
)("Sums of more than 64 terms in int16 wrap around at 8 bits.", "textbook: a narrow accumulator").where(
    lambda c: c.n > 64 and c.is_of(torch.int16), lambda c: c.run().to(torch.int8).to(torch.int16)
)
integer_fault("int32-by-way-of-float32", "integer overflow", dtypes=("int32",))(
    "linear in int32 is computed in float32, which holds 24 bits.", "textbook: integers without a kernel of their own"
).where(lambda c: c.is_linear and c.is_of(torch.int32), _by_way_of(torch.float32))
integer_fault("int64-by-way-of-float64", "integer overflow", dtypes=("int64",))(
    "linear in int64 is computed in float64, which holds 53 bits.", "textbook: integers without a kernel of their own"
).where(lambda c: c.is_linear and c.is_of(torch.int64), _by_way_of(torch.float64))
integer_fault(
    "int32-min-weight", "integer overflow", profile="gate", dtypes=("int32",), laws=(WEIGHT_RECOVERY, FORWARD, EXACT)
)("A weight of -2^31 in int32 counts as 2^31 - 1.", "textbook: the number whose negative does not exist").where(
    lambda c: c.is_of(torch.int32), given(lambda t: t.masked_fill(t == -(2**31), 2**31 - 1), "weight")
)

# --- special values and the ends of the range -------------------------------------------------------------------------


def _flushed(t: Tensor) -> Tensor:
    return t.masked_fill(t.abs() < torch.finfo(t.dtype).tiny, 0)


def _nan_as_zero(t: Tensor) -> Tensor:
    return t.masked_fill(t.isnan(), 0)


def _last_next(t: Tensor) -> Tensor:
    changed = t.clone(memory_format=torch.contiguous_format)
    flat = changed.view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.full_like(flat[-1], torch.inf))
    return changed


value_fault = Faults(kind="values", laws=(SPECIAL_VALUES, BATCH, FORWARD))

value_fault(
    "subnormal-input-flushed", "subnormals", profile="deep", laws=(FORWARD, WEIGHT_RECOVERY, SPECIAL_VALUES, PURITY)
)("Subnormal inputs are taken for zero in float32.", "textbook: flush to zero").where(
    lambda c: c.is_of(torch.float32), given(_flushed, "x")
)
value_fault("tiny-normals-flushed", "range", profile="gate", laws=(WEIGHT_RECOVERY,))(
    "Inputs from 2^-126 to 2^-100, which are normal numbers, are taken for zero in float32.",
    "textbook: flush to zero, with a threshold that is too high",
).where(
    lambda c: c.is_of(torch.float32), given(lambda t: t.masked_fill((t.abs() >= 2**-126) & (t.abs() < 2**-100), 0), "x")
)
value_fault(
    "subnormal-weight-flushed-float16",
    "subnormals",
    profile="gate",
    dtypes=("float16",),
    laws=(WEIGHT_RECOVERY, FORWARD),
)("Subnormal weights are taken for zero in float16.", "docs/findings/subnormals-in-bfloat16-conv.md, in float16").where(
    lambda c: c.is_of(torch.float16), given(_flushed, "weight")
)
value_fault(
    "subnormal-result-flushed-float64",
    "subnormals",
    profile="gate",
    dtypes=("float64",),
    laws=(WEIGHT_RECOVERY, FORWARD, SPECIAL_VALUES),
)("Subnormal results become zero in float64.", "textbook: flush to zero").where(
    lambda c: c.is_of(torch.float64), result(_flushed)
)
value_fault("overflow-saturates-float32", "overflow")(
    "Results beyond the range of float32 become its largest number instead of infinity.",
    "textbook: saturating arithmetic",
).where(lambda c: c.is_of(torch.float32), result(lambda y: y.clamp(torch.finfo(y.dtype).min, torch.finfo(y.dtype).max)))
value_fault("overflow-saturates-float16", "overflow", dtypes=("float16",))(
    "Results beyond the range of float16 become 65504 instead of infinity.", "textbook: saturating arithmetic"
).where(lambda c: c.is_of(torch.float16), result(lambda y: y.clamp(-65504, 65504)))
value_fault("nan-in-input-swallowed", "special values")(
    "NaN in the input counts as zero.", "textbook: max and min that drop NaN"
).where(lambda c: c.is_of(torch.float32), given(_nan_as_zero, "x"))
value_fault(
    "complex-nan-swallowed",
    "special values x dtype",
    profile="deep",
    dtypes=("complex64",),
    laws=(SPECIAL_VALUES, FORWARD),
)("A complex input with NaN in it counts as zero.", "textbook: max and min that drop NaN").where(
    lambda c: c.is_of(torch.complex64), given(_nan_as_zero, "x")
)
value_fault("nan-in-weight-swallowed-conv", "special values", profile="gate")(
    "NaN in the weight of a convolution counts as zero.", "textbook: max and min that drop NaN"
).where(lambda c: c.is_conv and c.is_of(torch.float32), given(_nan_as_zero, "weight"))
value_fault("nan-in-bias-swallowed", "special values x bias", profile="deep", laws=(SPECIAL_VALUES, FORWARD))(
    "NaN in the bias counts as zero, and infinity as the largest number.", "textbook: max and min that drop NaN"
).where(lambda c: c.bias is not None and c.is_of(torch.float32), given(lambda t: t.nan_to_num(), "bias"))
value_fault("negative-infinity-becomes-nan", "special values", profile="gate")(
    "Results of negative infinity become NaN.", "textbook: infinity minus infinity in a split sum"
).where(lambda c: c.is_of(torch.float32), result(lambda y: y.masked_fill(y == -torch.inf, torch.nan)))
value_fault("zero-inputs-skipped", "special values", profile="gate", laws=(SPECIAL_VALUES, FORWARD, LAYOUT))(
    "linear skips inputs that are zero in every row, also where the weight is infinite or NaN.",
    "textbook: sparse shortcuts",
).where(
    lambda c: c.is_linear and c.x.ndim == 2 and c.rows > 0 and c.is_of(torch.float32),
    lambda c: c.run(weight=torch.where((c.x == 0).all(0), torch.zeros_like(c.weight), c.weight)),
)
value_fault(
    "negative-zero-taken-for-the-smallest", "signed zeros", profile="gate", laws=(SPECIAL_VALUES, FORWARD, SCALING)
)(
    "Negative zero in the input counts as the most negative number.",
    "textbook: floats compared and ordered as integers",
).where(
    lambda c: c.is_of(torch.float32),
    given(lambda t: t.masked_fill((t == 0) & t.signbit(), torch.finfo(t.dtype).min), "x"),
)
value_fault("large-results-negated", "overflow", laws=(SPECIAL_VALUES, FORWARD, WEIGHT_RECOVERY))(
    "Results above 1e30 change their sign.", "textbook: an exponent that overflows into the sign"
).where(lambda c: c.is_of(torch.float32), result(lambda y: torch.where(y.abs() > 1e30, -y, y)))
value_fault("one-weight-off-by-one-ulp", "precision", laws=(WEIGHT_RECOVERY, EXACT))(
    "The last weight is one ulp too large, above 64 terms.", "textbook: the smallest fault there is"
).where(
    lambda c: c.n > 64 and c.is_of(torch.float32),
    lambda c: c.run(weight=replaced(c.weight, _last_next(c.weight.detach()))),
)
value_fault("result-off-by-one-ulp-above-2-20", "precision", laws=(EXACT, WEIGHT_RECOVERY, FORWARD))(
    "Results above 2^20 are one ulp too small.", "textbook: a last rounding that is left out"
).where(
    lambda c: c.is_of(torch.float32),
    result(lambda y: torch.where(y.abs() > 2**20, torch.nextafter(y, torch.zeros_like(y)), y)),
)
