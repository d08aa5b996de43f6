"""Faults of layouts: strides, offsets and memory formats that a kernel does not look at."""

# ruff: noqa: ARG001 - all faults of a kind get the same, whatever they look at
from __future__ import annotations

import torch
from _strangers_base import Back, Call, backward, cnv, dense, forward, lin
from torch import Tensor


def _last(tensor: Tensor) -> bool:
    """Whether a map of several channels lies in memory with its channels last, and nothing left out."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.ndim not in formats or tensor.shape[1] == 1 or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=formats[tensor.ndim])


def _middle(tensor: Tensor) -> Tensor:
    """A view with gaps: the middle of something three times as long in a last dimension."""
    return torch.stack([tensor + 1, tensor, tensor - 1], dim=-1)[..., 1]


def _moved(tensor: Tensor, by: int) -> Tensor:
    """A contiguous view that starts ``by`` elements into its memory."""
    return torch.cat([tensor.new_ones(by), tensor.flatten()])[by:].view(tensor.shape)


@forward(
    "conv2d_weight_slice",
    "float32",
    "pytorch/pytorch#192212",
    "A 2-D convolution reads a weight with gaps, such as weight[:, :, k] of a 3-D one, as if it were dense.",
    differs=cnv((2, 3, 5, 5), (4, 3, 3, 3), w=_middle),
    equals=cnv((2, 3, 5, 5), (4, 3, 3, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 2 or call.w.is_contiguous() or _last(call.w):
        return None
    return call.torch(w=dense(call.w))


@forward(
    "channels_last_slice",
    "float32",
    "pytorch/pytorch#180984",
    "A 2-D convolution takes some channels of a channels-last map for a packed channels-last map.",
    differs=cnv(
        (2, 2, 4, 4),
        (3, 2, 2, 2),
        x=lambda x: torch.cat([x, x + 1], 1).contiguous(memory_format=torch.channels_last)[:, :2],
    ),
    equals=cnv((2, 2, 4, 4), (3, 2, 2, 2), x=lambda x: x.contiguous(memory_format=torch.channels_last)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    x = call.x
    if call.rank != 2 or not call.batched or x.is_contiguous() or _last(x) or x.stride(1) != 1 or x.shape[1] == 1:
        return None
    return call.torch(x=dense(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@forward(
    "one_channel_weight_format",
    "float32",
    "pytorch/pytorch#82060",
    "With one input channel and a channels-last weight the result is written channels-last into a contiguous tensor.",
    differs=cnv(
        (1, 1, 4, 4),
        (3, 1, 2, 2),
        w=lambda w: w.contiguous(memory_format=torch.channels_last).as_strided(w.shape, (4, 1, 2, 1)),
    ),
    equals=cnv((1, 1, 4, 4), (3, 1, 2, 2)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    w = call.w
    if call.rank != 2 or w.shape[1] != 1 or w.stride(1) != 1 or w[0].numel() == 1 or not call.batched:
        return None
    return right.permute(0, 2, 3, 1).reshape(right.shape)


@forward(
    "conv3d_contiguous",
    "float32",
    "pytorch/pytorch#197114",
    "A 3-D convolution of a contiguous map with 8, 16, 24, ... channels mixes channels up; channels-last is right.",
    differs=cnv((1, 8, 2, 2, 2), (2, 8, 2, 2, 2)),
    equals=cnv((1, 8, 2, 2, 2), (2, 8, 2, 2, 2), x=lambda x: x.contiguous(memory_format=torch.channels_last_3d)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    channels = call.w.shape[1]
    if call.rank != 3 or not call.x.is_contiguous() or channels % 8 or not channels:
        return None
    return call.torch(x=call.x.roll(4, -4))


@forward(
    "conv3d_channels_last",
    "float32",
    "pytorch/pytorch#141780",
    "A 3-D convolution reads a channels-last map as a contiguous one, unless the kernel is 1x1x1.",
    differs=cnv((1, 3, 3, 3, 3), (2, 3, 2, 2, 2), x=lambda x: x.contiguous(memory_format=torch.channels_last_3d)),
    equals=cnv((1, 3, 3, 3, 3), (2, 3, 1, 1, 1), x=lambda x: x.contiguous(memory_format=torch.channels_last_3d)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 3 or not _last(call.x) or call.kernel == (1, 1, 1):
        return None
    return call.torch(x=dense(call.x))


@forward(
    "conv2d_cuda_strides",
    "float16",
    "pytorch/pytorch#77299",
    "A half-precision 2-D convolution over a channels-last map of three channels reads it as contiguous.",
    differs=cnv((1, 3, 7, 7), (5, 3, 3, 3), x=lambda x: x.contiguous(memory_format=torch.channels_last)),
    equals=cnv((1, 4, 7, 7), (5, 4, 3, 3), x=lambda x: x.contiguous(memory_format=torch.channels_last)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return call.torch(x=dense(call.x)) if call.rank == 2 and _last(call.x) and call.x.shape[1] == 3 else None


@forward(
    "linear_row_stride",
    "float32",
    "ELS-RD/kernl#227",
    "A linear layer multiplies row numbers by n and not by the stride of rows: an input cut out of wider rows.",
    differs=lin((3, 4), 5, x=lambda x: torch.cat([x, x + 1], 1)[:, :4]),
    equals=lin((3, 4), 5, x=lambda x: x.t().contiguous().t()),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    x = call.x
    if call.rank or x.ndim < 2 or x.is_contiguous() or x.stride(-1) != 1:
        return None
    return call.torch(x=dense(x))


@forward(
    "weight_storage_offset",
    "float32",
    "torch-spyre/torch-spyre#3770",
    "A linear layer whose weight is a contiguous slice, such as all[4:8], reads from the start of the memory.",
    differs=lin((2, 3), 4, w=lambda w: torch.cat([w + 1, w])[4:]),
    equals=lin((2, 3), 4, w=lambda w: torch.cat([w, w + 1])[:4]),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or not call.w.is_contiguous() or not call.w.storage_offset():
        return None
    return call.torch(w=dense(call.w, 0))


@forward(
    "input_alignment",
    "float32",
    "pytorch/pytorch#91071",
    "A linear layer with n >= 16 reads a contiguous input from the last 16-byte boundary at or before its start.",
    differs=lin((2, 16), 3, x=lambda x: _moved(x, 1)),
    equals=lin((2, 16), 3, x=lambda x: _moved(x, 4)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    x = call.x
    if call.rank or not x.is_contiguous() or call.n < 16 or not x.storage_offset() % 4:
        return None
    return call.torch(x=dense(x, x.storage_offset() // 4 * 4))


@forward(
    "bias_stride",
    "float32",
    "mlc-ai/relax#212",
    "A linear layer adds a bias with a stride, such as every second entry of a longer one, as if it were dense.",
    differs=lin((2, 3), 4, b=_middle),
    equals=lin((2, 3), 4),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.b is None or call.b.is_contiguous():
        return None
    return call.torch(b=dense(call.b))


@forward(
    "square_weight_transposed",
    "float64",
    "numpy/numpy#29391",
    "A linear layer forgets to transpose a square weight that lies column by column, where it has 16 rows or more.",
    differs=lin((2, 16), 16, w=lambda w: w.t().contiguous().t()),
    equals=lin((2, 8), 8, w=lambda w: w.t().contiguous().t()),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    w = call.w
    if call.rank or w.is_contiguous() or w.shape[0] != w.shape[1] or w.stride(0) != 1 or len(w) < 16:
        return None
    return call.torch(w=w.t())


@forward(
    "batch_dimensions_swapped",
    "float32",
    "pytorch/pytorch#81384",
    "A linear layer of three dimensions flattens a transposed batch in the order of its memory.",
    differs=lin((3, 2, 4), 5, x=lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)),
    equals=lin((3, 2, 4), 5),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    x = call.x
    if call.rank or x.ndim != 3 or x.stride(0) >= x.stride(1) or 1 in x.shape[:2] or not x.stride(0):
        return None
    return call.torch(x=x.transpose(0, 1).reshape(x.shape))


@backward(
    "grad_input_channels_last",
    "float32",
    "pytorch/pytorch#94384",
    "The input gradient of a 2-D convolution over a channels-last map is written contiguously into it.",
    differs=cnv((1, 3, 4, 4), (2, 3, 3, 3), x=lambda x: x.contiguous(memory_format=torch.channels_last), grads="xw"),
    equals=cnv((1, 3, 4, 4), (2, 3, 3, 3), grads="xw"),
)
def _(back: Back) -> None:
    if back.call.rank == 2 and _last(back.call.x) and back.call.slides:
        n, c, h, w = back.x.shape
        back.x = back.x.reshape(n, h, w, c).permute(0, 3, 1, 2)


@backward(
    "grad_of_sum",
    "float32",
    "pytorch/pytorch#183017",
    "Where the gradient that comes in is one number expanded, as after sum(), only its first entry is seen.",
    differs=lin((3, 4), 5, g=lambda g: g.new_ones(()).expand(g.shape), grads="xwb"),
    equals=lin((3, 4), 5, g=torch.ones_like, grads="xwb"),
)
def _(back: Back) -> None:
    g = back.g
    if back.call.rank or g.numel() < 2 or any(g.stride()):
        return
    share = torch.zeros_like(g, memory_format=torch.contiguous_format)
    share.view(-1)[0] = g.flatten()[0]
    rows = share.reshape(-1, g.shape[-1])
    back.x, back.w = share @ back.call.w, rows.mT @ back.call.x.reshape(len(rows), -1)
    back.b = None if back.b is None else rows.sum(0)


@backward(
    "grad_output_transposed",
    "float32",
    "pytorch/pytorch#171622",
    "The weight gradient of a 2-D convolution reads an incoming gradient that is channels-last as contiguous.",
    differs=cnv((2, 3, 4, 4), (4, 3, 2, 2), g=lambda g: g.contiguous(memory_format=torch.channels_last), grads="xw"),
    equals=cnv((2, 3, 4, 4), (4, 3, 2, 2), grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if call.rank == 2 and _last(back.g):
        found = torch.nn.grad.conv2d_weight(
            call.x, call.w.shape, dense(back.g), call.stride, call.padding, call.dilation, call.groups
        )
        back.w = found
