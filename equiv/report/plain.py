"""A run of laws as plain text that needs no other package: tables, and the summary of a run of pytest."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from textwrap import wrap

from equiv.errors import EquivError
from equiv.report.asked import not_asked_lines
from equiv.report.model import Run
from equiv.report.reached import expected_conditions
from equiv.text import counted, quoted, shown

_WIDTH = 79
_FEW = 24  # values that were not reached; a run of some laws or dtypes misses more, and nobody wants the list


def summary_lines(run: Run) -> list[str]:
    """A table by law, the coverage of conditions and the totals; lines of at most 79 columns.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.testing import check_backend
        >>> lines = summary_lines(check_backend(TorchEager(), laws=["exact"], dtypes=["int8"], examples=2, seed=0).run)
        >>> max(map(len, lines)) < 80
        True
    """
    if not isinstance(run, Run):
        raise EquivError(f"run: expected an equiv.report.Run, got {shown(run)}; pass what Run.of returns")
    rows = run.rows("law")
    counts = ("items", "cases", "identical", "rounding", "undecided", "broken")
    cells = [(row.law, *(f"{getattr(row, name):,}" for name in counts), ratio_text(row.worst)) for row in rows]
    head, body = table_lines(("law", *counts, "worst"), cells, width=_WIDTH)
    cases, compared = sum(row.cases for row in rows), sum(row.judged for row in rows)
    legend = """item: one law in one dtype. broken: items whose law does not hold. worst: the largest error as a
        fraction of its envelope, the interval of correct results."""
    return [
        *head,
        *body,
        *_coverage_lines(run),
        *(line for text in not_asked_lines(run.not_asked) for line in wrap(text, _WIDTH, subsequent_indent="  ")),
        f"{counted(sum(item.ran for item in run.items), 'item')}, {counted(cases, 'case')}, "
        f"{counted(compared, 'comparison')}",
        *wrap(" ".join(legend.split()), _WIDTH),
    ]


def status_text(run: Run) -> str:
    """How a run ended, in a few words."""
    return run.status if run.asked or run.status != "passed" else "nothing could be asked"


def summary_text(run: Run) -> str:
    """What came of a run in a few sentences, for people; white space counts for nothing."""
    ran = [item for item in run.items if item.ran]
    laws, dtypes = (list(dict.fromkeys(getattr(item, name) for item in ran)) for name in ("law", "dtype"))
    request = run.request
    word = "Stopped by an error" if run.status == "error" else "Interrupted"
    again = "" if request.seed is None else f"To repeat it: --seed {request.seed}"
    stopped = "" if run.complete else f"{word} after {len(run.items)} of {len(run.planned)} laws x dtypes. "
    if not ran:
        return f"{stopped}Nothing was checked. {again}"
    if run.broken:
        head = f"{len(run.broken)} of {counted(len(laws), 'law')} broken: {', '.join(run.broken)}"
    elif run.complete:
        head = f"{counted(len(laws), 'law')} {'holds' if len(laws) == 1 else 'hold'}"
    else:
        head = f"Nothing broken so far in {counted(len(laws), 'law')}"
    rows = run.rows("law")
    cases, compared = sum(row.cases for row in rows), sum(row.judged for row in rows)
    return f"""{stopped}{head}, in {counted(cases, "case")} and {counted(compared, "comparison")}, over
        {counted(len(dtypes), "dtype")} ({", ".join(dtypes)}), on {", ".join(request.devices)} with torch
        {run.environment.torch}, in {run.seconds:.1f} s; profile {request.profile}. {again}"""


def _coverage_lines(run: Run) -> list[str]:
    """What was reached of the expected conditions, and which kernels torch chose for convolutions."""
    coverage, expected, missed = run.coverage, expected_conditions(), run.not_reached
    total = sum(map(len, expected.values()))
    left = sum(map(len, missed.values()))
    lines = [f"coverage: {total - left} of {total} values of {len(expected)} conditions reached"]
    if left <= _FEW:
        for name, values in missed.items():
            lines += wrap(f"  not reached: {name} {', '.join(values)}", _WIDTH)
    texts = [_never_reached(run)] if run.is_full and run.not_reached_by_law else []
    texts += defect_lines(run)
    for text, count in coverage.get("weaker than declared", {}).items():
        texts.append(f"weaker than declared, {text}: {count:,} results judged by it")
    for text, count in coverage.get("envelopes follow", {}).items():
        texts.append(f"envelopes follow what the backend declares, {text}: {count:,} results judged by it")
    kernels = ", ".join(f"{name} {count:,}" for name, count in coverage.get("conv kernel", {}).items())
    texts.append(f"conv kernels chosen by torch: {kernels or 'none'}")
    return lines + [line for text in texts for line in wrap(text, _WIDTH, subsequent_indent="  ")]


def defect_lines(run: Run) -> list[str]:
    """What was counted as undecided for defects that are written down, of torch or of a runtime."""
    start, found = "known defect of ", []
    for name, known in run.coverage.items():
        if name.startswith(start):
            whose = name.removeprefix(start)
            findings = ", ".join(f"docs/findings/{finding}.md {count:,}" for finding, count in known.items())
            found.append(f"undecided for defects of {whose}{' itself' * (whose == 'torch')}: {findings}")
    return found


def _never_reached(run: Run) -> str:
    """The conditions that laws were to reach and did not, which tells something in a full run alone."""
    told = [
        f"{law}: {', '.join(f'{condition} {value}' for condition, values in missed.items() for value in values)}"
        for law, missed in run.not_reached_by_law.items()
    ]
    return f"never reached: {'; '.join(told)}"


def ratio_text(ratio: float) -> str:
    """An error as a fraction of its envelope, in at most five characters.

    Example:
        >>> [ratio_text(ratio) for ratio in (0.0, 0.001, 0.25, 12345.6)]
        ['0', '<0.01', '0.25', '1e+04']
    """
    if not isinstance(ratio, (int, float)) or not ratio >= 0:
        raise EquivError(f"ratio: expected a number of at least 0, got {shown(ratio)}; pass a float")
    if ratio == 0:
        return "0"
    ratio = float(min(ratio, sys.float_info.max)) if isinstance(ratio, int) else ratio
    return "<0.01" if ratio < 0.005 else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1g}"


def table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int, left: int = 1, gap: int = 2
) -> tuple[list[str], list[str]]:
    r"""The lines of a table: its heading, then a rule and the rows.

    The first ``left`` columns are flush left and the others flush right, ``gap`` blanks apart. No word is broken: where
    the width does not hold the longest words side by side, there is no heading and each row becomes a paragraph.

    Example:
        >>> head, body = table_lines(("form", "weights"), [("linear", "8")], width=80)
        >>> print("\n".join(head + body))
          form    weights
         ----------------
          linear        8
    """
    for name, value, least in (("width", width, 1), ("left", left, 0), ("gap", gap, 0)):
        if type(value) is not int or not least <= value < 2**31:
            raise EquivError(f"{name}: expected an integer of at least {least}, got {shown(value)}; pass columns")
    columns, cells = _words("columns", [columns])[0], _words("rows", rows)
    wrong = next((row for row in cells if len(row) != len(columns)), None)
    if wrong is not None or not columns:
        expected = f"{len(columns)} words in each row, one for each column"
        raise EquivError(f"rows: expected {expected}, got {shown(wrong)}; pass as many")
    by_column = list(zip(columns, *cells, strict=True))
    most = [max(map(len, column)) for column in by_column]
    widths = _fitted(most, [_least(column) for column in by_column], width - gap * len(columns) - 1)
    if widths is None:
        return [], [line for row in cells for line in _paragraph(columns, row, width, left)]

    def lines(row: Sequence[str], *, bottom: bool = False) -> list[str]:
        parts = [
            wrap(cell, size, break_long_words=False, break_on_hyphens=False)
            for cell, size in zip(row, widths, strict=True)
        ]
        height = max(1, *map(len, parts))
        full = [[""] * (height - len(part)) + part if bottom else part + [""] * (height - len(part)) for part in parts]
        return [_line(line, widths, left, gap) for line in zip(*full, strict=True)]

    rule = " " + "-" * (sum(widths) + gap * len(widths) - 1)
    return lines(columns, bottom=True), [rule, *(line for row in cells for line in lines(row))]


def _words(name: str, rows: object) -> list[list[str]]:
    """Rows of words, from whatever can be read once."""
    found: list[list[str]] = []
    try:
        for row in rows:  # type: ignore[attr-defined]
            found.append(list(row))
            if isinstance(row, str) or not all(isinstance(word, str) for word in found[-1]):
                raise TypeError(f"{shown(row)} is no row of words")
    except Exception as error:
        what = f"{type(error).__name__}: {quoted(error, 100)}"
        raise EquivError(f"{name}: expected sequences of words, got {what}; pass lists of strings") from error
    return found


def _line(cells: Sequence[str], widths: Sequence[int], left: int, gap: int) -> str:
    placed = [
        cell.ljust(width) if number < left else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "".join(" " * gap + cell for cell in placed).rstrip()


def _least(column: Sequence[str]) -> int:
    """The least width of a column that breaks no word; shapes and numbers with commas stay in one."""
    whole = any("(" in text or "," in text for text in column)
    return max(len(part) for text in column for part in ([text] if whole else text.split() or [""]))


def _fitted(most: list[int], least: list[int], available: int) -> list[int] | None:
    """Widths that fit, the widest that may become narrower first; None where the least do not fit."""
    found = list(most)
    while sum(found) > available:
        number = max(range(len(found)), key=lambda i: (found[i] > least[i], found[i]))
        if found[number] == least[number]:
            return None
        found[number] -= 1
    return found


def _paragraph(columns: Sequence[str], row: list[str], width: int, left: int) -> list[str]:
    """A row as a paragraph: what stands on the left, then every other cell after the name of its column."""
    head = " ".join(cell for cell in row[:left] if cell)
    rest = "; ".join(f"{name} {cell}" for name, cell in zip(columns[left:], row[left:], strict=True) if cell)
    text = f"{head}: {rest}" if head else rest
    return wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
