"""How a pytest run is reported: results travel from workers, reach JUnit files as JSON, and the report at once.

Every item of the laws comes to something in the report: what its test returned, or why it was skipped or did not run.
Imports neither torch nor hypothesis before there is a run to report.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping
from dataclasses import fields
from typing import Any

import pytest

from equiv._options import options
from equiv.errors import EquivError
from equiv.plugin_asked import Asking, is_law

RESULT, PLAN = "equiv.result", "equiv.planned"
_FLAT = ("law", "form", "dtype", "backend", "outcome")
_UNWRITTEN = 2  # the exit code
_STOPPED = {
    pytest.ExitCode.INTERRUPTED: "interrupted",
    pytest.ExitCode.INTERNAL_ERROR: "error",
    pytest.ExitCode.USAGE_ERROR: "error",
}

_RESULTS = pytest.StashKey[list[dict[str, Any]]]()


def check_reports(targets: Mapping[str, str], *, options: Mapping[str, str]) -> None:
    """Leave pytest with exit code 2 before anything is run if a report, by format, cannot be written."""
    from equiv.report import check_targets, is_stdout
    from equiv.text import shown

    try:
        for name, target in targets.items():
            folder = os.path.dirname(os.path.abspath(target))
            if not is_stdout(target) and (os.path.isdir(target) or not os.path.isdir(folder)):
                raise EquivError(
                    f"{options[name]}: expected a file in a folder that exists, or - for standard output, got "
                    f"{shown(target, 120)}; create the folder, or name a file in one"
                )
        check_targets(targets, options=options)
    except EquivError as error:
        pytest.exit(str(error), returncode=_UNWRITTEN)


class Reporting:
    """One object for each run, so that runs inside runs stay apart. ``targets`` are files of reports by format."""

    def __init__(self, config: pytest.Config, targets: Mapping[str, str], asking: Asking) -> None:
        from equiv.report import Journal, Request

        self.config, self.targets, self.asking = config, targets, asking
        self.is_worker = hasattr(config, "workerinput")
        self.planned: dict[str, str] = {}
        self.untold = self.is_worker
        asked = {field.name: getattr(options, field.name) for field in fields(Request) if hasattr(options, field.name)}
        self.journal = Journal(
            Request(**asked),
            {} if self.is_worker else targets,
            jobs=int(getattr(config.option, "numprocesses", None) or 1),
            options={"json": "--equiv-report", "html": "--equiv-html"},
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Where a report goes to standard output, pytest itself writes to standard error."""
        from equiv.report import is_stdout

        taken = any(map(is_stdout, self.targets.values()))
        if taken and not self.is_worker and self.config.pluginmanager.hasplugin("terminalreporter"):
            self.config.get_terminal_writer()._file = sys.stderr

    # -- what is planned ---------------------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The laws that are to run; a worker, which collects all of them, tells the controller."""
        self._plan({item.nodeid: item.callspec.params["law"].id for item in session.items if is_law(item)})  # type: ignore[attr-defined]
        if self.is_worker:
            self.config.workeroutput[PLAN] = self.planned  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        self._plan(getattr(node, "workeroutput", {}).get(PLAN, {}))

    def _plan(self, found: Mapping[str, str]) -> None:
        if len(found) > len(self.planned):
            self.planned = dict(found)
            self._write_plan()

    def _write_plan(self) -> None:
        from equiv.report import NotAsked

        left_out = [NotAsked.of(vars(one)) for one in self.asking.left_out]
        self.journal.plan(list(self.planned.values()), left_out=left_out)

    # -- what came of it, where the tests run ------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Listen to the laws that a test runs."""
        if "equiv.laws" not in sys.modules or not is_law(item):
            return (yield)  # a test that runs laws of its own, such as on kernels that it knows to be broken
        listeners = sys.modules["equiv.laws"].listeners
        found: list[dict[str, Any]] = []
        item.stash[_RESULTS] = found

        def keep(result: Any) -> None:
            found.append(result.to_dict())

        listeners.append(keep)
        try:
            return (yield)
        finally:
            listeners.remove(keep)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach what came of an item to the report of its test, which travels to the controller and to JUnit files."""
        report = yield
        if is_law(item) and (report.when == "call" or (report.when == "setup" and not report.passed)):
            mine = self._properties(item.callspec.params["law"].id, item.stash.get(_RESULTS, []), report)  # type: ignore[attr-defined]
            item.user_properties[:] = [pair for pair in item.user_properties if not pair[0].startswith("equiv.")] + mine
            told = [(PLAN, json.dumps(self.planned))] if self.untold else []
            report.user_properties = [*item.user_properties, *told]
            self.untold = False
        return report

    @staticmethod
    def _properties(name: str, results: list[dict[str, Any]], report: pytest.TestReport) -> list[tuple[str, object]]:
        """Names and values, each value a JSON text: the items as in the report, and their places by themselves."""
        from equiv.report import Item
        from equiv.text import plain_json

        expected = getattr(report, "wasxfail", None)
        if results:
            found = [Item.of(one if one.get("expected") else {**one, "expected": expected}) for one in results]
        elif report.passed:
            found = [Item.without_result(name, reason="the test did not call the law")]
        else:
            found = [Item.without_result(name, "not asked" if report.skipped else "not run", _why(report))]
        pairs: list[tuple[str, object]] = []
        for one in found:
            texts = {key: json.dumps(value, allow_nan=False) for key, value in plain_json(one.to_dict()).items()}
            pairs += [(f"equiv.{key}", texts[key]) for key in _FLAT]
            pairs.append((RESULT, "{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}"))
        return pairs

    # -- on the controller -------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a result before anybody is told of it."""
        if self.is_worker or report.when == "teardown":
            return
        for name, value in report.user_properties:
            if name == PLAN:
                self._plan(json.loads(str(value)))
            elif name == RESULT:
                self.journal.add(json.loads(str(value)))
        if report.when not in ("setup", "call") and report.nodeid in self.planned:  # its worker died
            from equiv.report import Item

            self.journal.add(Item.without_result(self.planned[report.nodeid], reason=_why(report)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The report as it stays. A run whose report cannot be written has exit code 2."""
        if self.is_worker:
            return
        code = int(session.exitstatus)
        self._write_plan()  # workers have told what was left out
        self.journal.end(stopped=_STOPPED.get(session.exitstatus, ""), exit_code=code)  # type: ignore[call-overload]
        if self.journal.problem is not None:
            session.exitstatus = _UNWRITTEN

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A table by law, and where the report is."""
        from equiv.report import is_stdout, summary_lines

        if self.is_worker:
            return
        run = self.journal.run()
        if run.items:
            terminalreporter.section("equiv: laws", sep="-")
            for line in summary_lines(run):
                terminalreporter.line(line)
        if self.journal.problem is not None:
            terminalreporter.line(str(self.journal.problem), red=True)
        elif self.journal.kept:
            terminalreporter.line(f"no law has run, so it stays as it was: {', '.join(self.targets.values())}")
        else:
            for path in self.journal.paths:
                if not is_stdout(path):
                    terminalreporter.line(f"every result: {path}")


def _why(report: pytest.TestReport) -> str:
    """Why a test has no result, in one line."""
    from equiv.text import first_line, quoted

    if isinstance(report.longrepr, tuple):  # of what was skipped: path, line, message
        return quoted(str(report.longrepr[2]).removeprefix("Skipped: "))
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else str(report.longrepr or getattr(report, "wasxfail", ""))
    return first_line(Exception(message), 500)
