"""Findings as JSON: strict, so that numbers that JSON lacks become strings, and written where the caller said."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from equiv.errors import EquivError

STDOUT = "-"


def dumps(payload: Any) -> str:
    r"""Indented JSON that ends in a newline; infinities and NaN become the strings ``"inf"``, ``"-inf"``, ``"nan"``.

    Example:
        >>> dumps({"worst": float("inf"), "forms": ("full",)})
        '{\n  "worst": "inf",\n  "forms": [\n    "full"\n  ]\n}\n'
    """
    return json.dumps(_plain(payload), indent=2, allow_nan=False) + "\n"


def check_target(target: str, *, option: str = "--json") -> None:
    """Find out before the work, not after it, that a file cannot be written. ``-`` is standard output.

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
        raise _unwritable(option, target, error) from error


def write(payload: Any, target: str, *, option: str = "--json") -> None:
    """Write ``payload`` to the file ``target``, or to standard output for ``-``.

    Raises:
        EquivError: The file cannot be written.
    """
    text = dumps(payload)
    if target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unwritable(option, target, error) from error


def _unwritable(option: str, target: str, error: Exception) -> EquivError:
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
