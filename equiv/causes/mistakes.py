"""The mistakes that a rewriting of a layer is known to make, as index arithmetic and roundings.

Letters: weight (O, n), columns in the order of a map (C, *spatial) flattened C-major. A column slip is an index: the
wrong weight is ``weight[:, index]``. Knows what each mistake does to numbers; `equiv.causes.weights` tries them and says which
one fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from equiv.numerics import format_of, ordinal


@dataclass(frozen=True)
class ColumnSlip:
    """A wrong order of the n inputs: the wrong weight is ``weight[:, index]``."""

    name: str
    sentence: str
    index: Tensor


def column_slips(feature_shape: tuple[int, ...]) -> list[ColumnSlip]:
    """The named wrong orders for a map, each order once, under the first name that fits it.

    Example:
        >>> [slip.name for slip in column_slips((2, 2, 1))]
        ['flattened-hwc', 'kernel-flipped', 'channels-reversed', 'inputs-reversed']
        >>> column_slips((2, 2, 1))[0].index.tolist()
        [0, 2, 1, 3]
    """
    plain = torch.arange(math.prod(feature_shape), device="cpu")
    seen = [plain]
    slips = []
    for slip in (*_orders(plain, feature_shape), *_flips(plain, feature_shape)):
        if not any(torch.equal(slip.index, index) for index in seen):
            seen.append(slip.index)
            slips.append(slip)
    return slips


def _orders(plain: Tensor, shape: tuple[int, ...]) -> Iterator[ColumnSlip]:
    """Every other order of the axes, channels last first, in both directions."""
    names = "C" + "DHW"[4 - len(shape) :]
    axes = tuple(range(len(shape)))
    last = (*axes[1:], 0)
    others = [order for order in itertools.permutations(axes) if order not in (axes, last)]
    for order in (last, *sorted(others, key=lambda order: order[0] != 0)):
        written = "".join(names[axis] for axis in order)
        moved = [names[axis] for axis in axes if order[axis] != axis]
        name, what = "axes-permuted", f"axes in the order {written} instead of {names}"
        if order == last:
            name, what = "flattened-hwc", f"flattened as {written} instead of {names}"
        elif order[0] == 0:
            name, what = "spatial-swapped", f"{_listed(moved)} exchanged, {written} instead of {names}"
        index = plain.view(shape).permute(order).reshape(-1)
        yield ColumnSlip(name, f"{what}: its columns are in the order {written}", index)
        yield ColumnSlip(name, f"{what}: columns in the order {names} were read as {written}", torch.argsort(index))


def _flips(plain: Tensor, shape: tuple[int, ...]) -> Iterator[ColumnSlip]:
    names = "C" + "DHW"[4 - len(shape) :]
    spatial = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    for count in range(len(spatial), 0, -1):
        for axes in itertools.combinations(spatial, count):
            name = "kernel-flipped" if count == len(spatial) else "kernel-flipped-axis"
            turn = ", turned by 180 degrees" if count == 2 else ""
            what = f"kernel flipped along {_listed([names[axis] for axis in axes])}{turn}"
            yield ColumnSlip(name, what, plain.view(shape).flip(axes).reshape(-1))
    channels = "channels" if math.prod(shape[1:]) > 1 else "inputs"  # the same with one position
    yield ColumnSlip("channels-reversed", f"{channels} in reverse order", plain.view(shape).flip(0).reshape(-1))
    yield ColumnSlip("inputs-reversed", "all inputs in reverse order", plain.flip(0))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Roundings: each keeps dtype and shape, and treats the parts of a complex number one by one.


def _cast(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda values: values.to(dtype).to(values.dtype)


def _tf32(values: Tensor) -> Tensor:
    """10 bits of mantissa, to nearest even, in the exponent range of float32."""
    bits = values.to(torch.float32).contiguous().view(torch.int32)
    kept = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return kept.view(torch.float32).to(values.dtype)


def _tf32_truncated(values: Tensor) -> Tensor:
    bits = values.to(torch.float32).contiguous().view(torch.int32)
    return (bits & ~0x1FFF).view(torch.float32).to(values.dtype)


_ROUNDINGS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rounded-float32": ("float32", _cast(torch.float32)),
    "rounded-tf32": ("TF32, or float16 in its range", _tf32),
    "truncated-tf32": ("TF32 (truncated)", _tf32_truncated),
    "rounded-float16": ("float16", _cast(torch.float16)),
    "rounded-bfloat16": ("bfloat16", _cast(torch.bfloat16)),
}
ROUNDINGS = {name: words for name, (words, _) in _ROUNDINGS.items()}
LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # the coarser first: its numbers are often the other's


def rounded(values: Tensor, name: str) -> Tensor:
    """Values rounded by a slip of `ROUNDINGS`, in their own dtype; integers are left alone.

    Example:
        >>> rounded(torch.tensor([1 + 2**-10, 1 + 2**-12]), "rounded-tf32").tolist()
        [1.0009765625, 1.0]
    """
    return _by_parts(values, _ROUNDINGS[name][1])


def flushed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values with what is subnormal in ``dtype`` replaced by zero."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return values
    least = format_of(dtype).min_normal
    return _by_parts(values, lambda part: torch.where(part.abs() < least, torch.zeros_like(part), part))


def _by_parts(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    if values.is_complex():
        return torch.view_as_complex(change(torch.view_as_real(values).contiguous()))
    return change(values) if values.is_floating_point() else values


# Matching: which rearrangement turns one list of vectors into another.


def same(a: Tensor, b: Tensor) -> bool:
    """Equal entry by entry; zeros of both signs are equal, and so are NaNs."""
    return bool(((a == b) | ((a != a) & (b != b))).all())


def matching(candidate: Tensor, reference: Tensor) -> Tensor | None:
    """The index with ``candidate == reference[index]`` for two (m, k), a permutation; None if there is none.

    Rows are compared through 64-bit sums of their bits, then exactly. Of rows that repeat, one in place stays.
    """
    ours, theirs = _keys(candidate), _keys(reference)
    if sorted(ours) != sorted(theirs):
        return None
    index = [j if ours[j] == theirs[j] else -1 for j in range(len(ours))]
    free: dict[int, list[int]] = {}
    for j in reversed(range(len(ours))):
        if index[j] < 0:
            free.setdefault(theirs[j], []).append(j)
    found = torch.tensor([free[ours[j]].pop() if i < 0 else i for j, i in enumerate(index)], device="cpu")
    return found if same(candidate, reference[found]) else None


def _keys(rows: Tensor) -> list[int]:
    parts = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
    bits = ordinal(parts) if parts.is_floating_point() else parts
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator, device="cpu") * 2 + 1
    keys: list[int] = (bits.to(torch.int64) * odd).sum(1).tolist()
    return keys


def permutation_words(index: Tensor) -> str:
    """What a permutation does, in words: shifted, reversed, two exchanged, or its first few places."""
    m = len(index)
    plain = torch.arange(m, device="cpu")
    moved = (index != plain).nonzero().flatten().tolist()
    shift = int(plain[0] - index[0]) % m
    if torch.equal(index, plain.roll(shift)):
        return f"shifted by {shift}" if 2 * shift <= m else f"shifted by -{m - shift}"
    if torch.equal(index, plain.flip(0)):
        return "in reverse order"
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} exchanged"
    shown = ", ".join(f"{j} holds {int(index[j])}" for j in moved[:4])
    return f"{len(moved)} of {m} moved: {shown}{', ...' if len(moved) > 4 else ''}"
