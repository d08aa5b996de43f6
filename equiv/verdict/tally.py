"""What is kept of outputs that are judged a part at a time: their counts, and the ones that decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.verdict.outcome import Outcome


class Found(NamedTuple):
    """Those outputs of a part that were judged in full; the others are inside, decided, and no worse than these.

    Attributes:
        at: Their places in the part, int64 ``(M,)``.
        inside: Bool ``(M,)``; a right kernel may give it.
        undecided: Bool ``(M,)``; right kernels may disagree.
        ratio: Error over envelope, float64 ``(M,)``.
    """

    at: Tensor
    inside: Tensor
    undecided: Tensor
    ratio: Tensor

    @property
    def is_plain(self) -> bool:
        """Whether nothing is outside or undecided."""
        return not len(self.at) or (bool(self.inside.all()) and not bool(self.undecided.any()))


_NONE = torch.zeros(0, dtype=torch.bool, device="cpu")
NOTHING = Found(
    torch.zeros(0, dtype=torch.int64, device="cpu"), _NONE, _NONE, torch.zeros(0, dtype=torch.float64, device="cpu")
)

Flats = Callable[[Tensor], Tensor]
"""From places in a part to places in the whole result."""


@dataclass
class Best:
    """The output with the highest score so far; of equal ones the first in the result."""

    score: float = -math.inf
    flat: int = 0

    def offer(self, scores: Tensor, at: Tensor, flats: Flats) -> None:
        """Scores ``(M,)`` of the outputs at ``at``; NaN counts as infinite."""
        if not len(at):
            return
        scores = scores.nan_to_num(math.inf, math.inf)
        top = float(scores.amax())
        if top >= self.score:
            flat = int(flats(at[scores == top]).min())
            if top > self.score or flat < self.flat:
                self.score, self.flat = top, flat


@dataclass
class Tally:
    """Counts over all parts, and the outputs that decide: see :class:`equiv.verdict.outcome.Verdict`."""

    total: int = 0
    identical: int = 0
    different: int = 0
    undecided: int = 0
    outside: int = 0
    breaks: int = 0
    mine: int = 0
    theirs: int = 0
    ratio: Best = field(default_factory=lambda: Best(0.0))
    mine_ratio: Best = field(default_factory=lambda: Best(0.0))
    furthest: Best = field(default_factory=Best)
    first_undecided: Best = field(default_factory=Best)

    def add(
        self, differ: Tensor, pair: tuple[Found, Found], breaks: tuple[Tensor, Tensor] | None, flats: Flats
    ) -> None:
        """One part.

        Args:
            differ: Zero or False where both results have the same bits, flat.
            pair: Both results as judged.
            breaks: How far they are apart, and which of them break the tolerances; None without tolerances.
            flats: From places in the part to those in the whole.
        """
        found, other = pair
        self.total += differ.numel()
        for mine in (mine for mine in pair if len(mine.at)):  # outside counts for more than any ratio inside
            self.ratio.offer(torch.where(mine.inside, mine.ratio, mine.ratio + 1), mine.at, flats)
        if breaks is None and found.is_plain and other.is_plain:
            self.identical += differ.numel() - int(torch.count_nonzero(differ))
            return
        same = differ == 0
        outside, undecided = torch.zeros_like(same), torch.zeros_like(same)
        for mine in pair:
            outside[mine.at[~mine.inside]] = True
            undecided[mine.at[mine.undecided]] = True
        undecided &= ~outside & ~same
        apart, broken = (differ, torch.zeros_like(same)) if breaks is None else breaks
        self.mine_ratio.offer(found.ratio, found.at, flats)
        self.mine += int((~found.inside).sum())
        self.theirs += int((~other.inside).sum())
        self.outside += int(outside.sum())
        self.breaks += int(broken.sum())
        self.identical += int((same & ~outside & ~broken).sum())
        self.different += int((outside | broken).sum())
        self.undecided += int((undecided & ~broken).sum())
        places = torch.arange(len(same), device="cpu")
        self.first_undecided.offer(undecided[undecided].double(), places[undecided], flats)
        self.furthest.offer(apart[broken].double(), places[broken], flats)

    @property
    def counts(self) -> dict[str, int]:
        """As in a verdict."""
        found = {"identical": self.identical, "different": self.different, "undecided": self.undecided}
        return {**found, "rounding": self.total - sum(found.values()), "total": self.total}

    @property
    def outcome(self) -> Outcome:
        """The gravest that occurs."""
        counts = self.counts
        grave = (Outcome.DIFFERENT, Outcome.UNDECIDED, Outcome.ROUNDING)
        return next((outcome for outcome in grave if counts[outcome.value]), Outcome.IDENTICAL)

    @property
    def max_ratio(self) -> float:
        """The largest ratio of either result."""
        return self.ratio.score - 1 if self.mine or self.theirs else self.ratio.score

    @property
    def worst(self) -> int:
        """The output that decides."""
        if not self.outside and self.breaks:
            return self.furthest.flat
        return self.first_undecided.flat if not self.outside and self.undecided else self.ratio.flat
