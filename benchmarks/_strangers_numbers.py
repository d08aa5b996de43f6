"""Faults of values that are not ordinary: integers that overflow, complex numbers, NaN, infinity, subnormal numbers."""

# ruff: noqa: ARG001 - all faults of a kind get the same, whatever they look at
from __future__ import annotations

import torch
from _strangers_base import Back, Call, backward, cnv, forward, lin
from torch import Tensor


def _wide(call: Call) -> Tensor:
    """The exact result of an integer call."""
    return call.torch(x=call.x.long(), w=call.w.long(), b=None if call.b is None else call.b.long())


@forward(
    "int32_in_float",
    "int32",
    "openvinotoolkit/openvino#37956",
    "A linear layer of int32 is computed in float32: integers beyond 2^24 lose their last bits.",
    differs=lin((1, 1), 1, x=lambda x: torch.full_like(x, 2**24 + 1), w=torch.ones_like, bias=False),
    equals=lin((1, 1), 1, x=lambda x: torch.full_like(x, 2**24), w=torch.ones_like, bias=False),
    dimension="integers",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.int32:
        return None
    b = None if call.b is None else call.b.float()
    found = call.torch(x=call.x.float(), w=call.w.float(), b=b)
    return torch.where(found.abs() < 2**31, found.long(), right).int()


@forward(
    "int64_in_double",
    "int64",
    "cupy/cupy#3941",
    "A linear layer of int64 is computed in float64: it saturates where integers wrap around.",
    differs=lin((1, 1), 1, x=lambda x: torch.full_like(x, 2**62), w=lambda w: torch.full_like(w, 3), bias=False),
    equals=lin((1, 1), 1, x=lambda x: torch.full_like(x, 2**52), w=lambda w: torch.full_like(w, 3), bias=False),
    dimension="integers",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.int64:
        return None
    found = call.torch(x=call.x.double(), w=call.w.double(), b=None if call.b is None else call.b.double())
    limit = torch.iinfo(torch.int64)
    within = found.abs() < 2.0**63
    return torch.where(within, torch.where(within, found, 0).long(), torch.where(found > 0, limit.max, limit.min))


@forward(
    "uint8_saturates",
    "uint8",
    "openvinotoolkit/openvino#36178",
    "A convolution of uint8 clamps results at 255 where integers wrap around.",
    differs=cnv((1, 1, 2, 2), (1, 1, 2, 2), x=lambda x: torch.full_like(x, 100), w=torch.ones_like, bias=False),
    equals=cnv((1, 1, 2, 2), (1, 1, 2, 2), x=lambda x: torch.full_like(x, 60), w=torch.ones_like, bias=False),
    dimension="integers",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return _wide(call).clamp(0, 255).byte() if call.rank and right.dtype == torch.uint8 else None


@forward(
    "int16_between_pairs",
    "uint8",
    "uxlfoundation/oneDNN#518",
    "A linear layer of uint8 adds products in pairs of 16 bits, which saturate at 32,767.",
    differs=lin((1, 2), 1, x=lambda x: torch.full_like(x, 255), w=lambda w: torch.full_like(w, 127), bias=False),
    equals=lin((1, 2), 1, x=lambda x: torch.full_like(x, 127), w=lambda w: torch.full_like(w, 127), bias=False),
    dimension="integers",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.uint8 or call.n < 2:
        return None
    x, w = call.x.long(), call.w.long()
    total = torch.zeros_like(right, dtype=torch.long) if call.b is None else call.b.long().expand(right.shape)
    for at in range(0, call.n, 2):
        total = total + (x[..., at : at + 2] @ w[:, at : at + 2].t()).clamp(max=32767)
    return total.byte()


@forward(
    "conjugate_ignored",
    "complex64",
    "pytorch/pytorch#116855",
    "A linear layer ignores that its weight is a lazy conjugate.",
    differs=lin((2, 3), 4, w=torch.conj),
    equals=lin((2, 3), 4, w=torch.conj_physical),
    dimension="complex",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return call.torch(w=call.w.conj()) if not call.rank and call.w.is_conj() else None


@backward(
    "gradient_not_conjugated",
    "complex128",
    "tensorflow/tensorflow#4859",
    "The input gradient of a complex linear layer is multiplied with the weight and not with its conjugate.",
    differs=lin((2, 3), 4, grads="xw"),
    equals=lin((2, 3), 4, w=lambda w: w.real + 0j, grads="xw"),
    dimension="complex",
)
def _(back: Back) -> None:
    if not back.call.rank and back.g.is_complex():
        back.x = back.g @ back.call.w


@forward(
    "negative_view_ignored",
    "float32",
    "flagos-ai/Torch-FL#209",
    "A linear layer ignores that its input is a lazy negative, such as z.conj().imag.",
    differs=lin((2, 3), 4, x=torch._neg_view),
    equals=lin((2, 3), 4, x=torch.neg),
    dimension="complex",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return call.torch(x=-call.x) if not call.rank and call.x.is_neg() else None


@forward(
    "zero_weights_skipped",
    "float32",
    "tenstorrent/tt-metal#22517",
    "A linear layer skips weights that are 0: NaN and infinity times 0 are lost.",
    differs=lin((1, 2), 1, x=lambda x: torch.full_like(x, torch.nan), w=torch.zeros_like),
    equals=lin((1, 2), 1, x=lambda x: torch.full_like(x, torch.nan), w=torch.ones_like),
    dimension="special values",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.x.isfinite().all() or not (call.w == 0).any():
        return None
    terms = torch.where(call.w == 0, 0, call.x.unsqueeze(-2) * call.w).sum(-1)
    wrong = terms if call.b is None else terms + call.b
    return torch.where(right.isnan() & ~wrong.isnan(), wrong, right)


@forward(
    "nan_clamped",
    "float32",
    "uxlfoundation/oneDNN#5370",
    "A convolution ends in max(lowest, result), as a fused activation does: NaN becomes the lowest number.",
    differs=cnv((1, 1, 3), (1, 1, 3), x=lambda x: torch.full_like(x, torch.nan)),
    equals=cnv((1, 1, 3), (1, 1, 3), x=lambda x: torch.full_like(x, torch.inf), w=torch.ones_like),
    dimension="special values",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if not call.rank or not right.isnan().any():
        return None
    return right.nan_to_num(torch.finfo(right.dtype).min, torch.inf, -torch.inf)


@forward(
    "infinity_capped",
    "float16",
    "google-ai-edge/LiteRT#9249",
    "A linear layer returns 65,504 in half precision where the result overflows.",
    differs=lin((1, 2), 1, x=lambda x: torch.full_like(x, 40000), w=torch.ones_like),
    equals=lin((1, 2), 1, x=lambda x: torch.full_like(x, 30000), w=torch.ones_like),
    dimension="special values",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.dtype != torch.float16 or not right.isinf().any():
        return None
    return right.clamp(-65504, 65504)


@forward(
    "subnormal_inputs",
    "float32",
    "OpenMathLib/OpenBLAS#1237",
    "A convolution takes subnormal numbers in its input for 0.",
    differs=cnv((1, 1, 3), (1, 1, 3), x=lambda x: torch.full_like(x, 2.0**-130), w=torch.ones_like, bias=False),
    equals=cnv((1, 1, 3), (1, 1, 3), x=lambda x: torch.full_like(x, 2.0**-126), w=torch.ones_like, bias=False),
    dimension="special values",
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if not call.rank or not right.dtype.is_floating_point:
        return None
    small = (call.x.abs() < torch.finfo(call.x.dtype).tiny) & (call.x != 0)
    return call.torch(x=call.x.masked_fill(small, 0)) if small.any() else None
