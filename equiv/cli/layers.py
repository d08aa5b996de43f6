"""The one layer that a command is about: drawn as torch draws it, or from a file of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from equiv.cli.files import read_tensors
from equiv.cli.weights import state_of
from equiv.dtypes import is_inexact
from equiv.errors import EquivError
from equiv.text import counted, quoted, shown


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these parameters; nothing is drawn on the way, as the constructor would."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def drawn_layer(n: int, out: int, *, dtype: torch.dtype, seed: int) -> nn.Linear:
    """``Linear(n, out)`` as ``torch.manual_seed(seed)`` makes it, from a generator of its own; integers are small.

    Example:
        >>> round(drawn_layer(4, 2, dtype=torch.float32, seed=123).weight[0, 0].item(), 4)  # as in the book's notebook
        -0.2039
    """
    generator = torch.Generator().manual_seed(seed)
    if is_inexact(dtype):
        weight = nn.init.kaiming_uniform_(torch.empty(out, n, dtype=dtype), a=math.sqrt(5), generator=generator)
        side = 1 / math.sqrt(n)
        return linear_of(weight, torch.empty(out, dtype=dtype).uniform_(-side, side, generator=generator))
    least = -9 if dtype.is_signed else 0
    weight, bias = (torch.randint(least, 10, size, generator=generator).to(dtype) for size in ((out, n), (out,)))
    return linear_of(weight, bias)


def loaded_layer(option: str, path: str, n: int, name: str | None) -> tuple[nn.Linear, str]:
    """The layer of ``n`` inputs in a file of a ``state_dict``, and its name there.

    A weight of more than two dimensions, as that of a convolution, is flattened. Where several fit, ``name`` chooses.

    Raises:
        EquivError: The file cannot be read, or has none or several of this size.
    """
    state = state_of(option, path, read_tensors(option, path))
    sizes = {key: tuple(value.shape) for key, value in state.items() if _is_weight(key, value)}
    if name is not None:
        known = ", ".join(map(_layer_name, sizes)) or "none"
        sizes = {key: size for key, size in sizes.items() if _layer_name(key) == name}
        if not sizes:
            raise EquivError(
                f"--layer: expected a layer of {shown(path)}, got {shown(name)}; it has {quoted(known, 200)}"
            )
    fits = [key for key, size in sizes.items() if math.prod(size[1:]) == n]
    if not fits:
        there = ", ".join(f"{_layer_name(key) or key} {size}" for key, size in sizes.items()) or "none"
        raise EquivError(
            f"{option}: expected a layer over the {counted(n, 'number')} of MAP, got {shown(path)} with "
            f"{quoted(there, 200)}; give the map that one of them takes"
        )
    if len(fits) > 1:
        names = quoted(", ".join(map(_layer_name, fits)), 200)
        raise EquivError(f"{option}: expected one layer over {n:,} numbers, got {names}; choose with --layer NAME")
    return _layer_in(state, fits[0]), fits[0]


def _is_weight(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and (key == "weight" or key.endswith(".weight"))


def _layer_name(key: str) -> str:
    return key.removesuffix("weight").removesuffix(".")


def _layer_in(state: Mapping[str, Any], key: str) -> nn.Linear:
    weight, bias = state[key].flatten(1), state.get(key.removesuffix("weight") + "bias")
    fits = isinstance(bias, Tensor) and bias.shape == weight.shape[:1] and bias.dtype == weight.dtype
    return linear_of(weight, bias if fits else None)
