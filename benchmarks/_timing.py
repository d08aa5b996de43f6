"""How the benchmarks measure: seconds, medians of alternating runs, memory; and hypothesis-torch, where it is."""

from __future__ import annotations

import argparse
import importlib
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import _common
import torch
from hypothesis.strategies import SearchStrategy

from equiv.text import counted


def versions() -> str:
    """One line: what ran on what."""
    found = _common.versions()
    threads = counted(torch.get_num_threads(), "thread")
    return (
        f"torch {found['torch']}, Hypothesis {found['hypothesis']}, Python {found['python']}, "
        f"{found['capability']}, {threads}"
    )


def add_hypothesis_torch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hypothesis-torch",
        metavar="FOLDER",
        help="where it was put by `pip install --no-deps --target FOLDER hypothesis-torch`, so that its plug-in stays "
        "out of this environment; by default it is imported if it is there, else its rows are left out",
    )


def hypothesis_torch(folder: str | None) -> ModuleType | None:
    """The module, or None where it is not installed."""
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module("hypothesis_torch")
    except ImportError:
        if folder is not None:
            raise SystemExit(
                f"--hypothesis-torch: expected a folder that holds hypothesis_torch, got {folder}"
            ) from None
        return None


def seconds_under_hypothesis(
    strategy: SearchStrategy[Any], body: Callable[[Any], None], examples: int, *, seed: int = 0
) -> float:
    """Seconds of processor time that this many examples take, under settings that are the same for everybody."""
    run = _common.under_hypothesis(strategy, body, examples, seed=seed)
    start = time.process_time()
    run()
    return time.process_time() - start


def clocks() -> tuple[float, float]:
    """Wall and processor time, in seconds."""
    return time.perf_counter(), time.process_time()


def in_turn(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Processor time of each call, the contenders one after another in every repeat, so that a busy moment hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(repeats):
        for name, call in contenders.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return seconds


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """The median of the ratios of pairs that were measured next to each other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def highest() -> int:
    """Highest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident() -> float:
    """Resident size of this process now, in bytes; NaN where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.nan
    return pages * resource.getpagesize()
