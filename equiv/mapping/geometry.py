"""Where a convolution reads its input: padding, output positions, and which input entry each tap of its kernel reads.

Knows the attributes of a convolution, and nothing of its values: the matrix that follows from both is in
``equiv.mapping.dense_matrix``. Letters: P output positions, Q input positions, T taps, all flattened in torch's order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.mapping.checks import Conv


def has_valid_attributes(layer: nn.Linear | Conv) -> bool:
    """Whether stride, dilation, padding and padding mode are such as torch accepts; the functions below rely on it."""
    if isinstance(layer, nn.Linear):
        return True
    rank = layer.weight.ndim - 2
    for name, least in (("stride", 1), ("dilation", 1), ("padding", None)):
        value: Any = getattr(layer, name)
        if name == "padding" and value in ("same", "valid"):
            continue
        values = value if isinstance(value, (tuple, list)) else (value,)
        whole = all(isinstance(v, int) and (least is None or v >= least) for v in values)
        if len(values) not in (1, rank) or not whole:
            return False
    return layer.padding_mode in ("zeros", "reflect", "replicate", "circular")


def geometry_of(layer: nn.Linear | Conv) -> tuple[object, ...]:
    """All that decides which weight meets which input: layers with equal geometry differ in values alone.

    Example:
        >>> geometry_of(nn.Conv1d(2, 3, 1)) == geometry_of(nn.Conv1d(2, 3, 1, padding=1))
        False
    """
    shape = tuple(layer.weight.shape)
    if isinstance(layer, nn.Linear):
        return (shape,)
    record = tuple(layer._reversed_padding_repeated_twice)
    return (shape, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode, record)


def reach_of(conv: Conv) -> tuple[int, ...]:
    """Along each axis, how many entries the kernel extends over, those that dilation skips included."""
    return tuple(d * (k - 1) + 1 for d, k in zip(_per_axis(conv, "dilation"), conv.weight.shape[2:], strict=True))


def pads_of(conv: Conv) -> list[tuple[int, int]]:
    """Along each axis, how many entries are added before the first and after the last."""
    if conv.padding_mode != "zeros":  # here nn.Conv pads from its own record, last axis first
        record = list(conv._reversed_padding_repeated_twice)
        return list(zip(record[::2], record[1::2], strict=True))[::-1]
    if conv.padding == "valid":
        return [(0, 0)] * (conv.weight.ndim - 2)
    if conv.padding == "same":
        return [((reach - 1) // 2, reach // 2) for reach in reach_of(conv)]
    return [(pad, pad) for pad in _per_axis(conv, "padding")]


def is_unpadded(conv: Conv) -> bool:
    """Whether nothing is added on any side."""
    return not any(before or after for before, after in pads_of(conv))


def pads_and_positions(conv: Conv, spatial: tuple[int, ...]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """What is added along each axis of a map of sizes ``spatial``, and how many output positions there are along it.

    Raises:
        EquivError: torch would refuse such a map: it is smaller than the kernel or too small for its padding mode.

    Example:
        >>> pads_and_positions(nn.Conv2d(1, 1, 3, stride=2, padding=1), (5, 8))
        ([(1, 1), (1, 1)], (3, 4))
    """
    pads = pads_of(conv)
    limit = {"reflect": lambda size: size - 1, "circular": lambda size: size}.get(conv.padding_mode)
    if limit is not None and any(max(pad) > limit(size) for pad, size in zip(pads, spatial, strict=True)):
        bound = "smaller than" if conv.padding_mode == "reflect" else "no larger than"
        raise EquivError(
            f"feature_shape: expected spatial sizes such that {conv.padding_mode} padding is {bound} each, got "
            f"{spatial} with padding {tuple(max(pad) for pad in pads)}; pass a larger map, or use another padding_mode"
        )
    if conv.padding_mode == "zeros" and any(min(pad) < 0 for pad in pads):
        raise EquivError(f"conv.padding: expected at least 0, got {conv.padding}; crop the input instead")
    reach = reach_of(conv)
    padded = tuple(size + sum(pad) for size, pad in zip(spatial, pads, strict=True))
    if any(r > size for r, size in zip(reach, padded, strict=True)):
        raise EquivError(
            f"feature_shape: expected padded spatial sizes of at least {reach}, the reach of the kernel, got "
            f"{spatial}, padded {padded}; pass a larger map, or a convolution with more padding"
        )
    strides = _per_axis(conv, "stride")
    return pads, tuple((size - r) // s + 1 for size, r, s in zip(padded, reach, strides, strict=True))


def covers(layer: nn.Linear | Conv, shape: tuple[int, ...]) -> bool:
    """Whether the flattened weight is the matrix of the layer on a map ``(C, *spatial)``.

    True for a Linear, and for a convolution of one group whose kernel lies over the whole map, in one position.

    Raises:
        EquivError: As `pads_and_positions`.

    Example:
        >>> covers(nn.Conv2d(3, 5, 2), (3, 2, 2)), covers(nn.Conv2d(3, 5, 2), (3, 4, 4))
        (True, False)
    """
    if isinstance(layer, nn.Linear):
        return True
    pads, positions = pads_and_positions(layer, shape[1:])
    one_window = math.prod(positions) == 1 and all(before == 0 for before, _ in pads)
    return one_window and layer.groups == 1 and layer.weight.shape[1:] == shape


class Axis(NamedTuple):
    """One axis of a map as a kernel moves along it.

    Attributes:
        reads: Which entry lies at each index of the padded axis, -1 for a padded zero; int64.
        stride: From one output position to the next.
        dilation: From one tap to the next.
        taps: How many there are.
        positions: How many outputs there are.
    """

    reads: Tensor
    stride: int
    dilation: int
    taps: int
    positions: int


def axes_read(conv: Conv, spatial: tuple[int, ...]) -> list[Axis]:
    """Every axis of a map of sizes ``spatial``; tap k of output p reads the padded index ``p*stride + k*dilation``.

    Example:
        >>> axes_read(nn.Conv1d(1, 1, 2, padding=1, padding_mode="circular"), (3,))[0].reads.tolist()
        [2, 0, 1, 2, 0]
    """
    pads, positions = pads_and_positions(conv, spatial)
    strides, dilations, taps = _per_axis(conv, "stride"), _per_axis(conv, "dilation"), conv.weight.shape[2:]
    entries = (
        _unpadded(torch.arange(-before, size + after, device="cpu"), size, conv.padding_mode)
        for size, (before, after) in zip(spatial, pads, strict=True)
    )
    return [Axis(*values) for values in zip(entries, strides, dilations, taps, positions, strict=True)]


def inputs_read(conv: Conv, spatial: tuple[int, ...]) -> Tensor:
    """Which input position each (output position, tap) reads: int64 ``(P, T)``, -1 where it reads a padded zero.

    Example:
        >>> inputs_read(nn.Conv1d(1, 1, 2, padding=1), (2,)).tolist()
        [[-1, 0], [0, 1], [1, -1]]
    """
    rank = len(spatial)
    place = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device="cpu")
    inside = torch.ones((1,) * (2 * rank), dtype=torch.bool, device="cpu")
    axes = axes_read(conv, spatial)
    for i, (size, axis) in enumerate(zip(spatial, axes, strict=True)):
        index = axis.reads[_windows(axis)]
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = index.shape
        index = index.view(shape)
        place = place * size + index
        inside = inside & (index >= 0)
    return torch.where(inside, place, -1).reshape(math.prod(axis.positions for axis in axes), -1)


def _windows(axis: Axis) -> Tensor:
    """Which padded index each (output position, tap) reads: int64 ``(P, T)`` of one axis."""
    first = torch.arange(axis.positions, device="cpu")[:, None] * axis.stride
    return first + torch.arange(axis.taps, device="cpu") * axis.dilation


def _unpadded(index: Tensor, size: int, mode: str) -> Tensor:
    """The entry of an axis that lies at each index of the padded axis, -1 for a padded zero; index 0 is its first."""
    if mode == "reflect":
        index = index.abs()
        return torch.where(index >= size, 2 * (size - 1) - index, index)
    if mode == "replicate":
        return index.clamp(0, size - 1)
    if mode == "circular":
        return index % size
    return torch.where((index >= 0) & (index < size), index, -1)


def _per_axis(conv: Conv, name: str) -> tuple[int, ...]:
    value: Any = getattr(conv, name)
    values = value if isinstance(value, tuple | list) else (value,)
    return tuple(values) * (conv.weight.ndim - 2 if len(values) == 1 else 1)
