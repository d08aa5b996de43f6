"""``equiv report``: a report that was kept as JSON, in other formats and as marks in a pull request."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import PurePath

from equiv.errors import EquivError, MissingExtraError
from equiv.report import (
    FORMATS,
    annotations_of,
    check_target,
    error_line,
    read_run,
    write_programs,
    write_text,
)
from equiv.text import shown

ENDINGS = {".md": "markdown", ".xml": "junit", ".html": "html", ".json": "json"}


def format_of(argument: str, path: str) -> str:
    """The format of a file, by its ending.

    Raises:
        EquivError: It has no known ending.

    Example:
        >>> format_of("FILE", "summary.md")
        'markdown'
    """
    ending = PurePath(path).suffix.lower()
    if ending not in ENDINGS:
        raise EquivError(f"{argument}: expected a file that ends in {', '.join(ENDINGS)}, got {shown(path)}; rename it")
    return ENDINGS[ending]


def report(path: str, files: Sequence[str], *, annotate: bool, backend: str, programs: str | None) -> None:
    """Read a report and write it in the format of each file.

    With ``annotate`` the lines that break laws are marked for GitHub, on standard output, by their paths below
    ``GITHUB_WORKSPACE``; so is a report that cannot be read. What is of no line is marked in the file of the backend. A
    format whose package is missing is an error once the others are written.
    """
    targets = {file: format_of("FILE", file) for file in files}
    for file in targets:
        check_target(file, option="FILE")
    try:
        run = read_run(path, argument="REPORT")
    except EquivError as error:
        if annotate:
            sys.stdout.write(error_line(str(error), title="equiv: no report") + "\n")
        raise
    if annotate:
        file = backend.rpartition(":")[0]
        otherwise = file if file.endswith(".py") else ""
        sys.stdout.write(annotations_of(run, root=os.environ.get("GITHUB_WORKSPACE", ""), otherwise=otherwise))
    if programs is not None:
        write_programs(run, programs, option="--programs")
    missing: list[MissingExtraError] = []
    for file, name in targets.items():
        try:
            write_text(FORMATS[name](run), file, option="FILE")
        except MissingExtraError as error:
            missing.append(error)
    if missing:
        raise missing[0]
