"""Where the features stand: the tensors of one layer as another takes them, N, S, C against N, C, S, 1 and such.

A layer of a known type says which axis its features are on, so that nothing is guessed: a wrong order of the features
or positions is a difference, never a layout. Only for modules of other kinds are the sizes asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from equiv.mapping import Conv, is_conv1d, is_unpadded
from equiv.models.positionwise import PositionwiseLinear

_AXES = 6


@dataclass(frozen=True)
class Form:
    """How a layer takes rows ``(P, n)`` and returns rows ``(P, O)``.

    ``kind`` is ``rows`` (features last), ``pointwise``, ``patch`` (a kernel at multiples of its size) or ``full`` (one
    kernel over the whole map).
    """

    kind: str
    kernel: tuple[int, ...] = ()

    def rows_in(self, x: Tensor) -> Tensor:
        """Inputs as rows, the positions of a map in their order."""
        if self.kind == "rows":
            return x.reshape(-1, x.shape[-1])
        rank = len(self.kernel)
        if x.ndim == rank + 1:
            x = x.unsqueeze(0)
        for axis, size in enumerate(self.kernel):
            x = x.unfold(axis + 2, size, size)  # (N, C, *positions, *kernel)
        order = (0, *range(2, rank + 2), 1, *range(rank + 2, 2 * rank + 2))
        return x.permute(order).reshape(-1, x.shape[1] * math.prod(self.kernel))

    def like_in(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Rows as an input of this shape."""
        if self.kind == "rows":
            return rows.reshape(shape)
        rank = len(self.kernel)
        batched = shape if len(shape) == rank + 2 else (1, *shape)
        places = [size // k for size, k in zip(batched[2:], self.kernel, strict=True)]
        split = rows.reshape(batched[0], *places, batched[1], *self.kernel)
        order = [0, rank + 1]
        for axis in range(rank):
            order += [axis + 1, axis + rank + 2]
        covered = [place * k for place, k in zip(places, self.kernel, strict=True)]
        whole = split.permute(order).reshape(*batched[:2], *covered)
        if tuple(whole.shape) != batched:  # what no kernel reads
            wide = rows.new_zeros(batched)
            wide[tuple(slice(0, size) for size in whole.shape)] = whole
            whole = wide
        return whole.reshape(shape)

    def rows_out(self, y: Tensor) -> Tensor:
        """Results as rows."""
        if self.kind == "rows":
            return y.reshape(-1, y.shape[-1])
        axis = y.ndim - len(self.kernel) - 1
        return y.movedim(axis, -1).reshape(-1, y.shape[axis])

    def like_out(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Rows as a result of this shape."""
        if self.kind == "rows":
            return rows.reshape(shape)
        axis = len(shape) - len(self.kernel) - 1
        moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
        return rows.reshape(moved).movedim(-1, axis)


def form_of(layer: Any, x: tuple[int, ...]) -> Form | None:
    """The form of a layer that was given an input of this shape; None where a position is no row of its own.

    Example:
        >>> form_of(nn.Conv2d(3, 8, 4, stride=4), (1, 3, 16, 16)).kind
        'patch'
    """
    if isinstance(layer, PositionwiseLinear):
        over = tuple(layer.kernel_size)
        return Form("pointwise", over) if set(layer.stride) == {1} == set(over) else None
    if isinstance(layer, nn.Linear) or is_conv1d(layer):
        return Form("rows")
    if not isinstance(layer, Conv):
        return None
    kernel = tuple(layer.kernel_size)
    if layer.groups != 1 or not is_unpadded(layer) or len(x) < len(kernel) + 1:
        return None
    if kernel == tuple(x[-len(kernel) :]):
        return Form("pointwise" if set(kernel) == {1} else "full", kernel)
    if set(layer.dilation) != {1} or tuple(layer.stride) != kernel:
        return None
    return Form("pointwise" if set(kernel) == {1} else "patch", kernel)


def positions(form: Form, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the axes over which rows lie, without those of 1.

    Example:
        >>> positions(Form("rows"), (3, 1, 5, 8)), positions(Form("pointwise", (1, 1)), (3, 8, 5, 1))
        ((3, 5), (3, 5))
    """
    if form.kind == "rows":
        sizes = shape[:-1]
    else:
        rank = len(form.kernel)
        spatial = (size // k for size, k in zip(shape[-rank:], form.kernel, strict=True))
        sizes = (*shape[: -rank - 1], *spatial)
    return tuple(size for size in sizes if size != 1)


def reordered(rows: Tensor, given: tuple[int, ...], order: tuple[int, ...] | None) -> Tensor:
    """Rows over positions of these sizes, in this order of their axes; as they are where that is None.

    Example:
        >>> import torch
        >>> reordered(torch.arange(6).view(6, 1), (2, 3), (1, 0)).flatten().tolist()
        [0, 3, 1, 4, 2, 5]
    """
    if order is None:
        return rows
    return rows.view(*given, -1).permute(*order, len(given)).reshape(rows.shape)


def orders(given: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The orders in which axes of these sizes have the sizes that are wanted, that of ``given`` first.

    Example:
        >>> list(orders((3, 2, 3), (3, 3, 2)))
        [(0, 2, 1), (2, 0, 1)]
    """
    if len(given) == len(wanted) <= _AXES:
        axes = itertools.permutations(range(len(given)))
        yield from (order for order in axes if tuple(given[axis] for axis in order) == wanted)


_CLOSE = 2.0**-8  # of the difference in the usual order that may be left in another one


def likely_order(found: Iterable[tuple[tuple[int, ...], Tensor]], like: Tensor) -> tuple[int, ...] | None:
    """Of several orders, each with its values, the first, unless another one's are nearly ``like`` and its are not."""
    apart = ((float((values - like).abs().amax()) if like.numel() else 0.0, order) for order, values in found)
    usual = next(apart, None)
    if usual is None or usual[0] == 0:
        return None if usual is None else usual[1]
    least = min(apart, key=lambda pair: pair[0], default=usual)
    return least[1] if least[0] <= _CLOSE * usual[0] else usual[1]


def fitted(source: Tensor, like: Tensor) -> tuple[Tensor, str] | None:
    """A tensor in the shape of another, by sizes alone, with words for how; None where none fits.

    Where sizes leave a choice, axes keep their order or features move between the second and the last place; else the
    order whose values are closest decides.

    Example:
        >>> import torch
        >>> y, words = fitted(torch.ones(2, 5, 3), torch.ones(2, 3, 5, 1))
        >>> tuple(y.shape), words
        ((2, 3, 5, 1), '(2, 5, 3) as (2, 3, 5, 1)')
    """
    shape = tuple(like.shape)
    if tuple(source.shape) == shape:
        return source, ""
    words = f"{tuple(source.shape)} as {shape}"
    bare, wanted = source.squeeze(), tuple(size for size in shape if size != 1)
    if source.numel() != like.numel() or bare.ndim > 6:
        return None
    usual: list[tuple[int, ...]] = []
    if bare.ndim > 1:
        axes = tuple(range(bare.ndim))
        usual = [axes, (0, *axes[2:], 1), (0, axes[-1], *axes[1:-1])]
    for order in usual:
        if tuple(bare.shape[axis] for axis in order) == wanted:
            return bare.permute(order).reshape(shape), words
    if bare.ndim != len(wanted):
        return _merged(bare, wanted, shape, words)
    fits = [order for order in itertools.permutations(range(bare.ndim)) if _sizes(bare, order) == wanted]
    if not fits:
        return None
    values = (bare.permute(order).reshape(shape) for order in fits)
    return min(values, key=lambda v: float((v.double() - like.double()).abs().sum())), words


def _sizes(t: Tensor, order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(t.shape[axis] for axis in order)


def _merged(bare: Tensor, wanted: tuple[int, ...], shape: tuple[int, ...], words: str) -> tuple[Tensor, str] | None:
    """Positions in one axis on one side and in several on the other; features second or last."""
    if bare.ndim and wanted and bare.shape[-1] == wanted[-1]:
        return bare.reshape(shape), words
    if bare.ndim > 1 and wanted and bare.shape[1] == wanted[-1]:
        return bare.movedim(1, -1).reshape(shape), words
    if bare.ndim and len(wanted) > 1 and bare.shape[-1] == wanted[1]:
        return bare.reshape(wanted[0], *wanted[2:], wanted[1]).movedim(-1, 1).reshape(shape), words
    return None
