"""Faults of tiles: remainders that no mask covers, parts of a sum that are lost, epilogues applied twice."""

# ruff: noqa: ARG001 - all faults of a kind get the same, whatever they look at
from __future__ import annotations

import torch
from _strangers_base import Call, cnv, forward, lin, spoiled
from torch import Tensor


@forward(
    "k_tail_unmasked",
    "float16",
    "triton-lang/triton#630",
    "Where n > 32 is no multiple of 32, the last block of a sum runs on into the next row of input and weight.",
    differs=lin((3, 40), 4),
    equals=lin((3, 64), 4),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    n = call.n
    if call.rank or n <= 32 or not n % 32 or not right.numel():
        return None
    more = 32 - n % 32

    def beyond(tensor: Tensor) -> Tensor:
        rows = tensor.reshape(-1, n)
        return torch.cat([rows[1:, :more], rows.new_zeros(1, more)])

    extra = beyond(call.x).float() @ beyond(call.w).float().t()
    return right + extra.view(right.shape).to(right.dtype)


@forward(
    "k_is_one",
    "float16",
    "triton-lang/triton#934",
    "With n = 1 every output is multiplied with the first weight.",
    differs=lin((2, 1), 5),
    equals=lin((2, 2), 5),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return call.torch(w=call.w[:1].expand_as(call.w)) if not call.rank and call.n == 1 and len(call.w) > 1 else None


@forward(
    "odd_n_over_256",
    "float16",
    "triton-lang/triton#5990",
    "With an odd n beyond 256 rows are not aligned, and loads of two values drop the last term.",
    differs=lin((3, 511), 4),
    equals=lin((3, 512), 4),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.n < 256 or not call.n % 2:
        return None
    return call.torch(x=call.x[..., :-1], w=call.w[:, :-1])


@forward(
    "m_tail_wraps",
    "float32",
    "triton-lang/triton#9870",
    "With more than 64 rows, and no multiple of 64, the last block takes its rows from the start again.",
    differs=lin((67, 5), 4),
    equals=lin((64, 5), 4),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.rows <= 64 or not call.rows % 64:
        return None
    rows, whole = right.reshape(call.rows, -1), call.rows // 64 * 64
    return spoiled(rows, slice(whole, None), rows[: call.rows - whole]).view(right.shape)


@forward(
    "n_tail_masked_away",
    "float32",
    "triton-lang/triton#1760",
    "With fewer than 16 rows, and more than 16 outputs that are no multiple of 16, the last block is not stored.",
    differs=lin((3, 8), 23),
    equals=lin((3, 8), 32),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    outputs = len(call.w)
    if call.rank or call.rows >= 16 or outputs <= 16 or not outputs % 16:
        return None
    return spoiled(right, (..., slice(outputs // 16 * 16, None)))


@forward(
    "striped_tiles",
    "bfloat16",
    "tenstorrent/tt-metal#43270",
    "With 128 outputs or more, of every four tiles of 32 outputs the last two repeat the first two.",
    differs=lin((2, 8), 128),
    equals=lin((2, 8), 127),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or len(call.w) < 128:
        return None
    wrong = right.clone()
    for start in range(0, len(call.w) - 127, 128):
        wrong[..., start + 64 : start + 128] = right[..., start : start + 64]
    return wrong


@forward(
    "split_k_not_reduced",
    "float32",
    "facebookexperimental/triton#1117",
    "With n >= 2048 and at most 16 rows the sum is split in four, and only the first part arrives.",
    differs=lin((2, 2048), 3),
    equals=lin((2, 2047), 3),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.n < 2048 or call.rows > 16:
        return None
    part = call.n // 4
    return call.torch(x=call.x[..., :part], w=call.w[:, :part])


@forward(
    "split_k_bias_twice",
    "float32",
    "ROCm/composable_kernel#95",
    "A convolution with n >= 1024 is split in two, each part adds the bias.",
    differs=cnv((1, 128, 3, 3), (2, 128, 3, 3)),
    equals=cnv((1, 64, 3, 3), (2, 64, 3, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return call.torch(b=call.b * 2) if call.rank and call.b is not None and call.n >= 1024 else None


@forward(
    "bias_tail",
    "float32",
    "tenstorrent/tt-metal#25935",
    "A convolution adds the bias four outputs at a time: from the fifth on, those beyond a multiple of 4 get none.",
    differs=cnv((2, 3, 4, 4), (6, 3, 3, 3)),
    equals=cnv((2, 3, 4, 4), (8, 3, 3, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    outputs = len(call.w)
    if not call.rank or call.b is None or outputs < 5 or not outputs % 4:
        return None
    return call.torch(b=spoiled(call.b, slice(outputs // 4 * 4, None)))


@forward(
    "pointwise_half_vectors",
    "float16",
    "ROCm/MIOpen#1902",
    "A half-precision 1x1 convolution over a map, with C >= 64, swaps the channels of every vector of four.",
    differs=cnv((1, 64, 3, 3), (4, 64, 1, 1)),
    equals=cnv((1, 32, 3, 3), (4, 32, 1, 1)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    channels = call.w.shape[1]
    if call.rank != 2 or call.kernel != (1, 1) or not call.slides or channels < 64 or channels % 4:
        return None
    order = torch.arange(channels).view(-1, 4).flip(1).flatten()
    return call.torch(w=call.w[:, order])
