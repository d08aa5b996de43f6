"""Every law of a backend as a pytest test of its own, with expected failures and skips."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equiv._options import options
from equiv.arguments import refusal
from equiv.backends import Backend
from equiv.testing.suite import Check, LawBroken, checks
from equiv.text import shown

_FEW = 5  # stale entries that a warning names


def parametrize_with_laws(
    backend: Backend | Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    skips: Mapping[str, str] | None = None,
) -> Callable[[Any], Any]:
    """Run every law of a backend as a test of its own. The test takes one argument, ``law``, and calls it.

    Args:
        backend: One or several; see :class:`equiv.backends.Backend`.
        laws: Ids of laws, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Names such as ``"float32"``, or None for all that the backend serves.
        expected_failures: ``{id: reason}``; the id of an item or of a law. An item that passes all the same fails as
            an unexpected pass, so that the list stays true.
        skips: ``{id: reason}``, likewise.

    Raises:
        EquivError: Names that do not exist, or reasons that are no mapping from ids to words.

    Example:
        >>> from equiv.backends import TorchEager
        >>> mark = parametrize_with_laws(TorchEager(), laws=["exact"], skips={"exact-all-int8-eager.cpu": "not ours"})
    """
    import pytest

    def expected_to_fail(reason: str) -> pytest.MarkDecorator:
        return pytest.mark.xfail(reason=reason, strict=True, raises=LawBroken)

    found = checks(backend, laws=laws, forms=forms, dtypes=dtypes)
    failing, skipped = _reasons("expected_failures", expected_failures), _reasons("skips", skips)
    parameters = []
    matched: set[str] = set()
    for check in found:
        keys = (check.id, check.item.law.id)
        matched.update(key for key in keys if key in failing or key in skipped)
        marks = [expected_to_fail(failing[key]) for key in keys if key in failing]
        marks += [pytest.mark.skip(reason=skipped[key]) for key in keys if key in skipped and not check.skipped]
        parameters.append(pytest.param(check, id=check.id, marks=marks))
    stale = [key for key in (*failing, *skipped) if key not in matched and not _is_elsewhere(key, found)]
    if stale and options.dtypes is None:
        named = ", ".join(stale[:_FEW]) + f" and {len(stale) - _FEW} more" * (len(stale) > _FEW)
        warnings.warn(f"equiv: expected_failures or skips name no item: {named}; remove or correct them", stacklevel=2)
    return pytest.mark.parametrize("law", parameters)


def _reasons(argument: str, table: object) -> Mapping[str, str]:
    expected = "a mapping from ids to reasons"
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise refusal(argument, expected, table, "pass for example {'exact': 'bug 17'}")
    for key, reason in table.items():
        if not isinstance(key, str):
            raise refusal(argument, f"{expected}, each key a string", key, "use the id of an item or of a law")
        if not isinstance(reason, str) or not reason.strip():
            raise refusal(argument, f"a reason for {shown(key)}", reason, "say why in words")
    return table


def _is_elsewhere(key: str, found: Sequence[Check]) -> bool:
    """Whether an id is about torch on a device that this run does not test: it may hold on another machine."""
    place = key.rpartition("-")[2]
    return place.startswith("eager.") and place not in {check.item.backend.name for check in found}
