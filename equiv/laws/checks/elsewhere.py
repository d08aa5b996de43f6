"""Calls in other surroundings: another number of threads, several callers at once, deterministic algorithms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from threading import Barrier

import torch
from torch import Tensor

from equiv.laws.call import Call, is_control, raised
from equiv.laws.reach import Reach
from equiv.laws.trial import Trial
from equiv.numerics import threads

_CALLERS = 2
_AT_ONCE = f"in {_CALLERS} threads at once"
_PATIENCE = 10.0  # seconds that a thread waits for the others: longer than any call of a law


def elsewhere(trial: Trial, call: Call, expected: Tensor, seed: int) -> None:
    """The result ``(N, O)`` of a call must be the same in other surroundings; which, the seed says."""
    which = seed % (len(_MODES) + 1)
    if which < len(_MODES):
        name, mode = _MODES[which]
        trial.cover("surroundings", name)
        with mode():
            y = trial.run(call, name)
        trial.same(call, y, expected, name)
    elif trial.asks("concurrent", call.form):
        _at_once(trial, call, expected)


def _at_once(trial: Trial, call: Call, expected: Tensor) -> None:
    """Threads that call at once, each with its own input, get each their own result."""
    name = _AT_ONCE
    trial.cover("surroundings", name)
    calls, wanted = [call, call], [expected, expected]
    batch = call.input.shape[: call.input.ndim - call.weight.ndim + 1]
    if len(batch) and expected.numel():
        calls[1] = replace(call, input=call.input.flip(0))
        wanted[1] = expected.view(*batch, -1).flip(0).reshape(expected.shape)
    together = Barrier(_CALLERS)

    def work(one: Call) -> list[Tensor]:
        together.wait(_PATIENCE)
        return [one.result(trial.backend) for _ in range(2)]

    with _switching_often(), ThreadPoolExecutor(_CALLERS) as pool:
        waiting = [pool.submit(work, one) for one in calls]
    for one, future, exact in zip(calls, waiting, wanted, strict=True):
        error = future.exception()
        if error is not None:
            if is_control(error):
                raise error
            raise raised(error, one, condition=name) from error
        for y in future.result():
            trial.same(one, y.reshape(exact.shape) if y.numel() == exact.numel() else y, exact, name)


@contextmanager
def _switching_often() -> Iterator[None]:
    """Python changes from one thread to another as soon as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    on, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # torch.use_deterministic_algorithms first imports the compiler, which takes seconds.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(on, warn_only=warns)


_MODES: tuple[tuple[str, Callable[[], AbstractContextManager[None]]], ...] = (
    ("with deterministic algorithms", _deterministic),
    ("with two threads", partial(threads, 2)),
)
SURROUNDINGS = Reach("surroundings", (*(name for name, _ in _MODES), _AT_ONCE), needs=("concurrent",))
