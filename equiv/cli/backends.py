"""Backends that are named on the command line. Their code runs because somebody named it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from equiv.backends import Backend, check_backend
from equiv.errors import EquivError
from equiv.text import quoted, shown

_EXPECTED = "expected package.module:object or path.py:object, the object a backend or its class"


def load_backend(option: str, text: str) -> Backend:
    """The backend of a name such as ``kernels.fast:Fast`` or ``kernels/fast.py:fast``; a class is called.

    Raises:
        EquivError: There is none, it is no backend, or its module raises an error.
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise EquivError(f"{option}: {_EXPECTED}, got {shown(text)}; name both, with a colon between them")
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise EquivError(f"{option}: {_EXPECTED}, got {shown(text)}; there is no such file here")
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # where worker processes look too
    try:
        module = importlib.import_module(path.stem if is_file else place)
        if is_file and Path(str(module.__file__)).resolve() != path.resolve():
            raise ImportError(f"there is another module {path.stem}, so give the file another name")
        found = getattr(module, name)
        backend = found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {quoted(error, 200)}"
        raise EquivError(f"{option}: {_EXPECTED}, got {shown(text)}, which raises {reason}; correct it") from error
    return check_backend(option, backend)
