"""Kernels that go wrong at some reductions, outputs, channels or kernels, and at what is left of a tile."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BATCH, BOUNDARIES, EXACT, FORWARD, FREE_PARAMETERS, WEIGHT_RECOVERY
from equiv.testing.faults.kernel import Kernel, KernelCall
from equiv.testing.faults.tools import last_off, zero_from


def _outputs_from(start: int) -> Kernel:
    """Outputs from ``start`` on are left at zero."""
    return lambda c: zero_from(c.run(), start, -1 - c.dims)


def _without_terms(start: int) -> Kernel:
    """Terms of the reduction from ``start`` on are left out; negative counts from the end."""
    return lambda c: c.run(weight=zero_from(c.weight.flatten(1), start, 1).view(c.weight.shape))


def _uninitialized(c: KernelCall) -> Tensor:
    """NaN, or 85 for integers, where memory holds what it held before."""
    y = c.run()
    kept = torch.ones(y.shape, dtype=torch.bool, device=y.device)
    kept[(-1,) * y.ndim] = False
    left = torch.nan if is_inexact(y.dtype) else 85
    return torch.where(kept, y, torch.full_like(y, left))


def _refused(c: KernelCall) -> Tensor:
    raise RuntimeError(f"non-empty tensor expected, got shape {tuple(c.weight.shape)}")


# --- reduction --------------------------------------------------------------------------------------------------------

fault = Faults(kind="kernel", laws=(EXACT, BOUNDARIES, WEIGHT_RECOVERY, FORWARD))

fault("reduction-remainder-of-8", "reduction modulo vector")(
    "The last term is left out of every sum of linear where n is 7 beyond a multiple of 8.",
    "textbook: the remainder of a vector",
).where(lambda c: c.is_linear and c.n % 8 == 7, _without_terms(-1))
fault("reduction-remainder-of-32", "reduction modulo tile")(
    "The terms beyond the last multiple of 32 are left out of every sum, from 32 terms on.",
    "textbook: the remainder of a tile",
).where(lambda c: c.n > 32 and c.n % 32 != 0, lambda c: _without_terms(c.n // 32 * 32)(c))
fault("reduction-over-256", "reduction")(
    "The last term is left out of sums of more than 256 terms.", "textbook: a reduction in blocks of 256"
).where(lambda c: c.n > 256, _without_terms(-1))
fault("reduction-over-512", "boundaries: reduction", profile="gate", laws=(BOUNDARIES, EXACT))(
    "The last term is left out of sums of more than 512 terms.", "pytorch/pytorch#122045"
).where(lambda c: c.n > 512, _without_terms(-1))
fault("reduction-index-in-16-bits", "boundaries: reduction", profile="gate", laws=(BOUNDARIES,))(
    "Terms beyond 32,767 are left out of every sum: their number does not fit a 16-bit index.",
    "pytorch/pytorch#44109, at 2^15 instead of 2^31",
).where(lambda c: c.n > 2**15, _without_terms(2**15))
fault("reduction-127-alone", "reduction", profile="gate", laws=(BOUNDARIES, EXACT))(
    "The last entry is wrong for sums of 127 terms and no other number.",
    "textbook: the remainder of a tile, at one size",
).where(lambda c: c.n == 127, last_off)
fault("reduction-of-one-term", "reduction")(
    "The last entry is wrong for sums of one term.", "pytorch/pytorch#116769, of the reduction"
).where(lambda c: c.n == 1, last_off)
fault("conv-channels-105", "channels")(
    "A convolution over 105 channels or more is wrong in its last entry.", "pytorch/pytorch#60075, forward"
).where(lambda c: c.is_conv and c.channels >= 105, last_off)
fault(
    "patch-embedding-of-3-channels",
    "channels x kernel",
    profile="deep",
    laws=(EXACT, WEIGHT_RECOVERY, FREE_PARAMETERS, FORWARD),
)("conv2d over 3 channels with a square kernel above 1 is wrong in its last entry.", "tenstorrent/tt-xla#5173").where(
    lambda c: c.dims == 2 and c.channels == 3 and c.kernel[0] == c.kernel[1] > 1, last_off
)
fault("odd-channels-bfloat16", "channels x dtype", dtypes=("bfloat16",))(
    "A convolution over an odd number of channels is wrong in its last entry in bfloat16.",
    "oneDNN#4684 family: channels in pairs",
).where(lambda c: c.is_conv and c.channels % 2 == 1 and c.weight.dtype == torch.bfloat16, last_off)
fault("last-odd-channel-dropped", "channels")(
    "A convolution leaves out the last of an odd number of channels, above 1.", "textbook: channels in pairs"
).where(
    lambda c: c.is_conv and c.channels % 2 == 1 and c.channels > 1, lambda c: c.run(weight=zero_from(c.weight, -1, 1))
)

# --- outputs ----------------------------------------------------------------------------------------------------------

fault("outputs-remainder-of-32", "outputs modulo tile")(
    "Outputs beyond the last multiple of 32 are left at zero, from 32 outputs on.", "textbook: the remainder of a tile"
).where(lambda c: c.outputs > 32 and c.outputs % 32 != 0, lambda c: _outputs_from(c.outputs // 32 * 32)(c))
fault("outputs-33-alone", "outputs", profile="gate", laws=(BOUNDARIES, EXACT))(
    "The last entry is wrong for 33 outputs and no other number.", "textbook: the remainder of a tile, at one size"
).where(lambda c: c.outputs == 33, last_off)
fault("outputs-over-128", "outputs")(
    "Outputs beyond the first 128 are left at zero.", "pytorch/pytorch#129207, at 2^7 instead of 2^16"
).where(lambda c: c.outputs > 128, _outputs_from(128))
fault("outputs-over-32768", "boundaries: outputs", profile="gate", laws=(BOUNDARIES,))(
    "linear of one input is wrong in its last entry above 32,768 outputs.", "pytorch/pytorch#116769"
).where(lambda c: c.is_linear and c.n == 1 and c.outputs > 2**15, last_off)
fault("outputs-over-65536-conv", "boundaries: outputs", profile="gate", laws=(BOUNDARIES,))(
    "A convolution leaves outputs beyond the first 65,536 at zero.", "pytorch/pytorch#129207"
).where(lambda c: c.is_conv and c.outputs > 2**16, _outputs_from(2**16))
fault("outputs-large-linear", "boundaries: outputs", profile="gate", laws=(BOUNDARIES,))(
    "linear is wrong in its last entry where it has 4,096 outputs or more.", "pytorch/pytorch#97239"
).where(lambda c: c.is_linear and c.outputs >= 4096, last_off)
fault("spatial-size-over-32767", "boundaries: spatial", profile="deep", laws=(BOUNDARIES,))(
    "A convolution over a map with a side above 32,767 is wrong in its last entry.", "pytorch/pytorch#163539"
).where(lambda c: c.is_conv and max(c.spatial) > 2**15 - 1, last_off)
fault("last-entry-unwritten", "results modulo vector", laws=(BOUNDARIES, EXACT, BATCH, FORWARD))(
    "The last entry of a result is never written where 4 does not divide the number of entries.",
    "textbook: the remainder of a vector store",
).where(lambda c: c.rows > 0 and c.rows * c.outputs % 4 != 0, _uninitialized)
fault("bias-beyond-32-outputs", "bias x outputs")(
    "The bias is added to the first 32 outputs only.", "textbook: a bias held in one vector"
).where(
    lambda c: c.bias is not None and c.outputs > 32,
    lambda c: c.run(bias=None if c.bias is None else zero_from(c.bias, 32)),
)

# --- several sizes at once --------------------------------------------------------------------------------------------

fault("all-sizes-3-modulo-4", "batch x reduction x outputs", profile="gate", laws=(BOUNDARIES, EXACT, BATCH))(
    "The last entry is wrong where n, the outputs and the rows all are 3 beyond a multiple of 4.",
    "textbook: the corner of a tile in three directions",
).where(lambda c: c.outputs % 4 == c.rows % 4 == c.n % 4 == 3, last_off)
fault("one-output-of-large-sums", "batch x reduction x outputs", profile="gate", laws=(BOUNDARIES, EXACT, BATCH))(
    "The last entry is wrong for one output of 64 terms or more, from 64 rows on.", "textbook: a matrix-vector kernel"
).where(lambda c: c.outputs == 1 and c.n >= 64 and c.rows >= 64, last_off)
fault("outputs-times-rows-over-65535", "batch x outputs", profile="gate", laws=(BOUNDARIES, EXACT))(
    "The last entry is wrong where rows times outputs are more than 65,535.", "textbook: a grid of blocks in 16 bits"
).where(lambda c: c.rows * c.outputs > 2**16 - 1, last_off)
fault("reduction-and-outputs-from-512", "reduction x outputs", profile="gate", laws=(BOUNDARIES, EXACT))(
    "The last entry is wrong where n and the outputs both are 512 or more.", "textbook: a kernel for large matrices"
).where(lambda c: c.n >= 512 and c.outputs >= 512, last_off)
fault("no-inputs-loses-the-bias", "empty x bias", profile="gate", laws=(BOUNDARIES,))(
    "linear of no inputs gives zeros instead of the bias.", "pytorch/pytorch#31425 family: sizes of zero"
).where(lambda c: c.is_linear and c.n == 0, lambda c: c.run(bias=None))
fault("no-outputs-raises", "empty", profile="gate", laws=(BOUNDARIES,))(
    "linear of no outputs raises an error.", "pytorch/pytorch#31425 family: sizes of zero"
).where(lambda c: c.is_linear and c.outputs == 0, _refused)
fault("long-kernel-over-one-channel", "channels x kernel")(
    "conv1d over one channel with a kernel of 16 or more is wrong in its last entry.", "textbook: a kernel for audio"
).where(lambda c: c.dims == 1 and c.channels == 1 and c.kernel[0] >= 16, last_off)
fault("conv3d-all-sides-above-1", "kernel", profile="gate")(
    "conv3d with a kernel above 1 in all three directions is wrong in its last entry.",
    "pytorch/pytorch#197114, of the kernel",
).where(lambda c: c.dims == 3 and min(c.kernel) > 1, last_off)
fault("conv3d-float64-without-bias", "dtype x bias", dtypes=("float64",))(
    "conv3d without bias is wrong in its last entry in float64.",
    "textbook: a combination that no fixed list of tests has",
).where(lambda c: c.dims == 3 and c.bias is None and c.weight.dtype == torch.float64, last_off)
fault("conv3d-complex", "dtype", dtypes=("complex64", "complex128"))(
    "conv3d is wrong in its last entry for complex numbers.", "textbook: a combination that no fixed list of tests has"
).where(lambda c: c.dims == 3 and c.weight.is_complex(), last_off)
