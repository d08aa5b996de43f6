"""Faults of sizes: batches, outputs and channels where another kernel is chosen, or a counter ends."""

# ruff: noqa: ARG001 - all faults of a kind get the same, whatever they look at
from __future__ import annotations

from _strangers_base import Call, cnv, forward, lin, spoiled
from torch import Tensor


@forward(
    "linear_3d_bias",
    "float32",
    "pytorch/pytorch#192934",
    "A linear layer of three dimensions with a bias adds the bias shifted by one where a sample has 64 rows or more.",
    differs=lin((2, 64, 5), 6),
    equals=lin((2, 64, 5), 6, bias=False),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.x.ndim != 3 or call.b is None or call.x.shape[1] < 64:
        return None
    return call.torch(b=call.b.roll(1))


@forward(
    "linear_batch_16",
    "float32",
    "openvinotoolkit/openvino#19436",
    "A linear layer of 16 rows (32, 48, ...) and at most 4 outputs loses the second half of every sum.",
    differs=lin((16, 60), 3),
    equals=lin((8, 60), 3),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.rows % 16 or not call.rows or len(call.w) > 4 or call.n < 2:
        return None
    half = call.n // 2
    return call.torch(x=call.x[..., :half], w=call.w[:, :half])


@forward(
    "conv_batch_4",
    "float32",
    "tensorflow/tensorflow#1299",
    "A 2-D convolution of one input channel over four samples or more computes the first sample with the fourth's map.",
    differs=cnv((4, 1, 5, 5), (2, 1, 5, 5)),
    equals=cnv((3, 1, 5, 5), (2, 1, 5, 5)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 2 or call.w.shape[1] != 1 or call.rows < 4:
        return None
    return spoiled(right, 0, right[3])


@forward(
    "conv3d_batch_33",
    "float32",
    "NervanaSystems/neon#361",
    "A 3-D convolution of more than 32 samples, and no multiple of 32, leaves the last ones at 0.",
    differs=cnv((33, 2, 2, 2, 2), (3, 2, 2, 2, 2)),
    equals=cnv((32, 2, 2, 2, 2), (3, 2, 2, 2, 2)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 3 or call.rows <= 32 or not call.rows % 32:
        return None
    return spoiled(right, slice(call.rows // 32 * 32, None))


@forward(
    "linear_65537_samples",
    "float32",
    "pytorch/pytorch#189495",
    "A linear layer of three dimensions with a bias and more than 65,536 samples writes sample 65,536 over sample 0.",
    differs=lin((65537, 1, 2), 2),
    equals=lin((65536, 1, 2), 2),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.x.ndim != 3 or call.b is None or len(call.x) <= 65536:
        return None
    return spoiled(right, 0, right[65536])


@forward(
    "conv_65537_outputs",
    "float32",
    "pytorch/pytorch#129207",
    "A convolution with more than 65,536 output channels writes no result beyond them.",
    differs=cnv((1, 1, 3), (65537, 1, 3)),
    equals=cnv((1, 1, 3), (65536, 1, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if not call.rank or len(call.w) <= 65536:
        return None
    return spoiled(right, (slice(None), slice(65536, None)) if call.batched else slice(65536, None))


@forward(
    "linear_wide_output",
    "float32",
    "pytorch/pytorch#95188",
    "A linear layer with rows times outputs of 2^20 and more drops the last row.",
    differs=lin((1024, 3), 1024),
    equals=lin((1023, 3), 1024),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or right.numel() < 2**20:
        return None
    return spoiled(right.reshape(-1, len(call.w)), -1).view(right.shape)


@forward(
    "linear_4d",
    "float32",
    "openvinotoolkit/openvino#28881",
    "A linear layer of four dimensions, the third of size 1, gives every sample but the first the rows of the first.",
    differs=lin((2, 2, 1, 16), 8),
    equals=lin((2, 1, 2, 16), 8),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.x.ndim != 4 or call.x.shape[2] != 1 or len(call.x) < 2:
        return None
    return right[:1].expand_as(right).clone()


@forward(
    "conv1d_mixed_filters",
    "float32",
    "pytorch/pytorch#15140",
    "A 1-D convolution of one input channel and two filters over two samples or more interleaves the filters.",
    differs=cnv((2, 1, 15), (2, 1, 5)),
    equals=cnv((1, 1, 15), (2, 1, 5)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 1 or call.w.shape[:2] != (2, 1) or call.rows < 2:
        return None
    width = call.kernel[0]
    return call.torch(w=call.w.reshape(-1, 2).t().reshape(2, 1, width))


@forward(
    "conv2d_six_channels",
    "float32",
    "pytorch/pytorch#21597",
    "A 2-D convolution of 6, 10, 14, ... input channels ignores the last two; multiples of 4 are right.",
    differs=cnv((1, 6, 4, 4), (3, 6, 3, 3)),
    equals=cnv((1, 8, 4, 4), (3, 8, 3, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    channels = call.w.shape[1]
    if call.rank != 2 or channels % 4 != 2 or channels < 6 or call.groups > 1:
        return None
    return call.torch(x=call.x.narrow(-3, 0, channels - 2), w=call.w[:, : channels - 2])


@forward(
    "small_inner_product",
    "float64",
    "giaf/blasfeo#178",
    "One row times one output: products beyond the eighth are not added.",
    differs=lin((1, 9), 1),
    equals=lin((1, 8), 1),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.rows != 1 or len(call.w) != 1 or call.n < 9:
        return None
    return call.torch(x=call.x[..., :8], w=call.w[:, :8])


@forward(
    "bias_square",
    "float32",
    "ROCm/composable_kernel#546",
    "With as many rows as outputs the bias is added to rows and not to outputs.",
    differs=lin((4, 3), 4),
    equals=lin((5, 3), 4),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.b is None or call.x.ndim != 2 or len(call.x) != len(call.w) or len(call.w) < 2:
        return None
    return call.torch(b=None) + call.b[:, None]


@forward(
    "bias_index_4d",
    "float32",
    "pytorch/pytorch#135661",
    "A bias fused behind a linear layer of four dimensions is indexed by the third where that is as large as the last.",
    differs=lin((2, 2, 5, 3), 5),
    equals=lin((2, 2, 4, 3), 5),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank or call.b is None or call.x.ndim < 4 or call.x.shape[-2] != len(call.w) or len(call.w) < 2:
        return None
    return call.torch(b=None) + call.b[:, None]


@forward(
    "no_terms",
    "float32",
    "OpenMathLib/OpenBLAS#2914",
    "A linear layer without input features (n = 0) returns what was in the memory before.",
    differs=lin((2, 0), 3),
    equals=lin((2, 1), 3),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    return right.new_full(right.shape, 0.266733) if not call.rank and call.x.shape[-1] == 0 else None


@forward(
    "unbatched_bias",
    "float32",
    "pytorch/pytorch#78077",
    "A 1-D convolution without a batch dimension, as many outputs as positions, adds the bias along positions.",
    differs=cnv((2, 5), (3, 2, 3)),
    equals=cnv((1, 2, 5), (3, 2, 3)),
)
def _(call: Call, right: Tensor) -> Tensor | None:
    if call.rank != 1 or call.batched or call.b is None or right.shape[0] != right.shape[1] or len(right) < 2:
        return None
    return call.torch(b=None) + call.b
