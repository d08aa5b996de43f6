"""``equiv verify``: try to break the laws, without a test framework."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equiv.cli import BROKEN, INTERRUPTED, OK, options
from equiv.dtypes import dtype_name
from equiv.errors import EquivError
from equiv.report import json as report_json
from equiv.report import terminal as term
from equiv.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from equiv.cli.run_laws import Plan
    from equiv.laws import Failure, Item, Result

_MANY = "May be repeated, or hold commas."


def verify(
    law: Annotated[list[str] | None, typer.Option("--law", metavar="IDS", help=f"See `equiv env`. {_MANY}")] = None,
    form: Annotated[list[str] | None, typer.Option("--form", metavar="FORMS", help="linear, full, pointwise.")] = None,
    dtype: Annotated[list[str] | None, typer.Option("--dtype", metavar="DTYPES", help="By torch's names.")] = None,
    device: Annotated[list[str] | None, typer.Option("--device", metavar="DEVICES", help="cpu if not given.")] = None,
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="dev (quick), gate (fixed cases), deep (long).")
    ] = "dev",
    examples: Annotated[
        str | None, typer.Option("--examples", metavar="N", help="Cases per law and dtype, instead of the profile's.")
    ] = None,
    arithmetic: Annotated[
        str,
        typer.Option(
            "--arithmetic", metavar="NAME", help="What envelopes follow: declared, or measured of every call (slow)."
        ),
    ] = "declared",
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="N", help="Repeat the run with this seed. Random if not given.")
    ] = None,
    jobs: Annotated[str | None, typer.Option("--jobs", metavar="N", help="Processes; at most 2 if not given.")] = None,
    full: Annotated[bool, typer.Option("--full", help="One row for each law, form and dtype.")] = False,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write all of it to this file; - for stdout.")
    ] = None,
) -> int:
    """Try to break every law on every form and dtype. Exit code 1 if one is broken."""
    run = _plan(law, form, dtype, device, profile, examples, arithmetic, seed, jobs, json)
    interrupted = False
    with _progress(run) as (starting, done):
        try:
            run.execute(starting, done)
        except KeyboardInterrupt:
            interrupted = True
    order = {item.id: number for number, item in enumerate(run.items)}
    run.results.sort(key=lambda result: order.get(result.item, len(order)))
    if json is not None:
        report_json.write(_payload(run), json)
    out = term.console(stderr=json == report_json.STDOUT)
    _report(out, run, full=full)
    return INTERRUPTED if interrupted else BROKEN if run.failures else OK


@dataclass
class Run:
    """One run: what was asked, and what has come of it so far."""

    plan: Plan
    items: list[Item]
    jobs: int
    options: str
    """Those that a command to repeat a part needs besides law, dtype and seed."""
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every item has a result."""
        return len(self.results) == len(self.items)

    @property
    def failures(self) -> list[Failure]:
        """Of the laws that are broken, each with the command that finds it again."""
        found = [(result.failure, result.seed) for result in self.results if result.failure is not None]
        return [
            replace(f, command=f"equiv verify --law {f.law} --dtype {f.dtype}{self.options} --seed {seed}")
            for f, seed in found
        ]

    def execute(self, starting: Callable[[Item], None], done: Callable[[Result], None]) -> None:
        """Run all items."""
        from equiv.cli.run_laws import run_all

        def keep(result: Result) -> None:
            self.results.append(result)
            done(result)

        start = time.perf_counter()
        try:
            run_all(self.plan, self.items, self.jobs, keep, starting=starting)
        finally:
            self.seconds = time.perf_counter() - start


def _plan(
    law: list[str] | None,
    form: list[str] | None,
    dtype: list[str] | None,
    device: list[str] | None,
    profile: str,
    examples: str | None,
    arithmetic: str,
    seed: str | None,
    jobs: str | None,
    json: str | None,
) -> Run:
    """Check every option before anything runs."""
    from equiv.backends import FORMS
    from equiv.cli.run_laws import Plan, default_jobs
    from equiv.laws import LAWS, MODES, PROFILES

    laws = options.names("--law", law, LAWS)
    forms = options.names("--form", form, FORMS)
    dtypes = options.dtypes("--dtype", dtype)
    devices = tuple(options.devices("--device", device))
    name = options.one_name("--profile", profile.removeprefix("equiv-"), PROFILES)
    follows = options.one_name("--arithmetic", arithmetic, MODES)
    count = None if examples is None else options.integer("--examples", examples, low=1, high=10**6)
    used = options.integer("--seed", seed, low=0, high=options.LARGEST_SEED) if seed is not None else None
    if used is None:
        used = 0 if PROFILES[name].derandomize else random.SystemRandom().randrange(2**32)
    processes = None if jobs is None else options.integer("--jobs", jobs, low=1, high=64)
    if json is not None:
        report_json.check_target(json)
    plan = Plan(
        devices,
        None if laws is None else tuple(laws),
        None if forms is None else tuple(forms),
        None if dtypes is None else tuple(map(dtype_name, dtypes)),
        name,
        count,
        used,
        follows,
    )
    items = plan.items()
    if not items:
        asked = [f"{key} {','.join(v)}" for key, v in (("--law", laws), ("--form", forms)) if v]
        asked += [f"--dtype {','.join(plan.dtypes)}"] if plan.dtypes else []
        raise EquivError(
            f"{' '.join(asked)}: expected a law that is about these, got none; leave out one of the options"
        )
    words = [f" --form {','.join(forms)}"] if forms else []
    words += [f" --device {','.join(devices)}"] if devices != ("cpu",) else []
    words += [f" --profile {name}"] if name != "dev" else []
    words += [f" --examples {count}"] if count is not None else []
    words += [f" --arithmetic {follows}"] if follows != "declared" else []
    return Run(plan, items, processes or default_jobs(len(items), devices), "".join(words))


@contextmanager
def _progress(run: Run) -> Iterator[tuple[Callable[[Item], None], Callable[[Result], None]]]:
    """A bar on standard error while somebody watches, nothing otherwise."""
    err = term.console(stderr=True)
    if not (err.is_terminal and sys.stderr.isatty()):
        yield (lambda _: None), (lambda _: None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=len(run.items))
        yield (
            lambda item: bar.update(task, description=item.law.id),
            lambda result: bar.update(task, description=result.law, advance=1),
        )


# --- what is said -----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """Comparisons of one law and form, over one dtype or over all."""

    law: str
    form: str
    dtype: str = ""
    backend: str = ""
    cases: int = 0
    judged: int = 0
    identical: int = 0
    rounding: int = 0
    undecided: int = 0
    different: int = 0
    worst: float = 0.0
    worst_dtype: str = ""

    def add(self, result: Result, form: str) -> None:
        """Count one result in."""
        tally = result.forms[form]
        self.cases += result.examples
        self.judged += tally.judged
        self.identical += tally.identical
        self.rounding += tally.rounding
        self.undecided += tally.undecided
        self.different += tally.different
        if tally.max_ratio > self.worst:
            self.worst, self.worst_dtype = tally.max_ratio, result.dtype


def _rows(results: list[Result], *, by_dtype: bool) -> list[Row]:
    rows: dict[tuple[str, str, str, str], Row] = {}
    for result in results:
        for form in result.forms:
            key = (result.law, form, result.dtype if by_dtype else "", result.backend)
            rows.setdefault(key, Row(*key)).add(result, form)
    ids = list(dict.fromkeys(result.law for result in results))
    forms = ("linear", "full", "pointwise")
    return sorted(rows.values(), key=lambda row: (ids.index(row.law), forms.index(row.form)))


def _report(out: Console, run: Run, *, full: bool) -> None:
    backends = list(dict.fromkeys(result.backend for result in run.results))
    for backend in backends:
        if len(backends) > 1:
            term.heading(out, backend)
        _table(out, [result for result in run.results if result.backend == backend], full=full)
    if run.results:
        term.paragraph(out, _legend(full=full, roomy=out.width >= _ROOMY))
    _failures(out, run.failures)
    term.paragraph(out, _summary(run))


_ROOMY = 100  # columns from which there is room for the numbers of cases and comparisons


def _legend(*, full: bool, roomy: bool) -> str:
    """What the columns mean, those that are there."""
    form = "form: Linear, a convolution as large as the map (full) or 1x1 (pointwise)."
    dtype = "dtype: of input, weight and result. " * full
    counts = "cases: layers with an input that were drawn, the same for all forms. compared: results judged. " * roomy
    came_in = "" if full else ", and the dtype that it came in"
    return f"""{form} {dtype}{counts}identical: the same bits. rounding: inside the envelope, where right kernels
        differ. undecided: right kernels may disagree, as where a sum overflows in some orders. broken: outside. worst:
        the largest error as a fraction of its envelope, whose edge is 1{came_in}. Counts are of whole results."""


def _table(out: Console, results: list[Result], *, full: bool) -> None:
    roomy = out.width >= _ROOMY
    columns = ["law", "form", *["dtype"] * full, *["cases", "compared"] * roomy]
    columns += ["identical", "rounding", "undecided", "broken", "worst", *["in"] * (not full)]
    cells, before = [], ""
    for row in _rows(results, by_dtype=full):
        counts = [row.cases, row.judged] * roomy + [row.identical, row.rounding, row.undecided, row.different]
        law = row.law if full or row.law != before else ""
        cells.append(
            [law, row.form, *[row.dtype] * full]
            + [f"{count:,}" for count in counts]
            + [_worst(row.worst), *[row.worst_dtype] * (not full)]
        )
        before = row.law
    term.table(out, columns, cells, left=2 + full, gap=2 if roomy else 1)


def _worst(ratio: float) -> str:
    if ratio == 0:
        return "0"
    return "<0.01" if ratio < 0.005 else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1g}"


def _failures(out: Console, failures: list[Failure]) -> None:
    """The first in full, the others on a line each."""
    if not failures:
        return
    out.print(failures[0].render(min(out.width, term.WIDEST_PROSE)), soft_wrap=True)
    out.print()
    if failures[1:]:
        term.lines(out, [f"{len(failures) - 1:,} more:"])
        for failure in failures[1:]:
            line = f"  {failure.summary}"
            out.print(line if len(line) <= out.width else line[: out.width - 4] + " ...", soft_wrap=True)
        out.print()


def _summary(run: Run) -> str:
    import torch

    results = run.results
    laws = list(dict.fromkeys(result.law for result in results))
    broken = list(dict.fromkeys(failure.law for failure in run.failures))
    dtypes = list(dict.fromkeys(result.dtype for result in results))
    judged = sum(tally.judged for result in results for tally in result.forms.values())
    stopped = "" if run.complete else f"Interrupted after {len(results)} of {len(run.items)} laws x dtypes. "
    if not results:
        return f"{stopped}Nothing was checked. Seed {run.plan.seed}."
    head = f"{counted(len(laws), 'law')} {'holds' if len(laws) == 1 else 'hold'}"
    if not run.complete:
        head = f"Nothing broken so far in {counted(len(laws), 'law')}"
    if broken:
        head = f"{len(broken)} of {counted(len(laws), 'law')} broken: {', '.join(broken)}"
    return (
        f"{stopped}{head}, in {counted(sum(result.examples for result in results), 'case')} and "
        f"{counted(judged, 'comparison')}, over "
        f"{counted(len(dtypes), 'dtype')} ({', '.join(dtypes)}), on {', '.join(run.plan.devices)} with torch "
        f"{torch.__version__}, in {run.seconds:.1f} s; profile {run.plan.profile}. To repeat it: --seed {run.plan.seed}"
    )


def _payload(run: Run) -> dict[str, Any]:
    import torch

    import equiv

    commands = {(f.law, f.dtype, f.backend): f.command for f in run.failures}
    items = []
    for result in run.results:
        item = result.to_dict()
        if result.failure is not None:
            item["failure"] = {
                **result.failure.to_dict(),
                "command": commands[result.law, result.dtype, result.backend],
            }
        items.append(item)
    return {
        "schema": 1,
        "equiv": equiv.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "devices": list(run.plan.devices),
        "profile": run.plan.profile,
        "examples": run.plan.examples,
        "arithmetic": run.plan.arithmetic,
        "seed": run.plan.seed,
        "jobs": run.jobs,
        "seconds": round(run.seconds, 3),
        "complete": run.complete,
        "planned": len(run.items),
        "holds": run.complete and not run.failures,
        "broken": list(dict.fromkeys(failure.law for failure in run.failures)),
        "table": [vars(row) for row in _rows(run.results, by_dtype=True)],
        "items": items,
    }
