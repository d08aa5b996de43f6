"""Strategies that are built on first use, say which call made them, and refuse wrong arguments as Hypothesis does."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.control import currently_in_test_context, event
from hypothesis.errors import InvalidArgument

from equiv.errors import EquivError

T = TypeVar("T")


class StrategyArgumentError(EquivError, InvalidArgument):
    """An argument of a strategy that it cannot serve: an ``EquivError``, and Hypothesis's ``InvalidArgument``.

    Example:
        >>> from equiv.strategies import tensors
        >>> try:
        ...     tensors((2,), kinds=["colourful"]).validate()
        ... except StrategyArgumentError as error:
        ...     print("colourful" in str(error))
        True
    """


class _Lazy(st.SearchStrategy[T]):
    """What a call stands for, made on the first draw or by ``.validate()``.

    Hypothesis has no public way to name a strategy that is also checked by ``.validate()``: this class implements what
    its own extras implement, ``do_draw`` and ``do_validate``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        given: Mapping[str, Any],
        build: Callable[[], st.SearchStrategy[T] | Callable[[st.DrawFn], T]],
    ) -> None:
        super().__init__()
        self._function, self._given, self._build = function, given, build
        self._draw_with: Callable[[st.DrawFn], T] | None = None

    def _made(self) -> Callable[[st.DrawFn], T]:
        if self._draw_with is None:
            made = self._build()
            if isinstance(made, st.SearchStrategy):
                made.validate()
                strategy = made
                self._draw_with = lambda draw: draw(strategy)
            else:
                self._draw_with = made
        return self._draw_with

    def do_validate(self) -> None:
        """Build it, so that wrong arguments are named."""
        try:
            self._made()
        except (EquivError, InvalidArgument) as error:
            raise _of_hypothesis(error) from error.__cause__

    def do_draw(self, data: Any) -> T:
        """One value."""
        try:
            return self._made()(data.draw)
        except EquivError as error:
            raise _of_hypothesis(error) from error.__cause__

    def calc_label(self) -> int:
        """Hypothesis copies parts of one example over parts of another that have the same label."""
        return zlib.crc32(self._function.__name__.encode())

    def __repr__(self) -> str:
        parameters = inspect.signature(self._function).parameters
        shown = {
            name: text for name, p in parameters.items() if (text := repr(self._given[name])) != repr(p.default)
        }  # a default that was given counts as left out, as in Hypothesis
        return f"{self._function.__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


def _of_hypothesis(error: EquivError | InvalidArgument) -> Exception:
    """The same message as an error of both families; one of another class stays what it is."""
    return StrategyArgumentError(str(error)) if type(error) in (EquivError, InvalidArgument) else error


def lazy(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    build: Callable[[], st.SearchStrategy[T] | Callable[[st.DrawFn], T]],
) -> st.SearchStrategy[T]:
    """A strategy that prints as the call of ``function`` with ``given``, and is made by ``build`` on first use.

    Args:
        function: the public function, for its name and defaults.
        given: its arguments by name; other names are ignored, so that ``locals()`` will do.
        build: checks the arguments and returns a strategy, or a function that draws one value.
    """
    return _Lazy(function, given, build)


def shown_in_statistics(*events: str) -> None:
    """Count these in Hypothesis's statistics and observability, where a test is running."""
    if currently_in_test_context():
        for text in events:
            event(text)
