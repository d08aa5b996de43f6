"""What was measured of a kernel's arithmetic: one finding for each property, and what follows from them.

From the findings follow an :class:`~equiv.numerics.Arithmetic`, and a list of what is weaker than was declared. They
are found in ``equiv.numerics.measuring.measure``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from equiv import pages
from equiv.dtypes import dtype_name
from equiv.numerics.arithmetic import Arithmetic, accumulator_of
from equiv.numerics.formats import Format, format_of
from equiv.numerics.measuring.fprev import Order
from equiv.pictures import in_notebook

if TYPE_CHECKING:
    from equiv.pictures import Picture
from equiv.pages import Cell, Table, finding_page, picture_of
from equiv.text import visible

T = TypeVar("T")


@dataclass(frozen=True)
class Finding(Generic[T]):
    """What was found of one property of a kernel.

    Attributes:
        value: The property; None where the probes cannot tell.
        evidence: The observation behind it, in words.

    Example:
        >>> Finding(24, "(1 + 2^-23) * 1 keeps its last bit").value
        24
    """

    value: T | None
    evidence: str


@dataclass(frozen=True)
class Measured:
    """The arithmetic of one kernel at one size, layout and dtype, as small probes found it.

    Bits are significant bits, the implicit one included: 24 is float32, 11 TF32 or float16, 8 bfloat16, 53 float64.

    Attributes:
        subject: What was measured, in words.
        dtype: Of input, weight and bias.
        output: Dtype of the result.
        size: ``(rows, out_features, in_features)``.
        operands: Bits of a factor that reach its product.
        operand_rounding: How factors lose the others: ``"nearest"``, ``"truncated"``; None where none are lost.
        operand_range: ``"full"``, or ``"float16"`` where larger factors overflow.
        product_error: Largest relative error of one product alone, its rounding to the result included.
        accumulator: Bits of the running sums.
        accumulator_rounding: ``"nearest"`` (ties to even), ``"nearest-away"``, ``"truncated"``, ``"up"``, ``"down"``,
            ``"away"`` or ``"mixed"``.
        reduction: Bits in which partial sums are combined: fewer than ``accumulator`` in a reduced-precision reduction.
        products: ``"exact"`` where the accumulator holds them, ``"fused"`` with the addition, or ``"rounded"`` before
            it: to the accumulator, or to the format of the factors where the accumulator could hold them.
        output_rounding: ``"nearest-even"``, ``"nearest-away"``, ``"truncated"``, ``"up"``, ``"down"``, ``"away"`` or
            ``"mixed"``.
        flushes_inputs: Subnormal factors or biases are treated as zero.
        flushes_sums: Subnormal products or partial sums become zero even where the result is normal.
        flushes_outputs: Subnormal results become zero.
        infinity_spreads: An infinite input makes outputs NaN that must be infinite, or touches other rows.
        bias_bits: Bits of the bias that reach the sum.
        bias_rounding: ``"once"``; ``"twice"`` where the sum is rounded to the result's format before the bias is added;
            ``"none"`` without a bias.
        bias_place: When the bias is added: ``"first"``, ``"between"`` or ``"last"``.
        order: The order of summation.
        declared: The arithmetic that was expected, and that stands in where nothing was found.
        calls: How often the kernel was called.

    Example:
        >>> from equiv.numerics import measure
        >>> run = torch.nn.functional.linear
        >>> found = measure(run, dtype=torch.float64, rows=1, out_features=1, in_features=4)
        >>> found.operands.value, found.agrees_with()
        (53, ())
    """

    subject: str
    dtype: torch.dtype
    output: torch.dtype
    size: tuple[int, int, int]
    operands: Finding[int]
    operand_rounding: Finding[str]
    operand_range: Finding[str]
    product_error: Finding[float]
    accumulator: Finding[int]
    accumulator_rounding: Finding[str]
    reduction: Finding[int]
    products: Finding[str]
    output_rounding: Finding[str]
    flushes_inputs: Finding[bool]
    flushes_sums: Finding[bool]
    flushes_outputs: Finding[bool]
    infinity_spreads: Finding[bool]
    bias_bits: Finding[int]
    bias_rounding: Finding[str]
    bias_place: Finding[str]
    order: Finding[Order]
    declared: Arithmetic
    calls: int

    @property
    def arithmetic(self) -> Arithmetic:
        """What to hold results of this kernel against; its ``note`` says where it is weaker than what was declared.

        Properties that could not be found are taken as declared. The bound stays one for any order of summation.
        """
        out, base = format_of(self.output), self.declared
        found = replace(
            base,
            name=f"{dtype_name(self.output)}, measured: {self._precision()}",
            output=self.output,
            relative=max(self._product_bound(), self._bias_bound()),  # each of its own part of S
            flushes_inputs=_either(self.flushes_inputs.value, base.flushes_inputs),
            flushes_outputs=_either(self.flushes_outputs.value, base.flushes_outputs),
            infinity_spreads=_either(self.infinity_spreads.value, base.infinity_spreads),
            measured=True,
        )
        if self.bias_rounding.value is not None:
            found = replace(found, bias_rounding="either" if self.bias_rounding.value == "twice" else "once")
        if self.output_rounding.value not in (None, "nearest-even"):
            found = replace(found, output_rounding="any")
        bits = self.accumulator.value
        if bits is not None:
            sums = _accumulator_format(bits, self.dtype)
            found = replace(found, u=2.0**-bits, accumulator_max=sums.max, underflow=sums.min_subnormal)
            reduced = self.reduction.value
            if reduced is not None and reduced < bits:
                found = replace(found, relative=found.relative + self._combinations() * 2.0**-reduced)
        else:
            found = replace(found, relative=max(found.relative, base.relative))
        if self.flushes_sums.value is True or self.flushes_inputs.value is True or self.flushes_outputs.value is True:
            found = replace(found, underflow=_accumulator_format(bits, self.dtype).min_normal)
        order = self.order.value
        many = order is not None and order.width > 2
        if many or self._is_directed:  # (1 + 2u)^K - 1 is below 4(K+16)u as long as K*u is below 1/2
            found = replace(found, factor=max(4.0, base.factor), extra_terms=max(16, base.extra_terms))
        elif self.accumulator_rounding.value is not None and order is not None:  # whichever way ties go
            found = replace(found, factor=1.0, extra_terms=0)
        if found.u > out.u:  # one term alone is rounded by more than the result's format
            found = replace(found, extra_terms=max(1, found.extra_terms))
        return replace(found, note=_note(self.agrees_with(base)))

    def agrees_with(self, declared: Arithmetic | None = None) -> tuple[str, ...]:
        """Where the kernel is weaker than ``declared`` (by default what was expected of it); empty where nowhere.

        A kernel that is more exact than declared agrees with what is declared.
        """
        base = self.declared if declared is None else declared
        return (*self._weaker_terms(base), *self._weaker_sums(base), *self._weaker_edges(base))

    def _weaker_terms(self, base: Arithmetic) -> Iterator[str]:
        """Factors, products and bias, before they are added."""
        p, bits = format_of(self.dtype).precision, self.operands.value
        if self._product_bound() > base.relative:
            if bits is not None and bits < p:
                name = _name_of(bits, self.operand_range.value)
                yield f"factors keep {bits} of {p} bits before they are multiplied ({name})"
            elif not self._rounds_products:
                yield f"a product alone is wrong by up to {self.product_error.value:.3g} of its size"
        if self._rounds_products and format_of(self.dtype).u > max(base.u, base.relative):
            yield f"products are rounded to {p} bits before they are added"
        if self._bias_bound() > base.relative:
            yield f"the bias keeps {self.bias_bits.value} of {min(p, format_of(self.output).precision)} bits"

    def _weaker_sums(self, base: Arithmetic) -> Iterator[str]:
        """Running sums, and how partial sums are combined."""
        sums, reduced = self.accumulator.value, self.reduction.value
        if sums is not None and 2.0**-sums > base.u:
            yield f"sums are kept in {sums} bits where {_bits(base.u)} are declared"
        if reduced is not None and (sums is None or reduced < sums) and 2.0**-reduced > max(base.u, base.relative / 9):
            yield f"partial sums are combined in {reduced} bits where {_bits(base.u)} are declared"
        if self._is_directed and base.factor < 2:
            way = str(self.accumulator_rounding.value)
            words = {"truncated": "truncated", "away": "rounded away from zero", "mixed": "rounded in mixed ways"}
            yield f"sums are {words.get(way, f'rounded {way}')} where rounding to nearest is declared"
        if self.flushes_sums.value and base.underflow < _accumulator_format(sums, self.dtype).min_normal:
            yield "subnormal products or partial sums become zero"

    def _weaker_edges(self, base: Arithmetic) -> Iterator[str]:
        """Results, and the values at the edges of the range."""
        if self.output_rounding.value not in (None, "nearest-even"):
            yield f"results are rounded {self.output_rounding.value}, not to nearest-even"
        if self.bias_rounding.value == "twice" and base.bias_rounding == "once":
            yield "the sum is rounded before the bias is added, and then again"
        if self.flushes_inputs.value and not base.flushes_inputs:
            yield f"subnormal inputs are treated as zero ({self.flushes_inputs.evidence})"
        if self.flushes_outputs.value and not base.flushes_outputs:
            yield "subnormal results become zero"
        if self.infinity_spreads.value and not base.infinity_spreads:
            yield f"an infinite input spreads ({self.infinity_spreads.evidence})"

    def to_html(self, *, about: Mapping[str, str] | None = None) -> str:
        """What was measured as one self-contained page of HTML, with its picture where matplotlib is installed.

        Args:
            about: What was measured, by name: it stands at the head of the page.

        Raises:
            EquivError: ``about`` is no mapping of words.
            MissingExtraError: jinja2 is not installed.
        """
        weaker = self.agrees_with()
        rows, outputs, n = self.size
        sizes = {"in_features": f"{n:,}", "out_features": f"{outputs:,}", "rows": f"{rows:,}"}
        return finding_page(
            pages.Finding(
                title="The arithmetic of a kernel",
                outcome="weaker than declared" if weaker else "as declared",
                explanation=self.subject,
                payload=self.to_dict(),
                facts={"dtype": dtype_name(self.dtype), **sizes, "calls": f"{self.calls:,}"},
                notes=[f"Weaker than declared: {text}." for text in weaker],
                tables=[self._table()],
                picture=picture_of(self),
            ),
            about=about,
        )

    def _table(self) -> Table:
        words = [(name, "" if one.value is None else _text(one.value), one.evidence) for name, one in self._findings()]
        lines = [("", [*map(Cell, line)]) for line in words]
        note = "What small probes found; empty where they cannot tell."
        return Table("Properties", note, ("property", "value", "evidence"), lines, left=3)

    def to_dict(self) -> dict[str, Any]:
        """All findings in JSON's types: ``{name: {"value", "evidence"}}``, sizes, dtypes, and the discrepancies."""
        found: dict[str, Any] = {
            "subject": self.subject,
            "dtype": dtype_name(self.dtype),
            "output": dtype_name(self.output),
            "rows": self.size[0],
            "out_features": self.size[1],
            "in_features": self.size[2],
            "calls": self.calls,
            "discrepancies": list(self.agrees_with()),
        }
        for name, finding in self._findings():
            value = finding.value
            if isinstance(value, Order):
                order = {"kind": value.kind, "block": value.block, "depth": value.depth, "width": value.width}
                value = {**order, "terms_probed": len(value.places), "sequence": list(value.sequence)}
            found[name] = {"value": value, "evidence": finding.evidence}
        return found

    def plot(self) -> Picture:
        """The order of summation as a tree.

        Returns:
            A :class:`matplotlib.figure.Figure` outside pyplot, with a description in ``.alt``;
            ``.savefig("order.svg")`` writes it.

        Raises:
            MissingExtraError: matplotlib is not installed (extra ``plot``).

        Example:
            >>> from equiv.numerics import measure
            >>> found = measure(torch.nn.functional.linear, dtype=torch.float32, rows=1, out_features=1, in_features=2)
            >>> found.plot().alt[:39]
            'ORDER OF SUMMATION: sequential, depth 1'
        """
        from equiv.pictures import of_measured

        return of_measured(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def __str__(self) -> str:
        rows, outputs, n = self.size
        lines = [f"{self.subject}: {rows} x {n} by {outputs} x {n} in {dtype_name(self.dtype)}, {self.calls:,} calls"]
        for name, finding in self._findings():
            value = "?" if finding.value is None else _text(finding.value)
            lines += textwrap.wrap(
                f"{value} ({finding.evidence})", 79, initial_indent=f"  {name:<21}", subsequent_indent=" " * 23
            )
        for text in self.agrees_with():
            lines += textwrap.wrap(text, 79, initial_indent="  weaker than declared ", subsequent_indent=" " * 23)
        return visible("\n".join(lines))

    def _findings(self) -> list[tuple[str, Finding[Any]]]:
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in pairs if isinstance(value, Finding)]

    def _precision(self) -> str:
        parts = []
        if self.operands.value is not None:
            parts.append(f"{self.operands.value}-bit factors")
        if self.accumulator.value is not None:
            parts.append(f"{self.accumulator.value}-bit sums")
        if self.reduction.value is not None and self.reduction.value != self.accumulator.value:
            parts.append(f"combined in {self.reduction.value} bits")
        return ", ".join(parts) or "nothing to find at this size"

    @property
    def _is_directed(self) -> bool:
        """Sums are rounded to one side, by up to two units instead of one."""
        return self.accumulator_rounding.value not in (None, "nearest", "nearest-away")

    @property
    def _rounds_products(self) -> bool:
        """Products that the sums could hold lose bits before they are added."""
        bits, p = self.accumulator.value, format_of(self.dtype).precision
        return self.products.value == "rounded" and (p < 24 if bits is None else bits >= 2 * p)

    def _bias_bound(self) -> float:
        """Error of the bias relative to it, before it is added; cut off at the worst."""
        bits = self.bias_bits.value
        whole = min(format_of(self.dtype).precision, format_of(self.output).precision)
        return 2.0 ** (1 - bits) if bits is not None and bits < whole else 0.0

    def _product_bound(self) -> float:
        """Largest relative error of a product before it is added, beyond the rounding of the accumulator."""
        bits = self.operands.value
        if bits is not None and bits < format_of(self.dtype).precision:
            one = 2.0**-bits if self.operand_rounding.value == "nearest" else 2.0 ** (1 - bits)
            return 2 * one + one * one
        error = self.product_error.value
        if error is not None and error > 2 * format_of(self.output).u:
            return 2 * error  # seen, not proven: factors are whole, but their products are not
        return 2 * format_of(self.dtype).u if self._rounds_products else 0.0  # to nearest or to one side

    def _combinations(self) -> int:
        """How often a partial sum is rounded until it is in the result: known from the order, else the documented 9."""
        order = self.order.value
        return 9 if order is None or order.kind != "blocked" or not order.block else order.total // order.block + 1


def _accumulator_format(bits: int | None, dtype: torch.dtype) -> Format:
    """The format whose range running sums of this many bits have; that of the dtype's accumulator if not known."""
    if bits is None:
        return accumulator_of(dtype)
    if bits <= 11 and dtype == torch.float16:
        return format_of(torch.float16)
    return format_of(torch.float64 if bits >= 53 else torch.float32)


def _either(found: bool | None, declared: bool) -> bool:
    return declared if found is None else found


def _bits(u: float) -> int:
    return round(-math.log2(u))


def _name_of(bits: int, reach: str | None) -> str:
    if bits == 8:
        return "bfloat16"
    if bits == 11:
        return "float16" if reach == "float16" else "TF32"
    return f"a format of {bits} bits"


def _note(discrepancies: tuple[str, ...]) -> str:
    if not discrepancies:
        return ""
    return "The measured arithmetic is weaker than the declared one: " + "; ".join(discrepancies) + "."


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
