"""What `power.py` found, as a table in Markdown. Reads cells alone; runs nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cells = dict[str, dict[str, dict[str, Any]]]

INPUTS = {  # by runner
    "gate": "laws of equiv",
    "deep": "laws of equiv",
    "normal": "rule on normal inputs",
    "hypothesis": "by hand",
    "equiv": "rule on cases of equiv",
}
UNBROKEN = "torch as it is"
BEGIN, END = "<!-- results of power.py -->", "<!-- end of the results -->"
DIED = "!"  # torch itself ended the process


@dataclass(frozen=True)
class Column:
    """One oracle on one source of inputs: where its cells are, and what it is called."""

    runner: str
    oracle: str
    title: str


@dataclass(frozen=True)
class Row:
    """One fault or legal variant, with what the documentation says of it."""

    name: str
    title: str
    dtype: str
    profile: str


@dataclass(frozen=True)
class Outcome:
    """One column of one row over all seeds."""

    red: int
    seeds: int
    died: int
    examples: float | None
    seconds: float | None


def outcome(cells: Cells, column: Column, name: str, seeds: Sequence[int]) -> Outcome | None:
    found = [_cell(cells, column, name, seed) for seed in seeds]
    known = [cell for cell in found if cell is not None]
    if not known:
        return None
    red = [cell for cell in known if cell["red"]]
    return Outcome(
        len(red),
        len(known),
        sum(cell["died"] for cell in known),
        statistics.median(cell["examples"] for cell in red) if red else None,
        statistics.median(cell["seconds"] for cell in red) if red else None,
    )


def _cell(cells: Cells, column: Column, name: str, seed: int) -> dict[str, Any] | None:
    """Of deep, where it was not run, what the gate said."""
    here = cells.get(f"{column.runner}/{name}/{seed}")
    if here is None and column.runner == "deep":
        here = cells.get(f"gate/{name}/{seed}")
    return None if here is None else here.get(column.oracle)


def markdown(cells: Cells, columns: Sequence[Column], faults: Sequence[Row], legal: Sequence[Row], seeds: int) -> str:
    """The summary by column, then every fault and variant, one line each."""
    numbers = range(seeds)
    lines = [
        "| oracle | inputs | faults found | false alarms | of these in float32 | cases to the first detection "
        "| seconds to it | cases of a run | seconds per 100 cases | a run against the gate's |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rates = {column: _rate(cells, column, legal, numbers) for column in columns}
    runs = {column: _cases(cells, column, faults, numbers) for column in columns}
    gate = rates[columns[0]] * runs[columns[0]]
    for column in columns:
        on_faults = [outcome(cells, column, row.name, numbers) for row in faults]
        on_legal = [outcome(cells, column, row.name, numbers) for row in legal]
        always = sum(o is not None and o.red == o.seeds for o in on_faults)
        some = sum(o is not None and 0 < o.red < o.seeds for o in on_faults)
        examples = [o.examples for o in on_faults if o is not None and o.examples is not None]
        seconds = [o.seconds for o in on_faults if o is not None and o.seconds is not None]
        alarms = [row for row, o in zip(legal, on_legal, strict=True) if o is not None and o.red > 0]
        single = [row for row in legal if row.dtype == "float32"]
        cost = rates[column] * runs[column] / gate if gate else 0.0
        lines.append(
            f"| {column.title} | {INPUTS[column.runner]} | {always} of {len(faults)}{f' (+{some})' if some else ''} "
            f"| {len(alarms)} of {len(legal)} | {sum(row in single for row in alarms)} of {len(single)} "
            f"| {_number(examples, '.0f')} | {_number(seconds, '.2f')} "
            f"| {runs[column] or '-'} | {f'{100 * rates[column]:.2f}' if rates[column] else '-'} "
            f"| {f'{cost:.3f}' if cost else '-'} |"
        )
    short = [f"{number} {c.title}, {INPUTS[c.runner]}" for number, c in enumerate(columns, start=1)]
    lines += [
        "",
        "<details><summary>Every fault and every variant: the cases up to the first that was red</summary>",
        "",
        f"Columns: {'; '.join(short)}. A dash is nothing found.",
        "",
        *_lines("fault", cells, columns, faults, numbers),
        "",
        *_lines("legal variant", cells, columns, legal, numbers),
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _rate(cells: Cells, column: Column, legal: Sequence[Row], seeds: Sequence[int]) -> float:
    """Median seconds a case on torch as it is; 0 where that was not run."""
    known = [_cell(cells, column, row.name, seed) for row in legal if row.title == UNBROKEN for seed in seeds]
    found = [cell["whole"] / cell["cases"] for cell in known if cell is not None and cell["whole"]]
    return statistics.median(found) if found else 0.0


def _cases(cells: Cells, column: Column, faults: Sequence[Row], seeds: Sequence[int]) -> int:
    """Cases of a run in which nothing is found; 0 where every fault was."""
    known = [cells.get(f"{column.runner}/{row.name}/{seed}") for row in faults for seed in seeds]
    return max((cell[column.oracle]["cases"] for cell in known if cell and not cell[column.oracle]["red"]), default=0)


def _number(values: Sequence[float], shape: str) -> str:
    return format(statistics.median(values), shape) if values else "-"


def _lines(what: str, cells: Cells, columns: Sequence[Column], rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    short = " | ".join(f"{number}" for number in range(1, len(columns) + 1))
    lines = [f"| {what} | what | dtype | {short} |", f"|---|---|---|{'---:|' * len(columns)}"]
    for row in rows:
        marks = [_mark(outcome(cells, column, row.name, seeds)) for column in columns]
        deep = " (deep)" if row.profile == "deep" else ""
        lines.append(f"| {row.name}{deep} | {_plain(row.title)} | {row.dtype} | {' | '.join(marks)} |")
    return lines


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _mark(found: Outcome | None) -> str:
    if found is None:
        return "?"
    if not found.red:
        return DIED if found.died else "-"
    return f"{found.examples:.0f}" if found.red == found.seeds else f"{found.examples:.0f} ({found.red}/{found.seeds})"


def write_table(path: Path, table: str) -> None:
    """Put the table between the two markers of a page that has them; else the page is the table."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if BEGIN in text and END in text:
        before, after = text.split(BEGIN)[0], text.split(END, 1)[1]
        table = f"{before}{BEGIN}\n\n{table}\n{END}{after}"
    path.write_text(table, encoding="utf-8")
