"""The laws of a backend as checks that can be called one by one, or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from equiv._options import options
from equiv.arguments import refusal
from equiv.backends import Backend, TorchEager
from equiv.laws import Item, Result, check_backends, chosen_words, items, profile_of, run_item
from equiv.testing.reasons import Reasons, ReasonTable, warn_of_passes, warn_of_stale

_HOW = ("profile", "examples", "seed", "arithmetic")


class LawBroken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold for a backend; the message is the whole report. ``result`` has it as data."""

    def __init__(self, result: Result) -> None:
        assert result.failure is not None
        super().__init__(f"{result.failure.summary}\n{result.failure.details()}")
        self.result = result


@dataclass(frozen=True)
class Check:
    """One item, ready to be called: raises :class:`LawBroken` if its law does not hold.

    Attributes:
        item: What is checked; its ``law``, ``form``, ``dtype`` and ``backend`` are attributes.
        profile: What this check asks for; see :func:`parametrize_with_laws`. None leaves it to the run.
        examples: Likewise.
        seed: Likewise.
        arithmetic: Likewise.
        expected: Why it is expected to fail, or None.
        strict: Whether it fails where it passes though it is expected to fail.
    """

    item: Item
    profile: str | None = None
    examples: int | None = None
    seed: int | None = None
    arithmetic: str | None = None
    expected: str | None = None
    strict: bool = True

    @property
    def id(self) -> str:
        """``law-form-dtype-backend``."""
        return self.item.id

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of :func:`equiv.laws.run_item` in this run."""
        return {**options.chosen(**{name: getattr(self, name) for name in _HOW}), "expected": self.expected}

    def __repr__(self) -> str:
        return f"<{self.id}>"

    def __call__(self) -> Result:
        """Run the item as the command line, else this check, else the ini options or their defaults say."""
        __tracebackhide__ = True
        result = run_item(self.item, **self.how)
        if result.failure is not None:
            raise LawBroken(result)
        return result


def is_repeatable(profile: str, seed: int | None) -> bool:
    """Whether a run tries the same cases each time, so that a pass is more than luck."""
    return seed is not None or profile_of(profile).derandomize


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
    dtypes: Sequence[torch.dtype | str] | None = None,
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
        given = {name: value for name, value in asked.items() if value is not None}
        advice = "widen one of them, or see `equiv env` for what each law is about"
        raise refusal("laws", "a law that is about some of these forms and dtypes", given, advice)
    return found


def check_backend(  # noqa: PLR0913 - keyword-only options are the interface
    backend: Backend,
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype | str] | None = None,
    profile: str = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
    expected_failures: Reasons | None = None,
) -> list[Result]:
    """Run every law on a backend without a test framework, and return all results, broken laws included.

    Args:
        backend: See :class:`equiv.backends.Backend`.
        laws: Ids of laws, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Dtypes or their names, or None for all that the backend serves.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases per item instead of the profile's number.
        seed: Repeats a run.
        arithmetic: What envelopes follow: ``declared``, or ``measured``; see :func:`equiv.laws.run_item`.
        expected_failures: As in :func:`parametrize_with_laws`: the outcome of such a result is ``expected`` where its
            law is broken, and its ``expected`` the reason.

    Raises:
        EquivError: Names that do not exist, reasons that are none, or an object that is no backend.

    Warns:
        ExpectationWarning: Ids that no item has. And items that hold though they were expected to fail, where the cases
            are the same in every run: a seed is given, or the profile is ``gate``.

    Example:
        >>> results = check_backend(TorchEager(), laws=["exact"], dtypes=["float32"], examples=5, seed=1)
        >>> [result.failure for result in results]
        [None]
    """
    found = checks([backend], laws=laws, forms=forms, dtypes=dtypes)
    table = ReasonTable("expected_failures", expected_failures)
    how: dict[str, Any] = {"profile": profile, "examples": examples, "seed": seed, "arithmetic": arithmetic}
    reasons = [table.reason(check) for check in found]
    warn_of_stale([table], found, stacklevel=3)
    results = [run_item(check.item, **how, expected=reason) for check, reason in zip(found, reasons, strict=True)]
    if is_repeatable(profile, seed):
        warn_of_passes(results, stacklevel=3)
    return results
