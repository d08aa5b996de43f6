"""How fast a fully convolutional model is against the classifier on every window: a map of 64 x 64 scores.

    OMP_NUM_THREADS=1 python benchmarks/dense_inference.py      # under a minute
    OMP_NUM_THREADS=1 python benchmarks/dense_inference.py --only vgg --scores 8

The input is so large that the map of scores has 64 x 64 positions: ``window + 63 * stride`` entries along each axis,
4,096 windows. The loop gives the classifier the windows 64 at a time, and as many as are asked for (``--windows``);
its time for all is that times 4,096 over their number. Every score that was looped over is held against the map: by its
size beside the rounding of float32, which is measured as the distance between float32 and float64 of the classifier.
Exits with 1 where dense inference is not 20 times as fast.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import _common
import torch
from torch import Tensor, nn

import equiv
from equiv.models import Windows
from equiv.text import counted

AIM = 20.0


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((16, 2), (32, 2), (64, 1)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(64 * 49, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10)]
    return nn.Sequential(*layers, *head)  # a window of 76 x 76


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16, 256), nn.ReLU(), nn.Linear(256, 10), nn.LogSoftmax(1),
    )  # fmt: skip


def overfeat() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 3), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 25, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vgg": (vgg, 76), "alexnet": (alexnet, 155), "overfeat": (overfeat, 115),
}  # fmt: skip


def looped(model: nn.Module, x: Tensor, places: list[tuple[int, int]], windows: Windows) -> Tensor:
    scores = []
    for start in range(0, len(places), 64):
        crops = [x[(..., *windows.at(*place))] for place in places[start : start + 64]]
        scores.append(model(torch.cat(crops)))
    return torch.cat(scores)


def measured(name: str, table: _common.Table, positions: int, count: int) -> bool:
    make, size = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, 3, size, size))
    windows = dense.windows
    sizes = [w + (positions - 1) * s for w, s in zip(windows.window, windows.stride, strict=True)]
    x = torch.randn(1, 3, *sizes)
    every = [(i, j) for i in range(positions) for j in range(positions)]
    some = every[:: max(1, len(every) // count)][:count]
    with torch.no_grad():
        dense(x[(..., *windows.at(0, 0))])
        start = time.process_time()
        scores = dense(x)
        at_once = time.process_time() - start
        start = time.process_time()
        expected = looped(model, x, some, windows)
        loop = (time.process_time() - start) * len(every) / len(some)
        few = some[:64]
        exact = looped(copy.deepcopy(model).double(), x.double(), few, windows)
    assert scores.shape[2:] == (positions, positions)
    actual = torch.stack([scores[0, :, i, j] for i, j in some])
    rounding, distance = float((expected[: len(few)] - exact).abs().max()), float((actual - expected).abs().max())
    table.row(name, f"{sizes[0]} x {sizes[1]}", str(windows.stride), at_once, loop, loop / at_once, distance, rounding)
    return loop / at_once >= AIM or positions < 64


def main(given: list[str] | None = None) -> int:
    parser = _common.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--scores", type=int, default=64, help="positions of the map along each axis")
    parser.add_argument("--windows", type=int, default=256, help="how many the loop is run on")
    asked = parser.parse_args(given)
    found = _common.versions()
    where = f"{found['capability']}, {counted(torch.get_num_threads(), 'thread')}"
    print(f"torch {found['torch']}, {where}, {asked.scores} x {asked.scores} scores")
    columns = {"model": "<10", "input": "<14", "stride": "<10", "dense s": ">9.2f", "loop s": ">9.1f", "ratio": ">8.1f"}
    table = _common.Table({**columns, "difference": ">12.1e", "rounding": ">10.1e"})
    right = [measured(name, table, asked.scores, asked.windows) for name in asked.only]
    return 0 if all(right) else 1


if __name__ == "__main__":
    raise SystemExit(main())
