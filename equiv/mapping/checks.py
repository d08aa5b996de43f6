"""Which arguments the mappings serve besides layers: feature shapes, rows, options.

Every check returns its argument, or raises an `EquivError` that names the argument, its value, what was expected and
what to do. Which layers are served says ``equiv.mapping.plain``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsIndex, TypeAlias

from torch import Tensor, nn

from equiv.arguments import as_integer, check_bool, check_integer, check_tensor, shape_words
from equiv.errors import EquivError
from equiv.mapping.attributes import Conv, ConvTranspose, rank_of
from equiv.text import shown

FeatureShape: TypeAlias = Sequence[SupportsIndex]
"""``(C, *spatial)`` with one to three spatial dimensions.

Example:
    >>> shape: FeatureShape = (512, 7, 7)
"""

Size2: TypeAlias = tuple[SupportsIndex, SupportsIndex]
Size3: TypeAlias = tuple[SupportsIndex, SupportsIndex, SupportsIndex]
Size4: TypeAlias = tuple[SupportsIndex, SupportsIndex, SupportsIndex, SupportsIndex]


def check_feature_shape(feature_shape: FeatureShape, *, name: str = "feature_shape") -> tuple[int, ...]:
    """Return the feature shape as a tuple of ints: channels first, then 1 to 3 spatial sizes, all at least 1.

    Args:
        feature_shape: A tuple, list or ``torch.Size`` of integers; numpy's are welcome, bools are not.
        name: What the message calls the argument.

    Raises:
        EquivError: Anything else.

    Example:
        >>> check_feature_shape([3, 2, 2])
        (3, 2, 2)
        >>> check_feature_shape(12)
        Traceback (most recent call last):
        equiv.errors.EquivError: feature_shape: expected a tuple (C, *spatial), got 12; for one position pass (12, 1, 1)
    """
    expected = f"{name}: expected a tuple (C, *spatial)"
    if not isinstance(feature_shape, tuple | list):
        size = as_integer(feature_shape)
        advice = "pass a tuple such as (3, 2, 2)" if size is None else f"for one position pass ({shown(size)}, 1, 1)"
        raise EquivError(f"{expected}, got {described(feature_shape)}; {advice}")
    shape = []
    for entry in feature_shape:
        size = as_integer(entry)
        if size is None:
            raise EquivError(f"{expected} of integers, got {shown(feature_shape)}; replace {shown(entry)} by an int")
        shape.append(size)
    if not 2 <= len(shape) <= 4:
        raise EquivError(
            f"{expected} with 1 to 3 spatial dimensions, got {shown(tuple(shape))} with {max(0, len(shape) - 1)}; "
            "give channels and spatial sizes, without the batch"
        )
    if min(shape) < 1 or max(shape) >= 2**63:
        bounds = "of sizes of at least 1" if min(shape) < 1 else "of sizes that 64 bits hold"
        raise EquivError(f"{expected} {bounds}, got {shown(tuple(shape))}; give the sizes of a map with entries")
    return tuple(shape)


def check_share(share: bool) -> None:
    """Refuse anything but True and False."""
    check_bool("share", share, "pass share=True for views, False for copies")


def check_spatial_dims(spatial_dims: SupportsIndex) -> int:
    """Return 1, 2 or 3."""
    return check_integer("spatial_dims", spatial_dims, least=1, most=3, advice="it selects Conv1d, Conv2d or Conv3d")


def check_product(shape: tuple[int, ...], n: int, meaning: str) -> None:
    """Refuse a feature shape that does not hold n entries."""
    if math.prod(shape) != n:
        raise EquivError(
            f"feature_shape: expected (C, *spatial) with product {n} (= {meaning}), got {shape} with product "
            f"{math.prod(shape)}; pass the shape of the map that was flattened, channels first, without the batch"
        )


def check_input_of(conv: Conv | ConvTranspose, shape: tuple[int, ...]) -> None:
    """Refuse a feature shape with another rank, or other channels, than the convolution's input has."""
    rank = rank_of(conv)
    kind = "ConvTranspose" if isinstance(conv, ConvTranspose) else "Conv"
    if len(shape) != rank + 1:
        raise EquivError(
            f"feature_shape: expected (C, *spatial) with {rank} spatial dimensions for a {kind}{rank}d, got {shape} "
            f"with {len(shape) - 1}; give channels and {rank} spatial sizes, without the batch"
        )
    if shape[0] != conv.in_channels:
        hint = " (which looks like channels last)" if shape[-1] == conv.in_channels else ""
        raise EquivError(
            f"feature_shape: expected {conv.in_channels} channels first (= conv.in_channels), got {shape}{hint}; "
            "pass (C, *spatial) of the convolution's input, without the batch"
        )


def check_rows(x: Tensor) -> None:
    """Refuse what is not a strided tensor with a last dimension."""
    if check_tensor("x", x, meta=True).ndim == 0:
        raise EquivError("x: expected shape (*batch, n), got a tensor with 0 dimensions; pass a vector or rows")


def described(value: object) -> str:
    """A module by its class, a tensor by its shape, anything else by its value."""
    if isinstance(value, nn.Module):
        return f"a {type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Tensor):
        return shape_words(value)
    return shown(value)
