"""A verdict in a paragraph: what was found at how many outputs, and what follows from it."""

from __future__ import annotations

from equiv.causes import rounding_cause
from equiv.numerics import Arithmetic
from equiv.text import counted
from equiv.verdict.outcome import Outcome, Verdict


def explained(
    verdict: Verdict, arithmetic: Arithmetic | None, outside: int, breaks: int, rounding: str | None = None
) -> str:
    """What an envelope says: ``outside`` outputs lie beyond it, ``breaks`` beyond the caller's own tolerance.

    ``rounding`` is the name of the rounding that all results come from, where that is not to nearest.
    """
    counts, total = verdict.counts, verdict.counts["total"]
    kind = arithmetic.name if arithmetic else f"{verdict.dtype}, exact modulo 2**bits"
    if verdict.outcome is Outcome.IDENTICAL:
        return _identical(total, f" ({kind})")
    if verdict.outcome is Outcome.ROUNDING:
        same = counts["identical"]
        text = (
            f"{_inside(total, kind)}; {same:,} {_verb(same, 'are', 'is')} the same bit for bit; the largest error is "
            f"{verdict.max_ratio:.2g} of its envelope"
        )
        if verdict.worst is not None and verdict.worst.error_in_uS is not None:
            text += f", {verdict.worst.error_in_uS:.2g} units of u*S over {counted(verdict.worst.terms or 0, 'term')}"
        return text + "."
    if verdict.outcome is Outcome.UNDECIDED:
        return (
            f"for {counts['undecided']:,} of {total:,} outputs right kernels may disagree: the sum of the magnitudes "
            "of the terms reaches the largest finite value, so that some order of summation overflows (scale the "
            "input down to get a verdict), or a subnormal meets an infinity, which some kernels take for 0 times "
            f"infinity ({kind})."
        )
    if not outside:
        exceed = _verb(breaks, "exceed", "exceeds")
        return f"{_inside(total, kind)}, but {breaks:,} {exceed} the tolerance that was asked for."
    if arithmetic is None:
        said = _some(outside, total, "are", "is", "integer output")
        return f"{said} wrong: integers are exact in any order ({kind})."
    if rounding is not None:
        said = _some(outside, total, "are", "is")
        return f"{said} not what rounding to nearest gives: {rounding_cause(rounding).sentence} ({kind})."
    said, them = _some(outside, total, "lie", "lies"), _verb(outside, "them", "it")
    return f"{said} outside the envelope: no right kernel gives {them} ({kind})."


def without_layer(verdict: Verdict, *, integers: bool) -> str:
    """What bits and tolerances say where the layer and its input are not known."""
    counts, total = verdict.counts, verdict.counts["total"]
    if verdict.outcome is Outcome.IDENTICAL:
        return _identical(total)
    if verdict.outcome is Outcome.DIFFERENT and integers:
        said = _some(counts["different"], total, "differ", "differs", "integer output")
        return f"{said}: integers are exact in any order."
    if verdict.outcome is Outcome.DIFFERENT:
        said = _some(counts["different"], total, "exceed", "exceeds")
        return f"{said} the tolerance that was asked for."
    return (
        f"{_some(counts['undecided'], total, 'differ', 'differs')}, and without the input and the layer nobody "
        "can tell rounding from a defect. Pass input= and layer= (or weight= and bias=) for a verdict."
    )


def blamed(mine: int, theirs: int) -> str:
    """Which of the two results is outside, where it is not ``actual`` alone: at how many outputs each is."""
    if theirs == 0:
        return ""
    if mine == 0:
        return f" It is `expected` that is outside ({counted(theirs, 'output')}); all of `actual` is inside."
    return f" `actual` is outside at {counted(mine, 'output')}, `expected` at {theirs:,}."


def _identical(total: int, kind: str = "") -> str:
    return f"{_all(total, 'are', 'is')} the same bit for bit{kind}." if total else "both results are empty."


def _some(count: int, total: int, many: str, one: str, what: str = "output") -> str:
    return f"{count:,} of {counted(total, what)} {_verb(count, many, one)}"


def _inside(total: int, kind: str) -> str:
    return f"{_all(total, 'lie', 'lies')} inside the envelope of right kernels ({kind})"


def _all(total: int, many: str, one: str) -> str:
    return f"the one output {one}" if total == 1 else f"all {total:,} outputs {many}"


def _verb(count: int, many: str, one: str) -> str:
    return one if count == 1 else many
