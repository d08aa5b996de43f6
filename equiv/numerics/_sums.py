"""What sums are kept in: the bits and the rounding of running and of partial sums, and how products enter them."""

from __future__ import annotations

from itertools import permutations

from equiv.numerics.bench import Bench, places, power
from equiv.numerics.formats import format_of
from equiv.numerics.fprev import Order
from equiv.numerics.measured import Finding


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
    """Bits of running sums, bits of what partial sums are combined in, and places that show the former."""
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
    tried = f"{len(seen)} of {len(_triples(bench.n))} places tell"
    wide = Finding(most, f"2^{most} + 1 - 2^{most} is 0, 2^{most - 1} + 1 - 2^{most - 1} is 1; {tried}")
    worst = min(seen, key=lambda triple: seen[triple])
    text = "the same at all places" if most == least else f"terms {worst} lose it at 2^{least} already"
    return wide, Finding(least, text), where


def rounding_of_sums(
    bench: Bench, bits: int | None, triple: tuple[int, int, int] | None, *, narrow: bool
) -> Finding[str]:
    """What ``2^bits + 3 - 2^bits`` is: 4 to nearest, 2 truncated; 3 where the large terms meet first."""
    if bits is None or triple is None:
        return Finding(None, "no sum that loses bits")
    scale = min(0, 28 - bits) if narrow else 0
    big, small = power(bits + scale), power(scale)
    seen: set[float] = set()
    for sign in (1.0, -1.0):
        terms = (sign * big[0], big[1]), (3 * small[0], small[1]), (-sign * big[0], big[1])
        y = bench.sums(dict(zip(triple, terms, strict=True)))
        seen |= {value / 2.0**scale for value in set(y.flatten().tolist())}
    text = f"2^{bits} + 3 - 2^{bits} is {', '.join(f'{value:g}' for value in sorted(seen - {3.0}))}"
    return Finding({frozenset({4.0}): "nearest", frozenset({2.0}): "truncated"}.get(frozenset(seen - {3.0})), text)


def fused(bench: Bench, factors: int, bits: int | None, order: Order | None) -> Finding[str]:
    """Whether a product is rounded before it is added: (1+2^-k)^2 less its rounding leaves 2^-2k where it is not."""
    p = format_of(bench.dtype).precision
    if bits is not None and bits >= 2 * p:
        return Finding("exact", f"{2 * p} bits fit into sums of {bits}")
    if factors < p or p != format_of(bench.output).precision or bits is None or bits < p:
        return Finding(None, "cannot be told where products are shorter" if bits is not None else "needs three terms")
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
