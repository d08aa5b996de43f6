"""The two errors of the public interface. Everything else that escapes is a defect of this package."""

from __future__ import annotations


class EquivError(ValueError):
    """Input that a function cannot serve.

    The message names the argument, its value, what was expected, and what to do.
    """


class MissingExtraError(EquivError, ImportError):
    """A feature needs a package that the core does not depend on; the message names the extra to install."""
