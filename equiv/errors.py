"""The two errors of the public interface, and its warning. Any other error that escapes is a defect of this package."""

from __future__ import annotations


class EquivError(ValueError):
    """Input that a function cannot serve.

    The message names the argument, its value, what was expected, and what to do.

    Example:
        >>> import torch
        >>> from equiv import linear_to_full_conv
        >>> try:
        ...     linear_to_full_conv(torch.nn.Linear(8, 2), (3, 2, 2))
        ... except EquivError as error:
        ...     print("feature_shape" in str(error), isinstance(error, ValueError))
        True True
    """


class MissingExtraError(EquivError, ImportError):
    """A feature needs a package that the core does not depend on; the message names the extra to install.

    Example:
        >>> raise MissingExtraError("pictures need matplotlib: pip install torch-equiv[plot]")
        Traceback (most recent call last):
        ...
        equiv.errors.MissingExtraError: pictures need matplotlib: pip install torch-equiv[plot]
    """


class ExpectationWarning(UserWarning):
    """An expected failure or a skip is about no item, or an item that was expected to fail holds.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", ExpectationWarning)  # keep a list with entries about no item
    """
