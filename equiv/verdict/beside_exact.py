"""One result beside the exact one alone, where nothing else is known to compare it with."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from equiv.dtypes import dtype_name
from equiv.numerics import Arithmetic, Assessment, subnormals_kept
from equiv.verdict.arguments import Comparison
from equiv.verdict.blocks import assess_both
from equiv.verdict.entries import entry_of, outcome_of
from equiv.verdict.explanation import explained
from equiv.verdict.outcome import Entry, Outcome, Verdict
from equiv.verdict.rounding import held_to_nearest


def beside_exact(rows: Comparison, arithmetic: Arithmetic, *, exactly: bool) -> Verdict:
    """What :func:`equiv.compare` says of ``actual`` ``(N, O)`` of rows; ``expected`` is not looked at.

    With ``exactly`` nothing but the exact result is right: every sum is exact in any order. No cause is looked for, and
    the entry that decides has two indices.
    """
    rows = replace(rows, expected=rows.actual)
    with subnormals_kept():
        found, _ = assess_both(rows, (arithmetic, arithmetic))
        if exactly:
            inside = rows.actual == found.exact
            ratio = torch.where(inside, 0.0, math.inf).double()
            found = replace(found, inside=inside, ratio=ratio, lower=found.exact, upper=found.exact)
        found, rounding = held_to_nearest(rows, rows.actual, found, arithmetic)
        outside, undecided = int((~found.inside).sum()), int((found.undecided & found.inside).sum())
        same = int(((rows.actual == found.exact) & found.inside & ~found.undecided).sum())
        total = rows.actual.numel()
        counts = {"identical": same, "different": outside, "undecided": undecided}
        counts |= {"rounding": total - sum(counts.values()), "total": total}
        outcome = outcome_of(counts)
        verdict = Verdict(outcome, "", dtype_name(rows.actual.dtype), tuple(rows.actual.shape), counts)
        verdict = replace(verdict, max_ratio=found.max_ratio, arithmetic=arithmetic.name)
        if outcome is not Outcome.IDENTICAL:
            verdict = replace(verdict, worst=_furthest(rows, found, arithmetic))
        return replace(verdict, explanation=explained(verdict, arithmetic, outside, 0, rounding))


def _furthest(rows: Comparison, found: Assessment, arithmetic: Arithmetic) -> Entry:
    score = torch.where(found.inside, found.ratio, found.ratio + 1).nan_to_num(math.inf, math.inf)
    score = torch.where(found.undecided & found.inside, found.ratio.new_tensor(0.5), score)
    at = divmod(int(score.flatten().argmax()), rows.actual.shape[1])
    right = found.exact[at].to(rows.actual.dtype).item()
    return entry_of(at, at, rows, found, right, arithmetic)
