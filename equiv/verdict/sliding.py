"""Results of a convolution that slides over its input, judged a tile at a time.

A tile is a block of weights times a box of output positions: a few MiB, whatever the size of the map. Each output is
held against what ``equiv.numerics`` knows of the sum of its own terms; no dense matrix is built.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.causes import Cause, on_maps, sliding_cause
from equiv.dtypes import SIGNED_OF_SIZE, is_inexact
from equiv.mapping import conv_to_linear
from equiv.numerics import Arithmetic, same_bits
from equiv.verdict.arguments import Comparison, Maps, on_cpu
from equiv.verdict.as_dense import AsDense
from equiv.verdict.blocks import cause_of_outputs
from equiv.verdict.entries import index_in
from equiv.verdict.patches import Box, Patches
from equiv.verdict.screen import Screen
from equiv.verdict.sums import Block, Inputs, Judge, block_of, judge_of
from equiv.verdict.tally import Found, Tally

_OUTPUTS = 2**17  # of a tile: each of some four float64 tensors takes a MiB
SMALL = 2**15  # outputs up to which the largest ratio is that of the very envelope, not of E
_CACHED = 2**19  # float64 numbers: 4 MiB
_LEAST_BYTES, _MOST_BYTES = 2**20, 2**24  # for the weights of a block, and for the inputs of a box

_COPIES = {torch.float64: 4, torch.complex64: 3, torch.complex128: 6, torch.int64: 4, torch.int32: 2}
"""How many float64 tensors are made of the weights of a block and of the inputs of a box, where more than two are."""

Arithmetics = tuple["Arithmetic | None", "Arithmetic | None"]


def tally_of(maps: Maps, arithmetics: Arithmetics, tolerances: tuple[float, float] | None) -> Tally:
    """Every output of both results, each in its arithmetic."""
    patches, tally = Patches(maps.conv, tuple(maps.input.shape[1:])), Tally()
    dense = AsDense(maps, patches)
    screen = _screen(maps, patches, arithmetics)
    flushes = any(arithmetic is not None and arithmetic.flushes_inputs for arithmetic in arithmetics)
    if not maps.actual.numel():
        return tally
    blocks, columns = _steps(maps, patches)
    boxes = list(patches.boxes(len(maps.input), columns))
    kept: Inputs | None = None  # of the only box
    for groups, channels in blocks:
        block = block_of(maps.weight, maps.bias, groups, channels)
        kept = None if channels.start == 0 else kept
        for box in boxes:
            inputs = Inputs(patches, maps.input, box, groups) if kept is None else kept
            tile = _Tile(maps, dense, tuple(block.weight.shape[:2]), box, (groups.start, channels.start))
            if screen is None or tolerances is not None or not _screened(tally, tile, screen, inputs, block):
                _add(tally, tile, judge_of(inputs, block, flushes=flushes), arithmetics, tolerances)
            kept = inputs if len(boxes) == 1 else None
            del inputs  # before the next ones are unfolded
        del block
    return tally


def _screen(maps: Maps, patches: Patches, arithmetics: Arithmetics) -> Screen | None:
    """Where both results are large, of one dtype and computed in one arithmetic."""
    mine, other = arithmetics
    if mine is None or mine != other or maps.actual.numel() <= SMALL or maps.actual.dtype != maps.expected.dtype:
        return None
    return Screen(patches, maps.actual.dtype, mine)


def _screened(tally: Tally, tile: _Tile, screen: Screen, inputs: Inputs, block: Block) -> bool:
    """Whether both results of a tile are inside, as a quick test tells; they are counted then."""
    results = tile.of(tile.maps.actual), tile.of(tile.maps.expected)
    pair = screen.pair(inputs, block, results, tally.ratio.score)
    if pair is not None:
        tally.add(screen.differ(results), pair, None, tile.flats)
    return pair is not None


def _steps(maps: Maps, patches: Patches) -> tuple[list[tuple[slice, slice]], int]:
    """The blocks of weights, as groups and channels of a group; and how many columns a box has."""
    groups, outputs, n = maps.weight.shape
    tensors = (maps.actual, maps.input, maps.weight)
    given = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    most = min(max(given // 2, _LEAST_BYTES), _MOST_BYTES) // (8 * _COPIES.get(maps.actual.dtype, 1))
    tile = _OUTPUTS // min(4, _COPIES.get(maps.actual.dtype, 1))
    some = min(outputs, max(16, most // (2 * n)))
    most_columns = min(most, _CACHED) if some <= 8 else most  # few outputs: what they read should stay in the cache
    columns = max(16, min(most_columns // n, tile // some, math.prod(patches.positions) * len(maps.input)))
    together = 1 if some < outputs else max(1, min(groups, tile // (some * columns), most // (n * columns)))
    blocks = [
        (slice(g, min(g + together, groups)), slice(o, min(o + some, outputs)))
        for g in range(0, groups, together)
        for o in range(0, outputs, some)
    ]
    return blocks, columns


class _Tile(NamedTuple):
    """Where a tile lies: ``sizes`` groups and channels of each, from ``first`` on."""

    maps: Maps
    dense: AsDense
    sizes: tuple[int, ...]
    box: Box
    first: tuple[int, int]

    def of(self, results: Tensor) -> Tensor:
        """The tile of results ``(B, O, *positions)``: ``(channels, R)``."""
        start = self.start
        some = slice(start, start + math.prod(self.sizes))
        place: tuple[slice, ...] = (self.box.samples, some, *self.box.positions)
        tile: Tensor = results[place]
        return tile.transpose(0, 1).reshape(-1, self.box.columns)

    @property
    def start(self) -> int:
        """The first channel of the tile."""
        return self.first[0] * self.maps.weight.shape[1] + self.first[1]

    def flats(self, at: Tensor) -> Tensor:
        """The places in the whole result of places in the tile."""
        shape = self.maps.actual.shape
        rows, column = at // self.box.columns, at % self.box.columns
        flat: Tensor = torch.zeros_like(at)
        step = 1
        parts = zip(self.box.positions[::-1], self.box.sizes[:0:-1], shape[:1:-1], strict=True)
        for part, size, whole in parts:
            flat += (column % size + part.start) * step
            column, step = column // size, step * whole
        flat += ((column + self.box.samples.start) * shape[1] + self.start + rows) * step
        return flat


def _add(
    tally: Tally, tile: _Tile, judge: Judge, arithmetics: Arithmetics, tolerances: tuple[float, float] | None
) -> None:
    y, e = tile.of(tile.maps.actual), tile.of(tile.maps.expected)
    least, exactly = tally.ratio.score, tile.maps.actual.numel() <= SMALL
    found = _found(tile, judge, y, (arithmetics[0], least, exactly))
    differ = _differ(y, e, found.at)
    if y.dtype == e.dtype and arithmetics[0] == arithmetics[1] and not int(torch.count_nonzero(differ)):
        other = found
    else:
        other = _found(tile, judge, e, (arithmetics[1], least, exactly))
    tally.add(differ, (found, other), None if tolerances is None else _apart(y, e, tolerances), tile.flats)


def _differ(y: Tensor, e: Tensor, judged: Tensor) -> Tensor:
    """Zero or False where the bits are the same, flat; two that are no numbers are, and they are among those judged."""
    y = y.to(e.dtype)
    if y.is_complex():
        return ~same_bits(y, e).flatten()
    if not y.is_floating_point():
        return (y ^ e).flatten()
    bits = SIGNED_OF_SIZE[y.itemsize]
    differ = (y.view(bits) ^ e.view(bits)).flatten()
    if len(judged):
        differ[judged[y.flatten()[judged].isnan() & e.flatten()[judged].isnan()]] = 0
    return differ


def _found(tile: _Tile, judge: Judge, result: Tensor, asked: tuple[Arithmetic | None, float, bool]) -> Found:
    found = judge(result, *asked)
    if bool(found.inside.all()):
        return found
    return tile.dense.better(found, result, tile.box, tile.first, asked[0])


def _apart(y: Tensor, e: Tensor, tolerances: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """``|y - e|``, infinite where it is no number, and which of them exceed the caller's tolerance; flat."""
    wide = torch.complex128 if y.is_complex() else torch.float64
    a, b = y.to(wide).flatten(), e.to(wide).flatten()
    close = torch.isclose(a, b, rtol=tolerances[0], atol=tolerances[1], equal_nan=True)
    return (a - b).abs().nan_to_num(math.inf, math.inf), ~close


class Place(NamedTuple):
    """One output: sample, channel, position, and its group."""

    sample: int
    channel: int
    position: tuple[int, ...]
    group: int


def place_of(maps: Maps, flat: int) -> Place:
    """Where an output stands."""
    sample, channel, *position = index_in(flat, tuple(maps.actual.shape))
    return Place(sample, channel, tuple(position), channel // maps.weight.shape[1])


def one_output(given: Comparison, maps: Maps, flat: int) -> Comparison:
    """The comparison of one output, as rows: its own terms, and the dense layer's where that has others."""
    patches, at = Patches(maps.conv, tuple(maps.input.shape[1:])), place_of(maps, flat)
    weight = maps.weight.flatten(0, 1)[at.channel : at.channel + 1]
    merged = AsDense(maps, patches).weight_at(at.position, weight) if is_inexact(weight.dtype) else None
    tried = (None,) if merged is None else (None, merged)
    index = (at.sample, at.channel, *at.position)
    return Comparison(
        maps.actual[index].view(1, 1),
        maps.expected[index].view(1, 1),
        patches.row(maps.input, at.sample, at.position, at.group),
        weight,
        None if maps.bias is None else maps.bias[at.channel : at.channel + 1],
        given.arithmetic,
        given.tolerances,
        alternative_weights=(tried, tried),
    )


_WHOLE = 2**22  # weights of the dense layer up to which it takes part in finding a cause
_PART, _COLUMNS = 2**20, 64  # weights and positions that take part where it is larger


def cause_of_sliding(maps: Maps, worst: int) -> Cause | None:
    """The likely mistake in ``maps.actual``, whose output ``worst`` is furthest off.

    Of a small convolution, what explains the outputs of its dense layer. Of a large one, what explains those of some
    samples and positions, the worst and 63 spread over all, as a layer over what they read: ``(C/G, *kernel)``.
    """
    found = sliding_cause(maps.actual, maps.conv, maps.input, maps.expected)
    if found is not None:
        return found
    shape = tuple(maps.input.shape[1:])
    outputs = math.prod(maps.actual.shape[1:])
    if outputs * math.prod(shape) <= _WHOLE:
        dense, x = conv_to_linear(maps.conv, shape), maps.input.flatten(1)
        rows = Comparison(maps.actual.flatten(1), maps.expected.flatten(1), x, on_cpu(dense.weight), None)
        rows = replace(rows, bias=None if dense.bias is None else on_cpu(dense.bias))
        found = cause_of_outputs(rows, worst % outputs, shape)
        return None if found is None else on_maps(found, maps.conv, dense=True)
    rows, chosen = some_outputs(maps, worst)
    output = int((chosen == worst).nonzero()[0]) % len(rows.weight)
    found = cause_of_outputs(rows, output, tuple(maps.conv.weight.shape[1:]))
    return None if found is None else on_maps(found, maps.conv)


def some_outputs(maps: Maps, first: int, *, alone: bool = False, weights: int = _PART) -> tuple[Comparison, Tensor]:
    """Outputs of one group, ``first`` and others, as rows over what they read; and where they stand in the result.

    ``alone`` leaves out positions that read an input more than once; no more than some ``weights`` take part.
    """
    patches, at = Patches(maps.conv, tuple(maps.input.shape[1:])), place_of(maps, first)
    samples, positions = _some_places(maps, patches, at)
    reads = patches.reads_of(positions)
    if alone:
        chosen = ~_repeats(reads)
        samples, positions, reads = samples[chosen], positions[chosen], reads[chosen]
    per_group = maps.weight.shape[1]
    channels = torch.arange(at.group * per_group, (at.group + 1) * per_group, device="cpu")
    step = -(-maps.weight[0].numel() // weights)
    channels = channels[(channels - at.channel) % step == 0]
    _, outputs, *sizes = maps.actual.shape
    places = samples[:, None] * outputs + channels
    for along, size in zip(positions.unbind(1), sizes, strict=True):
        places = places * size + along[:, None]
    rows = Comparison(
        maps.actual.flatten()[places],
        maps.expected.flatten()[places],
        patches.rows(maps.input, samples, reads, at.group),
        maps.weight.flatten(0, 1)[channels],
        None if maps.bias is None else maps.bias[channels],
    )
    return rows, places.flatten()


def _repeats(reads: Tensor) -> Tensor:
    """Which outputs read an input more than once, of what each reads, ``(P, T)``: bool ``(P,)``."""
    ordered = reads.sort(1).values
    return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)


def _some_places(maps: Maps, patches: Patches, worst: Place) -> tuple[Tensor, Tensor]:
    """Samples ``(P,)`` and positions ``(P, axes)``: the worst and others."""
    count = math.prod(patches.positions)
    chosen = {(worst.sample, worst.position)}
    for flat in range(0, count * len(maps.input), -(-count * len(maps.input) // (_COLUMNS - 1))):
        chosen.add((flat // count, index_in(flat % count, patches.positions)))
    picked = torch.tensor([(sample, *position) for sample, position in sorted(chosen)], device="cpu")
    return picked[:, 0], picked[:, 1:]
