"""Workflow commands of GitHub: each line of the caller's code at which laws break is marked in a pull request.

Of one step GitHub keeps ten annotations, so all that breaks at one line is one of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath

from equiv.arguments import refusal
from equiv.laws import Failure
from equiv.report.model import Run
from equiv.report.plain import status_text, summary_text
from equiv.text import counted

MOST = 10
"""How many annotations of one step GitHub keeps."""

_CODE = re.compile(r"(?P<file>.+?):(?P<line>\d+), in ")
_DIED = re.compile(r" at (?P<name>[^\s:]+):(?P<line>\d+) in ")
_WIDTH = 120

Place = tuple[str, int]
"""A file and its line; of no file, an empty name."""


def annotations_of(run: Run, *, root: str = "", otherwise: str = "") -> str:
    r"""One ``::error`` for each place where laws break, the one of most laws first; empty where all hold.

    Args:
        run: The run.
        root: The folder that files are named from, which is that of the repository; by default where the process is.
        otherwise: A file to name where a failure is of no line below the root.

    Raises:
        EquivError: Something else than a run, or than a path.

    Example:
        >>> from equiv.report import Environment, Request
        >>> here = Environment("0", "2.13.0", None, "3.12", "Linux", "AVX2")
        >>> annotations_of(Run(Request(), here, (), ("exact-all-int8-mine",), 1, 0.0))
        '::error title=equiv%3A incomplete::Interrupted after 0 of 1 laws x dtypes. Nothing was checked.\n'
    """
    if not isinstance(run, Run):
        raise refusal("run", "an equiv.report.Run", run, "pass what read_run returns")
    for name, value in (("root", root), ("otherwise", otherwise)):
        if not isinstance(value, str) or "\0" in value:
            raise refusal(name, "a path", value, "pass a string")
    top = root or os.getcwd()
    by_place: dict[Place, list[Failure]] = {}
    for item in run.failures:
        failure = Failure.of(item.failure or {})
        place = _place(_where(failure), top) or _place(f"{otherwise}:1, in ", top) or ("", 0)
        by_place.setdefault(place, []).append(failure)
    places = sorted(by_place.items(), key=lambda pair: -len({failure.law for failure in pair[1]}))
    lines = [error_line(_message(failures), place, title=_title(failures)) for place, failures in places[:MOST]]
    if not lines and not run.holds:
        lines = [error_line(" ".join(summary_text(run).split()), title=f"equiv: {status_text(run)}")]
    return "".join(line + "\n" for line in lines)


def error_line(message: str, place: Place = ("", 0), *, title: str) -> str:
    r"""An annotation, with everything escaped that the runner would read otherwise.

    Example:
        >>> error_line("100 % of it\nis gone", ("a,b.py", 3), title="equiv: exact")
        '::error file=a%2Cb.py,line=3,title=equiv%3A exact::100 %25 of it%0Ais gone'
    """
    file, line = place
    found = {"file": file, "line": str(line or ""), "title": title}
    properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in found.items() if value)
    return f"::error {properties}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + more else c for c in text)


def _where(failure: Failure) -> str:
    """The place in the caller's code: of a process that died its last line, where that is in the same file."""
    died, code = _DIED.search(failure.note), _CODE.match(failure.code)
    if died and code and PurePath(code["file"]).name == died["name"]:
        return f"{code['file']}:{died['line']}, in "
    return failure.code


def _place(code: str, root: str) -> Place | None:
    """Where the caller's code is, from the root and with slashes; None where it lies elsewhere."""
    found = _CODE.match(code)
    if found is None:
        return None
    top, path = os.path.realpath(root), os.path.realpath(found["file"])
    try:
        inside = os.path.commonpath([top, path]) == top
    except ValueError:  # another drive
        return None
    return (PurePath(os.path.relpath(path, top)).as_posix(), int(found["line"])) if inside else None


def _title(failures: Sequence[Failure]) -> str:
    laws = list(dict.fromkeys(failure.law for failure in failures))
    return f"equiv: {', '.join(laws[:4])}{' and others' * (len(laws) > 4)} broken"


def _message(failures: Sequence[Failure]) -> str:
    """The first failure in full, since those of one place have most often one cause, and how many there are."""
    first = failures[0]
    lines = [first.summary, *first.details(_WIDTH, with_program=False).splitlines()]
    if len(failures) > 1:
        dtypes = list(dict.fromkeys(failure.dtype for failure in failures))
        lines.append(f"{counted(len(failures), 'item')} in all, in {', '.join(dtypes)}")
    return "\n".join(lines)
