"""The pytest plugin: options, a header line, a summary by law. Thin: what to run is in ``equiv.testing``.

It is loaded in every project where the package is installed, so it imports neither torch nor hypothesis and does nothing
unless an ``--equiv-*`` option or the ini option ``equiv_profile`` asks for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from equiv._options import options
from equiv.errors import EquivError

_RESULTS = pytest.StashKey[list[dict[str, Any]]]()
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
        "--equiv-report", metavar="FILE.json", help="write every result and the coverage of conditions to a file"
    )
    parser.addini(
        "equiv_profile", "profile to run the laws of equiv in; also tells the plugin that this project uses it"
    )


def _is_used(config: pytest.Config) -> bool:
    given = (f"equiv_{name}" for name in ("profile", "devices", "dtypes", "examples", "seed", "report"))
    return bool(config.getini("equiv_profile")) or any(config.getoption(name) is not None for name in given)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import torch: one thread in each xdist worker, where several each would fight."""
    if "PYTEST_XDIST_WORKER" in os.environ and _is_used(early_config):
        _use_one_thread()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the options on."""
    config.stash[_RESULTS] = []
    if not _is_used(config):
        return
    if hasattr(config, "workerinput"):
        _use_one_thread()
    try:
        _read_options(config)
    except EquivError as error:
        raise pytest.UsageError(str(error)) from error


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _read_options(config: pytest.Config) -> None:
    profile = config.getoption("equiv_profile") or config.getini("equiv_profile") or "dev"
    options.profile = str(profile).removeprefix("equiv-")
    if options.profile not in ("dev", "gate", "deep"):
        raise EquivError(f"--equiv-profile: expected dev, gate or deep, got {profile!r}")
    options.examples = _number(config, "examples", 1)
    options.seed = _number(config, "seed", 0)
    if options.seed is None and config.getoption("hypothesis_seed", None) is not None:
        options.seed = int(config.getoption("hypothesis_seed"))
    options.dtypes = _dtypes(config)
    options.devices = _devices(config)
    report = config.getoption("equiv_report")
    if report is not None and not Path(report).absolute().parent.is_dir():
        raise EquivError(f"--equiv-report: expected a file in a folder that exists, got {report!r}")


def _number(config: pytest.Config, name: str, least: int) -> int | None:
    text = config.getoption(f"equiv_{name}")
    if text is None:
        return None
    if not str(text).isdecimal() or int(text) < least:
        raise EquivError(f"--equiv-{name}: expected an integer of at least {least}, got {text!r}")
    return int(text)


def _dtypes(config: pytest.Config) -> tuple[str, ...] | None:
    text = config.getoption("equiv_dtypes")
    if text is None:
        return None
    from equiv.laws.runner import WORDS

    wanted = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in wanted if word not in WORDS]
    if unknown or not wanted:
        raise EquivError(f"--equiv-dtypes: expected names among {', '.join(WORDS)}, got {text!r}")
    return wanted


def _devices(config: pytest.Config) -> tuple[str, ...]:
    text = config.getoption("equiv_devices")
    if text is None:
        return ("cpu",)
    from equiv.backends import TorchEager
    from equiv.strategies.dtypes import devices_present

    if text.strip() == "all":
        return tuple(str(device) for device in devices_present())
    wanted = tuple(word.strip() for word in text.split(",") if word.strip())
    if not wanted:
        raise EquivError(f"--equiv-devices: expected names such as cpu,cuda:0 or all, got {text!r}")
    for word in wanted:
        try:
            TorchEager(word)
        except EquivError as error:
            raise EquivError(f"--equiv-devices: {error}") from error
    return wanted


@pytest.hookimpl(tryfirst=True)
def pytest_report_header(config: pytest.Config) -> str | None:
    """One line: what is tested, with what."""
    if not _is_used(config):
        return None
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    workers = getattr(config.option, "numprocesses", None)
    threads = "1 thread a worker" if workers else f"{torch.get_num_threads()} threads"
    return f"equiv: profile {options.profile}, torch {torch.__version__}, {threads}, {capability}, on {', '.join(options.devices)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Attach the results of laws that a test ran to its report, which travels from workers to the controller."""
    if not _is_used(item.config) or "equiv.laws" not in sys.modules:
        return (yield)
    listeners = sys.modules["equiv.laws"].listeners

    def keep(result: Any) -> None:
        item.user_properties.append((_PROPERTY, result.to_dict()))

    listeners.append(keep)
    try:
        return (yield)
    finally:
        listeners.remove(keep)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect on the controller."""
    if report.when == "call" and _collected is not None:
        _collected.extend(value for name, value in report.user_properties if name == _PROPERTY)


_collected: list[dict[str, Any]] | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start collecting, unless this is a worker, whose reports reach the controller."""
    global _collected
    _collected = (
        None
        if hasattr(session.config, "workerinput") or not _is_used(session.config)
        else session.config.stash[_RESULTS]
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """A table by law, and the report file."""
    results = config.stash.get(_RESULTS, [])
    path = config.getoption("equiv_report")
    if path is not None and not hasattr(config, "workerinput"):
        from equiv.report.summary import report_of

        Path(path).write_text(json.dumps(report_of(results), indent=1) + "\n", encoding="utf-8")
    if not results:
        return
    from equiv.report.summary import summary_lines

    terminalreporter.section("equiv: laws", sep="-")
    for line in summary_lines(results):
        terminalreporter.line(line)
    if path is not None:
        terminalreporter.line(f"every result: {path}")
