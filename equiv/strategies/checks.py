"""Knows how an argument of a strategy is checked and how a wrong one is named; knows nothing of what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import torch
from hypothesis import strategies as st

from equiv.errors import EquivError

T = TypeVar("T")
_LIMIT = 200  # characters of a value that a message quotes


def refuse(argument: str, expected: str, got: object, advice: str) -> NoReturn:
    """Raise the one error of this package, in its one pattern.

    Example:
        >>> refuse("max_rows", "an integer >= 1", 0, "allow at least one row")
        Traceback (most recent call last):
        equiv.errors.EquivError: max_rows: expected an integer >= 1, got 0; allow at least one row
    """
    text = repr(got)
    text = text if len(text) <= _LIMIT else text[:_LIMIT] + "..."
    raise EquivError(f"{argument}: expected {expected}, got {text}; {advice}")


def lazily(build: Callable[[], st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """A strategy whose arguments are checked on first use, as Hypothesis does with its own."""
    return st.deferred(build)


def integer(argument: str, value: object, low: int, high: int | None = None, *, advice: str = "") -> int:
    """``value`` as an int in ``low..high``; bool is not an integer here."""
    bounds = f">= {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        refuse(argument, f"an integer {bounds}", value, advice or f"pass {argument}={low} or more")
    return value


def boolean(argument: str, value: object) -> bool:
    """``value`` if it is True or False."""
    if not isinstance(value, bool):
        refuse(argument, "True or False", value, "pass a bool")
    return value


def dims(argument: str, value: object) -> tuple[int, ...]:
    """A shape: a tuple or list of integers >= 0."""
    if not isinstance(value, (tuple, list)) or any(
        isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in value
    ):
        refuse(argument, "a tuple of integers >= 0", value, "pass a shape such as (2, 3)")
    return tuple(value)


def choices(argument: str, value: object, allowed: Iterable[T]) -> tuple[T, ...]:
    """A non-empty tuple of members of ``allowed``, in the order of ``allowed`` and without repeats."""
    every = tuple(allowed)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        refuse(argument, f"a tuple of members of {every!r}", value, f"pass for example {argument}=({every[0]!r},)")
    given: list[Any] = list(value)
    for item in given:
        if not any(type(item) is type(member) and item == member for member in every):
            refuse(argument, f"members of {every!r}", item, "remove it or correct its spelling")
    if not given:
        refuse(argument, f"at least one of {every!r}", value, f"leave {argument} out to draw them all")
    return tuple(member for member in every if member in given)


def device(argument: str, value: object) -> torch.device:
    """A ``torch.device`` from a device or its name."""
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str):
        try:
            return torch.device(value)
        except RuntimeError:
            pass
    refuse(argument, "a torch.device or its name", value, "pass for example 'cpu' or torch.device('cuda', 0)")
