"""Backends by name: those that equiv ships, and those of the entry-point group ``equiv.backends``.

Names are listed without importing anything of them. A backend's module is imported when it is asked for, its runtime
when the backend is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, cast

from equiv.arguments import attribute_of, check_words, refusal
from equiv.backends.base import Backend, check_backend
from equiv.backends.parameters import parameters_of, parse_parameters, split_parameters
from equiv.backends.runtimes import SHIPPED
from equiv.errors import EquivError, MissingExtraError
from equiv.text import quoted, shown

GROUP = "equiv.backends"
"""The group of entry points: each the class, or a function, that makes a backend from keyword arguments."""


@dataclass(frozen=True)
class Plugin:
    """A backend that has a name.

    Attributes:
        name: What it is asked for by.
        place: ``module:object``, what makes it.
        distribution: Who brings it.
    """

    name: str
    place: str
    distribution: str

    @cached_property
    def maker(self) -> Callable[..., Any]:
        """What makes it: its module is imported, its runtime is not if the module leaves that for later.

        Raises:
            MissingExtraError: A package that the module imports is not installed.
            EquivError: There is no such object, or its module raises an error.
        """
        expected = f"expected {shown(self.name)} at {self.place} of {self.distribution}"
        module, _, name = self.place.partition(":")
        try:
            found: Any = import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            missing = error.name or "a package"
            advice = f"install it, such as by: pip install {missing}"
            raise MissingExtraError(f"backend: {expected}, got no package {missing}; {advice}") from error
        except Exception as error:
            said = f"{type(error).__name__}: {quoted(error, 200)}"
            raise EquivError(
                f"backend: {expected}, got {said}; correct it, or uninstall {self.distribution}"
            ) from error
        if not callable(found):
            raise refusal(
                "backend", f"{shown(self.name)} to be a class or a function", found, "correct its entry point"
            )
        return cast(Callable[..., Any], found)

    @property
    def summary(self) -> str:
        """The first line of what documents it."""
        return ((attribute_of(self.maker, "__doc__") or "").strip().splitlines() or [""])[0]

    @property
    def needs(self) -> Mapping[str, str]:
        """Packages by the name that is imported, with their distributions; torch is not named."""
        return cast(Mapping[str, str], attribute_of(self.maker, "needs", {}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Those that are not installed."""
        return tuple(name for name in self.needs if not _is_installed(name))

    @property
    def install(self) -> str:
        """The command that brings what it needs."""
        extra = attribute_of(self.maker, "extra", "")
        return f'pip install "torch-equiv[{extra}]"' if extra else f"pip install {' '.join(self.needs.values())}"

    @property
    def versions(self) -> dict[str, str]:
        """Of what it needs, by distribution, those that are installed; of torch where it needs nothing else."""
        names = list(self.needs.values()) or ["torch"]
        return {name: found for name in names if (found := _version(name))}

    @property
    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """What can follow its name: what each parameter can be, and its default."""
        return parameters_of(self.maker)

    def make(self, arguments: Mapping[str, Any]) -> Backend:
        """The backend with these parameters.

        Raises:
            MissingExtraError: What it needs is not installed.
            EquivError: What was made is no backend, or cannot be made.
        """
        if self.missing:
            missing = f"no package {', '.join(self.missing)}"
            raise MissingExtraError(f"backend: expected what {self.name} needs, got {missing}; run: {self.install}")
        try:
            made = self.maker(**arguments)
        except EquivError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {quoted(error, 200)}"
            raise EquivError(
                f"backend: expected {shown(self.name)} to be made, got {said}; see {self.place}"
            ) from error
        return check_backend("backend", made)


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # its parent is not there, or it is half loaded
        return False


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def plugins() -> dict[str, Plugin]:
    """Every backend that has a name, by it: those that equiv ships first. Nothing of them is imported.

    Raises:
        EquivError: Two distributions have a backend of one name.

    Example:
        >>> plugins()["numpy"].place
        'equiv.backends.runtimes.numpy:NumPy'
    """
    found = {name: Plugin(name, place, "torch-equiv") for name, place in SHIPPED.items()}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda one: one.name):
        distribution = entry.dist.name if entry.dist is not None else "an unknown distribution"
        if distribution == "torch-equiv":  # an older table than that of the code, if they differ
            continue
        other = found.get(entry.name)
        if other is not None and other.place != entry.value:
            who = f"{other.distribution} and {distribution}"
            raise EquivError(f"{GROUP}: expected one backend {entry.name!r}, got those of {who}; uninstall one of them")
        found[entry.name] = Plugin(entry.name, entry.value, distribution)
    return found


def plugin_of(name: str, argument: str = "backend") -> Plugin:
    """The backend of a name.

    Raises:
        EquivError: There is none; the message has all names.
    """
    known = plugins()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else "see `equiv backends`"
        raise refusal(argument, f"one of {', '.join(known)}", name, advice)
    return known[name]


def load_backend(text: str, *, argument: str = "backend") -> Backend:
    """The backend of a name, with parameters after a question mark: ``onnxruntime?opset=18&level=all``.

    Its runtime is imported now. ``equiv backends`` lists the names, with their parameters.

    Args:
        text: The name, and ``name=value`` for each parameter that is not to have its default.
        argument: What messages call it.

    Raises:
        MissingExtraError: What the backend needs is not installed; the message has the command that brings it.
        EquivError: No such name, no such parameter, or a value that it cannot have.

    Example:
        >>> load_backend("nunpy")
        Traceback (most recent call last):
        equiv.errors.EquivError: backend: expected one of ..., got 'nunpy'; did you mean 'numpy'?
    """
    name, words = split_parameters(argument, check_words(argument, text, "pass a name that `equiv backends` lists"))
    plugin = plugin_of(name, argument)
    return plugin.make(parse_parameters(plugin.maker, words, argument))
