"""Right kernels that differ from torch's own: other orders of summation, precisions, cuts and places in memory.

Each is made of differentiable operations on plain tensors. Where gradients are recorded, sums of more than eight terms
are taken in pairs instead of one by one, because a graph as long as the sum would take its time; a program that is
being compiled is given torch's own kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from equiv.dtypes import is_inexact
from equiv.numerics import threads
from equiv.testing.faults.kernel import Kernel, KernelCall, instead, without_onednn
from equiv.testing.faults.registry import VARIANTS, Applied, Variant

Sum = Callable[[Tensor, Tensor], Tensor]  # rows (*places, n) and weight (O, n) -> (*places, O)
Core = Callable[[Tensor, Tensor, Tensor | None], Tensor]

REAL = ("float32", "bfloat16", "float16", "float64")
ALL = (*REAL, "complex64", "int32")
_HALVES = (torch.float16, torch.bfloat16)
_WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_SHORT = 8  # terms whose sum is recorded one by one


# --- rows -------------------------------------------------------------------------------------------------------------


def windows(c: KernelCall) -> Tensor:
    """The input of a convolution, cut into windows: ``(N, *positions, n)``; without padding and groups."""
    x = c.x if c.is_batched else c.x[None]
    for d, (size, step, apart) in enumerate(zip(c.kernel, c.stride, c.dilation, strict=True)):
        x = x.unfold(2 + d, (size - 1) * apart + 1, step)[..., ::apart]
    order = (0, *range(2, 2 + c.dims), 1, *range(2 + c.dims, 2 + 2 * c.dims))
    cut = x.permute(order)
    return cut.reshape(*cut.shape[: 1 + c.dims], c.n)


def _is_simple(c: KernelCall) -> bool:
    return c.groups == 1 and not any(c.pads) and not torch.compiler.is_compiling()


def _one_for_each_group(c: KernelCall) -> list[KernelCall]:
    """Calls without padding and groups, on the padded map."""
    x = functional.pad(c.x, [p for p in reversed(c.pads) for _ in range(2)]) if any(c.pads) else c.x
    biases = (None,) * c.groups if c.bias is None else c.bias.chunk(c.groups)
    each = zip(x.chunk(c.groups, -1 - c.dims), c.weight.chunk(c.groups), biases, strict=True)
    return [replace(c, x=part, weight=weight, bias=bias, padding=0, groups=1) for part, weight, bias in each]


def by_rows(core: Core) -> Kernel:
    """Both kernels from one function of rows ``(*places, n)``, weight ``(O, n)`` and bias."""

    def kernel(c: KernelCall) -> Tensor:
        if torch.compiler.is_compiling() or c.padding == "same" or not c.weight.numel():
            return c.run()
        if c.is_linear:
            return core(c.x, c.weight, c.bias)
        parts = [core(windows(g), g.weight.reshape(g.outputs, g.n), g.bias) for g in _one_for_each_group(c)]
        y = (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).movedim(-1, 1)
        return y if c.is_batched else y[0]

    return kernel


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _HALVES else dtype


def _summed(add_up: Sum, *, wide: Callable[[torch.dtype], torch.dtype] = _accumulator, bias: str = "last") -> Core:
    """Products and sums in the accumulator, rounded once."""

    def core(rows: Tensor, weight: Tensor, b: Tensor | None) -> Tensor:
        dtype, inner = rows.dtype, wide(rows.dtype)
        r, w = rows.to(inner), weight.to(inner)
        recorded = torch.is_grad_enabled() and (r.requires_grad or w.requires_grad)
        reduce = pairwise if recorded and r.shape[-1] > _SHORT and add_up in _LONG else add_up
        if b is not None and bias == "first":
            ones = torch.ones((*r.shape[:-1], 1), dtype=inner, device=r.device)
            return reduce(torch.cat([ones, r], -1), torch.cat([b.to(inner)[:, None], w], 1)).to(dtype)
        y = reduce(r, w)
        return (y if b is None else y + b.to(inner)).to(dtype)

    return core


def _terms(rows: Tensor, weight: Tensor) -> list[Tensor]:
    return [x[..., None] * w for x, w in zip(rows.unbind(-1), weight.unbind(1), strict=True)]


def _added(terms: Iterable[Tensor]) -> Tensor:
    total: Tensor | None = None
    for term in terms:
        total = term if total is None else total + term
    assert total is not None
    return total


def sequential(rows: Tensor, weight: Tensor) -> Tensor:
    """First to last."""
    return _added(_terms(rows, weight))


def backwards(rows: Tensor, weight: Tensor) -> Tensor:
    """Last to first."""
    return _added(reversed(_terms(rows, weight)))


def pairwise(rows: Tensor, weight: Tensor) -> Tensor:
    """Neighbours first, in a tree."""
    terms = rows[..., None, :] * weight
    while terms.shape[-1] > 1:
        n = terms.shape[-1]
        sums = terms[..., 0 : n - n % 2 : 2] + terms[..., 1:n:2]
        terms = torch.cat([sums, terms[..., -1:]], -1) if n % 2 else sums
    return terms[..., 0]


def _blocked(size: int) -> Sum:
    def add_up(rows: Tensor, weight: Tensor) -> Tensor:
        starts = range(0, weight.shape[1], size)
        return _added(sequential(rows[..., i : i + size], weight[:, i : i + size]) for i in starts)

    return add_up


def _interleaved(rows: Tensor, weight: Tensor) -> Tensor:
    """Eight partial sums of every eighth term, as the lanes of a vector register."""
    lanes = min(8, weight.shape[1])
    return _added(sequential(rows[..., i::lanes], weight[:, i::lanes]) for i in range(lanes))


def compensated(rows: Tensor, weight: Tensor) -> Tensor:
    """Kahan: the rounding error of each addition is carried along. Falls back to a plain sum where one overflows."""
    total = torch.zeros((*rows.shape[:-1], weight.shape[0]), dtype=rows.dtype, device=rows.device)
    lost = torch.zeros_like(total)
    for term in _terms(rows, weight):
        corrected = term - lost
        new = total + corrected
        lost = (new - total) - corrected
        total = new
    return torch.where(total.isfinite(), total, sequential(rows, weight))


def fused(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply-add with one rounding for both; in float32, by way of float64."""
    if rows.dtype != torch.float32:
        return sequential(rows, weight)
    total: Tensor | None = None
    for term in _terms(rows.double(), weight.double()):
        total = (term if total is None else total.double() + term).float()
    assert total is not None
    return total


def by_matmul(rows: Tensor, weight: Tensor) -> Tensor:
    """The matrix product of torch."""
    return rows @ weight.T


_BLOCKED_8, _BLOCKED_32 = _blocked(8), _blocked(32)
_LONG: tuple[Sum, ...] = (sequential, backwards, _BLOCKED_8, _BLOCKED_32, _interleaved, compensated, fused)


def _widest(dtype: torch.dtype) -> torch.dtype:
    return {**_WIDER, torch.float16: torch.float64, torch.bfloat16: torch.float64}.get(dtype, dtype)


def _in_halves(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    core = _summed(pairwise)
    if rows.ndim < 2 or rows.shape[0] < 2:
        return core(rows, weight, bias)
    half = rows.shape[0] // 2
    return torch.cat([core(rows[:half], weight, bias), core(rows[half:], weight, bias)])


def _one_at_a_time(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    core = _summed(by_matmul)
    if rows.ndim < 2 or rows.shape[0] < 2:
        return core(rows, weight, bias)
    return torch.cat([core(row[None], weight, bias) for row in rows])


def _outputs_one_by_one(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each output as the sum of an elementwise product: torch's own order for sums."""
    dtype, inner = rows.dtype, _accumulator(rows.dtype)
    r, w = rows.to(inner), weight.to(inner)
    y = torch.stack([(r * row).sum(-1, dtype=inner) for row in w], -1)
    return (y if bias is None else y + bias.to(inner)).to(dtype)


# --- torch's kernels, called otherwise --------------------------------------------------------------------------------


def _bias_apart(c: KernelCall) -> Tensor:
    if c.bias is None or not c.is_of(torch.float16, torch.bfloat16):
        return c.run()
    return c.run(bias=None) + c.bias.reshape(-1, *(1,) * c.dims)


def _conv_by_matmul(c: KernelCall) -> Tensor:
    return by_rows(_summed(by_matmul))(c) if c.is_conv else c.run()


def _linear_by_conv(c: KernelCall) -> Tensor:
    if c.is_conv or not _is_simple(c) or not c.x.numel() or not c.outputs:
        return c.run()
    rows = c.x.reshape(-1, c.n)[..., None].contiguous()
    y = torch.conv1d(rows, c.weight[..., None].contiguous(), c.bias)
    return y[..., 0].reshape(*c.x.shape[:-1], c.outputs)


def _apart_in_memory(c: KernelCall) -> Tensor:
    """The same bits, every second entry of a larger buffer, dimensions in reverse order."""
    y = c.run()
    if not y.ndim:
        return y
    turned = y.permute(tuple(reversed(range(y.ndim))))
    return torch.stack([turned, turned], -1)[..., 0].permute(tuple(reversed(range(y.ndim))))


def _channels_last(c: KernelCall) -> Tensor:
    # Over one channel torch itself is wrong in this format: docs/findings/one-channel-channels-last.md
    if c.dims < 2 or not c.is_batched or c.channels == 1 or not _is_simple(c):
        return c.run()
    memory = torch.channels_last if c.dims == 2 else torch.channels_last_3d
    return c.run(x=c.x.contiguous(memory_format=memory), weight=c.weight.contiguous(memory_format=memory))


def _positive_zeros(c: KernelCall) -> Tensor:
    """Sums that begin at +0: no result is -0."""
    y = c.run()
    return y + 0 if is_inexact(y.dtype) else y


# --- settings ---------------------------------------------------------------------------------------------------------


@contextmanager
def _flushing() -> Iterator[None]:
    before = float(torch.tensor(2.0**-1023, dtype=torch.float64) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _variant(name: str, apply: Applied, dtypes: tuple[str, ...] = ALL) -> Callable[[str, str], None]:
    """A function of sentence and source, which adds the variant of this name to :data:`VARIANTS`."""
    return lambda title, source: VARIANTS.add(Variant(name, title, source, dtypes, apply))


def _kernel(name: str, kernel: Kernel, dtypes: tuple[str, ...] = ALL) -> Callable[[str, str], None]:
    return _variant(name, partial(instead, kernel, traced=True), dtypes)


_kernel("sequential", by_rows(_summed(sequential)))("Terms are added from first to last.", "textbook: the plain loop")
_kernel("reversed", by_rows(_summed(backwards)))(
    "Terms are added from last to first.", "textbook: the loop turned around"
)
_kernel("pairwise", by_rows(_summed(pairwise)))("Terms are added in pairs, in a tree.", "numpy.sum; torch.sum")
_kernel("blocked-8", by_rows(_summed(_BLOCKED_8)))("Terms are added in blocks of 8.", "AVX2 kernels")
_kernel("blocked-32", by_rows(_summed(_BLOCKED_32)))("Terms are added in blocks of 32.", "tiled matrix kernels")
_kernel("interleaved-8", by_rows(_summed(_interleaved)))(
    "Eight partial sums of every eighth term are added up.", "AVX2 kernels"
)
_kernel("compensated", by_rows(_summed(compensated)), REAL)(
    "Kahan's sum carries the error of each addition along.", "textbook: Kahan 1965"
)
_kernel("fused-multiply-add", by_rows(_summed(fused)), ("float32",))(
    "Product and addition are rounded once.", "FMA instructions"
)
_kernel(
    "wider-accumulator",
    by_rows(_summed(by_matmul, wide=lambda dtype: _WIDER.get(dtype, dtype))),
    ("float32", "bfloat16", "float16", "complex64"),
)("The next wider dtype accumulates, and the result is rounded once.", "tensor cores with float32 accumulators")
_kernel(
    "float64-rounded-once", by_rows(_summed(sequential, wide=_widest)), ("float32", "bfloat16", "float16", "complex64")
)("float64 accumulates term after term, and the result is rounded once.", "textbook: reference kernels")
_kernel("bias-first", by_rows(_summed(sequential, bias="first")))(
    "Sums begin at the bias.", "GEMM with beta = 1; oneDNN's accumulators"
)
_kernel("bias-last", by_rows(_summed(by_matmul)))(
    "The bias is the last term, added before the only rounding.", "fused epilogues"
)
_kernel("bias-after-a-rounding", _bias_apart, ("float16", "bfloat16"))(
    "16-bit sums are rounded before the bias is added, and again after it.", "cuDNN; pytorch/pytorch#115144 and #137080"
)
_kernel("conv-by-matmul", _conv_by_matmul)("Convolutions are windows times a matrix.", "im2col; torch.nn.Unfold")
_kernel("linear-by-pointwise-conv", _linear_by_conv, ("float32", "float64", "complex64", "int32"))(
    "linear is a convolution with a kernel of 1.", "apple/ml-ane-transformers"
)
_kernel("elementwise-sums", by_rows(_outputs_one_by_one))(
    "Each output is the sum of an elementwise product.", "torch.sum in place of a matrix kernel"
)
_kernel("batch-in-halves", by_rows(_in_halves))(
    "The two halves of the batch are computed one after the other.", "gradient checkpointing, micro-batches"
)
_kernel("one-sample-at-a-time", by_rows(_one_at_a_time))("Every sample is computed by itself.", "streaming inference")
_kernel("result-not-contiguous", _apart_in_memory)(
    "The result lies in memory with gaps and in another order of dimensions.", "channels-last results"
)
_variant("channels-last-inside", partial(instead, _channels_last), ("float32", "float64", "float16"))(
    "conv2d and conv3d copy their tensors to channels-last first.", "oneDNN's and cuDNN's NHWC kernels"
)
_kernel("positive-zeros", _positive_zeros)("No result is negative zero.", "sums that begin at +0")
_variant("four-threads", partial(threads, 4))("torch runs with four threads.", "torch.set_num_threads")
_variant("without-onednn", without_onednn)(
    "torch runs without oneDNN, on its own kernels.", "torch.backends.mkldnn.enabled"
)
_variant("flushed-subnormals", _flushing, ("float32", "float64"))(
    "Subnormal inputs and results are zero, as torch.set_flush_denormal says.", "torch.set_flush_denormal"
)
