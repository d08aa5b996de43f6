"""Items handed to worker processes, and their results as they come, whatever becomes of the processes."""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import Any

import torch

from equiv.arguments import check_integer, refusal
from equiv.backends import Backend
from equiv.errors import EquivError
from equiv.laws import runner
from equiv.laws.isolation import child
from equiv.laws.isolation.child import ERROR, REFUSED, RESULT, Task, result_of
from equiv.laws.isolation.limits import Limits
from equiv.laws.isolation.worker import Worker, start_method
from equiv.laws.runner import Result
from equiv.laws.selection import Item
from equiv.laws.witness import failure_without_case
from equiv.text import quoted

_MAIN = b"__main__"
_WAIT = 1.0  # seconds after which processes are looked at, even where none says anything


class Pool:
    """Up to ``jobs`` workers. One that dies costs its item, whose result says how, and is replaced for the next.

    A backend travels to a worker as its pickle: the worker imports the module that defines its class. One that has no
    pickle, such as of a local class, whose class is in the script that runs, or whose module cannot be imported in the
    worker, is inherited by a worker that is forked from this process and uses one thread; that works on Linux, for
    backends on the CPU.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.laws import items
        >>> with Pool(Limits(timeout=60)) as pool:
        ...     planned = items([TorchEager()], laws=["exact"], dtypes=["int8"])
        ...     [result.outcome for _, result in pool.run(planned, examples=2)]
        ['holds']
    """

    def __init__(self, limits: Limits | None = None, *, jobs: int = 1) -> None:
        self._limits = _checked_limits(Limits() if limits is None else limits)
        self._jobs = check_integer("jobs", jobs, least=1, advice="pass how many processes may run")
        self._idle: list[Worker] = []
        self._busy: dict[Worker, tuple[int, Item, Task]] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every worker at once."""
        while self._idle or self._busy:
            worker = self._idle.pop() if self._idle else self._busy.popitem()[0]
            worker.end()

    def run(self, items: Sequence[Item], **how: Any) -> Iterator[tuple[int, Result]]:
        """The result of every item with its number, as they come; ``how`` as for :func:`equiv.laws.run_item`.

        Raises:
            EquivError: What ``run_item`` raises, or a worker that cannot be started.
        """
        left = deque((number, item, self._task(item, how)) for number, item in enumerate(items))
        try:
            while left or self._busy:
                while left and len(self._busy) < self._jobs:
                    self._hand_over(*left.popleft())
                yield from self._results()
        except BaseException:
            self.close()
            raise

    def _hand_over(self, number: int, item: Item, task: Task) -> None:
        worker = self._worker(task)
        self._busy[worker] = (number, item, task)
        worker.ask(task)

    def _worker(self, task: Task) -> Worker:
        """One that has the backend or can load it."""
        for worker in self._idle:
            if isinstance(task.backend, bytes) or task.backend in worker.inherits:
                self._idle.remove(worker)
                return worker
        while len(self._idle) + len(self._busy) >= self._jobs:
            self._idle.pop().end()
        if isinstance(task.backend, int):
            return Worker("fork")
        return Worker(start_method(), needs_main=_MAIN in task.backend, alone=self._jobs == 1)

    def _results(self) -> Iterator[tuple[int, Result]]:
        """Wait for something to happen, and say what it was."""
        times = [left for left in (worker.seconds_left for worker in self._busy) if left is not None]
        ends = [end for worker in self._busy for end in (worker.link, worker.process.sentinel)]
        connection.wait(ends, min([_WAIT, *times]))
        for worker, (number, item, task) in list(self._busy.items()):
            try:
                answer = worker.answer()
            except EOFError:
                del self._busy[worker]
                yield number, _death(worker, item, task)
                continue
            if answer is None:
                continue
            del self._busy[worker]
            self._idle.append(worker)
            word, content = answer
            if word == REFUSED:
                self._hand_over(number, item, self._task(item, task.how, why=content))
            elif word == ERROR:
                raise content
            elif word == RESULT:
                yield number, content

    def _task(self, item: Item, how: dict[str, Any], why: str = "") -> Task:
        """An item as it travels, with a seed; ``why`` its pickle is of no use, if that is known."""
        how = {**how, "seed": runner.seed_of(how.get("seed"), how.get("profile", "dev"))}
        backend: bytes | int | None = None if why else _pickled(item.backend)
        if backend is None:
            backend = _inherited(item.backend, why)
        return Task(item.law.id, item.law.check.__module__, item.forms, item.dtype, backend, how, self._limits)


def _death(worker: Worker, item: Item, task: Task) -> Result:
    kind, note = worker.how_it_died()
    worker.end()
    case = worker.case or "it had not come to a case"
    failure = failure_without_case(note, kind, item, task.attempt(item), case=case)
    return result_of(item, failure, task.how)


def _pickled(backend: Backend) -> bytes | None:
    """The pickle, if the backend has one that does not need the script that runs here, or nothing else will do."""
    try:
        found = pickle.dumps(backend)
    except Exception:
        return None
    return None if _MAIN in found and _can_fork(backend) else found


def _can_fork(backend: Backend) -> bool:
    has_fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    return has_fork and torch.device(backend.device).type == "cpu"


def _inherited(backend: Backend, why: str) -> int:
    """The number of a backend that forked workers inherit."""
    if not _can_fork(backend):
        why = why or "no pickle"
        advice = f"define its class at the top of a module that can be imported ({quoted(why, 200)})"
        raise refusal("backend", "one that can be pickled, so that it can be isolated", backend, advice)
    child.inherited[id(backend)] = backend
    return id(backend)


# --- the pool of this process -----------------------------------------------------------------------------------------

_shared: dict[Limits, Pool] = {}


def shared_pool(limits: Limits) -> Pool:
    """A pool of one worker that stays for the next item; those with other limits are closed."""
    if limits not in _shared:
        close_shared_pool()
        _shared[limits] = Pool(limits)
    return _shared[limits]


@atexit.register
def close_shared_pool() -> None:
    """End the worker that was kept.

    Example:
        >>> close_shared_pool()  # nothing happens where there is none
    """
    while _shared:
        with suppress(OSError, EquivError):
            _shared.popitem()[1].close()


def _checked_limits(limits: object) -> Limits:
    if not isinstance(limits, Limits):
        raise refusal("limits", "an equiv.laws.Limits", limits, "pass such as Limits(timeout=60, memory=4)")
    return limits


def run_isolated(item: Item, limits: Limits, **how: Any) -> Result:
    """:func:`equiv.laws.run_item` in a worker process, which is kept for the next item.

    A backend that ends the process, or takes more than ``limits``, breaks the law: the failure says how.

    Raises:
        EquivError: As ``run_item``; a backend that cannot get into another process, or no process.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.laws import Limits, items
        >>> (item,) = items([TorchEager()], laws=["exact"], dtypes=["int8"])
        >>> run_isolated(item, Limits(timeout=60), examples=2).outcome
        'holds'
        >>> close_shared_pool()
    """
    if not isinstance(item, Item):
        raise refusal("item", "an equiv.laws.Item", item, "pass one of equiv.laws.items([backend])")
    [(_, result)] = shared_pool(_checked_limits(limits)).run([item], **how)
    for listener in runner.listeners.copy():
        listener(result)
    return result
