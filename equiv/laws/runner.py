"""Run one item: draw cases with Hypothesis, check the law on each, and report the smallest that breaks it."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from random import SystemRandom
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import seed as with_seed
from hypothesis.errors import Flaky, Unsatisfiable
from hypothesis.strategies import SearchStrategy

from equiv.arguments import check_choice, check_integer, check_words, refusal
from equiv.backends import capabilities_of
from equiv.errors import EquivError
from equiv.laws.arithmetic import MODES
from equiv.laws.asking import served_forms
from equiv.laws.call import Broken, Tally
from equiv.laws.capabilities import NotAsked
from equiv.laws.profiles import Profile, profile_of
from equiv.laws.reach import conditions_of, not_reached
from equiv.laws.registry import Context, kind_of
from equiv.laws.repeatable import repeatable
from equiv.laws.selection import Item
from equiv.laws.state import changes_in_words, unchanged
from equiv.laws.trial import Trial
from equiv.laws.witness import (
    Attempt,
    Failure,
    Stored,
    case_text,
    failure_of,
    failure_without_case,
    read_case,
    smaller,
)
from equiv.numerics import gradients_recorded
from equiv.strategies import Case

_UNSTEADY = "; it does not fail every time: the backend gives other results to the same call"


@dataclass
class Result:
    """What came of one item.

    Attributes:
        item: Its id.
        law: The law's id.
        dtype: Its name.
        backend: Its name.
        examples: Cases tried.
        seconds: Wall time.
        seed: Repeats the run.
        forms: Per form, comparisons and their outcomes.
        coverage: Per condition, how often each value was met.
        failure: Of a law that is broken, else None.
        not_asked: What was left out because the backend does not serve it.
        not_reached: Per condition, the values that the law declares to reach and did not in this item.
        raised: What the backend raised in the smallest case, in this process alone: no copy and no JSON has it.
        expected: Why the law was expected to be broken, or None if it was not.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.laws import items
        >>> (item,) = items([TorchEager()], laws=["exact"], dtypes=["int8"])
        >>> result = run_item(item, examples=2, seed=0)
        >>> result.item, result.outcome, result.failure
        ('exact-all-int8-eager.cpu', 'holds', None)
    """

    item: str
    law: str
    dtype: str
    backend: str
    examples: int = 0
    seconds: float = 0.0
    seed: int = 0
    forms: dict[str, Tally] = field(default_factory=dict)
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    failure: Failure | None = None
    not_asked: list[NotAsked] = field(default_factory=list)
    not_reached: dict[str, list[str]] = field(default_factory=dict)
    expected: str | None = None
    raised: BaseException | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "raised": None}

    @property
    def outcome(self) -> str:
        """``holds``; ``broken``, or ``expected`` where that was said beforehand; ``not asked`` where nothing was."""
        if self.failure is not None:
            return "broken" if self.expected is None else "expected"
        judged = sum(tally.judged for tally in self.forms.values())
        return "not asked" if self.not_asked and not judged else "holds"

    @property
    def is_unexpected_pass(self) -> bool:
        """Whether the law holds though it was expected to be broken."""
        return self.outcome == "holds" and self.expected is not None

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        found = asdict(replace(self, raised=None, failure=None))
        del found["raised"]
        return {**found, "failure": None if self.failure is None else self.failure.to_dict()}


case_listeners: list[Callable[[Any], None]] = []
"""Called with every case before the law is tried on it; a worker process says here what it is about to do."""

listeners: list[Callable[[Result], None]] = []
"""Called with every result; the pytest plugin and progress displays listen here.

Example:
    >>> def tell(result): print(result.item)
    >>> listeners.append(tell)
    >>> listeners.remove(tell)
"""


@gradients_recorded()
def run_item(
    item: Item,
    *,
    profile: str | Profile = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
    first: Sequence[str] = (),
    expected: str | None = None,
) -> Result:
    """Try one law on drawn cases, and shrink the first that breaks it.

    Args:
        item: From :func:`items`.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases to try, instead of the profile's number.
        seed: Repeats a run; by default fixed in a derandomized profile and random in the others.
        arithmetic: What envelopes follow. ``declared``: what right kernels of the dtype have on the device; a weaker
            kernel breaks the law, and the failure says how it is weaker. ``measured``: what each call is found to
            compute in, in its own sizes and layout, which takes 0.1 s or more for each; a kernel that is weaker than
            declared passes, and the coverage says so under ``weaker than declared``. Gradients, maps larger than the
            kernel, complex and integer dtypes follow what is declared in either case.
        first: Cases as text, :attr:`Failure.stored` of earlier failures, to try before any is drawn. Those of another
            law, dtype or device are left out.
        expected: Why the law is expected to be broken; kept in the result.

    Returns:
        The result; a broken law is a ``failure`` in it, not an exception.

    Raises:
        EquivError: No item, an unknown profile or arithmetic, a number of examples below 1, a seed below 0, or a text
            that holds no case.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.laws import items
        >>> (item,) = items([TorchEager()], laws=["exact"], dtypes=["int8"])
        >>> run_item(item, examples=2, seed=0).outcome
        'holds'
    """
    if not isinstance(item, Item):
        raise refusal("item", "an equiv.laws.Item", item, "pass one of equiv.laws.items([backend])")
    chosen = profile_of(profile)
    if examples is None:
        examples = max(1, round(chosen.max_examples * item.law.weight))
    examples = check_integer("examples", examples, least=1, advice="leave it out for the profile's number")
    seed = seed_of(seed, chosen)
    measured = check_choice("arithmetic", arithmetic, MODES) == "measured"
    if expected is not None:
        check_words("expected", expected, "say why the law is expected to be broken")
    start = time.perf_counter()
    cases = [read_case(text, argument="first") for text in first]
    with unchanged() as changes:
        forms, refused = served_forms(item.backend, item.forms, item.dtype)
        search = Search(item, Trial(item.backend, item.dtype, forms, chosen.deep, measured))
        if forms and not search.stored(cases):
            search.drawn(chosen, examples, seed)
        seconds = time.perf_counter() - start
        attempt = Attempt(chosen.name, examples, seed, arithmetic)
        failure = _failure(search, attempt, keeps=chosen.database)
    if changes and failure is None:
        failure = failure_without_case(changes_in_words(changes), "state", item, attempt)
    trial = search.trial
    coverage = _coverage(trial)
    ids = (item.id, item.law.id, item.word, item.backend.name)
    result = Result(*ids, search.examples, seconds, seed, dict(trial.tally), coverage, failure=failure)
    of_law = {replace(one, law="" if one.what == "spatial_ranks" else item.law.id) for one in trial.not_asked}
    result.not_asked = sorted({*refused, *of_law}, key=astuple)
    place: dict[str, Any] = {"kind": kind_of(item.dtype), "dtype": item.word, "forms": forms}
    result.not_reached = not_reached(item.law.reaches, coverage, **place, not_asked=result.not_asked)
    result.expected, result.raised = expected, search.raised
    for listener in listeners.copy():
        listener(result)
    return result


def seed_of(seed: int | None, profile: str | Profile) -> int:
    """The seed of a run: what is given, 0 in a derandomized profile, or a random one."""
    if seed is None:
        return 0 if profile_of(profile).derandomize else SystemRandom().randrange(2**32)
    return check_integer("seed", seed, least=0, advice="leave it out for the profile's own")


def attempt_of(
    item: Item, *, profile: str | Profile = "dev", examples: int | None = None, seed: int, arithmetic: str = "declared"
) -> Attempt:
    """What a run of an item is given, from the arguments of :func:`run_item`."""
    chosen = profile_of(profile)
    return Attempt(chosen.name, examples or max(1, round(chosen.max_examples * item.law.weight)), seed, arithmetic)


def _failure(search: Search, attempt: Attempt, *, keeps: bool) -> Failure | None:
    """What is reported of an item: the smallest case found that breaks the law, or a leak."""
    item = search.item
    if search.found is None:
        leak = search.trial.results.leak()
        return failure_without_case(leak, "leak", item, attempt) if leak else None
    broken, case = smaller(*search.found, item=item, measured=search.trial.measured)
    search.raised = broken.error
    stored = case_text(item.law.id, case) if search.is_stored or keeps else None
    failure = failure_of(broken, item, case=case, attempt=replace(attempt, case=stored))
    return replace(failure, note=failure.note + _UNSTEADY) if search.unsteady else failure


@dataclass
class Search:
    """How many cases were tried, the last that broke the law, which is the smallest, and whether it does every time."""

    item: Item
    trial: Trial
    examples: int = 0
    found: tuple[Broken, Any] | None = None
    unsteady: bool = False

    is_stored: bool = False
    raised: BaseException | None = None

    def check(self, case: Any) -> None:
        """Try the law on one case."""
        self.examples += 1
        for listener in case_listeners:
            listener(case)
        _cover(self.trial, case)
        try:
            self.item.law.try_on(self.trial, case)
        except Broken as broken:
            self.found = (broken, case)
            raise

    def stored(self, cases: Sequence[Stored]) -> bool:
        """Try cases that are known, until one breaks the law; whether one did."""
        for stored in cases:
            if stored.fits(self.item):
                try:
                    self.check(stored.case)
                except Broken:
                    self.is_stored = True
                    break
        return self.is_stored

    def drawn(self, profile: Profile, examples: int, seed: int) -> None:
        """Try cases that Hypothesis draws, and shrink the first that breaks the law."""
        device = torch.device(self.item.backend.device)
        context = Context(self.item.dtype, device, self.trial.deep, _ranks(self.trial), _largest(self.trial))
        for part, (strategy, count) in enumerate(self.item.law.drawn(context, examples)):
            if self.found is None:
                self._run(strategy, profile.settings(max_examples=count), seed, part)

    def _run(self, strategy: SearchStrategy[Any], how: settings, seed: int, part: int) -> None:
        def check(case: Any) -> None:
            self.check(case)

        # The database keeps items apart by the name of the function.
        id = self.item.id + (f".{part}" if part else "")
        check.__name__ = check.__qualname__ = id.replace("-", "_").replace(".", "_")
        seeded = with_seed(zlib.crc32(f"{seed}:{id}".encode()))(check)
        run = how(given(strategy)(seeded))  # the settings outermost: a seed takes their database away
        try:
            with repeatable():
                run()
        except Broken:
            pass
        except Flaky:
            if self.found is None:
                raise
            self.unsteady = True
        except Unsatisfiable as error:  # pragma: no cover - the strategies never reject
            raise EquivError(f"{self.item.id}: no case could be drawn") from error


def _ranks(trial: Trial) -> tuple[int, ...]:
    """The ranks of maps that some form serves; any where none is a convolution."""
    forms = [form for form in trial.forms if form != "linear"]
    served = {rank: [trial.asks("spatial_ranks", form, wanted=rank) for form in forms] for rank in (1, 2, 3)}
    return tuple(rank for rank, answers in served.items() if any(answers)) or (1, 2, 3)


def _largest(trial: Trial) -> int | None:
    """Entries of the largest tensor that the backend declares to serve; that larger ones are not asked is noted."""
    largest = capabilities_of(trial.backend).largest
    if largest is not None:
        for form in trial.forms:
            trial.asks("largest", form, wanted=largest + 1)
    return largest


def _coverage(trial: Trial) -> dict[str, dict[str, int]]:
    """What the cases met, the laws counted, and the calls met; in order, and the values in words."""
    found: dict[str, Counter[str]] = {}
    for met in (trial.coverage, conditions_of(trial.traces)):
        for name, counter in met.items():
            words = found.setdefault(name, Counter())
            for value, count in counter.items():
                words[str(value)] += count
    return {name: dict(sorted(counter.items())) for name, counter in sorted(found.items())}


def _cover(trial: Trial, case: Any) -> None:
    """Sizes modulo 8 and 16, for every law's cases alike."""
    if not isinstance(case, Case):
        return
    outputs, n = case.weight.shape
    rows = case.x.numel() // n
    for name, size in (("n", n), ("O", outputs), ("rows", rows), ("C", case.feature_shape[0])):
        trial.cover(f"{name} modulo 8", size % 8)
        trial.cover(f"{name} modulo 16", size % 16)
    trial.cover("batch rank", len(case.batch_shape))
    trial.cover("spatial dimensions", len(case.feature_shape) - 1)
    trial.cover("values of x", case.recipe.style or case.recipe.x.kind)
    trial.cover("bias", case.bias is not None)
    for role, chosen in case.layouts.items():
        trial.cover(f"layout of {role}", chosen.kind)
