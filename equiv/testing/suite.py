"""The laws of a backend as checks that can be called one by one, or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equiv._options import kept, options
from equiv.arguments import refusal
from equiv.backends import Backend, TorchEager
from equiv.laws import Item, Result, check_backends, chosen_words, items, run_item, trimmed


class LawBroken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold for a backend; the message is the whole report, its first line one sentence.

    Attributes:
        result: The same as data.
        with_program: Whether the message has the program that fails in it; the pytest plugin shows that by itself.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(result)  # what a pickle makes it from
        self.result = result
        self.with_program = True

    def __str__(self) -> str:
        failure = self.result.failure
        return "" if failure is None else f"{failure.summary}\n{failure.details(with_program=self.with_program)}"


LawBroken.__module__ = "equiv.testing"  # where users find it; a traceback begins with this name


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
        how = {name: getattr(options, name) for name in ("profile", "examples", "seed", "arithmetic")}
        first = [text for text in (options.case, kept.get(self.id)) if text is not None]
        result = run_item(self.item, **how, first=first)
        if result.failure is not None:
            raise LawBroken(result) from trimmed(result.raised)
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
        given = {name: value for name, value in asked.items() if value is not None}
        advice = "widen one of them, or see `equiv env` for what each law is about"
        raise refusal("laws", "a law that is about some of these forms and dtypes", given, advice)
    return found


def check_backend(  # noqa: PLR0913 - keyword-only options are the interface
    backend: Backend,
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    profile: str = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
    case: str | None = None,
) -> list[Result]:
    """Run every law on a backend without a test framework, and return all results, broken laws included.

    Args:
        backend: See :class:`equiv.backends.Backend`.
        laws: Ids of laws, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Names, or None for all that the backend serves.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases per item instead of the profile's number.
        seed: Repeats a run.
        arithmetic: What envelopes follow: ``declared``, or ``measured``; see :func:`equiv.laws.run_item`.
        case: A case as a failure prints it, to try before any is drawn.

    Raises:
        EquivError: Names that do not exist, or an object that is no backend.

    Example:
        >>> results = check_backend(TorchEager(), laws=["exact"], dtypes=["float32"], examples=5, seed=1)
        >>> [result.failure for result in results]
        [None]
    """
    found = [check.item for check in checks([backend], laws=laws, forms=forms, dtypes=dtypes)]
    first = [] if case is None else [case]
    results = [
        run_item(item, profile=profile, examples=examples, seed=seed, arithmetic=arithmetic, first=first)
        for item in found
    ]
    for result in results:
        result.raised = None  # its frames would keep the tensors of every failure alive
    return results
