"""The laws as a conformance suite for other projects: as a pytest decorator, or as one call.

import equiv.testing
from my_kernels import MyBackend

@equiv.testing.parametrize_with_laws(MyBackend())
def test_my_backend(law):
    law()
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiv._options import options
from equiv.backends import Backend, TorchEager
from equiv.errors import EquivError
from equiv.laws import Item, Result, check_backends, chosen_words, items, run_item
from equiv.testing import faults


class LawBroken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold for a backend; the message is the whole report. ``result`` has it as data."""

    def __init__(self, result: Result) -> None:
        assert result.failure is not None
        super().__init__("\n" + result.failure.render())
        self.result = result


@dataclass(frozen=True)
class Check:
    """One item, ready to be called: raises :class:`LawBroken` if its law does not hold."""

    item: Item

    @property
    def id(self) -> str:
        """``law-form-dtype-backend``."""
        return self.item.id

    def __repr__(self) -> str:
        return f"<{self.id}>"

    def __call__(self) -> Result:
        """Run the item as the pytest options, or their defaults, say."""
        __tracebackhide__ = True
        result = run_item(
            self.item,
            profile=options.profile,
            examples=options.examples,
            seed=options.seed,
            arithmetic=options.arithmetic,
        )
        if result.failure is not None:
            raise LawBroken(result)
        return result


def devices_under_test() -> tuple[TorchEager, ...]:
    """TorchEager on every device that ``--equiv-devices`` names; on the CPU by default.

    Raises:
        EquivError: A device that is not present.
    """
    return tuple(TorchEager(device) for device in options.devices)


def checks(
    backend: Backend | Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> list[Check]:
    """Every check of a backend, or of several, in a stable order.

    Example:
        >>> [check.id for check in checks(TorchEager(), laws=["exact"], dtypes=["float32"])]
        ['exact-all-float32-eager.cpu']
    """
    backends = check_backends(backend if isinstance(backend, (list, tuple)) else [backend], argument="backend")
    words = chosen_words(dtypes)
    chosen = [word for word in words if options.dtypes is None or word in options.dtypes]
    if not chosen:
        return []
    found = [Check(item) for item in items(backends, laws=laws, forms=forms, dtypes=chosen)]
    if not found and chosen == words:
        asked = {"backend": [one.name for one in backends], "laws": laws, "forms": forms, "dtypes": dtypes}
        said = ", ".join(f"{name}={value!r:.60}" for name, value in asked.items() if value is not None)
        raise EquivError(
            f"laws: expected a law that is about some of these forms and dtypes, got {said}; widen one of them, or see "
            "`equiv env` for what each law is about"
        )
    return found


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
        dtypes: Words such as ``"float32"``, or None for all that the backend serves.
        expected_failures: ``{id: reason}``; the id of an item or of a law. An item that passes all the same fails as
            an unexpected pass, so that the list stays true.
        skips: ``{id: reason}``, likewise.

    Raises:
        EquivError: Names that do not exist, or reasons that are no mapping from ids to words.

    Example:
        >>> mark = parametrize_with_laws(TorchEager(), laws=["exact"], skips={"exact-all-int8-eager.cpu": "not ours"})
    """
    import pytest

    found = checks(backend, laws=laws, forms=forms, dtypes=dtypes)
    failing, skipped = _reasons("expected_failures", expected_failures), _reasons("skips", skips)
    parameters = []
    matched: set[str] = set()
    for check in found:
        marks: list[Any] = []
        for table, mark in ((failing, _xfail), (skipped, _skip)):
            for key in (check.id, check.item.law.id):
                if key in table:
                    matched.add(key)
                    marks.append(mark(table[key]))
        parameters.append(pytest.param(check, id=check.id, marks=marks))
    stale = [key for key in (*failing, *skipped) if key not in matched and not _is_elsewhere(key, found)]
    if stale and options.dtypes is None:
        named = ", ".join(stale[:_FEW]) + f" and {len(stale) - _FEW} more" * (len(stale) > _FEW)
        warnings.warn(f"equiv: expected_failures or skips name no item: {named}; remove or correct them", stacklevel=2)
    return pytest.mark.parametrize("law", parameters)


_FEW = 5  # stale entries that a warning names


def _reasons(argument: str, table: object) -> Mapping[str, str]:
    expected = f"{argument}: expected a mapping from ids to reasons"
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise EquivError(f"{expected}, got {table!r:.60}; pass for example {{'exact': 'bug 17'}}")
    for key, reason in table.items():
        if not isinstance(key, str):
            raise EquivError(f"{expected}, got the key {key!r:.60}; use the id of an item or of a law")
        if not isinstance(reason, str) or not reason.strip():
            raise EquivError(f"{expected}, got {reason!r:.60} for {key!r:.60}; say why in words")
    return table


def _is_elsewhere(key: str, found: Sequence[Check]) -> bool:
    """Whether an id is about torch on a device that this run does not test: it may hold on another machine."""
    place = key.rpartition("-")[2]
    return place.startswith("eager.") and place not in {check.item.backend.name for check in found}


def _xfail(reason: str) -> Any:
    import pytest

    return pytest.mark.xfail(reason=reason, strict=True, raises=LawBroken)


def _skip(reason: str) -> Any:
    import pytest

    return pytest.mark.skip(reason=reason)


def check_backend(
    backend: Backend,
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    profile: str = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
) -> list[Result]:
    """Run every law on a backend without a test framework, and return all results, broken laws included.

    Args:
        backend: See :class:`equiv.backends.Backend`.
        laws: Ids of laws, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Words, or None for all that the backend serves.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases per item instead of the profile's number.
        seed: Repeats a run.
        arithmetic: What envelopes follow: ``declared``, or ``measured``; see :func:`equiv.laws.run_item`.

    Raises:
        EquivError: Names that do not exist, or an object that is no backend.

    Example:
        >>> results = check_backend(TorchEager(), laws=["exact"], dtypes=["float32"], examples=5, seed=1)
        >>> [result.failure for result in results]
        [None]
    """
    found = checks([backend], laws=laws, forms=forms, dtypes=dtypes)
    how = {"profile": profile, "examples": examples, "seed": seed, "arithmetic": arithmetic}
    return [run_item(check.item, **how) for check in found]  # type: ignore[arg-type]


__all__ = [
    "Check",
    "LawBroken",
    "check_backend",
    "checks",
    "devices_under_test",
    "faults",
    "parametrize_with_laws",
]
