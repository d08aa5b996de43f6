"""A page about one finding: its outcome, what it says in words, its facts, its tables, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from equiv.environment import Environment
from equiv.errors import EquivError
from equiv.pages.pictures import Picture
from equiv.pages.rendering import render
from equiv.text import json_lines, shown


class Cell(NamedTuple):
    """A cell of a table: its text, how far a bar beside it is filled, from 0 to 1, and whether it is an outcome."""

    text: str
    filled: float | None = None
    is_outcome: bool = False


@dataclass(frozen=True)
class Table:
    """Rows that can be searched, and filtered by outcome.

    Attributes:
        title: Its heading.
        note: What its columns mean.
        columns: Their names; those after the first ``left`` hold numbers.
        rows: One outcome (as in ``equiv.Outcome``, or empty) and the cells for each row.
        left: Columns that hold words.
        marked: The row that the page is about, by number.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    left: int = 1
    marked: int | None = None

    @property
    def outcomes(self) -> list[str]:
        """Those of its rows, each once."""
        return list(dict.fromkeys(outcome for outcome, _ in self.rows if outcome))


@dataclass(frozen=True)
class Finding:
    """What a page says.

    Attributes:
        title: What was looked at, such as ``Two models``.
        outcome: Such as ``identical`` or ``not certified``: its word, and its colour in ``page.css``.
        explanation: One paragraph.
        facts: Names and texts.
        cause: What mends it: ``name``, ``sentence`` and ``fix``; None where none is known.
        notes: What else is worth knowing, a sentence each.
        tables: More of it.
        picture: What it looks like.
        payload: All of it in JSON's types.
    """

    title: str
    outcome: str
    explanation: str
    payload: Mapping[str, Any]
    facts: Mapping[str, str] = field(default_factory=dict)
    cause: Mapping[str, str] | None = None
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    picture: Picture | None = None


def finding_page(finding: Finding, *, about: Mapping[str, str] | None = None) -> str:
    """The page of a finding; ``about`` says what it was asked of, by name.

    Raises:
        EquivError: ``about`` is no mapping of words.
        MissingExtraError: jinja2 is not installed.
    """
    return render(
        "finding.html",
        finding=finding,
        about=_words("about", about),
        payload=json_lines(dict(finding.payload)),
        environment=vars(Environment.here()),
    )


def _words(argument: str, given: object) -> dict[str, str]:
    """A mapping of words, as somebody passed it."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(word, str) for pair in given.items() for word in pair):
        expected = "a mapping from names to texts"
        raise EquivError(
            f"{argument}: expected {expected}, got {shown(given)}; pass such as {{'candidate': 'mine.py'}}"
        )
    return dict(given)
