"""What a backend must have, and which forms it runs in which dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from equiv.arguments import refusal
from equiv.backends import Backend, check_backend
from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.text import quoted


@dataclass(frozen=True)
class NotAsked:
    """One thing that was not asked of a backend, and why.

    Attributes:
        what: The capability that it lacks, one of those of :class:`equiv.backends.Capabilities`.
        backend: Its name.
        law: The law that would have asked; empty where all would have.
        form: The form; empty for all.
        dtype: The dtype's name; empty for all.
        reason: In words: what the backend declared, or raised when it was asked.
        how: ``declared`` or ``found``.
    """

    what: str
    backend: str
    law: str = ""
    form: str = ""
    dtype: str = ""
    reason: str = ""
    how: str = "declared"


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


def served_forms(backend: Backend, forms: list[str], dtypes: list[torch.dtype]) -> dict[torch.dtype, tuple[str, ...]]:
    """Which forms the backend runs in which dtypes: what it says of itself, or what a layer of one weight shows.

    A form that fails in every dtype there is must not go untested, unless it raises NotImplementedError.
    """
    if hasattr(backend, "supports"):
        return {dtype: tuple(form for form in forms if _says(backend, dtype, form)) for dtype in dtypes}
    found: dict[torch.dtype, tuple[str, ...]] = dict.fromkeys(dtypes, ())
    for form in forms:
        for dtype in dtypes:
            if _failure(backend, dtype, form) is None:
                found[dtype] += (form,)
        if any(form in served for served in found.values()):
            continue
        failures = [_failure(backend, dtype, form) for dtype in DTYPES]
        if None not in failures and not isinstance(failures[0], NotImplementedError):
            first = cast(Exception, failures[0])
            method = "linear" if form == "linear" else "conv"
            raise EquivError(
                f"{backend.name}.{method}: expected to run a layer of one weight in some dtype, got "
                f"{type(first).__name__}: {quoted(first)}; correct it, or raise NotImplementedError where it is "
                "not meant to run"
            ) from first
    return found


def _says(backend: Any, dtype: torch.dtype, form: str) -> bool:
    """What ``supports`` says."""
    try:
        return bool(backend.supports(dtype, form))
    except Exception as error:
        raise EquivError(
            f"{backend.name}.supports: expected True or False for {dtype_name(dtype)} and {form}, got "
            f"{type(error).__name__}: {quoted(error)}; correct it, or leave it out and every dtype is tried"
        ) from error


def _failure(backend: Backend, dtype: torch.dtype, form: str) -> Exception | None:
    """Why a backend does not run a layer of one weight; None if it does."""
    one = torch.ones(1, 1, dtype=dtype, device=backend.device)
    try:
        y = backend.linear(one, one) if form == "linear" else backend.conv(one[..., None, None], one[..., None, None])
        if not isinstance(y, torch.Tensor):
            return TypeError(f"it returned {type(y).__name__}, not a tensor")
        return None if y.dtype == dtype else TypeError(f"it returned {dtype_name(y.dtype)} for {dtype_name(dtype)}")
    except Exception as error:
        return error
