"""Convolutions that went wrong where they read or write: another padding, stride, dilation, or order of a map.

Letters as in ``equiv.mapping``: O output channels, C input channels, G groups of Cg, Q input positions, P output
positions, T taps. A mistaken convolution is given by the input that each tap reads, ``(P, T)`` with -1 for a padded
zero, and by the orders in which input (C*Q) and results (O*P) are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from equiv.causes.mistakes import AGAIN, Cause, cause_of, column_mistakes
from equiv.causes.permutations import same, undone
from equiv.mapping import Conv, pads_and_positions
from equiv.numerics import format_of

_MODES = ("zeros", "reflect", "replicate", "circular")
_ROLLS = 8  # channels by which an input may be shifted
_FAR = 4  # the largest stride and dilation that is tried


@dataclass(frozen=True)
class Window:
    """How a kernel moves over a map: all along each axis, in torch's order."""

    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]  # what is padded before the first entry; what is missing behind the last one is padded too
    positions: tuple[int, ...]
    mode: str

    @property
    def places(self) -> int:
        """P."""
        return math.prod(self.positions)

    def reads(self, at: Tensor) -> Tensor:
        """Which input each tap reads at some of the output positions: ``(len(at), T)``, -1 for a padded zero."""
        place = torch.zeros(len(at), 1, dtype=torch.int64)
        for i, size in enumerate(self.spatial):
            here = at // math.prod(self.positions[i + 1 :]) % self.positions[i]
            taps = torch.arange(self.kernel[i]) * self.dilation[i]
            index = self._inside((here * self.stride[i] - self.before[i])[:, None] + taps, size)
            outside = (place < 0)[:, :, None] | (index < 0)[:, None, :]
            place = torch.where(outside, -1, place[:, :, None] * size + index[:, None, :]).flatten(1)
        return place

    def _inside(self, index: Tensor, size: int) -> Tensor:
        if self.mode == "circular":
            return index % size
        if self.mode == "replicate":
            return index.clamp(0, size - 1)
        if self.mode == "reflect" and size > 1:
            index = index.abs() % (2 * (size - 1))
            return torch.where(index >= size, 2 * (size - 1) - index, index)
        return torch.where((index >= 0) & (index < size), index, -1)


@dataclass(frozen=True, eq=False)
class Mistaken:
    """A convolution with one mistake: its cause, its window, and the orders of its input and results."""

    cause: Cause
    window: Window
    inputs: Tensor | None = None  # it computes with x[:, inputs] for flattened maps x (N, C*Q)
    outputs: Tensor | None = None  # it returns y[:, outputs] for flattened results y (N, O*P)

    def fits(self, matrix: Tensor, weight: Tensor, groups: int, rows: Tensor) -> bool:
        """Whether these rows of a dense matrix (O*P, C*Q) are its own, for ``weight`` (O, Cg, T).

        An entry that one tap lands on must be equal; a sum of several may be rounded in any order.
        """
        n = matrix.shape[1]
        seen = matrix[rows] if self.inputs is None else matrix[rows][:, self.inputs]
        index, w = terms_of(weight, self.window, groups, rows if self.outputs is None else self.outputs[rows])
        wide = w.to(torch.float64 if w.is_floating_point() else w.dtype)
        dense = wide.new_zeros(len(rows), n + 1).scatter_add_(1, index, wide)[:, :n]
        exact = dense.to(weight.dtype)
        if not w.is_floating_point():
            return same(seen, exact)
        sizes, taps = (
            dense.new_zeros(len(rows), n + 1).scatter_add_(1, index, terms)[:, :n]
            for terms in (wide.abs(), torch.ones_like(wide))
        )
        near = (taps > 1) & ((seen.double() - dense).abs() <= taps * format_of(weight.dtype).u * sizes)
        return same(seen.masked_fill(near, 0.0), exact.masked_fill(near, 0.0))


def right_at(window: Window) -> Mistaken:
    """The convolution without a mistake."""
    return Mistaken(Cause("none", "the right convolution"), window)


def terms_of(weight: Tensor, window: Window, groups: int, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The terms of some of the O*P results: which of C*Q inputs each reads, C*Q for a padded zero, and its weight.

    ``weight`` is (O, Cg, T); both results are ``(len(outputs), Cg*T)``.
    """
    channels, size = weight.shape[1], math.prod(window.spatial)
    o, reads = outputs // window.places, window.reads(outputs % window.places)[:, None, :]
    channel = (o // (len(weight) // groups))[:, None] * channels + torch.arange(channels)
    index = torch.where(reads < 0, groups * channels * size, channel[:, :, None] * size + reads)
    return index.flatten(1), weight[o].flatten(1)


def window_of(conv: Conv, spatial: tuple[int, ...]) -> Window:
    """The window of a convolution on maps of sizes ``spatial``."""
    pads, positions = pads_and_positions(conv, spatial)
    rank = len(spatial)
    values: list[Any] = [conv.stride, conv.dilation]
    stride, dilation = (
        tuple(v) * (rank if len(v) == 1 else 1) if isinstance(v, tuple) else (v,) * rank for v in values
    )
    before = tuple(pad[0] for pad in pads)
    return Window(spatial, tuple(conv.weight.shape[2:]), stride, dilation, before, positions, conv.padding_mode)


def as_call(conv: Conv) -> str:
    """The line that computes the results of a convolution from its input and its flattened weight."""
    pads: object = conv.padding
    x = "x"
    if conv.padding_mode != "zeros":
        flat = tuple(conv._reversed_padding_repeated_twice)
        x, pads = f'torch.nn.functional.pad(x, {flat}, mode="{conv.padding_mode}")', 0
    given = tuple(conv.weight.shape), pads, conv.stride, conv.dilation, conv.groups
    sizes, pads, stride, dilation, groups = (f'"{value}"' if isinstance(value, str) else str(value) for value in given)
    options = f"{stride}, {pads}, {dilation}, {groups}"
    rank = conv.weight.ndim - 2
    return f"y = torch.nn.functional.conv{rank}d({x}, reference.weight.reshape{sizes}, reference.bias, {options})"


def on_maps(cause: Cause, conv: Conv, *, dense: bool = False) -> Cause:
    """A cause of results in rows, mended in results ``(N, O, *positions)`` of a convolution.

    The rows are what the kernel reads at one position, or the whole map of its ``dense`` layer.
    """
    fix = cause.fix
    if AGAIN in fix:
        fix = fix.replace(AGAIN, as_call(conv))
    elif fix.startswith("y") and ("x" in fix or (dense and cause.name != "batch-permuted")):
        fix = as_call(conv)
    elif fix.startswith("y"):
        ones = ", 1" * (conv.weight.ndim - 2)
        fix = fix.replace("reference.bias", f"reference.bias.view(-1{ones})")
    return cause.mended_by(fix)


def mistaken(conv: Conv, shape: tuple[int, ...]) -> Iterator[Mistaken]:
    """Every mistake of this module, on maps ``(C, *spatial)``; some may make no difference."""
    window = window_of(conv, shape[1:])
    results = len(conv.weight), *window.positions
    for cause, other in _windows(window):
        yield Mistaken(cause.mended_by(as_call(conv)), other)
    for cause, index in (*_orders(results, "outputs"), *_channels(results, conv.groups, "outputs")):
        yield Mistaken(cause, window, outputs=index)
    for cause, index in (*_orders(shape, "input"), *_channels(shape, conv.groups, "input")):
        yield Mistaken(cause.mended_by(as_call(conv)), window, inputs=index)


def _windows(right: Window) -> Iterator[tuple[Cause, Window]]:
    """Other paddings, strides and dilations with as many results."""
    for mode in _MODES:
        if mode != right.mode:
            yield cause_of("padding-mode", mode=mode, right=right.mode), replace(right, mode=mode)
    for words, before in _paddings(right):
        yield cause_of("padding-shifted", before=before, right=right.before, words=words), replace(right, before=before)
    for stride in _others(right.stride):
        cause = cause_of("stride-wrong", stride=stride, right=right.stride)
        yield cause, replace(right, stride=stride)
    for dilation in _others(right.dilation):
        grown = (k // 2 * (new - old) for k, new, old in zip(right.kernel, dilation, right.dilation, strict=True))
        centred = tuple(before + more for before, more in zip(right.before, grown, strict=True))
        cause = cause_of("dilation-wrong", dilation=dilation, right=right.dilation)
        for before in {centred, right.before}:
            yield cause, replace(right, dilation=dilation, before=before)


def _paddings(right: Window) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What else may be padded before the first entry: as TensorFlow's SAME does, shifted by up to the kernel."""
    axes = range(len(right.spatial))
    reach = [right.dilation[i] * (right.kernel[i] - 1) + 1 for i in axes]
    total = [max((right.positions[i] - 1) * right.stride[i] + reach[i] - right.spatial[i], 0) for i in axes]
    if all(right.positions[i] == -(-right.spatial[i] // right.stride[i]) for i in axes):
        yield ", as SAME does in TensorFlow", tuple(t // 2 for t in total)
    if right.before[::-1] != right.before:
        yield ", the axes exchanged", right.before[::-1]
    for count in range(len(axes), 0, -1):
        for some in combinations(axes, count):
            for shift in sorted(range(-max(reach), max(reach) + 1), key=abs):
                yield "", tuple(right.before[i] + (shift if i in some else 0) for i in axes)


def _others(right: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Other strides or dilations: exchanged, the same along all axes, or wrong along one."""
    if right[::-1] != right:
        yield right[::-1]
    for value in range(1, _FAR + 1):
        yield (value,) * len(right)
    for i in range(len(right)):
        for value in range(1, _FAR + 1):
            yield (*right[:i], value, *right[i + 1 :])


def _orders(shape: tuple[int, ...], side: str) -> Iterator[tuple[Cause, Tensor]]:
    """The map ``shape`` of input or results in another order of axes, or flipped."""
    for mistake in column_mistakes(shape):
        name = mistake.cause.name.replace("kernel-", "").replace("inputs-", "")
        fix = mistake.cause.fix.replace("weight", "y").replace("flatten(1)", "reshape(y.shape)")
        sentence = mistake.cause.sentence.replace("kernel ", "").replace("columns", "values")
        sentence = sentence.replace("all inputs in", "all in")
        yield Cause(f"{side}-{name}", cause_of(f"{side}-order", sentence=sentence).sentence, fix), mistake.index


def _channels(shape: tuple[int, ...], groups: int, side: str) -> Iterator[tuple[Cause, Tensor]]:
    """Channels of a map in another order: whole groups, channels between groups, or shifted."""
    count = shape[0]
    plain = torch.arange(count)
    orders: list[tuple[str, str, Tensor]] = []
    if groups > 1:
        blocks = plain.view(groups, -1)
        orders += [("groups-exchanged", f"groups shifted by {k}", blocks.roll(k, 0)) for k in range(1, groups)]
        orders.append(("groups-exchanged", "groups in reverse order", blocks.flip(0)))
        orders.append(("groups-shuffled", "channels dealt out to the groups", blocks.T))
        orders.append(("groups-shuffled", "groups dealt out to the channels", plain.view(-1, groups).T))
    for shift in range(1, min(count, _ROLLS + 1)):
        orders += [("channels-shifted", f"channels shifted by {k}", plain.roll(k)) for k in (shift, -shift)]
    for name, words, order in orders:
        index = (order.reshape(-1, 1) * math.prod(shape[1:]) + torch.arange(math.prod(shape[1:]))).flatten()
        undo = undone(order.flatten(), 1)
        fix = AGAIN if undo is None else f"y = y.unflatten(1, ({count}, -1)){undo}.reshape(y.shape)"
        yield Cause(f"{side}-{name}", cause_of(f"{side}-order", sentence=words).sentence, fix), index
