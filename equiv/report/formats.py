"""The formats that findings are written in, and where to.

A format of a whole run is a function from it to text in ``FORMATS``; its option is in ``equiv.cli.commands``. JSON is
such that every parser reads it: numbers that JSON lacks become strings.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equiv.errors import EquivError
from equiv.report.model import Run
from equiv.text import quoted, shown

STDOUT = "-"
"""The target that stands for standard output."""


def check_target(target: str, *, option: str = "--json") -> None:
    """Find out before the work that a file can be written.

    Raises:
        EquivError: The path is a folder, or cannot be opened for writing.
    """
    if _checked(target, option) == STDOUT:
        return
    try:
        path = Path(os.path.realpath(target))  # through a link, to a file that need not be there
        if path.exists() and not path.is_file() and not path.is_dir():
            if not os.access(path, os.W_OK):  # not opened: who reads a pipe would take that for all there is
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        raise _not_writable(option, target, error) from error


def _checked(target: object, option: object) -> str:
    if not isinstance(option, str):
        raise EquivError(f"option: expected a string, got {shown(option)}; pass what messages call it")
    if not isinstance(target, str):
        expected = "expected the name of a file, or - for standard output"
        raise EquivError(f"{quoted(option)}: {expected}, got {shown(target)}; pass a string")
    return target


def write_json(payload: Any, target: str, *, option: str = "--json") -> None:
    """Write indented JSON to the file ``target``; infinities and NaN become ``"inf"``, ``"-inf"`` and ``"nan"``.

    Raises:
        EquivError: The file cannot be written.

    Example:
        >>> write_json({"worst": float("inf"), "forms": ("full",)}, STDOUT)
        {
          "worst": "inf",
          "forms": [
            "full"
          ]
        }
    """
    _write(_json_text(payload), target, option)


def _json_text(payload: Any) -> str:
    try:
        return json.dumps(_plain(payload), indent=2, allow_nan=False) + "\n"
    except EquivError:
        raise
    except Exception as error:  # what refers to itself, an integer of thousands of digits, what cannot be shown
        got = f"{type(error).__name__}: {quoted(error, 100)}"
        raise EquivError(
            f"payload: expected what JSON can hold, got {got}; pass dicts, lists, words and numbers"
        ) from error


FORMATS: dict[str, Callable[[Run], str]] = {"json": lambda run: _json_text(run.to_dict())}
"""What a run is in each format, by the name of its option."""


def check_targets(targets: Mapping[str, str]) -> None:
    """:func:`check_target` for the files, by format."""
    for name, target in _by_format(targets):
        check_target(target, option=f"--{name}")


def _by_format(targets: object) -> list[tuple[str, str]]:
    if not isinstance(targets, Mapping) or not all(isinstance(name, str) and name in FORMATS for name in targets):
        expected = f"a mapping from formats ({', '.join(FORMATS)}) to files"
        raise EquivError(f"targets: expected {expected}, got {shown(targets)}; pass such as {{'json': 'run.json'}}")
    return list(targets.items())


def write_run(run: Run, targets: Mapping[str, str]) -> None:
    """Write a run to files, by format.

    Raises:
        EquivError: A file cannot be written.
    """
    if not isinstance(run, Run):
        raise EquivError(f"run: expected an equiv.report.Run, got {shown(run)}; pass what Run.of returns")
    for name, target in _by_format(targets):
        _write(FORMATS[name](run), target, f"--{name}")


def _write(text: str, target: str, option: str) -> None:
    if _checked(target, option) == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _not_writable(option, target, error) from error


def _not_writable(option: str, target: str, error: Exception) -> EquivError:
    reason = (getattr(error, "strerror", None) or quoted(error, 100)).rstrip(".")
    return EquivError(
        f"{option}: expected a file that can be written, or - for standard output, got {shown(target)} ({reason}); "
        "name a file in an existing folder"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    return value if value is None or isinstance(value, bool | int | str) else str(value)
