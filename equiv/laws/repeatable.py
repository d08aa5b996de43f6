"""The same seed draws the same cases, in whatever process, beside whatever else is loaded.

Hypothesis takes one in twenty of the numbers that it draws from constants that it finds in the code of the project it
runs in. That helps to reach branches which compare with a constant; but which modules are loaded differs from script
to script and from worker to worker, and so would the cases of a derandomized run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis.internal.conjecture import providers as _providers

_PROVIDERS: Any = _providers
_NAMES = ("Constants", "CONSTANTS_CACHE", "_get_local_constants")


@contextmanager
def repeatable() -> Iterator[None]:
    """Draw no constants from local modules. Releases of Hypothesis that keep them elsewhere are left as they are."""
    if not all(hasattr(_PROVIDERS, name) for name in _NAMES):
        yield
        return
    cache, collect = _PROVIDERS.CONSTANTS_CACHE, _PROVIDERS._get_local_constants
    nothing = _PROVIDERS.Constants()
    _PROVIDERS.CONSTANTS_CACHE = type(cache)(1024)  # what may be drawn is remembered by range
    _PROVIDERS._get_local_constants = lambda: nothing
    try:
        yield
    finally:
        _PROVIDERS.CONSTANTS_CACHE, _PROVIDERS._get_local_constants = cache, collect
