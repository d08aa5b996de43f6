"""Kernels that compute in lower precision than they should, or treat the bias wrongly."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BOUNDARIES, EXACT, FORWARD, GRADIENTS, SCALING, SPECIAL_VALUES, WEIGHT_RECOVERY
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import cut_off, given, replaced, result, tf32, through


def _rounded_sums(c: KernelCall) -> Tensor:
    """linear, term after term, each sum rounded to the dtype."""
    x, weight = c.x.detach(), c.weight.detach()
    total = x.new_zeros((*x.shape[:-1], c.outputs))
    for k in range(c.n):
        total = total + x[..., k : k + 1] * weight[:, k]
    return replaced(c.run(), total if c.bias is None else total + c.bias.detach())


fault = Faults(kind="arithmetic", laws=(EXACT, WEIGHT_RECOVERY, FORWARD))

fault("products-in-tf32", "precision", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, SCALING))(
    "A convolution in float32 rounds input and weight to TF32.", "pytorch/pytorch#107514"
).where(lambda c: c.is_conv and c.is_of(torch.float32), given(tf32, "x", "weight"))
fault("products-in-bfloat16", "precision", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, SCALING))(
    "linear in float32 rounds input and weight to bfloat16, from 64 terms on.", "apple/coremltools#1809"
).where(lambda c: c.is_linear and c.n >= 64 and c.is_of(torch.float32), given(through(torch.bfloat16), "x", "weight"))
fault("products-in-float16", "precision", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, SCALING))(
    "A convolution in float32 rounds its input to float16.", "apple/coremltools#1671"
).where(lambda c: c.is_conv and c.is_of(torch.float32), given(through(torch.float16), "x"))
fault("weight-loses-its-last-bit", "precision", laws=(WEIGHT_RECOVERY, EXACT, FORWARD))(
    "The weight is rounded to 23 of its 24 bits in float32.", "textbook: a shift that is off by one"
).where(lambda c: c.is_of(torch.float32), given(lambda t: cut_off(t, 1), "weight"))
fault("float64-in-float32", "precision", dtypes=("float64",), laws=(EXACT, WEIGHT_RECOVERY, FORWARD, SCALING))(
    "linear in float64 is computed in float32.", "textbook: a dtype without a kernel of its own"
).where(lambda c: c.is_linear and c.is_of(torch.float64), given(through(torch.float32), "x", "weight", "bias"))
fault("float16-accumulator", "precision", dtypes=("float16",), laws=(EXACT, FORWARD, GRADIENTS))(
    "linear in float16 adds up in float16, term after term.",
    "pytorch/pytorch#115144 family: the accumulator of half precision",
).where(lambda c: c.is_linear and c.n > 1 and c.is_of(torch.float16), _rounded_sums)
fault("bfloat16-accumulator", "precision", dtypes=("bfloat16",), laws=(EXACT, FORWARD, GRADIENTS))(
    "linear in bfloat16 adds up in bfloat16, term after term.",
    "pytorch/pytorch#137080 family: the accumulator of half precision",
).where(lambda c: c.is_linear and c.n > 1 and c.is_of(torch.bfloat16), _rounded_sums)
fault("result-through-bfloat16", "precision x outputs", laws=(EXACT, FORWARD, WEIGHT_RECOVERY, BOUNDARIES))(
    "The result is rounded to bfloat16 in float32, from 128 outputs on.",
    "pytorch/pytorch#175854 family: an epilogue in lower precision",
).where(lambda c: c.outputs >= 128 and c.is_of(torch.float32), result(through(torch.bfloat16)))


def _truncated(c: KernelCall) -> Tensor:
    """Cut off instead of rounded to nearest, from float32."""
    wide = c.run_in(torch.float32).detach()
    return replaced(c.run(), cut_off(wide, 0xFFFF).bfloat16())


fault("bfloat16-cut-off", "dtype", dtypes=("bfloat16",), laws=(EXACT, FORWARD))(
    "The result in bfloat16 is cut off instead of rounded to nearest.",
    "textbook: bfloat16 as the upper half of float32",
).where(lambda c: c.is_of(torch.bfloat16), _truncated)


def _by_transform(c: KernelCall) -> Tensor:
    """A convolution by the fast Fourier transform, as large as the map: small outputs carry the error of large ones."""
    x, weight = c.x.detach(), c.weight.detach()
    axes = tuple(range(2, 2 + c.dims))
    spectrum = torch.fft.fftn(x, dim=axes)[:, None] * torch.fft.fftn(weight, s=c.spatial, dim=axes).conj()[None]
    whole = torch.fft.ifftn(spectrum.sum(2), dim=axes).real
    places = tuple(slice(0, size - k + 1, step) for size, k, step in zip(c.spatial, c.kernel, c.stride, strict=True))
    y = whole[(slice(None), slice(None), *places)]
    if c.bias is not None:
        y = y + c.bias.detach().reshape(-1, *(1,) * c.dims)
    return replaced(c.run(), y.contiguous())


fault("convolution-by-transform", "precision")(
    "conv1d and conv2d with a kernel above 1 are computed by Fourier transforms: errors scale with the largest output.",
    "textbook: Higham, Accuracy and Stability, chapter 24; docs/findings/transforms-in-nnpack.md",
).where(
    lambda c: (
        c.dims in (1, 2)
        and c.is_batched
        and c.rows > 0
        and max(c.kernel) > 1
        and c.padding in (0, (0,) * c.dims)
        and c.groups == 1
        and max(c.dilation) == 1
        and c.is_of(torch.float32)
    ),
    _by_transform,
)


def _strassen(c: KernelCall) -> Tensor:
    """One step of Strassen's scheme over halves of rows, terms and outputs."""
    a, b = c.x.detach(), c.weight.detach().t()
    m, k, p = a.shape[0] // 2, a.shape[1] // 2, b.shape[1] // 2
    a11, a12, a21, a22 = a[:m, :k], a[:m, k:], a[m:, :k], a[m:, k:]
    b11, b12, b21, b22 = b[:k, :p], b[:k, p:], b[k:, :p], b[k:, p:]
    m1, m2, m3 = (a11 + a22) @ (b11 + b22), (a21 + a22) @ b11, a11 @ (b12 - b22)
    m4, m5, m6, m7 = a22 @ (b21 - b11), (a11 + a12) @ b22, (a21 - a11) @ (b11 + b12), (a12 - a22) @ (b21 + b22)
    y = torch.cat([torch.cat([m1 + m4 - m5 + m7, m3 + m5], 1), torch.cat([m2 + m4, m1 - m2 + m3 + m6], 1)])
    return replaced(c.run(), y if c.bias is None else y + c.bias.detach())


fault("strassen", "precision", profile="gate", laws=(FORWARD, WEIGHT_RECOVERY, SPECIAL_VALUES))(
    "linear of even sizes takes one step of Strassen's scheme: errors scale with the largest product.",
    "textbook: Higham, Accuracy and Stability, chapter 23",
).where(
    lambda c: (
        c.is_linear
        and c.x.ndim == 2
        and c.rows % 2 == c.n % 2 == c.outputs % 2 == 0
        and c.rows > 0
        and c.is_of(torch.float32)
    ),
    _strassen,
)

# --- bias -------------------------------------------------------------------------------------------------------------

fault("bias-doubled-float16", "bias x batch", dtypes=("float16",), laws=(EXACT, FORWARD, BOUNDARIES))(
    "The bias is added twice in float16, from two rows on.", "openxla/xla#46110, of the factor"
).where(lambda c: c.bias is not None and c.rows > 1 and c.is_of(torch.float16), given(lambda b: b * 2, "bias"))
fault("bias-dropped-one-output", "bias x outputs", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, BOUNDARIES))(
    "The bias is dropped where there is one output.", "chongzhou96/MaskCLIP#9, in the kernel"
).where(lambda c: c.bias is not None and c.outputs == 1, lambda c: c.run(bias=None))
fault("bias-in-bfloat16", "bias x precision", laws=(WEIGHT_RECOVERY, EXACT, FORWARD))(
    "The bias is rounded to bfloat16 in float32.", "pytorch/pytorch#115144, of the bias"
).where(lambda c: c.bias is not None and c.is_of(torch.float32), given(through(torch.bfloat16), "bias"))
fault("bias-imaginary-part-dropped", "bias x dtype", dtypes=("complex64", "complex128"))(
    "The imaginary part of a complex bias is dropped.", "textbook: complex as a pair of real kernels"
).where(lambda c: c.bias is not None and c.bias.is_complex(), given(lambda b: b.real.to(b.dtype), "bias"))
fault(
    "complex-sign-of-the-square", "dtype x batch", dtypes=("complex128", "complex64"), laws=(EXACT, BOUNDARIES, FORWARD)
)(
    "linear of complex numbers above 32 rows adds the product of the imaginary parts instead of subtracting it.",
    "textbook: complex as a pair of real kernels",
).where(
    lambda c: c.is_linear and c.rows > 32 and c.x.is_complex(),
    lambda c: c.run() + 2 * c.right(c.x.imag.contiguous(), c.weight.imag.contiguous()).to(c.x.dtype),
)
