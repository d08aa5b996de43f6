"""``equiv verify --backend A --against B``: the same cases on two backends, every difference explained or a fault."""

from __future__ import annotations

import os
import platform
import warnings
from pathlib import Path
from typing import Any

import torch

from equiv.backends import Backend, graph_of
from equiv.cli import BROKEN, OK, stop_if_told
from equiv.errors import EquivError
from equiv.laws import OUTCOMES, Against, Fault, Pair, pairs_of, run_pair
from equiv.report import Request, is_stdout, ratio_text, write_bytes, write_json
from equiv.report.terminal import Page
from equiv.text import counted, shown

FOLDER = "equiv-witnesses"
_ROOMY = 100  # columns


def against(request: Request, backends: dict[str, Backend], *, folder: str = FOLDER, json: str | None = None) -> int:
    """Run what was asked for on both, say and write what came of it; the exit code.

    ``backends`` are two, by the name that was typed.
    """
    _check_folder(folder)
    first, second = backends.values()
    chosen: dict[str, Any] = {"laws": request.laws, "forms": request.forms, "dtypes": request.dtypes}
    pairs = pairs_of(first, second, **chosen)
    how: dict[str, Any] = {name: getattr(request, name) for name in ("profile", "examples", "seed", "arithmetic")}
    page, found, kept = Page(stderr=json is not None and is_stdout(json)), [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings are no findings
        for pair in pairs:
            stop_if_told()
            result = run_pair(pair, **how)
            found.append(result)
            kept += [_keep(fault, pair, result, folder) for fault in result.faults]
    _say(page, found, list(zip([fault for one in found for fault in one.faults], kept, strict=True)))
    page.prose(_summary(found, (first.name, second.name), request))
    if json is not None:
        write_json({"schema": 1, "backends": list(backends), "results": [one.to_dict() for one in found]}, json)
    if not any(one.pairs or one.faults for one in found):
        raise EquivError(f"--against: expected results that {first.name} and {second.name} both have, got none")
    return BROKEN if kept else OK


def _check_folder(folder: str) -> None:
    """Find out before the work that it can be a folder; nothing is made."""
    try:
        is_free = os.path.isdir(folder) or not os.path.lexists(folder)
        os.fsencode(folder)
    except ValueError as error:
        raise _no_folder(folder) from error
    if not folder or not is_free or "\0" in folder:
        raise _no_folder(folder)


def _no_folder(folder: str) -> EquivError:
    return EquivError(f"--witnesses: expected a folder that can be made, got {shown(folder)}; name another")


def _keep(fault: Fault, pair: Pair, result: Against, folder: str) -> str:
    """Write a fault as a program into the folder, with the graphs that it runs; the path of the program."""
    try:
        os.makedirs(folder, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _no_folder(folder) from error
    stem = f"{result.law}-{result.dtype}-{fault.side}"
    graphs = []
    for item in pair.items:
        graph = None if fault.call is None else graph_of(item.backend, fault.call)
        if graph is not None:
            graphs.append(f"{stem}-on-{item.backend.name}.onnx")
            write_bytes(graph, str(Path(folder, graphs[-1])), option="--witnesses")
    lines = [fault.failure.summary, "", f"torch {torch.__version__}, Python {platform.python_version()}."]
    lines += [f"{name} is the graph that is run; its inputs are input, weight and bias." for name in graphs]
    program = fault.script or fault.failure.snippet or f"raise NotImplementedError({fault.failure.case!r})"
    path = str(Path(folder, f"{stem}.py"))
    words = "\n".join(f"# {line}".rstrip() for line in lines)
    write_bytes(f"{words}\n\n{program}\n".encode(), path, option="--witnesses")
    return path


def _say(page: Page, found: list[Against], kept: list[tuple[Fault, str]]) -> None:
    """A row for each law and dtype; what is known of either backend; every fault, with the file of its program."""
    names = found[0].backends
    rows = []
    for one in found:
        counts = [f"{one.cases:,}", *(f"{one.outcomes[name]:,}" for name in OUTCOMES)]
        wrong = {name: sum(fault.side == name for fault in one.faults) for name in names}
        worst = [ratio_text(one.worst[name]) if not wrong[name] else "wrong" for name in names]
        rows.append([one.law, one.dtype, *counts, *worst])
    page.table(
        ["law", "dtype", "cases", *OUTCOMES, "first", "second"], rows, left=2, gap=2 if page.width >= _ROOMY else 1
    )
    page.prose(_legend(*names))
    for name in names:
        notes: dict[str, int] = {}
        for one in found:
            for note, count in one.notes[name].items():
                notes[note] = notes.get(note, 0) + count
        if notes:
            page.lines([f"{name}: {note} ({counted(count, 'time')})" for note, count in notes.items()], hanging="  ")
    for fault, path in kept:
        page.verbatim(fault.failure.render(page.prose_width))
        page.lines([f"witness: {path}"], indent="  ")


def _legend(first: str, second: str) -> str:
    return f"""identical: pairs of results with the same bits; a result is a whole tensor. rounding: pairs that differ,
        each inside the envelope of its own backend, the interval that correct arithmetic can reach in any order of
        summation: arithmetic explains the difference. undecided: pairs on which correct implementations may differ, as
        where a sum overflows in some orders only. finding: pairs of which one has a known defect of its runtime. first,
        second: the largest error of {first} and of {second} as a fraction of its envelope, whose edge is 1."""


def _summary(found: list[Against], names: tuple[str, str], request: Request) -> str:
    pairs, cases = sum(one.pairs for one in found), sum(one.cases for one in found)
    alike = sum(one.outcomes["identical"] for one in found)
    faults = [fault for one in found for fault in one.faults]
    wrong = {name: sum(fault.side == name for fault in faults) for name in names}
    if faults:
        head = " and ".join(f"{name} is wrong in {counted(count, 'law')}" for name, count in wrong.items() if count)
    else:
        head = f"{names[0]} and {names[1]} agree: every difference is explained"
    return f"""{head}. {counted(cases, "case")}, {counted(pairs, "pair")} of results, {alike:,} of them identical, in
        {sum(one.seconds for one in found):.1f} s. To repeat it: --seed {request.seed}"""
