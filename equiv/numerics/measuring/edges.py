"""What happens at the edges: subnormals, infinities, and where the bias meets the rounding of the result."""

from __future__ import annotations

import torch

from equiv.dtypes import dtype_name
from equiv.numerics.arithmetic import accumulator_of
from equiv.numerics.formats import format_of
from equiv.numerics.measuring.bench import Bench, log2_of, places, power
from equiv.numerics.measuring.findings import Finding


def flushes_inputs(bench: Bench) -> Finding[bool]:
    """Whether subnormal inputs count for zero: factors times large ones, alone and in every place, and a bias."""
    fmt = format_of(bench.dtype)
    up = min(2.0**60, 2.0 ** log2_of(fmt.max))
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
        y = bench.sums({0: power(log2_of(fmt.min_normal))}, bias=fmt.min_normal / 2)
        if bool((y == fmt.min_normal).any()) and not bool((y == 1.5 * fmt.min_normal).all()):
            seen.append("bias")
    names = list(dict.fromkeys(seen))
    if not names:
        return Finding(False, f"times 2^{log2_of(up)} they arrive")
    return Finding(True, f"subnormal {' and '.join(names)} of 2^{log2_of(fmt.min_normal) - 1} count for 0")


def flushes_outputs(bench: Bench) -> Finding[bool]:
    """Whether subnormal results become zero: one product of normal factors that is subnormal."""
    fmt = format_of(bench.output)
    exponent = log2_of(fmt.min_normal) - 1
    pair = power(exponent)
    if min(pair) < format_of(bench.dtype).min_normal:
        return Finding(None, "no two normal factors are that small")
    zero = [place for place in places(bench.n, 3) if bool((bench.sums({place: pair}) != 2.0**exponent).any())]
    return Finding(bool(zero), f"2^{_pair_text(exponent)} is {'0' if zero else 'itself'}")


def flushes_sums(bench: Bench, bits: int | None) -> Finding[bool]:
    """Whether subnormal products become zero before they are added: two of them, whose sum is normal."""
    fmt = format_of(bench.dtype)
    if bench.n < 2:
        return Finding(None, "needs two terms")
    if fmt.min_subnormal**2 >= accumulator_of(bench.dtype).min_normal and (bits is None or bits > fmt.precision):
        return Finding(False, f"products of {dtype_name(bench.dtype)} are normal in float32")
    exponent = log2_of(fmt.min_normal) - 1
    pair = power(exponent)
    spots = places(bench.n, 4)
    lost = [j for j in spots[1:] if bool((bench.sums({spots[0]: pair, j: pair}) != 2 * 2.0**exponent).any())]
    text = f"2^{_pair_text(exponent)} + 2^{_pair_text(exponent)} is {'less' if lost else f'2^{exponent + 1}'}"
    return Finding(bool(lost), text)


def _pair_text(exponent: int) -> str:
    """``exponent`` as the sum of the exponents of its two factors; see `power`."""
    return "({}{:+d})".format(*map(log2_of, power(exponent)))


def infinity_spreads(bench: Bench) -> Finding[bool]:
    """Whether one infinity among ones makes its outputs anything but infinite, or others anything but finite."""
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


def bias_bits(bench: Bench) -> Finding[int]:
    """How many bits of a bias reach the result where all products are zero."""
    if not bench.bias:
        return Finding(None, "no bias")
    p = min(format_of(bench.dtype).precision, format_of(bench.output).precision)

    def arrives(k: int) -> bool:
        return bool((bench.sums({}, bias=1 + 2.0**-k) == 1 + 2.0**-k).all())

    if arrives(p - 1):
        return Finding(p, f"0 + (1 + 2^-{p - 1}) is 1 + 2^-{p - 1}")
    low, high = 0, p - 1  # 2 is taken to arrive
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if arrives(middle) else (low, middle)
    return Finding(high, f"0 + (1 + 2^-{high}) is another value")


def bias_rounding(bench: Bench, bits: int | None, rounding: str | None) -> Finding[str]:
    """Whether sums are rounded before the bias is added: it then cannot decide a product half way between results."""
    if not bench.bias:
        return Finding("none", "no bias")
    q, p = format_of(bench.output).precision, format_of(bench.dtype).precision
    half = q // 2
    if bits is not None and bits <= q:
        return Finding("once", "sums hold no more bits than the result: one more rounding is one of theirs")
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
    text = f"{' + '.join(f'{a:g}*{b:g}' for a, b in terms)} + 2^{log2_of(bias)} is "
    text += ", ".join(f"{value:.9g}" for value in sorted(seen))
    if low in seen:
        return Finding("twice", text)
    return Finding("once" if seen == {high} else None, text)
