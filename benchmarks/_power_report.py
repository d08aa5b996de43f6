"""What `power.py` found, as a table in Markdown and as a picture. Reads cells alone; runs nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cells = dict[str, dict[str, dict[str, Any]]]

GROUPS = {
    "laws": "laws of equiv",
    "normal": "rule on normal inputs",
    "hypothesis": "by hand",
    "equiv": "rule on cases of equiv",
}
BEGIN, END = "<!-- results of power.py -->", "<!-- end of the results -->"
DIED = "!"  # torch itself ended the process
FOUND, SOME, MISSED, ALARM, QUIET = "#0072B2", "#56B4E9", "#E4E4E4", "#D55E00", "#FFFFFF"  # Okabe and Ito


@dataclass(frozen=True)
class Column:
    """One oracle on one source of inputs: where its cells are, and what it is called."""

    runner: str
    oracle: str
    group: str
    title: str


@dataclass(frozen=True)
class Row:
    """One fault or legal variant, with what the documentation says of it."""

    name: str
    title: str
    source: str
    kind: str
    profile: str
    dtype: str


@dataclass(frozen=True)
class Outcome:
    """One column of one row over all seeds."""

    red: int
    seeds: int
    died: int
    examples: float | None
    seconds: float | None


def outcome(cells: Cells, column: Column, name: str, seeds: Sequence[int]) -> Outcome | None:
    found = [cells.get(f"{column.runner}/{name}/{seed}", {}).get(column.oracle) for seed in seeds]
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


def markdown(cells: Cells, columns: Sequence[Column], faults: Sequence[Row], legal: Sequence[Row], seeds: int) -> str:
    """The summary by column, then every fault and variant, one line each."""
    numbers = range(seeds)
    lines = [
        "| oracle | inputs | faults found | false alarms | of these in float32 | cases to the first detection | seconds to it "
        "| seconds of a green run | against the gate |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    whole = {column: _whole(cells, column, legal, numbers) for column in columns}
    gate = whole[columns[0]]
    for column in columns:
        on_faults = [outcome(cells, column, row.name, numbers) for row in faults]
        on_legal = [outcome(cells, column, row.name, numbers) for row in legal]
        always = sum(o is not None and o.red == o.seeds for o in on_faults)
        some = sum(o is not None and 0 < o.red < o.seeds for o in on_faults)
        examples = [o.examples for o in on_faults if o is not None and o.examples is not None]
        seconds = [o.seconds for o in on_faults if o is not None and o.seconds is not None]
        alarms = [row for row, o in zip(legal, on_legal, strict=True) if o is not None and o.red > 0]
        single = [row for row in legal if row.dtype == "float32"]
        own = whole[column]
        ratio = f"{own / gate:.3f}" if own and gate else "-"
        lines.append(
            f"| {column.title} | {GROUPS[column.group]} | {always} of {len(faults)}{f' (+{some})' if some else ''} "
            f"| {len(alarms)} of {len(legal)} | {sum(row in single for row in alarms)} of {len(single)} "
            f"| {_number(examples, '.0f')} | {_number(seconds, '.2f')} "
            f"| {'-' if own is None else f'{own:.2f}'} | {ratio} |"
        )
    lines += ["", *_lines("fault", cells, columns, faults, numbers), ""]
    lines += _lines("legal variant", cells, columns, legal, numbers)
    return "\n".join(lines) + "\n"


def _whole(cells: Cells, column: Column, legal: Sequence[Row], seeds: Sequence[int]) -> float | None:
    """Median seconds of a run over all cases: on the legal variants, where a rule goes on after an alarm."""
    found = [
        cells[key][column.oracle]["whole"]
        for row in legal
        for seed in seeds
        if (key := f"{column.runner}/{row.name}/{seed}") in cells and cells[key][column.oracle]["whole"] is not None
    ]
    return statistics.median(found) if found else None


def _number(values: Sequence[float], shape: str) -> str:
    return format(statistics.median(values), shape) if values else "-"


def _lines(what: str, cells: Cells, columns: Sequence[Column], rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    short = [f"{number}" for number in range(1, len(columns) + 1)]
    legend = "; ".join(f"{n} {c.title}, {GROUPS[c.group]}" for n, c in zip(short, columns, strict=True))
    lines = [f"Columns: {legend}." if what == "fault" else "", ""]
    lines += [f"| {what} | what | dtype | {' | '.join(short)} |", f"|---|---|---|{'---:|' * len(columns)}"]
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


# -- the picture -------------------------------------------------------------------------------------------------------


def draw(
    path: Path, cells: Cells, columns: Sequence[Column], faults: Sequence[Row], legal: Sequence[Row], seeds: int
) -> None:
    """The matrix: faults found in blue with the number of cases it took, false alarms in orange with a cross.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    mpl.rcParams.update({"svg.hashsalt": "equiv", "font.family": "DejaVu Sans"})
    gap = 1.6
    tops = [*(float(i) for i in range(len(faults))), *(len(faults) + gap + i for i in range(len(legal)))]
    high = tops[-1] + 1
    figure, axes = plt.subplots(figsize=(10, 0.235 * (high + 7.6)))
    figure.subplots_adjust(left=0.27, right=0.995, top=1 - 7.0 / (high + 7.6), bottom=0.3 / (high + 7.6))
    shift = _shifts(columns)
    for row, top in zip((*faults, *legal), tops, strict=True):
        is_fault = top < len(faults)
        for column in columns:
            found = outcome(cells, column, row.name, range(seeds))
            colour, text, ink = _look(found, is_fault=is_fault)
            edge = "#9A9A9A" if colour == QUIET else "white"
            left = shift[column]
            axes.add_patch(Rectangle((left, top), 0.94, 0.9, facecolor=colour, edgecolor=edge, linewidth=0.4))
            axes.text(left + 0.47, top + 0.47, text, ha="center", va="center", fontsize=7, color=ink)
        name = row.name + (" (deep)" if row.profile == "deep" else "")
        axes.text(-0.15, top + 0.47, name, ha="right", va="center", fontsize=8)
    for column in columns:
        left = shift[column]
        kills, alarms = _totals(cells, column, faults, legal, seeds)
        axes.text(left + 0.47, -1.35, column.title, ha="left", va="bottom", rotation=45, fontsize=8)
        axes.text(left + 0.47, -0.55, str(kills), ha="center", va="center", fontsize=8, weight="bold", color=FOUND)
        axes.text(
            left + 0.47, len(faults) + gap - 0.55, str(alarms), ha="center", va="center", fontsize=8, weight="bold",
            color=ALARM if alarms else "black",
        )  # fmt: skip
    axes.text(-0.15, -0.55, f"found, of {len(faults)} faults", ha="right", va="center", fontsize=8, weight="bold")
    below = len(faults) + gap - 0.55
    axes.text(-0.15, below, f"alarms, of {len(legal)} legal", ha="right", va="center", fontsize=8, weight="bold")
    for group, words in GROUPS.items():
        lefts = [shift[c] for c in columns if c.group == group]
        if lefts:
            middle = (min(lefts) + max(lefts) + 0.94) / 2
            axes.plot([min(lefts), max(lefts) + 0.94], [-5.3, -5.3], color="black", linewidth=0.8, clip_on=False)
            label = words.replace("laws of equiv", "laws of\nequiv").replace("by hand", "by\nhand")
            axes.text(middle, -5.4, label, ha="center", va="bottom", fontsize=8, weight="bold")
    axes.set_xlim(0, shift[columns[-1]] + 1)
    axes.set_ylim(high, 0)
    axes.axis("off")
    figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None, facecolor="white")
    plt.close(figure)


def _shifts(columns: Sequence[Column]) -> dict[Column, float]:
    """Where each column stands: one apart, with half a column between groups."""
    groups = list(dict.fromkeys(column.group for column in columns))
    return {column: index + 0.5 * groups.index(column.group) for index, column in enumerate(columns)}


def _look(found: Outcome | None, *, is_fault: bool) -> tuple[str, str, str]:
    """Colour, text and colour of the text of one cell: told apart without colour too."""
    if found is None:
        return QUIET, "?", "black"
    if not is_fault:
        return (ALARM, "x", "white") if found.red else (QUIET, DIED if found.died else "", "black")
    if not found.red:
        return MISSED, DIED if found.died else "-", "#555555"
    number = f"{found.examples:.0f}"
    return (FOUND, number, "white") if found.red == found.seeds else (SOME, number, "black")


def _totals(cells: Cells, column: Column, faults: Sequence[Row], legal: Sequence[Row], seeds: int) -> tuple[int, int]:
    kills = [outcome(cells, column, row.name, range(seeds)) for row in faults]
    alarms = [outcome(cells, column, row.name, range(seeds)) for row in legal]
    return sum(o is not None and o.red == o.seeds for o in kills), sum(o is not None and o.red > 0 for o in alarms)
