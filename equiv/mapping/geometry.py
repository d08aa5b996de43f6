"""Where a convolution reads its input: padding, output positions, and which input entry each tap of its kernel reads.

Knows the attributes of a convolution, and nothing of its values: the matrix that follows from both is in
``equiv.mapping.dense_matrix``. Letters: P output positions, Q input positions, T taps, all flattened in torch's order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.mapping.attributes import Attributes, Conv, ConvTranspose, attributes_of


def has_valid_attributes(layer: nn.Linear | Conv) -> bool:
    """Whether stride, dilation, groups, padding and padding mode are such as torch accepts.

    Example:
        >>> conv = nn.Conv1d(2, 3, 1)
        >>> conv.stride = 0
        >>> has_valid_attributes(conv)
        False
    """
    try:
        return isinstance(layer, nn.Linear) or bool(attributes_of(layer))
    except EquivError:
        return False


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
    found = attributes_of(conv)
    pads, mode = list(found.pads), found.mode
    limit = {"reflect": lambda size: size - 1, "circular": lambda size: size}.get(mode)
    if limit is not None and any(max(pad) > limit(size) for pad, size in zip(pads, spatial, strict=True)):
        bound = "smaller than" if mode == "reflect" else "no larger than"
        raise EquivError(
            f"feature_shape: expected spatial sizes such that {mode} padding is {bound} each, got "
            f"{spatial} with padding {tuple(max(pad) for pad in pads)}; pass a larger map, or use another padding_mode"
        )
    reach = reach_of(conv)
    padded = tuple(size + sum(pad) for size, pad in zip(spatial, pads, strict=True))
    if any(r > size for r, size in zip(reach, padded, strict=True)):
        raise EquivError(
            f"feature_shape: expected padded spatial sizes of at least {reach}, the reach of the kernel, got "
            f"{spatial}, padded {padded}; pass a larger map, or a convolution with more padding"
        )
    return pads, tuple((size - r) // s + 1 for size, r, s in zip(padded, reach, found.stride, strict=True))


def positions_of(conv: Conv | ConvTranspose, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """How many output positions there are along each axis of a map of sizes ``spatial``.

    Raises:
        EquivError: As `pads_and_positions`; of a transposed convolution, that there would be none.

    Example:
        >>> positions_of(nn.ConvTranspose2d(1, 1, 3, stride=2, output_padding=1), (2, 5))
        (6, 12)
    """
    if not isinstance(conv, ConvTranspose):
        return pads_and_positions(conv, spatial)[1]
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


def inputs_read(conv: Conv | ConvTranspose, spatial: tuple[int, ...]) -> Tensor:
    """Which input position each (output position, tap) reads: int64 ``(P, T)``, -1 where it reads none.

    That is a padded zero, or for a transposed convolution an output that the tap does not add to.

    Example:
        >>> inputs_read(nn.Conv1d(1, 1, 2, padding=1), (2,)).tolist()
        [[-1, 0], [0, 1], [1, -1]]
        >>> inputs_read(nn.ConvTranspose1d(1, 1, 2, stride=2), (2,)).tolist()
        [[0, -1], [-1, 0], [1, -1], [-1, 1]]
    """
    found, positions = attributes_of(conv), positions_of(conv, spatial)
    kernel, rank = conv.weight.shape[2:], len(spatial)
    along = _inputs_added if isinstance(conv, ConvTranspose) else _inputs_met
    place = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device="cpu")
    inside = torch.ones((1,) * (2 * rank), dtype=torch.bool, device="cpu")
    for i, size in enumerate(spatial):
        output = torch.arange(positions[i], device="cpu")[:, None]
        tap = torch.arange(kernel[i], device="cpu")
        index = along(output, tap, found, i, size)
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = index.shape
        index = index.view(shape)
        place = place * size + index
        inside = inside & (index >= 0)
    return torch.where(inside, place, -1).reshape(math.prod(positions), -1)


def _inputs_met(output: Tensor, tap: Tensor, found: Attributes, axis: int, size: int) -> Tensor:
    """Along one axis of a convolution, the entry that each tap meets for each output, -1 for a padded zero."""
    start = output * found.stride[axis] - found.pads[axis][0]
    return _unpadded(start + tap * found.dilation[axis], size, found.mode)


def _inputs_added(output: Tensor, tap: Tensor, found: Attributes, axis: int, size: int) -> Tensor:
    """Along one axis of a transposed convolution, the entry of which each tap adds a multiple to each output, or -1."""
    reached = output + found.pads[axis][0] - tap * found.dilation[axis]  # from the first entry on, in steps of stride
    index = reached.div(found.stride[axis], rounding_mode="floor")
    return torch.where((reached % found.stride[axis] == 0) & (index >= 0) & (index < size), index, -1)


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
