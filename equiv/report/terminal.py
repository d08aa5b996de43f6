"""Text on a terminal or in a pipe: paragraphs, tables, code.

Everything is ASCII, so that no console's encoding can spoil it. Colour and weight are rich's business, which leaves
them out in a pipe and where ``NO_COLOR`` is set; width is that of the terminal, else of ``COLUMNS``, else 80.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from equiv.report.plain import table_lines

WIDEST_PROSE = 88  # longer lines are hard to read, however wide the terminal is


class _Console(Console):
    """A console that leaves a closed pipe (``equiv demo | head``) to the caller."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: no markup, no emoji, no guessed highlighting.

    Example:
        >>> console().print("[bold] stays")
        [bold] stays
    """
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def prose_width(out: Console) -> int:
    """The width at which paragraphs are wrapped."""
    return min(out.width, WIDEST_PROSE)


def heading(out: Console, text: str) -> None:
    """A line in bold, ruled below."""
    out.print(Text(text, style="bold"))
    out.print("-" * min(len(text), out.width))


def prose(out: Console, text: str) -> None:
    """Paragraphs, which empty lines divide, each wrapped; other white space counts for nothing. An empty line follows.

    Example:
        >>> prose(console(), '''one
        ...     two''')
        one two
        <BLANKLINE>
    """
    for paragraph in text.split("\n\n"):
        lines(out, [" ".join(paragraph.split())])
        out.print()


def lines(out: Console, texts: Iterable[str], *, indent: str = "", hanging: str = "") -> None:
    """Each text wrapped on its own, without empty lines in between."""
    width = prose_width(out)
    for text in texts:
        wrapped = textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=indent + hanging, break_on_hyphens=False
        )
        out.print(Text(wrapped))


def verbatim(out: Console, text: str, *, indent: str = "") -> None:
    """Source or a picture as it stands, indented and never wrapped. An empty line follows."""
    out.print(Text(textwrap.indent(text.rstrip("\n"), indent)), soft_wrap=True)
    out.print()


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, gap: int = 2) -> None:
    """A table with its heading in bold, as :func:`equiv.report.table_lines` lays it out. An empty line follows.

    Example:
        >>> table(console(), ("form", "weights"), [("linear", "8")])
          form    weights
         ----------------
          linear        8
        <BLANKLINE>
    """
    head, body = table_lines(columns, rows, width=out.width, left=left, gap=gap)
    for line in head:
        out.print(Text(line, style="bold"), soft_wrap=True)
    for line in body:
        out.print(line, soft_wrap=True)
    out.print()


def numbers(values: Iterable[float], *, digits: int = 4) -> str:
    """Values with a fixed number of digits.

    Example:
        >>> numbers([14.9, 19.0])
        '14.9000, 19.0000'
    """
    return ", ".join(f"{value:.{digits}f}" for value in values)
