"""What was not asked of a backend, and what it declares of itself; what it leaves open is in ``asking``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from equiv.arguments import refusal
from equiv.backends import Backend, capabilities_of, check_backend
from equiv.dtypes import dtype_name, dtype_names
from equiv.errors import EquivError
from equiv.text import quoted


@dataclass(frozen=True)
class NotAsked:
    """One thing that was not asked of a backend, and why.

    Attributes:
        what: The capability that it lacks, one of those of :class:`equiv.backends.Capabilities`; or ``calls``, where it
            refused some of the calls of a law.
        backend: Its name.
        law: The law that would have asked; empty where all would have.
        form: The form; empty for all.
        dtype: The dtype's name; empty for all.
        reason: In words: what the backend declared, or raised when it was asked.
        how: ``declared`` or ``found``.

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


class NotServed(Exception):  # noqa: N818 - it says what the backend said
    """The backend raised NotImplementedError for a call: what the law asked of this form is left out for this case."""

    def __init__(self, form: str, reason: str) -> None:
        super().__init__(reason)
        self.form, self.reason = form, reason


def reason_of(error: Exception) -> str:
    """An exception in words."""
    said = quoted(error, 200)
    return f"raises {type(error).__name__}{': ' * bool(said)}{said}"


def check_backends(backends: object, *, argument: str = "backends") -> list[Backend]:
    """The backends as a list, if each is one, is where it says, and has a name of its own."""
    if not isinstance(backends, (list, tuple)):
        raise refusal(argument, "a list of backends", backends, "pass [backend] for one")
    for backend in backends:
        check_backend(argument, backend)
    names = [backend.name for backend in backends]
    if not names or len(set(names)) < len(names):
        advice = "the name is part of every id, so give each its own"
        raise refusal(argument, "at least one backend and names that differ", names, advice)
    return list(backends)


Answer = tuple[bool, NotAsked | None]
"""Whether a backend says something of a capability, and if so why it must not be asked for it."""


def declared_dtype(backend: Backend, form: str, dtype: torch.dtype) -> Answer:
    """Whether a form is served in a dtype, by what the backend says of itself. Runs no kernel."""
    declares, name = capabilities_of(backend), dtype_name(dtype)
    dtypes = declares.dtypes_of(form)
    if form != "linear" and declares.spatial_ranks is not None and not declares.spatial_ranks:
        return True, NotAsked("spatial_ranks", backend.name, form=form, reason="the backend declares spatial_ranks=()")
    if dtypes is not None and dtype not in dtypes:
        served = f"the dtypes {dtype_names(dtypes)}" if dtypes else "no dtypes"
        by_form = isinstance(declares.dtypes, Mapping)
        reason = f"the backend declares {served}{f' for {form}' if by_form else ''}"
        return True, NotAsked("dtypes", backend.name, form=form, dtype=name, reason=reason)
    if getattr(backend, "supports", None) is None:
        return dtypes is not None, None
    if _says(backend, dtype, form):
        return True, None
    return True, NotAsked("dtypes", backend.name, form=form, dtype=name, reason="its supports(dtype, form) says no")


def declared_answer(backend: Backend, capability: str, form: str, dtype: torch.dtype, wanted: object) -> Answer:
    """Whether ``wanted`` is served, by what the backend declares."""
    declared = getattr(capabilities_of(backend), capability)
    if declared is None or _serves(declared, wanted):
        return declared is not None, None
    reason = f"the backend declares {capability}={declared!r}"
    return True, NotAsked(capability, backend.name, form=form, dtype=dtype_name(dtype), reason=reason)


def _serves(declared: Any, wanted: Any) -> bool:
    """Whether what is declared, a yes, a limit or a list, holds what is wanted."""
    if isinstance(declared, bool) or isinstance(wanted, bool):
        return bool(declared) is bool(wanted)
    return bool(wanted <= declared if isinstance(declared, int) else wanted in declared)


def _says(backend: Any, dtype: torch.dtype, form: str) -> bool:
    """What ``supports`` says."""
    try:
        return bool(backend.supports(dtype, form))
    except Exception as error:
        raise EquivError(
            f"{backend.name}.supports: expected True or False for {dtype_name(dtype)} and {form}, got "
            f"{type(error).__name__}: {quoted(error)}; correct it, or leave it out and every dtype is tried"
        ) from error
