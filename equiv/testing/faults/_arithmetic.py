"""Kernels that compute in less than they should."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import Kernel, KernelCall, replaced

PRECISE = ("exact", "readback", "forward", "scaling")


def given(change: Callable[[Tensor], Tensor], *names: str) -> Kernel:
    """The right kernel on other values of the named tensors."""

    def wrong(c: KernelCall) -> Tensor:
        tensors = {name: t for name in names if (t := getattr(c, name)) is not None}
        return c.run(**{name: replaced(t, change(t.detach())) for name, t in tensors.items()})

    return wrong


def result(change: Callable[[Tensor], Tensor]) -> Kernel:
    """Other values in the place of the right result."""

    def wrong(c: KernelCall) -> Tensor:
        y = c.run()
        return replaced(y, change(y.detach()))

    return wrong


def is_of(*dtypes: torch.dtype) -> Callable[[KernelCall], bool]:
    return lambda c: c.weight.dtype in dtypes and c.x.dtype == c.weight.dtype


def through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Rounded to another dtype and back."""
    return lambda t: t.to(dtype).to(t.dtype)


def tf32(t: Tensor) -> Tensor:
    """float32 to nearest even in 10 bits of mantissa; NaN and infinities stay."""
    bits = t.contiguous().view(torch.int32)
    kept = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.where(t.isfinite(), kept.view(torch.float32), t)


def _accumulated_in(dtype: torch.dtype) -> Kernel:
    """linear, term after term, each sum rounded to ``dtype``."""

    def wrong(c: KernelCall) -> Tensor:
        x, weight = c.x.detach().to(dtype), c.weight.detach().to(dtype)
        total = torch.zeros((*x.shape[:-1], c.outputs), dtype=dtype, device=x.device)
        for k in range(c.n):
            total = total + x[..., k : k + 1] * weight[:, k]
        if c.bias is not None:
            total = total + c.bias.detach().to(dtype)
        return replaced(c.run(), total.to(c.x.dtype))

    return wrong


kernel_fault(
    "products-in-tf32",
    "A convolution in float32 rounds input and weight to TF32.",
    source="pytorch/pytorch#107514",
    kind="arithmetic",
    dimension="precision",
    when=lambda c: c.is_conv and is_of(torch.float32)(c),
    wrong=given(tf32, "x", "weight"),
    laws=PRECISE,
)
kernel_fault(
    "products-in-bfloat16",
    "linear in float32 rounds input and weight to bfloat16, from 64 terms on.",
    source="apple/coremltools#1809",
    kind="arithmetic",
    dimension="precision",
    when=lambda c: not c.is_conv and c.n >= 64 and is_of(torch.float32)(c),
    wrong=given(through(torch.bfloat16), "x", "weight"),
    laws=PRECISE,
)
kernel_fault(
    "products-in-float16",
    "A convolution in float32 rounds its input to float16.",
    source="apple/coremltools#1671",
    kind="arithmetic",
    dimension="precision",
    when=lambda c: c.is_conv and is_of(torch.float32)(c),
    wrong=given(through(torch.float16), "x"),
    laws=PRECISE,
)
kernel_fault(
    "weight-loses-its-last-bit",
    "The weight is rounded to 23 of its 24 bits in float32.",
    source="textbook: a shift that is off by one",
    kind="arithmetic",
    dimension="precision",
    when=is_of(torch.float32),
    wrong=given(
        lambda t: torch.where(t.isfinite(), (t.contiguous().view(torch.int32) & ~1).view(torch.float32), t), "weight"
    ),
    laws=("readback", "exact", "forward"),
)
kernel_fault(
    "float64-in-float32",
    "linear in float64 is computed in float32.",
    source="textbook: a dtype without a kernel of its own",
    kind="arithmetic",
    dimension="precision",
    dtypes=("float64",),
    when=lambda c: not c.is_conv and is_of(torch.float64)(c),
    wrong=given(through(torch.float32), "x", "weight", "bias"),
    laws=PRECISE,
)
kernel_fault(
    "float16-accumulator",
    "linear in float16 adds up in float16, term after term.",
    source="pytorch/pytorch#115144 family: the accumulator of half precision",
    kind="arithmetic",
    dimension="precision",
    dtypes=("float16",),
    when=lambda c: not c.is_conv and c.n > 1 and is_of(torch.float16)(c),
    wrong=_accumulated_in(torch.float16),
    laws=("exact", "forward", "gradients"),
)
kernel_fault(
    "bfloat16-accumulator",
    "linear in bfloat16 adds up in bfloat16, term after term.",
    source="pytorch/pytorch#137080 family: the accumulator of half precision",
    kind="arithmetic",
    dimension="precision",
    dtypes=("bfloat16",),
    when=lambda c: not c.is_conv and c.n > 1 and is_of(torch.bfloat16)(c),
    wrong=_accumulated_in(torch.bfloat16),
    laws=("exact", "forward", "gradients"),
)
kernel_fault(
    "result-through-bfloat16",
    "The result is rounded to bfloat16 in float32, from 128 outputs on.",
    source="pytorch/pytorch#175854 family: an epilogue in lower precision",
    kind="arithmetic",
    dimension="precision x outputs",
    when=lambda c: c.outputs >= 128 and is_of(torch.float32)(c),
    wrong=result(through(torch.bfloat16)),
    laws=("exact", "forward", "readback", "boundaries"),
)


def _bias_added_in_half(c: KernelCall) -> Tensor:
    assert c.bias is not None
    return c.run(bias=None) + c.bias.reshape(-1, *(1,) * c.dims)


kernel_fault(
    "conv-rounds-before-the-bias",
    "A convolution in float16 or bfloat16 rounds the sum before it adds the bias, and rounds again.",
    source="pytorch/pytorch#115144, pytorch/pytorch#137080",
    kind="arithmetic",
    dimension="dtype x bias",
    dtypes=("float16", "bfloat16"),
    when=lambda c: c.is_conv and c.bias is not None and is_of(torch.float16, torch.bfloat16)(c),
    wrong=_bias_added_in_half,
    laws=("forward", "special_values"),
)


def _truncated(c: KernelCall) -> Tensor:
    """Cut off instead of rounded to nearest, from float32."""
    wide = c.run(
        x=c.x.detach().float(),
        weight=c.weight.detach().float(),
        bias=None if c.bias is None else c.bias.detach().float(),
    )
    cut = (wide.contiguous().view(torch.int32) & ~0xFFFF).view(torch.float32)
    return replaced(c.run(), torch.where(wide.isfinite(), cut, wide).bfloat16())


kernel_fault(
    "bfloat16-cut-off",
    "The result in bfloat16 is cut off instead of rounded to nearest.",
    source="textbook: bfloat16 as the upper half of float32",
    kind="arithmetic",
    dimension="dtype",
    dtypes=("bfloat16",),
    when=is_of(torch.bfloat16),
    wrong=_truncated,
    laws=("exact", "forward"),
)


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


kernel_fault(
    "convolution-by-transform",
    "conv1d and conv2d with a kernel above 1 are computed by Fourier transforms: errors scale with the largest output.",
    source="textbook: Higham, Accuracy and Stability, chapter 24; docs/findings/transforms-in-nnpack.md",
    kind="arithmetic",
    dimension="precision",
    when=lambda c: (
        c.dims in (1, 2)
        and c.is_batched
        and c.rows > 0
        and max(c.kernel) > 1
        and c.padding in (0, (0,) * c.dims)
        and c.groups == 1
        and max(c.dilation) == 1
        and is_of(torch.float32)(c)
    ),
    wrong=_by_transform,
    laws=("exact", "readback", "forward"),
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


kernel_fault(
    "strassen",
    "linear of even sizes takes one step of Strassen's scheme: errors scale with the largest product.",
    source="textbook: Higham, Accuracy and Stability, chapter 23",
    kind="arithmetic",
    dimension="precision",
    profile="gate",
    when=lambda c: (
        not c.is_conv
        and c.x.ndim == 2
        and c.rows % 2 == c.n % 2 == c.outputs % 2 == 0
        and c.rows > 0
        and is_of(torch.float32)(c)
    ),
    wrong=_strassen,
    laws=("forward", "readback", "special_values"),
)

# --- bias -------------------------------------------------------------------------------------------------------------

kernel_fault(
    "bias-doubled-float16",
    "The bias is added twice in float16, from two rows on.",
    source="openxla/xla#46110, of the factor",
    kind="arithmetic",
    dimension="bias x batch",
    dtypes=("float16",),
    when=lambda c: c.bias is not None and c.rows > 1 and is_of(torch.float16)(c),
    wrong=given(lambda b: b * 2, "bias"),
    laws=("exact", "forward", "boundaries"),
)
kernel_fault(
    "bias-dropped-one-output",
    "The bias is dropped where there is one output.",
    source="chongzhou96/MaskCLIP#9, in the kernel",
    kind="arithmetic",
    dimension="bias x outputs",
    when=lambda c: c.bias is not None and c.outputs == 1,
    wrong=lambda c: c.run(bias=None),
    laws=("exact", "readback", "forward", "boundaries"),
)
kernel_fault(
    "bias-in-bfloat16",
    "The bias is rounded to bfloat16 in float32.",
    source="pytorch/pytorch#115144, of the bias",
    kind="arithmetic",
    dimension="bias x precision",
    when=lambda c: c.bias is not None and is_of(torch.float32)(c),
    wrong=given(through(torch.bfloat16), "bias"),
    laws=("readback", "exact", "forward"),
)
kernel_fault(
    "bias-imaginary-part-dropped",
    "The imaginary part of a complex bias is dropped.",
    source="textbook: complex as a pair of real kernels",
    kind="arithmetic",
    dimension="bias x dtype",
    dtypes=("complex64", "complex128"),
    when=lambda c: c.bias is not None and c.bias.is_complex(),
    wrong=given(lambda b: b.real.to(b.dtype), "bias"),
    laws=("exact", "readback", "forward"),
)
kernel_fault(
    "complex-sign-of-the-square",
    "linear of complex numbers above 32 rows adds the product of the imaginary parts instead of subtracting it.",
    source="textbook: complex as a pair of real kernels",
    kind="arithmetic",
    dimension="dtype x batch",
    dtypes=("complex128", "complex64"),
    when=lambda c: not c.is_conv and c.rows > 32 and c.x.is_complex(),
    wrong=lambda c: c.run() + 2 * c.right(c.x.imag.contiguous(), c.weight.imag.contiguous()).to(c.x.dtype),
    laws=("exact", "boundaries", "forward"),
)
