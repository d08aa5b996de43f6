"""One law on one case without Hypothesis: what the program of a witness calls, and what a search for less tries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis.errors import HypothesisException

from equiv.backends import FORMS, Backend, TorchEager
from equiv.errors import EquivError
from equiv.laws.call import Broken
from equiv.laws.registry import LAWS, Law, kind_of
from equiv.laws.trial import Trial


def check_case(law: str, case: Any, *, backend: Backend | None = None, forms: Sequence[str] | None = None) -> None:
    """Check one law on one case, and raise where it does not hold.

    Args:
        law: Its id, such as ``"exact"``; ``equiv.laws.LAWS`` has them all.
        case: What the law draws: the result of ``equiv.strategies.build_case``, or an ``equiv.laws.checks.sizes.Sizes``.
        backend: Who runs the forms; torch on the device of the case by default.
        forms: Of ``linear``, ``full``, ``pointwise``; None for all that the law is about.

    Raises:
        AssertionError: The law does not hold; the message says where, and both values.
        EquivError: There is no such law, it is not about the case's dtype, or the case is none.

    Example:
        >>> from equiv.strategies import Recipe, Values, build_case
        >>> check_case("exact", build_case(Recipe((2, 1), 1, (), x=Values("distinct"), weight=Values("constant"))))
    """
    if law not in LAWS:
        raise EquivError(f"law: expected one of {', '.join(LAWS)}, got {law!r:.60}; correct its spelling")
    if not hasattr(case, "dtype") or not hasattr(case, "device"):
        raise EquivError(f"case: expected a case, got {type(case).__name__}; pass equiv.strategies.build_case(recipe)")
    found = LAWS[law]
    if kind_of(case.dtype) not in found.kinds:
        raise EquivError(f"case: expected a dtype that is {' or '.join(found.kinds)} for {law}, got {case.dtype}")
    wanted = tuple(form for form in FORMS if form in found.forms and (forms is None or form in forms))
    if not wanted:
        raise EquivError(f"forms: expected some of {', '.join(found.forms)} for {law}, got {forms!r:.60}")
    runs = TorchEager(case.device) if backend is None else backend
    broken = tried(found, case, backend=runs, forms=wanted)
    if broken is not None:
        entry = f"; actual {broken.actual}, expected {broken.expected}" if broken.actual is not None else ""
        place = f" at {list(broken.index)}" if broken.index else ""
        raise AssertionError(
            f"{law} is broken by {broken.form} on {runs.name}: {broken.note}{entry}{place}"
        ) from broken


def tried(law: Law, case: Any, *, backend: Backend, forms: tuple[str, ...], measured: bool = False) -> Broken | None:
    """How the law is broken by this case; None where it holds. For ``measured`` see :class:`equiv.laws.Trial`."""
    trial = Trial(backend, case.dtype, forms, measured=measured)
    try:
        law.check(trial, case)
    except Broken as broken:
        return broken
    except HypothesisException:
        raise
    except Exception as error:  # as in the runner: what a backend returned has no place in the check
        return Broken(f"the check raised {type(error).__name__}: {error}", form=forms[0] if len(forms) == 1 else "all")
    return None
