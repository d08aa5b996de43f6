"""Which order turns one list of vectors into another, in words and undone as Python source."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.numerics import ordinal

_WRITTEN = 64  # places up to which an order is written out


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


def in_words(index: Tensor) -> str:
    """What a permutation does: shifted, reversed, two exchanged, or its first few places."""
    m, shift = len(index), _shift(index)
    if shift is not None:
        return f"shifted by {shift}" if 2 * shift <= m else f"shifted by -{m - shift}"
    plain = torch.arange(m, device="cpu")
    if torch.equal(index, plain.flip(0)):
        return "in reverse order"
    moved = (index != plain).nonzero().flatten().tolist()
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} exchanged"
    shown = ", ".join(f"place {j} holds {int(index[j])}" for j in moved[:4])
    return f"in another order ({len(moved)} of {m} moved: {shown}{', ...' if len(moved) > 4 else ''})"


def undone(index: Tensor, dim: int = 0) -> str | None:
    """What to write after a tensor's name to undo ``index`` along dimension 0 or 1; None where that is long.

    Example:
        >>> undone(torch.tensor([2, 0, 1])), undone(torch.tensor([0, 2, 3, 1]), 1)
        ('.roll(-1, 0)', '[:, [0, 3, 1, 2]]')
    """
    m, shift = len(index), _shift(index)
    if shift is not None:
        return f".roll({-shift if 2 * shift <= m else m - shift}, {dim})"
    if torch.equal(index, torch.arange(m, device="cpu").flip(0)):
        return f".flip({dim})"
    return f"[{':, ' * dim}{torch.argsort(index).tolist()}]" if m <= _WRITTEN else None


def _shift(index: Tensor) -> int | None:
    """The k with ``index == arange(m).roll(k)``."""
    shift = -int(index[0]) % len(index)
    return shift if torch.equal(index, torch.arange(len(index), device="cpu").roll(shift)) else None
