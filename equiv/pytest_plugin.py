"""The pytest plugin: options, a header line, a summary by law. Thin: what to run is in ``equiv.testing``.

It is loaded in every project where the package is installed, so it imports neither torch nor hypothesis and does
nothing unless an ``--equiv-*`` option or the ini option ``equiv_profile`` asks for it.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from equiv._options import Options, options
from equiv.errors import EquivError

_BEFORE = pytest.StashKey[dict[str, Any]]()
_PROPERTY = "equiv"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--equiv-*`` and the ini options of the same names."""
    group = parser.getgroup("equiv", "equiv: is this convolution the same function as that fully connected layer?")
    group.addoption(
        "--equiv-profile", metavar="NAME", help="dev (quick), gate (the same cases each time), deep (nightly)"
    )
    group.addoption(
        "--equiv-devices", metavar="LIST", help="devices to test, such as cpu,cuda:0; all for every one present"
    )
    group.addoption("--equiv-dtypes", metavar="LIST", help="dtypes to test, such as float32,bfloat16")
    group.addoption("--equiv-examples", metavar="N", help="cases for each item, instead of the profile's number")
    group.addoption("--equiv-seed", metavar="N", help="other cases: vary it to randomize a derandomized profile")
    group.addoption(
        "--equiv-arithmetic",
        metavar="NAME",
        help="what envelopes follow: declared (by dtype and device), or measured (of every call; slow)",
    )
    group.addoption(
        "--equiv-report", metavar="FILE.json", help="write every result and the coverage of conditions to a file"
    )
    parser.addini(
        "equiv_profile", "profile to run the laws of equiv in; also tells the plugin that this project uses it"
    )


def _is_used(config: pytest.Config) -> bool:
    given = (f"equiv_{name}" for name in ("profile", "devices", "dtypes", "examples", "seed", "arithmetic", "report"))
    return bool(config.getini("equiv_profile")) or any(config.getoption(name) is not None for name in given)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import torch: one thread in each xdist worker, where several each would fight."""
    if "PYTEST_XDIST_WORKER" in os.environ and _is_used(early_config):
        _use_one_thread()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the options on, and look after the run, if this project uses the package."""
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
    profile = str(config.getoption("equiv_profile") or config.getini("equiv_profile") or Options.profile)
    options.profile = profile.removeprefix("equiv-")
    if options.profile not in ("dev", "gate", "deep"):
        where = "--equiv-profile" if config.getoption("equiv_profile") else "equiv_profile"
        raise EquivError(f"{where}: expected dev, gate or deep, got {profile!r:.60}; correct its spelling")
    options.examples = _number(config, "examples", 1)
    options.seed = _number(config, "seed", 0)
    if options.seed is None:
        options.seed = _seed_of_hypothesis(config.getoption("hypothesis_seed", None))
    options.arithmetic = str(config.getoption("equiv_arithmetic") or Options.arithmetic)
    if options.arithmetic not in ("declared", "measured"):
        raise EquivError(
            f"--equiv-arithmetic: expected declared or measured, got {options.arithmetic!r:.60}; correct its spelling"
        )
    options.dtypes = _dtypes(config.getoption("equiv_dtypes"))
    options.devices = _devices(config.getoption("equiv_devices"))
    _check_report(config.getoption("equiv_report"))


def _number(config: pytest.Config, name: str, least: int) -> int | None:
    text = config.getoption(f"equiv_{name}")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) >= least):
        raise EquivError(f"--equiv-{name}: expected an integer of at least {least}, got {text!r:.60}; write digits")
    return int(text)


def _seed_of_hypothesis(text: str | None) -> int | None:
    """``--hypothesis-seed`` varies the laws too. Hypothesis takes any text; ours are integers of at least 0."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    return zlib.crc32(text.encode())


def _dtypes(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    from equiv.laws import chosen_words

    try:
        return tuple(chosen_words([word.removeprefix("torch.") for word in _words(text)]))
    except EquivError as error:
        raise EquivError(f"--equiv-{error}") from error


def _devices(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ("cpu",)
    from equiv.backends import TorchEager
    from equiv.strategies import devices_present

    if text.strip() == "all":
        return tuple(str(device) for device in devices_present())
    if not _words(text):
        raise EquivError(
            f"--equiv-devices: expected names such as cpu,cuda:0, got {text!r:.60}; write all for every one"
        )
    for word in _words(text):
        try:
            TorchEager(word)
        except EquivError as error:
            raise EquivError(f"--equiv-devices: {str(error).removeprefix('device: ')}") from error
    return _words(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _check_report(path: str | None) -> None:
    if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        raise EquivError(
            f"--equiv-report: expected a file in a folder that exists, got {path!r:.120}; create the folder, or name a "
            "file in one"
        )


def _parameters(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else dict(callspec.params)


class _Run:
    """What is done in a run that uses the package; one object for each, so that runs inside runs stay apart."""

    def __init__(self, config: pytest.Config) -> None:
        report = config.getoption("equiv_report")
        self.report = None if report is None else Path(report).absolute()  # a test may change the working directory
        self.is_worker = hasattr(config, "workerinput")
        self.workers = getattr(config.option, "numprocesses", None)
        self.results: list[dict[str, Any]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_header(self) -> str:
        """One line: what is tested, with what."""
        import torch

        threads = "1 thread a worker" if self.workers else f"{torch.get_num_threads()} threads"
        capability = torch.backends.cpu.get_cpu_capability()
        place = ", ".join(options.devices)
        return f"equiv: profile {options.profile}, torch {torch.__version__}, {threads}, {capability}, on {place}"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Attach the results of laws that a test ran to its report, which travels from workers to the controller."""
        if "equiv.laws" not in sys.modules or not hasattr(_parameters(item).get("law"), "item"):
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
        from equiv.report.summary import report_of, summary_lines

        if self.results:
            terminalreporter.section("equiv: laws", sep="-")
            for line in summary_lines(self.results):
                terminalreporter.line(line)
        if self.report is not None and not self.is_worker:
            from equiv.report.json import write

            try:
                write(report_of(self.results), str(self.report), option="--equiv-report")
            except EquivError as error:
                terminalreporter.line(str(error), red=True)
            else:
                terminalreporter.line(f"every result: {self.report}")
