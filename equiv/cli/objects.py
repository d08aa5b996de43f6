"""Objects that are named on the command line, and the code that makes them. It runs because somebody named it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from equiv.errors import EquivError
from equiv.text import quoted, shown


def named(option: str, text: str, expected: str) -> tuple[str, str]:
    """``package.module:object`` or ``path.py:object`` as its two parts; a file must be there.

    Raises:
        EquivError: It is neither.

    Example:
        >>> named("--backend", "kernels.fast:Fast", "expected package.module:object")
        ('kernels.fast', 'Fast')
    """
    place, _, name = text.rpartition(":")
    if not place or not all(map(str.isidentifier, name.split("."))):
        raise EquivError(f"{option}: {expected}, got {shown(text)}; name both, with a colon between them")
    if is_file(place) and not _is_there(place):
        raise EquivError(f"{option}: {expected}, got {shown(text)}; there is no such file here")
    return place, name


def is_file(place: str) -> bool:
    """Whether a place of code is a file, and not a module."""
    return Path(place).suffix == ".py"


def _is_there(place: str) -> bool:
    try:
        return Path(place).is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


@contextmanager
def own_errors(option: str, text: str, expected: str) -> Iterator[None]:
    """Whatever the named code raises becomes one sentence."""
    try:
        yield
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {quoted(error, 200)}"
        raise EquivError(f"{option}: {expected}, got {shown(text)}, which raises {said}; correct it") from error


def attribute(module: ModuleType, name: str) -> Any:
    """``name`` in a module; dots lead into what it finds there."""
    return reduce(getattr, name.split("."), module)


def imported(place: str) -> ModuleType:
    """The module of a place, by a name that worker processes find too."""
    path = Path(place)
    _find_first(str(path.resolve().parent if is_file(place) else Path.cwd()))
    module = importlib.import_module(path.stem if is_file(place) else place)
    if is_file(place) and Path(str(module.__file__)).resolve() != path.resolve():
        raise ImportError(f"there is another module {path.stem}, so give the file another name")
    return module


_folders: list[Path] = []  # of files that were run
_files: dict[Path, ModuleType] = {}


def run_anew(place: str) -> ModuleType:
    """The module of a place. Two files may have one name, and modules of one name beside them.

    What an earlier file has imported from its own folder is not taken for what lies in this one.
    """
    if not is_file(place):
        return imported(place)
    path = Path(place).resolve()
    if path not in _files:
        _forget_namesakes(path.parent)
        _find_first(str(path.parent))
        name = path.stem if path.stem not in sys.modules else f"{path.stem}_{len(_files)}"
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError("no file of Python code")
        module = sys.modules[name] = module_from_spec(spec)  # where dataclasses look
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _files[path] = module
        _folders.append(path.parent)
    return _files[path]


def _find_first(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _forget_namesakes(folder: Path) -> None:
    """Modules that were found in the folders of other files, where this folder has one of the same name."""
    others = [other for other in _folders if other != folder]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        top = folder / name.split(".")[0]
        if file and (top.is_dir() or top.with_suffix(".py").is_file()):
            place = Path(file).resolve()
            if place not in _files and any(place.is_relative_to(other) for other in others):
                del sys.modules[name]
