"""Patch embeddings: a convolution whose stride is its kernel, as one matrix product over its patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from equiv.arguments import check_tensor
from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv, pads_and_positions

_LARGE = 2**20  # a size that no padding mode refuses


class PatchLinear(nn.Module):
    """What :func:`to_patch_linear` returns: ``(N, C, *spatial)`` -> ``(N, O, *positions)``, or the same without N.

    ``weight`` and ``bias`` are named and shaped as the convolution's, so that state_dicts load both ways. Results lie
    in memory with the channels last: ``y.flatten(2).transpose(1, 2)``, rows for a transformer, is a view.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        rank = conv.weight.ndim - 2
        pads, _ = pads_and_positions(conv, (_LARGE,) * rank)
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size = tuple(conv.weight.shape[2:])
        self.stride = _per_axis(conv.stride, rank)
        self.dilation = _per_axis(conv.dilation, rank)
        self.padding = tuple(n for pad in reversed(pads) for n in pad)  # the last axis first, as functional.pad has it
        self.padding_mode = conv.padding_mode
        self.weight = _copied(conv.weight)
        self.register_parameter("bias", None if conv.bias is None else _copied(conv.bias))
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of ``x``.

        Raises:
            EquivError: Another number of axes or channels, or a map that is smaller than one patch.
        """
        rank = len(self.kernel_size)
        if x.ndim == rank + 1:
            batch: Tensor = self(x[None])
            return batch[0]
        if x.ndim != rank + 2 or x.shape[1] != self.in_channels:
            expected = f"shape (N, {self.in_channels}, *spatial) with {rank} spatial axes, or the same without N"
            raise EquivError(f"x: expected {expected}, got {tuple(x.shape)}; pass what the convolution takes")
        if any(self.padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = functional.pad(x, self.padding, mode)
        for axis, (k, s, d) in enumerate(zip(self.kernel_size, self.stride, self.dilation, strict=True), 2):
            reach = d * (k - 1) + 1
            if x.shape[axis] < reach:
                raise EquivError(
                    f"x: expected at least {reach} entries along axis {axis}, padding included, got {x.shape[axis]}; "
                    "pass a map that holds one patch"
                )
            x = x.unfold(axis, reach, s)[..., ::d]  # a view; what is left at the end is dropped
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        """From patches ``(N, C, *positions, *kernel)`` to ``(N, O, *positions)``."""
        rank, groups = len(self.kernel_size), self.groups
        count, positions = x.shape[0], x.shape[2 : 2 + rank]
        rows, n = count * math.prod(positions), self.in_channels * math.prod(self.kernel_size)
        x = x.movedim(1, 1 + rank).reshape(rows, n)
        weight = self.weight.flatten(1)
        if groups == 1:
            y = functional.linear(x, weight, self.bias)
        else:
            parts = x.view(rows, groups, n // groups).transpose(0, 1)
            y = torch.bmm(parts, weight.view(groups, -1, n // groups).mT).transpose(0, 1).reshape(rows, -1)
            y = y if self.bias is None else y + self.bias
        return y.view(count, *positions, self.out_channels).movedim(-1, 1)

    def extra_repr(self) -> str:
        """Sizes, and what is not the default."""
        words = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        for name, value, usual in (
            ("dilation", self.dilation, (1,) * len(self.stride)),
            ("padding", self.padding, (0,) * len(self.padding)),
            ("padding_mode", self.padding_mode, "zeros"),
            ("groups", self.groups, 1),
            ("bias", self.bias is not None, True),
        ):
            words += f", {name}={value}" if value != usual else ""
        return words


def to_patch_linear(conv: Conv) -> PatchLinear:
    """Write a convolution whose stride is its kernel as one matrix product over its patches.

    Such are the patch embeddings of transformers for images and videos, which many convolution kernels serve slowly
    (docs/dense.md has the speeds). Padding with any mode, dilation, groups, and sizes that the kernel does not divide
    are served as the convolution serves them.

    Args:
        conv: An `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`. It is not touched: the parameters of the result are copies.

    Returns:
        A module of the same inputs and result shapes, with ``weight`` (O, C / groups, *kernel) and ``bias`` as the
        convolution has them, its dtype, device, ``requires_grad`` and training mode.

    Raises:
        EquivError: Not a plain convolution, or another stride than its kernel.

    Example:
        >>> conv = nn.Conv2d(3, 8, 4, stride=4)
        >>> patches = to_patch_linear(conv)
        >>> patches
        PatchLinear(3, 8, kernel_size=(4, 4))
        >>> x = torch.randn(2, 3, 18, 16)
        >>> patches(x).shape == conv(x).shape
        True
        >>> import equiv
        >>> equiv.assert_equivalent(patches, conv, feature_shape=(3, 18, 16))
    """
    checked = check_conv(conv)
    kernel = tuple(checked.weight.shape[2:])
    stride = _per_axis(checked.stride, len(kernel))
    if stride != kernel:
        raise EquivError(
            f"conv: expected a stride equal to the kernel, {kernel}, got {stride}: its patches overlap or leave gaps; "
            "keep the convolution, or write it as a dense layer on maps of one size with equiv.conv_to_linear"
        )
    check_tensor("conv.weight", checked.weight, meta=True)
    return PatchLinear(checked)


def _per_axis(value: object, rank: int) -> tuple[int, ...]:
    listed = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(int(v) for v in (listed if len(listed) == rank else listed * rank))


def _copied(parameter: Tensor) -> nn.Parameter:
    with torch.inference_mode(False), torch.no_grad():
        values = parameter.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
