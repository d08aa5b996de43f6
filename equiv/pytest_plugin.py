"""The pytest plugin: a header line, a summary by law. Thin: what to run is in ``equiv.testing``.

It is loaded in every project where the package is installed, so it imports neither torch nor hypothesis and does
nothing unless an ``--equiv-*`` option or an ini option ``equiv_*`` asks for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from equiv._options import options
from equiv.errors import EquivError
from equiv.plugin_options import given, is_used, kind_of_ini, read_options
from equiv.plugin_xfails import XfailsOfRun, pin, refuse_settings

_BEFORE = pytest.StashKey[dict[str, Any]]()
_PROPERTY = "equiv"


_OPTIONS = {
    "profile": ("NAME", "dev (quick), gate (the same cases each time), deep (nightly)"),
    "devices": ("LIST", "devices to test, such as cpu,cuda:0; all for every one present"),
    "dtypes": ("LIST", "dtypes to test, such as float32,bfloat16"),
    "examples": ("N", "cases for each law and dtype, instead of the profile's number"),
    "seed": ("N", "other cases: vary it to randomize a derandomized profile"),
    "arithmetic": ("NAME", "what error bounds follow: declared (by dtype and device) or measured (every call; slow)"),
    "report": ("FILE.json", "write every result and the coverage of conditions to a file"),
    "xfails": ("FILE", "items that are expected to fail, one a line: exact-*-float16-*  # reason"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--equiv-*``, and an ini option ``equiv_*`` for each."""
    group = parser.getgroup("equiv", "equiv: is this convolution the same function as that fully connected layer?")
    for name, (metavar, text) in _OPTIONS.items():
        group.addoption(f"--equiv-{name}", metavar=metavar, help=text)
        parser.addini(f"equiv_{name}", f"as --equiv-{name}: {text}", type=kind_of_ini(metavar), default=None)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import torch: one thread in each xdist worker, where several each would fight."""
    if "PYTEST_XDIST_WORKER" in os.environ and is_used(given(early_config, _OPTIONS)):
        _use_one_thread()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the options on, and look after the run, if this project uses the package."""
    try:
        _configure(config)
    except EquivError as error:
        raise pytest.UsageError(str(error)) from error


def _configure(config: pytest.Config) -> None:
    asked = given(config, _OPTIONS)
    if not is_used(asked):
        return
    if hasattr(config, "workerinput"):
        _use_one_thread()
    config.stash[_BEFORE] = {field.name: getattr(options, field.name) for field in fields(options)}
    read_options(config, asked)
    report = asked["report"]
    if report.text is not None and not hasattr(config, "workerinput"):
        _check_report(report.where, report.text)
    config.pluginmanager.register(_Run(config, report.text), "equiv-run")
    if options.xfails:
        config.pluginmanager.register(XfailsOfRun(str(asked["xfails"].text)), "equiv-xfails")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the options as they were: a run inside another one must not change it."""
    for name, value in config.stash.get(_BEFORE, {}).items():
        setattr(options, name, value)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An expected failure whose failing case is kept must fail on it."""
    pin(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before Hypothesis itself can complain: its decorators do not reach the laws."""
    if _is_law(item):
        refuse_settings(item)


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _check_report(where: str, report: str) -> None:
    from equiv.report import check_target
    from equiv.text import shown

    if os.path.isdir(report) or not os.path.isdir(os.path.dirname(os.path.abspath(report))):
        raise EquivError(
            f"{where}: expected a file in a folder that exists, got {shown(report, 120)}; create the folder, or "
            "name a file in one"
        )
    check_target(os.path.abspath(report), option=where)


def _is_law(item: pytest.Item) -> bool:
    """Whether a test is one law in one dtype, from ``equiv.testing.parametrize_with_laws``."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and hasattr(callspec.params.get("law"), "item")


class _Run:
    """What is done in a run that uses the package; one object for each, so that runs inside runs stay apart."""

    def __init__(self, config: pytest.Config, report: str | None) -> None:
        self.report = None if report is None else Path(report).absolute()  # a test may change the working directory
        self.is_worker = hasattr(config, "workerinput")
        self.workers = getattr(config.option, "numprocesses", None)
        self.results: list[dict[str, Any]] = []
        self.planned = 0
        self.start = time.perf_counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_header(self) -> str:
        """One line: what is tested, with what."""
        import torch

        threads = "1 thread a worker" if self.workers else f"{torch.get_num_threads()} threads"
        capability = torch.backends.cpu.get_cpu_capability()
        place = ", ".join(options.devices)
        return f"equiv: profile {options.profile}, torch {torch.__version__}, {threads}, {capability}, on {place}"

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the laws that are to run; a worker, which collects all of them, tells the controller."""
        self.planned = sum(_is_law(item) and item.get_closest_marker("skip") is None for item in session.items)
        if self.is_worker:
            session.config.workeroutput[_PROPERTY] = self.planned  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        self.planned = max(self.planned, getattr(node, "workeroutput", {}).get(_PROPERTY, 0))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Attach the results of laws that a test ran to its report, which travels from workers to the controller."""
        if "equiv.laws" not in sys.modules or not _is_law(item):
            return (yield)  # a test that runs laws of its own, such as on kernels that it knows to be broken
        listeners = sys.modules["equiv.laws"].listeners

        def keep(result: Any) -> None:
            item.user_properties.append((_PROPERTY, result.to_dict()))

        listeners.append(keep)
        try:
            return (yield)
        finally:
            listeners.remove(keep)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect on the controller, which the workers' reports reach."""
        if report.when == "call" and not self.is_worker:
            found: list[Any] = [value for name, value in report.user_properties if name == _PROPERTY]
            self.results += found

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A table by law, and the report file."""
        if self.is_worker or not (self.results or self.report):
            return
        from equiv.report import Request, Run, summary_lines, write_json

        run = Run.of(
            Request(**options.request()),
            sorted(self.results, key=lambda result: str(result["item"])),
            planned=self.planned,
            jobs=int(self.workers or 1),
            seconds=time.perf_counter() - self.start,
        )
        if self.results:
            terminalreporter.section("equiv: laws", sep="-")
            for line in summary_lines(run):
                terminalreporter.line(line)
        if self.report is not None:
            found = run.to_dict()
            try:
                write_json({**found, "results": found["items"]}, str(self.report), option="--equiv-report")
            except EquivError as error:
                terminalreporter.line(str(error), red=True)
            else:
                terminalreporter.line(f"every result: {self.report}")
