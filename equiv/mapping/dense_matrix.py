"""The dense matrix of a convolution, by index arithmetic alone.

Knows which weight a convolution puts between an input entry and an output entry, and moves the weight there as bits. It
does not run the convolution, and does not know modules: that is `equiv.mapping.convert`. Letters: O output channels, C input
channels, G groups with Cg input channels each, P output positions, Q input positions, T kernel taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equiv.dtypes import SIGNED_OF_SIZE

_CHUNK = 2**22  # entries moved at once: bounds the temporary memory, 32 MiB at eight bytes
_FLOAT64_LOWEST = -1074  # log2 of the smallest float64 subnormal: every finite float is an integer multiple of it


def axis_sources(size: int, kernel: int, stride: int, dilation: int, left: int, positions: int, mode: str) -> Tensor:
    """Which input index each (output position, tap) reads along one axis, -1 where it reads a padded zero.

    Returns an int64 tensor of shape (positions, kernel). ``left`` is the padding before the first entry, ``mode`` a
    ``padding_mode`` of torch. The caller checks that padding < size for reflect and padding <= size for circular.

    Example:
        >>> axis_sources(3, 3, 1, 1, 1, 3, "reflect").tolist()
        [[1, 0, 1], [0, 1, 2], [1, 2, 1]]
    """
    position = torch.arange(positions, device="cpu")[:, None] * stride
    index = position + torch.arange(kernel, device="cpu") * dilation - left
    if mode == "reflect":
        index = index.abs()
        return torch.where(index >= size, 2 * (size - 1) - index, index)
    if mode == "replicate":
        return index.clamp(0, size - 1)
    if mode == "circular":
        return index % size
    return torch.where((index >= 0) & (index < size), index, -1)


def landing_places(axes: Sequence[Tensor], spatial: Sequence[int]) -> Tensor:
    """Join the axes' sources: the flat input position that each (output position, tap) reads, -1 for a padded zero.

    Returns an int64 tensor of shape (P, T), both flattened in torch's order.

    Example:
        >>> landing_places([torch.tensor([[0], [1]]), torch.tensor([[-1, 0]])], (2, 5)).tolist()
        [[-1, 0], [-1, 5]]
    """
    rank = len(axes)
    place = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device="cpu")
    inside = torch.ones((1,) * (2 * rank), dtype=torch.bool, device="cpu")
    for i, (axis, size) in enumerate(zip(axes, spatial, strict=True)):
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = axis.shape
        index = axis.view(shape)
        place = place * size + index
        inside = inside & (index >= 0)
    positions = math.prod(axis.shape[0] for axis in axes)
    return torch.where(inside, place, -1).reshape(positions, -1)


def fill_dense(dense: Tensor, weight: Tensor, places: Tensor, *, groups: int) -> None:
    """Write the convolution's matrix into zeros.

    Args:
        dense: zeros of shape (O*P, C*Q), written in place.
        weight: (O, Cg, *kernel) of the same dtype and device, without a pending conjugation or negation.
        places: (P, T) from `landing_places`.
        groups: G of the convolution.

    An entry that one tap lands on takes over that weight's bits. An entry that several taps land on (paddings that
    repeat the input) is their exact sum, rounded once; integers wrap, complex numbers are summed by parts.

    Example:
        >>> dense = torch.zeros(2, 3)
        >>> fill_dense(dense, torch.tensor([[[5.0, 7.0]]]), torch.tensor([[0, 1], [1, 2]]), groups=1)
        >>> dense.tolist()
        [[5.0, 7.0, 0.0], [0.0, 5.0, 7.0]]
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
    """List the non-zero entries as (p, q, tap), each (p, q) once.

    Where several taps share an entry, ``tap`` counts on beyond T into the rows of ``merged``: each of its tensors
    (U, m) holds U different sets of m >= 2 taps. Sets repeat along the map's border, so there are few.
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
        total = bits[..., 0]
        for i in range(1, x.shape[-1]):
            total = total + bits[..., i]
        return total.view(x.dtype)
    if x.shape[-1] == 2:  # IEEE rounds once; 16 bits pass through float32: harmless, as 24 >= 2 p + 2 (Figueroa 1995)
        return x[..., 0] + x[..., 1]
    rows = x.reshape(-1, x.shape[-1]).cpu().double().tolist()
    total = torch.tensor([_float_sum(row, x.dtype) for row in rows], dtype=torch.float64, device="cpu")
    return total.to(x.dtype).to(x.device).view(x.shape[:-1])


def _float_sum(values: list[float], dtype: torch.dtype) -> float:
    """The exact sum, rounded to nearest even in ``dtype``'s grid: a float64 would round a second time on its way."""
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
