"""What finds a hundred faults of real kernels, which were taken from bug reports by somebody who has not read the laws.

    python benchmarks/strangers.py --profile gate --json docs/results/strangers.json  # all faults, one after the other
    python benchmarks/strangers.py --only conv3d_contiguous                           # one of them, with its failure
    python benchmarks/strangers.py --legal --json docs/results/strangers.json         # right kernels: none may fail
    python benchmarks/strangers.py --prove                                            # each fault shows, and only there
    python benchmarks/strangers.py --json docs/results/strangers.json --page docs/strangers.md

Each runs in a process of its own, all laws in their order until one breaks, or until ``--limit`` seconds are over.
Where torch itself breaks the law, and in the very case that was found, the fault is not: ``torchs_own`` has it, and the
next law is tried. ``seconds`` are those until the law that found it had its smallest case.

A file that is given with ``--json`` is added to, so that a run can be done in pieces: ``--piece 1/4``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _common
import torch
from _strangers_base import FAULTS, Fault, Torch, prove

import equiv.testing

MODULES = ("layouts", "shapes", "tiles", "kernels", "precision", "numbers", "gradients", "state", "padding")


@dataclass(frozen=True)
class Right:
    """A kernel that is right: the fields of a fault that a run needs."""

    id: str
    dtype: str
    says: str
    make: Any
    dimension: str = "legal"
    source: str = ""


def is_torchs_own(backend: Any, check: equiv.testing.Check, case: str | None) -> bool:
    """Whether law and case break with the fault taken out as well: then it may be a defect of torch that was found.

    Both are asked, since a case that a fault breaks may shrink to one that torch breaks.
    """
    if case is None or not hasattr(backend, "control"):
        return False
    control = (backend.control or Torch)()
    control.capabilities, control.name = backend.capabilities, backend.name  # of which draws may depend
    how = {"laws": [check.item.law.id], "dtypes": [check.item.dtype], "profile": check.profile, "seed": check.seed}
    if equiv.testing.check_backend(control, examples=1, case=case, **how).holds:
        return False
    return not equiv.testing.check_backend(control, **how).holds


def laws_of(backend: Any, dtype: str, profile: str, seed: int, send: Any) -> None:
    """Run the laws in their order until one breaks that torch itself keeps in that case; what was found is sent."""
    begin, torchs = time.perf_counter(), []
    for one in equiv.testing.checks(backend, dtypes=[dtype]):
        check = replace(one, profile=profile, seed=seed)
        try:
            check()
        except equiv.testing.LawBroken as broken:
            law, seconds = check.item.law.id, round(time.perf_counter() - begin, 1)
            summary, failure = str(broken).partition("\n")[0], broken.result.failure
            if failure is not None and is_torchs_own(backend, check, failure.stored):
                torchs.append(f"{law}: {summary}")
                continue
            send.send({"found_by": law, "seconds": seconds, "summary": summary, "torchs_own": torchs})
            return
    send.send({"found_by": None, "seconds": round(time.perf_counter() - begin, 1), "torchs_own": torchs})


def in_process(one: Any, profile: str, seed: int, send: Any) -> None:
    torch.set_num_threads(1)
    try:
        complaint = prove(one) if isinstance(one, Fault) else ""
        if complaint:
            send.send({"found_by": None, "seconds": 0.0, "no_fault": complaint})
        elif profile:
            laws_of(one.make(), one.dtype, profile, seed, send)
        else:
            send.send({"found_by": None, "seconds": 0.0})
    except BaseException as error:
        send.send({"found_by": None, "seconds": 0.0, "error": f"{type(error).__name__}: {error}"[:300]})
        raise


def outcome(one: Any, profile: str, seed: int, limit: float) -> dict[str, Any]:
    """What one run in a process of its own says; ``over`` where it took longer than the limit."""
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(one, profile, seed, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(limit) else {"found_by": None, "seconds": limit, "over": True}
    except EOFError:
        found = {"found_by": None, "seconds": 0.0, "error": "the process died"}
    process.kill()
    process.join()
    return found


def told(found: dict[str, Any]) -> str:
    if "no_fault" in found or "error" in found:
        return found.get("no_fault") or found["error"]
    if found["found_by"]:
        return f"{found['found_by']} after {found['seconds']:.1f} s"
    return f"NOT FOUND in {found['seconds']:.1f} s{' (time limit)' if found.get('over') else ''}"


def keep(path: Path | None, kind: str, one: Any, found: dict[str, Any]) -> None:
    """Add one result to the file, which holds what other runs put there."""
    if path is None:
        return
    held = json.loads(path.read_text()) if path.exists() else {}
    held["versions"] = _common.versions()
    entry = {name: getattr(one, name) for name in ("dimension", "dtype", "source", "says")}
    held.setdefault(kind, {})[one.id] = {**entry, **found}
    path.write_text(json.dumps(held, indent=1) + "\n")


def page(held: dict[str, Any]) -> str:
    """The table and the totals of a file of results, as they stand in docs/strangers.md."""
    faults = held.get("faults", {})
    found = {key: one for key, one in faults.items() if one["found_by"]}
    how = {one["profile"] for one in faults.values()}
    lines = [f"{len(found)} of {len(faults)} faults are found ({', '.join(sorted(how))}).", ""]
    lines += ["| dimension | faults | found | not found |", "|---|---:|---:|---|"]
    for dimension, count in Counter(one["dimension"] for one in faults.values()).items():
        left = [key for key, one in faults.items() if one["dimension"] == dimension and not one["found_by"]]
        lines.append(f"| {dimension} | {count} | {count - len(left)} | {', '.join(left)} |")
    legal = held.get("legal", {})
    alarmed = {key: one for key, one in legal.items() if one["found_by"]}
    lines += ["", f"{len(legal) - len(alarmed)} of {len(legal)} right kernels pass."]
    lines += [f"- {key}: {one['found_by']}: {one['summary']}" for key, one in alarmed.items()]
    lines += ["", "| fault | dtype | what is wrong, and when | seen in | found by | s |", "|---|---|---|---|---|---:|"]
    for key, one in faults.items():
        by = one["found_by"] or ("time limit" if one.get("over") else "-")
        lines.append(f"| {key} | {one['dtype']} | {one['says']} | {one['source']} | {by} | {one['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def chosen(options: argparse.Namespace) -> list[Any]:
    for module in MODULES:
        importlib.import_module(f"_strangers_{module}")
    if options.legal:
        legal = importlib.import_module("_strangers_legal").LEGAL
        return [Right(*one) for one in legal if not options.only or one[0] in options.only]
    every = [one for one in FAULTS if not options.only or one.id in options.only]
    part, parts = map(int, options.piece.split("/"))
    return every[part - 1 :: parts]


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these alone")
    parser.add_argument("--profile", choices=("dev", "gate", "deep"), default="gate")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each fault that no earlier one found")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each run")
    parser.add_argument("--piece", default="1/1", help="every fourth fault from the first: 1/4")
    parser.add_argument("--legal", action="store_true", help="the right kernels, and not the faults")
    parser.add_argument("--prove", action="store_true", help="only show that each fault is one")
    parser.add_argument("--json", type=Path, help="a file to add the results to")
    parser.add_argument("--page", type=Path, help="put the table of --json into this page, and run nothing")
    options = parser.parse_args()
    if options.page:
        head = options.page.read_text().partition("<!-- results -->")[0]
        options.page.write_text(f"{head}<!-- results -->\n\n{page(json.loads(options.json.read_text()))}")
        return
    counts: Counter[str] = Counter()
    for one in chosen(options):
        profile = "" if options.prove else options.profile
        for seed in range(options.seeds):
            result = {**outcome(one, profile, seed, options.limit), "profile": options.profile, "seed": seed}
            if result["found_by"]:
                break
        wrong, right = ("error", "found" if result["found_by"] else "not found" if profile else "shown")
        counts[wrong if {"error", "no_fault"} & set(result) else right] += 1
        words = told(result) if profile or len(result) > 4 else "shown"
        print(f"{one.dimension:15}{one.id:32}{words}", flush=True)
        if options.only and "summary" in result:
            print(f"  {result['summary']}")
        if profile:
            keep(options.json, "legal" if options.legal else "faults", one, result)
    print(", ".join(f"{count} {word}" for word, count in counts.items()))


if __name__ == "__main__":
    main()
