"""How fast patch embeddings are as one matrix product, against the convolution that they come from, in one run.

    OMP_NUM_THREADS=1 python benchmarks/patches.py          # some seconds
    python benchmarks/patches.py --dtype bfloat16 --device cuda

ViT-B/16 at 224 x 224, a batch of 8; the patch embedding of Qwen2-VL, kernel (2, 14, 14), which is given each patch as a
map of its own; and the tubelets of VideoMAE, kernel (2, 16, 16) on 16 frames. Results are judged by ``equiv.compare``
first. Times are medians of processor time, or of wall time on an accelerator; a ratio above 1 says that the matrix
product is the faster one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import _common
import torch
from torch import Tensor, nn

import equiv
from equiv.text import counted

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ViT-B/16 at 224": (lambda: nn.Conv2d(3, 768, 16, 16), (8, 3, 224, 224)),
    "Qwen2-VL": (lambda: nn.Conv3d(3, 1280, (2, 14, 14), (2, 14, 14), bias=False), (1024, 3, 2, 14, 14)),
    "VideoMAE-B": (lambda: nn.Conv3d(3, 768, (2, 16, 16), (2, 16, 16)), (1, 3, 16, 224, 224)),
}


def seconds(module: nn.Module, x: Tensor) -> float:
    module(x)
    on_gpu = x.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    module(x)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def main(given: list[str] | None = None) -> int:
    parser = _common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "float64", "float16", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(given)
    found, right = _common.versions(), True
    where = f"{counted(torch.get_num_threads(), 'thread')}, {asked.dtype}, {asked.device}"
    print(f"torch {found['torch']}, {found['capability']}, {where}")
    table = _common.Table(
        {
            "model": "<18",
            "input": "<24",
            "conv ms": ">10.1f",
            "product ms": ">12.1f",
            "ratio": ">8.2f",
            "  verdict": "<",
        }
    )
    for name, (make, shape) in CASES.items():
        conv = make().to(asked.device, getattr(torch, asked.dtype)).eval()
        patches = equiv.to_patch_linear(conv)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(conv.weight)
        with torch.no_grad():
            few = x[:1]
            verdict = equiv.compare(patches(few), conv(few), input=few, layer=conv)
            pairs = [(seconds(conv, x), seconds(patches, x)) for _ in range(asked.repeats)]
        ratio = statistics.median(a / b for a, b in pairs)
        medians = [1000 * statistics.median(each) for each in zip(*pairs, strict=True)]
        table.row(name, str(shape), *medians, ratio, f"  {verdict.outcome.name}")
        right &= verdict.equivalent
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
