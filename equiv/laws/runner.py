"""Run one item: draw cases with Hypothesis, check the law on each, and report the smallest that breaks it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from random import SystemRandom
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import seed as with_seed
from hypothesis.errors import Flaky, Unsatisfiable

from equiv.arguments import check_choice, check_integer, check_words, refusal
from equiv.errors import EquivError
from equiv.laws.arithmetic import MODES
from equiv.laws.call import Broken, Tally
from equiv.laws.profiles import Profile, profile_of
from equiv.laws.registry import Context
from equiv.laws.repeatable import repeatable
from equiv.laws.selection import Item
from equiv.laws.trial import Trial
from equiv.laws.witness import Failure, failure_of, smaller
from equiv.numerics import gradients_recorded

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
        expected: Why the law was expected to be broken, or None if it was not.
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
    expected: str | None = None

    @property
    def outcome(self) -> str:
        """``holds``; ``broken``; or ``expected`` for a law that was expected to be broken, and is."""
        if self.failure is None:
            return "holds"
        return "broken" if self.expected is None else "expected"

    @property
    def is_unexpected_pass(self) -> bool:
        """Whether the law holds though it was expected to be broken."""
        return self.outcome == "holds" and self.expected is not None

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


listeners: list[Callable[[Result], None]] = []
"""Called with every result; the pytest plugin and progress displays listen here."""


@gradients_recorded()
def run_item(
    item: Item,
    *,
    profile: str | Profile = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
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
        expected: Why the law is expected to be broken; kept in the result.

    Returns:
        The result; a broken law is a ``failure`` in it, not an exception.

    Raises:
        EquivError: No item, an unknown profile or arithmetic, a number of examples below 1, or a seed below 0.
    """
    if not isinstance(item, Item):
        raise refusal("item", "an equiv.laws.Item", item, "pass one of equiv.laws.items([backend])")
    chosen = profile_of(profile)
    if examples is None:
        examples = max(1, round(chosen.max_examples * item.law.weight))
    examples = check_integer("examples", examples, least=1, advice="leave it out for the profile's number")
    if seed is None:
        seed = 0 if chosen.derandomize else SystemRandom().randrange(2**32)
    seed = check_integer("seed", seed, least=0, advice="leave it out for the profile's own")
    measured = check_choice("arithmetic", arithmetic, MODES) == "measured"
    if expected is not None:
        check_words("expected", expected, "say why the law is expected to be broken")
    trial = Trial(item.backend, item.dtype, item.forms, chosen.deep, measured)
    start = time.perf_counter()
    search = _search(item, trial, chosen.settings(max_examples=examples), seed)
    seconds = time.perf_counter() - start
    coverage = {
        name: dict(sorted((str(value), count) for value, count in counter.items()))
        for name, counter in sorted(trial.coverage.items())
    }
    ids = (item.id, item.law.id, item.word, item.backend.name)
    result = Result(*ids, search.examples, seconds, seed, dict(trial.tally), coverage, expected=expected)
    if search.found is not None:
        broken, case = smaller(*search.found, item=item, measured=measured)
        failure = failure_of(broken, item, seed=seed, case=case)
        result.failure = replace(failure, note=failure.note + _UNSTEADY) if search.unsteady else failure
    for listener in listeners.copy():
        listener(result)
    return result


@dataclass
class _Search:
    """How many cases were tried, the last that broke the law, which is the smallest, and whether it does every time."""

    examples: int = 0
    found: tuple[Broken, Any] | None = None
    unsteady: bool = False


def _search(item: Item, trial: Trial, how: settings, seed: int) -> _Search:
    """Try the law on drawn cases."""
    search = _Search()

    def check(case: Any) -> None:
        search.examples += 1
        _cover(trial, case)
        try:
            item.law.try_on(trial, case)
        except Broken as broken:
            search.found = (broken, case)
            raise

    # The database keeps items apart by the name of the function.
    check.__name__ = check.__qualname__ = item.id.replace("-", "_").replace(".", "_")
    context = Context(item.dtype, torch.device(item.backend.device), trial.deep)
    run = with_seed(zlib.crc32(f"{seed}:{item.id}".encode()))(how(given(item.law.draw(context))(check)))
    try:
        with repeatable():
            run()
    except Broken:
        pass
    except Flaky:
        if search.found is None:
            raise
        search.unsteady = True
    except Unsatisfiable as error:  # pragma: no cover - the strategies never reject
        raise EquivError(f"{item.id}: no case could be drawn") from error
    return search


def _cover(trial: Trial, case: Any) -> None:
    """Sizes modulo 8 and 16, for every law's cases alike."""
    weight = getattr(case, "weight", None)
    if weight is None:
        return
    outputs, n = weight.shape
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
