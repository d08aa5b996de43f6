"""A verdict as a page of HTML."""

from __future__ import annotations

from collections.abc import Mapping

from equiv.pages import Finding, finding_page, picture_of
from equiv.text import counted
from equiv.verdict.outcome import Entry, Verdict, error_words, number_text


def page_of(verdict: Verdict, about: Mapping[str, str] | None) -> str:
    """The page; ``about`` says what was compared."""
    return finding_page(
        Finding(
            title="Two results compared",
            outcome=verdict.outcome.value,
            explanation=verdict.explanation,
            payload=verdict.to_dict(),
            facts=facts_of(verdict),
            cause=None if verdict.cause is None else vars(verdict.cause),
            picture=picture_of(verdict),
        ),
        about=about,
    )


def facts_of(verdict: Verdict) -> dict[str, str]:
    """What a verdict says beside its explanation, by name."""
    counts = ", ".join(f"{number:,} {name}" for name, number in verdict.counts.items())
    found = {"dtype": verdict.dtype, "shape": str(verdict.shape), "outputs": counts}
    if verdict.arithmetic:
        found["arithmetic"] = verdict.arithmetic
    if verdict.worst is not None:
        found |= _entry(verdict.worst)
    return found | {f"condition {number}": text for number, text in enumerate(verdict.conditions, start=1)}


def _entry(entry: Entry) -> dict[str, str]:
    found = {
        "worst at": f"[{', '.join(map(str, entry.index))}]",
        "actual": number_text(entry.actual),
        "expected": number_text(entry.expected),
    }
    if entry.exact is not None:
        found["exact"] = number_text(entry.exact)
    if entry.magnitude is not None:
        found["envelope"] = f"[{number_text(entry.lower)}, {number_text(entry.upper)}]"
        found["terms"] = f"{counted(entry.terms or 0, 'term')} of total size {entry.magnitude:.6g}"
        found["error"] = ", ".join(error_words(entry))
    return found
