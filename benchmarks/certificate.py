"""What a certificate sees, and what it costs.

    OMP_NUM_THREADS=1 python benchmarks/certificate.py                    # all of it, a few minutes
    OMP_NUM_THREADS=1 python benchmarks/certificate.py --part power       # one ulp in one weight
    OMP_NUM_THREADS=1 python benchmarks/certificate.py --part cost        # VGG-16's first layer

power: one weight of a layer with 16 outputs is changed by one ulp, at a random place; the deterministic certificate
must name that place and no other. cost: a Linear 25088 -> 4096 against its full form, by random probes, over one
forward pass of both at batch 16; forward passes and certificates alternate, the ratio is that of the medians, on the
clock and in processor time. Memory: by how much the process's highest resident size grows beyond that of forward
passes, in weights.
"""

from __future__ import annotations

import copy
import math
import statistics
import sys
import time

import _common
import torch
from _timing import clocks, highest
from torch import nn

import equiv
from equiv.dtypes import dtype_name

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = (4, 64, 1024, 4096)
MOST_PASSES, MOST_COPIES = 5.0, 1.1
SPATIAL = 7


def power(trials: int) -> bool:
    table = _common.Table({"dtype": "10", "n": ">6", "found": ">9", "named": ">9", "false": ">7", "ms": ">8.1f"})
    right = True
    for dtype in DTYPES:
        for n in SIZES:
            generator = torch.Generator().manual_seed(n)
            found = named = false = 0
            seconds = []
            for _ in range(trials):
                linear = nn.Linear(n, 16).to(dtype)
                linear.weight.data = (torch.randn(16, n, generator=generator) / math.sqrt(n)).to(dtype)
                conv = equiv.linear_to_full_conv(linear, (n // 4, 2, 2))
                false += not equiv.certify(conv, linear, method="deterministic")
                wrong = copy.deepcopy(conv)
                output, index = (int(torch.randint(high, (), generator=generator)) for high in (16, n))
                flat = wrong.weight.data.view(16, n)
                flat[output, index] = torch.nextafter(flat[output, index], torch.tensor(math.inf, dtype=dtype))
                start = time.perf_counter()
                certificate = equiv.certify(wrong, linear, method="deterministic")
                seconds.append(time.perf_counter() - start)
                found += not certificate
                named += [(d.output, d.input) for d in certificate.differences] == [(output, index)]
            right &= found == named == trials and not false
            middle = 1e3 * statistics.median(seconds)
            table.row(dtype_name(dtype), n, f"{found}/{trials}", f"{named}/{trials}", false, middle)
    return right


def cost(repeats: int, in_channels: int, outputs: int) -> bool:
    small = nn.Linear(SPATIAL**2, 8)
    equiv.certify(
        equiv.linear_to_full_conv(small, (1, SPATIAL, SPATIAL)), small, method="random"
    )  # loads what it needs
    linear = nn.Linear(in_channels * SPATIAL**2, outputs)
    conv = equiv.linear_to_full_conv(linear, (in_channels, SPATIAL, SPATIAL))
    x = torch.randn(16, linear.in_features)

    def forward() -> None:
        with torch.no_grad():
            linear(x)
            conv(x.view(16, in_channels, SPATIAL, SPATIAL))

    forward()
    before = highest()
    rows = []
    for _ in range(repeats):
        a = clocks()
        forward()
        b = clocks()
        certificate = equiv.certify(conv, linear, method="random")
        c = clocks()
        assert certificate, certificate
        rows.append((b[0] - a[0], c[0] - b[0], b[1] - a[1], c[1] - b[1]))
    copies = (highest() - before) / (linear.weight.numel() * linear.weight.element_size())
    forward_wall, wall, forward_cpu, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{linear.in_features} -> {outputs}, float32, {certificate.probes} probes, ", end="")
    print(f"error probability {certificate.error_probability:.1e}, {repeats} repeats")
    print(f"certificate over one forward pass of both at batch 16: {wall / forward_wall:.2f} on the clock, ", end="")
    print(f"{cpu / forward_cpu:.2f} in processor time (aim: {MOST_PASSES:.0f})")
    print(f"memory beyond the forward pass: {copies:.2f} copies of the weights (aim: 1 and some MB)")
    return cpu / forward_cpu <= MOST_PASSES and copies <= MOST_COPIES


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--part", choices=("all", "power", "cost"), default="all")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--in-channels", type=int, default=512)
    parser.add_argument("--outputs", type=int, default=4096)
    options = parser.parse_args()
    right = options.part == "power" or cost(options.repeats, options.in_channels, options.outputs)
    if options.part != "cost":
        right &= power(options.trials)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
