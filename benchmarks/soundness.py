"""Count the outputs of torch's own kernels that leave the envelope: none may. Exits with 1 if one does.

Every floating dtype, every kind of values that ``equiv.strategies`` draws, and the three forms, on layers of 1 to 2,048
features; against references in float64, for float64 in double-double. ``worst`` is the largest error as a fraction of
its envelope, of outputs of at least eight terms: with one term the envelope is the rounding itself.

    python benchmarks/soundness.py --outputs 10_000_000
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from equiv.backends import FORMS, TorchEager
from equiv.numerics import Reference, declared
from equiv.strategies import KINDS, Values

DTYPES = ("float32", "float64", "bfloat16", "float16")
SHAPES = (  # eleven, and thirteen below: no factor in common with the periods of sizes, partners and biases
    (1, 1, 1),
    (2, 2, 2),
    (3, 1, 1),
    (16, 4, 4),
    (1, 3, 5),
    (4, 2, 2),
    (31, 1, 1),
    (9, 3, 3),
    (3, 5, 7),
    (2, 4, 4),
    (7, 1, 1),
)
WIDE_SHAPES = (*SHAPES, (64, 4, 4), (32, 8, 8))  # beyond what double-double does quickly
SIZES = ((64, 96), (2, 512), (128, 33), (32, 128))  # rows, outputs


@dataclass
class Cell:
    """What was counted for one dtype and one kind of values."""

    outputs: int = 0
    violations: int = 0
    undecided: int = 0
    worst: float = 0.0

    def add(self, other: Cell) -> None:
        """Count another cell in."""
        self.outputs += other.outputs
        self.violations += other.violations
        self.undecided += other.undecided
        self.worst = max(self.worst, other.worst)


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
        if len(x) % 4 == 0:  # strided and of rank 3: the path that rounds the bias apart
            pairs = x.view(-1, 2, x.shape[1]).transpose(0, 1).contiguous().transpose(0, 1)
            return backend.linear(pairs, w, bias).reshape(len(x), -1)
        return backend.linear(x, w, bias)
    rank = shape if form == "full" else (x.shape[1], 1, 1)
    return backend.conv(x.view(-1, *rank), w.view(-1, *rank), bias).flatten(1)


def count(backend: TorchEager, dtype: torch.dtype, kind: str, turn: int, seed: int) -> Cell:
    """One layer in all forms."""
    x, w, bias, shape = layer(dtype, kind, turn, seed)
    reference, cell = Reference(x, w, bias), Cell()
    for form in FORMS:
        found = reference.assess(run(backend, form, x, w, bias, shape), declared(dtype, "cpu", form))
        ratio = found.ratio[found.inside & (found.terms >= 8)]
        outside = int((~found.inside).sum())
        worst = float(ratio.max()) if ratio.numel() else 0.0
        cell.add(Cell(found.inside.numel(), outside, int(found.undecided.sum()), worst))
        if outside:
            print(f"VIOLATION: {outside} of {form} {dtype} {kind}, turn {turn}, seed {seed}", flush=True)
    return cell


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=1_000_000, help="how many to judge, in all")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=[*DTYPES, "complex64", "complex128"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    backend, start = TorchEager(), time.perf_counter()
    cells = {(dtype, kind): Cell() for dtype in given.dtypes for kind in given.kinds}
    each = -(-given.outputs // len(cells))
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)")
    print(f"{'dtype':<12}{'kind':<16}{'outputs':>12}{'violations':>12}{'undecided':>12}{'worst':>9}")
    total = Cell()
    with torch.no_grad():
        for (dtype, kind), cell in cells.items():
            turn = 0
            while cell.outputs < each:
                cell.add(count(backend, getattr(torch, dtype), kind, turn, given.seed + 3 * turn))
                turn += 1
            total.add(cell)
            print(row(dtype, kind, cell), flush=True)
    print(row("total", "", total))
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if total.violations else 0


def row(dtype: str, kind: str, cell: Cell) -> str:
    """One line of the table."""
    numbers = f"{cell.outputs:>12,}{cell.violations:>12,}{cell.undecided:>12,}{cell.worst:>9.4f}"
    return f"{dtype:<12}{kind:<16}{numbers}"


if __name__ == "__main__":
    raise SystemExit(main())
