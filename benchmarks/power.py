"""The kill matrix: which faults the laws of equiv find, and which the rules find that people use instead.

    python benchmarks/power.py --json power.json --table power.md                          # half an hour, 1 core
    python benchmarks/power.py --every 1 --seeds 3 --json power.json ...                   # goes on from there: hours
    python benchmarks/power.py --only FAULT [FAULT ...] --json few.json                    # some faults or variants

Faults and legal variants come from `equiv.testing.faults`: every third fault in their order by default, and every
variant. Each is put in, in the first dtype that it names, and tried by
- the laws in the gate profile, all of them in the order of their numbers, up to the first broken one; then, where the
  gate found nothing, in the deep profile, with fewer cases than a night has;
- `torch.testing.assert_close`, the tolerances of onnxsim and NNSmith, PSNR > 60 dB, cosine > 0.99: each on random
  normal inputs and on the cases that the laws draw;
- a property test written by hand: 200 Hypothesis examples and a widened assert_close; its rule on our cases as well.

All rules compare each form's output and gradients of input, weight and bias with what the Linear gives in torch as it
is: a sound reference, which users of a broken library do not have. A fault counts as found where a rule is red that is
green without the fault on the same input. A false alarm is any red on torch as it is or on a legal variant. Left out
for the rules are references that are not finite, and comparisons where torch is known to be wrong. Seed 0 of the gate
is what CI runs. Exit code 2 if something cannot be done as asked.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _common
from _power_oracles import ORACLES
from _power_report import Cells, Column, Row, markdown, write_table
from _power_suites import UNBROKEN, Job, Mutant, dtype_of, worker

COLUMNS = [
    Column("gate", "equiv", "gate"),
    Column("deep", "equiv", "gate, deep"),
    *(Column("normal", name, name) for name in ORACLES if name != "widened"),
    Column("hypothesis", "widened", "Hypothesis suite"),
    *(Column("equiv", name, name) for name in ORACLES),
]
KEPT = ("examples", "deep_examples", "legal_examples", "cases", "by_hand", "catalogue")  # the same as in a kept file


class Misuse(Exception):  # noqa: N818 - what the command says before it ends with 2
    """Something asked for that cannot be done."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = _common.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults and variants alone")
    parser.add_argument("--every", type=int, default=3, help="try each K-th fault, from the first on; 1 for all")
    parser.add_argument("--examples", type=int, help="cases a law in the gate, instead of the profile's 80")
    parser.add_argument("--deep-examples", type=int, default=100, help="cases a law in deep; the profile's are 600")
    parser.add_argument(
        "--legal-examples", type=int, default=10, help="cases a law on legal variants, in gate and deep"
    )
    parser.add_argument("--cases", type=int, default=80, help="cases that every rule is given, from either source")
    parser.add_argument("--by-hand", type=int, default=200, help="examples of the property test written by hand")
    parser.add_argument("--json", type=Path, help="where the results are kept, and taken up again")
    parser.add_argument("--table", type=Path, help="a Markdown page; replaced between its markers if it has them")
    parser.add_argument("--catalogue", default="equiv.testing.faults", help="a module with FAULTS and VARIANTS")
    return parser.parse_args(given)


def checked(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """The faults and the legal variants asked for.

    Raises:
        Misuse: A number below 1, a name or module that does not exist.
    """
    for name in ("seeds", "every", "examples", "deep_examples", "legal_examples", "cases", "by_hand"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise Misuse(f"--{name.replace('_', '-')}: expected an integer of at least 1, got {value}")
    for name in ("json", "table"):
        path = getattr(options, name)
        if path is not None and not path.resolve().parent.is_dir():
            raise Misuse(f"--{name}: expected a file in a folder that exists, got {path}")
    try:
        catalogue = importlib.import_module(options.catalogue)
        faults, variants = catalogue.FAULTS, catalogue.VARIANTS
    except (ImportError, AttributeError) as error:
        raise Misuse(
            f"--catalogue: expected a module with FAULTS and VARIANTS, got {options.catalogue} ({error})"
        ) from error
    legal = {mutant.name: mutant for mutant in (*UNBROKEN, *variants.values())}
    unknown = [name for name in options.only or () if name not in faults and name not in legal]
    if unknown:
        raise Misuse(f"--only: expected names among {', '.join((*faults, *legal))}; got {unknown[0]!r}")
    wanted = set(options.only or (*list(faults)[:: options.every], *legal))
    return [f for f in faults.values() if f.name in wanted], [v for v in legal.values() if v.name in wanted]


def jobs(options: argparse.Namespace, faults: Sequence[Mutant], legal: Sequence[Mutant]) -> Iterator[Job]:
    """All there may be to do, those of one dtype after another."""
    counts = {
        "gate": options.examples,
        "deep": options.deep_examples,
        "normal": options.cases,
        "hypothesis": options.by_hand,
        "equiv": options.cases,
    }
    for seed in range(options.seeds):
        for mutant in sorted((*faults, *legal), key=dtype_of):
            for runner, count in counts.items():
                rules = tuple(c.oracle for c in COLUMNS if c.runner == runner and c.oracle in ORACLES)
                number = options.legal_examples if not rules and mutant in legal else count
                yield Job(runner, mutant.name, seed, number, rules, options.catalogue)


def run(todo: Sequence[Job], cells: Cells, faults: Sequence[Mutant]) -> Iterator[str]:
    """Fill in the cells of the jobs, and say each. What the gate finds is not looked for in deep."""
    on_faults = {fault.name for fault in faults}
    with worker() as process:
        for number, job in enumerate(todo, start=1):
            gate = cells.get(f"gate/{job.mutant}/{job.seed}", {}).get("equiv", {})
            if job.runner == "deep" and job.mutant in on_faults and gate.get("red"):
                continue
            found = cells[_key(job)] = process.do(job)
            said = ", ".join(f"{name} {_said(cell)}" for name, cell in found.items())
            yield f"{number}/{len(todo)} {job.mutant}, seed {job.seed}, {job.runner}: {said}"


def _key(job: Job) -> str:
    return f"{job.runner}/{job.mutant}/{job.seed}"


def _said(cell: dict[str, Any]) -> str:
    if cell["died"]:
        return "died: torch ended the process"
    if not cell["red"]:
        return f"green ({cell['cases']} cases)"
    return f"red at case {cell['examples']} ({cell['seconds']:.2f} s; {cell['by']})"


def opened(options: argparse.Namespace) -> dict[str, Any]:
    """The state to go on from.

    Raises:
        Misuse: The file is no state, or one of a run that was asked for something else.
    """
    asked = {name: getattr(options, name) for name in KEPT}
    if options.json is None or not options.json.exists():
        return {"asked": asked, "versions": _common.versions(), "cells": {}}
    try:
        state: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
        kept, _ = state["asked"], state["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise Misuse(f"--json: expected results of this command, got {options.json}; name another file") from error
    if kept != asked:
        raise Misuse(f"--json: {options.json} was made with {kept}, not with {asked}; name another file")
    return state


def save(path: Path | None, state: dict[str, Any]) -> None:
    """One line a cell."""
    head = {name: value for name, value in state.items() if name != "cells"}
    cells = ",\n".join(f"{json.dumps(key)}: {json.dumps(cell)}" for key, cell in state["cells"].items())
    _common.write_whole(path, f'{json.dumps(head)[:-1]}, "cells": {{\n{cells}\n}}}}\n')


def rows(mutants: Sequence[Mutant]) -> list[Row]:
    """As the table has them; a variant has no profile."""
    return [Row(m.name, m.title, dtype_of(m), getattr(m, "profile", "")) for m in mutants]


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    try:
        faults, legal = checked(options)
        state = opened(options)
    except Misuse as error:
        print(f"power.py: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    todo = [job for job in jobs(options, faults, legal) if _key(job) not in state["cells"]]
    for line in run(todo, state["cells"], faults):
        print(f"[{time.perf_counter() - start:5.0f} s] {line}", flush=True)
        save(options.json, state)
    cells, on_faults, on_legal = state["cells"], rows(faults), rows(legal)
    table = markdown(cells, COLUMNS, on_faults, on_legal, options.seeds)
    print(f"\n{table}")
    if options.table is not None:
        write_table(options.table, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
