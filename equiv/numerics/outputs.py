"""Judge outputs of any dtype, always as one `Assessment`: floats by envelope, complex by parts, integers exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from equiv.arguments import check_dtype, check_tensor, refusal
from equiv.dtypes import FLOATS
from equiv.errors import EquivError
from equiv.numerics.arithmetic import Arithmetic, declared
from equiv.numerics.envelope import Envelope, Judgement, envelope, judge
from equiv.numerics.exact import Classes, Exact, exact_affine
from equiv.numerics.formats import format_of, subnormals_kept
from equiv.numerics.reference import exact_integers
from equiv.numerics.roundings import Rounding


@dataclass(frozen=True)
class Assessment:
    """Outputs ``(N, O)`` of one kernel against what right kernels may give.

    Attributes:
        inside: Bool; the output is one that a right kernel may give, or undecided.
        undecided: Bool; right kernels may disagree here.
        ratio: Float64; error as a fraction of the envelope, at most 1 inside (complex: the worse part).
        exact: Exact values: float64, complex128, or the dtype itself for integers.
        lower: Smallest right output (complex: both parts), as ``exact``.
        upper: Largest right output, as ``exact``.
        magnitude: ``S``, the sum of the terms' magnitudes, float64; zeros for integers.
        terms: ``K``, the number of terms that are not zero, float64; zeros for integers. A complex term counts
            once, though it is several real products.
    """

    inside: Tensor
    undecided: Tensor
    ratio: Tensor
    exact: Tensor
    lower: Tensor
    upper: Tensor
    magnitude: Tensor
    terms: Tensor

    @cached_property
    def all_inside(self) -> bool:
        """Whether no output is outside."""
        return bool(self.inside.all())

    @cached_property
    def any_undecided(self) -> bool:
        """Whether right kernels may disagree somewhere."""
        return bool(self.undecided.any())

    @cached_property
    def max_ratio(self) -> float:
        """The largest error as a fraction of the envelope; 0.0 without outputs."""
        return float(self.ratio.max()) if self.ratio.numel() else 0.0


class Reference:
    """The exact outputs of one layer on one input, computed once and used to assess any number of kernels.

    Args:
        x: Rows ``(N, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None. All three of one dtype of ``equiv.numerics.DTYPES``.
        gradient: The result is a gradient. A complex convolution's is taken through its three real products.

    Example:
        >>> from equiv.numerics import declared
        >>> x, w = torch.rand(2, 8), torch.rand(3, 8)
        >>> Reference(x, w).assess(x @ w.T, declared(torch.float32)).all_inside
        True
    """

    @subnormals_kept()
    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gradient: bool = False) -> None:
        x, weight = x.detach().resolve_conj(), weight.detach().resolve_conj()
        bias = None if bias is None else bias.detach().resolve_conj()
        self.dtype, self._gradient = x.dtype, gradient
        self.parts: tuple[Exact, ...] = ()
        self._kept: tuple[Arithmetic, tuple[Envelope, ...]] | None = None
        self._last: tuple[Arithmetic, Tensor, Assessment] | None = None
        self._given = x, weight, bias
        self._rounded: tuple[object, Reference] | None = None
        if x.is_complex():
            self._terms = _nonzero_terms(x, weight, bias)
            self.parts = _complex_parts(x, weight, bias, self._terms, gradient=gradient)
            self.value = torch.complex(self.parts[0].value, self.parts[1].value)
        elif x.is_floating_point():
            self.parts = (exact_affine(x, weight, bias),)
            self.value = self.parts[0].value
        else:
            self.value = exact_integers(x, weight, bias).to(x.dtype)

    @subnormals_kept()
    def assess(self, result: Tensor, arithmetic: Arithmetic | None) -> Assessment:
        """Hold ``result`` ``(N, O)`` against the envelope; ``arithmetic`` is not used for integer dtypes."""
        result = result.detach().resolve_conj()
        if not self.parts:
            inside = result == self.value
            zeros = torch.zeros(inside.shape, dtype=torch.float64, device=inside.device)
            ratio = torch.where(inside, 0.0, torch.inf).double()
            return Assessment(inside, torch.zeros_like(inside), ratio, self.value, self.value, self.value, zeros, zeros)
        if arithmetic is None:
            raise TypeError("arithmetic is needed for floating and complex results")
        if arithmetic.operands is not None:
            return self._of_rounded(arithmetic.operands).assess(
                result, replace(arithmetic, operands=None, relative=0.0)
            )
        chosen = _relevant(arithmetic, self.parts[0].bias is not None, self.parts[0].classes is not None)
        if self._last is not None and self._last[0] == chosen:
            before = self._last[1]  # with equal entries, 0.0 equal to -0.0 and no NaN, a result is judged as before
            if before.dtype == result.dtype and torch.equal(before, result):
                return self._last[2]
        parts = (result.real, result.imag) if result.is_complex() else (result,)
        found = [
            judge(part, exact, chosen, within=within)
            for part, exact, within in zip(parts, self.parts, self._within(chosen), strict=True)
        ]
        if len(found) == 1:
            assessment = _assessment(found[0], self.parts[0])
        else:
            assessment = _joined(found, self.parts, self._terms)
        self._last = (chosen, result.clone(), assessment)  # a copy: a kernel may write its next result into this one
        return assessment

    @subnormals_kept()
    def is_attained(self, result: Tensor, arithmetic: Arithmetic) -> bool:
        """Whether every output is the exact value itself and none can overflow on the way.

        Such a result lies in any envelope, with an error of 0; nothing else needs to be computed. False means not
        known: call `assess`.
        """
        if len(self.parts) != 1 or arithmetic.operands is not None or arithmetic.results is not None:
            return False
        exact = self.parts[0]
        if exact.classes is not None or exact.low is not None or not exact.stays_below(arithmetic):
            return False
        return torch.equal(result.detach().double(), exact.value)

    def _of_rounded(self, operands: tuple[Rounding | None, ...]) -> Reference:
        """The reference of the same layer on operands that are rounded first; the last one is kept."""
        if self._rounded is None or self._rounded[0] != operands:
            pairs = zip(self._given, operands, strict=True)
            x, weight, bias = (v if v is None or rounding is None else rounding(v) for v, rounding in pairs)
            assert x is not None
            assert weight is not None
            self._rounded = operands, Reference(x, weight, bias, gradient=self._gradient)
        return self._rounded[1]

    def _within(self, arithmetic: Arithmetic) -> tuple[Envelope, ...]:
        """The envelopes of the parts; those asked for last are kept, as forms are mostly judged in one arithmetic."""
        if self._kept is None or self._kept[0] != arithmetic:
            around = zip(self.parts, self._of_parts(arithmetic), strict=False)
            self._kept = (arithmetic, tuple(envelope(exact, part) for exact, part in around))
        return self._kept[1]

    def _of_parts(self, arithmetic: Arithmetic) -> tuple[Arithmetic, Arithmetic]:
        """The arithmetic of a real and an imaginary part. From three products a relative error of products comes twice.

        That of ``(xr + xi)*(wr + wi)`` is up to ``relative*S3``, those of ``xr*wr`` and ``xi*wi`` once more together.
        """
        twice = replace(arithmetic, relative=2 * arithmetic.relative) if arithmetic.relative else arithmetic
        return (twice if self._gradient else arithmetic), twice


@lru_cache(maxsize=256)
def _relevant(arithmetic: Arithmetic, bias: bool, special: bool) -> Arithmetic:
    """The arithmetic without what does not matter: roundings of a bias that is not there, spreading of no infinity."""
    rounding = arithmetic.bias_rounding if bias else "once"
    return replace(
        arithmetic,
        name="",
        note="",
        measured=True,
        bias_rounding=rounding,
        infinity_spreads=arithmetic.infinity_spreads and special,
    )


def assess(result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, arithmetic: Arithmetic | None) -> Assessment:
    """One result ``(N, O)`` against the exact outputs of ``(weight, bias)`` on ``x``; see :class:`Reference`.

    Example:
        >>> x, w = torch.tensor([[1, 2]]), torch.tensor([[3, 4]])
        >>> assess(torch.tensor([[12]]), x, w, None, None).all_inside
        False
    """
    return Reference(x, weight, bias).assess(result, arithmetic)


def _assessment(found: Judgement, exact: Exact) -> Assessment:
    value = exact.value
    if exact.classes is not None:
        special = exact.classes.nan | exact.classes.plus_inf | exact.classes.minus_inf
        value = torch.where(special, found.lower, value)
    return Assessment(
        found.inside, found.undecided, found.ratio, value, found.lower, found.upper, exact.magnitude, exact.terms
    )


def _joined(found: list[Judgement], parts: tuple[Exact, ...], terms: Tensor) -> Assessment:
    """Both parts as one. Where one is undecided the other is: an overflow on the way to one part reaches the other."""
    real, imag = found
    undecided = real.undecided | imag.undecided
    return Assessment(
        (real.inside & imag.inside) | undecided,
        undecided,
        torch.where(undecided, 0.0, torch.maximum(real.ratio, imag.ratio)),
        torch.complex(parts[0].value, parts[1].value),
        torch.complex(real.lower, imag.lower),
        torch.complex(real.upper, imag.upper),
        parts[1].magnitude,
        terms,
    )


def _nonzero_terms(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    terms = (x != 0).double() @ (weight != 0).double().T
    return terms if bias is None else terms + (bias != 0)


def _complex_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None, terms: Tensor, *, gradient: bool
) -> tuple[Exact, Exact]:
    """Real and imaginary part as real sums of 2n products, with bounds that also hold for three real products.

    torch's complex convolution computes ``a = conv(xr, wr)``, ``b = conv(xi, wi)``, ``c = conv(xr + xi, wr + wi)`` and
    returns ``(a - b) + (c - a - b)i``: the imaginary part is as inexact as sums of ``(|wr|+|wi|)(|xr|+|xi|)``. Autograd
    goes back through the same three: ``gr*wr + gi*wi`` comes as ``(gr - gi)*wr + gi*(wr + wi)``, so both parts of a
    gradient are.
    """
    xr, xi, wr, wi = x.real, x.imag, weight.real, weight.imag
    br, bi = (None, None) if bias is None else (bias.real, bias.imag)
    real = exact_affine(torch.cat([xr, -xi], 1), torch.cat([wr, wi], 1), br)
    imag = exact_affine(torch.cat([xr, xi], 1), torch.cat([wi, wr], 1), bi)
    sums_x, sums_w, sums_b = _sum_of_parts(x), _sum_of_parts(weight), None if bias is None else _sum_of_parts(bias)
    classes = _complex_classes(sums_x, sums_w, sums_b, x.dtype)
    if classes is not None:
        sums_x, sums_w = _sum_of_parts(x, finite=True), _sum_of_parts(weight, finite=True)
        sums_b = None if bias is None else _sum_of_parts(bias, finite=True)
    magnitude = sums_x @ sums_w.T
    if sums_b is not None:
        magnitude = magnitude + sums_b
    uncertainty = real.uncertainty + imag.uncertainty
    subnormal: Tensor | None = None
    lost = [_subnormal_parts(t) for t in (x, weight, bias) if t is not None]
    if any(bool(part.any()) for part in lost):
        subnormal = lost[0] @ sums_w.T + sums_x @ lost[1].T
        subnormal = subnormal if bias is None else subnormal + lost[2]
    widest = replace(
        imag,
        uncertainty=uncertainty,
        subnormal=subnormal,
        classes=classes,
        plain=False,
        terms=torch.where(terms > 0, 2 * terms + 10, 0.0),
        magnitude=magnitude,
        fewest=0,
        reach=math.inf,
    )
    other = replace(widest, value=real.value, low=real.low, bias=real.bias)
    if gradient:
        return other, widest
    terms = torch.where(terms > 0, 2 * terms + 2, 0.0)
    return replace(other, terms=terms, magnitude=real.magnitude, subnormal=real.subnormal), widest


def _subnormal_parts(values: Tensor) -> Tensor:
    """What flushing may take from the factors of three real products: subnormal parts, sums and differences of parts.

    Normal parts of opposite sign can have a subnormal sum. Float64, elementwise.
    """
    real, imag, least = values.real.double(), values.imag.double(), format_of(values.dtype).min_normal
    made = (real.abs(), imag.abs(), (real + imag).abs(), (real - imag).abs())
    return sum((torch.where(size < least, size, 0.0) for size in made), torch.zeros_like(real))


def _complex_classes(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Classes | None:
    """Complex products with NaN or infinite parts are not settled between right kernels: they are undecided.

    Nor are those whose parts overflow when they are added, as the three real products begin by doing; the infinity then
    reaches both parts of the result, even through a factor of zero. Takes what :func:`_sum_of_parts` gives.
    """
    largest = format_of(dtype).max
    bad_x, bad_w = (~(sizes <= largest) for sizes in (x, weight))  # True for NaN
    bad_b = torch.zeros(len(weight), dtype=torch.bool, device=x.device) if bias is None else ~(bias <= largest)
    if not (bool(bad_x.any()) or bool(bad_w.any()) or bool(bad_b.any())):
        return None
    touched = bad_x.any(1)[:, None] | bad_w.any(1)[None, :] | bad_b[None, :]
    nothing = torch.zeros_like(touched)
    return Classes(nothing, nothing, nothing, touched, nothing)


def _sum_of_parts(values: Tensor, *, finite: bool = False) -> Tensor:
    """``|real| + |imag|`` of complex values, float64; ``finite`` counts parts that are not as 0."""
    real, imag = values.real.double().abs(), values.imag.double().abs()  # a sum over a dimension of 2 is slow
    return real.nan_to_num(0.0, 0.0) + imag.nan_to_num(0.0, 0.0) if finite else real + imag


def tolerance(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, arithmetic: Arithmetic | None = None) -> Tensor:
    """How far apart two right kernels may be, output by output: the width of the envelope, float64 ``(N, O)``.

    Divide both results by it and compare with ``rtol=0, atol=1`` to use it in ``torch.testing.assert_close``. Infinite
    where right kernels may overflow. ``equiv.compare`` judges more sharply, since it knows the exact result.

    Args:
        x: ``(N, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None. All three of one floating dtype.
        arithmetic: By default what is declared for the dtype and device of ``x``.

    Example:
        >>> x, w = torch.ones(1, 1024), torch.ones(1, 1024)
        >>> bound = 2 * 1024 * 2**-24 * 1024  # E = K*u*S on either side, and the rounding of both ends
        >>> bound <= tolerance(x, w).item() < 1.01 * bound
        True
    """
    _check_layer(x, weight, bias)
    if arithmetic is not None and not isinstance(arithmetic, Arithmetic):
        advice = "pass what equiv.numerics.declared(dtype) returns, or leave it out"
        raise refusal("arithmetic", "an equiv.numerics.Arithmetic", arithmetic, advice)
    reference = Reference(x.cpu(), weight.cpu(), None if bias is None else bias.cpu())
    found = reference.assess(reference.value.to(x.dtype), arithmetic or declared(x.dtype, x.device))
    width = torch.where(found.undecided, torch.inf, found.upper - found.lower).nan_to_num(torch.inf, torch.inf)
    return width.clamp(min=format_of(x.dtype).min_subnormal)


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuse what is not rows, weight and bias of one real floating layer."""
    check_dtype("x", check_tensor("x", x).dtype, FLOATS, "integers are exact, complex results go to equiv.compare")
    for name, value in (("x", x), ("weight", weight), ("bias", x if bias is None else bias)):
        check_dtype(name, check_tensor(name, value).dtype, (x.dtype,), "convert it to the dtype of x")
    if x.ndim != 2:
        raise EquivError(f"x: expected rows (N, n), got shape {tuple(x.shape)}; reshape it to (-1, n)")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        wanted = f"weight: expected shape (O, {x.shape[1]})"
        raise EquivError(f"{wanted}, got {tuple(weight.shape)}; flatten a kernel with weight.flatten(1)")
    if bias is not None and bias.shape != weight.shape[:1]:
        wanted = f"bias: expected shape ({len(weight)},), one entry per row of weight"
        raise EquivError(f"{wanted}, got {tuple(bias.shape)}; pass the bias of that layer")
