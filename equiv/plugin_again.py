"""How pytest sees the failure of a law again: its command, its program, and its case in pytest's cache.

A case that failed is tried first when its test runs the next time, whichever cases would be drawn, and forgotten when
it passes. Imports neither torch nor hypothesis; a test that is no law costs one look at its parameters.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Generator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from _pytest._code.code import ExceptionRepr

from equiv._options import kept, options
from equiv.plugin_asked import is_law
from equiv.plugin_options import Given

_CACHE = "equiv/failed"  # {node id: case}
_RESULT = pytest.StashKey[Any]()


class Again:
    """One object for each run of pytest.

    Raises:
        pytest.UsageError: The folder for programs cannot be written to.
    """

    def __init__(self, config: pytest.Config, witnesses: Given) -> None:
        self.config = config
        self.is_worker = hasattr(config, "workerinput")
        folder = witnesses.text
        self.folder = None if folder is None else Path(folder).absolute()
        if self.folder is not None and not self.is_worker:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.folder.joinpath(".written").touch()
                self.folder.joinpath(".written").unlink()
            except OSError as error:
                raise pytest.UsageError(
                    f"{witnesses.where}: expected a folder that can be written to, got {folder!r} ({error.strerror}); "
                    "name another one"
                ) from error

    @cached_property
    def failed(self) -> dict[str, str]:
        """By node id, the case that failed: of pytest's cache, which xdist's workers are handed by the controller."""
        if self.is_worker:
            return dict(self.config.workerinput.get(_CACHE, {}))  # type: ignore[attr-defined]
        cache = getattr(self.config, "cache", None)
        found = None if cache is None else cache.get(_CACHE, {})
        entries = found.items() if isinstance(found, dict) else ()
        return {str(node): case for node, case in entries if isinstance(case, str)}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker of xdist is about to start."""
        node.workerinput[_CACHE] = self.failed

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Hand over the case that failed, and give a failure its command."""
        if "equiv.testing" not in sys.modules or not is_law(item):
            return (yield)
        listeners, broken = sys.modules["equiv.laws"].listeners, sys.modules["equiv.testing"].LawBroken
        check = item.callspec.params["law"]  # type: ignore[attr-defined]

        def listen(result: Any) -> None:
            failure = result.failure
            if failure is not None and failure.attempt is not None:
                result.failure = replace(failure, command=self._command(item, failure.attempt))
            before = item.stash.get(_RESULT, None)
            item.stash[_RESULT] = result if before is None or before.failure is None else before

        kept.update(self._case_of(item, check.id))
        listeners.insert(0, listen)
        try:
            return (yield)
        except broken as error:
            error.with_program = False  # it has a section of its own in the report
            raise
        finally:
            listeners.remove(listen)
            kept.pop(check.id, None)

    def _case_of(self, item: pytest.Item, check: str) -> dict[str, str]:
        case = self.failed.get(item.nodeid)
        try:
            if case is not None:
                sys.modules["equiv.laws"].read_case(case)
                return {check: case}
        except ValueError:  # of another version
            pass
        return {}

    def _command(self, item: pytest.Item, attempt: Any) -> str:
        path = os.path.relpath(item.path, self.config.invocation_params.dir)
        node = "::".join([path, *item.nodeid.split("::")[1:]])
        words = ["pytest", node, *attempt.options("--equiv-")]
        if options.isolate:
            limits = sys.modules["equiv.laws"].Limits(options.timeout, options.memory)
            words += limits.options.replace("--", "--equiv-").split()
        if options.devices != ("cpu",):
            words += ["--equiv-devices", ",".join(options.devices)]
        if self.config.getoption("inifilename", None):
            words += ["-c", str(self.config.getoption("inifilename"))]
        return shlex.join(words)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show the program in a section of its own, and attach what the controller keeps."""
        report = yield
        result = item.stash.get(_RESULT, None)
        if call.when != "call" or result is None:
            return report
        del item.stash[_RESULT]
        failure, travels = result.failure, None
        if failure is not None:
            names = ("stored", "snippet", "summary", "command")
            travels = {name: getattr(failure, name) for name in names} | {"item": result.item}
        if failure is None and result.expected is not None:
            return report  # the case of an expected failure is kept as long as it is on the list
        vars(report)["equiv_failed"] = travels
        error = None if call.excinfo is None else call.excinfo.value
        if isinstance(error, sys.modules["equiv.testing"].LawBroken) and isinstance(report.longrepr, ExceptionRepr):
            if failure.snippet:
                report.longrepr.addsection("equiv witness", failure.snippet, "-")
            if report.longrepr.reprcrash is not None:
                report.longrepr.reprcrash.message = str(error)  # begins with the sentence, not the name of the class
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the case of a failure, forget that of a law that holds, and write the program."""
        if self.is_worker or not hasattr(report, "equiv_failed"):
            return
        failure = report.equiv_failed
        case = None if failure is None else failure["stored"]
        if self.failed.get(report.nodeid) != case:
            self.failed.pop(report.nodeid, None)
            self.failed.update({} if case is None else {report.nodeid: case})
            if getattr(self.config, "cache", None) is not None:
                self.config.cache.set(_CACHE, self.failed)
        if self.folder is not None and report.failed and failure is not None and failure["snippet"]:
            head = f"# {failure['summary']}\n# again: {failure['command']}\n"
            self.folder.joinpath(f"{failure['item']}.py").write_text(f"{head}{failure['snippet']}\n", encoding="utf-8")
