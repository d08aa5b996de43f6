"""How far a certificate is: what ``progress=`` takes, how often it is called, and what ``progress=True`` writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

Progress = Callable[[int, int, dict[str, Any]], object]
"""Called as ``progress(done, total, state)`` after every chunk; returning False stops the certificate."""

EVERY = 1.0
"""Seconds after which a state is kept: what is lost where work is cut off."""
_FIRST = 64  # columns


class Pace:
    """How many columns to read at a time, so that a chunk takes a second or less where somebody waits for it.

    Sizes are ``most`` divided by powers of two. They grow from some 64 while a chunk takes less than a quarter of a
    second, and are halved where it takes longer than one: of a function that is slow, a column at a time is read.
    """

    def __init__(self, most: int) -> None:
        self._most, self._share = most, 1
        while most // self._share > _FIRST:
            self._share *= 2
        self._began: float | None = None

    def columns(self) -> int:
        """How many to read now; call it once before each chunk."""
        now = time.monotonic()
        seconds = EVERY / 2 if self._began is None else now - self._began
        self._began = now
        if seconds < EVERY / 4 and self._share > 1:
            self._share //= 2
        while seconds > EVERY and self._share < self._most:
            self._share, seconds = self._share * 2, seconds / 2
        return max(1, self._most // self._share)


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
