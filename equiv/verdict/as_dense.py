"""Results of a sliding convolution that its dense layer may have given: they are as right.

A padding mode may repeat inputs. The convolution then adds several taps of one input, its dense layer their sum,
rounded once. It has no product of a padded zero, which an infinite weight makes NaN. And it multiplies inputs outside
the window by zeros, so that one that is not finite makes NaN: there the two disagree, and outputs are undecided.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.mapping import taps_as_dense
from equiv.numerics import Arithmetic, Reference
from equiv.verdict.arguments import Maps
from equiv.verdict.patches import Box, Patches
from equiv.verdict.tally import Found


class AsDense:
    """Judges outputs once more that a convolution does not give."""

    def __init__(self, maps: Maps, patches: Patches) -> None:
        self._maps, self._patches = maps, patches
        self._not_finite: list[int | None] = [None] * len(maps.input)

    @cached_property
    def _others(self) -> list[Tensor]:
        """Along each axis, at which positions the dense layer may have other weights: bool ``(P,)``."""
        drops = self._patches.is_padded and not _is_finite(self._maps.weight)
        return [self._patches.repeating(axis, padded=drops) for axis in range(len(self._patches.axes))]

    def _may_differ(self, box: Box) -> Tensor:
        """At which columns the dense layer may have other weights: bool ``(R,)``."""
        differs = torch.zeros(box.sizes, dtype=torch.bool, device="cpu")
        for axis, (others, part) in enumerate(zip(self._others, box.positions, strict=True)):
            differs |= others[part].view(-1, *(1,) * (len(box.positions) - 1 - axis))
        return differs.flatten()

    def weight_at(self, position: tuple[int, ...], weight: Tensor) -> Tensor | None:
        """``weight`` ``(o, n)`` as the dense layer has it at an output position; None where that is no other."""
        if not any(bool(others[at]) for others, at in zip(self._others, position, strict=True)):
            return None
        read = self._patches.reads_at(position)
        return taps_as_dense(weight.reshape(len(weight), -1, len(read)), read).flatten(1)

    def _first(self, position: tuple[int, ...]) -> Tensor:
        """Whether each tap is the first that reads its input: bool ``(T,)``."""
        read = self._patches.reads_at(position)
        return torch.tensor([number not in read[:tap] for tap, number in enumerate(read)], device="cpu")

    def better(
        self, found: Found, result: Tensor, box: Box, first: tuple[int, int], arithmetic: Arithmetic | None
    ) -> Found:
        """``found`` of a ``result`` ``(channels, R)``, where the dense layer's own weights fit better.

        ``first`` is the group and the channel, counted within it, of the first row.
        """
        if not is_inexact(result.dtype):
            return found
        spoilt = (result != result).flatten()[found.at]
        wrong = (~found.inside & (spoilt | self._may_differ(box)[found.at % box.columns])).nonzero().flatten()
        if not len(wrong):
            return found
        inside, undecided, ratio = found.inside.clone(), found.undecided.clone(), found.ratio.clone()
        rows, columns = found.at[wrong] // box.columns, found.at[wrong] % box.columns
        per_group = self._maps.weight.shape[1]
        groups = first[0] + (first[1] + rows) // per_group
        for group, column in torch.unique(torch.stack([groups, columns]), dim=1).T.tolist():
            here = (groups == group) & (columns == column)
            some, chosen = wrong[here], rows[here]
            sample, position = _place(box, column)
            y = result[chosen, column]
            right = self._judged(y, group, (first[1] + chosen) % per_group, sample, position, arithmetic)
            if right is not None:
                taken = right.inside | (right.ratio < ratio[some])
                inside[some], undecided[some] = inside[some] | right.inside, undecided[some] | right.undecided
                ratio[some[taken]] = right.ratio[taken]
            spoilt = (y != y) & self._reads_more_than(sample, group, position)
            inside[some[spoilt]], undecided[some[spoilt]], ratio[some[spoilt]] = True, True, 0.0
        return Found(found.at, inside, undecided, ratio)

    def _judged(
        self,
        y: Tensor,
        group: int,
        channels: Tensor,
        sample: int,
        position: tuple[int, ...],
        arithmetic: Arithmetic | None,
    ) -> Found | None:
        weight = self.weight_at(position, self._maps.weight[group, channels])
        if weight is None:
            return None
        first = self._first(position)
        row = self._patches.row(self._maps.input, sample, position, group).view(1, -1, len(first))
        row = row.masked_fill(~first, 0).flatten(1)
        bias = self._maps.bias
        if bias is not None:
            bias = bias.view(len(self._maps.weight), -1)[group, channels]
        judged = Reference(row, weight, bias).assess(y[None], arithmetic)
        return Found(channels, judged.inside[0], judged.undecided[0], judged.ratio[0])

    def _reads_more_than(self, sample: int, group: int, position: tuple[int, ...]) -> bool:
        """Whether some input of the sample that is not finite lies outside the window."""
        x = self._maps.input[sample]
        count = self._not_finite[sample]
        if count is None:
            count = self._not_finite[sample] = int((~x.isfinite()).sum())
        if not count:
            return False
        size = self._patches.channels
        read = sorted({*self._patches.reads_at(position)} - {-1})
        window = x[group * size : (group + 1) * size].flatten(1)[:, read]
        return int((~window.isfinite()).sum()) < count


def _is_finite(values: Tensor) -> bool:
    parts = torch.view_as_real(values) if values.is_complex() else values
    return all(math.isfinite(float(end)) for end in torch.aminmax(parts))


def _place(box: Box, column: int) -> tuple[int, tuple[int, ...]]:
    """The sample and the output position of a column."""
    starts = [part.start for part in (box.samples, *box.positions)]
    places = []
    for size, start in zip(box.sizes[::-1], starts[::-1], strict=True):
        column, place = divmod(column, size)
        places.append(start + place)
    sample, *position = places[::-1]
    return sample, tuple(position)
