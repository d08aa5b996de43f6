"""The two errors of the public interface, and its warning. Any other error that escapes is a defect of this package."""

from __future__ import annotations


class EquivError(ValueError):
    """Input that a function cannot serve.

    The message names the argument, its value, what was expected, and what to do.
    """


class MissingExtraError(EquivError, ImportError):
    """A feature needs a package that the core does not depend on; the message names the extra to install."""


class ExpectationWarning(UserWarning):
    """An expected failure or a skip is about no item, or an item that was expected to fail holds."""
