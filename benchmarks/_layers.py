"""What a verdict and a conversion cost: against the operations that they are about, and in memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _common
import torch
from _timing import in_turn, median_ratio, resident
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import equiv

MAPS = ((16, (16, 4, 4), 64), (16, (64, 4, 4), 256), (16, (128, 7, 7), 1024))  # batch, feature shape, outputs
VGG = ((512, 7, 7), 4096)
MOST_SHARED = 0.01


def verdicts(repeats: int) -> None:
    """``compare`` against the two layers that it is about, and against ``assert_close``."""
    print("A verdict on a Linear and its full form in float32, milliseconds of processor time.")
    heads = {"layer": "26", "both layers": ">12.2f", "assert_close": ">14.2f", "compare": ">10.2f"}
    table = _common.Table({**heads, "compare / layers": ">18.1f"})
    for batch, shape, outputs in MAPS:
        linear = nn.Linear(int(torch.Size(shape).numel()), outputs)
        conv = equiv.linear_to_full_conv(linear, shape, share=True)
        x = torch.randn(batch, linear.in_features)
        with torch.no_grad():
            y, z = linear(x), conv(x.view(-1, *shape)).flatten(1)

            def layers(x=x, linear=linear, conv=conv, shape=shape) -> None:  # type: ignore[no-untyped-def]
                linear(x)
                conv(x.view(-1, *shape))

            found = in_turn(
                {
                    "layers": layers,
                    "close": lambda y=y, z=z: torch.testing.assert_close(z, y, rtol=1e-2, atol=1e-2),  # type: ignore[misc]
                    "compare": lambda y=y, z=z, x=x, linear=linear: equiv.compare(z, y, input=x, layer=linear),  # type: ignore[misc]
                },
                repeats,
            )
        ms = [1e3 * statistics.median(seconds) for seconds in found.values()]
        over = median_ratio(found["compare"], found["layers"])
        table.row(f"{linear.in_features} -> {outputs}, batch {batch}", *ms, over)


class Allocations(TorchDispatchMode):
    """Bytes of the storages that operations make, those on meta left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        made = function(*args, **(kwargs or {}))
        for t in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(t, torch.Tensor) and t.device.type != "meta" and t.untyped_storage()._cdata not in given:
                self.bytes += t.untyped_storage().nbytes()
        return made


def allocated(shape: tuple[int, ...], outputs: int, *, share: bool) -> float:
    """What a conversion allocates in tensors, in copies of the weights."""
    linear = nn.Linear(int(torch.Size(shape).numel()), outputs)
    equiv.linear_to_full_conv(nn.Linear(1, 1), (1,) * len(shape), share=share)  # what is made only once
    with Allocations() as made:
        conv = equiv.linear_to_full_conv(linear, shape, share=share)
    assert (conv.weight.data_ptr() == linear.weight.data_ptr()) is share
    return made.bytes / (linear.weight.numel() * linear.weight.element_size())


def grown(shape: tuple[int, ...], outputs: int, *, share: bool) -> float:
    """By how much a conversion raises this process's resident size, in copies of the weights; NaN without /proc."""
    linear = nn.Linear(int(torch.Size(shape).numel()), outputs)
    equiv.linear_to_full_conv(nn.Linear(1, 1), (1,) * len(shape), share=share)
    before = resident()
    conv = equiv.linear_to_full_conv(linear, shape, share=share)
    after = resident()
    assert conv.weight.shape == (outputs, *shape)
    return (after - before) / (linear.weight.numel() * linear.weight.element_size())


def conversion(repeats: int, shape: tuple[int, ...], outputs: int) -> bool:
    """Time and memory, shared and copied; each resident size from a process of its own. Whether sharing stays small."""
    n = int(torch.Size(shape).numel())
    linear = nn.Linear(n, outputs)
    print(f"\nLinear {n} -> {outputs} as its full convolution (weights: {4 * n * outputs / 2**20:,.0f} MiB)")
    heads = {"": "8", "ms": ">10.3f", "allocated": ">12.4f", "resident": ">10.4f"}
    table = _common.Table({**heads, "   in copies of the weights": ""})
    right = True
    for share in (True, False):
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            equiv.linear_to_full_conv(linear, shape, share=share)
            seconds.append(time.perf_counter() - start)
        tensors = allocated(shape, outputs, share=share)
        code = f"import _layers; print(_layers.grown({shape}, {outputs}, share={share}))"
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
        growth = float(child.stdout)
        table.row("shared" if share else "copied", 1e3 * statistics.median(seconds), tensors, growth)
        right &= not share or not (tensors > MOST_SHARED or growth > MOST_SHARED)
    print(f"aim: shared at most {MOST_SHARED:.2f}")
    return right
