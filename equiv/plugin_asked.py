"""What a pytest run did not ask of backends: said after collection, skipped with the reason, and never a pass.

Imports nothing of the package before a project does.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

LEFT_OUT = "equiv.left_out"
_PREFIX = "equiv: not asked: "
_NOTHING_ASKED = 2  # the exit code
_WAS_ASKED = pytest.StashKey[bool]()


def law_of(item: pytest.Item) -> Any:
    """The :class:`equiv.testing.Check` of a test from ``parametrize_with_laws``; None of any other."""
    callspec = getattr(item, "callspec", None)
    check = None if callspec is None else callspec.params.get("law")
    return check if hasattr(check, "item") else None


def is_law(item: pytest.Item) -> bool:
    """Whether a test is one law in one dtype, from ``equiv.testing.parametrize_with_laws``."""
    return law_of(item) is not None


class Asking:
    """One object for each run, on workers too. ``left_out`` is what backends declare not to serve: no test is of it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.is_worker = config, hasattr(config, "workerinput")
        self.left_out: list[Any] = []
        self.answers: set[bool] = set()

    # -- what is no test ---------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)  # before the terminal's, which prints the lines
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """A worker, which collects all tests, tells the controller."""
        laws = [item.callspec.params.get("law") for item in session.items if hasattr(item, "callspec")]
        found = (one for law in laws for one in getattr(law, "not_asked", ()))
        self.left_out = list(dict.fromkeys(found))
        if self.is_worker and self.left_out:
            self.config.workeroutput[LEFT_OUT] = [dict(vars(one)) for one in self.left_out]  # type: ignore[attr-defined]

    @pytest.hookimpl(trylast=True)
    def pytest_report_collectionfinish(self) -> list[str]:
        """Lines below the number of tests."""
        if not self.left_out:
            return []
        from equiv.report import not_asked_lines

        return [f"equiv: {line}" for line in not_asked_lines(self.left_out)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        told = getattr(node, "workeroutput", {}).get(LEFT_OUT)
        if told and not self.left_out:
            from equiv.laws import NotAsked

            self.left_out = [NotAsked(**one) for one in told]

    # -- what is a test, and asked nothing ---------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Skip a test whose checks were all not asked, since the backend serves nothing of them."""
        if "equiv.testing" not in sys.modules:
            return (yield)
        results: list[Any] = []
        called = sys.modules["equiv.testing"].called
        before, called[:] = called[:], [results.append]  # a run inside this one has its own
        try:
            outcome = yield
        except pytest.skip.Exception as skipped:
            if str(skipped.msg).startswith(_PREFIX):
                item.stash[_WAS_ASKED] = False
            raise
        finally:
            called[:] = before
            if results:
                item.stash[_WAS_ASKED] = any(result.outcome != "not asked" for result in results)
        if results and not item.stash[_WAS_ASKED]:
            reasons = dict.fromkeys(f"{one.what}: {one.reason}" for result in results for one in result.not_asked)
            raise pytest.skip.Exception(_PREFIX + "; ".join(reasons))
        return outcome

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """The report says whether laws were asked: it travels from workers to the controller."""
        report = yield
        if call.when == "call" and _WAS_ASKED in item.stash:
            report.equiv_asked = item.stash[_WAS_ASKED]
        return report

    # -- on the controller -------------------------------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember whether any law was asked."""
        answer = getattr(report, "equiv_asked", None)
        self.answers |= set() if answer is None else {answer}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run of laws that asked nothing has exit code 2, unless something else has failed."""
        if self.answers == {False} and not self.is_worker and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = _NOTHING_ASKED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say so."""
        if self.answers == {False} and not self.is_worker:
            text = "equiv: nothing was asked: every law of this run was skipped, so that it says nothing of a backend"
            terminalreporter.line(f"{text}; see -rs for why", red=True)
