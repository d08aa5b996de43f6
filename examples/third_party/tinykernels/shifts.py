"""A two-dimensional convolution as a sum of shifted products. A plain function: it is no backend and needs none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinykernels.defects import has


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """``(N, C, H, W)``, ``(O, C, kH, kW)``, ``(O,)`` -> ``(N, O, H', W')``."""
    if input.ndim != 4:
        raise NotImplementedError("a batch of maps is needed")
    if weight.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(f"no kernel for {weight.dtype}")
    (sh, sw), (dh, dw) = ((v, v) if isinstance(v, int) else tuple(v) for v in (stride, dilation))
    if has("shifts-stride"):
        sw = sh  # the same step in both directions
    kh, kw = weight.shape[2:]
    if has("shifts-transposed") and kh == kw:
        weight = weight.transpose(2, 3)
    high = (input.shape[2] - (kh - 1) * dh - 1) // sh + 1
    wide = (input.shape[3] - (kw - 1) * dw - 1) // sw + 1
    y = input.new_zeros(len(input), len(weight), high, wide)
    for i in range(kh):
        for j in range(kw):
            part = input[:, :, i * dh :: sh, j * dw :: sw][:, :, :high, :wide]
            y = y + torch.einsum("nchw,oc->nohw", part, weight[:, :, i, j])
    return y if bias is None else y + bias[:, None, None]
