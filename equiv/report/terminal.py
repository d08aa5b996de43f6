"""Text on a terminal or in a pipe: paragraphs, tables, code.

Everything is ASCII, so that no console's encoding can spoil it. Colour and weight are rich's business, which leaves
them out in a pipe and where ``NO_COLOR`` is set; width is that of the terminal, else of ``COLUMNS``, else 80.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST_PROSE = 88  # longer lines are hard to read, however wide the terminal is

_RULED = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


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


def paragraph(out: Console, text: str, *, indent: str = "", hanging: str = "", style: str = "") -> None:
    """One wrapped paragraph; white space in ``text`` counts for nothing. An empty line follows.

    Example:
        >>> paragraph(console(), '''one
        ...     two''')
        one two
        <BLANKLINE>
    """
    lines(out, [" ".join(text.split())], indent=indent, hanging=hanging, style=style)
    out.print()


def lines(out: Console, texts: Iterable[str], *, indent: str = "", hanging: str = "", style: str = "") -> None:
    """Each text wrapped on its own, without empty lines in between."""
    for text in texts:
        wrapped = textwrap.fill(
            text,
            prose_width(out),
            initial_indent=indent,
            subsequent_indent=indent + hanging,
            break_on_hyphens=False,
        )
        out.print(Text(wrapped, style=style))


def verbatim(out: Console, text: str, *, indent: str = "    ") -> None:
    """Source or a picture as it stands, indented and never wrapped. An empty line follows."""
    out.print(Text(textwrap.indent(text.rstrip("\n"), indent)), soft_wrap=True)
    out.print()


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, gap: int = 2) -> None:
    """Columns under a rule, ``gap`` blanks apart, the first ``left`` of them flush left, the others flush right.

    Lines end without blanks, and an empty line follows. No word is ever broken: where the width does not hold the
    longest words side by side, each row becomes a paragraph of its own.

    Example:
        >>> table(console(), ("form", "weights"), [("linear", "8")])
          form    weights
         ----------------
          linear        8
        <BLANKLINE>
    """
    cells = [list(row) for row in rows]
    texts = [[name, *(row[number] for row in cells)] for number, name in enumerate(columns)]
    whole = [any("(" in text or "," in text for text in column) for column in texts]  # shapes and numbers stay in one
    least = [
        max(len(part) for text in column for part in ([text] if kept else text.split() or [""]))
        for column, kept in zip(texts, whole, strict=True)
    ]
    widths = _fitted([max(map(len, column)) for column in texts], least, out.width - gap * len(columns) - 1)
    if widths is None:
        _records(out, columns, cells, left)
        return
    grid = Table(box=_RULED, show_edge=True, header_style="bold", pad_edge=True, padding=(0, 0, 0, gap - 1))
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number < left else "right", width=widths[number])
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    with out.capture() as capture:
        out.print(grid)
    # Without the empty edges of the box, and without blanks at the ends of lines.
    kept_lines = [line.rstrip() for line in capture.get().splitlines()]
    for line in kept_lines:
        if line:
            out.print(Text.from_ansi(line), soft_wrap=True)
    out.print()


def _fitted(widths: list[int], least: list[int], room: int) -> list[int] | None:
    """Widths that fit the room, the widest that may become narrower first; None where the least do not fit."""
    found = list(widths)
    while sum(found) > room:
        number = max(range(len(found)), key=lambda i: (found[i] > least[i], found[i]))
        if found[number] == least[number]:
            return None
        found[number] -= 1
    return found


def _records(out: Console, columns: Sequence[str], rows: list[list[str]], left: int) -> None:
    """Each row as a paragraph: what stood on the left, then every other cell after the name of its column."""
    for row in rows:
        head = " ".join(cell for cell in row[:left] if cell)
        rest = "; ".join(f"{name} {cell}" for name, cell in zip(columns[left:], row[left:], strict=True) if cell)
        lines(out, [f"{head}: {rest}" if head else rest], indent="  ", hanging="  ")
    out.print()


def shape(sizes: Sequence[int]) -> str:
    """A shape as torch prints it, without its class.

    Example:
        >>> shape((2, 4, 1, 1)), shape((3,))
        ('(2, 4, 1, 1)', '(3,)')
    """
    return str(tuple(sizes))


def numbers(values: Iterable[float], *, digits: int = 4) -> str:
    """Values with a fixed number of digits.

    Example:
        >>> numbers([14.9, 19.0])
        '14.9000, 19.0000'
    """
    return ", ".join(f"{value:.{digits}f}" for value in values)
