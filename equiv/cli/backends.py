"""Backends that are named on the command line."""

from __future__ import annotations

from equiv import backends
from equiv.backends import Backend, check_backend
from equiv.cli.objects import attribute, imported, named, own_errors

_EXPECTED = "expected a name that `equiv backends` lists, package.module:object or path.py:object"


def load_backend(option: str, text: str) -> Backend:
    """The backend of a name such as ``numpy``, ``kernels.fast:Fast`` or ``kernels/fast.py:fast``; a class is called.

    Raises:
        EquivError: There is none, it is no backend, or its module raises an error.
    """
    if ":" not in text.partition("?")[0]:
        return backends.load_backend(text, argument=option)
    place, name = named(option, text, _EXPECTED)
    with own_errors(option, text, _EXPECTED):
        found = attribute(imported(place), name)
        backend = found() if isinstance(found, type) else found
    return check_backend(option, backend)
