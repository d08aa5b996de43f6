"""A run as a page of Markdown: the summary of a job, or the text of an issue.

What others have named or said stands in code, so that no name becomes markup, a mention or a link.
"""

from __future__ import annotations

import html
import re

from equiv.laws import Failure
from equiv.report.asked import not_asked_lines
from equiv.report.model import Item, Run
from equiv.report.plain import ratio_text, status_text, summary_text
from equiv.text import counted, quoted

LONGEST = 60_000
"""Characters; the text of an issue may have 65,536."""

_IN_FULL = 5  # failures; the others have a line each
_LINES = 40  # of one list
_WIDTH = 100


def markdown_of(run: Run) -> str:
    """How it ended, the first failures with their programs, and the table by law; at most 60,000 characters."""
    failures = run.failures
    for in_full in (_IN_FULL, 1, 0):
        text = "\n\n".join([*_head(run), *_failures(failures, in_full), *_tables(run)]) + "\n"
        if len(text) <= LONGEST:
            return text
    return "\n\n".join([*_head(run), f"{counted(len(failures), 'failure')} in the report."]) + "\n"


def _head(run: Run) -> list[str]:
    backends = list(dict.fromkeys(item.backend for item in run.items))[:4]
    on = f" on {', '.join(_span(quoted(name, 100)) for name in backends)}" if backends else ""
    here = run.environment
    where = f"equiv {here.equiv}, torch {here.torch}, Python {here.python}, {here.platform}, CPU {here.cpu}"
    return [f"## equiv: {status_text(run)}{on}", _text(" ".join(summary_text(run).split())), _text(where)]


def _failures(failures: list[Item], in_full: int) -> list[str]:
    blocks = [_failure(Failure.of(item.failure or {})) for item in failures[:in_full]]
    rest = failures[in_full:]
    lines = [quoted(Failure.of(item.failure or {}).summary, 200) for item in rest]
    return [*blocks, f"{len(rest):,} more:", _listed(lines)] if rest else blocks


def _failure(failure: Failure) -> str:
    """One broken law: what is wrong, and its program folded away."""
    law, dtype, backend = (_span(quoted(name, 100)) for name in (failure.law, failure.dtype, failure.backend))
    said = f"{failure.summary}\n{failure.details(_WIDTH, with_program=False)}"
    parts = [f"### {law} in {dtype} on {backend}", _block("text", said)]
    if failure.snippet:
        parts.append(_folded("A program that fails in the same way", _block("python", failure.snippet)))
    return "\n\n".join(parts)


def _tables(run: Run) -> list[str]:
    counts = ("items", "cases", "identical", "rounding", "undecided", "broken")
    lines = [f"| law | {' | '.join(counts)} | worst |", "|---|" + "---:|" * (len(counts) + 1)]
    for row in run.rows("law"):
        numbers = [f"{getattr(row, name):,}" for name in counts]
        lines.append(f"| {_span(row.law)} | {' | '.join(numbers)} | {_text(ratio_text(row.worst))} |")
    legend = "item: one law in one dtype. worst: the largest error as a fraction of its envelope, whose edge is 1."
    found = ["\n".join(lines), legend] if len(lines) > 2 else []
    if asked := [quoted(line, 300) for line in not_asked_lines(run.not_asked)]:
        found.append(_folded("What was not asked", _listed(asked)))
    return found


def _listed(lines: list[str]) -> str:
    left = len(lines) - _LINES
    return _block("text", "\n".join(lines[:_LINES] + [f"... {left:,} more, in the report"] * (left > 0)))


def _folded(title: str, block: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{block}\n\n</details>"


def _text(text: str) -> str:
    """Our own words, as they stand."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(text, quote=False))


def _span(text: str) -> str:
    """Code in a line, also of a table, which no backtick in it ends."""
    marks = "`" * (1 + _longest_run(text))
    blank = " " * (text.startswith("`") or text.endswith("`"))
    return f"{marks}{blank}{text}{blank}{marks}".replace("|", "\\|")


def _block(language: str, text: str) -> str:
    """Code on lines of its own, which no run of backticks in it ends."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
