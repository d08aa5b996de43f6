"""Ways to hand rows of features to a function: shapes, batches, dtypes, tensors or arrays, the likely ones first."""

from __future__ import annotations

import itertools
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
_BATCHES = (*range(2, 33), 48, 64, 96, 100, 128, 200, 256, 512, 1000, 1024)
_LARGEST = 2**26  # bytes of a batch that is tried
_NUMBERS = 16  # that are taken from messages


@dataclass(frozen=True)
class Way:
    """How rows are handed over.

    Example:
        >>> way = Way((1, 4), batch=1)
        >>> tuple(way.laid(torch.zeros(1, 4)).shape), way.words(Way((4,)))
        ((1, 1, 4), 'one row at a time, shaped (N, 1, 4)')
    """

    shape: tuple[int, ...]  # of one row
    lead: int = 1  # dimensions before it: 1 the batch; 0 none, for a single row; 2 one sequence, ``(1, N, n)``
    batch: int | None = None  # rows that a call takes; None for any number
    dtype: torch.dtype | None = None  # None for that of the rows
    as_array: bool = False  # of numpy

    def laid(self, x: Tensor) -> Tensor:
        """Rows ``(N, n)`` as they are handed over."""
        lead = (1,) * (self.lead - 1) + ((len(x),) if self.lead else ())
        return x.reshape(*lead, *self.shape).to(self.dtype or x.dtype)

    def words(self, usual: Way) -> str:
        """What is not as in the usual way; empty if nothing is."""
        found = []
        if self.batch is not None:
            found.append("one row at a time" if self.batch == 1 else f"{self.batch:,} rows at a time")
        if (self.shape, self.lead) != (usual.shape, usual.lead):
            sizes = [*((), ("N",), ("1", "N"))[self.lead], *map(str, self.shape)]
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
        messages: What was said on the way; the caller adds to it, and the numbers in it are tried as batches.
    """
    layouts = _layouts(usual, shape, x.shape[1])
    kinds = [(dtype, array) for dtype in (None, *WIDER.get(x.dtype, ())) for array in (False, True)]
    largest = _LARGEST // (x.shape[1] * x.element_size())

    def of_batches(batches: Iterable[int | None], kinds: Iterable[tuple[torch.dtype | None, bool]]) -> Iterator[Way]:
        for (dtype, array), way, batch in itertools.product(kinds, layouts, batches):
            if batch is None or batch <= largest:
                yield replace(way, batch=1 if way.lead == 0 else batch, dtype=dtype, as_array=array)

    def all_of_them() -> Iterator[Way]:
        yield from of_batches((None, *sorted(accepted, reverse=True), 1), kinds)
        yield from of_batches(_numbers(messages), kinds)
        yield from of_batches(_BATCHES, kinds[:2])

    seen = {usual}
    for way in all_of_them():
        if way not in seen:
            seen.add(way)
            yield way


def narrower_ways(usual: Way, dtype: torch.dtype, batches: Iterable[int | None]) -> Iterator[Way]:
    """Ways that round the values: what a function takes in them tells which dtype it is made for, and no more."""
    family = next((kinds for kinds in (FLOATS, COMPLEX, INTEGERS) if dtype in kinds), ())
    others = [other for other in family if other != dtype and other not in WIDER.get(dtype, ())]
    for other, batch, array in itertools.product(others, batches, (False, True)):
        yield replace(usual, batch=batch, dtype=other, as_array=array)


def _layouts(usual: Way, shape: tuple[int, ...] | None, n: int) -> list[Way]:
    """Batches of the usual shape, then other shapes, sequences, single rows."""
    rows = usual.shape if usual.shape == (n,) else (n,)
    maps = [shape] if shape is not None and len(shape) > 1 and shape != (n, 1) else []
    shapes = [usual.shape, *maps, rows, (1, n), (n, 1, 1), (n, 1), (n, 1, 1, 1)]
    single = [Way(each, 0) for each in (usual.shape, *maps, rows)]
    return list(dict.fromkeys([*map(Way, shapes[:4]), Way((n,), 2), *single, *map(Way, shapes[4:])]))


def _numbers(messages: Iterable[str]) -> list[int]:
    """The numbers in messages that may be sizes of a batch, the most frequent first."""
    found = [int(digits) for digits in re.findall(r"(?<!\d)\d{1,4}(?!\d)", " ".join(messages))]
    counts = {number: found.count(number) for number in found if 1 < number <= _BATCHES[-1]}
    return sorted(counts, key=lambda number: -counts[number])[:_NUMBERS]
