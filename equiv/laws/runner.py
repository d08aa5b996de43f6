"""Run laws: which items there are, one item under Hypothesis, and what came of it."""

from __future__ import annotations

import difflib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from random import SystemRandom
from typing import Any

import torch
from hypothesis import given
from hypothesis import seed as with_seed
from hypothesis.errors import Flaky, HypothesisException, Unsatisfiable

from equiv.backends import FORMS, Backend
from equiv.dtypes import BY_NAME, DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.laws.call import Broken, Tally
from equiv.laws.measuring import MODES
from equiv.laws.profiles import Profile, profile_of
from equiv.laws.registry import LAWS, Context, Law, kind_of
from equiv.laws.repeatable import repeatable
from equiv.laws.trial import Trial
from equiv.laws.witness.failure import Failure, failure_of
from equiv.laws.witness.smaller import smaller

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
        return dtype_name(self.dtype)

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
    chosen_dtypes = [BY_NAME[word] for word in chosen_words(dtypes)]
    return list(_items(check_backends(backends), chosen_laws, chosen_forms, chosen_dtypes))


def check_backends(backends: object, *, argument: str = "backends") -> list[Backend]:
    """The backends as a list, if each is one, is where it says, and has a name of its own.

    Raises:
        EquivError: Anything else; the message calls it ``argument``.
    """
    if not isinstance(backends, (list, tuple)):
        raise EquivError(f"{argument}: expected a list of backends, got {_shown(backends)}; pass [backend] for one")
    for backend in backends:
        _check_backend(backend, argument)
    names = [backend.name for backend in backends]
    if not names or len(set(names)) < len(names):
        raise EquivError(
            f"{argument}: expected at least one backend and names that differ, got {_shown(names)}; the name is part "
            "of every id, so give each its own"
        )
    return list(backends)


def _check_backend(backend: object, argument: str) -> None:
    wanted = f"{argument}: expected an object with name, device, linear and conv"
    if isinstance(backend, type):
        raise EquivError(f"{wanted}, got the class {backend.__name__}; pass an instance, {backend.__name__}()")
    if not isinstance(backend, Backend):
        lacks = ", ".join(n for n in ("name", "device", "linear", "conv") if getattr(backend, n, None) is None)
        raise EquivError(f"{wanted}, got {_shown(backend)} without {lacks}; see equiv.backends.Backend")
    for name in ("linear", "conv", "supports"):
        if not callable(getattr(backend, name, len)):
            raise EquivError(
                f"{argument}.{name}: expected a method, got {_shown(getattr(backend, name))}; see "
                "equiv.backends.Backend"
            )
    if not isinstance(backend.name, str) or not backend.name.replace(".", "").replace("_", "").isalnum():
        raise EquivError(
            f"{argument}.name: expected letters, digits, dots and underscores, got {_shown(backend.name)}; it is part "
            "of every id, so choose a short one"
        )
    try:
        torch.empty(0, device=torch.device(backend.device))
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise EquivError(
            f"{argument}.device: expected a torch device that is present, got {_shown(backend.device)}; pass where "
            "inputs are put before they are handed over, such as torch.device('cpu')"
        ) from error


def chosen_words(dtypes: object) -> list[str]:
    """Dtypes as words in the order of ``BY_NAME``, from words or dtypes; all of them for None.

    Raises:
        EquivError: An unknown dtype, or one that is not in a list.

    Example:
        >>> chosen_words([torch.int8, "float32"])
        ['float32', 'int8']
    """
    if isinstance(dtypes, (list, tuple)):
        dtypes = [dtype_name(entry) if isinstance(entry, torch.dtype) else entry for entry in dtypes]
    return _chosen("dtypes", dtypes, list(BY_NAME))


def _items(backends: list[Backend], laws: list[Law], forms: list[str], dtypes: list[torch.dtype]) -> Iterator[Item]:
    for backend in backends:
        served = _served(backend, forms, dtypes)
        for law in laws:
            if law.needs_torch and not getattr(backend, "transforms", False):
                continue
            for dtype in dtypes:
                judged = tuple(form for form in law.forms if form in served[dtype])
                if judged and kind_of(dtype) in law.kinds:
                    yield Item(law, judged, dtype, backend)


def _chosen(argument: str, wanted: object, known: list[str]) -> list[str]:
    if wanted is None:
        return known
    expected = f"{argument}: expected a list of names among {', '.join(known)}"
    if not isinstance(wanted, (list, tuple, set, frozenset)):
        raise EquivError(f"{expected}, got {_shown(wanted)}; pass a list, also for one")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else "remove it or correct its spelling"
        raise EquivError(f"{expected}, got {_shown(unknown[0])}; {advice}")
    if not wanted:
        raise EquivError(f"{expected}, got none; leave {argument} out for all")
    return [name for name in known if name in wanted]


def _served(backend: Backend, forms: list[str], dtypes: list[torch.dtype]) -> dict[torch.dtype, tuple[str, ...]]:
    """Which forms the backend runs in which dtypes: what it says of itself, or what a layer of one weight shows.

    Raises:
        EquivError: A form fails in every dtype; see :func:`_is_meant`.
    """
    supports = getattr(backend, "supports", None)
    if supports is not None:
        return {dtype: tuple(form for form in forms if supports(dtype, form)) for dtype in dtypes}
    found: dict[torch.dtype, tuple[str, ...]] = dict.fromkeys(dtypes, ())
    for form in forms:
        for dtype in dtypes:
            if _refusal(backend, dtype, form) is None:
                found[dtype] += (form,)
        if not any(form in served for served in found.values()):
            _is_meant(backend, form)
    return found


def _is_meant(backend: Backend, form: str) -> None:
    """A form that fails in every dtype there is, without NotImplementedError, is wrong: it must not go untested."""
    refusals = [_refusal(backend, dtype, form) for dtype in DTYPES]
    first = refusals[0]
    if None in refusals or first is None or isinstance(first, NotImplementedError):
        return
    reason = (str(first).splitlines() or [""])[0]
    raise EquivError(
        f"{backend.name}.{'linear' if form == 'linear' else 'conv'}: expected to run a layer of one weight in some "
        f"dtype, got {type(first).__name__}: {reason:.120}; correct it, or raise NotImplementedError where it is not "
        "meant to run"
    ) from first


def _refusal(backend: Backend, dtype: torch.dtype, form: str) -> Exception | None:
    """Why a backend does not run a layer of one weight; None if it does."""
    one = torch.ones(1, 1, dtype=dtype, device=backend.device)
    try:
        y = backend.linear(one, one) if form == "linear" else backend.conv(one[..., None, None], one[..., None, None])
        if not isinstance(y, torch.Tensor):
            return TypeError(f"it returned {type(y).__name__}, not a tensor")
        return None if y.dtype == dtype else TypeError(f"it returned {dtype_name(y.dtype)} for {dtype_name(dtype)}")
    except Exception as error:
        return error


def run_item(
    item: Item,
    *,
    profile: str | Profile = "dev",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
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

    Returns:
        The result; a broken law is a ``failure`` in it, not an exception.

    Raises:
        EquivError: No item, an unknown profile or arithmetic, a number of examples below 1, or a seed below 0.
    """
    if not isinstance(item, Item):
        raise EquivError(
            f"item: expected an equiv.laws.Item, got {_shown(item)}; pass one of equiv.laws.items([backend])"
        )
    chosen = profile_of(profile)
    _check_integer("examples", examples, 1, "leave it out for the profile's number")
    _check_integer("seed", seed, 0, "leave it out for the profile's own")
    if arithmetic not in MODES:
        raise EquivError(f"arithmetic: expected declared or measured, got {_shown(arithmetic)}; correct its spelling")
    measured = arithmetic == "measured"
    count = examples or max(1, round(chosen.max_examples * item.law.weight))
    if seed is None:
        seed = 0 if chosen.derandomize else SystemRandom().randrange(2**32)
    result = Result(item.id, item.law.id, item.word, item.backend.name, seed=seed)
    trial = Trial(item.backend, item.dtype, item.forms, chosen.deep, measured)
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
        except HypothesisException:
            raise
        except Exception as error:  # what a backend returned has no place in the check: reported like any other defect
            raised = Broken(f"the check raised {type(error).__name__}: {error}", form=item.form)
            last[:] = [(raised, case)]
            raise raised from error

    # The database keeps items apart by the name of the function.
    body.__name__ = body.__qualname__ = item.id.replace("-", "_").replace(".", "_")
    run = with_seed(zlib.crc32(f"{seed}:{item.id}".encode()))(
        chosen.settings(max_examples=count)(given(item.law.draw(context))(body))
    )
    start = time.perf_counter()
    note = ""
    try:
        with repeatable():
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
    result.coverage = {
        name: dict(sorted((str(value), count) for value, count in counter.items()))
        for name, counter in sorted(trial.coverage.items())
    }
    if last:
        broken, case = smaller(*last[0], law=item.law, backend=item.backend, forms=item.forms, measured=measured)
        broken.note += note
        result.failure = failure_of(broken, item.law, dtype=item.word, backend=item.backend, seed=seed, case=case)
    for listener in listeners.copy():
        listener(result)
    return result


def _check_integer(argument: str, value: object, least: int, advice: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise EquivError(f"{argument}: expected an integer of at least {least}, got {_shown(value)}; {advice}")


def _shown(value: object) -> str:
    return f"{value!r:.60}"


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
