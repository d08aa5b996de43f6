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

from equiv.numerics.exact import Classes, Exact, Magnitudes, magnitudes, summed_exactly
from equiv.numerics.formats import Format, format_of


def complex_affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Exact, Tensor]:
    """Exact ``x @ weight.T + bias`` of complex dtype, and K, the number of complex terms that are not zero.

    Args:
        x: Rows ``(N, n)``.
        weight: ``(O, n)``, the same dtype.
        bias: ``(O,)`` or None.

    Returns:
        Real and imaginary parts side by side: ``value`` and ``low`` are ``(N, 2, O)``, ``bias`` is ``(2, O)``, and what
        both parts share ``(N, 1, O)``. ``magnitude`` is ``2*S3``, ``terms`` 3K + 2. K is ``(N, O)``.
    """
    fmt, n, outputs = format_of(x.dtype), x.shape[1], weight.shape[0]
    given = [torch.cat([t.real.double(), t.imag.double()], -1) for t in (x, weight, bias) if t is not None]
    seen, classes = magnitudes(*given), None
    if not all(2 * size.largest <= fmt.max for size in seen):
        classes = _classes([_sums(size.entries) for size in seen], fmt)
    if classes is not None:
        given = [t.nan_to_num(0.0, 0.0, 0.0) for t in given]
        seen = magnitudes(*given)
    rows, kernel, b = given[0], given[1], None if bias is None else given[2]
    sums = [_sums(size.entries) for size in seen]
    magnitude = 2 * (sums[0] @ sums[1].T)
    full = n > 0 and seen[0].least > 0 and seen[1].least > 0
    terms = torch.full_like(magnitude, n) if full else (sums[0] != 0).double() @ (sums[1] != 0).double().T
    if b is not None:
        terms, magnitude = terms + (sums[2] != 0), magnitude + 2 * sums[2]
    pairs = torch.cat([kernel, torch.cat([kernel[:, n:], kernel[:, :n]], 1)])
    pairs[:outputs, n:].neg_()  # (2 O, 2 n): c, -d above d, c
    low: Tensor | None = None
    if x.dtype == torch.complex128:
        value, low = summed_exactly(rows, pairs, b, seen)
        low = low.view(-1, 2, outputs)
        uncertainty = (2 * n + 4) ** 2 * 2.0**-103 * magnitude + 4 * fmt.min_subnormal * (terms > 0)
    else:
        value = rows @ pairs.T
        value = value if b is None else value + b
        uncertainty = (2 * n + 4) * 2.0**-52 * magnitude
    largest = 4 * n * seen[0].largest * seen[1].largest + sum(2 * size.largest for size in seen[2:])
    exact = Exact(
        value.view(-1, 2, outputs),
        low,
        uncertainty[:, None],
        magnitude[:, None],
        (3 * terms + (2 if full else 2 * (terms > 0)))[:, None],
        None if b is None else b.view(2, outputs),
        _lost_to_flushing(given, seen, sums, fmt),
        classes,
        plain=False,
        fewest=3 * n + 2 if full else 0,
        reach=2.002 * largest * (1 + (3 * n + 8) * 2.0**-7),
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


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts that lie one after the other in the last dimension."""
    half = values.shape[-1] // 2
    return values[..., :half], values[..., half:]


def _sums(sizes: Tensor) -> Tensor:
    """``|real| + |imag|``."""
    real, imag = _halves(sizes)
    return real + imag


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
    for values in given:
        real, imag = _halves(values)
        made = torch.stack([real, imag, real + imag, real - imag]).abs()
        lost.append(2 * torch.where(made < fmt.min_normal, made, 0.0).sum(0))
    mass = lost[0] @ sums[1].T + sums[0] @ lost[1].T
    return (mass + lost[2] if len(lost) > 2 else mass)[:, None]
