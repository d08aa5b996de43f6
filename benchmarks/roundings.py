"""Count misrounded kernels that pass, and right ones that do not. Exits with 1 if a right one is called DIFFERENT.

    python benchmarks/roundings.py --kernels 100                # of each kind, compare
    python benchmarks/roundings.py --kernels 100 --functions    # assert_equivalent, on inputs of its own

Kernels of 16-bit layers of 1 to 4,096 features and 256 outputs, with and without a bias, in eight wrong roundings and
in right ones, each in one of several orders, the bias apart in half of them (``tests/helpers/rounding_kernels.py``). A
wrong kernel that gives what a right one gives is counted as ``same``: nobody can tell them apart. Right ones alone get
sums that cancel, down to where the order of summation decides about more than the rounding does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import _common
import rounding_kernels as kernels
import torch
from torch import Tensor, nn

from equiv import NotEquivalent, Outcome, Verdict, assert_equivalent, compare

DTYPES = (torch.float16, torch.bfloat16)
FEATURES = (1, 2, 3, 5, 16, 64, 300, 1024, 4096)
SHAPES = ((8, 32), (16, 16), (1, 256), (256, 1), (64, 8))  # rows, outputs
VALUES = ("normals", "positive", "integers", "equal", "sorted", "heavy tails")
Layer = tuple[Tensor, Tensor, "Tensor | None"]


def values(kind: str, shape: tuple[int, int], g: torch.Generator) -> Tensor:
    """Values of a kind, ``(rows, n)``."""
    rows, n = shape
    normal = torch.randn(shape, generator=g)
    if kind == "cancelling":
        pairs = torch.stack([normal, -normal], 2).flatten(1)[:, :n]
        return pairs * torch.where(torch.arange(n) % 7 == 0, 1.01, 1.0)
    made = {
        "positive": lambda: torch.rand(shape, generator=g),
        "integers": lambda: torch.randint(-40, 41, shape, generator=g).float(),
        "equal": lambda: torch.rand(rows, 1, generator=g).expand(shape),
        "sorted": lambda: normal.sort(1).values,
        "heavy tails": lambda: normal * torch.randn(shape, generator=g).exp(),
    }
    return made[kind]() if kind in made else normal / n**0.5


def layers(name: str, count: int) -> Iterator[tuple[int, Layer]]:
    """Layers with their number, of every kind of values; integers where ties are looked for: some sums are ties."""
    kinds = {"ties away": ("integers",), "to nearest": (*VALUES, "cancelling")}.get(name, VALUES)
    for i in range(count):
        g = torch.Generator().manual_seed(i)
        dtype, n, (rows, outputs) = DTYPES[i % 2], FEATURES[i // 2 % len(FEATURES)], SHAPES[i % len(SHAPES)]
        first, second = kinds[i % len(kinds)], kinds[i // 3 % len(kinds)]
        x, w = values(first, (rows, n), g), values(second, (outputs, n), g)
        b = values(second, (outputs, 1), g)[:, 0].to(dtype) if i // 4 % 2 else None
        yield i, (x.to(dtype), w.to(dtype), b)


def arranged(i: int, rounding: kernels.Rounding, bias: Tensor | None) -> kernels.Kernel:
    """The i-th kernel with this rounding."""
    order = list(kernels.ORDERS)[i % len(kernels.ORDERS)]
    accumulator = torch.float64 if i % 7 == 0 else torch.float32
    return kernels.kernel(order, rounding, apart=bias is not None and i % 2 == 1, accumulator=accumulator)


def of_results(kernel: kernels.Kernel, layer: Layer) -> Verdict:
    """What ``compare`` finds."""
    x, w, b = layer
    return compare(kernel(x, w, b), kernels.kernel("pairwise")(x, w, b), input=x, weight=w, bias=b)


def of_function(kernel: kernels.Kernel, layer: Layer) -> Verdict | None:
    """What ``assert_equivalent`` finds; None where it passes."""
    _, w, b = layer
    linear = nn.Linear(w.shape[1], w.shape[0], bias=b is not None, dtype=w.dtype)
    with torch.no_grad():
        linear.weight.copy_(w)
        if b is not None:
            linear.bias.copy_(b)
    try:
        assert_equivalent(lambda x: kernel(x, w, b), linear)
    except NotEquivalent as error:
        return error.verdict
    return None


def main(given: list[str] | None = None) -> int:
    parser = _common.parser(__doc__)
    parser.add_argument("--kernels", type=int, default=20, help="of each rounding")
    parser.add_argument("--functions", action="store_true", help="judge functions with assert_equivalent")
    asked, start = parser.parse_args(given), time.perf_counter()
    table = _common.Table({"rounding": "20", "kernels": ">9", "same": ">7", "DIFFERENT": ">11", "named": ">8"})
    judge, false = of_function if asked.functions else of_results, 0
    for name, rounding in {**kernels.WRONG, "to nearest": kernels.nearest}.items():
        same = different = named = 0
        for i, layer in layers(name, asked.kernels):
            kernel, right = (arranged(i, each, layer[2]) for each in (rounding, kernels.nearest))
            is_wrong = rounding is not kernels.nearest
            if is_wrong and not asked.functions and torch.equal(kernel(*layer), right(*layer)):
                same += 1
                continue
            verdict = judge(kernel, layer)
            found = verdict is not None and verdict.outcome is Outcome.DIFFERENT
            different += found
            named += found and verdict.cause is not None and verdict.cause.name.startswith("rounding-")
            if found != is_wrong:
                n, (rows, outputs) = layer[0].shape[1], (len(layer[0]), len(layer[1]))
                print(f"  {name}: kernel {i}, {layer[0].dtype}, {n} features, {rows} rows, {outputs} outputs")
            false += found and not is_wrong
        table.row(name, asked.kernels, same, different, named)
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if false else 0


if __name__ == "__main__":
    sys.exit(main())
