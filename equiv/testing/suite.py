"""The laws of a backend as checks that can be called one by one, or all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from equiv._options import kept, options
from equiv.arguments import check_bool, refusal
from equiv.backends import Backend, TorchEager
from equiv.errors import EquivError
from equiv.laws import (
    Item,
    Limits,
    NotAsked,
    Plan,
    Result,
    check_backends,
    plan,
    profile_of,
    run_isolated,
    run_item,
    trimmed,
)
from equiv.report import NotAsked as Reported
from equiv.report import Request, Run
from equiv.testing.reasons import Reasons, ReasonTable, warn_of_passes, warn_of_stale
from equiv.testing.results import Results
from equiv.text import shown

_HOW = ("profile", "examples", "seed", "arithmetic")

called: list[Callable[[Result], None]] = []
"""Told the result of every :class:`Check` that is called; the pytest plugin listens here."""


class LawBroken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold for a backend; the message is the whole report, its first line one sentence.

    Attributes:
        result: The same as data.
        with_program: Whether the message has the program that fails in it; the pytest plugin shows that by itself.

    Example:
        >>> from equiv.testing import Kernels
        >>> def zeros(input, weight, bias=None):
        ...     return torch.zeros(*input.shape[:-1], len(weight))
        >>> mine = Kernels(linear=zeros, name="mine")
        >>> (check,) = checks(mine, laws=["exact"], dtypes=["float32"])
        >>> try:
        ...     check()
        ... except LawBroken as error:
        ...     print(error.result.law)
        exact
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
    """One item, ready to be called: raises :class:`LawBroken` if its law does not hold.

    Attributes:
        item: What is checked; its ``law``, ``form``, ``dtype`` and ``backend`` are attributes.
        profile: What this check asks for; see :func:`parametrize_with_laws`. None leaves it to the run.
        examples: Likewise.
        seed: Likewise.
        arithmetic: Likewise.
        expected: Why it is expected to fail, or None.
        strict: Whether it fails where it passes though it is expected to fail.
        skipped: Why it is not run, where the options of pytest leave no item at all and this one stands for them.
        not_asked: What its backends declare not to serve, so that there is no item for it.
        limits: Of a worker process to run it in; None for what the pytest options say, by default this process.

    Example:
        >>> (check,) = checks(TorchEager(), laws=["exact"], dtypes=["int8"])
        >>> check.id
        'exact-all-int8-eager.cpu'
    """

    item: Item
    profile: str | None = None
    examples: int | None = None
    seed: int | None = None
    arithmetic: str | None = None
    expected: str | None = None
    strict: bool = True
    skipped: str = ""
    not_asked: tuple[NotAsked, ...] = field(default=(), compare=False, repr=False)
    limits: Limits | None = None

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
        if self.skipped:
            import pytest

            pytest.skip(self.skipped)
        limits = self.limits or _limits(options.isolate, options.timeout, options.memory)
        how = {**self.how, "first": [text for text in (options.case, kept.get(self.id)) if text is not None]}
        result = run_item(self.item, **how) if limits is None else run_isolated(self.item, limits, **how)
        for hear in called.copy():
            hear(result)
        if result.failure is not None:
            raise LawBroken(result) from trimmed(result.raised)
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


def _with_options(command: str, more: str) -> str:
    """A printed call of :func:`check_backend` with more keywords; other commands as they are."""
    return f"{command[:-1]}{more})" if command.startswith("equiv.testing.check_backend(") else command


def is_repeatable(profile: str, seed: int | None) -> bool:
    """Whether a run tries the same cases each time, so that a pass is more than luck."""
    return seed is not None or profile_of(profile).derandomize


def devices_under_test() -> tuple[TorchEager, ...]:
    """TorchEager on every device that ``--equiv-devices`` names; on the CPU by default.

    Raises:
        EquivError: A device that is not present.

    Example:
        >>> [backend.name for backend in devices_under_test()]
        ['eager.cpu']
    """
    return tuple(TorchEager(device) for device in options.devices)


def checks(
    backend: Backend | Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype | str] | None = None,
    isolate: bool = False,
    timeout: float | None = None,
    memory: float | None = None,
) -> list[Check]:
    """Every check of a backend, or of several, in a stable order, of the dtypes that the options of pytest leave.

    Where they leave none, one check stands for all, which skips the test that calls it. For ``isolate`` see
    :func:`check_backend`.

    Example:
        >>> [check.id for check in checks(TorchEager(), laws=["exact"], dtypes=["float32"])]
        ['exact-all-float32-eager.cpu']
    """
    found = planned(backend, laws=laws, forms=forms, dtypes=dtypes)
    limits = _limits(isolate, timeout, memory)
    left = [item for item in found.items if options.dtypes is None or item.word in options.dtypes]
    if left:
        return [Check(item, not_asked=found.not_asked, limits=limits) for item in left]
    words = ", ".join(dict.fromkeys(item.word for item in found.items))
    option = f"--equiv-dtypes {','.join(options.dtypes or ())}"
    skipped = f"equiv: not asked: {option} leaves nothing of {words}"
    return [Check(found.items[0], skipped=skipped, not_asked=found.not_asked)]


def planned(
    backend: Backend | Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype | str] | None = None,
) -> Plan:
    """What there is to ask of a backend, or of several, whatever the options of pytest.

    Raises:
        EquivError: There is nothing.
    """
    backends = check_backends(backend if isinstance(backend, (list, tuple)) else [backend], argument="backend")
    found = plan(backends, laws=laws, forms=forms, dtypes=dtypes)
    if found.items:
        return found
    asked = {"backend": [one.name for one in backends], "laws": laws, "forms": forms, "dtypes": dtypes}
    given = {name: value for name, value in asked.items() if value is not None}
    advice = "widen one of them, or see `equiv env` for what each law is about"
    if found.not_asked:
        first = found.not_asked[0]
        given["not asked"], advice = first.what, f"{first.reason}, so that nothing can be asked"
    raise refusal("laws", "a law that is about some of these forms and dtypes", given, advice)


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
    isolate: bool = False,
    timeout: float | None = None,
    memory: float | None = None,
    case: str | None = None,
) -> Results:
    """Run every law on a backend without a test framework, and return all results, broken laws included.

    They are a sequence of :class:`equiv.laws.Result` with ``holds``, ``failures`` and ``not_asked``, and with
    ``to_json()``: the report that docs/report.md describes.

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
        isolate: Run items in a worker process, which is replaced when it dies. A backend that crashes, exits, hangs or
            eats memory breaks the law of that item, by name, and the run goes on. The backend must have a pickle, or on
            Linux can be inherited by a fork that uses one thread. Scripts need ``if __name__ == "__main__":``.
        timeout: Seconds for each isolated item; 600 by default.
        memory: GiB for each isolated item beyond what the worker holds; 4 by default. Linux holds it, on the CPU.
        case: A case as a failure prints it, to try before any is drawn.

    Raises:
        EquivError: Names that do not exist, reasons that are none, an object that is no backend, one that serves
            nothing of all this, or one that cannot be isolated.

    Warns:
        ExpectationWarning: Ids that no item has. And items that hold though they were expected to fail, where the cases
            are the same in every run: a seed is given, or the profile is ``gate``.

    Example:
        >>> results = check_backend(TorchEager(), laws=["exact"], dtypes=["float32"], examples=5, seed=1)
        >>> [result.failure for result in results], results.holds
        ([None], True)
    """
    found = planned([backend], laws=laws, forms=forms, dtypes=dtypes)
    table = ReasonTable("expected_failures", expected_failures)
    asked = [Check(item) for item in found.items]
    reasons = [table.reason(check) for check in asked]
    warn_of_stale([table], asked, stacklevel=3)
    how: dict[str, Any] = {"profile": profile, "examples": examples, "seed": seed, "arithmetic": arithmetic}
    first = [] if case is None else [case]
    limits = _limits(isolate, timeout, memory)
    run_one = run_item if limits is None else partial(run_isolated, limits=limits)
    start = time.perf_counter()
    results = [
        run_one(check.item, **how, first=first, expected=reason) for check, reason in zip(asked, reasons, strict=True)
    ]
    for result in results:
        result.raised = None  # its frames would keep the tensors of every failure alive
        if limits is not None and result.failure is not None:
            words = {"isolate": True, "timeout": timeout, "memory": memory}
            more = "".join(f", {name}={value!r}" for name, value in words.items() if value is not None)
            result.failure = replace(result.failure, command=_with_options(result.failure.command, more))
    seconds = time.perf_counter() - start
    if all(result.outcome == "not asked" for result in results):
        one = results[0].not_asked[0]
        raise EquivError(
            f"backend: expected {backend.name} to serve something of {shown([result.item for result in results], 120)},"
            f" got nothing that could be asked ({one.what}: {one.reason}); ask for other laws, forms or dtypes"
        )
    if is_repeatable(profile, seed):
        warn_of_passes(results, stacklevel=3)
    run = Run.of(
        Request(devices=(str(backend.device),), **how, case=case),
        [one.to_dict() for one in results],
        planned=[item.id for item in found.items],
        jobs=1,
        seconds=seconds,
        left_out=[Reported.of(vars(one)) for one in found.not_asked],
    )
    return Results(tuple(results), run)
