"""The inputs of a model as options name them: shapes whose values are drawn, or files of tensors."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiv.arguments import check_memory, refusal
from equiv.cli.files import read_tensors
from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.parsing import parse_dtype, parse_integer
from equiv.text import quoted, shown

_EXPECTED = "a shape such as 16x5x256 or 2x16:int64:1000, or a file of tensors (.pt, .safetensors, .npy)"
_FILES = (".pt", ".pth", ".safetensors", ".npy")
_HIGH = 10  # of integers: small enough for the embeddings that there are


@dataclass(frozen=True)
class Spec:
    """One ``--input``: a file, or a shape with its dtype (None: that of the model) and a bound on integers.

    ``text`` is what was typed behind the ``name`` of a keyword argument, which is empty of one by position.
    """

    text: str
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    high: int = _HIGH
    name: str = ""


def parse_input(option: str, text: str) -> Spec:
    """What was typed for one input.

    Example:
        >>> parse_input("--input", "2x16:long:1000")
        Spec(text='2x16:long:1000', shape=(2, 16), dtype=torch.int64, high=1000, name='')
        >>> parse_input("--input", "mask=2x16:long:2").name
        'mask'
    """
    name, equals, rest_of = text.strip().partition("=")
    if equals and name.isidentifier() and not keyword.iskeyword(name):
        return replace(parse_input(option, rest_of), name=name)
    if Path(text).suffix.lower() in _FILES:
        return Spec(text)
    sizes, *rest = text.strip().split(":")
    if not re.fullmatch(r"[0-9]{1,9}([xX][0-9]{1,9})*", sizes) or len(rest) > 2:
        raise refusal(option, _EXPECTED, text[:100], "write whole numbers with an x between them")
    dtype = None
    if rest:
        dtype = parse_dtype(option, rest[0])
    high = _HIGH
    if len(rest) == 2:
        if dtype is None or is_inexact(dtype):
            raise refusal(option, "a bound for integers alone", text[:100], "leave the last part out")
        high = parse_integer(option, rest[1], least=1, most=torch.iinfo(dtype).max)
    return Spec(text, tuple(map(int, re.split("[xX]", sizes))), dtype, high)


def draw(
    option: str, specs: Sequence[Spec], *, dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[Tensor, ...]:
    """The tensors, in order: of files, or drawn: normal values, integers from 0 to below a bound.

    Raises:
        EquivError: A file cannot be read, or does not fit in memory.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for spec in specs:
        if spec.shape is None:
            held = _of_file(option, spec.text)
            if spec.name and len(held) != 1:
                raise refusal(option, f"one tensor for {spec.name}", f"{spec.text} with {len(held)}", "save it alone")
            found += held
        else:
            found.append(_drawn(option, spec, spec.dtype or dtype, generator))
    return tuple(one.to(device) for one in found)


def arranged(specs: Sequence[Spec], inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The tensors that :func:`draw` returned: those by position, and the others by name."""
    names = [spec.name for spec in specs if spec.name]
    count = len(inputs) - len(names)
    return tuple(inputs[:count]), dict(zip(names, inputs[count:], strict=True))


def check_names(option: str, specs: Sequence[Spec]) -> None:
    """Refuse a name that is given twice, and inputs by position behind one by name."""
    names = [spec.name for spec in specs]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise refusal(option, "each keyword argument once", twice, "name it once")
    first = next((i for i, name in enumerate(names) if name), len(names))
    if not all(names[first:]):
        behind = next(spec.text for spec in specs[first:] if not spec.name)
        raise refusal(option, "inputs by position before those by name", behind[:100], "put it first, or name it")


def _drawn(option: str, spec: Spec, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    shape = spec.shape or ()
    size = dtype.itemsize
    for one in shape:
        size *= one
    check_memory(option, spec.text, size, "values")
    if not is_inexact(dtype):
        return torch.randint(0, spec.high, shape, generator=generator, dtype=dtype)
    if dtype.is_complex or dtype == torch.float64:
        return torch.randn(shape, generator=generator, dtype=dtype)
    return torch.randn(shape, generator=generator).to(dtype)


def _of_file(option: str, path: str) -> list[Tensor]:
    found = read_tensors(option, path)
    if isinstance(found, dict):
        found = list(found.values()) if len(found) == 1 else found
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, (list, tuple)) and found and all(isinstance(one, Tensor) for one in found):
        return list(found)
    raise EquivError(
        f"{option}: expected a tensor, or a list of tensors in order, got {shown(path)} with {_words(found)}; save one "
        "tensor in each file"
    )


def _words(found: Any) -> str:
    if isinstance(found, dict):
        return f"{len(found):,} names: {quoted(', '.join(map(str, list(found)[:4])), 80)}"
    return f"a {type(found).__name__}"


def sentence(specs: Sequence[Spec], inputs: Sequence[Tensor], seed: int) -> str:
    """The inputs in a line: their shapes, dtypes and how they were made."""
    positional, named = arranged(specs, inputs)
    words = [("", one) for one in positional] + [(f"{name}=", one) for name, one in named.items()]
    shapes = ", ".join(f"{name}{'x'.join(map(str, t.shape)) or 'a number'} {dtype_name(t.dtype)}" for name, t in words)
    files = [quoted(spec.text, 60) for spec in specs if spec.shape is None]
    made = [f"from {', '.join(files)}"] * bool(files) + [f"drawn with seed {seed}"] * (len(files) < len(specs))
    return f"{shapes}; {' and '.join(made)}"


def to_dict(specs: Sequence[Spec], inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """The inputs for a report."""
    shapes = [{"shape": list(one.shape), "dtype": dtype_name(one.dtype)} for one in inputs]
    if len(shapes) != len(specs):  # a file of several
        return shapes
    typed = [f"{spec.name}={spec.text}" if spec.name else spec.text for spec in specs]
    return [{"given": text, **one} for text, one in zip(typed, shapes, strict=True)]
