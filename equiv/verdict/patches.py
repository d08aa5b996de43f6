"""What the outputs of a sliding convolution read, a few of them at a time: no dense matrix, no unfolded map.

A box is some samples and a box of output positions. Its inputs are cut out of the map, padded as the convolution pads,
and unfolded: one column for each output position, one row for each input channel and tap. Letters as in
``equiv.mapping.geometry``; G groups, Cg input channels of each, n = Cg*T terms of an output, R columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equiv.mapping import Axis, Conv, axes_read


@dataclass(frozen=True)
class Box:
    """Samples and output positions along each axis, as slices with start and stop."""

    samples: slice
    positions: tuple[slice, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many samples, and positions along each axis."""
        return tuple(part.stop - part.start for part in (self.samples, *self.positions))

    @cached_property
    def columns(self) -> int:
        """R."""
        return math.prod(self.sizes)


class Patches:
    """The inputs of a plain convolution on maps of ``shape``, ``(C, *spatial)``."""

    def __init__(self, conv: Conv, shape: tuple[int, ...]) -> None:
        self.axes: list[Axis] = axes_read(conv, shape[1:])
        self.spatial = shape[1:]
        self.positions = tuple(axis.positions for axis in self.axes)
        self.groups, self.channels = conv.groups, conv.weight.shape[1]
        self.kernel = tuple(conv.weight.shape[2:])
        self.terms = self.channels * math.prod(self.kernel)
        self.is_padded = any(bool((axis.reads < 0).any()) for axis in self.axes)
        self._ends = [_ends_of_runs(axis.reads.tolist()) for axis in self.axes]

    def boxes(self, batch: int, columns: int) -> Iterator[Box]:
        """All samples and positions in boxes of at most about this many columns."""
        steps, left = [], max(1, columns)
        for size in (*self.positions[::-1], batch):
            steps.append(min(size, left))
            left = max(1, left // size)
        parts = [
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for step, size in zip(steps[::-1], (batch, *self.positions), strict=True)
        ]
        for samples, *positions in itertools.product(*parts):
            yield Box(samples, tuple(positions))

    def slab(self, x: Tensor, box: Box, groups: slice) -> Tensor:
        """The part of ``x`` ``(B, C, *spatial)`` that a box reads, padded: ``(samples, channels, *sizes)``."""
        slab = x[box.samples, groups.start * self.channels : groups.stop * self.channels]
        for i, (axis, part) in enumerate(zip(self.axes, box.positions, strict=True)):
            start = part.start * axis.stride
            stop = (part.stop - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1
            if self._ends[i][start] >= stop:
                slab = slab.narrow(2 + i, int(axis.reads[start]), stop - start)
            else:
                slab = _taken(slab, 2 + i, axis.reads[start:stop])
        return slab

    def unfolded(self, slab: Tensor, box: Box, groups: int) -> Tensor:
        """The columns of a padded slab of so many groups: ``(groups, channels*T, R)``, contiguous."""
        view = self.windows(slab.contiguous(), box, groups)
        return view.reshape(groups, -1, box.columns)

    def windows(self, slab: Tensor, box: Box, groups: int) -> Tensor:
        """The same as a view of the slab: ``(groups, channels, *kernel, *sizes)`` for the sizes of the box."""
        channels = slab.shape[1] // groups
        batch, channel, *along = slab.stride()
        taps = [step * axis.dilation for step, axis in zip(along, self.axes, strict=True)]
        moves = [step * axis.stride for step, axis in zip(along, self.axes, strict=True)]
        sizes = (groups, channels, *self.kernel, *box.sizes)
        return slab.as_strided(sizes, (channels * channel, channel, *taps, batch, *moves), slab.storage_offset())

    def repeating(self, axis: int, *, padded: bool) -> Tensor:
        """Which positions along an axis read an entry twice or, if asked, a padded zero: bool ``(P,)``."""
        reads, stride, dilation, taps, positions = self.axes[axis]
        first = torch.arange(positions, device="cpu")[:, None] * stride
        read = reads[first + torch.arange(taps, device="cpu") * dilation].sort(1).values
        twice = (read[:, 1:] == read[:, :-1]) & (read[:, 1:] >= 0)
        return twice.any(1) | ((read[:, 0] < 0) & padded)

    def row(self, x: Tensor, sample: int, position: tuple[int, ...], group: int) -> Tensor:
        """What one output reads: ``(1, n)``."""
        box = Box(slice(sample, sample + 1), tuple(slice(at, at + 1) for at in position))
        return self.unfolded(self.slab(x, box, slice(group, group + 1)), box, 1).view(1, -1)

    def reads_of(self, positions: Tensor) -> Tensor:
        """As :meth:`reads_at`, of many positions ``(P, axes)``: int64 ``(P, T)``."""
        numbers, outside = torch.zeros_like(positions[:, :1]), torch.zeros_like(positions[:, :1], dtype=torch.bool)
        for axis, at, size in zip(self.axes, positions.unbind(1), self.spatial, strict=True):
            along = axis.reads[at[:, None] * axis.stride + torch.arange(axis.taps, device="cpu") * axis.dilation]
            numbers = (numbers[:, :, None] * size + along[:, None]).flatten(1)
            outside = (outside[:, :, None] | (along < 0)[:, None]).flatten(1)
        return numbers.masked_fill(outside, -1)

    def rows(self, x: Tensor, samples: Tensor, reads: Tensor, group: int) -> Tensor:
        """What outputs of one group read, of samples ``(P,)`` and at what :meth:`reads_of` gives: ``(P, n)``."""
        maps = x[:, group * self.channels : (group + 1) * self.channels].flatten(2)
        values = maps[samples[:, None], :, reads.clamp(min=0)]  # (P, T, channels)
        return values.masked_fill(reads[:, :, None] < 0, 0).transpose(1, 2).flatten(1)

    def reads_at(self, position: tuple[int, ...]) -> list[int]:
        """Which input of a channel each tap of one output position reads, on the flattened map; -1 for a padded zero.

        The order of the taps is that of the flattened kernel.
        """
        numbers = [0]
        for axis, at, size in zip(self.axes, position, self.spatial, strict=True):
            reads = axis.reads[at * axis.stride :: axis.dilation][: axis.taps].tolist()
            numbers = [-1 if min(number, read) < 0 else number * size + read for number in numbers for read in reads]
        return numbers


def _ends_of_runs(reads: list[int]) -> list[int]:
    """For each index of a padded axis up to where the entries that are read follow each other, no zeros among them."""
    ends = [0] * len(reads)
    for at in range(len(reads) - 1, -1, -1):
        if reads[at] >= 0:
            follows = at + 1 < len(reads) and reads[at + 1] == reads[at] + 1
            ends[at] = ends[at + 1] if follows else at + 1
    return ends


def _taken(values: Tensor, dim: int, reads: Tensor) -> Tensor:
    """The entries that are read along an axis, zeros where that is -1."""
    values = values.index_select(dim, reads.clamp(min=0))
    outside = (reads < 0).nonzero().flatten()
    return values.index_fill_(dim, outside, 0) if len(outside) else values
