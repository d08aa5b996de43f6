"""The pytest plugin: options, a header line. What to run is in ``equiv.testing``, reports in ``equiv.plugin_report``.

It is loaded in every project where the package is installed, so it imports neither torch nor hypothesis and does
nothing unless an ``--equiv-*`` option or an ini option ``equiv_*`` asks for it. How a failure is seen again, which
holds for every test that is a law, is in ``equiv.plugin_again``; expected failures are in ``equiv.plugin_xfails``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from typing import Any

import pytest

from equiv._options import options
from equiv.errors import EquivError
from equiv.plugin_again import Again
from equiv.plugin_asked import Asking, law_of
from equiv.plugin_options import OPTIONS, given, is_used, kind_of_ini, read_options
from equiv.plugin_report import Reporting, check_reports
from equiv.plugin_xfails import XfailsOfRun, pin, refuse_settings

_BEFORE = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--equiv-*``, and an ini option ``equiv_*`` for each."""
    group = parser.getgroup("equiv", "equiv: is this convolution the same function as that fully connected layer?")
    for name, (metavar, text) in OPTIONS.items():
        group.addoption(f"--equiv-{name}", metavar=metavar, help=text)
        parser.addini(f"equiv_{name}", f"as --equiv-{name}: {text}", type=kind_of_ini(metavar), default=None)
    text = "run each law in a worker process with limits: a crash or a hang fails one test"
    group.addoption("--equiv-isolate", action="store_const", const=True, help=text)
    parser.addini("equiv_isolate", f"as --equiv-isolate: {text}", type="bool", default=False)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest can import torch: one thread in each xdist worker, where several each would fight."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    try:
        asked = given(early_config)
    except EquivError as error:
        raise pytest.UsageError(str(error)) from error
    if is_used(early_config, asked):
        _use_one_thread()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the options on, and look after the run, if this project uses the package."""
    try:
        _configure(config)
    except EquivError as error:
        raise pytest.UsageError(str(error)) from error


def _configure(config: pytest.Config) -> None:
    asked = given(config)
    asking = Asking(config)
    config.pluginmanager.register(asking, "equiv-asking")
    config.pluginmanager.register(Again(config, asked["witnesses"]), "equiv-again")
    if not is_used(config, asked):
        return
    if hasattr(config, "workerinput"):
        _use_one_thread()
    config.stash[_BEFORE] = {field.name: getattr(options, field.name) for field in fields(options)}
    read_options(config, asked)
    reports = {name: asked[key] for name, key in (("json", "report"), ("html", "html")) if asked[key].text is not None}
    targets = {name: str(one.text) for name, one in reports.items()}
    if not hasattr(config, "workerinput"):
        check_reports(targets, options={name: one.where for name, one in reports.items()})
    config.pluginmanager.register(_Run(config), "equiv-run")
    config.pluginmanager.register(Reporting(config, targets, asking), "equiv-report")
    if options.xfails:
        config.pluginmanager.register(XfailsOfRun(str(asked["xfails"].text)), "equiv-xfails")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the options as they were: a run inside another one must not change it. No process is left."""
    if config.stash.get(_BEFORE, None) and "equiv.laws" in sys.modules:
        sys.modules["equiv.laws"].close_shared_pool()
    for name, value in config.stash.get(_BEFORE, {}).items():
        setattr(options, name, value)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An expected failure whose failing case is kept must fail on it."""
    pin(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before Hypothesis itself can complain: its decorators do not reach the laws."""
    if law_of(item) is not None:
        refuse_settings(item)


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


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
