"""What the plugin does about expectations: entries of ``--equiv-xfails`` about nothing, settings of another library."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from equiv._options import options
from equiv.plugin_asked import law_of

_OF_HYPOTHESIS = {
    "is_hypothesis_test": "given",
    "_hypothesis_internal_use_seed": "seed",  # which makes settings of its own
    "_hypothesis_internal_use_settings": "settings",
}


def refuse_settings(item: pytest.Item) -> None:
    """Fail a test of laws that Hypothesis' own decorators are on: they would change nothing."""
    test: Any = getattr(item, "obj", None)
    found = [name for attribute, name in _OF_HYPOTHESIS.items() if getattr(test, attribute, None) not in (None, False)]
    if found:
        pytest.fail(
            f"parametrize_with_laws: expected a test without decorators of Hypothesis, got @{found[0]}; the laws draw "
            "cases of their own: remove it, and pass profile=, examples= or seed= to parametrize_with_laws",
            pytrace=False,
        )


def pin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make the expected failures strict whose case that failed once is kept, and so is tried first in this run."""
    failed: dict[str, str] = getattr(config.pluginmanager.get_plugin("equiv-again"), "failed", {})
    for item in items if failed else ():
        check = law_of(item)
        if check is not None and check.expected is not None and check.strict and item.nodeid in failed:
            broken = sys.modules["equiv.testing"].LawBroken
            item.add_marker(pytest.mark.xfail(reason=check.expected, strict=True, raises=broken), append=False)


class XfailsOfRun:
    """Says at the end of a run which entries of its file are about no item that was collected."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries = list(options.xfails)
        self.met: set[str] | None = None  # None until something was collected
        self.ids: list[str] = []
        self.whole = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take down what was met: a worker tells the controller, which collects nothing itself."""
        self.ids = [check.id for check in map(law_of, session.items) if check is not None]
        self.met = set(options.xfails_met)
        self.whole = not _is_part(session.config)
        if hasattr(session.config, "workerinput"):
            session.config.workeroutput["equiv_xfails"] = (sorted(self.met), self.ids)  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        found = getattr(node, "workeroutput", {}).get("equiv_xfails")
        if found is not None:
            self.met, self.ids = {*(self.met or ()), *found[0]}, found[1]
            self.whole = not _is_part(node.config)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line for each entry about nothing, in a run that collects all tests."""
        if self.met is None or not self.whole or hasattr(terminalreporter.config, "workerinput"):
            return
        from equiv.testing import named

        for entry in (entry for entry in self.entries if entry not in self.met):
            terminalreporter.line(
                f"equiv: {self.path} names no item: {named(entry, self.ids)}; remove or correct it", yellow=True
            )


def _is_part(config: pytest.Config) -> bool:
    """Whether the run was asked for some files, tests or dtypes alone."""
    narrowed = config.args_source is pytest.Config.ArgsSource.ARGS and any(
        ".py" in argument or "::" in argument for argument in config.args
    )
    return narrowed or options.dtypes is not None or bool(config.getoption("lf", False))
