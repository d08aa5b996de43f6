"""``equiv backends``: which there are by name, what each serves, and what it computes in.

Each is asked in a process of its own: one that crashes or hangs is named, and the others are listed.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from equiv.backends import FORMS, Backend, Plugin, load_backend, measure_form, plugins
from equiv.cli.measure import row_of
from equiv.dtypes import DTYPES, FLOATS, dtype_name
from equiv.errors import EquivError
from equiv.laws import refusal_of
from equiv.report import STDOUT, write_json
from equiv.report.terminal import Page
from equiv.text import counted, quoted

TIMEOUT = 120.0
"""Seconds that a backend has to answer."""

_SHAPE, _BATCH, _OUTPUTS = (2, 4, 4), (4, 4), 64
_ABILITIES = ("empty_batches", "single_samples", "layouts", "stride", "dilation", "padding", "groups")


def show(names: Sequence[str], *, quick: bool, json: str | None) -> None:
    """Ask every backend, or those that are named, say what each answers, and write it as JSON."""
    chosen = _chosen(names)
    page = Page(stderr=json == STDOUT)
    found = []
    for text, plugin in chosen:
        one = _facts(plugin)
        is_slow = getattr(plugin.maker, "slow", False) and not names
        if not quick and one["installed"]:
            one |= {"left_out": f"it compiles for a long time: `equiv backends {text}`"} if is_slow else _ask(text)
        found.append(one)
        if not quick:
            _say(page, text, one)
    if quick:
        page.lines([f"{one['name']}: {_state(one)}. {one['summary']}" for one in found], hanging="  ")
    if json is not None:
        write_json({"schema": 1, "backends": found}, json)


def _chosen(names: Sequence[str]) -> list[tuple[str, Plugin]]:
    """What was typed, or every name, with the plugin of each."""
    known = plugins()
    chosen = []
    for text in names or known:
        name = text.partition("?")[0]
        if name not in known:
            load_backend(text, argument="NAME")  # which says what is wrong
        chosen.append((text, known[name]))
    return chosen


def _facts(plugin: Plugin) -> dict[str, Any]:
    """What is known without running it."""
    return {
        "name": plugin.name,
        "from": plugin.distribution,
        "summary": plugin.summary,
        "installed": not plugin.missing,
        "versions": plugin.versions,
        "install": plugin.install if plugin.missing else "",
        "parameters": {name: str(default) for name, (_, default) in plugin.parameters.items()},
    }


def _ask(text: str) -> dict[str, Any]:
    """What a backend serves and computes in, found out in another process; or how that ended."""
    context: Any = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(text, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(TIMEOUT):
            return {"problem": f"it gave no answer in {TIMEOUT:g} s"}
        answer: dict[str, Any] = here.recv()
    except EOFError:
        process.join(5.0)
        return {"problem": _ended(process.exitcode)}
    finally:
        process.kill()
        process.join(5.0)
    return answer


def _ended(code: int | None) -> str:
    with suppress(ValueError, TypeError):
        return f"it crashed with {signal.Signals(-(code or 0)).name}"
    return f"it ended with exit code {code}"


def _answer(text: str, link: Any) -> None:
    """In the other process."""
    try:
        backend = load_backend(text)
        found = {"backend": backend.name, "serves": _serves(backend), "computes_in": _computes_in(backend)}
    except EquivError as error:
        found = {"problem": quoted(error)}
    except Exception as error:
        found = {"problem": f"it raises {type(error).__name__}: {quoted(error, 300)}"}
    link.send(found)


def _serves(backend: Backend) -> dict[str, Any]:
    """Dtypes by form, and what the convolutions of the first of them take; found by asking with tiny calls."""
    dtypes = {
        form: [dtype_name(one) for one in DTYPES if refusal_of(backend, "dtypes", form, one, one) is None]
        for form in FORMS
    }
    form = "full" if dtypes["full"] else "linear"
    first = getattr(torch, dtypes[form][0]) if dtypes[form] else torch.float32
    orders = (order for order in (2, 1) if refusal_of(backend, "gradient_order", form, first, order) is None)
    return {
        "dtypes": dtypes,
        "spatial_ranks": [one for one in (1, 2, 3) if refusal_of(backend, "spatial_ranks", "full", first, one) is None]
        if dtypes["full"]
        else [],
        "gradient_order": next(orders, 0),
        **{name: refusal_of(backend, name, form, first) is None for name in _ABILITIES},
    }


def _computes_in(backend: Backend) -> list[dict[str, Any]]:
    """What each form of each floating dtype is measured to compute in."""
    found = []
    for dtype in FLOATS:
        for form in FORMS:
            if refusal_of(backend, "dtypes", form, dtype, dtype) is None:
                sizes: dict[str, Any] = {"out_features": _OUTPUTS, "feature_shape": _SHAPE, "batch_shape": _BATCH}
                try:
                    one = measure_form(backend, form, dtype=dtype, **sizes, order_limit=64).to_dict()
                except EquivError as error:  # it computes something else
                    one = {"dtype": dtype_name(dtype), "problem": quoted(error, 200)}
                found.append({"form": form, "layout": form, **one})
    return found


# --- what is said -----------------------------------------------------------------------------------------------------


def _state(one: dict[str, Any]) -> str:
    if not one["installed"]:
        return f"not installed; {one['install']}"
    return ", ".join(f"{name} {number}" for name, number in one["versions"].items())


def _say(page: Page, text: str, one: dict[str, Any]) -> None:
    page.heading(f"{text}: {_state(one)}")
    lines = [one["summary"]]
    if one["parameters"]:
        lines.append("parameters: " + ", ".join(f"{name}={default}" for name, default in one["parameters"].items()))
    lines += [one[name] for name in ("left_out", "problem") if name in one]
    lines += _served_lines(one["serves"]) if "serves" in one else []
    page.lines(lines, hanging="  ")
    if "computes_in" not in one:
        return
    rows = [row_of(each) for each in one["computes_in"] if "problem" not in each]
    if rows:
        size = f"{math.prod(_BATCH)} rows, {_OUTPUTS} outputs, map {'x'.join(map(str, _SHAPE))}"
        page.prose(f"Measured at {size}; see `equiv env --measure` for the columns:")
        page.table(("dtype", "form", "bits", "product", "flushed", "spread", "bias", "order", "depth"), rows, left=2)
    weaker = [
        f"{each['dtype']} {each['form']}: {words}"
        for each in one["computes_in"]
        for words in each.get("discrepancies", [each.get("problem")])
    ]
    if weaker:
        page.lines([f"{counted(len(weaker), 'finding')}, weaker than declared:", *weaker], hanging="  ")


def _served_lines(serves: dict[str, Any]) -> list[str]:
    dtypes = serves["dtypes"]
    same = dtypes["full"] == dtypes["pointwise"]
    named = {
        "linear": dtypes["linear"],
        **({"convolutions": dtypes["full"]} if same else {k: dtypes[k] for k in FORMS[1:]}),
    }
    lines = [f"{form}: {', '.join(one) or 'none'}" for form, one in named.items()]
    able = [name.replace("_", " ") for name in _ABILITIES if serves[name]]
    not_able = [name.replace("_", " ") for name in _ABILITIES if not serves[name]]
    lines.append(f"serves: {', '.join(able) or 'none of these'}; not: {', '.join(not_able) or 'nothing'}")
    ranks = ", ".join(map(str, serves["spatial_ranks"])) or "none"
    lines.append(f"maps of rank {ranks}; gradients of order {serves['gradient_order']}")
    return lines
