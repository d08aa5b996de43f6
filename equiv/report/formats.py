"""The formats that findings are written in, and where to.

A format of a whole run is a function from it to text in ``FORMATS``; its option is in ``equiv.cli.commands``. JSON is
such that every parser reads it: numbers that JSON lacks become strings.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equiv.errors import EquivError
from equiv.report.model import Run

STDOUT = "-"
"""The target that stands for standard output."""


def check_target(target: str, *, option: str = "--json") -> None:
    """Find out before the work that a file can be written.

    Raises:
        EquivError: The path is a folder, or cannot be opened for writing.
    """
    if target == STDOUT:
        return
    path = Path(target)
    existed = path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        raise _not_writable(option, target, error) from error


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
    return json.dumps(_plain(payload), indent=2, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Run], str]] = {"json": lambda run: _json_text(run.to_dict())}
"""What a run is in each format, by the name of its option."""


def check_targets(targets: Mapping[str, str]) -> None:
    """:func:`check_target` for the files, by format."""
    for name, target in targets.items():
        check_target(target, option=f"--{name}")


def write_run(run: Run, targets: Mapping[str, str]) -> None:
    """Write a run to files, by format.

    Raises:
        EquivError: A file cannot be written.
    """
    for name, target in targets.items():
        _write(FORMATS[name](run), target, f"--{name}")


def _write(text: str, target: str, option: str) -> None:
    if target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _not_writable(option, target, error) from error


def _not_writable(option: str, target: str, error: Exception) -> EquivError:
    reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
    return EquivError(
        f"{option}: expected a file that can be written, or - for standard output, got {target!r} ({reason}); "
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
