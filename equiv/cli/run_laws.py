"""Runs items of the laws, here or in several processes. Knows nothing of options and prints nothing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from equiv.backends import Backend, TorchEager
from equiv.cli import stop_if_told
from equiv.laws import Item, Limits, Plan, Pool, Result, end_server, plan, run_item
from equiv.report import Request

_ENOUGH_FOR_TWO = 40  # items; a second process takes seconds to start


def plan_of(request: Request, backends: Sequence[Backend] = ()) -> Plan:
    """The items that were asked for, in the order of the laws, on the backends; by default torch on the devices."""
    chosen = backends or [TorchEager(device) for device in request.devices]
    return plan(chosen, laws=request.laws, forms=request.forms, dtypes=request.dtypes)


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
    limits: Limits | None = None,
) -> None:
    """Run every item and hand each result to ``done`` as it comes; results do not depend on ``jobs``.

    Several jobs are worker processes, and so is a single one where there are limits. A worker that dies costs its item.

    Raises:
        EquivError: A process that cannot be started.
        KeyboardInterrupt: Passed on, once no other process is left; results handed over until then are complete.
    """
    names = ("profile", "examples", "seed", "arithmetic")
    how: dict[str, Any] = {name: getattr(request, name) for name in names}
    how["first"] = [] if request.case is None else [request.case]
    if jobs > 1 or limits is not None:
        try:
            with Pool(limits or Limits(None, None), jobs=min(jobs, len(chosen))) as pool:
                for _, result in pool.run(chosen, **how):
                    done(result)
                    stop_if_told()
        finally:
            end_server()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings are no findings
        for item in chosen:
            stop_if_told()
            starting(item)
            done(run_item(item, **how))
