"""Sums of products nearly exactly: double-double for real dtypes, integers modulo 2**64 for the others.

The double-double product and sum are Dekker's and Knuth's error-free transformations (Ogita, Rump & Oishi, "Accurate
sum and dot product", SIAM J. Sci. Comput. 26(6), 2005), carried out on whole tensors. No matrix kernel takes part, so a
broken one cannot vouch for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SPLIT = 2.0**27 + 1.0
_CHUNK = 1 << 20  # elements of (rows, O, n) worked on at once: 8 MiB a tensor
_FLOOR = -1000  # terms this many binary orders below the largest one count for less than 2^-1000 of it
_MODERATE = 2.0**400  # products of entries between this and its inverse, and their errors, stay in range as they are


def dot_double_double(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``x @ weight.T + bias`` as an unevaluated sum of two float64, its error below ``n * 2**-100`` of the magnitudes.

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
    rows, outputs, n = x.shape[0], weight.shape[0], x.shape[1]
    high, low = x.new_zeros(rows, outputs), x.new_zeros(rows, outputs)
    if rows == 0 or outputs == 0:
        return high, low
    block = _block if all(map(_is_moderate, (x, weight, bias))) else _scaled_block
    wide = max(1, _CHUNK // max(1, n))
    step_o = min(outputs, wide)
    step_r = max(1, wide // step_o)
    for r in range(0, rows, step_r):
        for o in range(0, outputs, step_o):
            part = None if bias is None else bias[o : o + step_o]
            high[r : r + step_r, o : o + step_o], low[r : r + step_r, o : o + step_o] = block(
                x[r : r + step_r], weight[o : o + step_o], part
            )
    return high, low


def _is_moderate(values: Tensor | None) -> bool:
    if values is None or not values.numel():
        return True
    sizes = values.abs()
    least, largest = torch.aminmax(torch.where(sizes == 0, 1.0, sizes))
    return float(least) >= 1 / _MODERATE and float(largest) <= _MODERATE


def _block(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    high, low = two_product(x[:, None, :], weight[None, :, :])  # (r, o, n)
    if bias is not None:
        high, low = _with_term(high, bias), _with_term(low, torch.zeros_like(bias))
    return _summed(high, low)


def _scaled_block(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same with mantissas and exponents apart, the largest term of each output scaled to about 1."""
    mantissa_x, exponent_x = torch.frexp(x)
    mantissa_w, exponent_w = torch.frexp(weight)
    high, low = two_product(mantissa_x[:, None, :], mantissa_w[None, :, :])  # (r, o, n)
    exponent = exponent_x[:, None, :].long() + exponent_w[None, :, :].long()
    if bias is not None:
        mantissa_b, exponent_b = torch.frexp(bias)
        high, low = _with_term(high, mantissa_b), _with_term(low, torch.zeros_like(bias))
        exponent = _with_term(exponent, exponent_b.long())
    if high.shape[-1] == 0:
        return _summed(high, low)
    exponent = torch.where(high == 0, -(1 << 20), exponent)
    top = exponent.amax(-1, keepdim=True).clamp(min=-2200)
    scale = power_of_two(exponent - top)
    high, low = _summed(high * scale, low * scale)
    return _scaled(high, top[..., 0]), _scaled(low, top[..., 0])


def _with_term(terms: Tensor, last: Tensor) -> Tensor:
    """Terms ``(r, o, n)`` of sums and one more for each output: ``(o,)`` -> ``(r, o, n + 1)``."""
    return torch.cat([terms, last[None, :, None].expand(*terms.shape[:2], 1)], -1)


def _summed(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """The double-double sum over the last dimension, in pairs; zero without terms."""
    if high.shape[-1] == 0:
        return high.new_zeros(high.shape[:-1]), high.new_zeros(high.shape[:-1])
    while high.shape[-1] > 1:
        half = (high.shape[-1] + 1) // 2
        rest = high.shape[-1] - half
        s, e = two_sum(high[..., :rest], high[..., half:])
        e = e + (low[..., :rest] + low[..., half:])
        s, e = fast_two_sum(s, e)
        high, low = torch.cat([s, high[..., rest:half]], -1), torch.cat([e, low[..., rest:half]], -1)
    return high[..., 0], low[..., 0]


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
    a_big = a * _SPLIT
    a_high = a_big - (a_big - a)
    a_low = a - a_high
    b_big = b * _SPLIT
    b_high = b_big - (b_big - b)
    b_low = b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


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
    if x.is_complex():
        xr, xi = _whole(x.real), _whole(x.imag)
        wr, wi = _whole(weight.real), _whole(weight.imag)
        real, imag = _dot(xr, wr) - _dot(xi, wi), _dot(xr, wi) + _dot(xi, wr)
        if bias is not None:
            real, imag = real + _whole(bias.real), imag + _whole(bias.imag)
        return torch.stack([real, imag], -1)
    y = _dot(_whole(x), _whole(weight))
    return y if bias is None else y + _whole(bias)


def _whole(values: Tensor) -> Tensor:
    return values.detach().resolve_neg().to(torch.int64)


def _dot(x: Tensor, weight: Tensor) -> Tensor:
    """int64 matrix product by multiplication and sum, in chunks."""
    n = x.shape[1]
    out = x.new_zeros(x.shape[0], weight.shape[0])
    step = max(1, _CHUNK // max(1, n * weight.shape[0]))
    for r in range(0, x.shape[0], step):
        out[r : r + step] = (x[r : r + step, None, :] * weight).sum(-1)
    return out
