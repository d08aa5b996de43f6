"""Small probes that find out what a kernel computes in, at the size and layout in question.

Every probe has terms for which the arithmetics in question give different results, none of them by a hair: a factor
``1 + 2^-k`` alone shows how many of its bits arrive; ``2^p + 1 - 2^p`` shows whether a sum holds ``p + 1`` bits. The
order of summation comes from :mod:`equiv.numerics.fprev`. A probe shows what the kernel did, on the places that were
tried; what it does elsewhere is inferred. What the findings mean is the business of :mod:`equiv.numerics.measured`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from equiv.errors import EquivError
from equiv.numerics.arithmetic import _flushing_is_on, declared
from equiv.numerics.bench import Bench, Run, places, power
from equiv.numerics.formats import format_of
from equiv.numerics.fprev import Order, describe, reveal
from equiv.numerics.measured import Finding, Measured

_KEPT = 256
_cache: dict[Hashable, Measured] = {}


def measure(
    run: Run,
    *,
    dtype: torch.dtype,
    rows: int,
    out_features: int,
    in_features: int,
    bias: bool = True,
    device: torch.device | str = "cpu",
    op: str = "any",
    subject: str = "kernel",
    order_limit: int = 256,
    key: Hashable | None = None,
) -> Measured:
    """Find out what ``run`` computes in, by some hundred small calls.

    Args:
        run: ``run(x, weight, bias) -> y`` on rows: ``(rows, n)``, ``(O, n)``, ``(O,)`` or None -> ``(rows, O)``. What
            it does with their layout is its own business, and part of what is measured.
        dtype: float16, bfloat16, float32 or float64, of x, weight and bias; the result may have another of these.
        rows: N, at least 1.
        out_features: O, at least 1.
        in_features: n, at least 1; some properties need three terms.
        bias: Whether a bias is passed.
        device: Where the tensors are put.
        op: Whose declared arithmetic it is held against, one of ``equiv.numerics.OPS``.
        subject: What is measured, in words.
        order_limit: Most terms whose order is looked for (at most 256); of a longer sum a sample. 0 leaves it out.
        key: What identifies ``run``, its layout included. With it, the result is kept and returned again for the same
            sizes and settings of torch; see :func:`forget`.

    Raises:
        EquivError: A size below 1, a dtype that is not real and floating, a result of the wrong shape, a kernel that
            computes something else.

    Example:
        >>> linear = torch.nn.functional.linear
        >>> found = measure(linear, dtype=torch.float32, rows=2, out_features=3, in_features=8)
        >>> found.operands.value
        24

    """
    device = torch.device(device)
    full = None
    if key is not None:
        sizes = (rows, out_features, in_features, bias, order_limit)
        full = (key, dtype, str(device), op, sizes, settings())
        if full in _cache:
            return replace(_cache[full], subject=subject)
    bench = Bench(
        run,
        dtype=dtype,
        rows=rows,
        out_features=out_features,
        in_features=in_features,
        bias=bias,
        device=device,
    )
    expected = declared(dtype, device, op)
    operands, operand_rounding = _operands(bench)
    bits = operands.value or format_of(dtype).precision
    product_error, output_rounding = _rounding_of_products(bench, bits)
    reach = _operand_range(bench)
    narrow = dtype == torch.float16 or reach.value == "float16"
    accumulator, reduction, triple = _sums(bench, narrow=narrow)
    flushes_outputs = _flushes_outputs(bench)
    order, bias_place = _order(bench, min(order_limit, 256))
    found = Measured(
        subject=subject,
        dtype=dtype,
        output=bench.output,
        size=(rows, out_features, in_features),
        operands=operands,
        operand_rounding=operand_rounding,
        operand_range=reach,
        product_error=product_error,
        accumulator=accumulator,
        accumulator_rounding=_rounding_of_sums(bench, accumulator.value, triple, narrow=narrow),
        reduction=reduction,
        products=_fused(bench, bits, accumulator.value, order.value),
        output_rounding=output_rounding,
        flushes_inputs=_flushes_inputs(bench),
        flushes_sums=_flushes_sums(bench, accumulator.value),
        flushes_outputs=flushes_outputs,
        infinity_spreads=_infinity(bench),
        bias_rounding=_bias_rounding(bench, accumulator.value, output_rounding.value),
        bias_place=bias_place,
        order=order,
        declared=expected,
        calls=bench.calls,
    )
    if full is not None:
        while len(_cache) >= _KEPT:
            del _cache[next(iter(_cache))]
        _cache[full] = found
    return found


def forget() -> None:
    """Drop every measurement that was kept, such as after a kernel was replaced."""
    _cache.clear()


def settings() -> tuple[Hashable, ...]:
    """The settings of torch that change a kernel's arithmetic: threads, libraries, precisions, flushing."""
    backends: Any = torch.backends
    matmul = backends.cuda.matmul
    precisions = []
    for room, part in (("cuda", "matmul"), ("cudnn", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv")):
        try:
            precisions.append(str(getattr(getattr(getattr(backends, room), part, None), "fp32_precision", None)))
        except RuntimeError:  # some builds know the name and not the setting
            precisions.append("unknown")
    return (
        torch.get_num_threads(),
        bool(backends.mkldnn.enabled),
        bool(backends.cudnn.enabled),
        bool(backends.cudnn.benchmark),
        torch.are_deterministic_algorithms_enabled(),
        *precisions,
        bool(matmul.allow_bf16_reduced_precision_reduction),
        bool(matmul.allow_fp16_reduced_precision_reduction),
        _flushing_is_on(),
    )


# --- factors and products ---------------------------------------------------------------------------------------------


def _operands(bench: Bench) -> tuple[Finding[int], Finding[str]]:
    """Bits of a factor that survive a multiplication by 1, whichever of the two factors it is."""
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


def _operand_range(bench: Bench) -> Finding[str]:
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


def _rounding_of_products(bench: Bench, bits: int) -> tuple[Finding[float], Finding[str]]:
    """How far one product alone is off, and which way it is rounded to the result's format."""
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
                    exact, seen = Fraction(x) * Fraction(w), _fraction(y[i][j])
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
    """Where ``exact`` lies between its neighbours of ``bits`` bits, and which of the two was returned."""
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
    text = f"{sum(1 for _ in inexact)} kinds of product, ties and both signs among them"
    for name, rule in _WAYS.items():
        if all(way == {rule[kind]} for (kind, _), way in inexact.items()):
            return Finding(name, text)
    for name, positive in (("up", "out"), ("down", "in")):
        negative = "in" if positive == "out" else "out"
        if all(way == {positive if sign > 0 else negative} for (_, sign), way in inexact.items()):
            return Finding(name, text)
    return Finding("mixed", text)


def _fraction(value: float) -> Fraction:
    return Fraction(value) if abs(value) < float("inf") else Fraction(0)


# --- sums -------------------------------------------------------------------------------------------------------------


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


def _sums(bench: Bench, *, narrow: bool) -> tuple[Finding[int], Finding[int], tuple[int, int, int] | None]:
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


def _rounding_of_sums(
    bench: Bench, bits: int | None, triple: tuple[int, int, int] | None, *, narrow: bool
) -> Finding[str]:
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


def _fused(bench: Bench, factors: int, bits: int | None, order: Order | None) -> Finding[str]:
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


# --- underflow --------------------------------------------------------------------------------------------------------


def _flushes_inputs(bench: Bench) -> Finding[bool]:
    fmt = format_of(bench.dtype)
    up = 2.0**15 if bench.dtype == torch.float16 else 2.0**60
    seen = []
    for small in (fmt.min_normal / 2, fmt.min_normal * 0.75, fmt.min_subnormal):
        wanted = torch.tensor(small * up, dtype=torch.float64).to(bench.output).double()
        for place in places(bench.n, 3):
            for name, pair in (("inputs", (small, up)), ("weights", (up, small))):
                if bool((bench.sums({place: pair}) != wanted).any()):
                    seen.append(name)
    if not seen and bench.n > 1:  # some kernels differ between sparse and dense rows
        y = bench.sums({}, fill=(fmt.min_normal / 2, up))
        seen += ["inputs"] * bool((y < fmt.min_normal / 2 * up * bench.n * 0.5).any())
    if bench.bias:
        normal = torch.frexp(torch.tensor(fmt.min_normal, dtype=torch.float64)).exponent.item() - 1
        y = bench.sums({0: power(int(normal))}, bias=fmt.min_normal / 2)
        if bool((y == fmt.min_normal).any()) and not bool((y == 1.5 * fmt.min_normal).all()):
            seen.append("bias")
    names = list(dict.fromkeys(seen))
    text = (
        f"subnormal {' and '.join(names)} of 2^{_log2(fmt.min_normal) - 1} count for 0"
        if names
        else f"times 2^{_log2(up)} they arrive"
    )
    return Finding(bool(names), text)


def _flushes_outputs(bench: Bench) -> Finding[bool]:
    fmt = format_of(bench.output)
    exponent = _log2(fmt.min_normal) - 1
    pair = power(exponent)
    if min(pair) < format_of(bench.dtype).min_normal:
        return Finding(None, "no two normal factors are that small")
    zero = [place for place in places(bench.n, 3) if bool((bench.sums({place: pair}) != 2.0**exponent).any())]
    return Finding(bool(zero), f"2^{_pair_text(exponent)} is {'0' if zero else 'itself'}")


def _flushes_sums(bench: Bench, bits: int | None) -> Finding[bool]:
    """Two products that are subnormal, whose sum is not."""
    fmt = format_of(bench.dtype)
    if bench.n < 2:
        return Finding(None, "needs two terms")
    if bench.dtype == torch.float16 and (bits is None or bits > 11):
        return Finding(False, "products of float16 are normal in float32")
    exponent = _log2(fmt.min_normal) - 1
    pair = power(exponent)
    spots = places(bench.n, 4)
    lost = [j for j in spots[1:] if bool((bench.sums({spots[0]: pair, j: pair}) != 2 * 2.0**exponent).any())]
    text = f"2^{_pair_text(exponent)} + 2^{_pair_text(exponent)} is {'less' if lost else f'2^{exponent + 1}'}"
    return Finding(bool(lost), text)


def _pair_text(exponent: int) -> str:
    """``exponent`` as the sum of the exponents of the two factors that :func:`~equiv.numerics.bench.power` makes."""
    return "({}{:+d})".format(*map(_log2, power(exponent)))


def _log2(value: float) -> int:
    return int(torch.frexp(torch.tensor(value, dtype=torch.float64)).exponent) - 1


# --- neighbours and bias ----------------------------------------------------------------------------------------------


def _infinity(bench: Bench) -> Finding[bool]:
    ones_x = torch.ones(bench.rows, bench.n, dtype=torch.float64)
    ones_w = torch.ones(bench.outputs, bench.n, dtype=torch.float64)
    spots = places(bench.n, 32)
    for number, place in enumerate(spots):
        row = number % bench.rows
        x = ones_x.clone()
        x[row, place] = torch.inf
        y = bench.rows_of(x, ones_w)
        if bool((y[row] != torch.inf).any()):
            return Finding(True, f"inf at place {place}, weight 1, gives {y[row][y[row] != torch.inf][0].item()}")
        if not bool(y[[r for r in range(bench.rows) if r != row]].isfinite().all()):
            return Finding(True, f"inf at place {place} of row {row} reaches another row")
        output = number % bench.outputs
        w = ones_w.clone()
        w[output, place] = torch.inf
        y = bench.rows_of(ones_x, w)
        if bool((y[:, output] != torch.inf).any()) or int(y.isfinite().sum()) != bench.rows * (bench.outputs - 1):
            return Finding(True, f"an infinite weight at place {place} of output {output} reaches another one")
    return Finding(False, f"inf at {len(spots)} places in turn, in one row, then in one weight")


def _bias_rounding(bench: Bench, bits: int | None, rounding: str | None) -> Finding[str]:
    """A product half way between two results, and a bias that decides: lost where the product is rounded first."""
    if not bench.bias:
        return Finding("none", "no bias")
    q, p = format_of(bench.output).precision, format_of(bench.dtype).precision
    half = q // 2
    if bits is not None and bits <= q:
        return Finding("once", "sums hold no more bits than the result: a rounding more is one of theirs")
    if p >= 24 and bits is None:
        return Finding(None, "whether sums hold more bits than the result is not known")
    low, bias = 1 + 2.0**-half + 2.0 ** -(q - half), 2.0 ** -(q + 1)
    # The product's last bit, 2^-q, is half an ulp of the result, and the result below it is even.
    terms: tuple[tuple[float, float], ...] = ((1 + 2.0**-half, 1 + 2.0 ** -(q - half)),)
    if rounding == "truncated":  # the sum of products lies right below a result, and the bias makes it that result
        low, bias = 1.0, 2.0 ** -(q + 3)
        terms = ((1.0, 1.0), (2.0 ** -(q - 1), 1 - 2.0**-4))
    elif rounding not in ("nearest-even", None):
        return Finding(None, f"not looked for where results are rounded {rounding}")
    high = low + 2.0 ** (1 - q)
    spots = places(bench.n, 3)
    if len(spots) < len(terms):
        return Finding(None, "needs two terms where results are truncated")
    seen = set()
    for shift in range(len(spots)):
        chosen = [spots[(shift + number) % len(spots)] for number in range(len(terms))]
        y = bench.sums(dict(zip(chosen, terms, strict=True)), bias=bias)
        seen |= set(y.flatten().tolist())
    text = f"{' + '.join(f'{a:g}*{b:g}' for a, b in terms)} + 2^{_log2(bias)} is "
    text += ", ".join(f"{value:.9g}" for value in sorted(seen))
    if low in seen:
        return Finding("twice", text)
    return Finding("once" if seen == {high} else None, text)


# --- order ------------------------------------------------------------------------------------------------------------

# (factor of M, its weight, factor of a unit, its weight): far apart, and as far as float16 products, or sums, go.
_MASKS = ((2.0**100, 1.0, 1.0, 1.0), (2.0**15, 2.0**15, 2.0**-7, 2.0**-7), (2.0**8, 2.0**7, 2.0**-2, 2.0**-2))


def _sample(n: int, limit: int) -> list[int]:
    """All places, or of more than ``limit`` half of them from the start and half spread over the rest."""
    if n <= limit:
        return list(range(n))
    near = limit - limit // 2
    return [*range(near), *(near + round(k * (n - 1 - near) / (limit - near - 1)) for k in range(limit - near))]


def _order(bench: Bench, limit: int) -> tuple[Finding[Order], Finding[str]]:
    place_of_bias: Finding[str] = Finding(None, "no bias" if not bench.bias else "needs the order")
    if limit < 4:
        return Finding(None, "not looked for"), place_of_bias
    spots = _sample(bench.n, limit)
    if len(spots) == 1:
        return Finding(describe((), spots, bench.n), "one term has no order"), place_of_bias
    for mask in _MASKS:
        if max(mask) > format_of(bench.dtype).max or len(spots) * mask[2] * mask[3] > format_of(bench.output).max:
            continue
        asker = _Asker(bench, spots, mask)
        if asker([(0, len(spots) - 1)])[0] is None:
            continue
        nodes = reveal(asker, len(spots))
        text = f"{asker.pairs:,} pairs of 2^{_log2(mask[0] * mask[1])} and its negative"
        if nodes is None or asker.differ:
            corners = [_Asker(bench, spots, mask, corner=corner) for corner in ((0, 0), (-1, -1))]
            trees = [reveal(corner, len(spots)) for corner in corners]
            nodes = trees[0]
            other = "none" if trees[1] is None else str(describe(trees[1], spots, bench.n))
            text = f"of the first output; not all are alike, the last one: {other}"
        if nodes is None:
            return Finding(None, "no tree explains what survives between huge terms"), place_of_bias
        return Finding(describe(nodes, spots, bench.n), text), _bias_place(bench, spots, mask)
    return Finding(None, "no huge term hides the others"), place_of_bias


class _Asker:
    """Counts of lost leaves for pairs of places: one pair in each row, or all of them read from one output."""

    def __init__(
        self,
        bench: Bench,
        spots: Sequence[int],
        mask: tuple[float, float, float, float],
        *,
        corner: tuple[int, int] | None = None,
    ) -> None:
        self.bench, self.spots, self.mask, self.corner = bench, spots, mask, corner
        self.unit = mask[2] * mask[3]
        self.pairs, self.differ = 0, False
        self.known: dict[tuple[int, int], int | None] = {}

    def __call__(self, pairs: Sequence[tuple[int, int]]) -> list[int | None]:
        wanted = [pair for pair in pairs if pair not in self.known]
        # With the same weights for all pairs each row asks for another one.
        together = self.bench.rows if self.mask[1] == self.mask[3] and self.corner is None else 1
        for start in range(0, len(wanted), together):
            self._ask(wanted[start : start + together])
        return [self.known[pair] for pair in pairs]

    def _ask(self, pairs: Sequence[tuple[int, int]]) -> None:
        bench, (huge, huge_w, unit, unit_w) = self.bench, self.mask
        row, w = torch.zeros(bench.n, dtype=torch.float64), torch.zeros(bench.n, dtype=torch.float64)
        row[list(self.spots)], w[list(self.spots)] = unit, unit_w
        x = row.repeat(bench.rows, 1)
        for number in range(bench.rows):
            i, j = pairs[number % len(pairs)]
            x[number, self.spots[i]], x[number, self.spots[j]] = huge, -huge
            w[self.spots[i]] = w[self.spots[j]] = huge_w
        y = bench.rows_of(x, w.expand(bench.outputs, -1))
        self.pairs += len(pairs)
        for number, pair in enumerate(pairs):
            seen = self._lost(y[number :: len(pairs)] if self.corner is None else y[self.corner])
            self.known[pair] = self.known[pair[::-1]] = seen

    def _lost(self, y: Tensor) -> int | None:
        kept = y.flatten() / self.unit
        self.differ = self.differ or bool((kept != kept[0]).any())
        value = float(kept[0])
        whole = 0 <= value <= len(self.spots) - 2 and value == int(value)
        return len(self.spots) - int(value) if whole else None


def _bias_place(bench: Bench, spots: Sequence[int], mask: tuple[float, float, float, float]) -> Finding[str]:
    """With the huge term in the bias: how many terms were added before, or together with, its negative."""
    if not bench.bias:
        return Finding(None, "no bias")
    huge, huge_w, unit, unit_w = mask
    if bench.dtype == torch.float16:
        huge, huge_w, unit, unit_w = 2.0**8, 2.0**7, 2.0**-9, 2.0**-8
    seen = set()
    for j in (spots[k] for k in places(len(spots), 8)):
        terms = dict.fromkeys(spots, (unit, unit_w))
        terms[j] = (-huge, huge_w)
        kept = bench.sums(terms, bias=huge * huge_w, fill=(0.0, 0.0))[0, 0].item() / (unit * unit_w)
        if not 0 <= kept <= len(spots) - 1 or kept != int(kept):
            return Finding(None, "no huge bias hides the terms")
        seen.add(len(spots) - int(kept))
    text = f"a huge bias hides {min(seen)} to {max(seen)} of {len(spots)} terms"
    if seen == {len(spots)}:
        return Finding("last", text)
    return Finding("first" if min(seen) == 1 else "between", text)
