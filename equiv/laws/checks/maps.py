"""Maps larger than a kernel: what is in them, which windows a kernel sees, and the sizes that networks have."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.drawing import exact_case_like, generator_of
from equiv.laws.trial import Trial
from equiv.numerics import exact_range
from equiv.strategies import Case

_KINDS = ("channels", "samples", "dilated", "image")
_WORK = 2**19  # terms of all windows
_SAMPLES = (17, 31, 33, 40, 64, 65)


def entries(shape: tuple[int, ...], generator: torch.Generator, case: Case) -> Tensor:
    """Entries that keep each window's sum exact, whatever it cuts out.

    -1, 0, 1 as real and as imaginary part, half of the zeros negative; of integer dtypes, which are exact modulo their
    range, any number.
    """
    dtype = case.dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        info = torch.iinfo(dtype)
        low, high = max(info.min, -(2**62)), min(info.max, 2**62)
        return torch.randint(low, high + 1, shape, generator=generator).to(dtype).to(case.device)
    real, other = (torch.randint(-1, 2, shape, generator=generator).double() for _ in range(2))
    negative = (real == 0) & (other > 0)
    real = torch.complex(real, other) if dtype.is_complex else torch.where(negative, -0.0, real)
    return real.to(dtype).to(case.device)


def windows_of(call: Call) -> Tensor:
    """Which entries of a flattened map each position sees: ``(positions, C * prod(kernel))``."""
    channels, *size = call.input.shape[1:]
    kernel, dims = call.weight.shape[2:], len(size)
    stride, dilation = call.steps
    places = torch.arange(channels * math.prod(size), device=call.input.device).view(channels, *size)
    for d in range(dims):
        places = places.unfold(1 + d, (kernel[d] - 1) * dilation[d] + 1, stride[d])[..., :: dilation[d]]
    # (C, *positions, *kernel) -> (*positions, C, *kernel)
    return places.permute(*range(1, 1 + dims), 0, *range(1 + dims, 1 + 2 * dims)).reshape(
        -1, channels * math.prod(kernel)
    )


def with_one_special(call: Call, expected: Tensor, windows: Tensor, seed: int) -> tuple[str, Call, Tensor]:
    """NaN or an infinity in one place of input, weight or bias: in words, the call, its result ``(N, O, positions)``.

    Windows that do not hold it keep their result.
    """
    generator = torch.Generator().manual_seed(seed)

    def below(count: int) -> int:
        return int(torch.randint(0, count, (1,), generator=generator))

    value, wanted = (torch.nan, torch.inf, -torch.inf)[below(3)], expected.clone()
    # A weight of a single output meets every sample and every position.
    name = ("input", "input", "weight", "bias" if call.bias is not None else "weight")[below(4)]
    tensor: Tensor = getattr(call, name).clone(memory_format=torch.contiguous_format)
    first, place = below(len(tensor)), below(tensor[0].numel())
    tensor.view(len(tensor), -1)[first, place] = value
    if name == "input":
        meets, term = (windows == place).nonzero(as_tuple=True)
        wanted[first, :, meets] = call.weight.flatten(1)[:, term] * value
    elif name == "weight":
        wanted[:, first] = call.input.flatten(1)[:, windows[:, place]] * value
    else:
        wanted[:, first] = value
    given: dict[str, Any] = {name: tensor}
    changed = replace(call, **given)
    of = "map" if name == "input" else name
    return f"with {value} in one place of the {of}", changed, wanted


@dataclass(frozen=True)
class _Sizes:
    """Of a convolution over a map."""

    channels: int
    outputs: int
    samples: int
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def of_networks(trial: Trial, case: Case, form: str) -> tuple[str, Call] | None:
    """A convolution of a size that networks have, and its kind: which one, the case's seed says; None if not served.

    Many channels, many samples, a dilation, or a kernel of 7 with a stride of 2 over the 3 channels of an image.
    """
    generator, dims = generator_of(case, 29), len(case.feature_shape) - 1
    kinds = _KINDS if form == "full" else _KINDS[:2]
    kind = kinds[case.seed // 4 % len(kinds)]
    if (kind == "dilated" and not trial.asks("dilation", form)) or (kind == "image" and not trial.asks("stride", form)):
        kind = "channels"
    sizes = _drawn(kind, dims, form, generator, steps=trial.asks("stride", form))
    n = sizes.channels * math.prod(sizes.kernel)
    _, weight, bias = exact_case_like(case, style="signs", rows=1, in_features=n, out_features=sizes.outputs)
    weight = _thinned(weight, generator).view(sizes.outputs, sizes.channels, *sizes.kernel)
    x = entries((sizes.samples, sizes.channels, *sizes.size), generator, case)
    call = trial.taken(Call(form, x, weight, bias, sizes.stride, sizes.dilation))
    if call is None:
        return None
    trial.cover("sliding", kind)
    return kind, call


def _drawn(kind: str, dims: int, form: str, generator: torch.Generator, *, steps: bool) -> _Sizes:
    def one_of(*choices: int) -> int:
        return choices[int(torch.randint(0, len(choices), (1,), generator=generator))]

    side = 7 if kind == "image" and dims < 3 else one_of(3, 3, 3, 2, 5) if kind != "samples" and dims < 3 else 3
    kernel = (side if form == "full" else 1,) * dims
    stride = (2 if kind == "image" else one_of(1, 1, 2) if steps else 1,) * dims
    dilation = tuple(one_of(2, 1, 3) if d else 2 for d in range(dims)) if kind == "dilated" else (1,) * dims
    if kind == "image":
        channels, outputs = 3, one_of(1, 8, 17)
    elif kind == "channels":
        channels, outputs = one_of(16, 17, 32, 48, 64), one_of(1, 8, 17)
    else:
        channels, outputs = one_of(1, 2, 3, 8), one_of(1, 4, 7)
    extra = (one_of(1, 2, 3, 4) for _ in range(dims))
    size = tuple((k - 1) * e + 1 + s * more for k, e, s, more in zip(kernel, dilation, stride, extra, strict=True))
    positions = math.prod(
        (z - (k - 1) * e - 1) // s + 1 for z, k, e, s in zip(size, kernel, dilation, stride, strict=True)
    )
    work = positions * outputs * channels * math.prod(kernel)
    fit = [samples for samples in _SAMPLES if samples * work <= _WORK] if kind == "samples" else []
    return _Sizes(channels, outputs, one_of(*fit) if fit else one_of(1, 2), kernel, size, stride, dilation)


def _thinned(weight: Tensor, generator: torch.Generator) -> Tensor:
    """So few weights of each output that inputs of -1, 0, 1 leave its sums exact in 16 bits."""
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return weight
    keep, n = exact_range(weight.dtype, unrounded=True) // 2, weight.shape[1]
    if n <= keep:
        return weight
    kept = torch.rand(weight.shape, generator=generator).topk(keep, dim=1).indices.to(weight.device)
    return torch.zeros_like(weight).scatter_(1, kept, weight.gather(1, kept))
