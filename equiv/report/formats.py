"""The formats that findings are written in.

A format of a whole run is a function from it to text in ``FORMATS``; its option is in ``equiv.cli.commands``. JSON is
such that every parser reads it: numbers that JSON lacks become strings, complex ones such as ``"(1-3j)"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from equiv.errors import EquivError
from equiv.report.files import check_target, write_text
from equiv.report.model import Run
from equiv.text import plain_json, quoted, shown


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
    lines = [f'  "{key}": {_value(value)}' for key, value in plain_json(run.to_dict()).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: Any) -> str:
    if isinstance(value, list | dict) and len(value) > 1:
        if isinstance(value, dict):
            lines = [f"{json.dumps(key)}: {json.dumps(entry, allow_nan=False)}" for key, entry in value.items()]
        else:
            lines = [json.dumps(entry, allow_nan=False) for entry in value]
        start, end = "{}" if isinstance(value, dict) else "[]"
        return start + "\n    " + ",\n    ".join(lines) + "\n  " + end
    return json.dumps(value, allow_nan=False)


FORMATS: dict[str, Callable[[Run], str]] = {"json": json_of}
"""What a run is in each format, by the name of its option."""


def check_targets(targets: Mapping[str, str]) -> None:
    """:func:`check_target` for the files, by format."""
    for name, target in by_format(targets):
        check_target(target, option=f"--{name}")


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
