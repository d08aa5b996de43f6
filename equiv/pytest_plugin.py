"""The pytest plugin: options, a header line. What to run is in ``equiv.testing``, reports in ``equiv.plugin_report``.

It is loaded in every project where the package is installed, so it imports neither torch nor hypothesis and does
nothing unless an ``--equiv-*`` option or the ini option ``equiv_profile`` asks for it. How a failure is seen again,
which holds for every test that is a law, is in ``equiv.plugin_again``.
"""

from __future__ import annotations

import os
import sys
import zlib
from dataclasses import asdict
from typing import Any

import pytest

from equiv._options import Options, options
from equiv.errors import EquivError
from equiv.plugin_again import Again
from equiv.plugin_asked import Asking
from equiv.plugin_report import Reporting, check_report

_BEFORE = pytest.StashKey[dict[str, Any]]()


_OPTIONS = {
    "profile": ("NAME", "dev (quick), gate (the same cases each time), deep (nightly)"),
    "devices": ("LIST", "devices to test, such as cpu,cuda:0; all for every one present"),
    "dtypes": ("LIST", "dtypes to test, such as float32,bfloat16"),
    "examples": ("N", "cases for each law and dtype, instead of the profile's number"),
    "seed": ("N", "other cases: vary it to randomize a derandomized profile"),
    "arithmetic": ("NAME", "what error bounds follow: declared (by dtype and device) or measured (every call; slow)"),
    "timeout": ("SECONDS", "of each item that --equiv-isolate isolates; 600 if not given"),
    "memory": ("GIB", "of each item that --equiv-isolate isolates; 4 if not given"),
    "case": ("JSON", "a case to try before any is drawn, as a failure prints it"),
    "witnesses": ("DIR", "write the program of each failure into a folder, as ITEM.py"),
    "report": ("FILE.json", "write all results to a file as they come (docs/report.md); - for standard output"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--equiv-*``, and the ini option ``equiv_profile``."""
    group = parser.getgroup("equiv", "equiv: is this convolution the same function as that fully connected layer?")
    for name, (metavar, text) in _OPTIONS.items():
        group.addoption(f"--equiv-{name}", metavar=metavar, help=text)
    group.addoption(
        "--equiv-isolate",
        action="store_const",
        const=True,
        help="run each law in a worker process with limits: a crash or a hang fails one test",
    )
    parser.addini(
        "equiv_profile", "profile to run the laws of equiv in; also tells the plugin that this project uses it"
    )


def _is_used(config: pytest.Config) -> bool:
    given = any(config.getoption(f"equiv_{name}") is not None for name in (*_OPTIONS, "isolate"))
    return given or bool(config.getini("equiv_profile"))


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import torch: one thread in each xdist worker, where several each would fight."""
    if "PYTEST_XDIST_WORKER" in os.environ and _is_used(early_config):
        _use_one_thread()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the options on, and look after the run, if this project uses the package."""
    asking = Asking(config)
    config.pluginmanager.register(asking, "equiv-asking")
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
    report = config.getoption("equiv_report")
    if report is not None and not hasattr(config, "workerinput"):
        check_report(report)
    config.pluginmanager.register(_Run(config), "equiv-run")
    config.pluginmanager.register(Reporting(config, report, asking), "equiv-report")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the options as they were: a run inside another one must not change it. No process is left."""
    if config.stash.get(_BEFORE, None) and "equiv.laws" in sys.modules:
        sys.modules["equiv.laws"].close_shared_pool()
    for name, value in config.stash.get(_BEFORE, {}).items():
        setattr(options, name, value)


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _read_options(config: pytest.Config) -> None:
    from equiv.laws import MODES, PROFILES, limits_of, read_case
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
    limits = limits_of(
        {f"--equiv-{name}": given[name] for name in ("timeout", "memory")},
        isolate=bool(config.getoption("equiv_isolate")),
        switch="--equiv-isolate",
    )
    options.isolate = limits is not None
    options.timeout, options.memory = (None, None) if limits is None else (limits.timeout, limits.memory)
    options.case = given["case"]
    if options.case is not None:
        read_case(options.case, argument="--equiv-case")
    dtypes, devices = given["dtypes"], given["devices"]
    options.dtypes = None if dtypes is None else tuple(parse_dtypes("--equiv-dtypes", _words(dtypes)))
    options.devices = Options.devices if devices is None else _devices(devices)


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
        self.workers = getattr(config.option, "numprocesses", None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_header(self) -> str:
        """One line: what is tested, with what."""
        import torch

        threads = "1 thread a worker" if self.workers else f"{torch.get_num_threads()} threads"
        capability = torch.backends.cpu.get_cpu_capability()
        place = ", ".join(options.devices)
        return f"equiv: profile {options.profile}, torch {torch.__version__}, {threads}, {capability}, on {place}"
