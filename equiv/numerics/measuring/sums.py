"""What sums are kept in: the bits and the rounding of running and of partial sums, and how products enter them."""

from __future__ import annotations

from itertools import pairwise, permutations

from torch import Tensor

from equiv.numerics.formats import format_of
from equiv.numerics.measuring.bench import Bench, places, power
from equiv.numerics.measuring.findings import Finding
from equiv.numerics.measuring.fprev import Order
from equiv.numerics.measuring.products import rounding_name


def _steps(n: int) -> list[int]:
    return [step for step in (2, 4, 8, 16, 32, 64, 128, 256) if step < n]


def _triples(n: int) -> list[tuple[int, int, int]]:
    """Places near each other, far apart, and a power of two apart, where lanes and blocks of kernels meet."""
    if n < 3:
        return []
    bases = {(0, 1, 2), (n - 3, n - 2, n - 1), (0, n // 2, n - 1)}
    bases |= {(0, step, 2 * step) for step in _steps(n // 2 + n % 2)}
    return [(i, j, k) for base in sorted(bases) for i, j, k in permutations(base) if i < k]


def _survives(bench: Bench, triple: tuple[int, int, int], p: int, *, narrow: bool) -> bool | None:
    """Whether ``2^p + 1 - 2^p`` and ``-2^p + 1 + 2^p`` are both 1, the terms at the three places; None on overflow.

    One of them needs ``p + 1`` bits wherever 1 meets a large term before the two cancel, the other only ``p``.
    """
    top = min(p, 28) if narrow else p
    unit = top - p
    big, small = power(top), power(unit)
    first, one, last = triple
    kept = True
    for sign in (1.0, -1.0):
        y = bench.sums({first: (sign * big[0], big[1]), one: small, last: (-sign * big[0], big[1])})
        if not bool(y.isfinite().all()):
            return None
        kept = kept and bool((y == 2.0**unit).all())
    return kept


def sums(bench: Bench, *, narrow: bool) -> tuple[Finding[int], Finding[int], tuple[int, int, int] | None]:
    """The bits of running sums, the bits in which partial sums are combined, and places that show the former."""
    highest = 40 if narrow else 64
    seen: dict[tuple[int, int, int], int] = {}
    for triple in _triples(bench.n):
        if _survives(bench, triple, highest, narrow=narrow):
            continue  # the large ones meet first
        low, high, lost = 1, highest, False
        while high - low > 1:
            middle = (low + high) // 2
            kept = _survives(bench, triple, middle, narrow=narrow)
            low, high = (middle, high) if kept else (low, middle)
            lost = lost if kept else kept is False
        if lost:  # else the large ones meet first, and overflow before anything is lost
            seen[triple] = high
    if not seen:
        text = "needs three terms" if bench.n < 3 else f"2^{highest} + 1 - 2^{highest} is 1 at all places tried"
        return Finding(None, text), Finding(None, text), None
    most, least = max(seen.values()), min(seen.values())
    where = max(seen, key=lambda triple: seen[triple])
    tried = f"{len(seen)} of {len(_triples(bench.n))} places show it"
    wide = Finding(most, f"2^{most} + 1 - 2^{most} is 0, 2^{most - 1} + 1 - 2^{most - 1} is 1; {tried}")
    worst = min(seen, key=lambda triple: seen[triple])
    text = "the same at all places" if most == least else f"terms {worst} lose it at 2^{least} already"
    return wide, Finding(least, text), where


_SMALL = {0.5: "below", 1.0: "tie to lower", 1.5: "above", 3.0: "tie to upper"}
"""What is added to ``2^p``, whose neighbours are 2 apart, and where the sum lies between two of them."""


def rounding_of_sums(
    bench: Bench, bits: int | None, triple: tuple[int, int, int] | None, *, narrow: bool
) -> Finding[str]:
    """How running sums are rounded: what becomes of ``2^bits + c`` and of its negative, for the c of ``_SMALL``.

    Three terms, ``2^bits``, ``c`` and ``-2^bits``: what is left is ``c``, rounded to a multiple of 2 if it was added to
    a large term of its own sign. Both signs of both kinds of term are tried; where 3 is left as it is, it was added to
    the term of the other sign, or last, and nothing can be seen.
    """
    if bits is None or triple is None:
        return Finding(None, "no sum that loses bits")
    scale = min(0, 28 - bits) if narrow else 0
    big, small = power(bits + scale), power(scale)
    ways: dict[tuple[str, int], set[str]] = {}
    seen: set[float] = set()
    for first in (1, -1):  # the sign of the large term that stands first
        for sign in (1, -1):

            def total(c: float, first: int = first, sign: int = sign) -> Tensor:
                terms = (first * big[0], big[1]), (sign * c * small[0], small[1]), (-first * big[0], big[1])
                return bench.sums(dict(zip(triple, terms, strict=True))) * sign / 2.0**scale

            threes = total(3.0)
            meets = threes != 3.0
            if not bool(meets.any()):
                continue
            for c, kind in _SMALL.items():
                inner = 2.0 * (c // 2)
                for value in set((threes if c == 3.0 else total(c))[meets].tolist()):
                    way = {inner: "in", inner + 2.0: "out"}.get(value, "neither")
                    ways.setdefault((kind, sign), set()).add(way)
                    seen |= {sign * value} if c == 3.0 else set()
    if not ways:
        return Finding(None, "no sum that loses bits")
    text = f"+-(2^{bits} + 3) less its large part is {', '.join(f'{value:g}' for value in sorted(seen))}"
    name = rounding_name(ways)
    return Finding("nearest" if name == "nearest-even" else name, text)


def fused(bench: Bench, factors: int, bits: int | None, order: Order | None) -> Finding[str]:
    """Whether products are rounded before they are added: else ``(1+2^-k)^2`` less its rounding leaves ``2^-2k``."""
    p = format_of(bench.dtype).precision
    if (bits is None and p < 24) or (bits is not None and bits >= 2 * p):
        return _rounded_needlessly(bench, factors, bits)
    if factors < p or p != format_of(bench.output).precision or bits is None or bits < p:
        return Finding(None, "cannot be seen where products are shorter" if bits is not None else "needs three terms")
    k = (p + 1) // 2
    one = 1 + 2.0**-k
    rounded = 1 + 2.0 ** (1 - k)
    spots = places(bench.n, 5)
    # Both terms must meet in one running sum: neighbours, lanes a power of two apart, or what the order says.
    pairs = [(i, j) for i in spots for j in spots if i != j] + [(0, step) for step in _steps(bench.n)]
    follow = () if order is None else order.sequence[:4]
    pairs += [(i, j) for i, j in permutations(follow, 2) if (i, j) not in pairs]
    for i, j in pairs:
        y = bench.sums({i: (one, one), j: (-rounded, 1.0)})
        if bool((y == 2.0 ** (-2 * k)).any()):
            everywhere = "" if bool((y == 2.0 ** (-2 * k)).all()) else ", in some outputs"
            return Finding("fused", f"(1 + 2^-{k})^2 less its rounding is 2^-{2 * k}, terms {i} and {j}{everywhere}")
    return Finding("rounded", f"(1 + 2^-{k})^2 less its rounding is 0 for {len(pairs)} pairs of places")


def _rounded_needlessly(bench: Bench, factors: int, bits: int | None) -> Finding[str]:
    """Whether products that the sums could hold are rounded to the format of their factors first.

    A rounded partial sum loses the same bits, but only where the two terms meet in it: hence many pairs of places.
    """
    p = format_of(bench.dtype).precision
    text = "the bits of sums are not known" if bits is None else f"{2 * p} bits fit into sums of {bits}"
    exact = Finding("exact" if bits is not None else None, text)
    if factors < p or bench.n < 2:
        return exact if bits is not None else Finding(None, "needs three terms")
    k = (p + 1) // 2
    one, rounded = 1 + 2.0**-k, 1 + 2.0 ** (1 - k)
    pairs = [(0, step) for step in (1, *_steps(bench.n))] + list(pairwise(places(bench.n, 5)))
    lost: Tensor | None = None
    for i, j in pairs:
        y = bench.sums({i: (one, one), j: (-rounded, 1.0)})
        lost = y == 0 if lost is None else lost & (y == 0)
        if not bool(lost.any()):
            return Finding(exact.value, f"{text}; (1 + 2^-{k})^2 less its rounding is not 0")
    return Finding("rounded", f"{text}, but (1 + 2^-{k})^2 less its rounding is 0 for {len(pairs)} pairs of places")
