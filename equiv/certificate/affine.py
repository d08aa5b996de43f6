"""Whether a map is affine: its results at inputs that are not one-hot, against what its columns make of these.

An affine map returns at every input the sum of its columns, each times one entry, plus its value at zero.
`Superposition` draws the inputs that this is tried on, and computes from the columns that were read what must come of
them; `AffineTest` runs both sides on them. The inputs are:

- dense rows, of integers and of normals, and for integer dtypes of the whole range;
- rows of one to four entries on a few columns, with random mantissas of full length, both signs, and sizes from 2^-20
  to 2^20: there no other term hides that an input is clamped or rounded on its way;
- every single column once more, at ``-2^K`` and at ``+m_i*2^(K-1)`` with a random full mantissa ``m_i``.

There are two judgements. A generous bound, in units of the sum of the magnitudes in a row, which no affine map of a few
layers exceeds; and where a side is one layer (``equiv.certificate.operations``), the envelope around the weights that
were read. Integer dtypes are exact modulo ``2**bits`` and must agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from equiv.certificate.operations import Structure, structure_of
from equiv.certificate.repeated_taps import repeats_inputs
from equiv.certificate.sides import Side, same_values
from equiv.dtypes import is_inexact
from equiv.numerics import Arithmetic, Exact, Reference, declared, fast_two_sum, format_of, judge, two_product, two_sum
from equiv.text import counted

Parts: TypeAlias = tuple[Exact, ...]  # real and imaginary part, or the real value alone
_SLACK = 64  # functions may round inside more often than one layer does; what is not affine is off by far more
_KEPT = 16  # columns that rows of few entries lie on
_REACH = 20  # exponents of such rows


class Sums(NamedTuple):
    """What the columns read so far add up to on the dense rows; of integer dtypes ``total`` alone."""

    total: Tensor  # results without the bias, (R, O): complex128, float64 or int64
    size: Tensor  # sums of the magnitudes of their terms
    terms: Tensor  # how many terms are not zero
    doubts: Tensor  # how far the totals may be off because weights are known to within a doubt only
    kept: Tensor  # the columns that rows of few entries lie on, (m, O)
    kept_doubts: Tensor  # how far each of their entries may be from what was read


class Superposition:
    """The inputs for maps from n features of one dtype, and what must come of them."""

    def __init__(
        self, n: int, dtype: torch.dtype, device: torch.device, seed: int, arithmetic: Arithmetic | None = None
    ) -> None:
        self.n, self.dtype, self.device, self.seed = n, dtype, device, seed
        self.inexact = is_inexact(dtype)
        self._arithmetic = arithmetic
        self._generator = torch.Generator("cpu").manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
        self.dense = self._dense_rows().to(device)
        # Mantissas (n,) in [1, 2), float64; the columns that are kept (m,); rows on these (R, m).
        self.mantissas = torch.zeros(0, dtype=torch.float64, device=device)
        self.kept = torch.zeros(0, dtype=torch.int64, device=device)
        self.few = torch.zeros(0, 0, dtype=dtype, device=device)
        if self.inexact:
            self.mantissas = self._mantissas((n,)).to(device)
            self.kept, self.few = (t.to(device) for t in self._few_entries())

    @property
    def arithmetic(self) -> Arithmetic:
        """What the kernels are judged in; of floating and complex dtypes alone."""
        return self._arithmetic or declared(self.dtype, self.device)

    @property
    def count(self) -> int:
        """How many rows there are, those of single columns aside."""
        return len(self.dense) + len(self.few)

    def _integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, shape, generator=self._generator, device="cpu")

    def _permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self._generator, device="cpu")

    def _normals(self) -> Tensor:
        return torch.randn(3, self.n, generator=self._generator, dtype=torch.float64, device="cpu")

    def _dense_rows(self) -> Tensor:
        """Exact inputs of both signs, dense and sparse, large and small, and others of the whole range: ``(R, n)``."""
        signs = self._integers(0, 2, (6, self.n)) * 2.0 - 1.0
        signs[0], signs[1] = 1.0, -1.0
        signs[2] *= 64.0
        if self.inexact:
            signs[3] /= 64.0
        for row in (4, 5):
            keep = self._permutation(self.n)[:4]
            few = torch.zeros(self.n, device="cpu")
            few[keep] = signs[row, keep] * self._integers(1, 8, (len(keep),))
            signs[row] = few
        if not self.dtype.is_signed:
            signs = signs.abs()
        if not self.inexact:
            return torch.cat([signs.to(self.dtype), self._whole_range()])
        normals = self._normals()
        normals[2] *= 2.0 ** self._integers(-8, 9, (self.n,))
        if self.dtype.is_complex:
            signs, normals = signs * (1 - 2j), torch.complex(normals, self._normals())
        mantissas = self._mantissas((2, self.n)) * (2.0 * self._integers(0, 2, (2, self.n)) - 1)
        return torch.cat([rows.to(self.dtype) for rows in (signs, normals, mantissas)])

    def _whole_range(self) -> Tensor:
        """Four dense rows, and four of one to four entries, of all integers that the dtype holds."""
        info = torch.iinfo(self.dtype)
        bits = self._integers(-(2**63), 2**63 - 1, (8, self.n))
        rows = (bits & 0xFF if info.min == 0 else bits >> (64 - info.bits)).to(self.dtype)
        for row in range(4, 8):
            rows[row, self._permutation(self.n)[row - 3 :]] = 0
        rows[7][rows[7] != 0] = info.max
        return rows

    def _few_entries(self) -> tuple[Tensor, Tensor]:
        """Which columns are kept ``(m,)``, and rows of one to four entries on them ``(R, m)``."""
        fmt = format_of(self.dtype)
        inner = 1 + self._permutation(max(0, self.n - 2))[: _KEPT - 2]
        kept = torch.cat([torch.tensor(sorted({0, self.n - 1}), device="cpu"), inner]).sort().values
        low = max(-_REACH, math.frexp(fmt.min_normal)[1] - 1)
        high = min(_REACH, math.frexp(fmt.max)[1] - 2)
        rows = []
        for k, exponent in enumerate(range(low, high + 1, 2)):
            one, other, some = torch.zeros(3, len(kept), dtype=torch.float64, device="cpu")
            one[2 * k % len(kept)] = 2.0**exponent
            other[(2 * k + 1) % len(kept)] = -(2.0**exponent)
            chosen = self._permutation(len(kept))[: 2 + k % 3]
            some[chosen] = (2 * self._integers(0, 2, (len(chosen),)) - 1).double() * 2.0**exponent
            rows += [one, other, some]
        values = torch.stack(rows)
        few = values * self._mantissas(tuple(values.shape))
        if self.dtype.is_complex:
            few = torch.complex(few, values.flip(1) * self._mantissas(tuple(values.shape)))
        return kept, few.to(self.dtype)

    def _mantissas(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [1, 2) of the dtype's whole length: odd in their last bit."""
        places = format_of(self.dtype).precision - 1
        return 1 + (self._integers(0, 2 ** (places - 1), shape) * 2 + 1).double() * 2.0**-places

    def blank(self, outputs: int) -> Sums:
        """The sums before any column is read."""
        wide = (torch.complex128 if self.dtype.is_complex else torch.float64) if self.inexact else torch.int64
        rows, kept = (len(self.dense), outputs), (len(self.kept), outputs)
        kinds = ((rows, wide), *[(rows, torch.float64)] * 3, (kept, wide), (kept, torch.float64))
        return Sums(*(torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in kinds))

    def add(self, sums: Sums, columns: Tensor, column: Tensor, doubt: Tensor | None = None) -> None:
        """Take in columns ``(c, O)`` as they were read, each weight certain to within ``doubt``."""
        x, column = self.dense[:, columns].to(sums.total.dtype), column.to(sums.total.dtype)
        sums.total.add_(x @ column)
        if doubt is None:
            return
        sums.size.add_((x.abs() @ column.abs()).to(sums.size.dtype))
        sums.terms.add_((x != 0).double() @ ((column != 0) | (doubt > 0)).double())
        sums.doubts.add_((2 if x.is_complex() else 1) * (x.abs() @ doubt))
        at, of = (self.kept[:, None] == columns).nonzero().unbind(1)
        sums.kept[at], sums.kept_doubts[at] = column[of], doubt[of]

    def bound(self, terms: Tensor | int, size: Tensor) -> Tensor:
        """Generous rounding of a few layers one after the other, in units of what the whole row holds."""
        arithmetic = self.arithmetic
        u, out = arithmetic.u, format_of(self.dtype).u
        unit = _SLACK * (torch.as_tensor(terms, device=size.device) + 8) * u + 16 * (out + arithmetic.relative)
        return unit * size + arithmetic.underflow * _SLACK * (self.n + 8) + 8 * format_of(self.dtype).min_normal

    def bound_of_rows(self, x: Tensor, size: Tensor) -> Tensor:
        """That bound for rows ``x`` with sums of magnitudes ``size``; none where the results may overflow."""
        largest = size.amax(1, keepdim=True)
        bound = self.bound(x.count_nonzero(1)[:, None], largest)
        return torch.where(largest < format_of(self.dtype).max / 16, bound, torch.inf)

    def few_expected(self, sums: Sums, zero: Tensor, some: slice) -> tuple[Tensor, Tensor, Parts]:
        """Values, sizes and exact parts of some of the rows of few entries."""
        kept, doubts = sums.kept, sums.kept_doubts
        x, bias = self.few[some].to(kept.dtype), zero.to(kept.dtype)
        reference = Reference(x, kept.T.contiguous(), bias)
        more = (x.abs() @ doubts) * (2 if x.is_complex() else 1)
        seen = ((x != 0).double() @ ((kept == 0) & (doubts > 0)).double()) * (2 if x.is_complex() else 1)
        parts = tuple(self._doubted(part, more, seen) for part in reference.parts)
        return x @ kept + bias, x.abs() @ kept.abs() + more + widened(zero).abs(), parts

    def dense_expected(self, sums: Sums, zero: Tensor) -> Parts:
        """Exact parts of the dense rows; the sums themselves are known as float64 knows them."""
        value = sums.total + zero.to(sums.total.dtype)
        magnitude, terms = sums.size + zero.abs().double(), sums.terms + (zero != 0)
        if value.is_complex():
            magnitude, terms = 4 * magnitude, torch.where(terms > 0, 3 * terms + 2, 0.0)
        uncertainty = (2 * self.n + 8) * 2.0**-52 * magnitude
        return self._parts(Exact(value, None, uncertainty, magnitude, terms, zero, None, None), sums.doubts)

    def single_expected(self, column: Tensor, x: Tensor, scale: float, zero: Tensor, doubt: Tensor) -> Parts:
        """Exact parts of columns ``(c, O)`` at ``x*scale`` for mantissas x ``(c,)``."""
        doubts = doubt * x[:, None] * scale
        if column.is_complex():
            value = column * x[:, None] * scale + zero.to(column.dtype)
            size = 4 * (column.abs() * x[:, None] * scale + zero.abs().double())
            terms = 3.0 * ((column != 0) | (doubt > 0)) + 3.0 * (zero != 0) + 2
            return self._parts(Exact(value, None, 2.0**-51 * size, size, terms, zero, None, None), doubts)
        high, low = two_product(column, x[:, None])
        bias = zero.double().expand(column.shape)
        high, error = two_sum(high * scale, bias)
        high, low = fast_two_sum(high, error + low * scale)
        size = column.abs() * x[:, None] * scale + bias.abs()
        terms = ((column != 0) | (doubt > 0)).double() + (bias != 0)
        uncertainty = torch.where(terms > 1, 2.0**-100 * size + 2.0**-1072, 0.0)
        return self._parts(Exact(high, low, uncertainty, size, terms, zero, None, None), doubts)

    def outside(self, y: Tensor, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
        """Where results lie outside the envelope, with its ends (of the real part)."""
        arithmetic = self.arithmetic
        results = (y.real, y.imag) if y.is_complex() else (y,)
        found = [judge(part, exact, arithmetic) for part, exact in zip(results, parts, strict=True)]
        wrong = torch.stack([~f.inside for f in found]).any(0)
        undecided = torch.stack([f.undecided for f in found]).any(0)
        return wrong & ~undecided, found[0].lower, found[0].upper

    def _parts(self, exact: Exact, doubts: Tensor) -> Parts:
        """Real and imaginary part, or the real value alone."""
        value, zero = exact.value, exact.bias
        assert zero is not None
        ends = [(value.real, zero.real), (value.imag, zero.imag)] if value.is_complex() else [(value, zero)]
        return tuple(
            self._doubted(replace(exact, value=part, bias=bias.double(), plain=len(ends) == 1), doubts, 0.0)
            for part, bias in ends
        )

    def _doubted(self, exact: Exact, doubts: Tensor, terms: Tensor | float) -> Exact:
        """The same with weights, and a subnormal bias, that are certain to within a doubt only."""
        flushed = self.arithmetic.flushes_inputs
        doubts = doubts + 2 * format_of(self.dtype).min_normal if flushed else doubts
        return replace(
            exact,
            uncertainty=exact.uncertainty + 1.001 * doubts,
            magnitude=exact.magnitude + 1.001 * doubts,
            terms=exact.terms + terms,
            subnormal=None,
            fewest=0,
            reach=math.inf,
        )


class AffineTest:
    """Tries to refute that candidate and reference are affine, and right kernels of the weights that were read.

    Attributes:
        sums: Of each side by its name; empty between two plain layers, which need no test.
        not_affine: Which side first gave a result that no affine map gives, and where; or None.
        outside_envelope: Which side first gave a result that no right kernel gives, where the other gave another one.
    """

    def __init__(self, sides: tuple[Side, Side], zeros: list[Tensor], inputs: Superposition, rows: int) -> None:
        self.sides, self.zeros, self.inputs, self.rows = sides, zeros, inputs, rows
        layers = all(side.layer is not None for side in sides)
        self.sums = {} if layers else {side.name: inputs.blank(len(zeros[0])) for side in sides}
        self.not_affine: str | None = None
        self.outside_envelope: str | None = None

    def check_lines(
        self, side: Side, near: Tensor, column: Tensor, doubt: Tensor, columns: Tensor, scale: float
    ) -> None:
        """Results ``near`` at e_i, for complex also at i*e_i, lie on the line through those at 0 and -scale*e_i."""
        zero = widened(self.zeros[self.sides.index(side)])
        for unit, y in zip((1, 1j), near, strict=False):
            expected = zero + unit * column
            bound = self.inputs.bound(1, (column.abs() + doubt + zero.abs()).amax(1, keepdim=True))
            found = ((widened(y) - expected).abs() > bound).nonzero()
            if len(found) and self.not_affine is None:
                row, output = found[0].tolist()
                index = int(columns[row])
                self.not_affine = (
                    f"{side.name} is no affine map: output {output} is {_short(y[row, output])} at e{index}, "
                    f"but its values at 0 and -{scale:.3g}*e{index} make {_short(expected[row, output])}"
                )

    def check_mantissas(
        self, one_hot: Tensor, columns: Tensor, read: Sequence[Tensor], doubts: Sequence[Tensor], scale: float
    ) -> None:
        """Run every column at a full mantissa, far out on the positive side."""
        x = self.inputs.mantissas[columns]
        rows = one_hot * (x * scale).to(one_hot.dtype)[:, None]
        results = [side.run(rows) for side in self.sides]
        for side, y, zero, column, doubt in zip(self.sides, results, self.zeros, read, doubts, strict=True):
            if side.layer is None:
                size = (column.abs() + doubt) * x[:, None] * scale + widened(zero).abs()
                bound = self.inputs.bound(1, size.amax(1, keepdim=True))
                self._check_affine(side, rows, y, column * x[:, None] * scale + widened(zero), bound)
            if self._is_single(side):
                parts = self.inputs.single_expected(column, x, scale, zero, doubt)
                self._check_envelope(side, rows, y, parts, results)

    def check_sums(self) -> None:
        """Run dense rows, and rows of few entries of any size: each gives the sum of what its entries give alone."""
        x = self.inputs.dense
        results = [side.run(x) for side in self.sides]
        for side, y, zero in zip(self.sides, results, self.zeros, strict=True):
            sums = self.sums[side.name]
            alone = torch.cat([side.run(row[None]) for row in x])
            if self.inputs.inexact:
                expected = sums.total + widened(zero)
                bound = self.inputs.bound_of_rows(x, sums.size + sums.doubts + widened(zero).abs())
            else:
                expected, bound = (sums.total + zero).to(self.inputs.dtype), torch.zeros(())
            if side.layer is None or not self.inputs.inexact:
                self._check_affine(side, x, y, expected, bound)
                self._check_affine(side, x, alone, expected, bound)
            if self.inputs.inexact and self._is_single(side):
                self._check_envelope(side, x, y, self.inputs.dense_expected(sums, zero), results)
        for start in range(0, len(self.inputs.few), self.rows):
            self._check_few(slice(start, start + self.rows))

    def check_rows(self, x: Tensor, sums: dict[str, Sums]) -> None:
        """Run rows of a floating or complex dtype, of which each side's columns make ``sums``."""
        results = [side.run(x) for side in self.sides]
        for side, y, zero in zip(self.sides, results, self.zeros, strict=True):
            found = sums[side.name]
            if side.layer is None:
                bound = self.inputs.bound_of_rows(x, found.size + found.doubts + widened(zero).abs())
                self._check_affine(side, x, y, found.total + widened(zero), bound)
            if self._is_single(side):
                self._check_envelope(side, x, y, self.inputs.dense_expected(found, zero), results)

    def _check_few(self, some: slice) -> None:
        few, n = self.inputs.few[some], self.inputs.n
        x = few.new_zeros(len(few), n).index_copy_(1, self.inputs.kept, few)
        results = [side.run(x) for side in self.sides]
        for side, y, zero in zip(self.sides, results, self.zeros, strict=True):
            expected, size, parts = self.inputs.few_expected(self.sums[side.name], zero, some)
            if side.layer is None:
                self._check_affine(side, x, y, expected, self.inputs.bound_of_rows(x, size))
            if self._is_single(side):
                self._check_envelope(side, x, y, parts, results)

    def _check_affine(self, side: Side, x: Tensor, y: Tensor, expected: Tensor, bound: Tensor) -> None:
        """Note the first result further than ``bound`` from what the entries of its input give one by one."""
        inexact = self.inputs.inexact
        # Where sums may overflow, the bound is infinite, and right kernels may return anything.
        found = (
            ~((widened(y) - expected).abs() <= bound) & (bound < torch.inf) if inexact else y != expected
        ).nonzero()
        if self.not_affine is None and len(found):
            row, output = found[0].tolist()
            self.not_affine = (
                f"{side.name} is no affine map of single rows: output {output} is {_short(y[row, output])} at an input "
                f"with {counted(int(x[row].count_nonzero()), 'entry', 'entries')}, whose values one by one add up to "
                f"{_short(expected[row, output])}"
            )

    def _check_envelope(self, side: Side, x: Tensor, y: Tensor, parts: Parts, results: list[Tensor]) -> None:
        """Note the first result outside the envelope, among those where the two sides differ."""
        if self.outside_envelope is not None or bool(same_values(*results).all()):
            return
        wrong, lower, upper = self.inputs.outside(y, parts)
        found = (wrong & ~same_values(*results)).nonzero()
        if len(found):
            row, output = found[0].tolist()
            self.outside_envelope = (
                f"{side.name} gives {_short(y[row, output])} for output {output} at an input with "
                f"{counted(int(x[row].count_nonzero()), 'entry', 'entries')}, where right kernels of the weights that "
                f"were read give {_short(lower[row, output])} to {_short(upper[row, output])}"
            )

    def _is_single(self, side: Side) -> bool:
        """Whether one envelope holds a side: each input meets each output once, in one sum."""
        return not repeats_inputs(side.layer) if side.layer is not None else self.structures[side.name].single

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """What each side calls, by its name."""
        x, found = self.inputs.dense, {}
        for side in self.sides:
            runs = [lambda x=x[:rows], side=side: side.run(x) for rows in (side.function.batch or 2, 2)]
            found[side.name] = structure_of(*runs)  # of one call: a function may take one row at a time
        return found

    def convolves(self, side: Side) -> bool:
        """Whether a side is, or calls, a convolution, as far as can be seen."""
        if side.layer is not None:
            return not isinstance(side.layer, nn.Linear)
        return self.structures[side.name].convolves


def widened(y: Tensor) -> Tensor:
    """The same values in float64 or complex128."""
    return y.to(torch.complex128 if y.is_complex() else torch.float64)


def without_bias(side: Side) -> dict[str, Tensor]:
    """What runs a plain layer with zeros in place of its bias."""
    bias = side.call.bias
    return {} if bias is None else {"bias": torch.zeros_like(bias, requires_grad=False)}


def _short(value: Tensor) -> str:
    return f"{value.item():.6g}"
