"""The dense matrix of a convolution, by index arithmetic alone: no convolution is run.

Moves the bits of each weight to the entries of the matrix that it belongs to. Which input a tap reads is found in
``equiv.mapping.geometry``. Letters: O output channels, C input channels, G groups with Cg input channels each, P output
positions, Q input positions, T kernel taps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from equiv.dtypes import SIGNED_OF_SIZE, is_inexact
from equiv.errors import EquivError
from equiv.mapping.checks import Conv
from equiv.mapping.geometry import inputs_read, pads_and_positions

_CHUNK = 2**22  # entries moved at once: bounds the temporary memory, 32 MiB at eight bytes
_FLOAT64_LOWEST = -1074  # log2 of the smallest float64 subnormal: every finite float is an integer multiple of it


@torch.inference_mode(False)
@torch.no_grad()
def dense_weight(conv: Conv, shape: tuple[int, ...]) -> Tensor:
    """The weight ``(O*P, C*Q)`` of the layer that a convolution is on a map ``shape = (C, *spatial)``.

    Raises:
        EquivError: The map does not fit the convolution, or the matrix does not fit in memory.

    Example:
        >>> conv = torch.nn.Conv1d(1, 1, 2, bias=False)
        >>> _ = conv.weight.data.copy_(torch.tensor([[[5.0, 7.0]]]))
        >>> dense_weight(conv, (1, 3)).tolist()
        [[5.0, 7.0, 0.0], [0.0, 5.0, 7.0]]
    """
    weight = conv.weight.detach().resolve_conj().resolve_neg()
    rows, columns = len(weight) * math.prod(pads_and_positions(conv, shape[1:])[1]), math.prod(shape)
    try:
        dense = weight.new_zeros((rows, columns))
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # TypeError: a size beyond 64 bits
        gib = rows * columns * weight.element_size() / 2**30
        raise EquivError(
            f"feature_shape: expected a map whose dense matrix fits in memory, got {shape}, which needs "
            f"{rows} x {columns} entries of {weight.dtype} = {gib:,.1f} GiB; pass a smaller map, or convert on meta"
        ) from error
    if not (weight.is_meta or isinstance(weight, FakeTensor)):
        _fill(dense, weight, inputs_read(conv, shape[1:]), groups=conv.groups)
    return dense


def tap_weights(conv: Conv, shape: tuple[int, ...]) -> Tensor | None:
    """The terms that a convolution really adds where its padding repeats inputs, as a layer over ``m`` copies of them.

    Args:
        conv: A plain convolution.
        shape: ``(C, *spatial)`` of its input.

    Returns:
        ``(O*P, m*C*Q)``: in the k-th of m blocks of columns the weight of the k-th tap that reads an input, or zero.
        The blocks add up to the dense weight before that is rounded. None where no input is read twice by one output,
        and for integers, whose sums are exact.

    Example:
        >>> conv = torch.nn.Conv1d(1, 1, 2, padding=1, padding_mode="replicate", bias=False)
        >>> _ = conv.weight.data.copy_(torch.tensor([[[5.0, 7.0]]]))
        >>> tap_weights(conv, (1, 1)).tolist(), dense_weight(conv, (1, 1)).tolist()
        ([[5.0, 7.0], [5.0, 7.0]], [[12.0], [12.0]])
    """
    weight = conv.weight.detach().cpu().resolve_conj().resolve_neg()
    if conv.padding_mode == "zeros" or not is_inexact(weight.dtype):
        return None
    places = inputs_read(conv, shape[1:])  # (P, T), none of them a padded zero
    ranks = (places[:, :, None] == places[:, None, :]).tril(-1).sum(-1)  # how many earlier taps read the same input
    if not bool(ranks.any()):
        return None
    count, groups, taps = int(ranks.max()) + 1, conv.groups, places.shape[1]
    outputs, channels = len(weight) // groups, weight.shape[1]
    blocks = weight.new_zeros((len(places), count, math.prod(shape[1:]), len(weight), shape[0]))  # (P, m, Q, O, C)
    position = torch.arange(len(places), device="cpu")[:, None].expand_as(places)
    for group in range(groups):
        o, c = (slice(group * size, (group + 1) * size) for size in (outputs, channels))
        entries = weight[o].reshape(outputs, channels, taps).permute(2, 0, 1).expand(len(places), -1, -1, -1)
        blocks[:, :, :, o, c][position, ranks, places] = entries
    return blocks.permute(3, 0, 1, 4, 2).reshape(len(weight) * len(places), -1)


def taps_as_dense(weight: Tensor, read: list[int]) -> Tensor:
    """The weights of one output position as its dense layer has them, each at the first tap that reads its input.

    Args:
        weight: ``(O, Cg, T)`` of the convolution.
        read: For every tap which input it reads, by any number; negative for a padded zero.

    Returns:
        ``(O, Cg, T)``: where several taps read one input the first has their sum, rounded once, and the others zero,
        as have taps that read a padded zero.

    Example:
        >>> taps_as_dense(torch.tensor([[[1.0, 2.0, 4.0]]]), [7, 7, -1]).tolist()
        [[[3.0, 0.0, 0.0]]]
    """
    dense = torch.zeros_like(weight)
    for place in {place for place in read if place >= 0}:
        taps = [tap for tap, other in enumerate(read) if other == place]
        for part, target in zip(_real_parts(weight), _real_parts(dense), strict=True):
            terms = part[..., taps]
            target[..., taps[0]] = terms[..., 0] if len(taps) == 1 else _sum_rounded_once(terms)
    return dense


def _fill(dense: Tensor, weight: Tensor, places: Tensor, *, groups: int) -> None:
    """Write the convolution's matrix into zeros.

    Args:
        dense: zeros of shape (O*P, C*Q), written in place.
        weight: (O, Cg, *kernel) of the same dtype and device, without a pending conjugation or negation.
        places: (P, T) from `inputs_read`.
        groups: G of the convolution.

    An entry that one tap lands on takes over that weight's bits. An entry that several taps land on (paddings that
    repeat the input) is their exact sum, rounded once; integers wrap, complex numbers are summed by parts.
    """
    out_channels, channels = weight.shape[:2]
    positions = places.shape[0]
    position, place, tap, merged = _one_tap_per_entry(places, dense.shape[1] // (channels * groups))
    position, place, tap = (index.to(weight.device) for index in (position, place, tap))
    for part, target in zip(_real_parts(weight), _real_parts(dense), strict=True):
        columns = part.reshape(groups, out_channels // groups, channels, -1)  # (G, O/G, Cg, T)
        # Indexed as signed integers: torch 2.6 cannot index uint16, uint32 and uint64.
        picked = (_as_int(columns)[..., taps.to(weight.device)].view(columns.dtype) for taps in merged)
        sums = [_sum_rounded_once(terms) for terms in picked]
        bits = _as_int(torch.cat([columns, *sums], dim=-1)).permute(3, 1, 2, 0)  # (T', O/G, Cg, G)
        blocks = _as_int(target).view(groups, out_channels // groups, positions, groups, channels, -1)
        blocks = blocks.diagonal(dim1=0, dim2=3)  # (O/G, P, Cg, Q, G): a group's outputs see its own inputs only
        step = max(1, _CHUNK // (out_channels * channels))
        for start in range(0, len(tap), step):
            some = slice(start, start + step)
            blocks[:, position[some], :, place[some]] = bits[tap[some]]  # (entries, O/G, Cg, G)


def _one_tap_per_entry(places: Tensor, in_positions: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The entries of one channel's block that are not zero, as output position, input position and tap, each once.

    Where several taps share an entry, its tap is T or more: T + k stands for the k-th row of the tensors ``merged``,
    each of which, ``(U, m)``, holds U different sets of m >= 2 taps. There are few: sets repeat along the map's border.
    """
    position, tap = (places >= 0).nonzero(as_tuple=True)
    key = position * in_positions + places[position, tap]
    if bool((key[1:] > key[:-1]).all()):  # as under zero padding: taps in order, no two in one place
        return position, key % in_positions, tap, []
    key, order = key.sort(stable=True)
    tap = tap[order]
    entry, counts = torch.unique_consecutive(key, return_counts=True)
    first = counts.cumsum(0) - counts
    chosen = tap[first]
    merged: list[Tensor] = []
    following = places.shape[1]
    for m in (m for m in counts.unique().tolist() if m > 1):
        shared = (counts == m).nonzero().squeeze(1)
        taps = tap[first[shared][:, None] + torch.arange(m, device="cpu")]
        sets, which = torch.unique(taps, dim=0, return_inverse=True)
        chosen[shared] = following + which
        merged.append(sets)
        following += len(sets)
    return entry // in_positions, entry % in_positions, chosen, merged


def _real_parts(x: Tensor) -> tuple[Tensor, ...]:
    return torch.view_as_real(x).unbind(-1) if x.is_complex() else (x,)


def _as_int(x: Tensor) -> Tensor:
    """The same memory as signed integers: they copy NaN payloads, -0.0 and subnormals in every float mode."""
    return x.view(SIGNED_OF_SIZE[x.element_size()])


def _sum_rounded_once(x: Tensor) -> Tensor:
    """Sum the last dimension of a real tensor: (..., m) -> (...)."""
    if not x.is_floating_point():
        bits = _as_int(x)  # the sum modulo 2^bits is the same signed or unsigned; torch cannot add uint16, 32, 64
        return bits.sum(-1, dtype=bits.dtype).view(x.dtype)
    if x.shape[-1] == 2:  # IEEE rounds once; 16 bits pass through float32: harmless, as 24 >= 2 p + 2 (Figueroa 1995)
        return x[..., 0] + x[..., 1]
    rows = x.reshape(-1, x.shape[-1]).cpu().double().tolist()
    total = torch.tensor([_float_sum(row, x.dtype) for row in rows], dtype=torch.float64, device="cpu")
    return total.to(x.dtype).to(x.device).view(x.shape[:-1])


def _float_sum(values: list[float], dtype: torch.dtype) -> float:
    """The exact sum, rounded once, to nearest even in ``dtype``: by way of a float64 it would be rounded twice."""
    special = [value for value in values if not math.isfinite(value)]
    if special:
        return sum(special)
    ratios = (value.as_integer_ratio() for value in values)
    total = sum(n << (-_FLOAT64_LOWEST - (d.bit_length() - 1)) for n, d in ratios)
    if total == 0:  # IEEE: -0.0 only where every term is
        return -0.0 if all(math.copysign(1.0, value) < 0 for value in values) else 0.0
    precision = 2 - math.frexp(torch.finfo(dtype).eps)[1]  # eps = 2^(1-p), and frexp(2^k) has the exponent k + 1
    drop = max(abs(total).bit_length() - precision, 0)  # subnormal sums are multiples of the least one: no case apart
    kept, lost = divmod(abs(total), 1 << drop)
    half = (1 << drop) // 2
    if drop and (lost > half or (lost == half and kept % 2 == 1)):
        kept += 1
    try:
        size = math.ldexp(kept, drop + _FLOAT64_LOWEST)  # beyond a narrower dtype it becomes infinite there
    except OverflowError:
        size = math.inf
    return -size if total < 0 else size
