"""Functions that are one convolution, against their dense layer: all are certified, one ulp in a weight is found.

    OMP_NUM_THREADS=1 python benchmarks/certified_functions.py               # 200 convolutions, some minutes
    OMP_NUM_THREADS=1 python benchmarks/certified_functions.py --count 20

Convolutions of all ranks, padding modes, strides, dilations and groups, with integer and normal weights, in float32 and
float64, both sides as functions. Then one weight of the dense layer that a single tap makes is changed by one ulp, and
the certificate must name its place. Run it under other settings of ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY as well.
"""

from __future__ import annotations

import copy
import math
import random
import sys

import _common
import torch
from torch import nn

import equiv

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MODES = ("zeros", "reflect", "replicate", "circular")
MOST_ENTRIES = 20_000


def drawn(seed: int) -> tuple[nn.Module, nn.Linear, tuple[int, ...]]:
    """A convolution that fits a small map, its dense layer, and the map's shape."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype = rng.choice((torch.float32, torch.float32, torch.float64))
    while True:
        rank, groups = rng.randint(1, 3), rng.choice((1, 1, 2, 3))
        shape = (groups * rng.randint(1, 2), *(rng.randint(1, 7 if rank < 3 else 4) for _ in range(rank)))
        sizes = ((1, 4), (1, 3), (0, 3), (1, 2))
        placed = [tuple(rng.randint(low, high) for _ in range(rank)) for low, high in sizes]
        options = {"groups": groups, "bias": rng.random() < 0.7, "padding_mode": rng.choice(MODES)}
        try:
            conv = CONVS[rank - 1](shape[0], groups * rng.randint(1, 3), *placed, dtype=dtype, **options)
            dense = equiv.conv_to_linear(conv, shape)
        except equiv.EquivError:  # a kernel or a padding that this map is too small for
            continue
        if dense.weight.numel() <= MOST_ENTRIES:
            break
    for parameter in conv.parameters():
        whole, normal = torch.randint(-9, 10, parameter.shape).to(dtype), torch.randn(parameter.shape, dtype=dtype)
        parameter.data = whole if seed % 2 else normal
    return conv.requires_grad_(False), equiv.conv_to_linear(conv, shape).requires_grad_(False), shape


def certificate(conv: nn.Module, dense: nn.Linear, shape: tuple[int, ...]) -> equiv.Certificate:
    return equiv.certify(
        lambda x: conv(x), lambda x: dense(x.flatten(1)), feature_shape=shape, dtype=dense.weight.dtype
    )


def single_taps(conv: nn.Module, dense: nn.Linear, shape: tuple[int, ...]) -> list[list[int]]:
    """Entries of the dense weight that one tap makes, and that are not zero."""
    ones = copy.deepcopy(conv)
    ones.weight.fill_(1)
    return ((equiv.conv_to_linear(ones, shape).weight == 1) & (dense.weight != 0)).nonzero().tolist()


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    certified = found = changed = seed = 0
    while changed < count:
        conv, dense, shape = drawn(seed)
        if seed < count:
            certified += bool(certificate(conv, dense, shape))
        places = single_taps(conv, dense, shape)
        if places:
            output, index = random.Random(seed).choice(places)
            value = dense.weight[output, index].clone()
            dense.weight[output, index] = torch.nextafter(value, torch.full_like(value, math.inf).copysign(value))
            places = [(d.output, d.input) for d in certificate(conv, dense, shape).differences]
            found += places == [(output, index)]
            changed += 1
        seed += 1
    print(f"{certified} of {count} certified, {found} of {count} changed by one ulp found and named, ", end="")
    print(f"CPU capability {torch.backends.cpu.get_cpu_capability()}")
    sys.exit(0 if certified == found == count else 1)


if __name__ == "__main__":
    main()
