"""A run at one glance: for each backend a map of law x form by dtype, with the largest error and what was not asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from equiv.report.model import Item, NotAsked, Row, Run, in_order
from equiv.report.plain import ratio_text

STEPS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
"""The largest errors over their envelope up to which a cell has the colours 1 to 6; 0 is for no error, 7 for more."""

KINDS = ("broken", "expected", "compared", "undecided", "holds", "not asked", "not run", "none", "empty")
"""What a cell says. ``holds``: the law compares no numbers; ``none``: it came to no comparison of this form; ``empty``:
the law says nothing of this form or dtype, or was not to be run."""


@dataclass(frozen=True)
class Square:
    """One law, form and dtype of a backend.

    Attributes:
        kind: One of ``KINDS``.
        text: A few characters.
        level: 0 to 7 by the largest error.
        row: The comparisons; None where there are none.
        failure: Number of the failure in ``Overview.failures``, or None.
        reasons: Why nothing, or not everything, was asked.
    """

    kind: str
    text: str = ""
    level: int = 0
    row: Row | None = None
    failure: int | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One law and form: a square for each dtype."""

    law: str
    form: str
    squares: tuple[Square, ...]


@dataclass(frozen=True)
class Map:
    """The lines of one backend."""

    backend: str
    dtypes: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Overview:
    """All that a page needs beside the run itself.

    Attributes:
        maps: One for each backend.
        rows: The table of the JSON, in its order.
        failures: The items whose law is broken, those that were expected to be at the end.
    """

    maps: tuple[Map, ...]
    rows: tuple[Row, ...]
    failures: tuple[Item, ...]

    @classmethod
    def of(cls, run: Run) -> Overview:
        """That of a run."""
        failures = (*run.failures, *(item for item in run.items if item.outcome == "expected"))
        rows = tuple(run.rows("law", "form", "dtype", "backend"))
        items = [*(item for item in run.items if item.outcome != "not run"), *run.not_run]
        backends = dict.fromkeys([*(item.backend for item in items), *(one.backend for one in run.not_asked)])
        return cls(tuple(_map(name, rows, items, failures, run.not_asked) for name in backends), rows, failures)


def _map(
    backend: str, rows: Iterable[Row], items: Iterable[Item], failures: Sequence[Item], left: Iterable[NotAsked]
) -> Map:
    mine = [item for item in items if item.backend == backend]
    by_place = {(row.law, row.form, row.dtype): row for row in rows if row.backend == backend}
    by_item = {(item.law, item.dtype): item for item in mine}
    broken = {
        (item.law, (item.failure or {}).get("form", item.form), item.dtype): number
        for number, item in enumerate(failures)
        if item.backend == backend
    }
    reasons = [one for one in left if one.backend == backend]
    places = [*by_place, *broken, *((one.law, one.form, one.dtype) for one in reasons)]
    laws, forms, dtypes = in_order()
    found = {(law, form) for law, form, _ in places if law and form}
    found |= {(item.law, item.form) for item in mine if item.law not in {law for law, _ in found}}
    plain = {law for law, form in found if form != "all"}
    kept = [pair for pair in found if pair[1] != "all" or pair[0] not in plain]
    names = {dtype for *_, dtype in places if dtype} | {item.dtype for item in mine}
    columns = tuple(sorted(names, key=lambda name: (dtypes.get(name, -1), name)))
    lines = [
        Line(
            law,
            form,
            tuple(
                _square(
                    by_item.get((law, dtype)),
                    by_place.get((law, form, dtype)),
                    broken.get((law, form, dtype)),
                    [one for one in reasons if _is_about(one, law, form, dtype)],
                )
                for dtype in columns
            ),
        )
        for law, form in sorted(kept, key=lambda pair: (laws.get(pair[0], -1), pair[0], forms.get(pair[1], -1)))
    ]
    return Map(backend, columns, tuple(lines))


def _is_about(one: NotAsked, law: str, form: str, dtype: str) -> bool:
    return one.law in ("", law) and one.form in ("", form, "all") and one.dtype in ("", dtype)


def _square(item: Item | None, row: Row | None, failure: int | None, left: Sequence[NotAsked]) -> Square:
    words = tuple(dict.fromkeys(f"{one.what}: {one.reason}" for one in left if one.law))
    level = 0 if row is None else level_of(row.worst)
    if failure is not None and item is not None:
        return Square("expected" if item.outcome == "expected" else "broken", _worst(row, "x"), level, row, failure)
    if row is not None and row.judged:
        told = row.identical + row.rounding + row.different
        kind, text = ("compared", ratio_text(row.worst)) if told else ("undecided", "?")
        return Square(kind, text + "*" * bool(words), level, row, reasons=words)
    if item is None:
        every = tuple(dict.fromkeys(f"{one.what}: {one.reason}" for one in left))
        return Square("not asked", "-", reasons=every) if every else Square("empty")
    if not item.ran:
        return Square(item.outcome, "-" if item.outcome == "not asked" else "...", reasons=words or (item.reason,))
    if words:
        return Square("not asked", "-", reasons=words)
    holds = row is not None and item.outcome == "holds"
    return Square("holds", "ok", row=row) if holds else Square("none", row=row)


def _worst(row: Row | None, mark: str) -> str:
    return f"{mark} {ratio_text(row.worst)}" if row is not None and row.worst > 1 else mark


def level_of(ratio: float) -> int:
    """The colour of an error over its envelope.

    Example:
        >>> [level_of(ratio) for ratio in (0.0, 0.003, 0.3, 1.0, 1.5)]
        [0, 1, 4, 6, 7]
    """
    return 0 if ratio == 0 else 1 + sum(ratio > step for step in STEPS)
