"""Source that makes a backend again: imported where a module holds it, or built from the arguments of its class."""

from __future__ import annotations

import ast
import builtins
import enum
import inspect
import math
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from equiv.backends import Backend, TorchEager
from equiv.laws.call import is_control

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_LONGEST = 400  # characters of an expression; a longer one is no help to a reader


@dataclass
class Source:
    """Lines that import what an expression needs, and the expression."""

    expression: str = ""
    imports: list[str] = field(default_factory=list)

    def made(self) -> object:
        """What the source makes; whatever that raises, it raises."""
        names: dict[str, Any] = {"torch": torch}
        exec("\n".join(self.imports), names)
        return eval(self.expression, names)


def sources(backend: Backend) -> Iterator[Source]:
    """Ways to make a backend again, plainest first; each has been tried once and gave one of its class and name.

    A module's own object, what its ``repr`` says, its class with the arguments that it keeps under their names, and its
    class with the state that it has.
    """
    kind = type(backend)
    if kind is TorchEager:
        device = "" if backend.device == torch.device("cpu") else repr(str(backend.device))
        yield Source(f"TorchEager({device})", ["from equiv.backends import TorchEager"])
        return
    for way in (_object_of_a_module, _as_its_repr, _with_arguments, _with_state):
        found = way(backend)
        if found is not None and len(found.expression) <= _LONGEST and _is_one(found, backend):
            yield found


def _is_one(source: Source, backend: Backend) -> bool:
    try:
        made = source.made()
        return made is backend or (type(made) is type(backend) and getattr(made, "name", None) == backend.name)
    except BaseException as error:
        if is_control(error):
            raise
        return False


def _object_of_a_module(backend: Backend) -> Source | None:
    home = sys.modules.get(type(backend).__module__)
    for module in (home, *sys.modules.values()):
        for name, value in list(vars(module).items()) if _is_open(module) else ():
            if value is backend and name.isidentifier():
                return Source(name, _imports(module, name))
    return None


def _as_its_repr(backend: Backend) -> Source | None:
    """Where the ``repr`` is an expression of names that the module of the class knows, a call of the class."""
    module = sys.modules.get(type(backend).__module__)
    try:
        text = repr(backend)
        tree = ast.parse(text, mode="eval").body
    except Exception:
        return None
    if not isinstance(tree, ast.Call) or not _is_open(module):
        return None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"torch"}
    wanted = [name for name in sorted(names) if hasattr(module, name) or not hasattr(builtins, name)]
    if not all(hasattr(module, name) for name in wanted):
        return None
    return Source(text, [line for name in wanted for line in _imports(module, name)])


def _with_arguments(backend: Backend) -> Source | None:
    """The class with each argument that the instance keeps under its name and that differs from the default.

    An attribute ``arguments``, a mapping, goes first: for a class whose methods have the names of its arguments.
    """
    kind, said = type(backend), getattr(backend, "arguments", None)
    given = said if isinstance(said, Mapping) else {}
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return None
    source = _code(kind)
    if source is None:
        return None
    words, missing = [], object()
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = given.get(parameter.name, getattr(backend, parameter.name, missing))
        if value is missing and parameter.default is parameter.empty:
            return None
        if value is missing or _same(value, parameter.default):
            continue
        code = _code(value)
        if code is None:
            return None
        named = "" if parameter.kind is parameter.POSITIONAL_ONLY else f"{parameter.name}="
        words.append(named + code.expression)
        source.imports += code.imports
    return Source(f"{source.expression}({', '.join(words)})", _unique(source.imports))


def _with_state(backend: Backend) -> Source | None:
    """An instance without a call of its constructor, which may have kept its arguments under other names."""
    kind, state = _code(type(backend)), _code(getattr(backend, "__dict__", None) or {})
    if kind is None or state is None or hasattr(type(backend), "__slots__"):
        return None
    name = kind.expression
    expression = f"(lambda made: (vars(made).update({state.expression}), made)[1])({name}.__new__({name}))"
    return Source(expression, _unique(kind.imports + state.imports))


def _code(value: Any) -> Source | None:
    """An expression for a value: plain data, dtypes and devices, members of enums, what a module holds by name."""
    if isinstance(value, enum.Enum):
        kind = _code(type(value))
        return None if kind is None else Source(f"{kind.expression}.{value.name}", kind.imports)
    if type(value) in (float, complex) and not math.isfinite(abs(value)):
        return Source(f"{type(value).__name__}('{value}')")
    if value is None or type(value) in (bool, int, str, bytes, float, complex):
        return Source(repr(value))
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return Source(str(value))
    if isinstance(value, torch.device):
        return Source(f"torch.device({str(value)!r})")
    if type(value) in (list, tuple, set, dict):
        return _container(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _of_fields(value)
    return _named(value)


def _of_fields(value: Any) -> Source | None:
    """A call of the class of a dataclass with the fields that differ from their defaults."""
    kind, chosen = _code(type(value)), [one for one in fields(value) if one.init]
    given = {one.name: getattr(value, one.name) for one in chosen if not _same(getattr(value, one.name), one.default)}
    codes = {name: _code(one) for name, one in given.items()}
    if kind is None or None in codes.values():
        return None
    words = [f"{name}={code.expression}" for name, code in codes.items() if code is not None]
    imports = [line for code in codes.values() if code is not None for line in code.imports]
    return Source(f"{kind.expression}({', '.join(words)})", _unique(kind.imports + imports))


def _container(value: Any) -> Source | None:
    parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)
    codes = [_code(part) for part in parts]
    if any(code is None for code in codes):
        return None
    words = [code.expression for code in codes if code is not None]
    imports = _unique(line for code in codes if code is not None for line in code.imports)
    if isinstance(value, dict):
        pairs = zip(words[::2], words[1::2], strict=True)
        return Source("{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}", imports)
    if isinstance(value, set) and not value:
        return Source("set()")
    opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}") if isinstance(value, set) else ("(", ")")
    return Source(opening + ", ".join(words) + "," * (opening == "(" and len(words) == 1) + closing, imports)


def _named(value: Any) -> Source | None:
    """A function or class that its module holds under its name."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    path = str(getattr(value, "__qualname__", ""))
    found: Any = module
    for part in path.split(".") if path else ():
        found = getattr(found, part, None)
    if found is None or found is not value or not _is_open(module):
        return None
    return Source(path, _imports(module, path.split(".")[0]))


def _is_open(module: ModuleType | None) -> bool:
    """Whether another program can import the module under its name."""
    return isinstance(module, ModuleType) and module.__name__ != "__main__"


def _imports(module: ModuleType | None, name: str) -> list[str]:
    """The import of a name, after the folder of its module where that is in no installed package."""
    assert module is not None
    line = f"from {module.__name__} import {name}"
    file = getattr(module, "__file__", None)
    if file is None or str(Path(file).resolve()).startswith(_INSTALLED):
        return [line]
    path, parts = Path(file).resolve(), module.__name__.split(".")
    up = len(parts) - (path.name != "__init__.py")
    folder = path.parents[up]
    return ["import sys", f"sys.path.insert(0, {str(folder)!r})", line]


def _same(value: Any, default: Any) -> bool:
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:
        return False


def _unique(lines: Any) -> list[str]:
    return list(dict.fromkeys(lines))
