"""The two errors of the public interface. Everything else that escapes is a defect of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equiv.verdict import Verdict


class EquivError(ValueError):
    """Input that a function cannot serve.

    The message names the argument, its value, what was expected, and what to do.
    """


class MissingExtraError(EquivError, ImportError):
    """A feature needs a package that the core does not depend on; the message names the extra to install."""


class NotEquivalent(AssertionError):  # noqa: N818 - a finding, not a malfunction: it reads as one in a test's output
    """Two layers are not shown to be the same function. ``verdict`` holds the evidence."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict
