"""Judge outputs of any dtype, always as one `Assessment`: floats by envelope, complex by parts, integers exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from equiv.arguments import check_tensor
from equiv.dtypes import COMPLEX, FLOATS
from equiv.numerics.arithmetic import Arithmetic, check_arithmetic, declared
from equiv.numerics.checks import check_device_of, check_layer, check_values
from equiv.numerics.complex_parts import apart, complex_affine
from equiv.numerics.envelope import Envelope, Judgement, envelope, judge, largest_ratio
from equiv.numerics.exact import Exact, real_affine
from equiv.numerics.formats import format_of, round_nearest, surely_bit_equal
from equiv.numerics.reference import exact_integers
from equiv.numerics.roundings import Rounding
from equiv.numerics.surroundings import subnormals_kept


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

    Example:
        >>> from equiv.numerics import assess, declared
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> found = assess(torch.tensor([[12.0]]), x, weight, None, declared(torch.float32))
        >>> found.inside.item(), found.exact.item()
        (False, 11.0)
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

    Example:
        >>> from equiv.numerics import declared
        >>> x, w = torch.rand(2, 8), torch.rand(3, 8)
        >>> Reference(x, w).assess(x @ w.T, declared(torch.float32)).all_inside
        True
    """

    @subnormals_kept()
    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        check_layer(x, weight, bias)
        x, weight = x.detach().resolve_conj(), weight.detach().resolve_conj()
        bias = None if bias is None else bias.detach().resolve_conj()
        self.dtype = x.dtype
        self.exact: Exact | None = None
        self._terms: Tensor | int | None = None  # of complex outputs
        self._kept: tuple[Arithmetic, Envelope] | None = None
        self._last: tuple[Arithmetic, Tensor, Assessment] | None = None
        self._quick: tuple[Arithmetic, Tensor, float] | None = None
        self._given = x, weight, bias
        self._rounded: tuple[object, Reference] | None = None
        if x.is_complex():
            self.exact, self._terms = complex_affine(x, weight, bias)
        elif x.is_floating_point():
            self.exact = real_affine(x, weight, bias)
        else:
            self.value = exact_integers(x, weight, bias).to(x.dtype)

    @cached_property
    def value(self) -> Tensor:
        """The exact outputs ``(N, O)``: float64, complex128, or integers of the dtype itself."""
        assert self.exact is not None
        return self.exact.value if self._terms is None else torch.complex(*self.exact.value.unbind(1))

    @cached_property
    def parts(self) -> tuple[Exact, ...]:
        """The exact real outputs, or those of the real and of the imaginary part; none for integers."""
        if self.exact is None or self._terms is None:
            return () if self.exact is None else (self.exact,)
        return apart(self.exact)

    @subnormals_kept()
    def assess(self, result: Tensor, arithmetic: Arithmetic | None) -> Assessment:
        """Hold ``result`` ``(N, O)`` against the envelope; ``arithmetic`` is not used for integer dtypes."""
        self._check(result, arithmetic)
        result = result.detach().resolve_conj()
        if self.exact is None:
            inside = result == self.value
            zeros = torch.zeros(inside.shape, dtype=torch.float64, device=inside.device)
            ratio = torch.where(inside, 0.0, torch.inf).double()
            return Assessment(inside, torch.zeros_like(inside), ratio, self.value, self.value, self.value, zeros, zeros)
        assert arithmetic is not None
        if arithmetic.operands is not None:
            rounded = replace(arithmetic, operands=None, relative=0.0)
            return self._of_rounded(arithmetic.operands).assess(result, rounded)
        chosen = _relevant(arithmetic, self.exact.bias is not None, self.exact.classes is not None)
        if self._last is not None and self._last[0] is chosen:
            before = self._last[1]  # with equal entries, 0.0 equal to -0.0 and no NaN, a result is judged as before
            if before.dtype == result.dtype and torch.equal(before, result):
                return self._last[2]
        found = judge(self._apart(result), self.exact, chosen, within=self._within(chosen))
        assessment = _assessment(found, self.exact) if self._terms is None else self._joined(found, self.exact)
        self._last = (chosen, result.clone(), assessment)  # a copy: a kernel may write its next result into this one
        return assessment

    @subnormals_kept()
    def largest_ratio(self, result: Tensor, arithmetic: Arithmetic) -> float | None:
        """``assess(result, arithmetic).max_ratio`` where every output is inside and none undecided, and quickly so.

        None means not known: call :meth:`assess`.
        """
        self._check(result, arithmetic)
        exact = self.exact
        if exact is None or exact.classes is not None:
            return None
        if arithmetic.operands is not None or arithmetic.results is not None:
            return None
        chosen, result = _relevant(arithmetic, exact.bias is not None, False), result.detach().resolve_conj()
        if self._quick is not None and self._quick[0] is chosen and _same(self._quick[1], result):
            return self._quick[2]
        if self._is_attained(result, chosen):
            return 0.0
        around = self._within(chosen)
        if around.any_undecided:
            return None
        ratio = largest_ratio(self._apart(result), exact, around)
        if ratio is not None:
            self._quick = (chosen, result.clone(), ratio)
        return ratio

    def _is_attained(self, result: Tensor, arithmetic: Arithmetic) -> bool:
        """Whether every output is the exact value itself, or in 16 bits nearest to it, and none can overflow.

        Such a result lies in any envelope, with an error of 0; nothing else needs to be computed.
        """
        exact, fmt = self.exact, format_of(arithmetic.output)
        if exact is None or exact.low is not None or not exact.stays_below(arithmetic):
            return False
        if fmt.dtype.itemsize >= 4 or arithmetic.output_rounding != "nearest":
            return torch.equal(result.to(self.value.dtype), self.value)
        return exact.reach < fmt.max and _same(result, self._nearest)

    @cached_property
    def _nearest(self) -> Tensor:
        return round_nearest(self.value, self.dtype)

    def _check(self, result: object, arithmetic: object) -> None:
        """Refuse a result that is not one of this layer, and an arithmetic that is none where one is needed."""
        exact = (self.dtype,)
        served = COMPLEX if self.dtype.is_complex else FLOATS if self.dtype.is_floating_point else exact
        y = check_values("result", result, served, f"the layer computes in {self.dtype}")
        check_tensor("result", y, tuple(self.value.shape), advice="pass rows (N, O), as the layer returns them")
        check_device_of("result", y, "x", self.value)
        if arithmetic is not None or served is not exact:
            check_arithmetic(arithmetic)

    def _of_rounded(self, operands: tuple[Rounding | None, ...]) -> Reference:
        """The reference of the same layer on operands that are rounded first; the last one is kept."""
        if self._rounded is None or self._rounded[0] != operands:
            pairs = zip(self._given, operands, strict=True)
            x, weight, bias = (v if v is None or rounding is None else rounding(v) for v, rounding in pairs)
            assert x is not None
            assert weight is not None
            self._rounded = operands, Reference(x, weight, bias)
        return self._rounded[1]

    def _within(self, arithmetic: Arithmetic) -> Envelope:
        """The envelope; the one asked for last is kept, as forms are mostly judged in one arithmetic."""
        assert self.exact is not None
        if self._kept is None or self._kept[0] is not arithmetic:
            self._kept = (arithmetic, envelope(self.exact, arithmetic))
        return self._kept[1]

    def _apart(self, result: Tensor) -> Tensor:
        """A result ``(N, O)`` as the exact outputs lie: complex parts side by side, ``(N, 2, O)``."""
        return result if self._terms is None else torch.stack([result.real, result.imag], 1)

    def _joined(self, found: Judgement, exact: Exact) -> Assessment:
        """Both parts as one. Where one is undecided the other is: an overflow may reach both."""
        assert self._terms is not None
        undecided, (lower, upper) = found.undecided.any(1), (found.lower, found.upper)
        return Assessment(
            found.inside.all(1) | undecided,
            undecided,
            torch.where(undecided, 0.0, found.ratio.amax(1)),
            self.value,
            torch.complex(lower[:, 0], lower[:, 1]),
            torch.complex(upper[:, 0], upper[:, 1]),
            exact.magnitude[:, 0] / 2,
            _filled(self._terms, self.value),
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether all entries of two results, one of which holds no NaN, are equal; 0.0 equals -0.0."""
    return surely_bit_equal(a, b) or torch.equal(a, b)


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


def _filled(terms: Tensor | float, like: Tensor) -> Tensor:
    """A number of terms for each output, float64."""
    return torch.as_tensor(terms, dtype=torch.float64, device=like.device).expand(like.shape)


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
        *(found.inside, found.undecided, found.ratio, value, found.lower, found.upper, exact.magnitude),
        terms=_filled(exact.terms, value),
    )


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
    check_layer(x, weight, bias, FLOATS, "integers are exact, complex results go to equiv.compare")
    if arithmetic is not None:
        check_arithmetic(arithmetic)
    reference = Reference(x.cpu(), weight.cpu(), None if bias is None else bias.cpu())
    found = reference.assess(reference.value.to(x.dtype), arithmetic or declared(x.dtype, x.device))
    width = torch.where(found.undecided, torch.inf, found.upper - found.lower).nan_to_num(torch.inf, torch.inf)
    return width.clamp(min=format_of(x.dtype).min_subnormal)
