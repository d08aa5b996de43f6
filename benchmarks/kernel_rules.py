"""Which faults `check_kernel` finds, and which the rules by which benchmarks accept machine-written kernels.

    nice python benchmarks/kernel_rules.py --json rules.json --table docs/kernel-rules.md         # an hour, 1 core
    nice python benchmarks/kernel_rules.py --only 'timer-*,zeros-returned' --json few.json        # names or patterns

Each fault of `equiv.testing.faults` is put into torch's linear and convolutions, in the first dtype that it names, and

- the laws that `equiv.testing.check_kernel` asks are tried on these four functions: those that the fault names first,
  then the others, in the profile of CI, or in the deep one where the fault needs it;
- the harnesses of `_kernel_harnesses.py` call the same functions as KernelBench, BackendBench, robust-kbench,
  FlashInfer-Bench and GPU MODE do, and compare by their rules, up to the first that is red.

Then the same with legal variants, which nobody may refuse: of these every harness is run to its end, and every law with
4 cases. Mistakes in mappings are no faults of kernels, and left out. What is done is kept in the JSON file, and an
interrupted run goes on there. The exit code is 1 where the laws miss a fault that is not among
`equiv.testing.faults.SURVIVORS`, or refuse a variant.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import _common
import torch
from _kernel_harnesses import HARNESSES, READ_IN_THE_SOURCE
from torch.nn import functional

from equiv.backends import Capabilities
from equiv.dtypes import BY_NAME
from equiv.testing import Kernels, faults
from equiv.text import first_line

BEGIN, END = "<!-- results of kernel_rules.py -->", "<!-- end of the results -->"
LAWS, LEGAL_EXAMPLES, SEED = "check_kernel", 4, 0
NO_FORWARD = ("gradient", "transform", "mapping")  # kinds whose faults a forward call does not show

Cell = dict[str, Any]


def kernels() -> Kernels:
    """The functions of torch, looked up at each call."""

    def conv(name: str) -> Any:
        return lambda input, weight, bias=None, **options: getattr(functional, name)(input, weight, bias, **options)

    def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return functional.linear(input, weight, bias)

    convs = {name: conv(name) for name in ("conv1d", "conv2d", "conv3d")}
    return Kernels(linear=linear, **convs, name="kernel", capabilities=Capabilities(transforms=True))


def laws_on(name: str) -> Cell:
    """The first law that a fault or variant breaks."""
    is_fault = name in faults.FAULTS
    how: dict[str, Any] = {"seed": SEED, "backend": kernels(), "dtypes": [dtype_of(name)]}
    start = perf_counter()
    if is_fault:
        fault = faults.FAULTS[name]
        how["profile"] = "deep" if fault.profile == "deep" else "gate"
        found = faults.find(name, laws=fault.laws, **how)
        if found is None and name not in faults.SURVIVORS:
            found = faults.find(name, **how, examples=None if fault.profile != "deep" else 100)
    else:
        found = faults.find(name, profile="gate", examples=LEGAL_EXAMPLES, **how)
    by = "" if found is None or found.failure is None else f"{found.law}, {found.failure.form}: {found.failure.note}"
    return {"red": found is not None, "by": by[:200], "seconds": round(perf_counter() - start, 2)}


def harness_on(name: str, harness: str) -> Cell:
    """The comparison at which a benchmark is red, of all those that it makes."""
    is_fault = name in faults.FAULTS
    entry = faults.FAULTS[name] if is_fault else faults.VARIANTS[name]
    start, count, red, by = perf_counter(), 0, 0, ""
    with entry.applied():
        try:
            for is_red in HARNESSES[harness](BY_NAME[dtype_of(name)]):
                count += 1
                red += is_red
                by = by or (f"comparison {count}" if is_red else "")
                if red and is_fault:
                    break
        except Exception as error:
            red, by = 1, f"raises {type(error).__name__}: {first_line(error, 80)}"
    if not red and name in READ_IN_THE_SOURCE.get(harness, ()):
        red, by = 1, "its source, or its speed"
    return {"red": bool(red), "by": by, "cases": count, "seconds": round(perf_counter() - start, 2)}


def work(name: str, oracle: str) -> Cell:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return laws_on(name) if oracle == LAWS else harness_on(name, oracle)


def ended(*_: str) -> Cell:
    return {"red": False, "by": "torch ended the process", "seconds": 0.0, "died": True}


def dtype_of(name: str) -> str:
    entry: Any = faults.FAULTS[name] if name in faults.FAULTS else faults.VARIANTS[name]
    return entry.dtypes[0] if entry.dtypes else "float32"


def names(only: str) -> list[str]:
    """Every third fault of kernels, then the variants, then the others: an early end leaves a fair sample.

    Those that only deep runs reach, which take minutes each, come last.
    """
    every = [fault for fault in faults.FAULTS.values() if fault.kind != "mapping"]
    kernel, deep = ([one.name for one in every if (one.profile == "deep") is is_deep] for is_deep in (False, True))
    patterns = only.split(",")
    order = (*kernel[::3], *faults.VARIANTS, *kernel[1::3], *kernel[2::3], *deep)
    return [name for name in order if any(fnmatch.fnmatch(name, one) for one in patterns)]


# --- the table --------------------------------------------------------------------------------------------------------


def table(cells: dict[str, dict[str, Cell]]) -> str:
    oracles = (LAWS, *HARNESSES)
    known = {name: found for name, found in cells.items() if all(oracle in found for oracle in oracles)}
    on_faults = [name for name in faults.FAULTS if name in known]
    legal = [name for name in faults.VARIANTS if name in known]
    forward = [name for name in on_faults if faults.FAULTS[name].kind not in NO_FORWARD]
    cheats = [name for name in on_faults if faults.FAULTS[name].kind == "cheat"]

    def count(some: list[str], *which: str) -> str:
        return f"{sum(any(known[name][one]['red'] for one in which) for name in some)} of {len(some)}"

    lines = [
        "| who | all faults of kernels | of these forward | of these cheats | legal variants refused |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, which in (*((one, (one,)) for one in oracles), ("the five benchmarks together", tuple(HARNESSES))):
        lines.append(f"| {title} | {' | '.join(count(some, *which) for some in (on_faults, forward, cheats, legal))} |")
    lines += ["", *_details("fault", known, on_faults), "", *_details("legal variant", known, legal)]
    return "\n".join(lines) + "\n"


def _details(what: str, known: dict[str, dict[str, Cell]], some: list[str]) -> list[str]:
    oracles = (LAWS, *HARNESSES)
    lines = [
        f"<details><summary>Every {what}</summary>",
        "",
        f"| {what} | {' | '.join(oracles)} |",
        f"|---|{'---|' * len(oracles)}",
    ]
    for name in some:
        marks = [_mark(known[name][oracle], is_law=oracle == LAWS) for oracle in oracles]
        lines.append(f"| `{name}` | {' | '.join(marks)} |")
    return [*lines, "", "</details>"]


def _mark(cell: Cell, *, is_law: bool) -> str:
    if cell.get("died"):
        return "!"
    if not cell["red"]:
        return "-"
    return cell["by"].partition(":")[0].partition(",")[0] if is_law or not cell["by"].startswith("comp") else "found"


def write_table(path: Path, text: str) -> None:
    """Put the table between the markers of a page that has them; else the page is the table."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if BEGIN in page and END in page:
        text = f"{page.split(BEGIN)[0]}{BEGIN}\n\n{text}\n{END}{page.split(END, 1)[1]}"
    path.write_text(text, encoding="utf-8")


def opened(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {"versions": _common.versions(), "cells": {}}
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def save(path: Path | None, state: dict[str, Any]) -> None:
    cells = ",\n".join(f"{json.dumps(name)}: {json.dumps(cell)}" for name, cell in state["cells"].items())
    _common.write_whole(path, f'{{"versions": {json.dumps(state["versions"])}, "cells": {{\n{cells}\n}}}}\n')


def main() -> int:
    parser = _common.parser(__doc__)
    parser.add_argument("--only", default="*", help="names or patterns, with commas between")
    parser.add_argument("--json", type=Path, help="keeps what is done, and takes up what is there")
    parser.add_argument("--table", type=Path, help="a Markdown page; replaced between its markers if it has them")
    options: argparse.Namespace = parser.parse_args()
    state, wrong = opened(options.json), []
    chosen = names(options.only)
    with _common.Worker(work, ended) as worker:
        for number, name in enumerate(chosen, start=1):
            cell = state["cells"].setdefault(name, {})
            for oracle in (LAWS, *HARNESSES):
                if oracle not in cell:
                    cell[oracle] = worker.do(name, oracle)
            save(options.json, state)
            found = ", ".join(one for one in (LAWS, *HARNESSES) if cell[one]["red"])
            print(f"{number}/{len(chosen)} {name}: {found or 'nobody'}; {cell[LAWS]['by']}", flush=True)
            is_fault = name in faults.FAULTS
            wanted = is_fault and name not in faults.SURVIVORS
            if cell[LAWS]["red"] is not wanted and not cell[LAWS].get("died"):
                wrong.append(name)
    text = table(state["cells"])
    print(f"\n{text}\nnot as they must be: {', '.join(wrong) or 'none'}")
    if options.table is not None:
        write_table(options.table, text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
