"""Run laws: which items there are, one item under Hypothesis, and what came of it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from random import SystemRandom
from typing import Any

import torch
from hypothesis import given
from hypothesis import seed as with_seed
from hypothesis.errors import Flaky, Unsatisfiable

from equiv.backends import FORMS, Backend
from equiv.errors import EquivError
from equiv.laws.failure import Failure, failure_of
from equiv.laws.profiles import Profile, profile_of
from equiv.laws.registry import LAWS, Context, Law, kind_of
from equiv.laws.trial import Broken, Tally, Trial
from equiv.numerics import DTYPES

WORDS = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
"""Dtypes by word: ``"float32"`` and so on."""


@dataclass(frozen=True)
class Item:
    """One law on one backend in one dtype: what a test suite runs as a test of its own."""

    law: Law
    forms: tuple[str, ...]
    dtype: torch.dtype
    backend: Backend

    @property
    def form(self) -> str:
        """The form if it is one, else ``all``."""
        return self.forms[0] if len(self.forms) == 1 else "all"

    @property
    def word(self) -> str:
        """The dtype as a word."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def id(self) -> str:
        """``law-form-dtype-backend``, the same on every worker and machine."""
        return f"{self.law.id}-{self.form}-{self.word}-{self.backend.name}"


@dataclass
class Result:
    """What came of one item.

    Attributes:
        item: Its id.
        law: The law's id.
        dtype: As a word.
        backend: Its name.
        examples: Cases tried.
        seconds: Wall time.
        seed: Repeats the run.
        forms: Per form, comparisons and their outcomes.
        coverage: Per condition, how often each value was met.
        failure: Of a law that is broken, else None.
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

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


listeners: list[Callable[[Result], None]] = []
"""Called with every result; the pytest plugin and progress displays listen here."""


def items(
    backends: Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str | torch.dtype] | None = None,
) -> list[Item]:
    """Every law x form x dtype x backend that there is, in the order of the laws' numbers.

    Args:
        backends: At least one.
        laws: Ids, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Words or dtypes, or None for all.

    Raises:
        EquivError: An unknown name, or two backends of one name.

    Example:
        >>> from equiv.backends import TorchEager
        >>> [item.id for item in items([TorchEager()], laws=["exact"], dtypes=["int8"])]
        ['exact-all-int8-eager.cpu']
    """
    chosen_laws = [LAWS[name] for name in _chosen("laws", laws, list(LAWS))]
    chosen_forms = _chosen("forms", forms, list(FORMS))
    words = None if dtypes is None else [str(d).removeprefix("torch.") for d in dtypes]
    chosen_dtypes = [WORDS[word] for word in _chosen("dtypes", words, list(WORDS))]
    names = [backend.name for backend in backends]
    if not names or len(set(names)) < len(names):
        raise EquivError(f"backends: expected at least one and names that differ, got {names}")
    for name in names:
        if not name.replace(".", "").replace("_", "").isalnum():
            raise EquivError(
                f"backend.name: expected letters, digits, dots and underscores, got {name!r}; it is part of every id"
            )
    return list(_items(backends, chosen_laws, chosen_forms, chosen_dtypes))


def _items(backends: Sequence[Backend], laws: list[Law], forms: list[str], dtypes: list[torch.dtype]) -> Iterator[Item]:
    for backend in backends:
        served = {dtype: tuple(form for form in forms if serves(backend, dtype, form)) for dtype in dtypes}
        for law in laws:
            if law.needs_torch and not getattr(backend, "transforms", False):
                continue
            for dtype in dtypes:
                judged = tuple(form for form in law.forms if form in served[dtype])
                if judged and kind_of(dtype) in law.kinds:
                    yield Item(law, judged, dtype, backend)


def _chosen(argument: str, wanted: Sequence[str] | None, known: list[str]) -> list[str]:
    if wanted is None:
        return known
    unknown = [name for name in wanted if name not in known]
    if isinstance(wanted, str) or unknown or not wanted:
        got = wanted if isinstance(wanted, str) else unknown or list(wanted)
        raise EquivError(f"{argument}: expected names among {', '.join(known)}, got {got!r}")
    return [name for name in known if name in wanted]


_served: dict[tuple[int, torch.dtype, str], bool] = {}


def serves(backend: Backend, dtype: torch.dtype, form: str) -> bool:
    """Whether the backend runs a form in a dtype: what it says of itself, or what a layer of one weight shows."""
    if hasattr(backend, "supports"):
        return bool(backend.supports(dtype, form))
    key = (id(backend), dtype, form)
    if key not in _served:
        one = torch.ones(1, 1, dtype=dtype, device=backend.device)
        try:
            y = (
                backend.linear(one, one)
                if form == "linear"
                else backend.conv(one[..., None, None], one[..., None, None])
            )
            _served[key] = y.dtype == dtype
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            _served[key] = False
    return _served[key]


def run_item(
    item: Item, *, profile: str | Profile = "dev", examples: int | None = None, seed: int | None = None
) -> Result:
    """Try one law on drawn cases, and shrink the first that breaks it.

    Args:
        item: From :func:`items`.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases to try, instead of the profile's number.
        seed: Repeats a run; by default fixed in a derandomized profile and random in the others.

    Returns:
        The result; a broken law is a ``failure`` in it, not an exception.

    Raises:
        EquivError: An unknown profile, or a number of examples below 1.
    """
    chosen = profile_of(profile)
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int) or examples < 1):
        raise EquivError(f"examples: expected an integer of at least 1, got {examples!r}")
    count = examples or max(1, round(chosen.max_examples * item.law.weight))
    if seed is None:
        seed = 0 if chosen.derandomize else SystemRandom().randrange(2**32)
    result = Result(item.id, item.law.id, item.word, item.backend.name, seed=seed)
    trial = Trial(item.backend, item.dtype, item.forms, chosen.deep)
    last: list[tuple[Broken, Any]] = []
    context = Context(item.dtype, torch.device(item.backend.device), chosen.deep)

    def body(case: Any) -> None:
        result.examples += 1
        _cover(trial, case)
        try:
            item.law.check(trial, case)
        except Broken as broken:
            last[:] = [(broken, case)]
            raise

    # The database keeps items apart by the name of the function.
    body.__name__ = body.__qualname__ = item.id.replace("-", "_").replace(".", "_")
    run = with_seed(zlib.crc32(f"{seed}:{item.id}".encode()))(
        chosen.settings(max_examples=count)(given(item.law.draw(context))(body))
    )
    start = time.perf_counter()
    note = ""
    try:
        run()
    except Broken:
        pass
    except Flaky:
        if not last:
            raise
        note = "; it does not fail every time: the backend gives other results to the same call"
    except Unsatisfiable as error:  # pragma: no cover - the strategies never reject
        raise EquivError(f"{item.id}: no case could be drawn") from error
    result.seconds = time.perf_counter() - start
    result.forms = trial.tally
    result.coverage = {name: dict(sorted(counter.items())) for name, counter in sorted(trial.coverage.items())}
    if last:
        broken, case = last[0]
        broken.note += note
        result.failure = failure_of(broken, item.law, dtype=item.word, backend=item.backend.name, seed=seed, case=case)
    for listener in list(listeners):
        listener(result)
    return result


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
