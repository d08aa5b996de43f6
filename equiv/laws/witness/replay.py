"""One law on one case without Hypothesis: what the program of a witness calls, and what a search for less tries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equiv.arguments import attribute_of, check_choice, check_choices, check_device, refusal
from equiv.backends import FORMS, Backend, TorchEager, check_backend
from equiv.errors import EquivError
from equiv.laws.call import Broken, sentence_of
from equiv.laws.registry import LAWS, kind_of
from equiv.laws.selection import Item
from equiv.laws.trial import Trial
from equiv.numerics import gradients_recorded


@gradients_recorded()
def check_case(law: str, case: Any, *, backend: Backend | None = None, forms: Sequence[str] | None = None) -> None:
    """Check one law on one case, and raise where it does not hold.

    Args:
        law: Its id, such as ``"exact"``; ``equiv.laws.LAWS`` has them all.
        case: What the law draws: the result of ``equiv.strategies.build_case``, or an ``equiv.laws.SizedCase``.
        backend: Who runs the forms; torch on the device of the case by default.
        forms: Of ``linear``, ``full``, ``pointwise``; None for all that the law is about.

    Raises:
        AssertionError: The law does not hold; the message says where, and both values.
        EquivError: There is no such law, it is not about the case's dtype, the case is none, or the backend serves
            nothing of what the law asks.

    Example:
        >>> from equiv.strategies import Recipe, Values, build_case
        >>> check_case("exact", build_case(Recipe((2, 1), 1, (), x=Values("distinct"), weight=Values("constant"))))
    """
    check_choice("law", law, LAWS)
    dtype, device = attribute_of(case, "dtype"), attribute_of(case, "device")
    if not isinstance(dtype, torch.dtype) or not isinstance(device, (str, torch.device)) or isinstance(case, Tensor):
        raise refusal("case", "a case", case, "pass equiv.strategies.build_case(recipe)")
    found = LAWS[law]
    if kind_of(case.dtype) not in found.kinds:
        raise refusal("case", f"a dtype that is {' or '.join(found.kinds)} for {law}", case.dtype, "pass another case")
    asked = FORMS if forms is None else check_choices("forms", forms, FORMS)
    wanted = tuple(form for form in FORMS if form in found.forms and form in asked)
    if not wanted:
        raise refusal("forms", f"some of {', '.join(found.forms)} for {law}", forms, "leave it out for all")
    check_device("case.device", device)
    item = Item(
        found,
        wanted,
        case.dtype,
        TorchEager(case.device) if backend is None else check_backend("backend", backend),
    )
    trial = Trial(item.backend, case.dtype, wanted)
    broken = _broken(item, trial, case)
    if broken is None:
        _check_asked(item, trial)
    else:
        said = sentence_of(law, broken.form, item.word, item.backend.name, broken.note)
        raise AssertionError(said) from broken


def _check_asked(item: Item, trial: Trial) -> None:
    """Refuse a check that asked nothing, which is no pass."""
    if trial.not_asked and not any(tally.judged for tally in trial.tally.values()):
        one = min(trial.not_asked, key=str)
        raise EquivError(
            f"backend: expected {item.backend.name} to serve something of {item.law.id} on this case, got nothing that "
            f"could be asked ({one.what}: {one.reason}); pass another case, or other forms"
        )


def tried(item: Item, case: Any, *, measured: bool = False) -> Broken | None:
    """How the item's law is broken by a case; None where it holds. For ``measured`` see :class:`equiv.laws.Trial`."""
    return _broken(item, Trial(item.backend, case.dtype, item.forms, measured=measured), case)


def _broken(item: Item, trial: Trial, case: Any) -> Broken | None:
    try:
        item.law.try_on(trial, case)
    except Broken as broken:
        return broken
    return None
