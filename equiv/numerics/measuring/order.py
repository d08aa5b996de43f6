"""The order of summation of a kernel: puts the huge terms of ``fprev`` through it, a pair of places in each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equiv.numerics.formats import format_of
from equiv.numerics.measuring.bench import Bench, log2_of, places
from equiv.numerics.measuring.findings import Finding
from equiv.numerics.measuring.fprev import Order, describe, reveal

# (factor of M, its weight, factor of a unit, its weight): far apart, and as far as float16 products, or sums, go.
_MASKS = ((2.0**100, 1.0, 1.0, 1.0), (2.0**15, 2.0**15, 2.0**-7, 2.0**-7), (2.0**8, 2.0**7, 2.0**-2, 2.0**-2))


def _sample(n: int, limit: int) -> list[int]:
    """All places; of more than ``limit``, so many: half of them from the start, half spread over the rest."""
    if n <= limit:
        return list(range(n))
    near = limit - limit // 2
    return [*range(near), *(near + round(k * (n - 1 - near) / (limit - near - 1)) for k in range(limit - near))]


def order_of(bench: Bench, limit: int) -> tuple[Finding[Order], Finding[str]]:
    """The order of summation of up to ``limit`` terms, and when the bias is added."""
    place_of_bias: Finding[str] = Finding(None, "no bias" if not bench.bias else "needs the order")
    if limit < 4:
        return Finding(None, "not looked for"), place_of_bias
    spots = _sample(bench.n, limit)
    if len(spots) == 1:
        return Finding(describe((), spots, bench.n), "one term has no order"), place_of_bias
    for mask in _MASKS:
        if max(mask) > format_of(bench.dtype).max or len(spots) * mask[2] * mask[3] > format_of(bench.output).max:
            continue
        asker = _Asker(bench, spots, mask)
        if asker([(0, len(spots) - 1)])[0] is None:
            continue
        nodes = reveal(asker, len(spots))
        text = f"{asker.pairs:,} pairs of 2^{log2_of(mask[0] * mask[1])} and its negative"
        if nodes is None or asker.differ:
            corners = [_Asker(bench, spots, mask, corner=corner) for corner in ((0, 0), (-1, -1))]
            trees = [reveal(corner, len(spots)) for corner in corners]
            nodes = trees[0]
            other = "none" if trees[1] is None else str(describe(trees[1], spots, bench.n))
            text = f"of the first output; not all are alike, the last one: {other}"
        if nodes is None:
            return Finding(None, "no tree explains what survives between huge terms"), place_of_bias
        return Finding(describe(nodes, spots, bench.n), text), _bias_place(bench, spots, mask)
    return Finding(None, "no huge term hides the others"), place_of_bias


@dataclass
class _Asker:
    """Counts of lost leaves (`fprev.LostCounts`) for pairs of the places ``spots``.

    One pair is asked for in each row of inputs and read from all outputs of that row; with ``corner`` all pairs are
    read from that one output. ``differ`` says that outputs did not agree.
    """

    bench: Bench
    spots: Sequence[int]
    mask: tuple[float, float, float, float]
    corner: tuple[int, int] | None = None
    pairs: int = 0
    differ: bool = False
    known: dict[tuple[int, int], int | None] = field(default_factory=dict)

    def __call__(self, pairs: Sequence[tuple[int, int]]) -> list[int | None]:
        wanted = [pair for pair in pairs if pair not in self.known]
        # With the same weights for all pairs each row asks for another one.
        together = self.bench.rows if self.mask[1] == self.mask[3] and self.corner is None else 1
        for start in range(0, len(wanted), together):
            self._ask(wanted[start : start + together])
        return [self.known[pair] for pair in pairs]

    def _ask(self, pairs: Sequence[tuple[int, int]]) -> None:
        bench, (huge, huge_w, unit, unit_w) = self.bench, self.mask
        row, w = torch.zeros(bench.n, dtype=torch.float64), torch.zeros(bench.n, dtype=torch.float64)
        row[list(self.spots)], w[list(self.spots)] = unit, unit_w
        x = row.repeat(bench.rows, 1)
        for number in range(bench.rows):
            i, j = pairs[number % len(pairs)]
            x[number, self.spots[i]], x[number, self.spots[j]] = huge, -huge
            w[self.spots[i]] = w[self.spots[j]] = huge_w
        y = bench.rows_of(x, w.expand(bench.outputs, -1))
        self.pairs += len(pairs)
        for number, pair in enumerate(pairs):
            seen = self._lost(y[number :: len(pairs)] if self.corner is None else y[self.corner])
            self.known[pair] = self.known[pair[::-1]] = seen

    def _lost(self, y: Tensor) -> int | None:
        kept = y.flatten() / (self.mask[2] * self.mask[3])
        self.differ = self.differ or bool((kept != kept[0]).any())
        value = float(kept[0])
        whole = 0 <= value <= len(self.spots) - 2 and value == int(value)
        return len(self.spots) - int(value) if whole else None


def _bias_place(bench: Bench, spots: Sequence[int], mask: tuple[float, float, float, float]) -> Finding[str]:
    """When the bias is added: a huge bias hides the terms that are added between it and its negative."""
    if not bench.bias:
        return Finding(None, "no bias")
    huge, huge_w, unit, unit_w = mask
    if format_of(bench.dtype).max < 2.0**100:  # float16
        huge, huge_w, unit, unit_w = 2.0**8, 2.0**7, 2.0**-9, 2.0**-8
    seen = set()
    for j in (spots[k] for k in places(len(spots), 8)):
        terms = dict.fromkeys(spots, (unit, unit_w))
        terms[j] = (-huge, huge_w)
        kept = bench.sums(terms, bias=huge * huge_w, fill=(0.0, 0.0))[0, 0].item() / (unit * unit_w)
        if not 0 <= kept <= len(spots) - 1 or kept != int(kept):
            return Finding(None, "no huge bias hides the terms")
        seen.add(len(spots) - int(kept))
    text = f"a huge bias hides {min(seen)} to {max(seen)} of {len(spots)} terms"
    if seen == {len(spots)}:
        return Finding("last", text)
    return Finding("first" if min(seen) == 1 else "between", text)
