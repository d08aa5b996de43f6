"""Ways to hand rows of features to a function: shapes, batches, dtypes, tensors or arrays, the likely ones first."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equiv.dtypes import COMPLEX, FLOATS, INTEGERS, dtype_name

WIDER = {
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
    torch.complex64: (torch.complex128,),
    torch.uint8: (torch.int16, torch.int32, torch.int64),
    torch.int8: (torch.int16, torch.int32, torch.int64),
    torch.int16: (torch.int32, torch.int64),
    torch.int32: (torch.int64,),
}
"""Dtypes that hold every value of another one."""
_BATCHES = (*range(2, 65), 77, 96, 100, 128, 196, 197, 200, 256, 384, 512, 1000, 1024)
_LARGEST = 2**26  # bytes of a batch that is tried
_NUMBERS = 16  # that are taken from messages


@dataclass(frozen=True)
class Way:
    """How rows are handed over.

    Example:
        >>> way = Way((4,), (1, -1), batch=16)
        >>> tuple(way.laid(torch.zeros(16, 4)).shape), way.words(Way((4,)))
        ((1, 16, 4), '16 rows at a time, shaped (1, N, 4)')
    """

    shape: tuple[int, ...]  # of one row
    before: tuple[int, ...] = (-1,)  # dimensions before it, of which -1 is for all rows; none for a single row
    batch: int | None = None  # rows that a call takes; None for any number
    dtype: torch.dtype | None = None  # None for that of the rows
    as_array: bool = False  # of numpy

    def laid(self, x: Tensor) -> Tensor:
        """Rows ``(N, n)`` as they are handed over."""
        return x.reshape(*self.before, *self.shape).to(self.dtype or x.dtype)

    def words(self, usual: Way) -> str:
        """What is not as in the usual way; empty if nothing is."""
        found = []
        if self.batch is not None:
            found.append("one row at a time" if self.batch == 1 else f"{self.batch:,} rows at a time")
        if (self.shape, self.before) != (usual.shape, usual.before):
            sizes = ["N" if size < 0 else str(size) for size in (*self.before, *self.shape)]
            found.append(f"shaped ({', '.join(sizes)}{',' * (len(sizes) == 1)})")
        found += ["as numpy arrays"] if self.as_array else []
        found += [] if self.dtype is None else [f"in {dtype_name(self.dtype)}, which holds all of their values"]
        return ", ".join(found)


def other_ways(
    usual: Way, shape: tuple[int, ...] | None, x: Tensor, accepted: Iterable[int], messages: list[str]
) -> Iterator[Way]:
    """Ways to hand over ``x`` where the usual one was refused.

    Args:
        usual: The way that was refused.
        shape: ``(C, *spatial)`` of the map, if known.
        x: Rows ``(N, n)``.
        accepted: Numbers of rows that were taken before.
        messages: What was said on the way; the caller adds to it, and shapes and sizes in it are tried.
    """
    n = x.shape[1]
    layouts = _layouts(usual, shape, n)
    kinds = [(dtype, array) for dtype in (None, *WIDER.get(x.dtype, ())) for array in (False, True)]

    def all_of_them() -> Iterator[Way]:
        yield from _of_kinds(_of_batches(layouts, (None, *sorted(accepted, reverse=True), 1)), kinds)
        sizes: list[int] = []
        while {*sizes} != {*(found := _sizes(messages))}:  # what is refused later may name others
            sizes = found
            yield from _of_kinds(_named(messages, n), kinds)
            yield from _of_kinds(_of_batches(layouts, sizes), kinds)
            pairs = itertools.product((1, *sizes), repeat=2)
            yield from _of_kinds((Way((n,), pair, math.prod(pair)) for pair in pairs), kinds)
        yield from _of_kinds(_of_batches(layouts, _BATCHES), kinds[:2])

    largest = _LARGEST // (n * x.element_size())
    seen = {usual}
    for way in all_of_them():
        if way not in seen and (way.batch or 1) <= largest:
            seen.add(way)
            yield way


def _of_batches(layouts: Iterable[Way], batches: Iterable[int | None]) -> Iterator[Way]:
    for way, batch in itertools.product(layouts, batches):
        yield replace(way, batch=batch if way.before else 1)


def _of_kinds(ways: Iterable[Way], kinds: Iterable[tuple[torch.dtype | None, bool]]) -> Iterator[Way]:
    every = list(ways)
    for dtype, as_array in kinds:
        for way in every:
            yield replace(way, dtype=dtype, as_array=as_array)


def narrower_ways(usual: Way, dtype: torch.dtype, batches: Iterable[int | None]) -> Iterator[Way]:
    """Ways that round the values: what a function takes in them tells which dtype it is made for, and no more."""
    family = next((kinds for kinds in (FLOATS, COMPLEX, INTEGERS) if dtype in kinds), ())
    others = [other for other in family if other != dtype and other not in WIDER.get(dtype, ())]
    for other, batch, array in itertools.product(others, batches, (False, True)):
        yield replace(usual, batch=batch, dtype=other, as_array=array)


def _layouts(usual: Way, shape: tuple[int, ...] | None, n: int) -> list[Way]:
    """Batches of the usual shape, then other shapes, sequences, single rows."""
    rows = usual.shape if usual.shape == (n,) else (n,)
    maps = [] if shape is None else [shape]
    shapes = [usual.shape, *maps, rows, (1, n), (n, 1, 1), (n, 1), (n, 1, 1, 1)]
    single = [Way(each, ()) for each in (usual.shape, *maps, rows)]
    return list(dict.fromkeys([*map(Way, shapes[:4]), Way((n,), (1, -1)), *single, *map(Way, shapes[4:])]))


def _named(messages: Iterable[str], n: int) -> Iterator[Way]:
    """Of the shapes in messages those that hold whole rows of n features, such as ``[1, 16, 12]`` for n = 12."""
    for text in dict.fromkeys(re.findall(r"[\[(]\s*(\d{1,9}(?:\s*[,.x]\s*\d{1,9})*)\s*,?\s*[\])]", " ".join(messages))):
        sizes = tuple(map(int, re.findall(r"\d+", text)))
        for start in range(len(sizes)):
            if math.prod(sizes[start:]) == n and math.prod(sizes[:start]) > 0:
                yield Way(sizes[start:], (-1,) if start == 1 else sizes[:start], math.prod(sizes[:start]))
                break


def _sizes(messages: Iterable[str]) -> list[int]:
    """The numbers in messages that may be sizes of a batch, the most frequent first."""
    found = [int(digits) for digits in re.findall(r"(?<!\d)\d{1,4}(?!\d)", " ".join(messages))]
    counts = {number: found.count(number) for number in found if 1 < number <= _BATCHES[-1]}
    return sorted(counts, key=lambda number: -counts[number])[:_NUMBERS]
