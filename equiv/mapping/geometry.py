"""Where a convolution reads its input: padding, output positions, which tap lands on which input.

Knows a convolution's attributes and nothing of its values, but for :func:`tap_weights`, which lays the weights of several
taps on one input side by side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from equiv.errors import EquivError
from equiv.mapping.checks import Conv


def per_axis(conv: Conv, name: str) -> tuple[int, ...]:
    value: Any = getattr(conv, name)
    values = value if isinstance(value, tuple | list) else (value,)
    rank = conv.weight.ndim - 2
    return tuple(values) * (rank if len(values) == 1 else 1)


def pads_of(conv: Conv) -> list[tuple[int, int]]:
    """What is added before and after each axis."""
    kernel, dilation = conv.weight.shape[2:], per_axis(conv, "dilation")
    if conv.padding_mode != "zeros":  # here nn.Conv pads from its own record, last axis first
        record = list(conv._reversed_padding_repeated_twice)
        return list(zip(record[::2], record[1::2], strict=True))[::-1]
    if conv.padding == "valid":
        return [(0, 0)] * len(kernel)
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(pad, pad) for pad in per_axis(conv, "padding")]


def pads_and_positions(conv: Conv, spatial: tuple[int, ...]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Padding and number of output positions along each axis."""
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
    reach = [d * (k - 1) + 1 for d, k in zip(per_axis(conv, "dilation"), conv.weight.shape[2:], strict=True)]
    padded = tuple(size + sum(pad) for size, pad in zip(spatial, pads, strict=True))
    if any(r > size for r, size in zip(reach, padded, strict=True)):
        raise EquivError(
            f"feature_shape: expected padded spatial sizes of at least {tuple(reach)}, the reach of the kernel, got "
            f"{spatial}, padded {padded}; pass a larger map, or a convolution with more padding"
        )
    strides = per_axis(conv, "stride")
    return pads, tuple((size - r) // s + 1 for size, r, s in zip(padded, reach, strides, strict=True))


def is_unpadded(conv: Conv) -> bool:
    if conv.padding_mode != "zeros":  # here nn.Conv pads from its own record
        return not any(conv._reversed_padding_repeated_twice)
    if isinstance(conv.padding, str):
        return conv.padding == "valid" or math.prod(conv.kernel_size) == 1
    return not any(conv.padding) if isinstance(conv.padding, tuple | list) else not conv.padding


def has_valid_attributes(layer: nn.Linear | Conv) -> bool:
    """Whether a convolution's attributes are such as torch takes; if not, let torch say so when it runs."""
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


def covers(layer: nn.Linear | Conv, shape: tuple[int, ...]) -> bool:
    """Whether the weight, read row by row, is the dense matrix: a Linear, or one window over the whole map."""
    if isinstance(layer, nn.Linear):
        return True
    pads, positions = pads_and_positions(layer, shape[1:])
    one_window = math.prod(positions) == 1 and all(left == 0 for left, _ in pads)
    return layer.groups == 1 and one_window and layer.kernel_size == shape[1:] and layer.in_channels == shape[0]


def geometry_of(layer: nn.Linear | Conv) -> tuple[object, ...]:
    """Everything about a layer but the values of its parameters."""
    if isinstance(layer, nn.Linear):
        return (tuple(layer.weight.shape),)
    return (
        *(tuple(layer.weight.shape), layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode),
        tuple(layer._reversed_padding_repeated_twice),
    )


def tap_weights(conv: Conv, shape: tuple[int, ...]) -> Tensor | None:
    """The terms that a convolution really adds where its padding repeats inputs, as a layer over ``m`` copies of them.

    Args:
        conv: A plain convolution.
        shape: ``(C, *spatial)`` of its input.

    Returns:
        ``(O*P, m*n)``, in the k-th of m blocks of columns the k-th tap that lands on an input, or zero; the blocks add
        up to the dense weight before it is rounded. None where no input is read twice, and for integers, whose sums
        are exact.

    Example:
        >>> conv = nn.Conv1d(1, 1, 2, padding=1, padding_mode="replicate", bias=False)
        >>> _ = conv.weight.data.copy_(torch.tensor([[[5.0, 7.0]]]))
        >>> tap_weights(conv, (1, 1)).tolist(), conv_to_linear(conv, (1, 1)).weight.tolist()
        ([[5.0, 7.0], [5.0, 7.0]], [[12.0], [12.0]])
    """
    weight = conv.weight.detach().cpu().resolve_conj().resolve_neg()
    if conv.padding_mode == "zeros" or not (weight.is_floating_point() or weight.is_complex()):
        return None
    # Which input each tap reads is found by padding the inputs' own numbers, as the convolution pads their values.
    numbers = torch.arange(math.prod(shape[1:]), dtype=torch.float64, device="cpu").view(1, 1, *shape[1:])
    read = pad(numbers, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
    kernel = tuple(weight.shape[2:])
    strides, dilations = (per_axis(conv, name) for name in ("stride", "dilation"))
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        read = read.unfold(2 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    taps = math.prod(kernel)
    places = read.reshape(-1, taps).long()  # (P, T)
    ranks = (places[:, :, None] == places[:, None, :]).tril(-1).sum(-1)  # how many earlier taps read the same input
    if not bool(ranks.any()):
        return None
    count, groups = int(ranks.max()) + 1, conv.groups
    outputs, channels = len(weight) // groups, weight.shape[1]
    blocks = weight.new_zeros((len(places), count, numbers.numel(), len(weight), shape[0]))  # (P, m, Q, O, C)
    position = torch.arange(len(places), device="cpu")[:, None].expand_as(places)
    for group in range(groups):
        o, c = (slice(group * size, (group + 1) * size) for size in (outputs, channels))
        entries = weight[o].reshape(outputs, channels, taps).permute(2, 0, 1).expand(len(places), -1, -1, -1)
        blocks[:, :, :, o, c][position, ranks, places] = entries
    return blocks.permute(3, 0, 1, 4, 2).reshape(len(weight) * len(places), -1)
