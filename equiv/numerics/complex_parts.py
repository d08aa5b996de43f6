"""Both parts of complex outputs (nearly) exactly, with what bounds the error of every algorithm for complex products.

A complex product takes four real products, or three: Gauss's ``c*(a + b)``, ``a*(d - c)``, ``b*(c + d)``, Karatsuba's
``a*c``, ``b*d``, ``(a + b)*(c + d)``, and what comes of these by exchanging factors, parts and signs. In each of them a
part of ``sum((a + bi)*(c + di))`` over K terms is a sum of at most 3K real products, whose magnitudes add up to at most
``2*S3``, ``S3 = sum((|a| + |b|)*(|c| + |d|))``: Gauss's to ``|c|*|a + b| + |b|*|c + d|``, Karatsuba's to
``|a + b|*|c + d| + |a*c| + |b*d|``. Added in any order they err by at most ``(3K - 1)*u*2*S3``, and the roundings of
products and of sums of parts add ``4*u*S3``; 2 more pay for terms in ``u**2`` (N. J. Higham, "Stability of a method for
multiplying complex matrices with three real matrix multiplications", SIAM J. Matrix Anal. Appl. 13(3), 1992, for three
sums of one kind of product each).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from equiv.numerics.exact import Classes, Exact, Magnitudes, largest_factors, magnitudes, sums_are_whole
from equiv.numerics.formats import Format, format_of
from equiv.numerics.reference import dot_by_terms, sum_of_words, summed_products


def complex_affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Exact, Tensor | int]:
    """Exact ``x @ weight.T + bias`` of complex dtype, and K, the number of complex terms that are not zero.

    Args:
        x: Rows ``(N, n)``.
        weight: ``(O, n)``, the same dtype.
        bias: ``(O,)`` or None.

    Returns:
        Real and imaginary parts side by side: ``value`` and ``low`` are ``(N, 2, O)``, ``bias`` is ``(2, O)``, and what
        both parts share ``(N, 1, O)``. ``magnitude`` is ``2*S3``, ``terms`` 3K + 2. K broadcasts to ``(N, O)``.
    """
    fmt, n = format_of(x.dtype), x.shape[1]
    given = [torch.stack([t.real, t.imag]).double() for t in (x, weight, bias) if t is not None]
    seen, classes = magnitudes(*given), None
    if not all(2 * size.largest <= fmt.max for size in seen):
        classes = _classes([_sums(size) for size in seen], fmt)
    if classes is not None:
        given = [t.nan_to_num(0.0, 0.0, 0.0) for t in given]
        seen = magnitudes(*given)
    sums, b = [_sums(size) for size in seen], None if bias is None else given[2]
    magnitude = 2 * (sums[0] @ sums[1].T)
    full = n > 0 and seen[0].least > 0 and seen[1].least > 0
    terms: Tensor | int = n if full else (sums[0] != 0).double() @ (sums[1] != 0).double().T
    if b is not None:
        terms = terms + (1 if seen[2].least > 0 else (sums[2] != 0).double())
        magnitude = magnitude + 2 * sums[2]
    known = torch.as_tensor(terms, device=x.device)
    four, low, unsure = _four_products(given, seen, is_wide=x.dtype == torch.complex128)
    value, low = _joined(four, low, b, len(x), len(weight))
    uncertainty = unsure * magnitude + (0.0 if low is None else 4 * fmt.min_subnormal)
    uncertainty = uncertainty if full else uncertainty.masked_fill(known == 0, 0.0)
    largest = 4 * n * seen[0].largest * seen[1].largest + sum(2 * size.largest for size in seen[2:])
    exact = Exact(
        value,
        low,
        uncertainty[:, None],
        magnitude[:, None],
        3 * terms + 2 if full else torch.where(known > 0, 3 * terms + 2, 0.0)[:, None],
        b,
        _lost_to_flushing(given, seen, sums, fmt),
        classes,
        plain=False,
        fewest=3 * n + 2 if full else 0,
        reach=2.002 * largest * (1 + (3 * n + 8) * 2.0**-7),
        factors=largest_factors(seen[0], seen[1]),
    )
    return exact, terms


def apart(exact: Exact) -> tuple[Exact, Exact]:
    """What :func:`complex_affine` gives, for each part by itself: tensors ``(N, O)``."""

    def of(part: int, holder: Exact | Classes) -> dict[str, Any]:
        shown = {f.name: getattr(holder, f.name) for f in fields(holder)}
        tensors = {name: t.expand(exact.value.shape)[:, part] for name, t in shown.items() if isinstance(t, Tensor)}
        return {**shown, **tensors}

    def one(part: int) -> Exact:
        classes = None if exact.classes is None else Classes(**of(part, exact.classes))
        return Exact(**{**of(part, exact), "classes": classes})

    return one(0), one(1)


def _four_products(
    given: list[Tensor], seen: list[Magnitudes], *, is_wide: bool
) -> tuple[Tensor, Tensor | None, float]:
    """All parts of the input times all of the weight, ``(2*N, 2*O)``, as one word or two, and their relative error."""
    x, weight = (t.flatten(0, 1) for t in given[:2])
    n = x.shape[1]
    if not is_wide:
        return x @ weight.T, None, (2 * n + 4) * 2.0**-52
    if sums_are_whole(given, seen):
        return dot_by_terms(x, weight), None, 0.0
    moderate = all(size.is_moderate for size in seen)
    return *summed_products(x, weight, None, moderate=moderate), (2 * n + 4) ** 2 * 2.0**-103


def _joined(
    high: Tensor, low: Tensor | None, bias: Tensor | None, rows: int, outputs: int
) -> tuple[Tensor, Tensor | None]:
    """These products as both parts ``(N, 2, O)``, with the bias ``(2, O)``."""

    def four(word: Tensor) -> tuple[Tensor, Tensor]:
        real, imag = word.view(2, rows, 2, outputs)
        return real, torch.stack([-imag[:, 1], imag[:, 0]], 1)

    if low is None:
        real, imag = four(high)
        return (real + imag if bias is None else real + imag + bias), None
    a, b = zip(four(high), four(low), strict=True)
    words = sum_of_words(a, b)
    return words if bias is None else sum_of_words(words, (bias, None))


def _sums(sizes: Magnitudes) -> Tensor:
    """``|real| + |imag|``."""
    return sizes.entries[0] + sizes.entries[1]


def _classes(sums: list[Tensor], fmt: Format) -> Classes | None:
    """Complex products with NaN or infinite parts are not settled between right kernels: they are undecided.

    Nor are those whose parts overflow when they are added, as three real products begin by doing; the infinity then
    reaches both parts of the result, even through a factor of zero. ``sums`` are those of input, weight and bias.
    """
    bad_x, bad_w, *bad_b = (~(size <= fmt.max) for size in sums)  # True for NaN
    touched = bad_x.any(1)[:, None] | bad_w.any(1)
    for bad in bad_b:
        touched = touched | bad
    if not bool(touched.any()):
        return None
    touched = touched[:, None]  # (N, 1, O)
    nothing = torch.zeros_like(touched)
    return Classes(nothing, nothing, nothing, touched, nothing)


def _lost_to_flushing(given: list[Tensor], seen: list[Magnitudes], sums: list[Tensor], fmt: Format) -> Tensor | None:
    """What flushing may take from the real products, ``(N, 1, O)``: subnormal factors times the others. None for 0.

    Factors are parts, and sums and differences of parts: normal parts of opposite sign can have a subnormal sum. A part
    is in two of three products, hence counted twice.
    """
    if all(size.below(fmt.min_normal * 2.0**fmt.precision) is None for size in seen):
        return None  # then sums of parts are zero or normal too
    lost = []
    for real, imag in given:
        made = torch.stack([real, imag, real + imag, real - imag]).abs()
        lost.append(2 * torch.where(made < fmt.min_normal, made, 0.0).sum(0))
    mass = lost[0] @ sums[1].T + sums[0] @ lost[1].T
    return (mass + lost[2] if len(lost) > 2 else mass)[:, None]
