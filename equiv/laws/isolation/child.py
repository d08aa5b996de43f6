"""What runs in a worker process: it takes tasks from a pipe, runs items and sends back what came of them."""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import signal
import threading
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from typing import Any

import torch

from equiv.backends import Backend
from equiv.errors import EquivError
from equiv.laws import asking, runner
from equiv.laws.isolation.limits import Limits, let_memory_go
from equiv.laws.registry import LAWS
from equiv.laws.selection import Item
from equiv.laws.state import unchanged
from equiv.laws.witness import Attempt, Failure, failure_without_case
from equiv.text import quoted

READY, CASE, RESULT, ERROR, REFUSED = "ready", "case", "result", "error", "refused"
"""What a message of a worker is about; ``refused`` says that the backend did not come out of its pickle."""

inherited: dict[int, Backend] = {}
"""Backends that have no pickle, by a number; a worker that is forked has those of its parent."""

_GRACE = 5.0  # seconds after its time in which a worker whose parent is gone ends itself


@dataclass(frozen=True)
class Task:
    """An item as it travels: its law by name, with the module that registers it, and its backend as bytes or number."""

    law: str
    module: str
    forms: tuple[str, ...]
    dtype: torch.dtype
    backend: bytes | int
    how: dict[str, Any]
    limits: Limits

    def item(self) -> Item:
        """The item, in this process."""
        if self.law not in LAWS:
            importlib.import_module(self.module)
        backend = pickle.loads(self.backend) if isinstance(self.backend, bytes) else inherited[self.backend]
        return Item(LAWS[self.law], self.forms, self.dtype, backend)

    def attempt(self, item: Item) -> Attempt:
        """What its run is given, for a failure that the run itself did not come to tell of."""
        return runner.attempt_of(
            item, **{name: value for name, value in self.how.items() if name not in ("first", "expected")}
        )


def serve(link: connection.Connection, faults: connection.Connection, threads: int) -> None:
    """Answer tasks until the other end is closed.

    Args:
        link: Tasks come from here, messages go there.
        faults: Where the traceback of a crash, or of what takes too long, is written to.
        threads: That torch uses.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the parent too, which decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # torch's warnings are no findings
    torch.set_num_threads(threads)
    runner.listeners.clear()  # a forked worker has those of its parent
    runner.case_listeners[:] = [lambda case: link.send((CASE, repr(case)))]
    asking.call_listeners[:] = [lambda call: link.send((CASE, call))]
    if os.name == "posix":
        faulthandler.enable(faults.fileno())
    link.send((READY, None))
    while True:
        try:
            task = link.recv()
        except (EOFError, OSError):
            break
        link.send(_answer(task, faults))
    os._exit(0)  # whatever else a backend has left running


def _answer(task: Task, faults: connection.Connection) -> tuple[str, Any]:
    """What came of a task: a result, or an error that is none of the backend's."""
    try:
        item = task.item()
    except Exception as error:
        return REFUSED, f"{type(error).__name__}: {quoted(error)}"
    try:
        with unchanged():
            _begin(task.limits, item, faults)
            try:
                result = runner.run_item(item, **task.how)
            finally:
                _end()
    except (KeyboardInterrupt, GeneratorExit, MemoryError) as error:  # nobody else has a reason to raise them here
        kind = "memory" if isinstance(error, MemoryError) else "raised"
        note = f"raises {type(error).__name__}: {quoted(error)}".removesuffix(": ")
        result = result_of(item, failure_without_case(note, kind, item, task.attempt(item)), task.how)
    except BaseException as error:
        return ERROR, _that_travels(error)
    failure = result.failure
    if failure is not None and failure.kind == "memory" and task.limits.memory is not None:
        result.failure = replace(failure, note=f"{task.limits.words['memory']} and {failure.note}")
    return RESULT, result


def result_of(item: Item, failure: Failure, how: dict[str, Any]) -> runner.Result:
    """The result of an item that did not come to its end."""
    return runner.Result(
        item.id,
        item.law.id,
        item.word,
        item.backend.name,
        seed=how["seed"],
        failure=failure,
        expected=how.get("expected"),
    )


def _begin(limits: Limits, item: Item, faults: connection.Connection) -> None:
    if limits.timeout is not None and os.name == "posix":
        faulthandler.dump_traceback_later(limits.timeout, file=faults.fileno())
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limits.timeout + _GRACE)
    if torch.device(item.backend.device).type == "cpu":
        limits.hold_memory()


def _end() -> None:
    let_memory_go()
    faulthandler.cancel_dump_traceback_later()
    if os.name == "posix":
        signal.setitimer(signal.ITIMER_REAL, 0)


def _that_travels(error: BaseException) -> BaseException:
    """The error with its traceback as a note; one of ours in its place where it has no pickle."""
    error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    with suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return EquivError(f"a worker process: {type(error).__name__}: {quoted(error)}")


def _end_with_parent() -> None:
    """Leave no worker behind whose parent was killed."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
