"""What the benchmarks share: options, tables, files, a process that may die, Hypothesis without plug-ins."""

from __future__ import annotations

import os

os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"  # before hypothesis is imported: hypothesis-torch's reseeds torch every time

import argparse
import multiprocessing
import platform
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Generic, TypeVar

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis.strategies import SearchStrategy

import equiv
from equiv.laws import repeatable

_T = TypeVar("_T")


def parser(words: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with a module's docstring as it stands."""
    return argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)


def versions() -> dict[str, str]:
    """What ran on what, and when."""
    return {
        "equiv": equiv.__version__,
        "torch": torch.__version__,
        "hypothesis": hypothesis.__version__,
        "python": platform.python_version(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "date": time.strftime("%Y-%m-%d"),
    }


class Table:
    """A table on the terminal, its head first and then a row at a time: the format of each column, by its title."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._formats = list(columns.values())
        print(self.line(*columns), flush=True)

    def line(self, *cells: object) -> str:
        """One line; what is already words is put into the width of its column alone."""
        return "".join(
            format(cell, re.sub(r"[,.].*", "", shape) if isinstance(cell, str) else shape)
            for cell, shape in zip(cells, self._formats, strict=False)
        )

    def row(self, *cells: object) -> None:
        """Print a line of as many columns as there are cells."""
        print(self.line(*cells), flush=True)


def write_whole(path: Path | None, text: str) -> None:
    """Write a file, if there is one, so that it is whole at any time, also where the command is interrupted."""
    if path is not None:
        partial = path.with_name(f"{path.name}.part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


class Worker(Generic[_T]):
    """Calls one function in a process of its own. torch 2.13 has calls that end it: then the next call has a new one.

    Args:
        function: Of a module, so that the other process finds it.
        ended: What the result is where the process ended, from the same arguments.
    """

    def __init__(self, function: Callable[..., _T], ended: Callable[..., _T]) -> None:
        self._function, self._ended = function, ended
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Worker[_T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def do(self, *arguments: Any) -> _T:
        """The result of one call."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(self._function, *arguments).result()
        except BrokenProcessPool:
            self.close()
            return self._ended(*arguments)


def under_hypothesis(
    strategy: SearchStrategy[Any],
    body: Callable[[Any], None],
    examples: int,
    *,
    seed: int = 0,
    phases: tuple[Phase, ...] = (Phase.generate,),
) -> Callable[[], None]:
    """A function that calls ``body`` with this many cases of a seed: the same ones whatever else is loaded."""
    chosen = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    drawn = with_seed(seed)(chosen(given(strategy)(body)))

    def run() -> None:
        with repeatable():
            drawn()

    return run
