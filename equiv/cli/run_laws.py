"""Runs items of the laws, here or in several processes. Knows nothing of options and prints nothing."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module

import equiv
from equiv.backends import TorchEager
from equiv.errors import EquivError
from equiv.laws import Item, Result, items, run_item

_ENOUGH_FOR_TWO = 40  # items; a second process takes seconds to start


@dataclass(frozen=True)
class Plan:
    """What to run. It crosses process borders, so it holds words only."""

    devices: tuple[str, ...]
    laws: tuple[str, ...] | None
    forms: tuple[str, ...] | None
    dtypes: tuple[str, ...] | None
    profile: str
    examples: int | None
    seed: int
    arithmetic: str = "declared"

    def items(self) -> list[Item]:
        """The items, in the order of the laws; the same in every process."""
        backends = [TorchEager(device) for device in self.devices]
        return items(backends, laws=self.laws, forms=self.forms, dtypes=self.dtypes)

    def run(self, item: Item) -> Result:
        """One item, in this process."""
        return run_item(item, profile=self.profile, examples=self.examples, seed=self.seed, arithmetic=self.arithmetic)


def default_jobs(count: int, devices: tuple[str, ...]) -> int:
    """Two processes where there are two cores and enough to do, one on accelerators, whose memory is not shared out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores > 1 and count >= _ENOUGH_FOR_TWO and devices == ("cpu",) else 1


def run_all(
    plan: Plan, chosen: list[Item], jobs: int, done: Callable[[Result], None], *, starting: Callable[[Item], None]
) -> None:
    """Run every item and hand each result to ``done`` as it comes; results do not depend on ``jobs``.

    Raises:
        EquivError: A process died.
        KeyboardInterrupt: Passed on, once no other process is left; results handed over until then are complete.
    """
    with _quiet():
        if jobs == 1:
            _load_everything()
            for item in chosen:
                starting(item)
                done(plan.run(item))
        else:
            _in_processes(plan, chosen, min(jobs, len(chosen)), done)


def _in_processes(plan: Plan, chosen: list[Item], jobs: int, done: Callable[[Result], None]) -> None:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (plan,))
    try:
        futures: list[Future[Result]] = [pool.submit(_run, number) for number in range(len(chosen))]
        for future in as_completed(futures):
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


_plan: Plan | None = None
_items: list[Item] = []


def _start(plan: Plan) -> None:
    """In a new process: the same items, one thread each, and Ctrl-C left to the parent."""
    global _plan, _items
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _load_everything()
    _plan, _items = plan, plan.items()


def _run(number: int) -> Result:
    assert _plan is not None
    return _plan.run(_items[number])


def _load_everything() -> None:
    """Import the whole package, so that a seed means the same cases in every process and for every selection of laws.

    Hypothesis mixes numbers that it finds in the source of the loaded local modules into what it draws, and an editable
    install is local: a module that loads on first use would change the cases that come after it.
    """
    for module in pkgutil.walk_packages(equiv.__path__, "equiv.", onerror=lambda _: None):
        if not module.name.endswith((".__main__", ".testing", ".pytest_plugin")):
            with suppress(ImportError):
                import_module(module.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of torch's are no finding of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
