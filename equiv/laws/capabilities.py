"""What a backend must have, and which forms it runs in which dtypes."""

from __future__ import annotations

from typing import cast

import torch

from equiv.arguments import check_device, refusal
from equiv.backends import Backend
from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.text import first_line


def check_backends(backends: object, *, argument: str = "backends") -> list[Backend]:
    """The backends as a list, if each is one, is where it says, and has a name of its own."""
    if not isinstance(backends, (list, tuple)):
        raise refusal(argument, "a list of backends", backends, "pass [backend] for one")
    for backend in backends:
        _check_backend(backend, argument)
    names = [backend.name for backend in backends]
    if not names or len(set(names)) < len(names):
        advice = "the name is part of every id, so give each its own"
        raise refusal(argument, "at least one backend and names that differ", names, advice)
    return list(backends)


def _check_backend(backend: object, argument: str) -> None:
    wanted = "an object with name, device, linear and conv"
    if isinstance(backend, type):
        name = backend.__name__
        raise EquivError(f"{argument}: expected {wanted}, got the class {name}; pass an instance, {name}()")
    if not isinstance(backend, Backend):
        lacks = ", ".join(n for n in ("name", "device", "linear", "conv") if getattr(backend, n, None) is None)
        raise refusal(argument, wanted, backend, f"without {lacks} it is none, see equiv.backends.Backend")
    for name in ("linear", "conv", "supports"):
        if not callable(getattr(backend, name, len)):
            raise refusal(f"{argument}.{name}", "a method", getattr(backend, name), "see equiv.backends.Backend")
    if not isinstance(backend.name, str) or not backend.name.replace(".", "").replace("_", "").isalnum():
        advice = "it is part of every id, so choose a short one"
        raise refusal(f"{argument}.name", "letters, digits, dots and underscores", backend.name, advice)
    advice = "pass where inputs are put before they are handed over, such as torch.device('cpu')"
    check_device(f"{argument}.device", backend.device, advice)


def served_forms(backend: Backend, forms: list[str], dtypes: list[torch.dtype]) -> dict[torch.dtype, tuple[str, ...]]:
    """Which forms the backend runs in which dtypes: what it says of itself, or what a layer of one weight shows.

    A form that fails in every dtype there is must not go untested, unless it raises NotImplementedError.
    """
    supports = getattr(backend, "supports", None)
    if supports is not None:
        return {dtype: tuple(form for form in forms if supports(dtype, form)) for dtype in dtypes}
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
                f"{type(first).__name__}: {first_line(first)}; correct it, or raise NotImplementedError where it is "
                "not meant to run"
            ) from first
    return found


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
