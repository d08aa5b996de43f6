"""The pytest plugin: options, a header line, a summary by law. Thin: what to run is in ``equiv.testing``.

It is loaded in every project where the package is installed, so it imports neither torch nor hypothesis and does
nothing unless an ``--equiv-*`` option or the ini option ``equiv_profile`` asks for it. How a failure is seen again,
which holds for every test that is a law, is in ``equiv.plugin_again``.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from equiv._options import Options, options
from equiv.errors import EquivError
from equiv.plugin_again import Again, is_law

_BEFORE = pytest.StashKey[dict[str, Any]]()
_PROPERTY = "equiv"


_OPTIONS = {
    "profile": ("NAME", "dev (quick), gate (the same cases each time), deep (nightly)"),
    "devices": ("LIST", "devices to test, such as cpu,cuda:0; all for every one present"),
    "dtypes": ("LIST", "dtypes to test, such as float32,bfloat16"),
    "examples": ("N", "cases for each law and dtype, instead of the profile's number"),
    "seed": ("N", "other cases: vary it to randomize a derandomized profile"),
    "arithmetic": ("NAME", "what error bounds follow: declared (by dtype and device) or measured (every call; slow)"),
    "case": ("JSON", "a case to try before any is drawn, as a failure prints it"),
    "witnesses": ("DIR", "write the program of each failure into a folder, as ITEM.py"),
    "report": ("FILE.json", "write every result and the coverage of conditions to a file"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--equiv-*``, and the ini option ``equiv_profile``."""
    group = parser.getgroup("equiv", "equiv: is this convolution the same function as that fully connected layer?")
    for name, (metavar, text) in _OPTIONS.items():
        group.addoption(f"--equiv-{name}", metavar=metavar, help=text)
    parser.addini(
        "equiv_profile", "profile to run the laws of equiv in; also tells the plugin that this project uses it"
    )


def _is_used(config: pytest.Config) -> bool:
    given = any(config.getoption(f"equiv_{name}") is not None for name in _OPTIONS)
    return given or bool(config.getini("equiv_profile"))


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import torch: one thread in each xdist worker, where several each would fight."""
    if "PYTEST_XDIST_WORKER" in os.environ and _is_used(early_config):
        _use_one_thread()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the options on, and look after the run, if this project uses the package."""
    config.pluginmanager.register(Again(config), "equiv-again")
    if not _is_used(config):
        return
    if hasattr(config, "workerinput"):
        _use_one_thread()
    config.stash[_BEFORE] = asdict(options)
    try:
        _read_options(config)
    except EquivError as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(_Run(config), "equiv-run")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the options as they were: a run inside another one must not change it."""
    for name, value in config.stash.get(_BEFORE, {}).items():
        setattr(options, name, value)


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _read_options(config: pytest.Config) -> None:
    from equiv.laws import MODES, PROFILES, read_case
    from equiv.parsing import parse_dtypes, parse_integer, parse_name

    given = {name: config.getoption(f"equiv_{name}") for name in _OPTIONS}
    where = "equiv_profile" if given["profile"] is None else "--equiv-profile"
    profile = str(given["profile"] or config.getini("equiv_profile") or Options.profile)
    options.profile = parse_name(where, profile.removeprefix("equiv-"), PROFILES)
    options.arithmetic = parse_name("--equiv-arithmetic", given["arithmetic"] or Options.arithmetic, MODES)
    numbers = {
        name: None if given[name] is None else parse_integer(f"--equiv-{name}", given[name], least=least)
        for name, least in (("examples", 1), ("seed", 0))
    }
    options.examples, options.seed = numbers["examples"], numbers["seed"]
    if options.seed is None:
        options.seed = _seed_of_hypothesis(config.getoption("hypothesis_seed", None))
    options.case = given["case"]
    if options.case is not None:
        read_case(options.case, argument="--equiv-case")
    dtypes, devices, report = given["dtypes"], given["devices"], given["report"]
    options.dtypes = None if dtypes is None else tuple(parse_dtypes("--equiv-dtypes", _words(dtypes)))
    options.devices = Options.devices if devices is None else _devices(devices)
    if report is not None and not hasattr(config, "workerinput"):
        _check_report(report)


def _check_report(report: str) -> None:
    from equiv.report import check_target
    from equiv.text import shown

    if os.path.isdir(report) or not os.path.isdir(os.path.dirname(os.path.abspath(report))):
        raise EquivError(
            f"--equiv-report: expected a file in a folder that exists, got {shown(report, 120)}; create the folder, or "
            "name a file in one"
        )
    check_target(os.path.abspath(report), option="--equiv-report")


def _seed_of_hypothesis(text: str | None) -> int | None:
    """``--hypothesis-seed`` varies the laws too. Hypothesis takes any text; ours are integers of at least 0."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    return zlib.crc32(text.encode())


def _devices(text: str) -> tuple[str, ...]:
    from equiv.parsing import parse_devices
    from equiv.strategies import devices_present

    if text.strip() == "all":
        return tuple(map(str, devices_present()))
    return tuple(parse_devices("--equiv-devices", _words(text), "write all for every one that is present"))


def _words(text: str) -> list[str]:
    """What stands between commas; the text itself where that is nothing."""
    return [word for word in text.split(",") if word.strip()] or [text]


class _Run:
    """What is done in a run that uses the package; one object for each, so that runs inside runs stay apart."""

    def __init__(self, config: pytest.Config) -> None:
        report = config.getoption("equiv_report")
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
        self.planned = sum(is_law(item) and item.get_closest_marker("skip") is None for item in session.items)
        if self.is_worker:
            session.config.workeroutput[_PROPERTY] = self.planned  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        self.planned = max(self.planned, getattr(node, "workeroutput", {}).get(_PROPERTY, 0))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Attach the results of laws that a test ran to its report, which travels from workers to the controller."""
        if "equiv.laws" not in sys.modules or not is_law(item):
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
            Request(**asdict(options)),
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
