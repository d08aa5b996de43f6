"""How far a certificate is: what ``progress=`` takes, and the line that ``progress=True`` writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

Progress = Callable[[int, int, dict[str, Any]], object]
"""Called as ``progress(done, total, state)`` after every chunk; returning False stops the certificate."""


def printed(stream: TextIO | None = None) -> Progress:
    """A progress that writes to standard error: one line that is written over on a terminal, else a line a second."""
    out = sys.stderr if stream is None else stream
    started, last, first = time.monotonic(), 0.0, -1

    def line(done: int, total: int, _: dict[str, Any]) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first < 0 else first
        if done < total and now - last < (0.1 if out.isatty() else 1.0):
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
