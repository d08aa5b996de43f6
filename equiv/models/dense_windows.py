"""Which input entries a position reads, and what a map of scores means: stride, windows, where they are exact.

Knows sizes alone. Lengths are counted in entries (pixels) of the input along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import as_integer, refusal
from equiv.errors import EquivError


@dataclass(frozen=True)
class Axis:
    """One axis of a map, at the size of the example.

    Attributes:
        size: Positions along it.
        stride: Entries of the input from one position to the next.
        start: The first entry that position 0 reads, counted from the window's first; negative where it is padding.
        reach: How many entries a position reads, those that are skipped between them included.
        wraps: Whether padding shows the other end of the axis, as circular padding does.
    """

    size: int
    stride: int = 1
    start: int = 0
    reach: int = 1
    wraps: bool = False

    def slid(self, size: int, kernel: int, stride: int = 1, dilation: int = 1, before: int = 0) -> Axis:
        """The axis after a kernel slid over it, which leaves ``size`` positions.

        Example:
            >>> Axis(8).slid(4, kernel=3, stride=2, before=1)
            Axis(size=4, stride=2, start=-1, reach=3, wraps=False)
        """
        reach = self.reach + dilation * (kernel - 1) * self.stride
        return Axis(size, self.stride * stride, self.start - before * self.stride, reach, self.wraps)

    def joined(self, other: Axis) -> Axis:
        """The axis of a map made of two, position by position."""
        start = min(self.start, other.start)
        end = max(self.start + self.reach, other.start + other.reach)
        return replace(self, start=start, reach=end - start, wraps=self.wraps or other.wraps)

    @property
    def whole(self) -> Axis:
        """The same axis with all of its positions read as one."""
        return replace(self, size=1, reach=self.reach + (self.size - 1) * self.stride)


@dataclass(frozen=True)
class Windows:
    """What the map of scores of a fully convolutional model means; one entry for each spatial axis.

    Attributes:
        padding: ``"keep"`` or ``"valid"``, as it was asked for.
        window: The size of a window in input entries: with ``"keep"`` that of the example, with ``"valid"`` all that a
            score reads.
        stride: Input entries from one window to the next.
        offset: Where the window of score 0 begins; 0 with ``"keep"``.
        exact: Where a score equals the classifier on its window: ``"all"``, ``"first"`` or ``"last"`` position,
            or ``"alone"``: only where the map of scores has one position along this axis. The windows at the borders of
            a padded layer have zeros beside them, and windows inside the input have more of the input.

    Example:
        >>> windows = Windows("keep", (224, 224), (32, 32), (0, 0), ("all", "alone"))
        >>> windows.at(1, 2)
        (slice(32, 256, None), slice(64, 288, None))
        >>> windows.exact_at((2, 1)).tolist(), windows.exact_at((1, 2)).tolist()
        ([[True], [True]], [[False, False]])
    """

    padding: str
    window: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]
    exact: tuple[str, ...]

    def at(self, *position: int) -> tuple[slice, ...]:
        """The part of the input that the score at a position is about, as slices of its spatial axes.

        Raises:
            EquivError: Not one integer of at least 0 for each axis.
        """
        given = [as_integer(p) for p in position]
        found = [p for p in given if p is not None and p >= 0]
        if len(found) != len(self.stride) or len(given) != len(found):
            raise refusal("position", f"{len(self.stride)} integers of at least 0", position, "pass one for each axis")
        starts = [o + p * s for p, o, s in zip(found, self.offset, self.stride, strict=True)]
        return tuple(slice(start, start + w) for start, w in zip(starts, self.window, strict=True))

    def exact_at(self, positions: tuple[int, ...]) -> Tensor:
        """Which scores of a map of this size equal the classifier on their windows: bool, of shape ``positions``.

        For an input of a size that ends with a window: ``window + k * stride`` along each axis.

        Raises:
            EquivError: Not one integer of at least 1 for each axis.
        """
        sizes = [as_integer(p) for p in positions] if isinstance(positions, (tuple, list)) else [None]
        counts = [p for p in sizes if p is not None and 1 <= p < 2**31]
        if len(counts) != len(self.exact) or len(sizes) != len(counts):
            expected = f"{len(self.exact)} integers of at least 1"
            raise refusal("positions", expected, positions, "pass the spatial shape of the scores")
        found = torch.ones(counts, dtype=torch.bool)
        for axis, (count, words) in enumerate(zip(counts, self.exact, strict=True)):
            at = torch.arange(count)
            right = {"all": at >= 0, "first": at == 0, "last": at == count - 1, "alone": (at == 0) & (count == 1)}
            found &= right[words].view([count if i == axis else 1 for i in range(len(counts))])
        return found


def windows_of(axes: tuple[Axis, ...], example: tuple[int, ...], padding: str) -> Windows:
    """What scores of these axes mean; ``example`` is the input's spatial size, at which each axis has one position."""
    strides = tuple(axis.stride for axis in axes)
    if padding == "valid":
        offsets = tuple(axis.start % axis.stride for axis in axes)
        return Windows(padding, tuple(axis.reach for axis in axes), strides, offsets, ("all",) * len(axes))
    words = []
    for axis, size in zip(axes, example, strict=True):
        before, after = axis.start < 0, axis.start + axis.reach > size
        words.append("alone" if axis.wraps or (before and after) else "first" if before else "last" if after else "all")
    return Windows(padding, example, strides, (0,) * len(axes), tuple(words))


class WholeWindows(nn.Module):
    """Keeps of a map of scores those that read no padding, given the input that they came from."""

    def __init__(self, axes: tuple[Axis, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, scores: Tensor, x: Tensor) -> Tensor:
        """``(N, classes, *positions)`` -> the same with fewer positions.

        Raises:
            EquivError: An input in which every score reads padding.
        """
        kept: list[Any] = [slice(None), slice(None)]
        for axis, size in zip(self.axes, x.shape[2:], strict=True):
            first = -(axis.start // axis.stride)
            last = (size - axis.start - axis.reach) // axis.stride
            if last < first:
                least = tuple(a.start % a.stride + a.reach for a in self.axes)
                raise EquivError(
                    f"input: expected a spatial size of at least {least}, of which a score reads no padding, got "
                    f"{tuple(x.shape[2:])}; pass a larger one, or convert with padding='keep'"
                )
            kept.append(slice(first, last + 1))
        return scores[tuple(kept)]

    def extra_repr(self) -> str:
        """The axes in words."""
        return ", ".join(f"{axis.reach} by {axis.stride}" for axis in self.axes)
