"""Layers that hold their weight with the inputs first: transposed convolutions, and ``Conv1D`` of transformers.

Their weight is the transposed of a Linear's, entry by entry. Of a transposed convolution on any other map than one of
one position, `equiv.mapping.conv_to_linear` writes the matrix.
"""

from __future__ import annotations

import math
from typing import Any, Literal, SupportsIndex, overload

import torch
from torch import Tensor, nn

from equiv.arguments import check_tensor, refusal
from equiv.errors import EquivError, MissingExtraError
from equiv.mapping.attributes import CONV_TRANSPOSES, CONVS, ConvTranspose, attributes_of, rank_of
from equiv.mapping.build import dressed, rearranged, undrawn
from equiv.mapping.checks import (
    FeatureShape,
    Size2,
    Size3,
    Size4,
    check_feature_shape,
    check_product,
    check_share,
    check_spatial_dims,
)
from equiv.mapping.conv1d import check_conv1d
from equiv.mapping.dense_matrix import as_bits, holds_values, output_first, real_parts
from equiv.mapping.geometry import positions_of, spreads
from equiv.mapping.plain import check_conv_transpose, check_linear, is_conv1d
from equiv.text import first_line


@overload
def linear_to_full_conv_transpose(
    linear: nn.Linear, feature_shape: Size2, *, share: bool = False
) -> nn.ConvTranspose1d: ...
@overload
def linear_to_full_conv_transpose(
    linear: nn.Linear, feature_shape: Size3, *, share: bool = False
) -> nn.ConvTranspose2d: ...
@overload
def linear_to_full_conv_transpose(
    linear: nn.Linear, feature_shape: Size4, *, share: bool = False
) -> nn.ConvTranspose3d: ...
@overload
def linear_to_full_conv_transpose(
    linear: nn.Linear, feature_shape: FeatureShape, *, share: bool = False
) -> ConvTranspose: ...
def linear_to_full_conv_transpose(
    linear: nn.Linear, feature_shape: FeatureShape, *, share: bool = False
) -> ConvTranspose:
    """Write a layer whose result is a flattened feature map as a transposed convolution that makes the map at once.

    As in generators, where a Linear projects a vector and its result is reshaped to a map.

    Args:
        linear: Weight (O, n). Its bias, if any, must be the same at every position of a channel.
        feature_shape: (C, *spatial) of the map that the O = C * prod(spatial) results are.
        share: True makes the parameters views of the source's, where there is no bias or one position; False copies.

    Returns:
        An `nn.ConvTranspose1d`, `nn.ConvTranspose2d` or `nn.ConvTranspose3d` with weight (n, C, *spatial), stride 1, no
        padding: for x of shape (N, n), ``conv(equiv.to_channels(x)).flatten(1)`` is ``linear(x)``.

    Raises:
        EquivError: The layer is not a plain linear layer, the shape does not hold O entries, or the bias changes from
            position to position.

    Example:
        >>> linear = nn.Linear(5, 12, bias=False)
        >>> conv = linear_to_full_conv_transpose(linear, (3, 2, 2))
        >>> conv
        ConvTranspose2d(5, 3, kernel_size=(2, 2), stride=(1, 1), bias=False)
        >>> torch.equal(conv.weight.flatten(1), linear.weight.T)
        True
    """
    check_linear(linear)
    check_share(share)
    shape = check_feature_shape(feature_shape)
    check_product(shape, linear.out_features, "linear.out_features")
    return _transpose_of(linear, shape[0], shape[1:], share)


@overload
def linear_to_pointwise_conv_transpose(
    linear: nn.Linear, spatial_dims: Literal[2] = 2, *, share: bool = False
) -> nn.ConvTranspose2d: ...
@overload
def linear_to_pointwise_conv_transpose(
    linear: nn.Linear, spatial_dims: Literal[1], *, share: bool = False
) -> nn.ConvTranspose1d: ...
@overload
def linear_to_pointwise_conv_transpose(
    linear: nn.Linear, spatial_dims: Literal[3], *, share: bool = False
) -> nn.ConvTranspose3d: ...
@overload
def linear_to_pointwise_conv_transpose(
    linear: nn.Linear, spatial_dims: SupportsIndex, *, share: bool = False
) -> ConvTranspose: ...
def linear_to_pointwise_conv_transpose(
    linear: nn.Linear, spatial_dims: SupportsIndex = 2, *, share: bool = False
) -> ConvTranspose:
    """Write a layer as a transposed convolution with kernel 1 over n channels, which applies it at every position.

    Args:
        linear: Weight (O, n), with or without bias.
        spatial_dims: 1, 2 or 3.
        share: True makes the parameters views of the source's; False copies.

    Returns:
        An `nn.ConvTranspose1d`, `nn.ConvTranspose2d` or `nn.ConvTranspose3d` with weight (n, O, 1, ..).

    Raises:
        EquivError: The layer is not a plain linear layer, or ``spatial_dims`` is out of range.

    Example:
        >>> linear_to_pointwise_conv_transpose(nn.Linear(12, 5), 1)
        ConvTranspose1d(12, 5, kernel_size=(1,), stride=(1,))
    """
    check_linear(linear)
    check_share(share)
    return _transpose_of(linear, linear.out_features, (1,) * check_spatial_dims(spatial_dims), share)


def linear_to_transformers_conv1d(linear: nn.Linear, *, share: bool = False) -> nn.Module:
    """Write a layer as the ``Conv1D`` of transformers, which GPT-2 consists of: ``x @ weight + bias``.

    Args:
        linear: Weight (O, n) and bias (O,).
        share: True makes the parameters views of the source's; False copies.

    Returns:
        A ``transformers.pytorch_utils.Conv1D`` with weight (n, O).

    Raises:
        EquivError: The layer is not a plain linear layer, or has no bias.
        MissingExtraError: transformers is not installed.

    Example:
        >>> linear_to_transformers_conv1d(nn.Linear(12, 5))  # doctest: +SKIP
        Conv1D(nf=5, nx=12)
        >>> linear_to_transformers_conv1d(nn.Linear(12, 5, bias=False))
        Traceback (most recent call last):
        equiv.errors.EquivError: linear.bias: expected a bias, got None; a Conv1D of transformers always adds one: ...
    """
    check_linear(linear)
    check_share(share)
    if linear.bias is None:
        raise EquivError(
            "linear.bias: expected a bias, got None; a Conv1D of transformers always adds one: give the layer zeros"
        )
    try:
        from transformers.pytorch_utils import Conv1D  # type: ignore[import-not-found, unused-ignore]
    except Exception as error:  # where a package of its own is missing or too old it raises errors of many kinds
        raise MissingExtraError(
            "linear_to_transformers_conv1d: expected transformers to be installed, got "
            f"{type(error).__name__}: {first_line(error)}; pip install 'torch-equiv[models]'"
        ) from error
    made: Any = Conv1D
    with torch.device("meta"):
        layer: nn.Module = made(linear.out_features, linear.in_features)
    weight = _swapped(linear.weight, (linear.in_features, linear.out_features), share, "linear.weight")
    return dressed(layer, weight, rearranged(linear.bias, (linear.out_features,), share, "linear.bias"), linear)


def linear_of_conv1d(layer: Any, feature_shape: FeatureShape | None, share: bool) -> nn.Linear:
    """The Linear that a checked ``Conv1D`` is."""
    check_share(share)
    ins, outs = layer.weight.shape
    if feature_shape is not None:
        check_product(check_feature_shape(feature_shape), ins, "conv.nx")
    weight = _swapped(layer.weight, (outs, ins), share, "conv.weight")
    bias = None if layer.bias is None else rearranged(layer.bias, (outs,), share, "conv.bias")
    return dressed(undrawn(nn.Linear, bias=bias is not None, in_features=ins, out_features=outs), weight, bias, layer)


def plain_form(layer: object, x: object) -> tuple[Any, Any]:
    """A layer that holds its weight with the inputs first as one that does not, and its input as that one takes it.

    A ``Conv1D`` of transformers becomes a Linear. A transposed convolution becomes a convolution: it moves the flipped
    kernel over a map with stride - 1 zeros between the entries, which takes stride times as many of them along each
    axis. Everything else is returned as it is.

    Args:
        layer: Anything.
        x: What it was given: ``(*batch, C, *spatial)``; of one position also ``(*batch, C)``.

    Raises:
        EquivError: The layer is not plain, or the input does not fit it.

    Example:
        >>> conv, x = plain_form(nn.ConvTranspose1d(1, 1, 2, stride=2), torch.ones(1, 1, 3))
        >>> conv
        Conv1d(1, 1, kernel_size=(2,), stride=(1,), padding_mode=constant)
        >>> x
        tensor([[[1., 0., 1., 0., 1.]]])
    """
    if is_conv1d(layer):
        return linear_of_conv1d(check_conv1d(layer, "layer"), None, True), x
    if not isinstance(layer, ConvTranspose):
        return layer, x
    conv = check_conv_transpose(layer, name="layer")
    given = check_tensor("input", x, advice="pass what the layer was given")
    rank, channels = rank_of(conv), conv.in_channels
    if given.ndim <= rank or given.shape[-rank - 1] != channels:
        if given.ndim == 0 or given.shape[-1] != channels:
            expected = f"(*batch, {channels}, *spatial) with {rank} spatial sizes"
            raise refusal("input", expected, tuple(given.shape), "pass the very input that gave `actual`")
        given = given[(..., *(None,) * rank)]
    positions_of(conv, given.shape[-rank:])
    return _as_convolution(conv), _spread(given, attributes_of(conv).stride)


@torch.inference_mode(False)
@torch.no_grad()
def _as_convolution(conv: ConvTranspose) -> nn.Module:
    """The convolution that a transposed one is on a map with zeros between the entries."""
    found, kernel = attributes_of(conv), tuple(conv.weight.shape[2:])
    reach = [d * (k - 1) for d, k in zip(found.dilation, kernel, strict=True)]
    axes = zip(reach, found.pads, found.output_padding, strict=True)
    pads = [(span - crop, span - crop + extra) for span, (crop, _), extra in axes]
    sizes = {"in_channels": conv.in_channels, "out_channels": conv.out_channels, "kernel_size": kernel}
    sizes |= {"dilation": found.dilation, "groups": found.groups, "padding_mode": "constant"}
    record = [size for pad in pads[::-1] for size in pad]  # negative ones crop
    made: nn.Module = undrawn(
        CONVS[len(kernel)], bias=conv.bias is not None, _reversed_padding_repeated_twice=record, **sizes
    )
    weight = output_first(conv.weight.detach(), found.groups).flip([*range(2, conv.weight.ndim)])
    return dressed(made, weight, None if conv.bias is None else conv.bias.detach(), conv)


@torch.inference_mode(False)
@torch.no_grad()
def _spread(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A map with ``stride - 1`` zeros between its entries along each axis."""
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[-len(stride) :], stride, strict=True)]
    spread = x.new_zeros((*x.shape[: -len(stride)], *sizes))
    places: Any = (..., *(slice(None, None, step) for step in stride))
    spread[places] = x.detach()
    return spread


def views_of_transpose(conv: Any, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the Linear that a transposed convolution is on a map of one position, without copies.

    Raises:
        EquivError: The matrix is not the weight, or the bias is repeated.
    """
    bias: Tensor | None = conv.bias
    if not spreads(conv, shape) or (bias is not None and math.prod(conv.weight.shape[2:]) > 1):
        raise EquivError(
            f"share: expected False for a convolution whose matrix is not its weight, got True for {conv} on {shape}: "
            "its matrix repeats the weight, the bias, or holds zeros; pass share=False"
        )
    ins, outs = len(conv.weight), conv.weight[0].numel()
    flat = rearranged(conv.weight, (ins, outs), True, "conv.weight")
    shared = None if bias is None else rearranged(bias, (outs,), True, "conv.bias")
    return _swapped(flat, (outs, ins), True, "conv.weight"), shared


def _transpose_of(linear: nn.Linear, channels: int, kernel: tuple[int, ...], share: bool) -> ConvTranspose:
    bias = None if linear.bias is None else _bias_of_channels(linear.bias, channels, kernel, share)
    weight = _swapped(linear.weight, (linear.in_features, channels, *kernel), share, "linear.weight")
    sizes = {"in_channels": linear.in_features, "out_channels": channels, "kernel_size": kernel}
    conv: ConvTranspose = undrawn(CONV_TRANSPOSES[len(kernel)], bias=bias is not None, **sizes)
    return dressed(conv, weight, bias, linear)


def _bias_of_channels(bias: Tensor, channels: int, kernel: tuple[int, ...], share: bool) -> Tensor:
    """One entry for each channel (C,), of a bias (C*P,) that is the same bits at the P positions of each."""
    positions = math.prod(kernel)
    if positions == 1:
        return rearranged(bias, (channels,), share, "linear.bias")
    if share:
        raise EquivError(
            f"share: expected False for a bias with {positions} entries for each channel, got True; the convolution "
            "has one entry for all of them: pass share=False, or a layer without bias"
        )
    rows = rearranged(bias, (channels, positions), False, "linear.bias")
    if holds_values(rows) and any(bool((part != part[:, :1]).any()) for part in map(as_bits, real_parts(rows))):
        raise EquivError(
            f"linear.bias: expected the same at all {positions} positions of a channel, got one that changes from "
            "position to position; a convolution has one entry for each channel: map the layer without its bias, and "
            "add the bias to the result"
        )
    return rearranged(rows[:, 0], (channels,), False, "linear.bias")


@torch.inference_mode(False)
@torch.no_grad()
def _swapped(weight: Tensor, shape: tuple[int, ...], share: bool, name: str) -> Tensor:
    """A weight (a, b) transposed, its b rows in another shape: a view, or a contiguous copy."""
    return rearranged(weight.detach().t(), shape, share, name)
