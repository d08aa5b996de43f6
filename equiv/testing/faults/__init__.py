"""A catalogue of faults and of legal variants, to test an oracle with: what it must find, and what it must spare.

Each fault is a context in which torch's ``linear`` and ``conv1d/2d/3d`` (those of ``torch.nn.functional``, which
modules call), or one of equiv's mappings, is wrong under one stated condition: reduced from a thread in which something
like it broke, from a mistake that people make when they rewrite layers, or from a textbook. Each variant is a context
in which torch computes otherwise, and rightly.

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

from equiv.testing.faults import (  # noqa: F401 - importing them fills the catalogue, in this order
    arithmetic,
    autograd,
    batch,
    cheats,
    effects,
    gradients,
    honest,
    mapping,
    mapping_back,
    memory,
    padding,
    registry,
    second_order,
    sizes,
    sliding,
    surroundings,
    transforms,
    values,
    variants,
)
from equiv.testing.faults.registry import Fault, Variant
from equiv.testing.faults.search import find

FAULTS: Mapping[str, Fault] = registry.FAULTS
"""Every fault by name. Names are stable; a missing one raises an EquivError with near ones.

Example:
    >>> FAULTS["channels-last-input"].source
    'pytorch/pytorch#32395, forward'
"""

SURVIVORS: Mapping[str, str] = registry.SURVIVORS
"""The faults that no law finds yet, and why.

Example:
    >>> set(SURVIVORS) <= set(FAULTS)
    True
"""

VARIANTS: Mapping[str, Variant] = registry.VARIANTS
"""Every legal variant by name.

Example:
    >>> "pairwise" in VARIANTS
    True
"""


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
