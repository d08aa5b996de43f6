"""How far the reading of two maps has come, and that as JSON's types and back.

A state may come from anywhere: every number in it is held against the range that it can have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from equiv.certificate._packed import packed, plain, unpacked, value_of
from equiv.certificate.sides import CAP, Difference
from equiv.errors import EquivError

Sums = dict[str, list[Tensor]]


@dataclass
class Reading:
    """What has been read so far.

    Attributes:
        next: The first column that has not been read.
        count: Entries that differ, those of the bias included.
        differences: The first of them.
        flushed: Entries where one kernel treats a subnormal as zero, as the dtype's kernels may.
        unseen: Entries of which a bias hides the last bits.
        resolution: How far such a weight may be off unseen, at most.
        bent: Which side is no affine map and why, or None.
        rough: Which side rounds as no right kernel of what was read does, and where, or None.
    """

    next: int = 0
    count: int = 0
    differences: list[Difference] = field(default_factory=list)
    flushed: int = 0
    unseen: int = 0
    resolution: float = 0.0
    bent: str | None = None
    rough: str | None = None


_VERSION = 1


def state_of(found: Reading, origin: str, sums: Sums) -> dict[str, Any]:
    """All that is needed to go on, in JSON's types."""
    return {
        "version": _VERSION,
        "method": "deterministic",
        "of": origin,
        "next": found.next,
        "count": found.count,
        "differences": [[d.output, d.input, plain(d.candidate), plain(d.reference)] for d in found.differences],
        "flushed": found.flushed,
        "unseen": found.unseen,
        "resolution": found.resolution,
        "bent": found.bent,
        "rough": found.rough,
        "sums": {name: [packed(t) for t in tensors] for name, tensors in sums.items()},
    }


def reading_of(state: Mapping[str, Any], n: int, outputs: int, sums: Sums) -> Reading:
    """The reading that :func:`state_of` was given; fills ``sums``.

    Raises:
        EquivError: An entry is missing, of another type, or out of its range.
    """
    try:
        entries = (n + 1) * outputs
        found = Reading(
            next=_whole(state, "next", n),
            count=_whole(state, "count", entries),
            differences=[_difference(entry, n, outputs) for entry in state["differences"]],
            flushed=_whole(state, "flushed", 2 * entries),
            unseen=_whole(state, "unseen", entries),
            resolution=state["resolution"],
            bent=state["bent"],
            rough=state["rough"],
        )
        if not (isinstance(found.resolution, (int, float)) and 0 <= found.resolution < math.inf):
            raise ValueError(f"resolution {found.resolution!r}")
        if not all(text is None or isinstance(text, str) for text in (found.bent, found.rough)):
            raise ValueError(f"bent {found.bent!r}, rough {found.rough!r}")
        if len(found.differences) != min(found.count, CAP):
            raise ValueError(f"{len(found.differences)} differences of {found.count}")
        for name, tensors in sums.items():
            for tensor, text in zip(tensors, state["sums"][name], strict=True):
                values = unpacked(text, tensor)
                if tensor.dtype != torch.int64 and not bool(values.isfinite().all()):
                    raise ValueError("sums that are not finite")
                tensor.copy_(values)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise EquivError(
            f"resume: expected a state as a certificate holds it, got one that cannot be read ({error!r:.60}); "
            "start again without resume="
        ) from error
    return found


def _whole(state: Mapping[str, Any], name: str, most: int) -> int:
    value = state[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} {value!r:.20} of {most}")
    return value


def _difference(entry: Any, n: int, outputs: int) -> Difference:
    output, index, a, b = entry
    _whole({"output": output}, "output", outputs - 1)
    if index is not None:
        _whole({"input": index}, "input", n - 1)
    return Difference(output, index, value_of(a), value_of(b))
