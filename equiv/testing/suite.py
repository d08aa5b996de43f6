"""The laws of a backend as checks that can be called one by one, or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from equiv._options import options
from equiv.arguments import check_bool, refusal
from equiv.backends import Backend, TorchEager
from equiv.laws import Item, Limits, Result, check_backends, chosen_words, items, run_isolated, run_item


class LawBroken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold for a backend; the message is the whole report. ``result`` has it as data."""

    def __init__(self, result: Result) -> None:
        assert result.failure is not None
        super().__init__(f"{result.failure.summary}\n{result.failure.details()}")
        self.result = result


@dataclass(frozen=True)
class Check:
    """One item, ready to be called: raises :class:`LawBroken` if its law does not hold."""

    item: Item
    limits: Limits | None = None
    """Of a worker process to run it in; None for what the pytest options say, by default this process."""

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
        limits = self.limits or _limits(options.isolate, options.timeout, options.memory)
        result = run_item(self.item, **how) if limits is None else run_isolated(self.item, limits, **how)
        if result.failure is not None:
            raise LawBroken(result)
        return result


def _limits(isolate: bool, timeout: float | None, memory: float | None) -> Limits | None:
    """The limits of isolated items, each the default where it is not given; None without isolation."""
    given = {name: value for name, value in (("timeout", timeout), ("memory", memory)) if value is not None}
    if check_bool("isolate", isolate):
        return Limits(**given)
    if given:
        name, value = next(iter(given.items()))
        raise refusal(name, "None where items are not isolated", value, "pass isolate=True too")
    return None


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
    isolate: bool = False,
    timeout: float | None = None,
    memory: float | None = None,
) -> list[Check]:
    """Every check of a backend, or of several, in a stable order; for ``isolate`` see :func:`check_backend`.

    Example:
        >>> [check.id for check in checks(TorchEager(), laws=["exact"], dtypes=["float32"])]
        ['exact-all-float32-eager.cpu']
    """
    backends = check_backends(backend if isinstance(backend, (list, tuple)) else [backend], argument="backend")
    words = chosen_words(dtypes)
    chosen = [word for word in words if options.dtypes is None or word in options.dtypes]
    if not chosen:
        return []
    limits = _limits(isolate, timeout, memory)
    found = [Check(item, limits) for item in items(backends, laws=laws, forms=forms, dtypes=chosen)]
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
    isolate: bool = False,
    timeout: float | None = None,
    memory: float | None = None,
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
        isolate: Run items in a worker process, which is replaced when it dies. A backend that crashes, exits, hangs or
            eats memory breaks the law of that item, by name, and the run goes on. The backend must have a pickle, or on
            Linux can be inherited by a fork that uses one thread. Scripts need ``if __name__ == "__main__":``.
        timeout: Seconds for each isolated item; 600 by default.
        memory: GiB for each isolated item beyond what the worker holds; 4 by default. Linux holds it, on the CPU.

    Raises:
        EquivError: Names that do not exist, an object that is no backend, or one that cannot be isolated.

    Example:
        >>> results = check_backend(TorchEager(), laws=["exact"], dtypes=["float32"], examples=5, seed=1)
        >>> [result.failure for result in results]
        [None]
    """
    found = [check.item for check in checks([backend], laws=laws, forms=forms, dtypes=dtypes)]
    how: dict[str, Any] = {"profile": profile, "examples": examples, "seed": seed, "arithmetic": arithmetic}
    limits = _limits(isolate, timeout, memory)
    run = run_item if limits is None else partial(run_isolated, limits=limits)
    return [run(item, **how) for item in found]
