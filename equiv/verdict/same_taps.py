"""Are two convolutions one function on maps of one shape? Tap by tap, without their dense layers.

What a tap reads along an axis is a column: for every output position the entry that it reads there, or none. Taps of
two convolutions with equal columns along all axes are one, whatever stride, padding and dilation led there. A tap that
one convolution lacks is a weight of zero: the same function of finite inputs, while kernels make NaN of an infinite one
there. Taps that read nothing but padded zeros are none.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv, axes_read, pads_and_positions, taps_as_dense
from equiv.numerics import gap_words, same_bits
from equiv.text import counted
from equiv.verdict.outcome import Entry, Outcome, Verdict


class _Taps(NamedTuple):
    """The taps of a convolution: what each is called, its weights ``(O, C, T)``, and its columns along the axes."""

    names: list[int]
    weight: Tensor
    columns: list[tuple[tuple[int, ...], ...]]


def difference_of(candidate: Conv, reference: Conv, shape: tuple[int, ...]) -> Verdict | None:
    """What tells two convolutions apart by their weights alone on maps ``(C, *spatial)``; None where nothing does.

    Raises:
        EquivError: This cannot be told tap by tap.

    Example:
        >>> small, large = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 3, padding=1)
        >>> _ = large.weight.data.zero_()
        >>> large.weight.data[:, :, 1:2, 1:2] = small.weight.data
        >>> large.bias.data = small.bias.data
        >>> difference_of(large, small, (1, 8, 8)) is None
        True
    """
    sizes = [(c.out_channels, *pads_and_positions(c, shape[1:])[1]) for c in (candidate, reference)]
    dtypes = [dtype_name(c.weight.dtype) for c in (candidate, reference)]
    if sizes[0] != sizes[1] or dtypes[0] != dtypes[1]:
        text = (
            f"on maps {shape} the candidate gives maps {sizes[0]} of {dtypes[0]}, the reference {sizes[1]} of "
            f"{dtypes[1]}: these are not the same function."
        )
        return Verdict(Outcome.DIFFERENT, text, dtypes[0], tuple(candidate.weight.shape))
    numbers: dict[tuple[tuple[int, ...], ...], int] = {}
    left, right = (_taps_of(conv, shape, numbers) for conv in (candidate, reference))
    every = sorted({*left.names, *right.names} - {-1})
    a, b = (_by_name(taps, every) for taps in (left, right))
    wrong = ~(same_bits(a, b) | (a == b))
    if not bool(wrong.any()):
        return None
    columns = {name: column for taps in (left, right) for name, column in zip(taps.names, taps.columns, strict=True)}
    place = _place_of(wrong, {name: columns[name] for name in every}, every)
    if place is None:
        raise EquivError(
            f"candidate: expected taps that read the map {shape} as those of the reference do, or at other places, got "
            f"{candidate} beside {reference}, some of whose taps read the same entries at some positions alone; pass a "
            "smaller feature_shape, on which both are compared as dense layers"
        )
    return _verdict(a, b, wrong, place, left.names, candidate)


def _taps_of(conv: Conv, shape: tuple[int, ...], numbers: dict[tuple[tuple[int, ...], ...], int]) -> _Taps:
    """All taps; ``numbers`` has the names that were given so far. -1 is that of a tap that reads nothing."""
    along = []
    for axis in axes_read(conv, shape[1:]):
        first = torch.arange(axis.positions, device="cpu")[:, None] * axis.stride
        reads = axis.reads[first + torch.arange(axis.taps, device="cpu") * axis.dilation]
        along.append([tuple(column) for column in reads.T.tolist()])
    columns = list(itertools.product(*along))
    names = [
        -1 if any(max(column) < 0 for column in each) else numbers.setdefault(each, len(numbers)) for each in columns
    ]
    weight = conv.weight.detach().cpu().resolve_conj().resolve_neg().flatten(2)
    if is_inexact(weight.dtype) and not bool(weight.isfinite().all()):
        raise EquivError(
            f"candidate: expected finite weights where two large convolutions read the map {shape} in other ways, got "
            "some that are not; pass a smaller feature_shape, on which both are compared as dense layers"
        )
    groups, (outputs, channels, taps) = conv.groups, weight.shape
    if groups > 1:
        whole = weight.new_zeros((groups, outputs // groups, groups, channels, taps))
        whole[range(groups), :, range(groups)] = weight.view(groups, -1, channels, taps)
        weight = whole.view(outputs, -1, taps)
    return _Taps(names, taps_as_dense(weight, names), columns)


def _by_name(taps: _Taps, every: list[int]) -> Tensor:
    """The weights ``(O, C, names)``, zeros where a convolution has no such tap."""
    first = {name: taps.names.index(name) for name in {*taps.names} - {-1}}
    found = taps.weight.new_zeros((*taps.weight.shape[:2], len(every)))
    for place, name in enumerate(every):
        if name in first:
            found[:, :, place] = taps.weight[:, :, first[name]]
    return found


def _place_of(
    wrong: Tensor, columns: dict[int, tuple[tuple[int, ...], ...]], every: list[int]
) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """A tap that differs, and an output position and the entry that no other tap that differs reads there."""
    off = [every[place] for place in wrong.any(0).any(0).nonzero().flatten().tolist()]
    for name in off:
        others = [columns[other] for other in off if other != name]
        for position in _positions(columns[name]):
            read = tuple(axis[at] for axis, at in zip(columns[name], position, strict=True))
            if all(_reads(other, position) != read for other in others):
                return every.index(name), position, read
    return None


def _positions(column: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Some output positions at which a tap reads an entry: the middle, the first and the last along each axis."""
    along = []
    for axis in column:
        inside = [at for at, read in enumerate(axis) if read >= 0]
        along.append(dict.fromkeys((inside[len(inside) // 2], inside[0], inside[-1])))
    return list(itertools.product(*along))


def _reads(column: tuple[tuple[int, ...], ...], position: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis[at] for axis, at in zip(column, position, strict=True))


def _verdict(
    a: Tensor,
    b: Tensor,
    wrong: Tensor,
    place: tuple[int, tuple[int, ...], tuple[int, ...]],
    names: list[int],
    candidate: Conv,
) -> Verdict:
    tap, position, read = place
    output, channel = (int(i) for i in wrong[:, :, tap].nonzero()[0])
    index, count = (output, channel, tap), int(wrong.sum())
    words = gap_words(a[index], b[index])
    text = (
        f"{count:,} of {counted(a.numel(), 'weight')} {'differs' if count == 1 else 'differ'} once both are written as "
        f"taps at what they read; the first, from input {[channel, *read]} to output {[output, *position]}, is "
        f"{a[index].item()!r} in the candidate and {b[index].item()!r} in the reference{f', {words}' if words else ''}."
    )
    counts = {"identical": a.numel() - count, "rounding": 0, "different": count, "undecided": 0, "total": a.numel()}
    where: tuple[int, ...] = (output, channel)
    if tap in names:  # in the candidate's own kernel, where that has it
        kernel, flat = tuple(candidate.weight.shape[2:]), names.index(tap)
        steps = [math.prod(kernel[i + 1 :]) for i in range(len(kernel))]
        where += tuple(flat // step % size for step, size in zip(steps, kernel, strict=True))
    entry = Entry(where, a[index].item(), b[index].item())
    return Verdict(Outcome.DIFFERENT, text, dtype_name(a.dtype), tuple(candidate.weight.shape), counts, worst=entry)
