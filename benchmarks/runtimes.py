"""Cases a second of backends against bare calls of the same runtime, in the same run and in turns.

A case is a dense layer or the convolution that it is, of one of three sizes. Through the backend it goes from tensors
to a tensor; the bare call runs the same kept program on what that takes. Building programs is timed apart.

    python benchmarks/runtimes.py numpy onnxruntime openvino
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import _timing
import torch
from torch import Tensor

from equiv.backends import load_backend
from equiv.backends.runtimes.arrays import ArrayRuntime, as_array
from equiv.backends.runtimes.layers import Layer, LayerRuntime
from equiv.errors import EquivError

ROUNDS = 7
SIZES = ((1, 8, 3, 6), (16, 64, 8, 8), (64, 128, 16, 12))  # rows, outputs, channels, width of the map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["torch", "torch.vmap", "numpy", "onnxruntime", "openvino"])
    parser.add_argument("--calls", type=int, default=200, help="in a round")
    given = parser.parse_args()
    print(_timing.versions())
    print(f"{'backend':<40}{'built':>6}{'s each':>8}{'bare/s':>10}{'backend/s':>11}{'times':>7}")
    for name in given.names:
        try:
            row(name, given.calls)
        except EquivError as error:
            print(f"{name:<40}  {error}")


def row(name: str, calls: int) -> None:
    """One backend: how long its programs take to build, and calls a second, bare and through the backend."""
    backend = load_backend(name)
    cases = [case for size in SIZES for case in made(*size)]
    start = time.perf_counter()
    for layer, tensors in cases:
        called(backend, layer, tensors)
    building = time.perf_counter() - start
    bare = [bare_call(backend, layer, tensors) for layer, tensors in cases]
    through = [lambda layer=layer, tensors=tensors: called(backend, layer, tensors) for layer, tensors in cases]
    times: dict[str, list[float]] = {"bare": [], "through": []}
    for _ in range(ROUNDS):  # in turns, so that both meet the same load
        for which, functions in (("bare", bare), ("through", through)):
            times[which].append(timed(functions, calls))
    slow, fast = (calls / min(times[which]) for which in ("through", "bare"))
    built = getattr(backend, "built", 0)
    each = building / built if built else 0.0
    print(f"{name:<40}{built:>6}{each:>8.3f}{fast:>10,.0f}{slow:>11,.0f}{fast / slow:>7.2f}")


def made(rows: int, outputs: int, channels: int, width: int) -> list[tuple[Layer, tuple[Tensor, ...]]]:
    """A dense layer and the convolution that it is, with values."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, channels, width, width, generator=generator) for n in (rows, outputs))
    bias = torch.randn(outputs, generator=generator)
    return [(Layer.of(*given), given) for given in ((x.flatten(1), weight.flatten(1), bias), (x, weight, bias))]


def called(backend: Any, layer: Layer, tensors: tuple[Tensor, ...]) -> Tensor:
    return backend.conv(*tensors) if layer.dims else backend.linear(*tensors)


def bare_call(backend: Any, layer: Layer, tensors: tuple[Tensor, ...]) -> Callable[[], Any]:
    """The program alone, on what it takes; torch's own function where the backend has no programs."""
    if not isinstance(backend, LayerRuntime):
        return lambda: layer.function(*tensors)
    program = backend.program(layer)
    given = tuple(map(as_array, tensors)) if isinstance(backend, ArrayRuntime) else tensors
    return lambda: program(*given)


def timed(functions: list[Callable[[], Any]], calls: int) -> float:
    start = time.perf_counter()
    for i in range(calls):
        functions[i % len(functions)]()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
