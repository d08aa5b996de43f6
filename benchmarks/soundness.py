"""Count the outputs of torch's own kernels that leave the envelope: none may. Exits with 1 if one does.

    python benchmarks/soundness.py --outputs 10_000_000                     # every dtype and kind, three forms
    python benchmarks/soundness.py --outputs 100_000_000 --state s.json     # stop it, start it again: it goes on
    python benchmarks/soundness.py --show --state s.json                    # judge the tightest cases once more
    python benchmarks/soundness.py --search --dtypes float32 --examples 500 # Hypothesis looks for the tightest case

Every floating dtype, every kind of values that ``equiv.strategies`` draws, and the three forms, on layers of 1 to 2,048
features; against references in float64, for float64 in double-double. ``worst`` is the largest error as a fraction of
its envelope, of outputs of at least eight terms: with one term the envelope is the rounding itself. The case that it
came from is kept with the counts: it is made again from dtype, kind, turn and seed, or from a recipe where the search
found it. The search hands ``worst`` to ``hypothesis.target``, which draws neighbours of the cases that score highest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import _common
import torch
from _timing import versions
from hypothesis import Phase, target
from torch import Tensor

from equiv import strategies
from equiv.backends import FORMS, TorchEager
from equiv.laws import Call, known_defect
from equiv.numerics import Reference, declared
from equiv.strategies import FINITE_KINDS, KINDS, Case, Values, cases

DTYPES = ("float32", "float64", "bfloat16", "float16")
SHAPES = (  # eleven, and thirteen below: no factor in common with the periods of sizes, partners and biases
    *((1, 1, 1), (2, 2, 2), (3, 1, 1), (16, 4, 4), (1, 3, 5), (4, 2, 2)),
    *((31, 1, 1), (9, 3, 3), (3, 5, 7), (2, 4, 4), (7, 1, 1)),
)
WIDE_SHAPES = (*SHAPES, (64, 4, 4), (32, 8, 8))  # beyond what double-double does quickly
SIZES = ((64, 96), (2, 512), (128, 33), (32, 128))  # rows, outputs
FEWEST_TERMS = 8
SAVED_EVERY = 20.0  # seconds


@dataclass
class Tight:
    """The output that comes closest to its envelope's edge: ``ratio``, and what makes its case again."""

    ratio: float = 0.0
    form: str = ""
    index: tuple[int, ...] = ()
    terms: int = 0
    turn: int | None = None
    seed: int | None = None
    recipe: str | None = None


@dataclass
class Cell:
    """What was counted for one dtype and one kind of values."""

    outputs: int = 0
    violations: int = 0
    undecided: int = 0
    turns: int = 0
    tight: Tight = field(default_factory=Tight)

    def add(self, other: Cell) -> None:
        """Count another cell in."""
        self.outputs += other.outputs
        self.violations += other.violations
        self.undecided += other.undecided
        self.turns += other.turns
        if other.tight.ratio > self.tight.ratio:
            self.tight = other.tight

    def figures(self) -> tuple[float, ...]:
        """As the table has them."""
        return self.outputs, self.violations, self.undecided, self.tight.ratio

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Cell:
        """From the state file."""
        return cls(**{**stored, "tight": Tight(**stored["tight"])})


Cells = dict[tuple[str, str], Cell]


def layer(dtype: torch.dtype, kind: str, turn: int, seed: int) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]:
    """Input ``(N, n)``, weight ``(O, n)``, bias or None, and the feature shape of one turn."""
    shapes = SHAPES if dtype in (torch.float64, torch.complex128) else WIDE_SHAPES
    shape = shapes[turn % len(shapes)]
    rows, outputs = SIZES[turn % len(SIZES)]
    n = math.prod(shape)
    if n > 512:
        rows, outputs = 32, 64
    x = Values(kind, seed).tensor((rows, n), dtype)
    partner = kind if turn % 2 else "normals"
    if kind == "cancelling":
        partner = "repeated"  # equal weights on neighbours, so that the sums cancel
    w = Values("normals" if kind in ("specials", "near_overflow") else partner, seed + 1).tensor((outputs, n), dtype)
    if kind == "near_overflow" and turn % 4:
        w = w / (2 * n)  # most sums stay finite
    if kind == "specials" and n > 8:
        x[:, 2:] = x[:, 2:].nan_to_num(0.0, 1.0, -1.0)  # else almost every output is NaN
    bias = Values(kind, seed + 2).tensor((outputs,), dtype) if turn % 3 else None
    return x, w, bias, shape


def run(backend: TorchEager, form: str, x: Tensor, w: Tensor, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """One form's result ``(N, O)``."""
    if form == "linear":
        if len(x) % 4 == 0 and len(x):  # strided and of rank 3: the path that rounds the bias apart
            pairs = x.view(-1, 2, x.shape[1]).transpose(0, 1).contiguous().transpose(0, 1)
            return backend.linear(pairs, w, bias).reshape(len(x), -1)
        return backend.linear(x, w, bias)
    call = _call(form, x, w, bias, shape)
    return backend.conv(call.input, call.weight, bias).flatten(1)


def _call(form: str, x: Tensor, w: Tensor, bias: Tensor | None, shape: tuple[int, ...]) -> Call:
    rank = {"linear": (x.shape[1],), "full": shape, "pointwise": (x.shape[1], 1, 1)}[form]
    return Call(form, x.view(-1, *rank), w.view(-1, *rank), bias)


def judge(backend: TorchEager, x: Tensor, w: Tensor, bias: Tensor | None, shape: tuple[int, ...]) -> Cell:
    """One layer in all forms."""
    reference, cell = Reference(x, w, bias), Cell(turns=1)
    for form in FORMS:
        found = reference.assess(run(backend, form, x, w, bias, shape), declared(x.dtype, "cpu", form))
        counted = found.inside & ~found.undecided & (found.terms >= FEWEST_TERMS)
        ratio = torch.where(counted, found.ratio, 0.0)
        cell.outputs += found.inside.numel()
        wrong = int((~found.inside).sum())
        if wrong and known_defect(_call(form, x, w, bias, shape), None) is not None:  # torch itself is wrong here
            cell.undecided += wrong
            continue
        cell.violations += wrong
        cell.undecided += int(found.undecided.sum())
        if ratio.numel() and float(ratio.max()) > cell.tight.ratio:
            index = divmod(int(ratio.argmax()), ratio.shape[1])
            cell.tight = Tight(float(ratio[index]), form, index, int(found.terms[index]))
    return cell


def judge_case(backend: TorchEager, case: Case) -> Cell:
    """A case that Hypothesis drew, in all forms."""
    shape = (*case.feature_shape, 1, 1)[:4]
    return judge(backend, case.x.reshape(-1, case.weight.shape[1]), case.weight, case.bias, shape)


def count(backend: TorchEager, dtype: str, kind: str, turn: int, seed: int) -> Cell:
    """One turn; a violation is said at once, with what makes it again."""
    cell = judge(backend, *layer(getattr(torch, dtype), kind, turn, seed))
    cell.tight.turn, cell.tight.seed = turn, seed
    if cell.violations:
        print(f"VIOLATION: {cell.violations} of {dtype} {kind}, turn {turn}, seed {seed}", flush=True)
    return cell


# --- the search -------------------------------------------------------------------------------------------------------


def search(backend: TorchEager, dtype: str, kind: str, examples: int, seed: int) -> Cell:
    """The tightest of this many cases of one kind of values, neighbours of tight ones preferred."""
    total = Cell()
    drawn = cases(dtype=getattr(torch, dtype), kinds=(kind,), layouts=False, allow_empty=False, max_work=2**16)

    def score(case: Case) -> None:
        cell = judge_case(backend, case)
        cell.tight.recipe = repr(case.recipe)
        if cell.violations:
            print(f"VIOLATION: {cell.violations} of {case!r}", flush=True)
        total.add(cell)
        target(cell.tight.ratio)

    phases = (Phase.generate, Phase.target)
    _common.under_hypothesis(drawn, score, examples, seed=seed, phases=phases)()
    return total


# --- what is kept -----------------------------------------------------------------------------------------------------


def load(path: Path | None, seed: int) -> Cells:
    """The cells of a state file made on the same torch and seed, or none."""
    if path is None or not path.exists():
        return {}
    stored = json.loads(path.read_text())
    for name, wanted in (("torch", torch.__version__), ("seed", seed)):
        if stored[name] != wanted:
            raise SystemExit(
                f"--state: expected a file of {name} {wanted}, got {stored[name]} in {path}; choose another"
            )
    return {(entry.pop("dtype"), entry.pop("kind")): Cell.of(entry) for entry in stored["cells"]}


def save(path: Path | None, seed: int, cells: Cells) -> None:
    """Keep the counts in the state file, if there is one."""
    entries = [{"dtype": dtype, "kind": kind, **asdict(cell)} for (dtype, kind), cell in cells.items()]
    state = {"torch": torch.__version__, "seed": seed, "cells": entries}
    _common.write_whole(path, json.dumps(state, indent=1))


def again(backend: TorchEager, dtype: str, kind: str, tight: Tight) -> float:
    """The ratio of a kept case, made and judged once more."""
    if tight.recipe is not None:
        case: Case = strategies.build_case(eval(tight.recipe, {"torch": torch, **vars(strategies)}))
        return judge_case(backend, case).tight.ratio
    if tight.turn is None or tight.seed is None:
        return 0.0
    return judge(backend, *layer(getattr(torch, dtype), kind, tight.turn, tight.seed)).tight.ratio


def show(backend: TorchEager, cells: Cells) -> bool:
    """Every kept case, judged once more; whether each has the ratio that was kept."""
    right = True
    for (dtype, kind), cell in cells.items():
        if not cell.tight.ratio:
            continue
        found = again(backend, dtype, kind, cell.tight)
        right &= found == cell.tight.ratio
        made = cell.tight.recipe or f"turn {cell.tight.turn}, seed {cell.tight.seed}"
        where = f"{cell.tight.form} at {tuple(cell.tight.index)}, {cell.tight.terms} terms"
        print(f"{dtype:<10}{kind:<16}{cell.tight.ratio:.4f} again {found:.4f}  {where}; {made}")
    return right


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = _common.parser(__doc__)
    parser.add_argument("--outputs", type=int, default=1_000_000, help="how many to judge, in all")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=[*DTYPES, "complex64", "complex128"])
    parser.add_argument("--kinds", nargs="+", default=None, choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="JSON file that the counts and tightest cases are kept in")
    parser.add_argument("--search", action="store_true", help="look for the tightest cases with hypothesis.target")
    parser.add_argument("--examples", type=int, default=300, help="of the search, for each dtype and kind")
    parser.add_argument("--show", action="store_true", help="judge the kept cases once more, and nothing else")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    asked, backend, start = arguments(given), TorchEager(), time.perf_counter()
    cells = load(asked.state, asked.seed)
    if asked.show:
        return 0 if show(backend, cells) else 1
    wanted = [(d, k) for d in asked.dtypes for k in asked.kinds or (FINITE_KINDS if asked.search else KINDS)]
    print(versions())
    counts = {"outputs": ">13,", "violations": ">12,", "undecided": ">12,"}
    table = _common.Table({"dtype": "12", "kind": "16", **counts, "worst": ">9.4f"})
    stopped, saved = False, time.perf_counter()
    try:
        with torch.no_grad():
            for dtype, kind in wanted:
                cell = cells.setdefault((dtype, kind), Cell())
                if asked.search:
                    found = search(backend, dtype, kind, asked.examples, asked.seed)
                    found.turns = 0  # turns count what --outputs goes on from
                    cell.add(found)
                while not asked.search and cell.outputs < -(-asked.outputs // len(wanted)):
                    cell.add(count(backend, dtype, kind, cell.turns, asked.seed + 3 * cell.turns))
                    if time.perf_counter() - saved > SAVED_EVERY:
                        save(asked.state, asked.seed, cells)
                        saved = time.perf_counter()
                table.row(dtype, kind, *cell.figures())
                if asked.search and cell.tight.recipe:
                    print(f"{'':12}{cell.tight.form} at {tuple(cell.tight.index)}: {cell.tight.recipe}", flush=True)
    except KeyboardInterrupt:
        stopped = True
    save(asked.state, asked.seed, cells)
    total = Cell()
    for cell in cells.values():
        total.add(cell)
    table.row("total", "", *total.figures())
    seconds = f"{time.perf_counter() - start:.0f} s"
    kept = f"; the same command goes on from {asked.state}" if asked.state else ""
    print(f"stopped after {seconds}{kept}" if stopped else seconds)
    return 130 if stopped else 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main())
