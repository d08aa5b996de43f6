"""The formats that findings are written in.

A format of a whole run is a function from it to text in ``FORMATS``; options are in ``equiv.cli.commands``, endings in
``equiv.cli.report``. One that takes long, or needs more packages, is made once at the end of a run: ``AT_END``. JSON is
such that every parser reads it: numbers that JSON lacks become strings, complex ones such as ``"(1-3j)"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from equiv.errors import EquivError
from equiv.pages import check_installed
from equiv.report.files import STDOUT, check_target, is_stdout, place_of, write_text
from equiv.report.junit import junit_of
from equiv.report.markdown import markdown_of
from equiv.report.model import Run
from equiv.text import json_lines, plain_json, quoted, shown


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of :meth:`equiv.report.Run.to_dict`; docs/report.md has it in words.

    Example:
        >>> schema()["properties"]["schema"]
        {'const': 3}
    """
    found: dict[str, Any] = json.loads(files("equiv.report").joinpath("schema.json").read_text(encoding="utf-8"))
    return found


def write_json(payload: Any, target: str, *, option: str = "--json") -> None:
    """Write indented JSON to the file ``target``, in the place of what it held.

    Infinities and NaN become ``"inf"``, ``"-inf"`` and ``"nan"``.

    Raises:
        EquivError: The file cannot be written.

    Example:
        >>> write_json({"worst": float("inf"), "forms": ("full",)}, "-")
        {
          "worst": "inf",
          "forms": [
            "full"
          ]
        }
    """
    write_text(_json_text(payload), target, option=option)


def _json_text(payload: Any) -> str:
    try:
        return json.dumps(plain_json(payload), indent=2, allow_nan=False) + "\n"
    except EquivError:
        raise
    except Exception as error:  # what refers to itself, an integer of thousands of digits, what cannot be shown
        got = f"{type(error).__name__}: {quoted(error, 100)}"
        raise EquivError(
            f"payload: expected what JSON can hold, got {got}; pass dicts, lists, words and numbers"
        ) from error


def json_of(run: Run) -> str:
    """A run as JSON: one line for each item and each row of the table."""
    return json_lines(run.to_dict())


def html_of(run: Run) -> str:
    """A run as a page of HTML.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    from equiv.report.html import page_of

    return page_of(run)


FORMATS: dict[str, Callable[[Run], str]] = {
    "json": json_of,
    "html": html_of,
    "markdown": markdown_of,
    "junit": junit_of,
}
"""What a run is in each format, by the name of its option."""

AT_END = {"html", "markdown", "junit"}
"""The formats that are not written while a run goes on."""


def check_targets(targets: Mapping[str, str], *, options: Mapping[str, str] | None = None) -> None:
    """:func:`check_target` for the files, by format; ``options`` are what messages call them if not ``--`` and that.

    Raises:
        EquivError: A file that cannot be written, or two formats for one target.
        MissingExtraError: A format needs a package that is not installed.
    """
    taken: dict[str, str] = {}
    for name, target in by_format(targets):
        option = (options or {}).get(name, f"--{name}")
        check_target(target, option=option)
        if name == "html":
            check_installed(option)
        place = STDOUT if is_stdout(target) else place_of(target)
        if place in taken:
            raise EquivError(
                f"{option}: expected another file than that of {taken[place]}, got {shown(target)}; name two"
            )
        taken[place] = option


def by_format(targets: object) -> list[tuple[str, str]]:
    """The pairs of a mapping from formats to files."""
    if not isinstance(targets, Mapping) or not all(isinstance(name, str) and name in FORMATS for name in targets):
        expected = f"a mapping from formats ({', '.join(FORMATS)}) to files"
        raise EquivError(f"targets: expected {expected}, got {shown(targets)}; pass such as {{'json': 'run.json'}}")
    return list(targets.items())


def write_run(run: Run, targets: Mapping[str, str]) -> None:
    """Write a run to files, by format.

    Raises:
        EquivError: A file cannot be written.

    Example:
        >>> import json, pathlib, tempfile
        >>> from equiv.backends import TorchEager
        >>> from equiv.testing import check_backend
        >>> run = check_backend(TorchEager(), laws=["exact"], dtypes=["int8"], examples=2, seed=0).run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(run, {"json": f"{folder}/laws.json"})
        ...     json.loads(pathlib.Path(folder, "laws.json").read_text())["planned"]
        ['exact-all-int8-eager.cpu']
    """
    if not isinstance(run, Run):
        raise EquivError(f"run: expected an equiv.report.Run, got {shown(run)}; pass what Run.of returns")
    for name, target in by_format(targets):
        write_text(FORMATS[name](run), target, option=f"--{name}")
