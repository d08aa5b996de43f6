"""Run the laws under a fault until the first that is broken."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields

import torch
from hypothesis import Phase, settings
from hypothesis.errors import HypothesisWarning

from equiv.backends import Backend, TorchEager
from equiv.dtypes import dtype_name
from equiv.errors import EquivError
from equiv.laws import LAWS, Item, Profile, Result, items, listeners, profile_of, run_item
from equiv.testing.faults.registry import FAULTS, VARIANTS, Fault, Variant
from equiv.text import shown


class _First(Profile):
    """A profile that stops at the first case that breaks a law, and keeps nothing for later runs."""

    def settings(self, *, max_examples: int) -> settings:
        whole = super().settings(max_examples=max_examples)
        return settings(whole, phases=(Phase.explicit, Phase.generate), database=None)


def find(
    fault: Fault | Variant | str,
    *,
    profile: str | Profile | None = None,
    seed: int | None = None,
    examples: int | None = None,
    laws: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype | str] | None = None,
    backend: Backend | None = None,
) -> Result | None:
    """The first law that torch breaks under a fault, or None if every law still holds.

    The laws and dtypes that the fault names come first, then the other laws that could find it. Hypothesis does not
    shrink the failing case. Listeners of :mod:`equiv.laws` hear nothing of these runs.

    Args:
        fault: One of :data:`FAULTS` or :data:`VARIANTS`, or its name. For a variant the answer must be None.
        profile: ``dev``, ``gate`` or ``deep``; by default that of the fault, and ``dev`` for a variant.
        seed: Repeats a run; by default that of the profile, which is random in ``dev`` and ``deep``.
        examples: Cases per law and dtype instead of the profile's number.
        laws: Ids of the laws to run, in this order; None for all, those that the fault names first.
        dtypes: Dtypes or their names; None for those that the fault names.
        backend: Who is asked, if not torch; functions that call torch's have its faults.

    Raises:
        EquivError: Names that do not exist.

    Example:
        >>> found = find("bias-doubled", seed=1)
        >>> found.law, found.failure.form
        ('exact', 'full')
        >>> find("pairwise", seed=1, examples=1, laws=["exact"]) is None
        True
    """
    chosen = _chosen(fault)
    which = profile_of((chosen.profile if isinstance(chosen, Fault) else "dev") if profile is None else profile)
    chosen_items = _ordered(chosen, laws, dtypes, TorchEager() if backend is None else backend)
    first = _First(**{field.name: getattr(which, field.name) for field in fields(Profile)})
    for item in chosen_items:
        heard = listeners.copy()
        listeners.clear()
        try:
            with warnings.catch_warnings(), chosen.applied():
                # A case that is not shrunk may be long in words.
                warnings.filterwarnings("ignore", "Generating overly large repr", HypothesisWarning)
                result = run_item(item, profile=first, examples=examples, seed=seed)
        finally:
            listeners[:] = heard
        if result.failure is not None:
            return result
    return None


def _chosen(fault: object) -> Fault | Variant:
    if isinstance(fault, (Fault, Variant)):
        return fault
    if not isinstance(fault, str):
        raise EquivError(
            f"fault: expected a Fault, a Variant or a name, got {shown(fault)}; pass for example 'bias-dropped'"
        )
    return VARIANTS[fault] if fault in VARIANTS else FAULTS[fault]


def _ordered(
    chosen: Fault | Variant,
    laws: Sequence[str] | None,
    dtypes: Sequence[torch.dtype | str] | None,
    backend: Backend,
) -> list[Item]:
    """Hinted laws first, in the order of the hint, each in all dtypes."""
    hinted = chosen.laws if isinstance(chosen, Fault) else ()
    found = items([backend], laws=laws, dtypes=chosen.dtypes if dtypes is None else dtypes)
    order = list(laws) if laws is not None else [*hinted, *(law for law in LAWS if law not in hinted)]
    words = [one if isinstance(one, str) else dtype_name(one) for one in (chosen.dtypes if dtypes is None else dtypes)]
    return sorted(found, key=lambda item: (order.index(item.law.id), words.index(item.word)))
