"""Is a map what its columns say? Inputs that no one-hot probe is, held against what the columns that were read allow.

Three kinds. Dense rows, integers and normals, whose sums are carried along while columns are read. Rows of one to four
entries on a few columns that are kept, with random mantissas of full length, both signs, and sizes from 2^-20 to 2^20:
there a bend, or an input that is rounded on its way, is not drowned by other terms. And every column once more, at
``+m_i*2^(K-1)`` with a random full mantissa ``m_i``.

Two judgements. A generous bound, in units of what the row holds, which no affine map of a few layers breaks; and for
what is one layer (``equiv.certificate.operations``) the envelope around the weights that were read. Integers are exact modulo
``2**bits`` and must agree to the bit, on inputs of the whole range.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from equiv.numerics import Exact, Reference, declared, fast_two_sum, format_of, judge, two_product, two_sum

_SLACK = 64  # functions may round inside more often than one layer does; what is no affine map is off by far more
_KEPT = 16  # columns that rows of few entries lie on
_REACH = 20  # exponents of such rows


class Superposition:
    """The inputs for maps from n features of one dtype, and what must come of them.

    Args:
        n: Features.
        dtype: Of the inputs.
        device: Of the inputs.
        seed: Of the inputs.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self.n, self.dtype, self.device = n, dtype, device
        self.floating = dtype.is_floating_point or dtype.is_complex
        generator = torch.Generator("cpu").manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
        self.dense = self._dense(generator).to(device)
        self.mantissas, self.kept, self.few = self._some(generator) if self.floating else self._none()

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _dense(self, generator: torch.Generator) -> Tensor:
        """Exact inputs of both signs, dense and sparse, large and small, and others of the whole range: ``(R, n)``."""
        signs = torch.randint(0, 2, (6, self.n), generator=generator, device="cpu") * 2.0 - 1.0
        signs[0], signs[1] = 1.0, -1.0
        signs[2] *= 64.0
        if self.floating:
            signs[3] /= 64.0
        for row in (4, 5):
            keep = torch.randperm(self.n, generator=generator, device="cpu")[:4]
            few = torch.zeros(self.n, device="cpu")
            few[keep] = signs[row, keep] * torch.randint(1, 8, (len(keep),), generator=generator, device="cpu")
            signs[row] = few
        if self.dtype == torch.uint8:
            signs = signs.abs()
        if not self.floating:
            return torch.cat([signs.to(self.dtype), *self._whole_range(generator)])
        normals = torch.randn(3, self.n, generator=generator, dtype=torch.float64, device="cpu")
        normals[2] *= 2.0 ** torch.randint(-8, 9, (self.n,), generator=generator, device="cpu")
        if self.dtype.is_complex:
            other = torch.randn(3, self.n, generator=generator, dtype=torch.float64, device="cpu")
            return torch.cat([(signs * (1 - 2j)).to(self.dtype), torch.complex(normals, other).to(self.dtype)])
        return torch.cat([signs.to(self.dtype), normals.to(self.dtype)])

    def _whole_range(self, generator: torch.Generator) -> list[Tensor]:
        """Four dense rows, and four of one to four entries, of all integers that the dtype holds."""
        info = torch.iinfo(self.dtype)
        bits = torch.randint(-(2**63), 2**63 - 1, (8, self.n), generator=generator, device="cpu")
        rows = (bits & 0xFF if info.min == 0 else bits >> (64 - info.bits)).to(self.dtype)
        for row in range(4, 8):
            gone = torch.randperm(self.n, generator=generator, device="cpu")[row - 3 :]
            rows[row, gone] = 0
        rows[7][rows[7] != 0] = info.max
        return [rows]

    def _some(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Mantissas ``(n,)`` in [1, 2), float64; the columns that are kept ``(m,)``; rows on these ``(R, m)``."""
        fmt = format_of(self.dtype)
        mantissas = self._mantissas((self.n,), generator)
        inner = 1 + torch.randperm(max(0, self.n - 2), generator=generator, device="cpu")[: _KEPT - 2]
        kept = torch.cat([torch.tensor(sorted({0, self.n - 1}), device="cpu"), inner]).sort().values
        low = max(-_REACH, math.frexp(fmt.min_normal)[1] - 1)
        high = min(_REACH, math.frexp(fmt.max)[1] - 2)
        rows = []
        for k, exponent in enumerate(range(low, high + 1, 2)):
            for sign in (1.0, -1.0):
                one = torch.zeros(len(kept), dtype=torch.float64, device="cpu")
                one[(2 * k + (sign < 0)) % len(kept)] = sign * 2.0**exponent
                rows.append(one)
            some = torch.zeros(len(kept), dtype=torch.float64, device="cpu")
            chosen = torch.randperm(len(kept), generator=generator, device="cpu")[: 2 + k % 3]
            signs = 2 * torch.randint(0, 2, (len(chosen),), generator=generator, device="cpu") - 1
            some[chosen] = signs.double() * 2.0**exponent
            rows.append(some)
        values = torch.stack(rows)
        few = values * self._mantissas(values.shape, generator)
        if self.dtype.is_complex:
            few = torch.complex(few, values.flip(1) * self._mantissas(values.shape, generator))
        return mantissas.to(self.device), kept.to(self.device), few.to(self.dtype).to(self.device)

    def _mantissas(self, shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Numbers in [1, 2) of the dtype's whole length: odd in their last bit."""
        places = format_of(self.dtype).precision - 1
        odd = torch.randint(0, 2 ** (places - 1), shape, generator=generator, device="cpu") * 2 + 1
        return 1 + odd.double() * 2.0**-places

    def _none(self) -> tuple[Tensor, Tensor, Tensor]:
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        return nothing, nothing, torch.zeros(0, 0, dtype=self.dtype, device=self.device)

    @property
    def count(self) -> int:
        """How many rows there are, those of single columns aside."""
        return len(self.dense) + len(self.few)

    # --- sums ---------------------------------------------------------------------------------------------------------

    def blank(self, outputs: int) -> list[Tensor]:
        """What is carried along: sums, their magnitudes, terms and doubts on dense rows; kept columns, their doubts."""
        wide = (torch.complex128 if self.dtype.is_complex else torch.float64) if self.floating else torch.int64
        rows, kept = (len(self.dense), outputs), (len(self.kept), outputs)
        if not self.floating:
            return [torch.zeros(rows, dtype=wide, device=self.device)]
        kinds = ((rows, wide), *[(rows, torch.float64)] * 3, (kept, wide), (kept, torch.float64))
        return [torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in kinds]

    def add(self, sums: list[Tensor], columns: Tensor, column: Tensor, doubt: Tensor | None = None) -> None:
        """Take in columns ``(c, O)`` as they were read, each weight certain to within ``doubt``."""
        x, column = self.dense[:, columns].to(sums[0].dtype), column.to(sums[0].dtype)
        sums[0] += x @ column
        if doubt is None:
            return
        _, size, terms, doubts, kept, kept_doubts = sums
        size += (x.abs() @ column.abs()).to(size.dtype)
        terms += (x != 0).double() @ ((column != 0) | (doubt > 0)).double()
        doubts += (2 if x.is_complex() else 1) * (x.abs() @ doubt)
        where = (self.kept[:, None] == columns).nonzero()
        kept[where[:, 0]], kept_doubts[where[:, 0]] = column[where[:, 1]], doubt[where[:, 1]]

    def hidden(self, column: Tensor, doubt: Tensor) -> Tensor:
        """How far weights may be from what was read: ``doubt``, and what kernels that flush subnormals take away."""
        if not declared(self.dtype, self.device).flushes_inputs:
            return doubt
        tiny = format_of(self.dtype).min_normal
        return torch.where(column.abs() < tiny, doubt + 2 * tiny, doubt)

    # --- judgements ---------------------------------------------------------------------------------------------------

    def bound(self, terms: Tensor | int, expected: Tensor, size: Tensor) -> Tensor:
        """Generous rounding of a few layers one after the other, in units of what the whole row holds."""
        arithmetic = declared(self.dtype, self.device)
        u, out = arithmetic.u, format_of(self.dtype).u
        unit = _SLACK * (torch.as_tensor(terms, device=size.device) + 8) * u + 16 * (out + arithmetic.relative)
        found = unit * size + arithmetic.underflow * _SLACK * (self.n + 8) + 8 * format_of(self.dtype).min_normal
        return found.expand(expected.shape)

    def spread(self, rows: Tensor) -> Tensor:
        """Rows on the kept columns as inputs ``(R, n)``."""
        return rows.new_zeros(len(rows), self.n).index_copy_(1, self.kept, rows)

    def few_expected(self, sums: list[Tensor], zero: Tensor, some: slice) -> tuple[Tensor, Tensor, tuple[Exact, ...]]:
        """Values, sizes and exact parts of some of the rows of few entries."""
        kept, doubts = sums[4], sums[5]
        x, bias = self.few[some].to(kept.dtype), zero.to(kept.dtype)
        reference = Reference(x, kept.T.contiguous(), bias)
        more = (x.abs() @ doubts) * (2 if x.is_complex() else 1)
        seen = ((x != 0).double() @ ((kept == 0) & (doubts > 0)).double()) * (2 if x.is_complex() else 1)
        parts = tuple(self._doubted(part, more, seen) for part in reference.parts)
        return x @ kept + bias, x.abs() @ kept.abs(), parts

    def dense_expected(self, sums: list[Tensor], zero: Tensor) -> tuple[Exact, ...]:
        """Exact parts of the dense rows; the sums themselves are known as float64 knows them."""
        total, size, terms, doubts = sums[:4]
        value = total + zero.to(total.dtype)
        magnitude, terms = size + zero.abs().double(), terms + (zero != 0)
        if value.is_complex():
            magnitude, terms = 2 * magnitude, torch.where(terms > 0, 2 * terms + 10, 0.0)
        uncertainty = (2 * self.n + 8) * 2.0**-52 * magnitude
        return self._parts(value, None, uncertainty, magnitude, terms, zero, doubts)

    def single_expected(
        self, column: Tensor, x: Tensor, scale: float, zero: Tensor, doubt: Tensor
    ) -> tuple[Exact, ...]:
        """Exact parts of columns ``(c, O)`` at ``x*scale`` for mantissas x ``(c,)``."""
        if column.is_complex():
            value = column * x[:, None] * scale + zero.to(column.dtype)
            size = 2 * (column.abs() * x[:, None] * scale + zero.abs().double())
            terms = 2.0 * ((column != 0) | (doubt > 0)) + 2.0 * (zero != 0) + 10
            return self._parts(value, None, 2.0**-51 * size, size, terms, zero, doubt * x[:, None] * scale)
        high, low = two_product(column, x[:, None])
        bias = zero.double().expand(column.shape)
        high, error = two_sum(high * scale, bias)
        high, low = fast_two_sum(high, error + low * scale)
        size = column.abs() * x[:, None] * scale + bias.abs()
        terms = ((column != 0) | (doubt > 0)).double() + (bias != 0)
        uncertainty = torch.where(terms > 1, 2.0**-100 * size + 2.0**-1072, 0.0)
        return self._parts(high, low, uncertainty, size, terms, zero, doubt * x[:, None] * scale)

    def outside(self, y: Tensor, parts: tuple[Exact, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Where results lie outside the envelope, with its ends (of the part that does)."""
        arithmetic = declared(self.dtype, self.device)
        results = (y.real, y.imag) if y.is_complex() else (y,)
        found = [judge(part, exact, arithmetic) for part, exact in zip(results, parts, strict=True)]
        first = found[0]
        wrong = torch.stack([~f.inside for f in found]).any(0)
        undecided = torch.stack([f.undecided for f in found]).any(0)
        return wrong & ~undecided, first.lower, first.upper

    def _parts(
        self,
        value: Tensor,
        low: Tensor | None,
        uncertainty: Tensor,
        magnitude: Tensor,
        terms: Tensor,
        zero: Tensor,
        doubts: Tensor,
    ) -> tuple[Exact, ...]:
        ends = [(value.real, zero.real), (value.imag, zero.imag)] if value.is_complex() else [(value, zero)]
        plain = len(ends) == 1
        return tuple(
            self._doubted(
                Exact(part, low, uncertainty, magnitude, terms, bias.double(), None, None, plain=plain), doubts, 0.0
            )
            for part, bias in ends
        )

    def _doubted(self, exact: Exact, doubts: Tensor, terms: Tensor | float) -> Exact:
        """The same with weights, and a subnormal bias, that are certain to within a doubt only."""
        flushed = declared(self.dtype, self.device).flushes_inputs
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
