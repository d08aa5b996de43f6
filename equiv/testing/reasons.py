"""Which items are expected to fail, or are skipped, and why: said by a mapping, by a function, or in a file."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from equiv._options import options
from equiv.arguments import refusal
from equiv.errors import EquivError, ExpectationWarning
from equiv.laws import Result
from equiv.text import quoted, shown

if TYPE_CHECKING:
    from equiv.testing.suite import Check

Reasons: TypeAlias = "Mapping[str, str] | Callable[[Check], str | None] | str | os.PathLike[str]"
"""Ids, ids of laws or patterns with reasons; or a function of a check; or the path of a file."""

_LINE = re.compile(r"([\w.*?\[\]!-]+)\s*#\s*(\S.*)")
_WILD = frozenset("*?[")
_FEW = 5  # entries that a warning names
_EXPECTED = "a mapping from ids to reasons, a function of a check, or the path of a file"


class ReasonTable:
    """Looks up the reason for a check, and keeps which entries were of use.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.testing import checks
        >>> (check,) = checks(TorchEager(), laws=["exact"], dtypes=["float16"])
        >>> ReasonTable("expected_failures", {"exact-*-float16-*": "issue 17"}).reason(check)
        'issue 17'
    """

    def __init__(self, argument: str, given: object) -> None:
        self.argument = argument
        self.function: Callable[[Check], object] | None = None
        self.table: Mapping[str, str] = {}
        self.met: set[str] = set()
        if isinstance(given, Mapping):
            self.table = _checked(argument, given)
        elif isinstance(given, (str, os.PathLike)):
            self.table = read_reasons(argument, given)
        elif callable(given):
            self.function = given
        elif given is not None:
            raise refusal(argument, _EXPECTED, given, "pass for example {'exact': 'bug 17'}")

    def reason(self, check: Check) -> str | None:
        """Why, or None: of the entry for its id, else for its law, else of the first pattern that fits."""
        if self.function is not None:
            return self._said(check)
        fitting = [key for key in (check.id, check.item.law.id) if key in self.table]
        fitting += [key for key in self.table if _WILD & set(key) and fnmatchcase(check.id, key)]
        self.met.update(fitting)
        return self.table[fitting[0]] if fitting else None

    def _said(self, check: Check) -> str | None:
        assert self.function is not None
        expected = f"a reason or None for {check.id}"
        try:
            reason = self.function(check)
        except Exception as error:
            what = f"{type(error).__name__}: {quoted(error)}"
            raise EquivError(f"{self.argument}: expected {expected}, got {what}; correct the function") from error
        if reason is not None and not (isinstance(reason, str) and reason.strip()):
            raise refusal(self.argument, expected, reason, "return words, or None")
        return reason

    def stale(self, found: Sequence[Check]) -> list[str]:
        """The entries that no check was found for, each with the id that it may mean."""
        left = [key for key in self.table if key not in self.met and not _is_elsewhere(key, found)]
        return [named(key, [check.id for check in found]) for key in left]


def _checked(argument: str, table: Mapping[object, object]) -> dict[str, str]:
    checked: dict[str, str] = {}
    for key, reason in table.items():
        if not isinstance(key, str):
            advice = "use the id of an item or of a law, or a pattern such as 'exact-*-float16-*'"
            raise refusal(argument, "a mapping from ids to reasons, each key a string", key, advice)
        if not isinstance(reason, str) or not reason.strip():
            raise refusal(argument, f"a reason for {shown(key)}", reason, "say why in words")
        checked[key] = reason
    return checked


def read_reasons(argument: str, path: str | os.PathLike[str]) -> dict[str, str]:
    """The entries of a file, one a line: ``exact-*-float16-*  # why``. Empty lines and lines of ``#`` are comments.

    Raises:
        EquivError: A file that cannot be read; or a line without a reason, with words after the id, or with an id that
            an earlier line has: with the number of the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError, as is a null byte in a path
        what = quoted(getattr(error, "strerror", None) or error, 120)
        advice = "each of its lines is an id or a pattern, then # and a reason"
        raise EquivError(
            f"{argument}: expected a text file that can be read, got {shown(str(path), 120)}: {what}; {advice}"
        ) from error
    entries: dict[str, str] = {}
    places: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"{argument}: {shown(str(path), 120)[1:-1]}, line {number}"
        match = _LINE.fullmatch(text)
        if match is None:
            advice = "write for example: exact-*-float16-*  # issue 17"
            raise refusal(where, "an id or a pattern, then # and a reason", text, advice)
        key, reason = match.groups()
        if key in entries:
            raise refusal(where, "each id once", key, f"it stands on line {places[key]} too; remove one of them")
        entries[key], places[key] = reason, number
    return entries


def named(key: str, ids: Iterable[str]) -> str:
    """An entry that fits none of the ids, with the one that it may mean.

    Example:
        >>> named("exakt-*-float16-*", ["exact-all-float16-mine"])
        "exakt-*-float16-* (did you mean 'exact-*-float16-*'?)"
    """
    known = list(ids)
    close = _closest(key, known) or next(iter(difflib.get_close_matches(key, [*_laws(known), *known], n=1)), None)
    return f"{key} (did you mean {close!r}?)" if close else key


def _laws(ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(known.partition("-")[0] for known in ids))


def _closest(key: str, ids: list[str]) -> str | None:
    """The id or pattern with each part of its own replaced by the nearest that there is, if an item fits it."""
    parts, known = key.split("-"), [known.split("-") for known in ids]
    if len(parts) != 4:
        return None
    for place, part in enumerate(parts):
        here = list(dict.fromkeys(words[place] for words in known))
        if not any(fnmatchcase(word, part) for word in here):
            parts[place] = next(iter(difflib.get_close_matches(part, here, n=1)), part)
    close = "-".join(parts)
    return close if any(fnmatchcase(one, close) for one in ids) else None


def _is_elsewhere(key: str, found: Sequence[Check]) -> bool:
    """Whether an id is about torch on a device that this run does not test: it may hold on another machine."""
    place = key.rpartition("-")[2]
    return place.startswith("eager.") and not any(fnmatchcase(check.item.backend.name, place) for check in found)


def warn_of_stale(tables: Sequence[ReasonTable], found: Sequence[Check], *, stacklevel: int) -> None:
    """Warn of entries that no check has, unless the run was asked for a part of the dtypes alone."""
    stale = [entry for table in tables for entry in table.stale(found)]
    if stale and options.dtypes is None:
        names = " or ".join(table.argument for table in tables)
        message = f"equiv: {names} name no item: {_first(stale)}; remove or correct them"
        warnings.warn(message, ExpectationWarning, stacklevel=stacklevel)


def warn_of_passes(results: Sequence[Result], *, stacklevel: int) -> None:
    """Warn of items that hold though they were expected to fail."""
    passed = [f"{result.item} ({result.expected})" for result in results if result.is_unexpected_pass]
    if passed:
        message = f"equiv: expected_failures name items that hold: {_first(passed)}; remove them"
        warnings.warn(message, ExpectationWarning, stacklevel=stacklevel)


def _first(entries: Sequence[str]) -> str:
    return ", ".join(entries[:_FEW]) + f" and {len(entries) - _FEW} more" * (len(entries) > _FEW)
