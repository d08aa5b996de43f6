"""``equiv verify``: try to break the laws without a test framework, and say what was found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from equiv.backends import Backend
from equiv.cli import BROKEN, OK, USAGE, code_of_stop, run_laws
from equiv.errors import EquivError
from equiv.laws import Failure, Item, Limits, Result, command_of
from equiv.report import (
    Journal,
    NotAsked,
    Request,
    Run,
    defect_lines,
    is_stdout,
    not_asked_lines,
    ratio_text,
    summary_text,
)
from equiv.report.terminal import Page

_ROOMY = 100  # columns from which the numbers of cases and comparisons are shown


def verify(
    request: Request,
    *,
    jobs: int | None,
    full: bool,
    targets: Mapping[str, str],
    limits: Limits | None = None,
    backends: Mapping[str, Backend] | None = None,
) -> int:
    """Run what was asked for, say and write what came of it; the exit code.

    Items run in worker processes if there are limits. ``backends`` are by the name that was typed; torch if not given.
    """
    named = backends or {}
    planned = run_laws.plan_of(request, list(named.values()))
    items = list(planned.items)
    if not items:
        raise EquivError(
            f"{_options(request, 'laws', 'forms', 'dtypes')}: expected a law that is about these, got none; leave out "
            "one of the options"
        )
    jobs = jobs or run_laws.default_jobs(len(items), request.devices)
    journal = Journal(request, targets, jobs=jobs)
    journal.plan([item.id for item in items], left_out=[NotAsked.of(vars(one)) for one in planned.not_asked])
    failures: dict[str, Failure] = {}
    by_id = {item.id: item for item in items}
    ended: BaseException | None = None
    with _progress(len(items)) as (starting, show_done):

        def done(result: Result) -> None:
            result = _with_command(result, by_id[result.item], named, limits)
            journal.add(result.to_dict())
            if result.failure is not None:
                failures[result.item] = result.failure
            show_done(result)

        try:
            run_laws.run_all(request, items, jobs, done, starting=starting, limits=limits)
        except BaseException as error:
            ended = error
    run = _ended(journal, ended)
    page = Page(stderr=any(map(is_stdout, targets.values())))
    _tables(page, run, full=full)
    if run.not_asked:
        page.lines(not_asked_lines(run.not_asked), hanging="  ")
    if known := defect_lines(run):
        page.lines(known, hanging="  ")
    _failures(page, [failures[item.item] for item in run.failures])
    page.prose(summary_text(run))
    if journal.problem is not None:
        raise journal.problem
    if ended is not None and not isinstance(ended, KeyboardInterrupt):
        raise ended
    if run.complete and not run.asked:
        raise EquivError(
            f"{_options(request, 'laws', 'forms', 'dtypes')}: expected something that the device serves, got nothing "
            "that could be asked of it; leave out one of the options"
        )
    return OK if run.exit_code is None else run.exit_code


def _ended(journal: Journal, error: BaseException | None) -> Run:
    """The report as it stays, with the exit code that follows from it, or from what ended the run early."""
    if error is None:
        run = journal.run()
        return journal.end(exit_code=BROKEN if run.failures else OK if run.asked else USAGE)
    if isinstance(error, KeyboardInterrupt):
        return journal.end(stopped="interrupted", exit_code=code_of_stop())
    if isinstance(error, SystemExit):
        return journal.end(stopped="interrupted", exit_code=error.code if isinstance(error.code, int) else USAGE)
    return journal.end(stopped="error", exit_code=USAGE)


_OPTIONS = {"laws": "--law", "dtypes": "--dtype", "forms": "--form"}


def _options(request: Request, *names: str) -> str:
    """These options as they are typed, those that differ from what is not given."""
    plain, words = Request(), []
    for name in names:
        value = getattr(request, name)
        if value != getattr(plain, name):
            words += [_OPTIONS[name], ",".join(value) if isinstance(value, tuple) else str(value)]
    return " ".join(words)


def _with_command(result: Result, item: Item, named: Mapping[str, Backend], limits: Limits | None) -> Result:
    """The same result, its failure with the command that finds it again: by the name of its backend, in its limits."""
    failure = result.failure
    if failure is None or failure.attempt is None:
        return result
    name = next((text for text, backend in named.items() if backend is item.backend), None)
    command = command_of(item, failure.attempt, name)
    return replace(result, failure=replace(failure, command=f"{command} {limits.options}" if limits else command))


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[Item], None], Callable[[Result], None]]]:
    """A bar on standard error while somebody watches, nothing otherwise."""
    err = Page(stderr=True).console
    if not (err.is_terminal and sys.stderr.isatty()):
        yield (lambda _: None), (lambda _: None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield (
            lambda item: bar.update(task, description=item.law.id),
            lambda result: bar.update(task, description=result.law, advance=1),
        )


def _tables(page: Page, run: Run, *, full: bool) -> None:
    """One for each backend, a row for each law and form, and for each dtype too if ``full``."""
    roomy = page.width >= _ROOMY
    places = ["law", "form", *["dtype"] * full]
    counts = [*["cases", "judged"] * roomy, "identical", "rounding", "undecided", "different"]
    titles = [{"judged": "compared", "different": "broken"}.get(name, name) for name in (*places, *counts)]
    rows = run.rows(*places, "backend")
    backends = list(dict.fromkeys(row.backend for row in rows))
    for backend in backends:
        if len(backends) > 1:
            page.heading(backend)
        cells, before = [], ""
        for row in (row for row in rows if row.backend == backend):
            law = row.law if full or row.law != before else ""
            where = [getattr(row, name) for name in places[1:]]
            numbers = [f"{getattr(row, name):,}" for name in counts]
            cells.append([law, *where, *numbers, ratio_text(row.worst), *[row.worst_dtype] * (not full)])
            before = row.law
        page.table([*titles, "worst", *["in"] * (not full)], cells, left=len(places), gap=2 if roomy else 1)
    if rows:
        page.prose(_legend(full=full, roomy=roomy))


def _legend(*, full: bool, roomy: bool) -> str:
    """What the columns mean, those that are there."""
    dtype = "dtype: of input, weight and result. " * full
    counts = "cases: random layers with an input, the same for all forms. compared: results looked at. " * roomy
    occurred = "" if full else " in: the dtype in which it occurred."
    return f"""form: how the layer is carried out, as nn.Linear (linear), as a convolution whose kernel is as large as
        the map (full) or as a 1x1 convolution (pointwise). {dtype}{counts}identical: results with exactly the expected
        bits; a result is a whole tensor. rounding: results with other bits inside their envelope, the interval that
        correct arithmetic can reach in any order of summation. undecided: results on which correct implementations
        may disagree, as where a sum overflows in some orders only. broken: results outside their envelope, or not
        exact where they must be. worst: the largest error as a fraction of its envelope, whose edge is 1.{occurred}"""


def _failures(page: Page, failures: list[Failure]) -> None:
    """The first in full, the others on a line each."""
    if not failures:
        return
    page.verbatim(failures[0].render(page.prose_width))
    lines = [f"{len(failures) - 1:,} more:"]
    for failure in failures[1:]:
        line = "  " + failure.render(10_000).splitlines()[0]
        lines.append(line if len(line) <= page.width else line[: page.width - 4] + " ...")
    if failures[1:]:
        page.verbatim("\n".join(lines))
