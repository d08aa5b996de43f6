"""Where a convolution reads its input: padding, output positions, and which input entry each tap of its kernel reads.

Knows the attributes of a convolution, and nothing of its values: the matrix that follows from both is in
``equiv.mapping.dense_matrix``. Letters: P output positions, Q input positions, T taps, all flattened in torch's order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.mapping.attributes import Attributes, Conv, ConvTranspose, attributes_of


def geometry_of(layer: nn.Linear | Conv) -> tuple[object, ...]:
    """All that decides which weight meets which input: layers with equal geometry differ in values alone.

    Example:
        >>> geometry_of(nn.Conv1d(2, 3, 1)) == geometry_of(nn.Conv1d(2, 3, 1, padding=1))
        False
    """
    shape = tuple(layer.weight.shape)
    return (shape,) if isinstance(layer, nn.Linear) else (shape, attributes_of(layer))


def reach_of(conv: Conv) -> tuple[int, ...]:
    """Along each axis, how many entries the kernel extends over, those that dilation skips included."""
    return tuple(d * (k - 1) + 1 for d, k in zip(attributes_of(conv).dilation, conv.weight.shape[2:], strict=True))


def is_unpadded(conv: Conv) -> bool:
    """Whether nothing is added on any side."""
    return not any(before or after for before, after in attributes_of(conv).pads)


def pads_and_positions(conv: Conv, spatial: tuple[int, ...]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """What is added along each axis of a map of sizes ``spatial``, and how many output positions there are along it.

    Raises:
        EquivError: torch would refuse such a map: it is smaller than the kernel or too small for its padding mode.

    Example:
        >>> pads_and_positions(nn.Conv2d(1, 1, 3, stride=2, padding=1), (5, 8))
        ([(1, 1), (1, 1)], (3, 4))
    """
    found, positions = _padded(conv, spatial)
    return list(found.pads), positions


def _padded(conv: Conv, spatial: tuple[int, ...]) -> tuple[Attributes, tuple[int, ...]]:
    """The attributes of a convolution, and its output positions; refuses a map that torch would refuse."""
    found, kernel = attributes_of(conv), conv.weight.shape[2:]
    pads, mode = found.pads, found.mode
    limit = {"reflect": lambda size: size - 1, "circular": lambda size: size}.get(mode)
    if limit is not None and any(max(pad) > limit(size) for pad, size in zip(pads, spatial, strict=True)):
        bound = "smaller than" if mode == "reflect" else "no larger than"
        raise EquivError(
            f"feature_shape: expected spatial sizes such that {mode} padding is {bound} each, got "
            f"{spatial} with padding {tuple(max(pad) for pad in pads)}; pass a larger map, or use another padding_mode"
        )
    reach = tuple(d * (k - 1) + 1 for d, k in zip(found.dilation, kernel, strict=True))
    padded = tuple(size + sum(pad) for size, pad in zip(spatial, pads, strict=True))
    if any(r > size for r, size in zip(reach, padded, strict=True)):
        raise EquivError(
            f"feature_shape: expected padded spatial sizes of at least {reach}, the reach of the kernel, got "
            f"{spatial}, padded {padded}; pass a larger map, or a convolution with more padding"
        )
    return found, tuple((size - r) // s + 1 for size, r, s in zip(padded, reach, found.stride, strict=True))


def positions_of(conv: Conv | ConvTranspose, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """How many output positions there are along each axis of a map of sizes ``spatial``.

    Raises:
        EquivError: As `pads_and_positions`; of a transposed convolution, that there would be none.

    Example:
        >>> positions_of(nn.ConvTranspose2d(1, 1, 3, stride=2, output_padding=1), (2, 5))
        (6, 12)
    """
    if not isinstance(conv, ConvTranspose):
        return _padded(conv, spatial)[1]
    found, kernel = attributes_of(conv), conv.weight.shape[2:]
    axes = zip(spatial, found.stride, found.pads, found.dilation, kernel, found.output_padding, strict=True)
    positions = tuple((size - 1) * s - sum(pad) + d * (k - 1) + extra + 1 for size, s, pad, d, k, extra in axes)
    if min(positions) < 1:
        raise EquivError(
            f"feature_shape: expected spatial sizes that leave at least one output along each axis, got {spatial}, "
            f"which leave {positions} after cropping by padding {conv.padding}; pass a larger map, or less padding"
        )
    return positions


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


def spreads(conv: Conv | ConvTranspose, shape: tuple[int, ...]) -> bool:
    """Whether the flattened weight, transposed, is the matrix of a convolution on a map ``(C, *spatial)``.

    True for a transposed one of one group on a map of one position, whose kernel becomes the whole output.

    Example:
        >>> spreads(nn.ConvTranspose2d(3, 5, 2), (3, 1, 1)), spreads(nn.ConvTranspose2d(3, 5, 2), (3, 2, 2))
        (True, False)
    """
    if not isinstance(conv, ConvTranspose) or conv.groups != 1 or math.prod(shape[1:]) != 1:
        return False
    unpadded = not any(sum(pad) for pad in attributes_of(conv).pads)
    return unpadded and positions_of(conv, shape[1:]) == tuple(conv.weight.shape[2:])


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
    found, positions = _padded(conv, spatial)
    entries = (
        _unpadded(torch.arange(-before, size + after, device="cpu"), size, found.mode)
        for size, (before, after) in zip(spatial, found.pads, strict=True)
    )
    columns = (entries, found.stride, found.dilation, conv.weight.shape[2:], positions)
    return [Axis(*values) for values in zip(*columns, strict=True)]


def inputs_read(conv: Conv | ConvTranspose, spatial: tuple[int, ...]) -> Tensor:
    """Which input position each (output position, tap) reads: int64 ``(P, T)``, -1 where it reads none.

    That is a padded zero, or for a transposed convolution an output that the tap does not add to.

    Example:
        >>> inputs_read(nn.Conv1d(1, 1, 2, padding=1), (2,)).tolist()
        [[-1, 0], [0, 1], [1, -1]]
        >>> inputs_read(nn.ConvTranspose1d(1, 1, 2, stride=2), (2,)).tolist()
        [[0, -1], [-1, 0], [1, -1], [-1, 1]]
    """
    rank = len(spatial)
    place = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device="cpu")
    inside = torch.ones((1,) * (2 * rank), dtype=torch.bool, device="cpu")
    if isinstance(conv, ConvTranspose):
        along = _inputs_added(conv, spatial)
    else:
        along = [axis.reads[_windows(axis)] for axis in axes_read(conv, spatial)]
    for i, (size, index) in enumerate(zip(spatial, along, strict=True)):
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = index.shape
        index = index.view(shape)
        place = place * size + index
        inside = inside & (index >= 0)
    return torch.where(inside, place, -1).reshape(math.prod(len(index) for index in along), -1)


def _windows(axis: Axis) -> Tensor:
    """Which padded index each (output position, tap) reads: int64 ``(P, T)`` of one axis."""
    first = torch.arange(axis.positions, device="cpu")[:, None] * axis.stride
    return first + torch.arange(axis.taps, device="cpu") * axis.dilation


def _inputs_added(conv: ConvTranspose, spatial: tuple[int, ...]) -> list[Tensor]:
    """Along each axis, which entry each tap adds to each output position: int64 ``(P, T)``, -1 for none."""
    found, along = attributes_of(conv), []
    axes = zip(spatial, positions_of(conv, spatial), conv.weight.shape[2:], *found[:3], strict=True)
    for size, positions, taps, stride, dilation, (crop, _) in axes:
        output, tap = torch.arange(positions, device="cpu")[:, None], torch.arange(taps, device="cpu")
        reached = output + crop - tap * dilation  # counted from the first entry's, of which every stride-th is an entry
        index = reached.div(stride, rounding_mode="floor")
        along.append(torch.where((reached % stride == 0) & (index >= 0) & (index < size), index, -1))
    return along


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
