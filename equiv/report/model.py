"""The model of a run of laws: what was asked for, where it ran, and what came of every law in every dtype.

It is made from the results of ``equiv.laws`` in JSON's types, so that they may come from another process. Importing it
loads neither torch nor hypothesis.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 2
"""The version of the layout of :meth:`Run.to_dict`."""

Place = tuple[str, str, str, str]
"""Law, form, dtype and backend of results; empty where they vary."""

Coverage = dict[str, dict[str, int]]
"""How often each value of each condition was met."""


@dataclass(frozen=True)
class Environment:
    """The versions of a run, and its CPU: the widest vector instructions that torch uses."""

    equiv: str
    torch: str
    python: str
    cpu: str

    @classmethod
    def here(cls) -> Environment:
        """That of this process."""
        import torch

        import equiv

        return cls(
            equiv.__version__, torch.__version__, platform.python_version(), torch.backends.cpu.get_cpu_capability()
        )


@dataclass(frozen=True)
class Request:
    """What to run, in words, so that it can be handed to another process: the options of ``equiv verify``.

    None stands for all laws, forms and dtypes, for the profile's number of examples, and for a seed of its own for each
    item.
    """

    devices: tuple[str, ...] = ("cpu",)
    laws: tuple[str, ...] | None = None
    forms: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    profile: str = "dev"
    examples: int | None = None
    seed: int | None = None
    arithmetic: str = "declared"


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
class Item:
    """What came of one law in one dtype on one backend; the attributes are those of :class:`equiv.laws.Result`."""

    item: str
    law: str
    dtype: str
    backend: str
    examples: int
    seconds: float
    seed: int
    forms: dict[str, Tally]
    coverage: Coverage
    failure: dict[str, Any] | None
    expected: str | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Item:
        """From a result of ``equiv.laws`` in JSON's types."""
        forms = {form: Tally(**tally) for form, tally in result["forms"].items()}
        return cls(**{**result, "forms": forms})

    @property
    def outcome(self) -> str:
        """``holds``; ``broken``; or ``expected`` for a law that was expected to be broken, and is."""
        if self.failure is None:
            return "holds"
        return "broken" if self.expected is None else "expected"


@dataclass(frozen=True)
class Row:
    """The results of several items added up; ``law``, ``form``, ``dtype`` and ``backend`` are empty where they vary.

    ``items`` counts what was added up and ``broken`` those whose law does not hold; ``cases`` is what they tried, the
    same for all forms. Then results by outcome, as in :class:`Tally`. ``worst`` is the largest error as a fraction of
    its envelope, ``worst_dtype`` the dtype in which it occurred.
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
        planned: How many items there are if nothing stops the run.
        jobs: Processes.
        seconds: Wall time.
    """

    request: Request
    environment: Environment
    items: tuple[Item, ...]
    planned: int
    jobs: int
    seconds: float

    @classmethod
    def of(
        cls, request: Request, results: Iterable[Mapping[str, Any]], *, planned: int, jobs: int, seconds: float
    ) -> Run:
        """From the results of ``equiv.laws`` in JSON's types, in this environment."""
        return cls(request, Environment.here(), tuple(map(Item.of, results)), planned, jobs, seconds)

    @property
    def complete(self) -> bool:
        """Whether every item that was planned has a result."""
        return len(self.items) >= self.planned

    @property
    def failures(self) -> list[Item]:
        """The items whose law is broken, and was not expected to be."""
        return [item for item in self.items if item.outcome == "broken"]

    @property
    def broken(self) -> list[str]:
        """Ids of the laws that are broken."""
        return list(dict.fromkeys(item.law for item in self.failures))

    @property
    def coverage(self) -> Coverage:
        """How often each value of each condition was met by all items; the dtype is a condition too."""
        found: dict[str, Counter[str]] = {}
        for item in self.items:
            for condition, counts in (*item.coverage.items(), ("dtype", {item.dtype: item.examples})):
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

    def rows(self, *by: str) -> list[Row]:
        """One row for each combination of ``by``, which are among ``law``, ``form``, ``dtype`` and ``backend``."""
        groups: dict[Place, list[tuple[Item, Tally]]] = {}
        for item in self.items:
            for form, tally in (item.forms or {"all": Tally()}).items():
                place = {"law": item.law, "form": form, "dtype": item.dtype, "backend": item.backend}
                law, kept_form, dtype, backend = (value if name in by else "" for name, value in place.items())
                groups.setdefault((law, kept_form, dtype, backend), []).append((item, tally))
        rows = [_row(place, group) for place, group in groups.items()]
        return sorted(rows, key=_in_order())

    def to_dict(self) -> dict[str, Any]:
        """The layout of every JSON file about a run."""
        asked = self.request
        return {
            "schema": SCHEMA,
            **asdict(self.environment),
            "devices": list(asked.devices),
            "profile": asked.profile,
            "examples": asked.examples,
            "arithmetic": asked.arithmetic,
            "seed": asked.seed,
            "jobs": self.jobs,
            "seconds": round(self.seconds, 3),
            "complete": self.complete,
            "planned": self.planned,
            "holds": self.complete and not self.failures,
            "broken": self.broken,
            "coverage": self.coverage,
            "not reached": self.not_reached,
            "table": [asdict(row) for row in self.rows("law", "form", "dtype", "backend")],
            "items": [{**asdict(item), "outcome": item.outcome} for item in self.items],
        }


def expected_conditions() -> dict[str, list[str]]:
    """The conditions that a complete run meets on any machine; which convolution kernels there are depends on it."""
    from equiv.dtypes import BY_NAME
    from equiv.strategies import LAYOUTS

    four_dimensional = ("permuted", "channels_last")
    layouts = {
        f"layout of {role}": [kind for kind in LAYOUTS if role != "bias" or kind not in four_dimensional]
        for role in ("x", "weight", "bias", "grad")
    }
    return {
        "dtype": list(BY_NAME),
        **layouts,
        "batch rank": [str(rank) for rank in range(6)],
        "spatial dimensions": ["1", "2", "3"],
        "bias": ["False", "True"],
        **{f"{size} modulo {m}": [str(r) for r in range(m)] for size in ("n", "O", "rows", "C") for m in (8, 16)},
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
    from equiv.backends import FORMS
    from equiv.dtypes import BY_NAME
    from equiv.laws import LAWS

    laws, forms, dtypes = ({name: number for number, name in enumerate(names)} for names in (LAWS, FORMS, BY_NAME))
    return lambda row: (laws.get(row.law, -1), forms.get(row.form, -1), dtypes.get(row.dtype, -1), row.backend)


def _as_numbers(pair: tuple[str, int]) -> tuple[int, str]:
    return (int(pair[0]) if pair[0].isdecimal() else 0, pair[0])
