"""``compare(layer=conv)`` on the convolutions of VGG-16, ResNet-50 and a 3d U-Net, batch 2: time and memory.

Times are processor time, over one forward pass of the layer in the same process; memory is by how much the peak of the
resident size grows during the first comparison, over input, weight and result together. Each layer has a process of
its own. The aims are 20 forward passes, and 3 times the tensors.

    OMP_NUM_THREADS=1 python benchmarks/real_layers.py --only vgg16 --dtype float32
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _common
import torch
from _timing import versions
from torch import nn

import equiv

MOST_PASSES, MOST_MEMORY = 20.0, 3.0
REPEATS = 5


class Layer(NamedTuple):
    """A convolution and the map that it slides over."""

    net: str
    channels: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        """In a table."""
        kind = f"{self.kernel}^{len(self.sizes)}" + (f"/{self.stride}" if self.stride > 1 else "")
        return f"{self.net} {self.channels}->{self.outputs} {kind} on {'x'.join(map(str, self.sizes))}"


def _vgg16() -> Iterator[Layer]:
    channels, size = 3, 224
    for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            yield Layer("vgg16", channels, outputs, 3, 1, 1, (size, size))
            channels = outputs
        size //= 2


def _resnet50() -> Iterator[Layer]:
    yield Layer("resnet50", 3, 64, 7, 2, 3, (224, 224))
    channels, size = 64, 56
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first if block == 0 else 1
            after = size // stride
            yield Layer("resnet50", channels, width, 1, 1, 0, (size, size))
            yield Layer("resnet50", width, width, 3, stride, 1, (size, size))
            yield Layer("resnet50", width, 4 * width, 1, 1, 0, (after, after))
            if block == 0:
                yield Layer("resnet50", channels, 4 * width, 1, stride, 0, (size, size))
            channels, size = 4 * width, after


def _unet3d() -> Iterator[Layer]:
    down = ((1, 32, 64), (32, 64, 64), (64, 64, 32), (64, 128, 32), (128, 128, 16), (128, 256, 16))
    for channels, outputs, size in (*down, (384, 128, 16), (192, 64, 32), (96, 32, 64)):
        yield Layer("unet3d", channels, outputs, 3, 1, 1, (size,) * 3)
    yield Layer("unet3d", 32, 2, 1, 1, 0, (64, 64, 64))


def layers() -> list[Layer]:
    """All of them, each once."""
    return list(dict.fromkeys((*_vgg16(), *_resnet50(), *_unet3d())))


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _least_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of this many calls, or of those that fit into two seconds."""
    found: list[float] = []
    while len(found) < repeats and sum(found) < 2:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


@torch.no_grad()
def measure(index: int, dtype: torch.dtype) -> dict[str, Any]:
    """One layer, in this process: two of its kernels, compared."""
    layer = layers()[index]
    torch.manual_seed(index)
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[len(layer.sizes)]
    conv = kind(layer.channels, layer.outputs, layer.kernel, stride=layer.stride, padding=layer.padding, dtype=dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float32
    x = torch.randn(2, layer.channels, *layer.sizes, dtype=wide)
    x = x.to(dtype) if dtype.is_complex else x.relu_().to(dtype)
    small = kind(1, 1, 3, padding=1, dtype=dtype)
    tiny = torch.ones(1, 1, *(4,) * len(layer.sizes), dtype=dtype)
    equiv.compare(small(tiny), small(tiny), input=tiny, layer=small)  # what is loaded once
    y = conv(x)
    other = _rounded_once(conv, x)
    tensors = sum(t.numel() * t.element_size() for t in (x, y, conv.weight))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    verdict = equiv.compare(y, other, input=x, layer=conv)
    grown = _peak() - before
    forward = _least_seconds(lambda: conv(x), 2 * REPEATS)
    seconds = _least_seconds(lambda: equiv.compare(y, other, input=x, layer=conv), REPEATS)
    wrong = y.clone()
    spot = wrong.view(-1)
    spot[len(spot) // 3] += spot.abs().max()
    found = equiv.compare(wrong, y, input=x, layer=conv)
    return {
        "forward_ms": 1e3 * forward,
        "passes": seconds / forward,
        "mib": tensors / 2**20,
        "memory": grown / tensors,
        "right": verdict.outcome.name,
        "wrong": found.outcome.name,
    }


def _rounded_once(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Another right kernel: adds in the widest dtype."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    found: torch.Tensor = copy.deepcopy(conv).to(wide)(x.to(wide)).to(x.dtype)
    return found


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--only", metavar="WORDS", default="", help="layers whose line holds this")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, getattr(torch, options.dtype))))
        return
    print(f"{options.dtype}; {versions()}")
    heads = {"layer": "42", "forward ms": ">12.2f", "passes": ">8.1f", "MiB": ">8.1f", "memory": ">8.2f"}
    table = _common.Table({**heads, "right": ">12", "wrong": ">12"})
    worst = {"passes": 0.0, "memory": 0.0}
    for index, layer in enumerate(layers()):
        if options.only not in str(layer):
            continue
        command = [sys.executable, __file__, "--one", str(index), "--dtype", options.dtype]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        table.row(str(layer), *found.values())
        worst = {key: max(value, found[key]) for key, value in worst.items()}
    print(f"most: {worst['passes']:.1f} passes (aim {MOST_PASSES:.0f}), ", end="")
    print(f"{worst['memory']:.2f} times the tensors (aim {MOST_MEMORY:.0f})")


if __name__ == "__main__":
    main()
