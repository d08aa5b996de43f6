"""A zoo of faults and of legal variants, to test an oracle with: it is as good as what it finds and what it spares.

Each fault is a context in which torch's ``linear`` and ``conv1d/2d/3d`` (those of ``torch.nn.functional``, which
modules call), or one of equiv's mappings, is wrong under one stated condition: reduced from a thread in which something
like it broke, from a slip that people make when they rewrite layers, or from a textbook. Each variant is a context in
which torch computes otherwise, and rightly.

Example:
    >>> import torch
    >>> layer, x = torch.nn.Linear(4, 1), torch.ones(2, 4)
    >>> right = layer(x)
    >>> with inject("bias-dropped-one-output"):
    ...     wrong = layer(x)
    >>> bool((right - wrong - layer.bias).abs().max() < 1e-6), torch.equal(layer(x), right)
    (True, True)
    >>> len(FAULTS) >= 60, len(VARIANTS) >= 15
    (True, True)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from equiv.testing.faults import (
    _arithmetic,
    _batch,
    _effects,
    _gradients,
    _mapping,
    _mapping_back,
    _memory,
    _registry,
    _second_order,
    _sizes,
    _sliding,
    _transforms,
    _values,
    _variants,
)
from equiv.testing.faults._find import find
from equiv.testing.faults._registry import Fault, Variant

_ROOMS = (
    *(_memory, _batch, _sizes, _sliding, _gradients, _second_order, _arithmetic, _values, _effects, _transforms),
    *(_mapping, _mapping_back, _variants),
)

FAULTS: Mapping[str, Fault] = _registry.FAULTS
"""Every fault by name. Names are stable; a missing one raises an EquivError with near ones."""

SURVIVORS: Mapping[str, str] = _registry.SURVIVORS
"""The faults that no law tells yet, and why: what the laws leave out, stated."""

VARIANTS: Mapping[str, Variant] = _registry.VARIANTS
"""Every legal variant by name."""


def inject(name: str) -> AbstractContextManager[None]:
    """``FAULTS[name].applied()``.

    Raises:
        EquivError: No fault has this name; the message names near ones.

    Example:
        >>> inject("bias-dropped-one-output").__class__.__name__
        '_GeneratorContextManager'
    """
    return FAULTS[name].applied()


__all__ = ["FAULTS", "SURVIVORS", "VARIANTS", "Fault", "Variant", "find", "inject"]
