"""Sums of products nearly exactly: double-double for real dtypes, integers modulo 2**64 for the others.

The double-double product and sum are Dekker's and Knuth's error-free transformations (Ogita, Rump & Oishi, "Accurate
sum and dot product", SIAM J. Sci. Comput. 26(6), 2005), carried out on whole tensors in a number of steps that does not
depend on their sizes. No matrix kernel takes part, so a broken one cannot vouch for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.arguments import refusal
from equiv.numerics.checks import check_layer

_SPLIT = 2.0**27 + 1.0
_CHUNK = 1 << 14  # elements of (rows, O, n) worked on at once: 128 KiB a tensor, so that a dozen stay in the cache
_INTEGERS = 1 << 20  # the same for integers, which need two tensors
_FLOOR = -1000  # terms this many binary orders below the largest one count for less than 2^-1000 of it
_MODERATE = 2.0**400  # products of entries between this and its inverse, and their errors, stay in range as they are


def dot_double_double(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``x @ weight.T + bias`` as an unevaluated sum of two float64, exact to ``n**2 * 2**-103`` of the magnitudes.

    Args:
        x: ``(N, n)`` float64, finite.
        weight: ``(O, n)`` float64, finite.
        bias: ``(O,)`` float64 or None.

    Returns:
        High and low word, each ``(N, O)``. Intermediate products neither overflow nor underflow.

    Example:
        >>> x = torch.tensor([[1e20, 1.0, -1e20]], dtype=torch.float64)
        >>> dot_double_double(x, torch.ones(1, 3, dtype=torch.float64))[0].item()
        1.0
    """
    check_layer(x, weight, bias, (torch.float64,), "convert it with double()")
    moderate = all(map(_all_moderate, (x, weight, bias)))
    if not moderate:
        _check_finite(x=x, weight=weight, bias=bias)
    return summed_products(x, weight, bias, moderate=moderate)


def summed_products(x: Tensor, weight: Tensor, bias: Tensor | None, *, moderate: bool) -> tuple[Tensor, Tensor]:
    """:func:`dot_double_double` where it is known whether all entries are 0 or moderate."""
    rows, outputs, n = x.shape[0], weight.shape[0], x.shape[1]
    block = _block if moderate else _scaled_block
    wide = max(1, _CHUNK // max(1, n))
    step_o = min(outputs, wide)
    step_r = max(1, wide // max(1, step_o))
    if step_o == outputs and step_r >= rows:
        return block(x, weight, bias)
    high, low = x.new_empty(rows, outputs), x.new_empty(rows, outputs)
    for r in range(0, rows, step_r):
        for o in range(0, outputs, step_o):
            here = slice(r, r + step_r), slice(o, o + step_o)
            part = None if bias is None else bias[here[1]]
            high[here], low[here] = block(x[here[0]], weight[here[1]], part)
    return high, low


def _check_finite(**tensors: Tensor | None) -> None:
    for name, values in tensors.items():
        if values is not None and not bool(values.isfinite().all()):
            wrong = float(values[~values.isfinite()][0])
            raise refusal(name, "finite values", wrong, "see equiv.numerics.exact_affine for what others make of a sum")


def _all_moderate(values: Tensor | None) -> bool:
    if values is None or not values.numel():
        return True
    sizes = values.abs()
    least, largest = torch.aminmax(torch.where(sizes == 0, 1.0, sizes))
    return is_moderate(float(least), float(largest))


def is_moderate(least: float, largest: float) -> bool:
    """Whether products of magnitudes in this range, and the errors of these products, are normal float64 numbers."""
    return least >= 1 / _MODERATE and largest <= _MODERATE


def _block(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(r, n)``, ``(o, n)``, ``(o,)`` -> both words of the sums over n, ``(r, o)``."""
    words = _summed(*two_product(x[:, None], weight[None]))
    return words if bias is None else sum_of_words(words, (bias, None))


def sum_of_words(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    """The sum of two numbers in double-double; of the second, the low word may be missing.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> [word.item() for word in sum_of_words((one, 2.0**-70 * one), (2.0**-60 * one, None))]
        [1.0, 8.682087709356578e-19]
    """
    high, error = two_sum(a[0], b[0])
    low = error + (a[1] if b[1] is None else a[1] + b[1])
    return two_sum(high, low)


def _scaled_block(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same with mantissas and exponents apart, the largest term of each output scaled to about 1."""
    if bias is not None:  # one more term: bias * 1
        x, weight = torch.cat([x, x.new_ones(len(x), 1)], 1), torch.cat([weight, bias[:, None]], 1)
    if x.shape[-1] == 0:
        return _block(x, weight, None)
    mantissa_x, exponent_x = torch.frexp(x)
    mantissa_w, exponent_w = torch.frexp(weight)
    high, low = two_product(mantissa_x[:, None], mantissa_w[None])  # (r, o, n)
    exponent = exponent_x[:, None].long() + exponent_w[None].long()
    exponent = torch.where(high == 0, -(1 << 20), exponent)
    top = exponent.amax(-1).clamp(min=-2200)
    scale = power_of_two(exponent - top[..., None])
    high, low = _summed(high * scale, low * scale)
    return _scaled(high, top), _scaled(low, top)


def _summed(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """The double-double sum over the last dimension; zero without terms. ``high`` is used up.

    Beside a number of 4 times the sum of all magnitudes, the upper bits of every term stand on one grid, on which they
    add up exactly in any order (S. M. Rump, T. Ogita and S. Oishi, "Accurate floating-point summation part I", SIAM J.
    Sci. Comput. 31(1), 2008). What that leaves of a term is below ``2**-50`` of the magnitudes.
    """
    if high.shape[-1] == 1:
        return high[..., 0], low[..., 0]
    grid = 4 * high.abs().sum(-1, keepdim=True)
    upper = (high + grid).sub_(grid)
    total, error = two_sum(upper.sum(-1), high.sub_(upper).sum(-1))
    return two_sum(total, error + low.sum(-1))


def _scaled(values: Tensor, exponent: Tensor) -> Tensor:
    """``values * 2**exponent`` in steps that stay in range until the last."""
    third = exponent // 3
    return values * power_of_two(third) * power_of_two(third) * power_of_two(exponent - 2 * third)


def power_of_two(exponent: Tensor) -> Tensor:
    """``2.0**exponent`` exactly, for int64 exponents up to 1023; 0.0 below ``_FLOOR``."""
    power = ((exponent.clamp(_FLOOR, 1023) + 1023) << 52).view(torch.float64)
    return torch.where(exponent < _FLOOR, 0.0, power)


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a * b`` as its rounded value and the error of that rounding: the two add up to the product exactly.

    Float64 of shapes that broadcast, short of overflow (above about ``2**996``) and underflow. Veltkamp's splitting of
    each factor into two halves, and Dekker's product of the halves (T. J. Dekker, "A floating-point technique for
    extending the available precision", Numerische Mathematik 18, 1971).

    Example:
        >>> a = torch.tensor(1 + 2.0**-30, dtype=torch.float64)
        >>> high, low = two_product(a, a)
        >>> high.item() == 1 + 2.0**-29, low.item() == 2.0**-60
        (True, True)
    """
    p = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    error = torch.addcmul(-p, a_high, b_high)  # products of halves are exact: it makes no difference if they are fused
    return p, error.addcmul_(a_high, b_low).addcmul_(a_low, b_high).addcmul_(a_low, b_low)


def _split(values: Tensor) -> tuple[Tensor, Tensor]:
    big = values * _SPLIT
    high = big - (big - values)
    return high, values - high


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a + b`` as its rounded value and the error of that rounding: the two add up to the sum exactly.

    Float64 of shapes that broadcast, of any sizes, short of overflow (D. E. Knuth, "The Art of Computer Programming",
    volume 2, section 4.2.2, theorem B).

    Example:
        >>> one, small = torch.tensor([1.0, 2.0**-60], dtype=torch.float64)
        >>> high, low = two_sum(small, one)
        >>> high.item() == 1, low.item() == 2.0**-60
        (True, True)
    """
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def fast_two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`two_sum` with half the operations, where ``|a| >= |b|`` or ``a`` is 0 (Dekker, as above).

    Example:
        >>> one, small = torch.tensor([1.0, 2.0**-60], dtype=torch.float64)
        >>> fast_two_sum(one, small)[1].item() == 2.0**-60
        True
    """
    s = a + b
    return s, b - (s - a)


def exact_integers(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` in int64, exact modulo ``2**64``; float inputs must hold integers below ``2**53``.

    Complex inputs give int64 with a last dimension of 2 (real, imaginary).

    Args:
        x: ``(N, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.

    Example:
        >>> exact_integers(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).item()
        11
    """
    check_layer(x, weight, bias)
    if x.is_complex():
        xr, xi = _whole("x", x.real), _whole("x", x.imag)
        wr, wi = _whole("weight", weight.real), _whole("weight", weight.imag)
        real, imag = dot_by_terms(xr, wr) - dot_by_terms(xi, wi), dot_by_terms(xr, wi) + dot_by_terms(xi, wr)
        if bias is not None:
            real, imag = real + _whole("bias", bias.real), imag + _whole("bias", bias.imag)
        return torch.stack([real, imag], -1)
    y = dot_by_terms(_whole("x", x), _whole("weight", weight))
    return y if bias is None else y + _whole("bias", bias)


def _whole(name: str, values: Tensor) -> Tensor:
    values = values.detach().resolve_neg()
    whole = values.to(torch.int64)
    if values.is_floating_point() and not torch.equal(whole.to(values.dtype), values):
        wrong = float(values[whole.to(values.dtype) != values][0])
        raise refusal(name, "integers that 64 bits hold", wrong, "see equiv.numerics.exact_affine for other values")
    return whole


def dot_by_terms(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` by multiplication and sum, in chunks: exact where sums are, as no matrix kernel takes part."""
    n = x.shape[1]
    out = x.new_zeros(x.shape[0], weight.shape[0])
    step = max(1, _INTEGERS // max(1, n * weight.shape[0]))
    for r in range(0, x.shape[0], step):
        out[r : r + step] = (x[r : r + step, None, :] * weight).sum(-1)
    return out
