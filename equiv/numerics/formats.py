"""Number formats: unit roundoff, range, neighbours and bits of every dtype that a layer can have.

Knows nothing of layers or of error bounds. All helpers are elementwise and keep shape and device.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from equiv.arguments import check_dtype, check_tensor, refusal
from equiv.dtypes import FLOATS, SIGNED_OF_SIZE, is_inexact
from equiv.errors import EquivError
from equiv.numerics.checks import check_alike, check_values


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with ``precision`` significant bits, round to nearest even.

    Attributes:
        dtype: The real torch dtype; for a complex dtype, that of its parts.
        precision: Significant bits, the implicit one included (float32: 24).
        u: Unit roundoff, ``2**-precision``.
        max: Largest finite value.
        min_normal: Smallest positive normal value.
        min_subnormal: Smallest positive value, written nu in the bounds.
        overflow: Smallest magnitude that rounds to infinity (float16: 65520).

    Example:
        >>> from equiv.numerics import format_of
        >>> format_of(torch.bfloat16).precision, format_of(torch.float16).max
        (8, 65504.0)
    """

    dtype: torch.dtype
    precision: int
    u: float
    max: float
    min_normal: float
    min_subnormal: float
    overflow: float


def format_of(dtype: torch.dtype) -> Format:
    """The format of a floating or complex dtype (of its parts).

    Raises:
        EquivError: The dtype is neither floating nor complex.

    Example:
        >>> format_of(torch.bfloat16).precision, format_of(torch.float16).overflow
        (8, 65520.0)
    """
    if not isinstance(dtype, torch.dtype):
        raise refusal("dtype", "a floating or complex dtype", dtype, "pass such as torch.float32")
    return _format_of(dtype)


@cache
def _format_of(dtype: torch.dtype) -> Format:
    if not is_inexact(dtype):
        raise EquivError(
            f"dtype: expected a floating or complex dtype, got {dtype}; integers need no format, they are exact"
        )
    info = torch.finfo(dtype)
    precision = 1 - round(math.log2(info.eps))
    half_ulp_of_max = 2.0 ** (math.frexp(info.max)[1] - 1 - precision)
    overflow = math.inf if precision == 53 else info.max + half_ulp_of_max
    real = info.dtype if isinstance(info.dtype, torch.dtype) else getattr(torch, str(info.dtype))
    least = _LEAST if precision == 53 else info.tiny * info.eps
    return Format(real, precision, 2.0**-precision, info.max, info.tiny, least, overflow)


_LARGE = 2**13  # bytes, of tensors that are worth looking at in another way
_LEAST = struct.unpack("<d", bytes([1, 0, 0, 0, 0, 0, 0, 0]))[0]  # from its bits: products are 0 where they are flushed


def as_bits(values: Tensor) -> Tensor:
    """The bits of ``values`` as integers of the same width; a complex tensor gets a last dimension of 2.

    Example:
        >>> as_bits(torch.tensor([0.0, -0.0])).tolist()
        [0, -2147483648]
    """
    values = _parts(values.detach().resolve_neg())
    return values.contiguous().view(SIGNED_OF_SIZE[values.element_size()]) if values.is_floating_point() else values


def _parts(values: Tensor) -> Tensor:
    """Real values as they are; complex ones with a last dimension of 2, their real and imaginary part."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise: same bits, or both not a number (a NaN's payload is not part of a value). Shape as ``a``.

    Example:
        >>> same_bits(torch.tensor([0.0, float("nan")]), torch.tensor([-0.0, -float("nan")])).tolist()
        [False, True]
    """
    check_values("a", a)
    check_tensor("b", b, tuple(a.shape), advice="compare tensors of one shape")
    check_alike("b", b, "a", a)
    equal = as_bits(a) == as_bits(b)
    if not is_inexact(a.dtype):
        return equal
    nan_a, nan_b = (_parts(t.detach()).isnan() for t in (a, b))
    equal = equal | (nan_a & nan_b)
    return equal.all(-1) if a.is_complex() else equal


def bit_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits (NaN equals NaN).

    Example:
        >>> bit_equal(torch.ones(2), torch.ones(2)), bit_equal(torch.ones(2), torch.ones(2).double())
        (True, False)
    """
    check_values("a", a)
    check_values("b", b)
    return a.dtype == b.dtype and a.shape == b.shape and bool(same_bits(a, b).all())


def surely_bit_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two large tensors have the same bits, read eight bytes at a time; False where that is not known quickly.

    ``torch.equal`` takes up to 20 times as long for 16 bits.

    Example:
        >>> ones = torch.ones(4096)
        >>> surely_bit_equal(ones, ones.clone()), surely_bit_equal(ones[:4], ones[:4])
        (True, False)
    """
    numel, each = a.numel(), a.element_size()
    if numel * each < _LARGE or a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.is_conj() or b.is_conj() or a.is_neg() or b.is_neg() or not (a.is_contiguous() and b.is_contiguous()):
        return False
    together = max(1, 8 // each)
    if a.storage_offset() % together or b.storage_offset() % together:
        return False
    x, y, whole = a.detach().view(-1), b.detach().view(-1), numel - numel % together
    rest = whole == numel or torch.equal(as_bits(x[whole:]), as_bits(y[whole:]))
    return rest and torch.equal(x[:whole].view(torch.int64), y[:whole].view(torch.int64))


def ordinal(values: Tensor) -> Tensor:
    """Real floating values as int64 so that neighbours differ by one: ``-0.0`` and ``0.0`` share 0.

    The difference of two ordinals is their distance in ulp. NaN has no meaningful ordinal.

    Example:
        >>> ordinal(torch.tensor([-0.0, 0.0, 2.0**-149, -(2.0**-148)])).tolist()
        [0, 0, 1, -2]
    """
    check_values("values", values, FLOATS, "take the parts of a complex tensor")
    bits = as_bits(values).to(torch.int64)
    width = 8 * values.element_size()
    magnitude = bits & ((1 << (width - 1)) - 1)
    return torch.where(bits < 0, -magnitude, magnitude)


@cache
def _ordinal_of_infinity(dtype: torch.dtype) -> int:
    return int(ordinal(torch.tensor(math.inf, dtype=dtype, device="cpu")))


def from_ordinal(order: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of :func:`ordinal` (0 becomes ``+0.0``); clamped to the infinities.

    Example:
        >>> from_ordinal(ordinal(torch.tensor(1.0)) + 1, torch.float32).item() - 1 == 2.0**-23
        True
    """
    top = _ordinal_of_infinity(format_of(dtype).dtype)
    width = 8 * dtype.itemsize
    order = order.clamp(-top, top)
    bits = torch.where(order < 0, (-order) | (-(1 << (width - 1))), order)
    return bits.to(SIGNED_OF_SIZE[dtype.itemsize]).view(dtype)


def round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest value of ``dtype`` that is not above the float64 ``values``. Shape kept.

    Example:
        >>> round_down(torch.tensor([0.1], dtype=torch.float64), torch.float16).item() <= 0.1
        True
    """
    _check_rounding(values, dtype)
    if dtype == torch.float64:
        return values
    nearest = values.to(dtype)  # keeps the sign of what it rounds to zero, so that no step begins at the other zero
    bits = as_bits(nearest)
    return torch.where(nearest.double() > values, (bits - _away_from_zero(bits)).view(dtype), nearest)


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Smallest value of ``dtype`` that is not below the float64 ``values``. Shape kept.

    Example:
        >>> round_up(torch.tensor([0.1], dtype=torch.float64), torch.float16).item() >= 0.1
        True
    """
    _check_rounding(values, dtype)
    if dtype == torch.float64:
        return values
    nearest = values.to(dtype)
    bits = as_bits(nearest)
    # Adding 0.0 makes the zero that lies above the negative numbers positive.
    return torch.where(nearest.double() < values, (bits + _away_from_zero(bits)).view(dtype) + 0.0, nearest)


def round_nearest(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The value of ``dtype`` nearest to each of the float64 ``values``, ties to even. Shape kept.

    16 bits go through float32 rounded to odd, as rounding to nearest twice may go the wrong way (Boldo and Melquiond,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).

    Example:
        >>> just_above_a_tie = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
        >>> round_nearest(just_above_a_tie, torch.bfloat16).item(), just_above_a_tie.bfloat16().item()
        (1.0078125, 1.0)
    """
    _check_rounding(values, dtype)
    nearest = values.to(torch.float32 if dtype.itemsize < 4 else dtype)
    if dtype.itemsize >= 4:
        return nearest
    bits = as_bits(nearest)
    bits = torch.where(nearest.double().abs() > values.abs(), bits - 1, bits)  # toward zero, infinity included
    return (bits | (nearest != values)).view(torch.float32).to(dtype)


def _check_rounding(values: Tensor, dtype: torch.dtype) -> None:
    check_values("values", values, (torch.float64,), "round once, from double()")
    check_dtype("dtype", dtype, FLOATS, "round real and imaginary parts apart")


def _away_from_zero(bits: Tensor) -> Tensor:
    """What raises a number by one ulp when it is added to its bits: 1, or -1 for a negative number."""
    return (bits >> (8 * bits.element_size() - 1)) | 1


_ULPS = 10**6  # beyond it a factor says more


def gap_words(value: Tensor, other: Tensor) -> str:
    """How far apart two real numbers of one floating dtype are: in ulp, as a factor or a fraction; "" for NaN and such.

    Example:
        >>> one = torch.tensor(1.0)
        >>> gap_words(one, torch.nextafter(one, 2 * one)), gap_words(one, 3 * one), gap_words(one, -one)
        ('1 ulp apart', 'a factor of 3 apart', 'of opposite sign')
        >>> gap_words(one.double(), one.double() + 1e-5)
        '1e-05 of its size apart'
    """
    if not value.is_floating_point() or not bool(torch.isfinite(value) & torch.isfinite(other)):
        return ""
    ulps = abs(int(ordinal(value)) - int(ordinal(other)))
    if ulps <= _ULPS:
        return f"{ulps:,} ulp apart"
    a, b = float(value), float(other)
    if a * b == 0:
        return ""
    if (a < 0) != (b < 0):
        return "of opposite sign"
    ratio = max(abs(a), abs(b)) / min(abs(a), abs(b))
    return f"a factor of {ratio:.3g} apart" if ratio >= 1.01 else f"{abs(a - b) / abs(b):.2g} of its size apart"
