"""A quick test of whole tiles of a sliding convolution: which outputs provably lie inside, in a dozen steps for each.

A tile of which some output may lie outside, or may be undecided, is left to ``equiv.verdict.sums``, as are integers,
float64 and complex numbers, weights that are partly zero, and values near the ends of float32. What is computed here
lies in memory that is kept from tile to tile: fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.dtypes import SIGNED_OF_SIZE
from equiv.numerics import Arithmetic, Exact, declared, judge
from equiv.verdict.patches import Patches
from equiv.verdict.sums import Block, Inputs, error_table, reach_of
from equiv.verdict.tally import NOTHING, Found

_LEAST, _MOST = 2.0**-30, 2.0**100  # what float32 holds the sums of magnitudes between, short of entries that are lost
_MOST_TERMS = 2**20
_FEW = 32  # of so many outputs of 16 bits, one may be judged by itself


class Screen:
    """Tests tiles of two results of one dtype that were computed in one arithmetic."""

    def __init__(self, patches: Patches, dtype: torch.dtype, arithmetic: Arithmetic) -> None:
        self._patches, self._arithmetic = patches, arithmetic
        self._memory: dict[str, Tensor] = {}
        self._columns_of: tuple[Inputs, bool] | None = None
        self._weights: tuple[Block, Tensor, Tensor, Tensor | None] | None = None
        plain = arithmetic.operands is None and arithmetic.results is None and arithmetic.output_rounding == "nearest"
        self._serves = (
            plain
            and dtype == arithmetic.output
            and dtype.itemsize <= 4
            and not arithmetic.relative
            and not declared(torch.float32).relative  # else torch may round the factors of its own products
            and arithmetic.factor_max == math.inf
            and arithmetic.u <= 2.0**-8
            and patches.terms <= _MOST_TERMS
        )

    def pair(
        self, inputs: Inputs, block: Block, results: tuple[Tensor, Tensor], least: float
    ) -> tuple[Found, Found] | None:
        """Both results ``(channels, R)`` of a tile as judged; None where this test does not tell.

        Outputs inside whose ratio is below ``least`` may be left out.
        """
        if not self._serves or not block.is_finite:
            return None
        if results[0].itemsize == 2:
            return self._rounded(inputs, block, results)
        if block.has_zeros or not _all_or_none(block.bias):
            return None
        return self._shares(inputs, block, results, least)

    def _reach(self, block: Block, size: float) -> float | None:
        """As in :class:`equiv.numerics.Exact`, for inputs of at most this magnitude; None where this is no place."""
        reach = reach_of(block, size)
        return reach if _LEAST < reach < min(_MOST, self._arithmetic.accumulator_max) else None  # None for NaN

    def differ(self, results: tuple[Tensor, Tensor]) -> Tensor:
        """Zero where the bits of both are the same, flat; in memory that the next tile takes."""
        y, e = (result.view(SIGNED_OF_SIZE[result.itemsize]) for result in results)
        return torch.bitwise_xor(y, e, out=self._room("differ", y.shape, y.dtype)).flatten()

    def _room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor whose entries hold anything, of memory that is kept under this name."""
        size, kept = math.prod(shape), self._memory.get(name)
        if kept is None or kept.numel() < size:
            kept = self._memory[name] = torch.empty(size, dtype=dtype, device="cpu")
        return kept[:size].view(shape)

    def _columns(self, inputs: Inputs, *, biased: bool) -> Tensor:
        """What the outputs read in float64, and a one for the bias: ``(g, n + biased, R)``."""
        n = self._patches.terms
        wide = self._room("columns", (inputs.groups, n + biased, inputs.box.columns), torch.float64)
        if self._columns_of is None or self._columns_of[0] is not inputs or self._columns_of[1] is not biased:
            windows = self._patches.windows(inputs.slab, inputs.box, inputs.groups)
            wide[:, :n].view(windows.shape).copy_(windows)
            if biased:
                wide[:, n:] = 1.0
            self._columns_of = (inputs, biased)
        return wide

    def _errors(self, inputs: Inputs, block: Block, *, biased: bool) -> Tensor | None:
        """``E`` of all outputs in float32, ``(g, o, R)``; 0 for those of one term; None where this is no place."""
        box, groups = inputs.box, inputs.groups
        windows = self._patches.windows(inputs.slab, box, groups)
        pointwise = math.prod(self._patches.kernel) == 1
        if pointwise and float(inputs.slab.amin()) >= 0:
            sizes = windows.reshape(groups, -1, box.columns)  # most often a view
        else:
            sizes = self._room("sizes", (groups, self._patches.terms, box.columns), torch.float32)
            torch.abs(windows, out=sizes.view(windows.shape))
        if self._reach(block, float(sizes.amax())) is None:
            return None
        if pointwise:
            terms = torch.sign(sizes, out=self._room("signs", sizes.shape, torch.float32)).sum(1, keepdim=True)
        else:
            terms = torch.as_tensor(inputs.counted, device="cpu")
        table, _ = error_table(self._arithmetic, 2 ** max(4, (self._patches.terms + 1).bit_length()))
        errors = self._room("errors", (*block.weight.shape[:2], box.columns), torch.float32)
        _, weight, bias = self._weights_of(block)
        torch.bmm(weight, sizes, out=errors)
        if bias is not None:
            errors += bias
        return errors.mul_(table.float()[terms.to(torch.int64) + biased])

    def _weights_of(self, block: Block) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight and bias together in float64, ``(g, o, n + 1)`` or without the bias; their magnitudes in float32."""
        if self._weights is None or self._weights[0] is not block:
            bias = None if block.bias is None or not block.size_of_bias else block.bias
            wide = block.weight.double() if bias is None else torch.cat([block.weight.double(), bias.double()], 2)
            of_bias = None if bias is None else bias.float().abs()
            self._weights = (block, wide, block.weight.float().abs(), of_bias)
        return self._weights[1:]

    def _shares(
        self, inputs: Inputs, block: Block, results: tuple[Tensor, Tensor], least: float
    ) -> tuple[Found, Found] | None:
        """Of float32: by the larger distance from the exact value, as a share of ``E``.

        Rounding is monotonic: what lies within ``E`` of the exact value lies between the rounded ends.
        """
        y, e = results
        biased = block.size_of_bias > 0
        errors = self._errors(inputs, block, biased=biased)
        if errors is None:
            return None
        shape = (*block.weight.shape[:2], inputs.box.columns)
        apart = self._room("apart", shape, torch.float64)
        flat = apart.view(y.shape)
        flat.copy_(y)
        apart.baddbmm_(self._weights_of(block)[0], self._columns(inputs, biased=biased), beta=-1)  # s - y
        share = self._room("share", y.shape, torch.float32).copy_(flat)
        other = torch.sub(y, e, out=self._room("other", y.shape, torch.float32)).add_(share)  # s - e
        share = torch.maximum(share.abs_(), other.abs_(), out=share)
        share.div_(errors.view(y.shape))
        tops = share.amax(1)
        largest = float(tops.amax())
        if not largest < 1 - (self._patches.terms + 16) * 2.0**-23:  # what float32 sums of n magnitudes are off
            return None
        if largest <= least:
            return NOTHING, NOTHING
        rows = (tops == largest).nonzero().flatten()
        row, column = (share[rows] == largest).nonzero().unbind(1)
        at = rows[row] * share.shape[1] + column
        right = torch.ones(len(at), dtype=torch.bool, device="cpu")
        return Found(at, right, ~right, share.view(-1)[at].double()), NOTHING

    def _rounded(self, inputs: Inputs, block: Block, results: tuple[Tensor, Tensor]) -> tuple[Found, Found] | None:
        """Of 16 bits: those that are not the exact value rounded by way of float32, by their own envelope.

        A float32 accumulator may hold the exact value rounded to float32, so that these are right, with a ratio of 0;
        at a tie that this rounding makes, of 1/K at most.
        """
        weight, columns = self._weights_of(block)[0], self._columns(inputs, biased=block.size_of_bias > 0)
        reach = self._reach(block, max(-float(inputs.slab.amin()), float(inputs.slab.amax())))
        if reach is None:
            return None
        values = self._room("values", (*weight.shape[:2], columns.shape[2]), torch.float64)
        torch.bmm(weight, columns, out=values)
        nearest = self._room("nearest", results[0].shape, results[0].dtype).copy_(values.view(results[0].shape))
        found = [_places(self.differ((nearest, result))) for result in results]
        at = torch.cat(found)
        if not len(at):
            return NOTHING, NOTHING
        if len(at) * _FEW > 2 * nearest.numel():
            return None
        chosen = torch.cat([result.flatten()[places] for result, places in zip(results, found, strict=True)])
        step, parts = max(64, columns.shape[2]), []
        for start in range(0, len(at), step):
            part = slice(start, start + step)
            exact = self._exact_at(at[part], values, weight, columns, reach)
            judged = judge(chosen[part], exact, self._arithmetic)
            if not bool(judged.inside.all()) or bool(judged.undecided.any()):
                return None
            parts.append(judged.ratio)
        right = torch.ones(len(at), dtype=torch.bool, device="cpu")
        return Found(at, right, ~right, torch.cat(parts)), NOTHING

    def _exact_at(self, at: Tensor, values: Tensor, weight: Tensor, columns: Tensor, reach: float) -> Exact:
        """The outputs at some places of ``values``."""
        rows, column = at // columns.shape[2], at % columns.shape[2]
        factors = weight.flatten(0, 1)[rows]  # (M, n)
        products = (columns[rows // weight.shape[1], :, column] * factors).abs_()
        magnitude, terms = products.sum(1), (products != 0).sum(1).double()
        open_ = ((weight.shape[2] + 4) * 2.0**-52 * magnitude).masked_fill_(terms <= 1, 0.0)
        bias = factors[:, self._patches.terms] if weight.shape[2] > self._patches.terms else None
        return Exact(values.view(-1)[at], None, open_, magnitude, terms, bias, None, None, reach=reach)


def _all_or_none(bias: Tensor | None) -> bool:
    """Whether every entry of the bias is a term, or none is."""
    return bias is None or int(torch.count_nonzero(bias)) in (0, bias.numel())


def _places(differ: Tensor) -> Tensor:
    """Where numbers of 16 bits are not zero."""
    if differ.numel() % 4:
        return differ.nonzero().flatten()
    words = differ.view(torch.int64).nonzero()  # a word at a time: that is what it costs
    places = (4 * words + torch.arange(4, device="cpu")).flatten()
    return places[differ[places] != 0]
