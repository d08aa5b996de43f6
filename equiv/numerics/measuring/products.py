"""What becomes of one product alone: the bits of its factors, their range, and its rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from equiv.errors import EquivError
from equiv.numerics.formats import format_of
from equiv.numerics.measuring.bench import Bench, places
from equiv.numerics.measuring.findings import Finding


def operands(bench: Bench) -> tuple[Finding[int], Finding[str]]:
    """How many bits of a factor survive a multiplication by 1, and how the others are lost; inputs and weights."""
    p = min(format_of(bench.dtype).precision, format_of(bench.output).precision)

    def arrives(value: float, place: int, who: str) -> bool:
        return bool((bench.sums({place: (value, 1.0) if who == "inputs" else (1.0, value)}) == value).all())

    least, where, weakest = p, 0, ""
    for place in places(bench.n, 3):
        if not (arrives(1.0, place, "inputs") and arrives(2.0, place, "inputs") and arrives(2.0, place, "weights")):
            raise EquivError(
                f"run: expected sums of products, got another value than 1 or 2 for 1 or 2 times 1 at place {place} of "
                f"{bench.n}; correct the kernel first (equiv.compare says where it is wrong), then measure it"
            )
        for who in ("inputs", "weights"):
            if arrives(1 + 2.0 ** (1 - least), place, who):
                continue
            low, high = 0, least - 1  # 2 arrives, 1 + 2^-high does not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if arrives(1 + 2.0**-middle, place, who) else (low, middle)
            least, where, weakest = high, place, who
    if not weakest:
        return Finding(p, f"1 + 2^-{p - 1} times 1 is itself"), Finding(None, "no bit is lost")
    probe = 1 + 3 * 2.0 ** -(least + 1)  # 1 and three quarters of the last bit that is kept
    y = bench.sums({where: (probe, 1.0) if weakest == "inputs" else (1.0, probe)})
    seen = set(y.flatten().tolist()) - {probe}  # an edge may keep more
    text = f"1 + 3*2^-{least + 1} times 1 is {', '.join(f'{value:.9g}' for value in sorted(seen))}"
    way = "nearest" if seen == {1 + 2.0 ** (1 - least)} else "truncated" if seen == {1.0} else None
    return Finding(least, f"of {weakest}: 1 + 2^-{least} times 1 is not itself"), Finding(way, text)


def operand_range(bench: Bench) -> Finding[str]:
    """Whether factors have the range of their dtype, or that of float16."""
    if format_of(bench.dtype).max < 2.0**100 or format_of(bench.output).max < 2.0**100:
        return Finding(None, "float16 has no larger factors")
    bad = [
        place
        for place in places(bench.n, 3)
        for x, w in ((2.0**100, 2.0**-100), (2.0**-100, 2.0**100))
        if not bool((bench.sums({place: (x, w)}) == 1).all())
    ]
    if not bad:
        return Finding("full", "2^100 times 2^-100 is 1")
    y = bench.sums({bad[0]: (2.0**17, 2.0**-5)})
    if not bool((y == 2.0**12).all()):
        return Finding("float16", f"2^17 times 2^-5 is {y.flatten()[0].item():.6g}")
    return Finding("reduced", "2^100 times 2^-100 is not 1")


def rounding_of_products(bench: Bench, bits: int) -> tuple[Finding[float], Finding[str]]:
    """The largest relative error of one product alone, and how it is rounded to the result's format."""
    p, q = min(bits, format_of(bench.dtype).precision), format_of(bench.output).precision
    full = format_of(bench.dtype).precision
    worst, tried = Fraction(0), 0
    ways: dict[tuple[str, int], set[str]] = {}
    for place in places(bench.n, 2):
        for precision in sorted({p, full}):
            a, b = _mantissas(precision, q, 11), _mantissas(precision, q, 12)
            y = bench.products(a, b, place).tolist()
            for i, x in enumerate(a):
                for j, w in enumerate(b):
                    exact, seen = Fraction(x) * Fraction(w), Fraction(y[i][j] if math.isfinite(y[i][j]) else 0)
                    if precision == full:
                        worst, tried = max(worst, abs(seen - exact) / abs(exact)), tried + 1
                    if precision == p:
                        kind, way = _way(exact, seen, q)
                        ways.setdefault((kind, 1 if exact > 0 else -1), set()).add(way)
    error = Finding(float(worst), f"worst of {tried} products of {full}-bit factors, one at a time")
    return error, _name_rounding(ways, q)


def _mantissas(bits: int, out: int, seed: int) -> list[float]:
    """Signed values of 1 to 2 with ``bits`` bits; among their products are ties for results of ``out`` bits."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 1 << (bits - 1), (5,), generator=generator).tolist()
    half = out // 2 if seed % 2 else out - out // 2  # (1+2^-i)(1+2^-j) with i + j = out is half way between two results
    crafted = [1 + 2.0**-half, 1 + 2.0 ** -(out - 1), 1.5, 1 + 2.0**-2, 1 + 2.0 ** -(out - 2)]
    values = [v for v in crafted if v * 2 ** (bits - 1) % 1 == 0]
    values += [1 + value * 2.0 ** (1 - bits) for value in drawn] + [2 - 2.0 ** (1 - bits)]
    return values + [-v for v in values[::2]]


def _way(exact: Fraction, seen: Fraction, bits: int) -> tuple[str, str]:
    """Where ``exact`` lies between its neighbours of ``bits`` bits; ``"in"`` if the one nearer to zero was returned.

    ``"out"`` is the other neighbour, ``"neither"`` any other result.
    """
    size, result = abs(exact), seen if exact > 0 else -seen
    exponent = 0
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    ulp = Fraction(2) ** (exponent + 1 - bits)
    steps, rest = divmod(size / ulp, 1)
    kind = "exact" if rest == 0 else "below" if rest < Fraction(1, 2) else "above"
    if rest == Fraction(1, 2):
        kind = "tie to lower" if steps % 2 == 0 else "tie to upper"
    way = {steps * ulp: "in", (steps + 1) * ulp: "out"}.get(result, "neither")
    return kind, way


_WAYS = {
    "nearest-even": {"below": "in", "tie to lower": "in", "tie to upper": "out", "above": "out"},
    "nearest-away": {"below": "in", "tie to lower": "out", "tie to upper": "out", "above": "out"},
    "truncated": dict.fromkeys(("below", "tie to lower", "tie to upper", "above"), "in"),
    "away": dict.fromkeys(("below", "tie to lower", "tie to upper", "above"), "out"),
}


def _name_rounding(ways: dict[tuple[str, int], set[str]], q: int) -> Finding[str]:
    if any("neither" in way or (kind == "exact" and way != {"in"}) for (kind, _), way in ways.items()):
        return Finding(None, f"products alone are not {q}-bit roundings of their exact values")
    inexact = {key: way for key, way in ways.items() if key[0] != "exact"}
    if not inexact:
        return Finding(None, f"every product has at most {q} bits")
    return Finding(rounding_name(inexact), f"{len(inexact)} kinds of product, ties and both signs among them")


def rounding_name(ways: dict[tuple[str, int], set[str]]) -> str | None:
    """The name of a rounding, from what becomes of each kind of inexact value, of either sign.

    Each is a set of ``"in"`` (the neighbour nearer to zero), ``"out"`` (the other) and ``"neither"``; None for one that
    holds ``"neither"``.
    """
    if any("neither" in way for way in ways.values()):
        return None
    for name, rule in _WAYS.items():
        if all(way == {rule[kind]} for (kind, _), way in ways.items()):
            return name
    for name, positive in (("up", "out"), ("down", "in")):
        negative = "in" if positive == "out" else "out"
        if all(way == {positive if sign > 0 else negative} for (_, sign), way in ways.items()):
            return name
    return "mixed"
