"""The conversions: one affine map as an `nn.Linear` and as an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.

Leaves to others which arguments are served (``equiv.mapping.plain``, ``equiv.mapping.checks``), where a convolution's
weights lie in its matrix (``equiv.mapping.dense_matrix``), layers that hold their weight with the inputs first
(``equiv.mapping.transposed``), and whether two layers agree (``equiv.verdict``).
"""

from __future__ import annotations

import math
from typing import Literal, SupportsIndex, overload

from torch import Tensor, nn

from equiv.mapping.attributes import CONVS, Conv, ConvTranspose
from equiv.mapping.build import dressed, rearranged, repeated, undrawn
from equiv.mapping.checks import (
    FeatureShape,
    Size2,
    Size3,
    Size4,
    check_feature_shape,
    check_input_of,
    check_product,
    check_rows,
    check_share,
    check_spatial_dims,
)
from equiv.mapping.conv1d import check_conv1d
from equiv.mapping.dense_matrix import dense_weight
from equiv.mapping.geometry import covers, positions_of, reach_of
from equiv.mapping.plain import check_conv, check_conv_transpose, check_linear, is_conv1d
from equiv.mapping.transposed import linear_of_conv1d, views_of_transpose


@overload
def linear_to_full_conv(linear: nn.Linear, feature_shape: Size2, *, share: bool = False) -> nn.Conv1d: ...
@overload
def linear_to_full_conv(linear: nn.Linear, feature_shape: Size3, *, share: bool = False) -> nn.Conv2d: ...
@overload
def linear_to_full_conv(linear: nn.Linear, feature_shape: Size4, *, share: bool = False) -> nn.Conv3d: ...
@overload
def linear_to_full_conv(linear: nn.Linear, feature_shape: FeatureShape, *, share: bool = False) -> Conv: ...
def linear_to_full_conv(linear: nn.Linear, feature_shape: FeatureShape, *, share: bool = False) -> Conv:
    """Write a layer over a flattened feature map as a convolution whose kernel is the whole map.

    Args:
        linear: Weight (O, n), with or without bias.
        feature_shape: (C, *spatial) of the map that ``torch.flatten`` made n = C * prod(spatial) entries of.
        share: True makes the parameters views of the source's; False copies.

    Returns:
        An `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` with weight (O, C, *spatial), stride 1, no padding: for x of shape
        (N, C, *spatial), ``conv(x)`` is ``linear(x.flatten(1))`` with one spatial position.

    Raises:
        EquivError: The layer is not a plain linear layer, or the shape does not hold n entries.

    Example:
        >>> import torch
        >>> linear = nn.Linear(12, 5)
        >>> conv = linear_to_full_conv(linear, (3, 2, 2))
        >>> conv
        Conv2d(3, 5, kernel_size=(2, 2), stride=(1, 1))
        >>> torch.equal(conv.weight.flatten(1), linear.weight)
        True
    """
    check_linear(linear)
    check_share(share)
    shape = check_feature_shape(feature_shape)
    check_product(shape, linear.in_features, "linear.in_features")
    return _conv_of(linear, shape[0], shape[1:], share)


@overload
def linear_to_pointwise_conv(linear: nn.Linear, spatial_dims: Literal[2] = 2, *, share: bool = False) -> nn.Conv2d: ...
@overload
def linear_to_pointwise_conv(linear: nn.Linear, spatial_dims: Literal[1], *, share: bool = False) -> nn.Conv1d: ...
@overload
def linear_to_pointwise_conv(linear: nn.Linear, spatial_dims: Literal[3], *, share: bool = False) -> nn.Conv3d: ...
@overload
def linear_to_pointwise_conv(linear: nn.Linear, spatial_dims: SupportsIndex, *, share: bool = False) -> Conv: ...
def linear_to_pointwise_conv(linear: nn.Linear, spatial_dims: SupportsIndex = 2, *, share: bool = False) -> Conv:
    """Write a layer as a convolution with kernel 1 over n channels.

    On a map with one position this is the layer; on a larger map it applies the layer at every position.

    Args:
        linear: Weight (O, n), with or without bias.
        spatial_dims: 1, 2 or 3.
        share: True makes the parameters views of the source's; False copies.

    Returns:
        An `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` with weight (O, n, 1, ..), a 1 for each spatial dimension.

    Raises:
        EquivError: The layer is not a plain linear layer, or ``spatial_dims`` is out of range.

    Example:
        >>> linear_to_pointwise_conv(nn.Linear(12, 5, bias=False), 1)
        Conv1d(12, 5, kernel_size=(1,), stride=(1,), bias=False)
    """
    check_linear(linear)
    check_share(share)
    return _conv_of(linear, linear.in_features, (1,) * check_spatial_dims(spatial_dims), share)


def conv_to_linear(
    conv: Conv | ConvTranspose | nn.Module, feature_shape: FeatureShape | None = None, *, share: bool = False
) -> nn.Linear:
    """Write any convolution on a fixed feature shape as one dense layer over the flattened map.

    Args:
        conv: Any stride, padding, padding mode, dilation and groups; transposed ones too, with any output padding. Or a
            ``Conv1D`` of transformers, which is a linear layer: its forward is tried on three small integers, on a copy
            of the module without its weights.
        feature_shape: (C, *spatial) of its input, without batch; by default the map that the kernel just covers, for a
            transposed convolution the map of one position. None for a ``Conv1D``.
        share: True makes the parameters views of the source's, which needs a kernel that covers the map exactly, one
            output position, one group and a weight that can be flattened in place; False copies. Of a transposed
            convolution it needs one input position instead, from which the kernel makes the whole output.

    Returns:
        An `nn.Linear` of weight (O*P, C*prod(spatial)) for P output positions: ``linear(x.flatten(1))`` is
        ``conv(x).flatten(1)``. Weights are moved as bits; where a padding mode repeats the input, an entry is the sum
        of the taps that land on it, rounded once. A convolution made by this module comes back exactly.

    Raises:
        EquivError: The module is not a plain convolution or has attributes that torch refuses, the map does not fit it,
            the matrix cannot be allocated, or it cannot be a view.

    Example:
        >>> import torch
        >>> conv = nn.Conv1d(1, 1, 2, bias=False)
        >>> _ = conv.weight.data.copy_(torch.tensor([[[5.0, 7.0]]]))
        >>> conv_to_linear(conv, (1, 3)).weight.tolist()
        [[5.0, 7.0, 0.0], [0.0, 5.0, 7.0]]
        >>> conv_to_linear(conv).weight.tolist()
        [[5.0, 7.0]]
        >>> up = nn.ConvTranspose1d(1, 1, 2, stride=2, bias=False)
        >>> _ = up.weight.data.copy_(torch.tensor([[[5.0, 7.0]]]))
        >>> conv_to_linear(up, (1, 2)).weight.tolist()
        [[5.0, 0.0], [7.0, 0.0], [0.0, 5.0], [0.0, 7.0]]
    """
    if is_conv1d(conv):
        return linear_of_conv1d(check_conv1d(conv), feature_shape, share)
    checked = check_conv_transpose(conv) if isinstance(conv, ConvTranspose) else check_conv(conv)
    check_share(share)
    if feature_shape is None:
        spatial = (1,) * (checked.weight.ndim - 2) if isinstance(checked, ConvTranspose) else reach_of(checked)
        feature_shape = (checked.in_channels, *spatial)
    shape = check_feature_shape(feature_shape)
    check_input_of(checked, shape)
    positions = math.prod(positions_of(checked, shape[1:]))
    in_features, out_features = math.prod(shape), checked.out_channels * positions
    if not isinstance(checked, ConvTranspose) and covers(checked, shape):
        weight = rearranged(checked.weight, (out_features, in_features), share, "conv.weight")
        bias = None if checked.bias is None else rearranged(checked.bias, (out_features,), share, "conv.bias")
    elif share:
        weight, bias = views_of_transpose(checked, shape)
    else:
        weight = dense_weight(checked, shape)
        bias = None if checked.bias is None else repeated(checked.bias, positions)
    linear = undrawn(nn.Linear, bias=bias is not None, in_features=in_features, out_features=out_features)
    return dressed(linear, weight, bias, checked)


def to_feature_map(x: Tensor, feature_shape: FeatureShape) -> Tensor:
    """Undo ``torch.flatten``: (*batch, n) -> (*batch, C, *spatial), always a view.

    Args:
        x: Any dtype, strides and number of batch dimensions; autograd follows.
        feature_shape: (C, *spatial) with product n.

    Raises:
        EquivError: ``x`` is not a strided tensor of at least one dimension, or its last one is not n.

    Example:
        >>> import torch
        >>> to_feature_map(torch.arange(12), (3, 2, 2))[:, 0, 0]
        tensor([0, 4, 8])
        >>> to_feature_map(torch.zeros(7, 12), (3, 2, 2)).shape
        torch.Size([7, 3, 2, 2])
    """
    check_rows(x)
    shape = check_feature_shape(feature_shape)
    check_product(shape, x.shape[-1], "the last dimension of x")
    return x.view(*x.shape[:-1], *shape)  # splitting a dimension is a view for any strides


def to_channels(x: Tensor, spatial_dims: SupportsIndex = 2) -> Tensor:
    """Make every feature a channel of a map with one position: (*batch, n) -> (*batch, n, 1, ..), always a view.

    Args:
        x: Any dtype, strides and number of batch dimensions; autograd follows.
        spatial_dims: How many dimensions of size 1 to add: 1, 2 or 3.

    Raises:
        EquivError: ``x`` is not a strided tensor of at least one dimension, or ``spatial_dims`` is out of range.

    Example:
        >>> import torch
        >>> to_channels(torch.zeros(7, 12)).shape
        torch.Size([7, 12, 1, 1])
    """
    check_rows(x)
    return x[(..., *(None,) * check_spatial_dims(spatial_dims))]


def _conv_of(linear: nn.Linear, channels: int, kernel: tuple[int, ...], share: bool) -> Conv:
    weight = rearranged(linear.weight, (linear.out_features, channels, *kernel), share, "linear.weight")
    bias = None
    if linear.bias is not None:
        bias = rearranged(linear.bias, (linear.out_features,), share, "linear.bias")
    sizes = {"in_channels": channels, "out_channels": linear.out_features, "kernel_size": kernel}
    conv: Conv = undrawn(CONVS[len(kernel)], bias=bias is not None, **sizes)
    return dressed(conv, weight, bias, linear)
