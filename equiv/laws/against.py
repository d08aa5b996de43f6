"""Two backends on the same cases: each result is judged in its own backend's arithmetic, and then against the other.

The judgements are those of the laws. Two results that differ while both are right are explained by arithmetic, as they
lie in both envelopes; they cannot differ where a law demands exact values of both.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from equiv.arguments import check_choice, check_integer
from equiv.backends import Backend, check_backend
from equiv.errors import EquivError
from equiv.laws.arithmetic import MODES
from equiv.laws.asking import served_forms
from equiv.laws.call import Broken, Call
from equiv.laws.profiles import profile_of
from equiv.laws.runner import Search, seed_of
from equiv.laws.selection import Item, plan
from equiv.laws.state import unchanged
from equiv.laws.trial import Trial
from equiv.laws.witness import Attempt, Failure, failure_of, script_of, smaller, sparser, tried
from equiv.numerics import Reference, bit_equal, gradients_recorded

OUTCOMES = ("identical", "rounding", "undecided", "finding")
"""What can come of two results that are both right, the rarest last."""


@dataclass
class Judged:
    """A result that a law has judged, and how it found it: one of :data:`OUTCOMES`."""

    result: Tensor
    outcome: str


@dataclass
class Recording(Trial):
    """A trial that keeps each result that is judged, by the values that the call was made with."""

    judged: dict[Hashable, Judged] = field(default_factory=dict)

    def judge(
        self, call: Call, y: Tensor, reference: Reference, condition: str = "", *, gradient: str | None = None
    ) -> None:
        """As a trial judges it."""
        before = self._counts(call.form)
        super().judge(call, y, reference, condition, gradient=gradient)
        self._keep(call, y, before, (gradient,))

    def same(
        self, call: Call, y: Tensor, expected: Tensor, condition: str = "", gradient: tuple[str, Tensor] | None = None
    ) -> None:
        """As a trial compares it."""
        before = self._counts(call.form)
        super().same(call, y, expected, condition, gradient)
        incoming = () if gradient is None else (gradient[0], _digest(gradient[1]))
        self._keep(call, y, before, (*incoming, _digest(expected)))  # both are right if the same is expected of both

    def _counts(self, form: str) -> tuple[int, int, int]:
        tally = self.tally[form]
        known = sum(sum(met.values()) for name, met in self.coverage.items() if name.startswith("known defect"))
        return known, tally.undecided, tally.rounding

    def _keep(self, call: Call, y: Tensor, before: tuple[int, int, int], what: tuple[Hashable, ...]) -> None:
        now = self._counts(call.form)
        more = [a > b for a, b in zip(now, before, strict=True)]
        outcome = next((name for name, met in zip(OUTCOMES[:0:-1], more, strict=True) if met), OUTCOMES[0])
        self.judged.setdefault((*_values_of(call), *what), Judged(y.detach().clone(), outcome))


def _values_of(call: Call) -> tuple[Hashable, ...]:
    """What tells calls apart: form, options, and the values of the tensors."""
    tensors = [None if t is None else _digest(t) for t in (call.input, call.weight, call.bias)]
    return (call.form, *tensors, *call.steps, call.padding, call.groups)


def _digest(t: Tensor) -> Hashable:
    content = torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()).reshape(-1).view(torch.uint8).numpy().tobytes()
    return tuple(t.shape), t.dtype, hashlib.blake2b(content, digest_size=16).digest()


@dataclass
class Fault:
    """A case on which one of two backends is wrong.

    Attributes:
        failure: What is wrong, in its smallest case.
        side: The name of the backend that is wrong.
        script: A program that runs the case on both backends and fails on this one; None where it has no source.
        call: The call that shows it, or None.
    """

    failure: Failure
    side: str
    script: str | None
    call: Call | None = field(repr=False)


@dataclass
class Against:
    """What came of one law in one dtype on two backends.

    Attributes:
        law: Its id.
        dtype: Its name.
        forms: That both serve.
        backends: The names of both.
        cases: That were tried.
        outcomes: How many pairs of results were ``identical`` in every bit; differ in ``rounding``, inside the
            envelopes of both; are ``undecided``, as right kernels may differ there; or differ by a ``finding``, a
            defect of a runtime that is written down.
        worst: For each backend its largest error as a fraction of its envelope.
        alone: For each backend, results that the other has none for.
        notes: For each backend, what is known of its arithmetic and defects, with how often it was met.
        faults: Where a backend is wrong.
        seconds: Wall time.
        seed: Repeats the run.
    """

    law: str
    dtype: str
    forms: tuple[str, ...]
    backends: tuple[str, str]
    cases: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    worst: dict[str, float] = field(default_factory=dict)
    alone: dict[str, int] = field(default_factory=dict)
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    seed: int = 0

    @property
    def pairs(self) -> int:
        """How many pairs of results were compared."""
        return sum(self.outcomes.values())

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        faults = [{"side": one.side, "script": one.script, "failure": one.failure.to_dict()} for one in self.faults]
        return {**asdict(_without_faults(self)), "pairs": self.pairs, "faults": faults}


def _without_faults(found: Against) -> Against:
    return Against(**{**vars(found), "faults": []})


class _Both(Search):
    """Tries a law on two backends, and compares what it judged."""

    def __init__(self, items: tuple[Item, Item], trials: tuple[Recording, Recording]) -> None:
        super().__init__(items[0], trials[0])
        self.items, self.trials = items, trials
        self.outcomes: Counter[str] = Counter()
        self.alone: Counter[str] = Counter()
        self.side = 0

    def check(self, case: Any) -> None:
        """Both are tried; the first that breaks the law ends it."""
        self.examples += 1
        for side, (item, trial) in enumerate(zip(self.items, self.trials, strict=True)):
            trial.judged.clear()
            try:
                item.law.try_on(trial, case)
            except Broken as broken:
                self.found, self.side = (broken, case), side
                raise
        self._compare()

    def _compare(self) -> None:
        first, second = (trial.judged for trial in self.trials)
        for key in first.keys() & second.keys():
            a, b = first[key], second[key]
            if a.result.shape == b.result.shape and bit_equal(a.result.cpu(), b.result.cpu()):
                self.outcomes["identical"] += 1
            else:  # of two zeros the signs may differ, which is rounding too
                rank = max(OUTCOMES.index(a.outcome), OUTCOMES.index(b.outcome), 1)
                self.outcomes[OUTCOMES[rank]] += 1
        for trial, mine, theirs in ((self.trials[0], first, second), (self.trials[1], second, first)):
            self.alone[trial.backend.name] += len(mine.keys() - theirs.keys())


_WITHIN = ("purity", "scaling", "round_trip")
"""Laws that compare results of one backend with each other."""


@dataclass(frozen=True)
class Pair:
    """One law in one dtype, on two backends."""

    items: tuple[Item, Item]

    @property
    def id(self) -> str:
        """``law-form-dtype-first-second``."""
        return f"{self.items[0].id}-{self.items[1].backend.name}"


def pairs_of(
    first: Backend,
    second: Backend,
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str | torch.dtype] | None = None,
) -> list[Pair]:
    """The laws that both backends can be asked, in each dtype; see :func:`equiv.laws.plan` for the arguments.

    Laws about torch's own machinery are left out, and those that compare results of one backend with each other.

    Raises:
        EquivError: An unknown name, one backend twice, or nothing that both serve.
    """
    both = (check_backend("first", first), check_backend("second", second))
    if both[0].name == both[1].name:
        raise EquivError(f"second: expected another backend than the first, got {both[1].name} twice; name another")
    found = [
        {(one.law.id, one.dtype): one for one in plan([backend], laws=laws, forms=forms, dtypes=dtypes).items}
        for backend in both
    ]
    shared = ((item, found[1][key]) for key, item in found[0].items() if key in found[1])
    pairs = [Pair(two) for two in shared if two[0].law.id not in _WITHIN and not two[0].law.needs_torch]
    if not pairs:
        names = " and ".join(one.name for one in both)
        raise EquivError(f"laws: expected some that judge results of {names}, got none; choose others, or other dtypes")
    return pairs


@gradients_recorded()
def run_pair(
    pair: Pair,
    *,
    profile: str = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
) -> Against:
    """Try one law on drawn cases on two backends, until one of them is wrong.

    Args:
        pair: From :func:`pairs_of`.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases to try, instead of the profile's number.
        seed: Repeats a run.
        arithmetic: As of :func:`equiv.laws.run_item`, for each backend on its own.

    Example:
        >>> from equiv.backends import TorchEager, load_backend
        >>> (pair,) = pairs_of(TorchEager(), load_backend("numpy"), laws=["exact"], dtypes=["float32"])
        >>> found = run_pair(pair, examples=10, seed=1)
        >>> found.outcomes["identical"] == found.pairs > 0, found.faults
        (True, [])
    """
    chosen = profile_of(profile)
    measured = check_choice("arithmetic", arithmetic, MODES) == "measured"
    law = pair.items[0].law
    if examples is None:
        examples = max(1, round(chosen.max_examples * law.weight))
    examples = check_integer("examples", examples, least=1, advice="leave it out for the profile's number")
    seed, start = seed_of(seed, chosen), time.perf_counter()
    with unchanged():
        served = [set(served_forms(one.backend, one.forms, one.dtype)[0]) for one in pair.items]
        forms = tuple(form for form in pair.items[0].forms if all(form in one for one in served))
        one, other = (Recording(item.backend, item.dtype, forms, chosen.deep, measured) for item in pair.items)
        search = _Both(pair.items, (one, other))
        if forms:
            search.drawn(chosen, examples, seed)
        attempt = Attempt(chosen.name, examples, seed, arithmetic)
        faults = [] if search.found is None else _faults(search, attempt, measured=measured)
    names = (one.backend.name, other.backend.name)
    found = Against(law.id, pair.items[0].word, forms, names, search.examples, seed=seed, faults=faults)
    found.outcomes |= search.outcomes
    found.alone = {name: search.alone[name] for name in names}
    found.worst = {t.backend.name: max((x.max_ratio for x in t.tally.values()), default=0.0) for t in (one, other)}
    found.notes = {trial.backend.name: _notes(trial) for trial in (one, other)}
    found.seconds = time.perf_counter() - start
    return found


_NOTED = ("known defect", "weaker than declared", "envelopes follow", "calls not served")


def _notes(trial: Trial) -> dict[str, int]:
    met = {name: counts for name, counts in sorted(trial.coverage.items()) if name.startswith(_NOTED)}
    return {f"{name}: {value}": count for name, counts in met.items() for value, count in counts.items()}


def _faults(search: _Both, attempt: Attempt, *, measured: bool) -> list[Fault]:
    """What each backend does wrong on the smallest case that was found, and on one smaller still."""
    assert search.found is not None
    first, case = search.found
    faults = []
    for item, other in (search.items, search.items[::-1]):
        broken = tried(item, case, measured=measured)
        if broken is not None:
            broken, small = smaller(broken, case, item=item, measured=measured)
            broken = sparser(broken, item)
            failure = failure_of(broken, item, case=small, attempt=attempt)
            script = script_of(broken, item, small, other.backend)
            faults.append(Fault(failure, item.backend.name, script, broken.call))
    if not faults:  # it does not fail every time
        item = search.items[search.side]
        failure = failure_of(first, item, case=case, attempt=attempt)
        faults = [Fault(failure, item.backend.name, script=None, call=first.call)]
    return faults
