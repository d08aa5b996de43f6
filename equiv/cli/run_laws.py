"""Runs items of the laws, here or in several processes. Knows nothing of options and prints nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from equiv.backends import TorchEager
from equiv.errors import EquivError
from equiv.laws import Item, Result, items, run_item
from equiv.report import Request

_ENOUGH_FOR_TWO = 40  # items; a second process takes seconds to start


def items_of(request: Request) -> list[Item]:
    """The items that were asked for, in the order of the laws; the same in every process."""
    backends = [TorchEager(device) for device in request.devices]
    return items(backends, laws=request.laws, forms=request.forms, dtypes=request.dtypes)


def default_jobs(count: int, devices: tuple[str, ...]) -> int:
    """Two processes where there are two cores and enough to do, one on accelerators, whose memory is not shared out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores > 1 and count >= _ENOUGH_FOR_TWO and devices == ("cpu",) else 1


def run_all(
    request: Request,
    chosen: list[Item],
    jobs: int,
    done: Callable[[Result], None],
    *,
    starting: Callable[[Item], None],
) -> None:
    """Run every item and hand each result to ``done`` as it comes; results do not depend on ``jobs``.

    Raises:
        EquivError: A process died.
        KeyboardInterrupt: Passed on, once no other process is left; results handed over until then are complete.
    """
    if jobs > 1:
        _in_processes(request, min(jobs, len(chosen)), len(chosen), done)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings are no findings
        for item in chosen:
            starting(item)
            done(_run(request, item))


def _run(request: Request, item: Item) -> Result:
    how = {name: getattr(request, name) for name in ("profile", "examples", "seed", "arithmetic")}
    return run_item(item, **how, first=[] if request.case is None else [request.case])


def _in_processes(request: Request, jobs: int, count: int, done: Callable[[Result], None]) -> None:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (request,))
    try:
        for future in as_completed(_started(pool, jobs, count)):
            done(future.result())
    except BrokenProcessPool as error:
        raise EquivError(
            f"--jobs: expected {jobs} processes to live, got one that died, as a crash in a kernel or a lack of memory "
            "does; run with --jobs 1 to see where"
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _started(pool: ProcessPoolExecutor, jobs: int, count: int) -> list[Future[Result]]:
    """Every item handed to the pool, which starts its processes with the first ones."""
    try:
        return [pool.submit(_run_number, number) for number in range(count)]
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EquivError(f"--jobs: expected {jobs} processes to start, got: {reason}; run with --jobs 1") from error


_given: list[tuple[Request, list[Item]]] = []  # of this process


def _start(request: Request) -> None:
    """In a new process: the same items, one thread, and Ctrl-C left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _given[:] = [(request, items_of(request))]


def _run_number(number: int) -> Result:
    request, chosen = _given[0]
    return _run(request, chosen[number])
