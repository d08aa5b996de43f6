"""Do the two maps do what their columns say, on inputs that are no column? Runs the inputs of ``equiv.certificate.affine``.

Notes in a ``Reading`` the first result that no affine map gives, and the first that no right kernel of the weights that
were read gives while the other side gives another. Where both sides give the same bits, only the former counts.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from equiv.certificate._state import Reading, Sums
from equiv.certificate.affine import Superposition
from equiv.certificate.operations import Structure, structure_of
from equiv.certificate.repeated_taps import repeats
from equiv.certificate.sides import Side, same_values
from equiv.numerics import Exact, format_of
from equiv.text import counted


class Refuter:
    """Tries to refute that two sides are affine, and right.

    Args:
        sides: Candidate and reference.
        zeros: Their values at zero.
        tests: The inputs.
        rows: How many inputs are run at once.
    """

    def __init__(self, sides: tuple[Side, Side], zeros: list[Tensor], tests: Superposition, rows: int) -> None:
        self.sides, self.zeros, self.tests, self.rows = sides, zeros, tests, rows
        self.dtype, self.floating = tests.dtype, tests.floating
        apart = all(side.layer is not None for side in sides)
        self.sums: Sums = {} if apart else {side.name: tests.blank(len(zeros[0])) for side in sides}

    def straight(
        self, found: Reading, side: Side, near: list[Tensor], column: Tensor, columns: Tensor, scale: float
    ) -> None:
        """What is seen at one must be what is seen far out on the other side."""
        zero = exact(self.zeros[0 if side is self.sides[0] else 1])
        for unit, y in zip((1, 1j), near, strict=False):
            expected = zero + unit * column
            distance = (exact(y) - expected).abs()
            bent = distance > self.tests.bound(1, expected, (column.abs() + zero.abs()).amax(1, keepdim=True))
            if bool(bent.any()) and found.bent is None:
                row, output = (int(i) for i in bent.nonzero()[0])
                index = int(columns[row])
                found.bent = (
                    f"{side.name} is no affine map: output {output} is {_short(y[row, output])} at e{index}, "
                    f"but its values at 0 and -{scale:.3g}*e{index} make {_short(expected[row, output])}"
                )

    def once_more(
        self, found: Reading, hot: Tensor, columns: Tensor, read: list[Tensor], doubts: list[Tensor], scale: float
    ) -> None:
        """Every column at a full mantissa far out on the positive side."""
        x = self.tests.mantissas[columns]
        hot = hot * (x * scale).to(hot.dtype)[:, None]
        results = [side.run(hot) for side in self.sides]
        for side, y, zero, column, doubt in zip(self.sides, results, self.zeros, read, doubts, strict=True):
            expected = column * x[:, None] * scale + exact(zero)
            if side.layer is None:
                largest = (column.abs() * x[:, None] * scale + exact(zero).abs()).amax(1, keepdim=True)
                self._bends(found, side, hot, y, expected, self.tests.bound(1, expected, largest))
            if self._is_single(side):
                parts = self.tests.single_expected(column, x, scale, zero, doubt)
                self._rough(found, side, hot, y, parts, results)

    def superposed(self, found: Reading) -> None:
        """Dense inputs, and few entries of any size, must give the sum of what their entries give alone."""
        x = self.tests.dense
        results = [side.run(x) for side in self.sides]
        for side, y, zero in zip(self.sides, results, self.zeros, strict=True):
            sums = self.sums[side.name]
            alone = torch.cat([side.run(row[None]) for row in x])
            if not self.floating:
                expected = (sums[0] + zero).to(self.dtype)
                for some in (y, alone):
                    self._bends(found, side, x, some, expected, torch.zeros_like(expected))
                continue
            expected = sums[0] + exact(zero)
            largest = (sums[1] + exact(zero).abs()).amax(1, keepdim=True)
            bound = self.tests.bound(x.count_nonzero(1)[:, None], expected, largest)
            bound = torch.where(largest < format_of(self.dtype).max / 16, bound, torch.inf)
            if side.layer is None:
                self._bends(found, side, x, y, expected, bound)
                self._bends(found, side, x, alone, expected, bound)
            if self._is_single(side):
                self._rough(found, side, x, y, self.tests.dense_expected(sums, zero), results)
        if self.floating:
            self._sparse(found)

    def _sparse(self, found: Reading) -> None:
        """The rows of a few entries, as many at once as one-hot rows."""
        for start in range(0, len(self.tests.few), self.rows):
            some = slice(start, start + self.rows)
            x = self.tests.spread(self.tests.few[some])
            results = [side.run(x) for side in self.sides]
            for side, y, zero in zip(self.sides, results, self.zeros, strict=True):
                expected, size, parts = self.tests.few_expected(self.sums[side.name], zero, some)
                largest = (size + exact(zero).abs()).amax(1, keepdim=True)
                bound = self.tests.bound(x.count_nonzero(1)[:, None], expected, largest)
                bound = torch.where(largest < format_of(self.dtype).max / 16, bound, torch.inf)
                if side.layer is None:
                    self._bends(found, side, x, y, expected, bound)
                if self._is_single(side):
                    self._rough(found, side, x, y, parts, results)

    def _bends(self, found: Reading, side: Side, x: Tensor, y: Tensor, expected: Tensor, bound: Tensor) -> None:
        """Note the first result further than ``bound`` from what the entries of its input give one by one."""
        bent = ~((exact(y) - expected).abs() <= bound) if self.floating else y != expected
        if found.bent is None and bool(bent.any()):
            row, output = (int(i) for i in bent.nonzero()[0])
            found.bent = (
                f"{side.name} is no affine map of single rows: output {output} is {_short(y[row, output])} at an input "
                f"with {counted(int(x[row].count_nonzero()), 'entry', 'entries')}, whose values one by one add up to "
                f"{_short(expected[row, output])}"
            )

    def _rough(
        self, found: Reading, side: Side, x: Tensor, y: Tensor, parts: tuple[Exact, ...], results: list[Tensor]
    ) -> None:
        """Note the first result outside the envelope, among those where the two sides differ."""
        if found.rough is not None or bool(same_values(*results).all()):
            return
        wrong, lower, upper = self.tests.outside(y, parts)
        wrong &= ~same_values(*results)
        if bool(wrong.any()):
            row, output = (int(i) for i in wrong.nonzero()[0])
            found.rough = (
                f"{side.name} gives {_short(y[row, output])} for output {output} at an input with "
                f"{counted(int(x[row].count_nonzero()), 'entry', 'entries')}, where right kernels of the weights that "
                f"were read give {_short(lower[row, output])} to {_short(upper[row, output])}"
            )

    def _is_single(self, side: Side) -> bool:
        """Whether one envelope holds a side: each input meets each output once, in one sum."""
        return not repeats(side.layer) if side.layer is not None else self._structures[side.name].single

    @cached_property
    def _structures(self) -> dict[str, Structure]:
        one = self.tests.dense[:1]
        return {side.name: structure_of(lambda side=side: side.run(one)) for side in self.sides}  # type: ignore[misc]

    def convolves(self, side: Side) -> bool:
        """Whether a side is, or calls, a convolution, as far as can be seen."""
        if side.layer is not None:
            return not isinstance(side.layer, nn.Linear)
        return self._structures[side.name].convolves


def exact(y: Tensor) -> Tensor:
    """The same values in float64 or complex128."""
    return y.to(torch.complex128 if y.is_complex() else torch.float64)


def _short(value: Tensor) -> str:
    return f"{value.item():.6g}"
