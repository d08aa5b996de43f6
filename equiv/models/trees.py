"""Tensors in what models take and return: tuples, lists, dicts and dataclasses, nested in any way."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from equiv.dtypes import DTYPES
from equiv.numerics import bit_equal, surely_bit_equal


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its place, such as ``logits`` or ``[0].mean``; None is none.

    Example:
        >>> list(leaves({"logits": 1, "states": (2, None, 3)}))
        [('logits', 1), ('states[0]', 2), ('states[2]', 3)]
    """
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}[{i}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name, None), f"{path}.{field.name}" if path else field.name)
    else:
        yield path, value


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the leaves.

    Example:
        >>> import torch
        >>> len(tensors((torch.ones(2), {"a": torch.ones(3), "b": 1})))
        2
    """
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


def mapped(value: Any, change: Callable[[Tensor], Tensor], other: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The same containers with every tensor changed, in the order of :func:`tensors`; ``other`` of other leaves.

    Example:
        >>> import torch
        >>> mapped([torch.ones(1), "word"], lambda t: t + 1)
        [tensor([2.]), 'word']
    """
    if isinstance(value, Tensor):
        return change(value)
    if value is None:
        return None
    if isinstance(value, Mapping):
        items = {key: mapped(item, change, other) for key, item in value.items()}
        if type(value) is dict:
            return items
        filled: Any = copy.copy(value)  # ModelOutput and other dicts
        for key, item in items.items():
            filled[key] = item
        return filled
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change, other) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(item, change, other) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(twin, field.name, mapped(getattr(value, field.name), change, other))
        return twin
    return other(value)


def once(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same change, made once of each tensor: what is one tensor in several places stays one.

    Example:
        >>> import torch
        >>> x = torch.ones(1)
        >>> a, b = mapped((x, x), once(torch.clone))
        >>> a is b, a is x
        (True, False)
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def changed(t: Tensor) -> Tensor:
        if id(t) not in made:
            made[id(t)] = (t, change(t))
        return made[id(t)][1]

    return changed


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits (NaN equals NaN), found in one pass where they have.

    Example:
        >>> import torch
        >>> equal(torch.ones(2), torch.ones(2)), equal(torch.zeros(1), -torch.zeros(1))
        (True, False)
    """
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if surely_bit_equal(a, b):
        return True
    if not a.is_floating_point() or a.dtype not in DTYPES:
        return bool(torch.equal(a, b))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.itemsize]
    if torch.equal(a.detach().view(bits), b.detach().view(bits)):
        return True
    return bool(a.isnan().any()) and bit_equal(a, b)
