"""A run as one page of HTML. Every number on it is one of :meth:`equiv.report.Run.to_dict`.

The template is ``run.html`` of ``equiv.pages``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from equiv.errors import EquivError
from equiv.numerics import declared
from equiv.pages import Picture, picture_of, render
from equiv.report.asked import not_asked_lines
from equiv.report.model import OUTCOMES, Run
from equiv.report.overview import Overview
from equiv.report.plain import ratio_text
from equiv.text import counted
from equiv.verdict import Entry, Outcome, Verdict, share_words

_MOST_PICTURES = 12  # of a run; one takes 0.1 s and 10 to 20 KiB

_FINDINGS = "https://github.com/torch-equiv/torch-equiv/blob/main/docs/findings"


def page_of(run: Run) -> str:
    """A run as a page; pictures of failures where matplotlib is installed.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    overview = Overview.of(run)
    found = run.to_dict()
    pictures = [_picture(item.failure or {}) for item in overview.failures[:_MOST_PICTURES]]
    return render(
        "run.html",
        run=found,
        summary=_summary(run),
        outcomes={name: found["outcomes"][name.replace(" ", "_")] for name in OUTCOMES},
        overview=overview,
        pictures=pictures + [None] * (len(overview.failures) - len(pictures)),
        places={row: number for number, row in enumerate(overview.rows, start=1)},
        ratio_text=ratio_text,
        share_words=share_words,
        choices=_choices(found),
        left_out=not_asked_lines(run.not_asked),
        arithmetic=_arithmetic(run),
        findings=_FINDINGS,
        environment=vars(run.environment),
        request=_request(run),
    )


def _summary(run: Run) -> str:
    rows = run.rows("law")
    cases, compared = sum(row.cases for row in rows), sum(row.judged for row in rows)
    laws = len({item.law for item in run.items if item.ran})
    names = ", ".join(run.broken)
    what = f"{len(run.broken)} of {counted(laws, 'law')} broken: {names}." if run.broken else ""
    if not what:
        what = f"No law is broken; {counted(laws, 'law')} asked." if run.asked else "Nothing was asked."
    left = "" if run.complete else f" {counted(len(run.not_run), 'planned item')} did not run."
    return f"{what}{left} {counted(cases, 'case')} and {counted(compared, 'comparison')} in {run.seconds:.1f} s."


def _choices(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """What can be filtered by, with its values in the order of the report."""
    of_items = {name: [item[name] for item in found["items"]] for name in ("law", "dtype", "backend", "outcome")}
    listed = {
        "law": of_items["law"],
        "form": [row["form"] for row in found["table"] if row["form"] != "all"],
        **{name: of_items[name] for name in ("dtype", "backend", "outcome")},
    }
    return {name: list(dict.fromkeys(values)) for name, values in listed.items()}


def _picture(failure: Mapping[str, Any]) -> Picture | None:
    """The wrong value on a number line, beside the exact one and the envelope; None for what is about no number."""
    texts = (failure.get("actual"), failure.get("expected"), *(failure.get("envelope") or ()))
    numbers = [number_of(text) for text in texts if text]
    if len(numbers) != len(texts) or None in numbers:
        return None
    actual, exact, lower, upper = (*numbers, *numbers[1:] * 2)[:4]
    where = tuple(failure.get("where") or ())
    worst = Entry(where, actual, exact, exact, lower, upper, failure.get("ratio"))
    shown = Verdict(Outcome.DIFFERENT, failure["summary"], failure["dtype"], (), worst=worst)
    return picture_of(shown)


def number_of(text: str) -> int | float | complex | None:
    """The number that a text of a failure stands for; None where it is none.

    Example:
        >>> [number_of(text) for text in ("9007199254740993", "2.5", "inf", "(1-3j)", "shape (2,)")]
        [9007199254740993, 2.5, inf, (1-3j), None]
    """
    for kind in (int, float, complex):
        with suppress(ValueError):
            return kind(text)
    return None


def _arithmetic(run: Run) -> dict[str, Any]:
    """What envelopes follow: of each dtype and device as declared, and what was found to be otherwise."""
    from equiv.dtypes import BY_NAME, is_inexact

    dtypes = [name for name in dict.fromkeys(item.dtype for item in run.items) if name in BY_NAME]
    rows = []
    for device in run.request.devices:
        for name in dtypes:
            try:
                text = declared(BY_NAME[name], device).name if is_inexact(BY_NAME[name]) else "exact, modulo 2**bits"
            except EquivError:  # a device that this process does not know
                continue
            rows.append((device, name, text))
    words = ("weaker than declared", "envelopes follow", "known defect of torch", "conv kernel")
    return {"declared": rows, "found": {word: run.coverage[word] for word in words if word in run.coverage}}


def _request(run: Run) -> dict[str, Any]:
    asked = run.request
    return {
        "devices": ", ".join(asked.devices),
        "profile": asked.profile,
        "cases for each item": "those of the profile" if asked.examples is None else asked.examples,
        "seed": "one of its own for each item" if asked.seed is None else asked.seed,
        "processes": run.jobs,
        "seconds": f"{run.seconds:.1f}",
        "exit code": run.exit_code,
    }
