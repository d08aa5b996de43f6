"""A certificate that outlives an interrupt: its state in a file, after every chunk; and a line that says how far it is.

What a state is, and whether it belongs to these layers, is the business of ``equiv.certificate.one_hot`` and the certificate.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from equiv.certificate.sides import Progress
from equiv.errors import EquivError

_EVERY = 1.0  # seconds between two writes, and between two lines that are no terminal's
KEYS = frozenset({"version", "method", "of", "next"})


class Checkpoint:
    """The file that a state is kept in; ``stopped`` tells whether the caller asked to stop before the end.

    Raises:
        EquivError: The path names no file, or the file holds no state.
    """

    def __init__(self, path: object) -> None:
        if not isinstance(path, str | os.PathLike):
            raise EquivError(f"checkpoint: expected the path of a file, got {path!r:.60}; pass such as 'layer.json'")
        self.path = Path(os.fsdecode(path))
        try:
            taken = self.path.is_dir() or not self.path.parent.is_dir()
        except (OSError, ValueError):  # too long, or with a character that no path has
            taken = True
        if taken:
            raise EquivError(
                f"checkpoint: expected a file in an existing folder, got {str(self.path)!r:.200}; name one"
            )
        self._half = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        self._put("")  # so that a folder that takes no file is told before the work, not after it
        self._half.unlink()
        self._state: Mapping[str, Any] | None = None
        self._written = time.monotonic()
        self.stopped = False

    def read(self) -> Mapping[str, Any] | None:
        """The state in the file; None if there is no file yet."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise self.foreign() from error
        if not isinstance(found, dict) or not set(found) >= KEYS:
            raise self.foreign()
        return found

    def foreign(self) -> EquivError:
        """What is said of a file that holds something else."""
        return EquivError(
            f"checkpoint: expected the state of a certificate of these very layers, method and seed in "
            f"{str(self.path)!r}, got something else; name another file, or remove this one to start again"
        )

    def watching(self, progress: Progress | None) -> Progress:
        """``progress`` that keeps every state on its way."""

        def heard(done: int, total: int, state: dict[str, Any]) -> object:
            self._state = state
            if time.monotonic() - self._written >= _EVERY:
                self.write()
            asked = None if progress is None else progress(done, total, state)
            self.stopped = asked is False and done < total
            return asked

        return heard

    def write(self) -> None:
        """The last state heard of, if any. A reader finds the old one or the new one, never half of one."""
        if self._state is None:
            return
        self._put(json.dumps(self._state))
        try:
            self._half.replace(self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        self._written = time.monotonic()

    def _put(self, text: str) -> None:
        try:
            self._half.write_text(text, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> EquivError:
        return EquivError(
            f"checkpoint: expected to write {str(self.path)!r:.200}, got {type(error).__name__}: "
            f"{getattr(error, 'strerror', None) or error}; name a file in a folder that can be written to"
        )

    def remove(self) -> None:
        """The certificate is complete: the next one starts anew."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error


def printed(stream: TextIO | None = None) -> Progress:
    """A progress that writes to standard error: one line that is written over on a terminal, else a line a second."""
    out = sys.stderr if stream is None else stream
    started, last, first = time.monotonic(), 0.0, -1

    def line(done: int, total: int, _: dict[str, Any]) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first < 0 else first
        if done < total and now - last < (0.1 if out.isatty() else _EVERY):
            return
        last = now
        left = "" if done in (first, total) else f", {(now - started) * (total - done) / (done - first):.0f} s left"
        text = f"certify: {done:,} of {total:,} ({done / total:.0%}){left}"
        if out.isatty():
            out.write(f"\r{text:<60}" + ("\n" if done == total else ""))
        else:
            out.write(text + "\n")
        out.flush()

    return line
