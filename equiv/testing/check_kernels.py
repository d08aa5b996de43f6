"""Is a machine-written kernel right? The laws of a backend for a function of its own, or those of one module."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import check_choices, refusal
from equiv.backends import Capabilities
from equiv.dtypes import dtype_name
from equiv.laws import Failure, NotAsked, Result, Tally
from equiv.report import Request, Run
from equiv.testing.candidates import LIKES, as_name, kernel_backend
from equiv.testing.module_checks import MODULE_LAWS, Wrong
from equiv.testing.module_pair import Pair
from equiv.testing.results import Results
from equiv.testing.suite import check_backend


def check_kernel(  # noqa: PLR0913 - keyword-only options are the interface
    candidate: Callable[..., Any],
    like: str | nn.Module = "linear",
    *,
    inputs: Sequence[Any] | Callable[[], Any] | None = None,
    device: str | torch.device = "cpu",
    dtypes: Sequence[torch.dtype | str] | None = None,
    laws: Sequence[str] | None = None,
    profile: str = "gate",
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str = "declared",
    capabilities: Capabilities | None = None,
) -> Results:
    """Judge a kernel that somebody, or something, wrote for a benchmark, and return all results.

    A kernel ``like`` a function is asked in all sizes, layouts and values, by the laws of :func:`check_backend`. It is
    not asked for what it refuses aloud on a tiny layer (empty batches, strides, gradients, a bias), nor for calls from
    several threads at once; what that is, ``not_asked`` says. Wrong results, and errors in plain calls, break a law.

    A kernel ``like`` a module is asked for that module's function alone, in the shapes of ``inputs`` and batches of
    other sizes: on eight kinds of inputs, on integers for inputs and parameters, where nothing is rounded and results
    must be the module's bit for bit, after changes in place, in other layouts. Parameters are changed in copies, where
    those of both have the same names. What a module that is no layer rounds is judged as :func:`equiv.diagnose` does.

    Args:
        candidate: A function of tensors or NumPy arrays: Triton, CUDA, C++ or Python. Or a module, where ``like`` is
            one.
        like: ``linear``: ``candidate(input, weight, bias)`` or ``(input, weight)``, as ``torch.nn.functional.linear``.
            ``matmul``: ``candidate(a, b)`` of two matrices. ``conv1d``, ``conv2d``, ``conv3d``: as those of torch, with
            the keywords that it has. Or a module: ``candidate(*inputs)``, and beside a Linear or a convolution also
            ``candidate(input, weight, bias)``.
        inputs: What the module is called with, or a function that draws it; a layer needs none.
        device: Where the tensors of a function are. Those of a module are where ``inputs`` are.
        dtypes: Dtypes or their names; what is named is demanded. By default float32, or else the first that runs.
        laws: Ids of laws, or None for all.
        profile: ``dev``, ``gate`` (the same cases each time) or ``deep``.
        examples: Cases per law instead of the profile's number.
        seed: Repeats a run.
        arithmetic: ``declared`` or ``measured``; see :func:`equiv.laws.run_item`.
        capabilities: What a function promises, or does not; what it leaves open is found out.

    Raises:
        EquivError: A candidate that cannot be called so or that runs in no dtype, names that do not exist, inputs that
            the module does not run on.

    Example:
        >>> def product(input, weight, bias):
        ...     y = input.half() @ weight.half().T  # in half precision
        ...     return y.to(input.dtype) if bias is None else y.to(input.dtype) + bias
        >>> found = check_kernel(product, like="linear", laws=["exact", "weight_recovery"], examples=10)
        >>> found.holds, found.failures[0].law
        (False, 'exact')
        >>> check_kernel(torch.nn.functional.linear, like=torch.nn.Linear(3, 2)).holds
        True
    """
    if not isinstance(like, nn.Module):
        if not isinstance(like, str) or like not in LIKES:
            raise refusal("like", f"one of {', '.join(LIKES)}, or a module", like, "pass the module itself")
        if inputs is not None:
            raise refusal("inputs", f"none where the kernel is like {like}", type(inputs).__name__, "pass a module too")
        made = kernel_backend(candidate, like, device=device, dtypes=dtypes, capabilities=capabilities)
        backend, words = made
        how = {"profile": profile, "examples": examples, "seed": seed, "arithmetic": arithmetic}
        found = check_backend(backend, laws=laws, dtypes=words, **how)  # type: ignore[arg-type]
        _say_how_again(found, f"equiv.testing.check_kernel({backend.name}, like={like!r}")
        return found
    chosen = module_laws(laws)
    start = time.perf_counter()
    pair = Pair(candidate, like, inputs)
    results = [module_result(candidate, like, inputs, name) for name in chosen]
    request = Request(devices=(str(device),), laws=chosen, dtypes=(dtype_name(pair.dtype),), profile=profile)
    ids = [result.item for result in results]
    seconds = time.perf_counter() - start
    run = Run.of(request, [result.to_dict() for result in results], planned=ids, jobs=1, seconds=seconds)
    return Results(tuple(results), run)


def _say_how_again(results: Results, call: str) -> None:
    """The command of each failure as a call of this module."""
    for result, item in zip(results, results.run.items, strict=True):
        if result.failure is not None and isinstance(item.failure, dict):
            again = re.sub(r", forms=\[[^]]*\]", "", result.failure.command)
            again = again.replace("equiv.testing.check_backend(backend", call, 1)
            result.failure = replace(result.failure, command=again)
            item.failure["command"] = again


def module_laws(laws: Sequence[str] | None) -> tuple[str, ...]:
    """Ids of laws of modules; all of them for None.

    Raises:
        EquivError: One that does not exist.
    """
    return tuple(MODULE_LAWS) if laws is None else check_choices("laws", laws, tuple(MODULE_LAWS))


def module_result(candidate: Any, like: nn.Module, inputs: Any, law: str) -> Result:
    """What comes of one law of a module, on copies of its own."""
    start = time.perf_counter()
    pair = Pair(candidate, like, inputs)
    dtype = dtype_name(pair.dtype)
    safe = as_name(pair.name, "candidate")
    found = MODULE_LAWS[law](pair)
    result = Result(f"{law}-all-{dtype}-{safe}", law, dtype, safe, examples=1)
    result.seconds = time.perf_counter() - start
    if isinstance(found, str):
        result.not_asked = [NotAsked("calls", safe, law=law, dtype=dtype, reason=found, how="found")]
    else:
        result.forms["all"] = Tally(judged=1, identical=int(found is None), different=int(found is not None))
    if isinstance(found, Wrong):
        result.failure = _failure(found, law, dtype, safe, type(like).__name__)
    return result


def _failure(wrong: Wrong, law: str, dtype: str, name: str, like: str) -> Failure:
    tensors = [value for value in wrong.given if isinstance(value, Tensor)]
    kind = "raised" if wrong.what.startswith("raises ") else "value"
    return Failure(
        law=law,
        form="module",
        dtype=dtype,
        backend=name,
        sentence=str(MODULE_LAWS[law].__doc__).splitlines()[0],
        note=", ".join(filter(None, (wrong.what, wrong.condition))),
        shapes=", ".join(f"input {tuple(t.shape)}" for t in tensors),
        where=(),
        actual="",
        expected="",
        envelope=None,
        ratio=None,
        cause=None,
        snippet=None,
        command=f"equiv.testing.check_kernel({name}, like=<{like}>, laws=[{law!r}])",
        case=wrong.condition or "the inputs as they are drawn",
        kind=kind,
    )
