"""``equiv check-kernel``: is a machine-written kernel right?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equiv.cli import BROKEN, OK, USAGE
from equiv.cli.objects import attribute, is_file, named, own_errors, run_anew
from equiv.errors import EquivError
from equiv.report import not_asked_lines, write_run
from equiv.report.terminal import Page
from equiv.testing import LIKES, Results, backendbench_kernels, check_backend, check_kernel, kernelbench_problem
from equiv.text import counted, shown

_EXPECTED = "expected FILE.py:function, package.module:function, a FILE.py with ModelNew or a folder of operators"


@dataclass(frozen=True)
class Asked:
    """What was typed, checked.

    Attributes:
        kernel: A function by name, a file of KernelBench, or a folder of BackendBench.
        like: One of ``LIKES``, the file of a problem, or None.
        device: Where tensors are.
        how: Keywords of ``check_kernel`` and ``check_backend``: laws, dtypes, profile, examples, seed, arithmetic.
    """

    kernel: str
    like: str | None
    device: str
    how: dict[str, Any]


def check(asked: Asked, *, json: str | None) -> int:
    """Run what was asked for, say and write what came of it; the exit code."""
    results = _results(asked)
    page = Page(stderr=json == "-")
    rows = []
    for item in results.run.items:
        tallies = item.forms.values()
        compared = sum(tally.judged for tally in tallies)
        rows.append([item.law, item.dtype, f"{item.examples:,}", f"{compared:,}", item.outcome])
    page.table(["law", "dtype", "cases", "compared", "outcome"], rows, left=2)
    if results.not_asked:
        page.lines(not_asked_lines(results.not_asked), hanging="  ")
    failures = [result.failure for result in results.failures if result.failure is not None]
    if failures:
        page.verbatim(failures[0].render(page.prose_width))
    if failures[1:]:
        page.lines([f"{len(failures) - 1} more:", *(f"  {one.summary}" for one in failures[1:])], hanging="    ")
    broken = results.run.broken
    laws = len({item.law for item in results.run.items if item.ran})
    head = f"{len(broken)} of {counted(laws, 'law')} broken: {', '.join(broken)}" if broken else "No law is broken"
    page.prose(f"{head}. {asked.kernel}, in {results.run.seconds:.1f} s.")
    if json is not None:
        write_run(results.run, {"json": json})
    return BROKEN if broken else OK if results.holds else USAGE


def _results(asked: Asked) -> Results:
    place = Path(asked.kernel)
    how = asked.how
    if place.is_dir():
        _not_with(asked, "a folder of operators")
        backend = backendbench_kernels(asked.kernel, device=asked.device)
        return check_backend(backend, **{**how, "dtypes": how["dtypes"] or ["float32"]})
    if is_file(asked.kernel):
        new, old, inputs = kernelbench_problem(asked.kernel, asked.like, device=asked.device)
        return check_kernel(new, like=old, inputs=inputs, laws=how["laws"])
    kind = asked.like or "linear"
    if kind not in LIKES:
        raise EquivError(f"--like: expected one of {', '.join(LIKES)} beside a function, got {shown(kind)}; correct it")
    path, name = named("KERNEL", asked.kernel, _EXPECTED)
    with own_errors("KERNEL", asked.kernel, _EXPECTED):
        function = attribute(run_anew(path), name)
    return check_kernel(function, like=kind, device=asked.device, **how)


def _not_with(asked: Asked, what: str) -> None:
    if asked.like is not None:
        raise EquivError(f"--like: expected none beside {what}, got {shown(asked.like)}; leave it out")
