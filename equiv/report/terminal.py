"""Text on a terminal or in a pipe: paragraphs, tables, code, and the words for what was found in colour.

Everything is ASCII, so that no console's encoding can spoil it. Colour and weight are rich's business, which leaves
them out in a pipe and where ``NO_COLOR`` is set; width is that of the terminal, else of ``COLUMNS``, else 80.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from equiv.report.plain import table_lines

NARROWEST, WIDEST = 20, 10_000  # columns, whatever COLUMNS says
WIDEST_PROSE = 120  # longer lines are hard to read, however wide the terminal is
STYLES = {
    "IDENTICAL": "green",
    "EQUIVALENT": "green",
    "ROUNDING": "cyan",
    "UNDECIDED": "yellow",
    "DIFFERENT": "red",
    "NOT EQUIVALENT": "red",
}
"""The colours of the words that say what was found, wherever they stand; the word says it without its colour."""


class _Console(Console):
    """A console that leaves a closed pipe (``equiv demo | head``) to the caller."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(stderr: bool) -> Console:
    """A console at least as wide as a word and a number, and no wider than a line that a program can keep."""
    sizes = ("COLUMNS", "LINES")  # rich reads what is a digit and no number, such as a superscript, and fails
    environment = {name: text for name, text in os.environ.items() if name not in sizes or text.isdecimal()}
    console = _Console(stderr=stderr, highlight=False, markup=False, emoji=False, _environ=environment)
    width = console.width
    if not NARROWEST <= width <= WIDEST:
        console.width = min(max(width, NARROWEST), WIDEST) if width > 0 else 80
    return console


class Page:
    """What is written from top to bottom, as it is given: no markup, no emoji, no guessed highlighting.

    Example:
        >>> page = Page()
        >>> page.prose('''[bold]
        ...     stays''')
        [bold] stays
        <BLANKLINE>
        >>> page.table(("form", "weights"), [("linear", "8")])
          form    weights
         ----------------
          linear        8
        <BLANKLINE>
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.console: Console = _console(stderr)
        self.width = self.console.width
        self.prose_width = min(self.width, WIDEST_PROSE)

    def heading(self, text: str) -> None:
        """A line in bold, ruled below."""
        self.console.print(Text(text, style="bold"))
        self.console.print("-" * min(len(text), self.width))

    def prose(self, text: str) -> None:
        """Paragraphs, divided by empty lines and wrapped; other white space counts for nothing."""
        for paragraph in text.split("\n\n"):
            self.lines([" ".join(paragraph.split())])

    def lines(self, texts: Iterable[str], *, indent: str = "", hanging: str = "") -> None:
        """Each text wrapped on its own. An empty line follows the last."""
        wrap = textwrap.TextWrapper(self.prose_width, indent, indent + hanging, break_on_hyphens=False)
        self.verbatim("\n".join(map(wrap.fill, texts)))

    def verbatim(self, text: str, *, indent: str = "") -> None:
        """Text as it stands, indented and never wrapped. An empty line follows."""
        coloured = Text(textwrap.indent(text.rstrip("\n"), indent))
        for word, style in STYLES.items():
            coloured.highlight_regex(rf"\b{word}\b", style)
        self.console.print(coloured, soft_wrap=True)
        self.console.print()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, gap: int = 2) -> None:
        """A table as :func:`equiv.report.table_lines` lays it out, its heading in bold. An empty line follows."""
        head, body = table_lines(columns, rows, width=self.width, left=left, gap=gap)
        for line in head:
            self.console.print(Text(line, style="bold"), soft_wrap=True)
        self.verbatim("\n".join(body))
