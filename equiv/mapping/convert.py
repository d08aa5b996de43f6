"""The conversions: one affine map as an `nn.Linear` and as an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.

Leaves to others which arguments are served (``equiv.mapping.checks``), where a convolution's weights lie in its matrix
(``equiv.mapping.dense_matrix``), and whether two layers agree (``equiv.verdict``).

Every mapping keeps dtype, device, bias or its absence, ``requires_grad`` of each parameter, and training mode; it draws
no random numbers and leaves its source alone. The result holds contiguous copies, or views with ``share=True``.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.mapping.checks import (
    CONVS,
    Conv,
    FeatureShape,
    check_conv,
    check_feature_shape,
    check_input_of,
    check_linear,
    check_product,
    check_rows,
    check_share,
    check_spatial_dims,
)
from equiv.mapping.dense_matrix import dense_weight
from equiv.mapping.geometry import covers, pads_and_positions, reach_of

_M = TypeVar("_M", nn.Linear, Conv)
_Module = TypeVar("_Module", bound=nn.Module)


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


def linear_to_pointwise_conv(linear: nn.Linear, spatial_dims: int = 2, *, share: bool = False) -> Conv:
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


def conv_to_linear(conv: Conv, feature_shape: FeatureShape | None = None, *, share: bool = False) -> nn.Linear:
    """Write any convolution on a fixed feature shape as one dense layer over the flattened map.

    Args:
        conv: Any stride, padding, padding mode, dilation and groups.
        feature_shape: (C, *spatial) of its input, without batch; by default the map that the kernel just covers.
        share: True makes the parameters views of the source's, which needs a kernel that covers the map exactly, one
            output position, one group and a weight that can be flattened in place; False copies.

    Returns:
        An `nn.Linear` of weight (O*P, C*prod(spatial)) for P output positions: ``linear(x.flatten(1))`` is
        ``conv(x).flatten(1)``. Weights are moved as bits; where a padding mode repeats the input, an entry is the sum
        of the taps that land on it, rounded once. A convolution made by this module comes back exactly.

    Raises:
        EquivError: The module is not a plain convolution, the map does not fit it, the matrix cannot be allocated, or
            it cannot be a view.

    Example:
        >>> conv = nn.Conv1d(1, 1, 2, bias=False)
        >>> _ = conv.weight.data.copy_(torch.tensor([[[5.0, 7.0]]]))
        >>> conv_to_linear(conv, (1, 3)).weight.tolist()
        [[5.0, 7.0, 0.0], [0.0, 5.0, 7.0]]
        >>> conv_to_linear(conv).weight.tolist()
        [[5.0, 7.0]]
    """
    check_conv(conv)
    check_share(share)
    if feature_shape is None:
        feature_shape = (conv.in_channels, *reach_of(conv))
    shape = check_feature_shape(feature_shape)
    check_input_of(conv, shape)
    positions = math.prod(pads_and_positions(conv, shape[1:])[1])
    in_features, out_features = math.prod(shape), conv.out_channels * positions
    if covers(conv, shape):
        weight = _rearranged(conv.weight, (out_features, in_features), share, "conv.weight")
        bias = None if conv.bias is None else _rearranged(conv.bias, (out_features,), share, "conv.bias")
    elif share:
        raise EquivError(
            f"share: expected False for a convolution whose matrix is not its weight, got True for {conv} on {shape}: "
            "its matrix repeats the weight or holds zeros; pass share=False"
        )
    else:
        weight = dense_weight(conv, shape)
        bias = None if conv.bias is None else _repeated(conv.bias, positions)
    linear = undrawn(nn.Linear, bias=bias is not None, in_features=in_features, out_features=out_features)
    return _dressed(linear, weight, bias, conv)


def to_feature_map(x: Tensor, feature_shape: FeatureShape) -> Tensor:
    """Undo ``torch.flatten``: (*batch, n) -> (*batch, C, *spatial), always a view.

    Args:
        x: Any dtype, strides and number of batch dimensions; autograd follows.
        feature_shape: (C, *spatial) with product n.

    Raises:
        EquivError: ``x`` is not a strided tensor of at least one dimension, or its last one is not n.

    Example:
        >>> to_feature_map(torch.arange(12), (3, 2, 2))[:, 0, 0]
        tensor([0, 4, 8])
        >>> to_feature_map(torch.zeros(7, 12), (3, 2, 2)).shape
        torch.Size([7, 3, 2, 2])
    """
    check_rows(x)
    shape = check_feature_shape(feature_shape)
    check_product(shape, x.shape[-1], "the last dimension of x")
    return x.view(*x.shape[:-1], *shape)  # splitting a dimension is a view for any strides


def to_channels(x: Tensor, spatial_dims: int = 2) -> Tensor:
    """Make every feature a channel of a map with one position: (*batch, n) -> (*batch, n, 1, ..), always a view.

    Args:
        x: Any dtype, strides and number of batch dimensions; autograd follows.
        spatial_dims: How many dimensions of size 1 to add: 1, 2 or 3.

    Raises:
        EquivError: ``x`` is not a strided tensor of at least one dimension, or ``spatial_dims`` is out of range.

    Example:
        >>> to_channels(torch.zeros(7, 12)).shape
        torch.Size([7, 12, 1, 1])
    """
    check_rows(x)
    return x[(..., *(None,) * check_spatial_dims(spatial_dims))]


def undrawn(kind: type[_Module], *, bias: bool, **sizes: Any) -> _Module:
    """A module as its constructor leaves it, but of other sizes, with parameters on meta that are to be replaced.

    The constructor draws parameters, on meta too, where they have no entries; that takes most of its time.

    Args:
        kind: `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
        bias: Whether it has one.
        sizes: The attributes that say how large it is, ``in_features`` or ``kernel_size`` for example.

    Example:
        >>> undrawn(nn.Linear, bias=False, in_features=3, out_features=2)
        Linear(in_features=3, out_features=2, bias=False)
    """
    module = kind.__new__(kind)
    state, own = _constructed(cast(Any, kind), bias)
    module.__dict__.update(state)
    module.__dict__.update({name: state[name].copy() for name in own})
    module.__dict__.update(sizes)
    return module


@cache
def _constructed(kind: Any, bias: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The attributes of a module of sizes 1, and which of them (its hooks and parameters) each must have to itself."""
    ones = (1, 1) if kind is nn.Linear else (1, 1, 1)
    state = vars(kind(*ones, bias=bias, device="meta", dtype=torch.float32))
    return state, tuple(name for name, value in state.items() if isinstance(value, (dict, set, list)))


def _conv_of(linear: nn.Linear, channels: int, kernel: tuple[int, ...], share: bool) -> Conv:
    weight = _rearranged(linear.weight, (linear.out_features, channels, *kernel), share, "linear.weight")
    bias = None
    if linear.bias is not None:
        bias = _rearranged(linear.bias, (linear.out_features,), share, "linear.bias")
    sizes = {"in_channels": channels, "out_channels": linear.out_features, "kernel_size": kernel}
    conv: Conv = undrawn(CONVS[len(kernel)], bias=bias is not None, **sizes)
    return _dressed(conv, weight, bias, linear)


def _dressed(module: _M, weight: Tensor, bias: Tensor | None, source: nn.Linear | Conv) -> _M:
    """Give a module built on meta its parameters, and the source's ``requires_grad`` and training mode."""
    held = module._parameters  # setting attributes takes three times as long, for checks that hold here
    held["weight"] = _parameter(weight, source.weight.requires_grad)
    if bias is not None and source.bias is not None:
        held["bias"] = _parameter(bias, source.bias.requires_grad)
    module.training = source.training
    return module


def _parameter(data: Tensor, requires_grad: bool) -> nn.Parameter:
    if data.is_inference() == torch.is_inference_mode_enabled():
        return nn.Parameter(data, requires_grad=requires_grad)
    with torch.inference_mode(data.is_inference()):  # a view of an inference tensor may require grad in there only
        return nn.Parameter(data, requires_grad=requires_grad)


def _rearranged(source: Tensor, shape: tuple[int, ...], share: bool, name: str) -> Tensor:
    """The same entries, in the same order, in another shape: a view, or a contiguous copy."""
    if share and not torch.is_inference_mode_enabled():
        return _viewed(source.detach(), shape, name)
    with torch.inference_mode(False), torch.no_grad():
        source = source.detach()
        if share:
            return _viewed(source, shape, name)
        copy = source.new_empty(shape)
        copy.view(source.shape).copy_(source)
        return copy


def _viewed(source: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    try:
        return source.view(shape)
    except RuntimeError as error:
        raise EquivError(
            f"share: expected False for a {name} that cannot be flattened in place, got True with strides "
            f"{source.stride()} for shape {tuple(source.shape)}; pass share=False, or make the weight contiguous"
        ) from error


@torch.inference_mode(False)
@torch.no_grad()
def _repeated(bias: Tensor, positions: int) -> Tensor:
    copy = bias.detach().new_empty((len(bias), positions))
    copy.copy_(bias.detach()[:, None])
    return copy.view(-1)
