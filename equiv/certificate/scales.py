"""Rows of every size that a dtype has: nothing small is lost, nothing large cut off, nothing grows as a product does.

- Dense rows of full mantissas, times powers of two over the whole range of exponents.
- Every column at such sizes, with both signs, and at the integers up to 16: a few columns in a row, as many as it takes
  to have no more rows than there are columns, or 2,048. Where columns are read a few at a time, as of a slow function
  whose certificate is kept every second, each is asked at some of the sizes, and all together at all of them.

What they must give follows from the columns that were read, as `equiv.certificate.affine` says. They cannot show what
the rounding of larger terms hides, and no finite number of inputs shows what happens at a single value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.certificate.affine import AffineTest, Sums
from equiv.numerics import format_of

_LEAST = 2048  # rows that are always asked for
_SIZES = 128  # powers of two, at most
_INTEGERS = 16


def exponents(dtype: torch.dtype) -> Tensor:
    """The exponents of the sizes that are tried, from the smallest normal number on, with equal steps: int64."""
    fmt = format_of(dtype)
    low, high = math.frexp(fmt.min_normal)[1] - 1, math.frexp(fmt.max)[1] - 1
    return torch.arange(low, high + 1, -(-(high + 1 - low) // _SIZES), device="cpu")


class ScaleTest:
    """Asks the functions among two sides for rows of many sizes; what it finds is noted in the `AffineTest`."""

    def __init__(self, test: AffineTest) -> None:
        self.test, self.inputs = test, test.inputs
        self.exponents = exponents(self.inputs.dtype)
        self.levels = len(self.exponents) + 2 * _INTEGERS
        n = self.inputs.n
        self.width = -(-self.levels * n // max(n, _LEAST))  # columns in a row

    def rows_for(self, columns: int) -> int:
        """How many rows a chunk of so many columns takes."""
        return len(self._levels(0, columns)) * -(-columns // self.width)

    def _levels(self, first: int, count: int) -> Tensor:
        """Which sizes a chunk of columns is asked at: all, or its share where it is no whole group of columns."""
        everything = torch.arange(self.levels, device="cpu")
        if count >= min(self.width, self.inputs.n):
            return everything
        share = -(-self.levels * count // self.width)
        return everything.roll(-(first * self.levels // self.width))[:share]

    def check_dense(self) -> None:
        """The last dense rows, times powers of two."""
        for power in torch.split(torch.exp2(self.exponents.double()), max(1, self.test.rows // 2)):
            scale = power.repeat_interleave(2)[:, None].to(self.inputs.device)
            x = (self.inputs.dense[-2:].repeat(len(power), 1) * scale).to(self.inputs.dtype)
            some = {}
            for name, sums in self.test.sums.items():
                total, size, terms, doubts = (t[-2:].repeat(len(power), 1) for t in sums[:4])
                some[name] = Sums(total * scale, size * scale, terms, doubts * scale, sums.kept, sums.kept_doubts)
            self.test.check_rows(x, some)

    def check_columns(self, columns: Tensor, read: list[Tensor], doubts: list[Tensor]) -> None:
        """Columns of a chunk ``(c,)``, read as ``(c, O)`` to within ``doubts``, in groups of neighbours."""
        groups = -(-len(columns) // self.width)
        values = self._values(columns).to(self.inputs.device)
        place = torch.arange(len(columns), device=self.inputs.device) // self.width
        for some in torch.split(values, max(1, self.test.rows // groups)):
            x = torch.zeros(len(some), groups, self.inputs.n, dtype=self.inputs.dtype, device=self.inputs.device)
            x[:, place, columns] = some
            sums = {
                name: self._sums(some, column, doubt, groups)._replace(kept=whole.kept, kept_doubts=whole.kept_doubts)
                for (name, whole), column, doubt in zip(self.test.sums.items(), read, doubts, strict=True)
            }
            self.test.check_rows(x.flatten(0, 1), sums)

    def _values(self, columns: Tensor) -> Tensor:
        """What every column is asked at, ``(L, c)``, of the dtype."""
        first, count = int(columns[0]), len(columns)
        generator = torch.Generator("cpu").manual_seed((self.inputs.seed + 2 + first) & 0x7FFFFFFFFFFFFFFF)
        precision, top = format_of(self.inputs.dtype).precision, int(self.exponents[-1])
        step = int(self.exponents[1] - self.exponents[0])
        shape = (len(self.exponents), count)
        shift = torch.randint(0, step, shape, generator=generator, device="cpu")
        bits = torch.randint(0, 2 ** (precision - 2), shape, generator=generator, device="cpu")
        mantissa = 1 + (2 * bits + 1).double() * 2.0 ** (1 - precision)
        sizes = mantissa * torch.exp2((self.exponents[:, None] + shift).clamp(max=top).double())
        signs = 1.0 - 2 * ((torch.arange(len(sizes), device="cpu")[:, None] + columns.cpu()) % 2)
        whole = torch.cat([torch.arange(-_INTEGERS, 0, device="cpu"), torch.arange(1, _INTEGERS + 1, device="cpu")])
        values = torch.cat([sizes * signs, whole[:, None].expand(-1, count).double()])
        if self.inputs.dtype.is_complex:
            values = values * torch.tensor([1, 1j], device="cpu")[torch.arange(len(values), device="cpu") % 2, None]
        return values[self._levels(first, count)].to(self.inputs.dtype)

    def _sums(self, values: Tensor, column: Tensor, doubt: Tensor, groups: int) -> Sums:
        """What rows of a group each make of these values ``(l, c)``: ``(l * groups, O)``."""
        wide = torch.complex128 if values.is_complex() else torch.float64

        def grouped(t: Tensor) -> Tensor:
            missing = groups * self.width - t.shape[-1]
            return torch.nn.functional.pad(t, (0, missing)).view(*t.shape[:-1], groups, self.width)

        def product(a: Tensor, b: Tensor) -> Tensor:
            left, right = grouped(a).movedim(0, 1), grouped(b.T).permute(1, 2, 0)  # (G, l, g) and (G, g, O)
            return (left @ right).movedim(1, 0).flatten(0, 1)

        total = product(values.to(wide), column.to(wide))
        size = product(values.abs().double(), column.abs().double())
        terms = product((values != 0).double(), ((column != 0) | (doubt > 0)).double())
        doubts = product((2 if values.is_complex() else 1) * values.abs().double(), doubt)
        return Sums(total, size, terms, doubts, total, doubts)
