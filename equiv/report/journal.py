"""The report of a run that is still going on: after every result its file holds all results so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from equiv.environment import Environment
from equiv.errors import EquivError
from equiv.report.files import STDOUT, is_special, is_stdout, not_writable, place_of, write_text
from equiv.report.formats import AT_END, FORMATS, by_format
from equiv.report.model import Item, NotAsked, Request, Run
from equiv.text import shown


class Journal:
    """Keeps the results of a run and its report, which is whole at every moment.

    A file is replaced after every result, with ``complete: false`` until all planned items have one: a process that is
    killed leaves a report of all that it had found. What a file held before the run stays there until the first result;
    a new one gets the plan. Standard output, pipes and devices get the report once, at the end, and so does a file of a
    format of ``AT_END``.

    Args:
        request: What was asked for.
        targets: Files by format, such as ``{"json": "run.json"}``; relative ones are taken from the working directory
            of this moment. Empty for a run without a report.
        jobs: Processes.
        options: What messages call the targets, by format, instead of ``--`` and the format.

    Attributes:
        items: What has come of the run so far.
        planned: Ids of what is to come of it.
        left_out: What was not asked of any item.
        problem: Why the report could not be written the last time, or None.
        kept: Whether there is no result yet, and a file stays as it was.

    Raises:
        EquivError: A format that does not exist, or a path that cannot be one.

    Example:
        >>> journal = Journal(Request(), {})
        >>> journal.plan(["exact-all-int8-mine"])
        >>> journal.end().status
        'incomplete'
    """

    def __init__(
        self, request: Request, targets: Mapping[str, str], *, jobs: int = 1, options: Mapping[str, str] | None = None
    ) -> None:
        if not isinstance(request, Request):
            raise EquivError(f"request: expected an equiv.report.Request, got {shown(request)}; pass what was asked")
        self.planned: list[str] = []
        self.left_out: tuple[NotAsked, ...] = ()
        self.items: list[Item] = []
        self.problem: EquivError | None = None
        self._request, self._jobs = request, jobs
        self.kept = False
        self._options = {name: (options or {}).get(name, f"--{name}") for name, _ in by_format(targets)}
        self._targets = {name: _place(target, self._options[name]) for name, target in targets.items()}
        self._written: set[str] = set()
        self._environment: Environment | None = None
        self._start = time.perf_counter()

    @property
    def paths(self) -> list[str]:
        """Where the report is written, by format: absolute paths, or ``-``."""
        return list(self._targets.values())

    def plan(self, ids: Sequence[str], *, left_out: Sequence[NotAsked] = ()) -> None:
        """The items that will run, by id, and what no item is about since a backend declares not to serve it."""
        self.planned, self.left_out = list(ids), tuple(left_out)
        if self._targets:
            self._write(self.run(), again=True)

    def add(self, result: Mapping[str, Any] | Item) -> None:
        """Keep a result of ``equiv.laws`` in JSON's types; the files hold it before this returns.

        A file that cannot be written now is written with the next result: ``problem`` has the error until then.
        """
        self.items.append(result if isinstance(result, Item) else Item.of(result))
        if self._targets:
            self._write(self.run(), again=True)

    def run(self, *, stopped: str = "", exit_code: int | None = None) -> Run:
        """The run as far as it is, in the order that was planned."""
        self._environment = self._environment or Environment.here()
        order = {name: number for number, name in reversed(list(enumerate(self.planned)))}
        return Run(
            self._request,
            self._environment,
            tuple(sorted(self.items, key=lambda item: order.get(item.item, len(order)))),
            tuple(self.planned),
            self._jobs,
            time.perf_counter() - self._start,
            self.left_out,
            stopped=stopped,
            exit_code=exit_code,
        )

    def end(self, *, stopped: str = "", exit_code: int | None = None) -> Run:
        """Write the report for the last time, and return the run; ``problem`` has the error where that failed.

        A run without a result leaves a file as it was.

        Args:
            stopped: ``interrupted`` or ``error`` where the run did not come to its own end.
            exit_code: Of the process.
        """
        run = self.run(stopped=stopped, exit_code=exit_code)
        self._write(run, again=False)
        return run

    def _write(self, run: Run, *, again: bool) -> None:
        self.problem, self.kept = None, False
        for name, target in self._targets.items():
            once = is_stdout(target) or is_special(target)
            if again and (once or name in AT_END):
                continue
            if not (run.items or once or name in self._written) and _holds_something(target):
                self.kept = True
                continue
            try:
                write_text(FORMATS[name](run), target, option=self._options[name])
                self._written.add(name)
            except EquivError as error:
                self.problem = error


def _place(target: str, option: str) -> str:
    if is_stdout(target):
        return STDOUT
    try:
        return place_of(target)
    except (OSError, ValueError) as error:
        raise not_writable(option, target, error) from error


def _holds_something(target: str) -> bool:
    try:
        with open(target, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False
