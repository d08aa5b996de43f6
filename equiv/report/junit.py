"""A run in the JUnit layout that continuous integration shows: a test case for each item."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

from equiv.laws import Failure
from equiv.report.model import Item, Run
from equiv.text import plain_json

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_of(run: Run) -> str:
    """A run as XML. An item that was not asked, or broken as expected, is skipped; one that did not run is an error."""
    items = [*(item for item in run.items if item.outcome != "not run"), *run.not_run]
    outcomes = [item.outcome for item in items]
    counts = {
        "tests": str(len(items)),
        "failures": str(outcomes.count("broken")),
        "errors": str(outcomes.count("not run")),
        "skipped": str(outcomes.count("not asked") + outcomes.count("expected")),
        "time": f"{run.seconds:.3f}",
    }
    top = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(top, "testsuite", {"name": "equiv", **counts})
    for item in items:
        _add(suite, item)
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(top, encoding="unicode") + "\n"


def _add(suite: ElementTree.Element, item: Item) -> None:
    place = {"classname": f"equiv.{item.backend}", "name": item.item, "time": f"{item.seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", {name: _legal(value) for name, value in place.items()})
    properties = ElementTree.SubElement(case, "properties")
    for name in ("law", "form", "dtype", "backend", "outcome"):
        value = json.dumps(plain_json(getattr(item, name)))
        ElementTree.SubElement(properties, "property", {"name": f"equiv.{name}", "value": _legal(value)})
    if item.outcome == "broken":
        failure = Failure.of(item.failure or {})
        found = ElementTree.SubElement(case, "failure", {"type": failure.kind, "message": _legal(failure.summary)})
        found.text = _legal(failure.details(100))
    elif item.outcome == "not run":
        ElementTree.SubElement(case, "error", {"message": _legal(item.reason or "it did not run")})
    elif item.outcome != "holds":
        ElementTree.SubElement(case, "skipped", {"message": _legal(item.expected or item.reason or item.outcome)})


def _legal(text: str) -> str:
    """Text without the characters that XML has no form for: they are shown escaped."""
    return _NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
