"""Kernels that go wrong at some reductions, outputs, channels or kernels, and at what is left of a tile."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import Kernel, KernelCall, last_entry_off

SIZES = ("boundaries", "exact", "batch", "forward")
VALUES = ("exact", "boundaries", "readback", "forward")


def _last_off(c: KernelCall) -> Tensor:
    return last_entry_off(c.run())


def _outputs_from(start: int, keep: int | None = None) -> Kernel:
    """Outputs from ``start`` on (or from ``keep`` times its largest multiple) are left at zero."""

    def wrong(c: KernelCall) -> Tensor:
        first = start if keep is None else c.outputs // keep * keep
        y = c.run()
        axis = y.ndim - 1 - c.dims
        kept = torch.arange(c.outputs, device=y.device) < first
        return torch.where(kept.reshape(-1, *(1,) * (y.ndim - 1 - axis)), y, torch.zeros_like(y))

    return wrong


def _without_terms(start: int) -> Kernel:
    """Terms of the reduction from ``start`` on are left out; negative counts from the end."""

    def wrong(c: KernelCall) -> Tensor:
        flat = c.weight.flatten(1)
        first = start if start >= 0 else c.n + start
        kept = torch.arange(c.n, device=flat.device) < first
        return c.run(weight=torch.where(kept, flat, torch.zeros_like(flat)).view(c.weight.shape))

    return wrong


def _unwritten(c: KernelCall) -> Tensor:
    """NaN, or 85 for integers, where memory holds what it held before."""
    y = c.run()
    kept = torch.ones(y.shape, dtype=torch.bool, device=y.device)
    kept[(-1,) * y.ndim] = False
    left = torch.nan if y.is_floating_point() or y.is_complex() else 85
    return torch.where(kept, y, torch.full_like(y, left))


# --- reduction --------------------------------------------------------------------------------------------------------

kernel_fault(
    "reduction-remainder-of-8",
    "The last term is left out of every sum of linear where n is 7 beyond a multiple of 8.",
    source="textbook: the remainder of a vector",
    dimension="reduction modulo vector",
    when=lambda c: not c.is_conv and c.n % 8 == 7,
    wrong=_without_terms(-1),
    laws=VALUES,
)
kernel_fault(
    "reduction-remainder-of-32",
    "The terms beyond the last multiple of 32 are left out of every sum, from 32 terms on.",
    source="textbook: the remainder of a tile",
    dimension="reduction modulo tile",
    when=lambda c: c.n > 32 and c.n % 32 != 0,
    wrong=lambda c: _without_terms(c.n // 32 * 32)(c),
    laws=VALUES,
)
kernel_fault(
    "reduction-over-256",
    "The last term is left out of sums of more than 256 terms.",
    source="textbook: a reduction in blocks of 256",
    dimension="reduction",
    when=lambda c: c.n > 256,
    wrong=_without_terms(-1),
    laws=VALUES,
)
kernel_fault(
    "reduction-over-512",
    "The last term is left out of sums of more than 512 terms.",
    source="pytorch/pytorch#122045",
    dimension="boundaries: reduction",
    profile="deep",
    when=lambda c: c.n > 512,
    wrong=_without_terms(-1),
    laws=("boundaries", "exact"),
)
kernel_fault(
    "reduction-index-in-16-bits",
    "Terms beyond 32,767 are left out of every sum: their number does not fit a 16-bit index.",
    source="pytorch/pytorch#44109, at 2^15 instead of 2^31",
    dimension="boundaries: reduction",
    profile="deep",
    when=lambda c: c.n > 2**15,
    wrong=_without_terms(2**15),
    laws=("boundaries",),
)
kernel_fault(
    "reduction-127-alone",
    "The last entry is wrong for sums of 127 terms and no other number.",
    source="textbook: the remainder of a tile, at one size",
    dimension="reduction",
    profile="gate",
    when=lambda c: c.n == 127,
    wrong=_last_off,
    laws=("boundaries", "exact"),
)
kernel_fault(
    "reduction-of-one-term",
    "The last entry is wrong for sums of one term.",
    source="pytorch/pytorch#116769, of the reduction",
    dimension="reduction",
    when=lambda c: c.n == 1,
    wrong=_last_off,
    laws=VALUES,
)
kernel_fault(
    "conv-channels-105",
    "A convolution over 105 channels or more errs in its last entry.",
    source="pytorch/pytorch#60075, forward",
    dimension="channels",
    when=lambda c: c.is_conv and c.channels >= 105,
    wrong=_last_off,
    laws=VALUES,
)
kernel_fault(
    "patch-embedding-of-3-channels",
    "conv2d over 3 channels with a square kernel above 1 errs in its last entry.",
    source="tenstorrent/tt-xla#5173",
    dimension="channels x kernel",
    profile="deep",
    when=lambda c: c.dims == 2 and c.channels == 3 and c.kernel[0] == c.kernel[1] > 1,
    wrong=_last_off,
    laws=("exact", "readback", "free_parameters", "forward"),
)
kernel_fault(
    "odd-channels-bfloat16",
    "A convolution over an odd number of channels errs in its last entry in bfloat16.",
    source="oneDNN#4684 family: channels in pairs",
    dimension="channels x dtype",
    dtypes=("bfloat16",),
    when=lambda c: c.is_conv and c.channels % 2 == 1 and c.weight.dtype == torch.bfloat16,
    wrong=_last_off,
    laws=VALUES,
)
kernel_fault(
    "last-odd-channel-dropped",
    "A convolution leaves out the last of an odd number of channels, above 1.",
    source="textbook: channels in pairs",
    dimension="channels",
    when=lambda c: c.is_conv and c.channels % 2 == 1 and c.channels > 1,
    wrong=lambda c: c.run(weight=torch.cat([c.weight[:, :-1], torch.zeros_like(c.weight[:, -1:])], 1)),
    laws=VALUES,
)

# --- outputs ----------------------------------------------------------------------------------------------------------

kernel_fault(
    "outputs-remainder-of-32",
    "Outputs beyond the last multiple of 32 are left at zero, from 32 outputs on.",
    source="textbook: the remainder of a tile",
    dimension="outputs modulo tile",
    when=lambda c: c.outputs > 32 and c.outputs % 32 != 0,
    wrong=_outputs_from(0, keep=32),
    laws=VALUES,
)
kernel_fault(
    "outputs-33-alone",
    "The last entry is wrong for 33 outputs and no other number.",
    source="textbook: the remainder of a tile, at one size",
    dimension="outputs",
    profile="gate",
    when=lambda c: c.outputs == 33,
    wrong=_last_off,
    laws=("boundaries", "exact"),
)
kernel_fault(
    "outputs-over-128",
    "Outputs beyond the first 128 are left at zero.",
    source="pytorch/pytorch#129207, at 2^7 instead of 2^16",
    dimension="outputs",
    when=lambda c: c.outputs > 128,
    wrong=_outputs_from(128),
    laws=VALUES,
)
kernel_fault(
    "outputs-over-32768",
    "linear of one input errs in its last entry above 32,768 outputs.",
    source="pytorch/pytorch#116769",
    dimension="boundaries: outputs",
    profile="deep",
    when=lambda c: not c.is_conv and c.n == 1 and c.outputs > 2**15,
    wrong=_last_off,
    laws=("boundaries",),
)
kernel_fault(
    "outputs-over-65536-conv",
    "A convolution leaves outputs beyond the first 65,536 at zero.",
    source="pytorch/pytorch#129207",
    dimension="boundaries: outputs",
    profile="deep",
    when=lambda c: c.is_conv and c.outputs > 2**16,
    wrong=_outputs_from(2**16),
    laws=("boundaries",),
)
kernel_fault(
    "outputs-large-linear",
    "linear errs in its last entry where it has 4,096 outputs or more.",
    source="pytorch/pytorch#97239",
    dimension="boundaries: outputs",
    profile="deep",
    when=lambda c: not c.is_conv and c.outputs >= 4096,
    wrong=_last_off,
    laws=("boundaries",),
)
kernel_fault(
    "spatial-size-over-32767",
    "A convolution over a map with a side above 32,767 errs in its last entry.",
    source="pytorch/pytorch#163539",
    dimension="boundaries: spatial",
    profile="deep",
    when=lambda c: c.is_conv and max(c.spatial) > 2**15 - 1,
    wrong=_last_off,
    laws=("boundaries",),
)
kernel_fault(
    "last-entry-unwritten",
    "The last entry of a result is never written where 4 does not divide the number of entries.",
    source="textbook: the remainder of a vector store",
    dimension="results modulo vector",
    when=lambda c: c.rows > 0 and c.rows * c.outputs % 4 != 0,
    wrong=_unwritten,
    laws=SIZES,
)
kernel_fault(
    "bias-beyond-32-outputs",
    "The bias is added to the first 32 outputs only.",
    source="textbook: a bias held in one vector",
    dimension="bias x outputs",
    when=lambda c: c.bias is not None and c.outputs > 32,
    wrong=lambda c: c.run(bias=None if c.bias is None else torch.cat([c.bias[:32], torch.zeros_like(c.bias[32:])])),
    laws=VALUES,
)

# --- several sizes at once --------------------------------------------------------------------------------------------

kernel_fault(
    "all-sizes-3-modulo-4",
    "The last entry is wrong where n, the outputs and the rows all are 3 beyond a multiple of 4.",
    source="textbook: the corner of a tile in three directions",
    dimension="batch x reduction x outputs",
    profile="gate",
    when=lambda c: c.outputs % 4 == c.rows % 4 == c.n % 4 == 3,
    wrong=_last_off,
    laws=("boundaries", "exact", "batch"),
)
kernel_fault(
    "one-output-of-large-sums",
    "The last entry is wrong for one output of 64 terms or more, from 64 rows on.",
    source="textbook: a matrix-vector kernel",
    dimension="batch x reduction x outputs",
    profile="gate",
    when=lambda c: c.outputs == 1 and c.n >= 64 and c.rows >= 64,
    wrong=_last_off,
    laws=("boundaries", "exact", "batch"),
)
kernel_fault(
    "long-kernel-over-one-channel",
    "conv1d over one channel with a kernel of 16 or more errs in its last entry.",
    source="textbook: a kernel for audio",
    dimension="channels x kernel",
    when=lambda c: c.dims == 1 and c.channels == 1 and c.kernel[0] >= 16,
    wrong=_last_off,
    laws=VALUES,
)
kernel_fault(
    "conv3d-all-sides-above-1",
    "conv3d with a kernel above 1 in all three directions errs in its last entry.",
    source="pytorch/pytorch#197114, of the kernel",
    dimension="kernel",
    profile="gate",
    when=lambda c: c.dims == 3 and min(c.kernel) > 1,
    wrong=_last_off,
    laws=VALUES,
)
kernel_fault(
    "conv3d-float64-without-bias",
    "conv3d without bias errs in its last entry in float64.",
    source="textbook: a combination that no fixed list of tests has",
    dimension="dtype x bias",
    dtypes=("float64",),
    when=lambda c: c.dims == 3 and c.bias is None and c.weight.dtype == torch.float64,
    wrong=_last_off,
    laws=VALUES,
)
kernel_fault(
    "conv3d-complex",
    "conv3d errs in its last entry for complex numbers.",
    source="textbook: a combination that no fixed list of tests has",
    dimension="dtype",
    dtypes=("complex64", "complex128"),
    when=lambda c: c.dims == 3 and c.weight.is_complex(),
    wrong=_last_off,
    laws=VALUES,
)
