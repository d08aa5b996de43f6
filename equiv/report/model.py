"""The model of a run of laws: what was asked for, where it ran, and what came of every law in every dtype.

It is made from the results of ``equiv.laws`` in JSON's types, so that they may come from another process. Importing it
loads neither torch nor hypothesis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from equiv.environment import Environment
from equiv.report.reached import Coverage, Missed, expected_conditions, missed_by_law

SCHEMA = 3
"""The version of the layout of :meth:`Run.to_dict`, which ``schema.json`` and docs/report.md describe."""

OUTCOMES = ("holds", "broken", "expected", "not asked", "not run")
"""What an item can come to. ``expected``: broken, and said beforehand to be.

Example:
    >>> "not asked" in OUTCOMES
    True
"""

Place = tuple[str, str, str, str]
"""Law, form, dtype and backend of results; empty where they vary."""


@dataclass(frozen=True)
class Request:
    """What to run, in words, so that it can be handed to another process: the options of ``equiv verify``.

    None stands for all laws, forms and dtypes, for the profile's number of examples, and for a seed of its own for each
    item.

    Example:
        >>> Request(laws=("exact",), dtypes=("int8",), profile="gate").devices
        ('cpu',)
    """

    devices: tuple[str, ...] = ("cpu",)
    laws: tuple[str, ...] | None = None
    forms: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    profile: str = "dev"
    examples: int | None = None
    seed: int | None = None
    arithmetic: str = "declared"
    case: str | None = None


@dataclass(frozen=True)
class Tally:
    """How many results were compared, with which outcomes, and the largest error as a fraction of its envelope."""

    judged: int = 0
    identical: int = 0
    rounding: int = 0
    undecided: int = 0
    different: int = 0
    max_ratio: float = 0.0


@dataclass(frozen=True)
class NotAsked:
    """One thing that was not asked of a backend, and why; the attributes are those of ``equiv.laws``' own.

    Attributes:
        what: The capability that the backend lacks.
        backend: Its name.
        law: The law that would have asked; empty where all would have.
        form: The form; empty for all.
        dtype: The dtype's name; empty for all.
        reason: In words.
        how: ``declared`` by the backend, or ``found`` out by asking it.

    Example:
        >>> NotAsked("gradient_order", "mine", law="gradients", reason="the backend declares gradient_order=0").how
        'declared'
    """

    what: str
    backend: str
    law: str = ""
    form: str = ""
    dtype: str = ""
    reason: str = ""
    how: str = "declared"

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> NotAsked:
        """From JSON's types."""
        return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})


@dataclass(frozen=True)
class Item:
    """What came of one law in one dtype on one backend; the attributes are those of :class:`equiv.laws.Result`.

    Beside them ``form``, which is ``all`` for several; ``reason``: in words, why nothing was asked or the item did not
    run. ``seed`` is None then. ``expected`` says why the law was expected to be broken. ``not_reached``: what the law
    declares to reach in such an item and did not in this one; few cases reach less.
    """

    item: str
    law: str
    form: str
    dtype: str
    backend: str
    outcome: str
    reason: str = ""
    expected: str | None = None
    examples: int = 0
    seconds: float = 0.0
    seed: int | None = None
    forms: Mapping[str, Tally] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=dict)
    not_reached: Missed = field(default_factory=dict)
    not_asked: tuple[NotAsked, ...] = ()
    failure: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Item:
        """From a result of ``equiv.laws`` in JSON's types; what this model does not know is left out."""
        not_asked = tuple(map(NotAsked.of, result.get("not_asked") or ()))
        if result.get("outcome") in ("not asked", "not run"):
            found = cls.without_result(*(result[name] for name in ("item", "outcome", "reason")))
            return replace(found, not_asked=not_asked)
        known = {field.name: result[field.name] for field in fields(cls) if field.name in result}
        failure = result.get("failure")
        expected = result.get("expected")
        outcome, reason = "holds", ""
        if failure is not None:
            failure = {"kind": "value", **failure}
            outcome = "expected" if expected else "broken"
        elif not_asked and not any(tally["judged"] for tally in result["forms"].values()):
            outcome, reason = "not asked", "; ".join(dict.fromkeys(one.reason for one in not_asked if one.reason))
        made = {
            "form": _parts(result["item"])[1],
            "outcome": outcome,
            "reason": reason,
            "forms": {form: Tally(**tally) for form, tally in result["forms"].items()},
            "not_asked": not_asked,
            "failure": failure,
        }
        return cls(**{**known, **made})

    @classmethod
    def without_result(cls, name: str, outcome: str = "not run", reason: str = "") -> Item:
        """An item that did not run, or of which nothing was asked, from its id."""
        law, form, dtype, backend = _parts(name)
        return cls(name, law, form, dtype, backend, outcome, reason)

    @property
    def ran(self) -> bool:
        """Whether anything was asked."""
        return self.outcome not in ("not asked", "not run")

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            **vars(self),
            "forms": {form: dict(vars(tally)) for form, tally in self.forms.items()},
            "not_asked": [dict(vars(one)) for one in self.not_asked],
        }


@dataclass(frozen=True)
class Row:
    """The results of several items added up; ``law``, ``form``, ``dtype`` and ``backend`` are empty where they vary.

    ``items`` counts what was added up and ``broken`` those whose law does not hold, but for expected failures;
    ``cases`` is what they tried, the same for all forms. Then results by outcome, as in :class:`Tally`. ``worst`` is
    the largest error as a fraction of its envelope, ``worst_dtype`` the dtype in which it occurred.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.testing import check_backend
        >>> run = check_backend(TorchEager(), laws=["exact"], dtypes=["int8"], examples=2, seed=0).run
        >>> (row,) = run.rows("law", "dtype")
        >>> row.law, row.dtype, row.different
        ('exact', 'int8', 0)
    """

    law: str
    form: str
    dtype: str
    backend: str
    items: int
    cases: int
    judged: int
    identical: int
    rounding: int
    undecided: int
    different: int
    broken: int
    worst: float
    worst_dtype: str


@dataclass(frozen=True)
class Run:
    """A run of laws.

    Attributes:
        request: What was asked for.
        environment: Where it ran.
        items: What has come of it.
        planned: Ids of the items that there are if nothing stops the run.
        jobs: Processes.
        seconds: Wall time.
        left_out: What was not asked of any item.
        stopped: ``interrupted`` or ``error`` where the run did not come to its own end.
        exit_code: Of its process, once that is known.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.testing import check_backend
        >>> run = check_backend(TorchEager(), laws=["exact"], dtypes=["int8"], examples=2, seed=0).run
        >>> run.planned, [item.outcome for item in run.items]
        (('exact-all-int8-eager.cpu',), ['holds'])
    """

    request: Request
    environment: Environment
    items: tuple[Item, ...]
    planned: tuple[str, ...]
    jobs: int
    seconds: float
    left_out: tuple[NotAsked, ...] = ()
    stopped: str = ""
    exit_code: int | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        results: Iterable[Mapping[str, Any]],
        *,
        planned: Iterable[str],
        jobs: int,
        seconds: float,
        left_out: Iterable[NotAsked] = (),
    ) -> Run:
        """From the results of ``equiv.laws`` in JSON's types, in this environment."""
        items, ids = tuple(map(Item.of, results)), tuple(planned)
        return cls(request, Environment.here(), items, ids, jobs, seconds, tuple(left_out))

    @property
    def asked(self) -> bool:
        """Whether a law was asked of a backend at all."""
        return any(item.ran for item in self.items)

    @property
    def not_run(self) -> list[Item]:
        """The items that were planned and have no result, and those that came to none."""
        left = Counter(self.planned)
        left.subtract(item.item for item in self.items)
        missing = [Item.without_result(name) for name, count in left.items() for _ in range(count)]
        return [*(item for item in self.items if item.outcome == "not run"), *missing]

    @property
    def complete(self) -> bool:
        """Whether there was a plan, and every item of it has come to something."""
        return bool(self.planned) and not self.not_run

    @property
    def holds(self) -> bool:
        """Whether the run is complete, asked something, and no item is broken but as expected."""
        return self.status == "passed" and self.asked

    @property
    def status(self) -> str:
        """``passed``, ``broken``, or why not all was run: ``interrupted``, ``error``, ``incomplete``."""
        if self.stopped:
            return self.stopped
        if not self.complete:
            return "incomplete"
        return "broken" if self.failures else "passed"

    @property
    def failures(self) -> list[Item]:
        """The items whose law is broken, but for those that were expected to be."""
        return [item for item in self.items if item.outcome == "broken"]

    @property
    def not_asked(self) -> list[NotAsked]:
        """What was not asked of any backend, each once."""
        return list(dict.fromkeys([*self.left_out, *(one for item in self.items for one in item.not_asked)]))

    @property
    def broken(self) -> list[str]:
        """Ids of the laws that are broken."""
        return list(dict.fromkeys(item.law for item in self.failures))

    @cached_property
    def coverage(self) -> Coverage:
        """How often each value of each condition was met by all items; the dtype is a condition too."""
        found: dict[str, Counter[str]] = {}
        for item in self.items:
            met = {item.dtype: item.examples} if item.ran else {}
            for condition, counts in (*item.coverage.items(), ("dtype", met)):
                found.setdefault(condition, Counter()).update(counts)
        return {name: dict(sorted(counter.items(), key=_as_numbers)) for name, counter in sorted(found.items())}

    @property
    def not_reached(self) -> dict[str, list[str]]:
        """By condition, the values that a complete run of all laws meets and that this one did not."""
        coverage = self.coverage
        missed = {
            name: [value for value in values if value not in coverage.get(name, {})]
            for name, values in expected_conditions().items()
        }
        return {name: values for name, values in missed.items() if values}

    @property
    def not_reached_by_law(self) -> dict[str, Missed]:
        """By law and condition, the values that some of its items were to reach and none did.

        What a backend does not serve is not among them, nor are items of a law that is broken, which end early.
        """
        return missed_by_law(self.items)

    @property
    def is_full(self) -> bool:
        """Whether all laws were run in all dtypes, as far as a backend serves them, with the profile's examples."""
        from equiv.dtypes import BY_NAME
        from equiv.laws import LAWS

        laws = {one.law for one in self.items} | {one.law for one in self.left_out}
        dtypes = {one.dtype for one in self.items} | {one.dtype for one in self.left_out}
        asked = self.request
        whole = asked.examples is None and asked.forms is None and asked.case is None
        return self.complete and whole and laws >= {*LAWS} and dtypes >= {*BY_NAME}

    def rows(self, *by: str) -> list[Row]:
        """One row for each combination of ``by``, which are among ``law``, ``form``, ``dtype`` and ``backend``."""
        groups: dict[Place, list[tuple[Item, Tally]]] = {}
        for item in self.items:
            if not item.ran:
                continue
            for form, tally in (item.forms or {"all": Tally()}).items():
                place = {"law": item.law, "form": form, "dtype": item.dtype, "backend": item.backend}
                law, kept_form, dtype, backend = (value if name in by else "" for name, value in place.items())
                groups.setdefault((law, kept_form, dtype, backend), []).append((item, tally))
        rows = [_row(place, group) for place, group in groups.items()]
        return sorted(rows, key=_in_order())

    def to_dict(self) -> dict[str, Any]:
        """The layout of every JSON file about a run."""
        asked = self.request
        items = [*(item for item in self.items if item.outcome != "not run"), *self.not_run]
        return {
            "schema": SCHEMA,
            **vars(self.environment),
            "devices": list(asked.devices),
            "profile": asked.profile,
            "examples": asked.examples,
            "arithmetic": asked.arithmetic,
            "seed": asked.seed,
            "jobs": self.jobs,
            "seconds": round(self.seconds, 3),
            "status": self.status,
            "exit_code": self.exit_code,
            "complete": self.complete,
            "holds": self.holds,
            "broken": self.broken,
            "outcomes": {name.replace(" ", "_"): sum(item.outcome == name for item in items) for name in OUTCOMES},
            "planned": list(self.planned),
            "not_asked": [dict(vars(one)) for one in self.not_asked],
            "coverage": self.coverage,
            "not_reached": self.not_reached,
            "not_reached_by_law": self.not_reached_by_law,
            "table": [dict(vars(row)) for row in self.rows("law", "form", "dtype", "backend")],
            "items": [item.to_dict() for item in items],
        }


def _row(place: Place, group: list[tuple[Item, Tally]]) -> Row:
    items = list({id(item): item for item, _ in group}.values())
    worst, dtype = max(((tally.max_ratio, item.dtype) for item, tally in group), key=lambda pair: pair[0])
    outcomes = ("judged", "identical", "rounding", "undecided", "different")
    counts = {name: sum(getattr(tally, name) for _, tally in group) for name in outcomes}
    counts["items"] = len(items)
    counts["cases"] = sum(item.examples for item in items)
    counts["broken"] = sum(item.outcome == "broken" for item in items)
    return Row(*place, **counts, worst=worst, worst_dtype=dtype if worst > 0 else "")


def _in_order() -> Callable[[Row], tuple[Any, ...]]:
    """The key by which rows are sorted: laws by number, then forms, dtypes and backends."""
    laws, forms, dtypes = in_order()
    return lambda row: (laws.get(row.law, -1), forms.get(row.form, -1), dtypes.get(row.dtype, -1), row.backend)


def in_order() -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """The places of laws, forms and dtypes in their order."""
    from equiv.backends import FORMS
    from equiv.dtypes import BY_NAME
    from equiv.laws import LAWS

    laws, forms, dtypes = ({name: number for number, name in enumerate(names)} for names in (LAWS, FORMS, BY_NAME))
    return laws, forms, dtypes


def _parts(name: str) -> list[str]:
    """Law, form, dtype and backend of the id of an item; only the last may hold a hyphen."""
    parts = name.split("-", 3)
    return parts + [""] * (4 - len(parts))


def _as_numbers(pair: tuple[str, int]) -> tuple[int, str]:
    return (int(pair[0]) if pair[0].isdecimal() else 0, pair[0])
