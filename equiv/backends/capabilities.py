"""What a backend says that it can do; what it says nothing of is found out by asking it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from equiv.arguments import attribute_of, refusal
from equiv.numerics import Arithmetic


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend serves, as its attribute ``capabilities``. None, everywhere the default: find out by asking.

    What is declared is not asked for and not questioned: ``False`` appears in every report as "not asked, declared".

    Attributes:
        dtypes: For all forms alike, or by form (``linear``, ``full``, ``pointwise``): dtypes, or their names.
        spatial_ranks: Of maps that ``conv`` takes: some of 1, 2, 3.
        empty_batches: Batches of no rows.
        single_samples: Inputs without a batch dimension.
        layouts: Inputs and weights that are not contiguous.
        stride: Steps other than 1 of a convolution, over maps that are larger than the kernel too.
        dilation: Dilations other than 1.
        padding: The keyword ``padding`` of ``conv``.
        groups: The keyword ``groups`` of ``conv``.
        gradient_order: 0 for results that carry no gradients, 1, or 2 where gradients can be differentiated again.
        forward_mode: Forward-mode differentiation.
        transforms: torch's own machinery: vmap, compile, export, modules.
        deterministic: The same call gives the same bits every time.
        arithmetic: What the envelopes of the results follow: an ``Arithmetic``, or ``"measured"``.
        largest: Entries of the largest input, weight or result.

    Example:
        >>> Capabilities(spatial_ranks=(2,), gradient_order=0).gradient_order
        0
    """

    dtypes: Sequence[torch.dtype | str] | Mapping[str, Sequence[torch.dtype | str]] | None = None
    spatial_ranks: Sequence[int] | None = None
    empty_batches: bool | None = None
    single_samples: bool | None = None
    layouts: bool | None = None
    stride: bool | None = None
    dilation: bool | None = None
    padding: bool | None = None
    groups: bool | None = None
    gradient_order: int | None = None
    forward_mode: bool | None = None
    transforms: bool | None = None
    deterministic: bool | None = None
    arithmetic: Arithmetic | str | None = None
    largest: int | None = None


CAPABILITIES = tuple(field.name for field in fields(Capabilities))


def capabilities_of(backend: object) -> Capabilities:
    """What a backend declares; nothing where it has no attribute ``capabilities``."""
    declared = attribute_of(backend, "capabilities")
    if declared is None:
        return Capabilities(transforms=bool(attribute_of(backend, "transforms", False)))
    if not isinstance(declared, Capabilities):
        raise refusal("backend.capabilities", "an equiv.backends.Capabilities", declared, "see its attributes")
    return declared
