"""Faults of floating-point precision: narrow operands, accumulators and results, in one pass or the other."""

from __future__ import annotations

import torch
from _strangers_base import Back, Call, backward, cnv, forward, lin, tf32
from torch import Tensor


def _fine(tensor: Tensor) -> Tensor:
    """Integers, each larger by 2^-12 of itself: exact in float32, not in TF32 or bfloat16."""
    return tensor + tensor * 2.0**-12


def _by_steps(x: Tensor, w: Tensor, dtype: torch.dtype, step: int) -> Tensor:
    """``x @ w.t()``, with a sum of narrow numbers that is rounded after each ``step`` terms."""
    total = x.new_zeros(*x.shape[:-1], len(w), dtype=dtype)
    for at in range(0, x.shape[-1], step):
        total = total + (x[..., at : at + step].float() @ w[:, at : at + step].float().t()).to(dtype)
    return total


@forward(
    "tf32_linear",
    "float32",
    "pytorch/pytorch#67384",
    "A linear layer whose n and outputs are multiples of 8 multiplies in TF32.",
    differs=lin((4, 16), 8, x=_fine),
    equals=lin((4, 15), 8, x=_fine),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.float32 or call.n % 8 or len(call.w) % 8:
        return None
    return call.torch(x=tf32(call.x), w=tf32(call.w))


@forward(
    "bf16_accumulator",
    "bfloat16",
    "pytorch/pytorch#83863",
    "A linear layer with n > 256 adds term after term in bfloat16.",
    differs=lin((2, 1024), 3, x=torch.ones_like, w=torch.ones_like),
    equals=lin((2, 256), 3, x=torch.ones_like, w=torch.ones_like),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.bfloat16 or call.n <= 256:
        return None
    total = _by_steps(call.x, call.w, torch.bfloat16, 1)
    return total if call.b is None else total + call.b


def _large(tensor: Tensor) -> Tensor:
    """16 times 256 and 16 times -256 by turns of 32: sums go up to 2^17 and come back."""
    signs = torch.ones(tensor.shape[-1])
    signs[32:64] = -1
    return (signs * 64).expand(tensor.shape).to(tensor.dtype)


@forward(
    "fp16_accumulator",
    "float16",
    "pytorch/pytorch#144441",
    "A linear layer keeps sums of 32 terms in float16: one beyond 65,504 is infinite though the whole sum is not.",
    differs=lin((2, 64), 3, x=_large, w=lambda w: torch.full_like(w, 64), bias=False),
    equals=lin((2, 64), 3, bias=False),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.float16 or call.n < 33:
        return None
    parts = torch.stack(
        [
            _by_steps(call.x[..., at : at + 32], call.w[:, at : at + 32], torch.float32, 32)
            for at in range(0, call.n, 32)
        ]
    )
    if not (parts.cumsum(0).abs() > 65504).any():
        return None
    total = parts.to(torch.float16).float().sum(0)
    total = torch.where((parts.cumsum(0).abs() > 65504).any(0), total * torch.inf, total)
    return (total if call.b is None else total + call.b.float()).to(torch.float16)


@forward(
    "bf16_truncated",
    "bfloat16",
    "tenstorrent/tt-metal#19882",
    "A linear layer cuts results to bfloat16 instead of rounding them.",
    differs=lin((16, 64), 8, x=lambda x: x * 19),
    equals=cnv((1, 4, 2), (3, 4, 2)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.bfloat16:
        return None
    b = None if call.b is None else call.b.float()
    exact = call.torch(x=call.x.float(), w=call.w.float(), b=b)
    return (exact.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()


@forward(
    "double_in_single",
    "float64",
    "keras-team/keras#10964",
    "A 2-D convolution in float64 is computed in float32 and cast back.",
    differs=cnv((1, 2, 3, 3), (2, 2, 3, 3), x=lambda x: x + x * 2.0**-30),
    equals=cnv((1, 2, 3), (2, 2, 3), x=lambda x: x + x * 2.0**-30),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 2 or right.dtype != torch.float64:
        return None
    b = None if call.b is None else call.b.float()
    return call.torch(x=call.x.float(), w=call.w.float(), b=b).double()


@forward(
    "half_as_bfloat16",
    "float16",
    "ROCm/composable_kernel#671",
    "A half-precision convolution multiplies in bfloat16, to get around a problem with subnormal numbers.",
    differs=cnv((1, 2, 3, 3), (2, 2, 3, 3), x=lambda x: x + x * 2.0**-9),
    equals=lin((2, 4), 3, x=lambda x: x + x * 2.0**-9),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if not call.rank or right.dtype != torch.float16:
        return None
    b = None if call.b is None else call.b.float()
    return call.torch(x=call.x.bfloat16().float(), w=call.w.bfloat16().float(), b=b).half()


@backward(
    "bias_gradient_saturates",
    "bfloat16",
    "pytorch/pytorch#68048",
    "The bias gradient of a convolution is summed in bfloat16, one after the other: it stays at 256.",
    differs=cnv((1, 1, 20, 20), (2, 1, 1, 1), g=torch.ones_like, grads="xwb"),
    equals=cnv((1, 1, 4, 4), (2, 1, 1, 1), g=torch.ones_like, grads="xwb"),
)
def _(back: Back) -> None:
    call = back.call
    if not call.rank or back.b is None or back.g.dtype != torch.bfloat16:
        return
    terms = (back.g if call.batched else back.g[None]).transpose(0, 1).flatten(1)
    if terms.shape[1] < 2:
        return
    total = torch.zeros_like(terms[:, 0])
    for at in range(terms.shape[1]):
        total = total + terms[:, at]
    back.b = total


@backward(
    "weight_gradient_tf32",
    "float32",
    "marin-community/marin#8241",
    "The weight gradient of a linear layer with 8 rows or more is computed in TF32.",
    differs=lin((8, 4), 3, x=_fine, grads="xw"),
    equals=lin((7, 4), 3, x=_fine, grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if not call.rank and call.rows >= 8 and back.g.dtype == torch.float32:
        with torch.no_grad():
            g, x = tf32(back.g.reshape(-1, len(call.w))), tf32(call.x.reshape(-1, call.n))
        back.w = back.w + (g.mT @ x - back.w).detach()


@backward(
    "gradients_flushed",
    "float16",
    "pytorch/pytorch#183766",
    "The backward pass of a half-precision linear layer takes subnormal numbers for 0.",
    differs=lin((2, 3), 4, g=lambda g: g * 2.0**-20, grads="xwb"),
    equals=lin((2, 3), 4, g=lambda g: g * 2.0**-10, grads="xwb"),
)
def _(back: Back) -> None:
    call = back.call
    if call.rank or back.g.dtype != torch.float16:
        return
    small = back.g.abs() < 2.0**-14
    g = back.g.masked_fill(small, 0).reshape(-1, len(call.w))
    back.x = (g @ call.w).view(call.x.shape)
    back.w = g.mT @ call.x.reshape(-1, call.n)


@backward(
    "input_gradient_in_bf16",
    "float32",
    "NVIDIA/TransformerEngine#2942",
    "The input gradient of a convolution that slides over its map is rounded to bfloat16 before it is returned.",
    differs=cnv((1, 2, 5, 5), (2, 2, 3, 3), w=_fine, grads="xw"),
    equals=cnv((1, 2, 3, 3), (2, 2, 3, 3), w=_fine, grads="xw"),
)
def _(back: Back) -> None:
    if back.call.slides and back.x.dtype == torch.float32:
        back.x = back.x.bfloat16().float()
