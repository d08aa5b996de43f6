"""What `power.py` runs on one fault or legal variant: the laws until the first is broken, the rules until each is red.

Seconds are wall time up to the first detection, or of the whole run where there is none, without any search for a
smaller example; for a rule they are those of the forms and of its own comparisons.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import _common
import torch
from _power_cases import SOURCES, Problem, References, pairs, references
from _power_oracles import ORACLES
from hypothesis.errors import HypothesisException

from equiv.backends import TorchEager
from equiv.dtypes import BY_NAME
from equiv.laws import Item, items, profile_of, run_item
from equiv.laws.capabilities import NotServed
from equiv.text import first_line


class Mutant(Protocol):
    """A fault or a legal variant, as ``equiv.testing.faults`` has them."""

    name: str
    title: str
    dtypes: Sequence[str]

    def applied(self) -> contextlib.AbstractContextManager[Any]:
        """Puts the change in."""


@dataclass(frozen=True)
class Unbroken:
    """torch as it is: what nobody may find wrong."""

    name: str
    dtypes: tuple[str, ...]
    title: str = "torch as it is"

    def applied(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


@dataclass(frozen=True)
class Cell:
    """What one oracle said of one mutant for one seed.

    Attributes:
        red: Whether it found something wrong; for a fault, something that it does not find wrong without the fault.
        examples: Cases up to and including the first that was red; all of them if none was.
        seconds: Wall time of those.
        by: The law or the comparison that was red.
        red_cases: In how many cases something was red; 1 for the laws, which stop there.
        cases: How many were tried.
        whole: Wall time of all cases; None where the run could end early.
        died: Whether torch ended the process before anything was said.
    """

    red: bool
    examples: int
    seconds: float
    by: str
    red_cases: int
    cases: int
    whole: float | None = None
    died: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def dtype_of(mutant: Mutant) -> str:
    """The one dtype in which everybody tries a mutant: the first that it names."""
    return mutant.dtypes[0] if mutant.dtypes else "float32"


# -- the laws ----------------------------------------------------------------------------------------------------------


class _Found(KeyboardInterrupt):
    """Ends a run at once, as Ctrl-C does: whatever else a check raises breaks the law, and would be shrunk."""


def laws_on(mutant: Mutant, *, profile: str, seed: int, examples: int | None) -> dict[str, Cell]:
    """Every law, in the order of their numbers, up to the first case that breaks one. Nothing is kept between runs."""
    chosen = replace(profile_of(profile), database=False)
    tried, start = 0, time.perf_counter()

    def watched(item: Item) -> Item:
        def check(trial: Any, case: Any) -> None:
            nonlocal tried
            tried += 1
            try:
                item.law.check(trial, case)
            except (HypothesisException, NotServed):
                raise
            except Exception as error:
                raise _Found(f"{item.law.id}: {first_line(error, 90)}") from error

        return replace(item, law=replace(item.law, check=check))

    def cell(red: bool, by: str) -> dict[str, Cell]:
        seconds = time.perf_counter() - start
        return {"equiv": Cell(red, tried, seconds, by, int(red), tried, None if red else seconds)}

    try:
        with mutant.applied(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for item in items([TorchEager()], dtypes=[dtype_of(mutant)]):
                run_item(watched(item), profile=chosen, seed=seed, examples=examples)
    except _Found as found:
        return cell(True, str(found))
    return cell(False, "")


# -- the rules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """What is known without a fault, by case: the references, what nobody should be asked, what each rule calls red."""

    references: list[References]
    left_out: list[frozenset[str]]
    red: Mapping[str, list[frozenset[str]]]


def problems_of(source: str, *, seed: int, dtype: str, count: int, deep: bool) -> list[Problem]:
    options = {"deep": deep} if source == "equiv" else {}
    return SOURCES[source](seed, BY_NAME[dtype], count, **options)


def baseline(problems: Sequence[Problem], names: Iterable[str]) -> Baseline:
    """Judge torch as it is, and leave out what has no finite reference, and where torch is known to be wrong."""
    left_out, red = [], {name: list[frozenset[str]]() for name in names}
    wanted = [references(TorchEager(), problem) for problem in problems]
    for problem, given in zip(problems, wanted, strict=True):
        out, found = set(), {name: set[str]() for name in red}
        for pair in pairs(TorchEager(), problem, given):
            reference = pair.reference
            if pair.excused or (reference is not None and not bool(torch.isfinite(reference).all())):
                out.add(pair.label)
                continue
            for name in red:
                if _is_red(name, pair.candidate, reference):
                    found[name].add(pair.label)
        left_out.append(frozenset(out))
        for name in red:
            red[name].append(frozenset(found[name]))
    return Baseline(wanted, left_out, red)


def rules_on(mutant: Mutant, problems: Sequence[Problem], without: Baseline, *, is_fault: bool) -> dict[str, Cell]:
    """Every rule on every problem; on a fault up to the one at which the last of them has found it.

    On a fault only what is green without it counts as found.
    """
    seconds, first = dict.fromkeys(without.red, 0.0), dict[str, Cell]()
    red_cases, count = dict.fromkeys(without.red, 0), 0
    with mutant.applied(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, problem in enumerate(problems):
            if is_fault and len(first) == len(without.red):
                break
            count += 1
            start = time.perf_counter()
            found = pairs(TorchEager(), problem, without.references[index])
            compared = [pair for pair in found if pair.label not in without.left_out[index]]
            spent = time.perf_counter() - start
            for name in without.red:
                start = time.perf_counter()
                ignored = without.red[name][index] if is_fault else frozenset()
                asked = (pair for pair in compared if pair.label not in ignored)
                by = next((pair.label for pair in asked if _is_red(name, pair.candidate, pair.reference)), "")
                seconds[name] += spent + time.perf_counter() - start
                red_cases[name] += bool(by)
                if by and name not in first:
                    first[name] = Cell(True, index + 1, seconds[name], by, 0, 0)
    never = {name: Cell(False, count, seconds[name], "", 0, count) for name in without.red}
    return {
        name: replace(
            first.get(name, cell), red_cases=red_cases[name], cases=count, whole=None if is_fault else seconds[name]
        )
        for name, cell in never.items()
    }


def _is_red(name: str, candidate: torch.Tensor | None, reference: torch.Tensor | None) -> bool:
    return candidate is None or reference is None or ORACLES[name](candidate, reference)


# -- one job after another, in a process that may die ------------------------------------------------------------------

UNBROKEN = tuple(Unbroken(f"torch in {word}", (word,)) for word in ("float32", "float64", "bfloat16", "float16"))


@dataclass(frozen=True)
class Job:
    """One runner on one mutant for one seed; small enough to be sent to another process.

    Attributes:
        runner: ``gate`` or ``deep`` for the laws, else the source of the rules' inputs.
        mutant: Its name in the catalogue, or that of one of ``UNBROKEN``.
        seed: From 0 on.
        count: Cases; None for the profile's own number.
        rules: Names of the rules; none for the laws.
        catalogue: The module that has the mutants.
    """

    runner: str
    mutant: str
    seed: int
    count: int | None
    rules: tuple[str, ...]
    catalogue: str


_kept: dict[tuple[Any, ...], tuple[list[Problem], Baseline]] = {}


def work(job: Job) -> dict[str, dict[str, Any]]:
    """What every oracle of a job says, by name."""
    torch.set_num_threads(1)
    catalogue = importlib.import_module(job.catalogue)
    mutant: Any = {**{each.name: each for each in UNBROKEN}, **catalogue.VARIANTS, **catalogue.FAULTS}[job.mutant]
    if not job.rules:
        found = laws_on(mutant, profile=job.runner, seed=job.seed, examples=job.count)
    else:
        deep = job.runner == "equiv" and getattr(mutant, "profile", "") == "deep"
        key = (job.runner, deep, job.count, job.rules, job.seed, dtype_of(mutant))
        if key not in _kept:
            for other in [k for k in _kept if k[-2:] != key[-2:]]:
                del _kept[other]  # of another seed or dtype: they are large
            assert job.count is not None
            problems = problems_of(job.runner, seed=job.seed, dtype=key[-1], count=job.count, deep=deep)
            _kept[key] = problems, baseline(problems, job.rules)
        found = rules_on(mutant, *_kept[key], is_fault=job.mutant in catalogue.FAULTS)
    return {name: cell.to_dict() for name, cell in found.items()}


def ended(job: Job) -> dict[str, dict[str, Any]]:
    """What is said of a job that ended its process."""
    cell = Cell(False, 0, 0.0, "torch ended the process", 0, 0, died=True).to_dict()
    return dict.fromkeys(job.rules or ("equiv",), cell)


def worker() -> _common.Worker[dict[str, dict[str, Any]]]:
    """Does :func:`work` in a process of its own."""
    return _common.Worker(work, ended)
