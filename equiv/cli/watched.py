"""What somebody at a terminal sees while a command works, and where what their code prints goes meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

from equiv.report.terminal import Page


@contextmanager
def working(what: str) -> Iterator[None]:
    """A line with the time on standard error while somebody watches, nothing otherwise.

    What code of models prints goes to standard error, so that standard output holds what was found alone.
    """
    err = Page(stderr=True).console
    with redirect_stdout(sys.stderr):
        if not (err.is_terminal and sys.stderr is not None and sys.stderr.isatty()):
            yield
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True) as shown:
            shown.add_task(what, total=None)
            yield
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()
