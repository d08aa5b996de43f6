"""A report that was written as JSON, as the model of a run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from equiv.arguments import refusal
from equiv.environment import Environment
from equiv.errors import EquivError
from equiv.report.model import SCHEMA, Item, NotAsked, Request, Run
from equiv.text import quoted, shown

_EXPECTED = "a report of `equiv verify --json` or `pytest --equiv-report`"


def read_run(path: str, *, argument: str = "path") -> Run:
    """The run of a JSON file; of one that was stopped, what it had found until then.

    Raises:
        EquivError: There is no such file, or it holds no report of this version of equiv.

    Example:
        >>> import tempfile
        >>> from equiv.report import Journal, Request
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Journal(Request(), {"json": f"{folder}/run.json"}).plan(["exact-all-int8-mine"])
        ...     read_run(f"{folder}/run.json").not_run[0].law
        'exact'
    """
    if not isinstance(argument, str) or not argument.isprintable():
        raise refusal("argument", "a printable string", argument, "pass what messages call the file")
    if not isinstance(path, str):
        raise refusal(argument, _EXPECTED, path, "pass the name of its file")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or quoted(error, 100)
        raise EquivError(f"{argument}: expected {_EXPECTED}, got {shown(path)} ({reason}); name such a file") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA or "items" not in found:
        what = f"of schema {SCHEMA}, got {shown(path)} of schema {shown(schema)}"
        raise EquivError(f"{argument}: expected {_EXPECTED} {what}; make it with this version of equiv")
    try:
        return _run(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {quoted(error, 100)}"
        raise EquivError(f"{argument}: expected {_EXPECTED}, got {shown(path)} ({reason}); make it anew") from error


def _run(found: Mapping[str, Any]) -> Run:
    asked = {name: found[name] for name in ("profile", "examples", "seed", "arithmetic")}
    return Run(
        request=Request(devices=tuple(found["devices"]), **asked),
        environment=Environment(**{field.name: found[field.name] for field in fields(Environment)}),
        items=tuple(_item(one) for one in found["items"] if one["outcome"] != "not run" or one["reason"]),
        planned=tuple(found["planned"]),
        jobs=int(found["jobs"]),
        seconds=float(found["seconds"]),
        left_out=tuple(map(NotAsked.of, found["not_asked"])),
        stopped=found["status"] if found["status"] in ("interrupted", "error") else "",
        exit_code=found["exit_code"],
    )


def _item(found: Mapping[str, Any]) -> Item:
    """An item whose numbers are numbers again, where JSON has words for them."""
    forms = {form: {**tally, "max_ratio": float(tally["max_ratio"])} for form, tally in found["forms"].items()}
    failure = found["failure"]
    if failure is not None and failure.get("ratio") is not None:
        failure = {**failure, "ratio": float(failure["ratio"])}
    return replace(Item.of({**found, "forms": forms, "failure": failure}), form=found["form"])
