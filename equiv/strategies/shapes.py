"""Knows which sizes and shapes are worth drawing, and draws a whole shape with two or three choices.

A size is one index into a sorted table in which small sizes, and those where kernels change, occur more often: a
smaller index is a smaller size, so Hypothesis's integer search is the search for the smallest size. A shape is its
product and one index into the ways of writing that product as so many factors.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from hypothesis import strategies as st

from equiv.strategies import checks

Shape: TypeAlias = tuple[int, ...]

_EVERY = 1024  # every size up to here can be drawn, above only the boundaries
_MOST = 2**17
BOUNDARIES = tuple(
    sorted(
        {s for k in range(1, 17) for s in (2**k - 1, 2**k, 2**k + 1) if s <= _MOST}
        | {s for k in range(3, 14) for s in (3 * 2**k - 1, 3 * 2**k, 3 * 2**k + 1)}
        | {5, 6, 11, 13, 14, 19, 37, 61, 104, 105, 106, 113, 251, 509, 1021, 4093, 32749}
    )
)
_SIZES = tuple(
    size
    for size in sorted({*range(1, _EVERY + 1), *BOUNDARIES})
    for _ in range(max(1, 256 // size) + (10 if size in BOUNDARIES else 0))
)
_WAYS = 1024  # resolution of the index of a factorisation
MAX_DIMS = 8


_FAR = 3 * 2**33 + 2**21  # in no list of constants that Hypothesis likes to draw


@lru_cache(maxsize=4096)
def _below(count: int) -> tuple[st.SearchStrategy[int], int]:
    base = 0 if count <= 8 else _FAR
    return st.integers(base, base + count - 1), base


def pick(draw: st.DrawFn, count: int) -> int:
    """An integer 0..count-1, each as likely as the next: one choice, which shrinks to 0.

    Hypothesis draws the integers of a wide range from a distribution that falls off around 0: 0..2^19 gives more than
    2^15 in one of four draws only, so nearly all tensors would be nearly empty. Far from 0 that distribution is flat.
    """
    strategy, base = _below(count)
    return draw(strategy) - base


def draw_size(draw: st.DrawFn, low: int, high: int) -> int:
    """A size in low..high (1 <= low <= high): one choice."""
    first = bisect_left(_SIZES, low)
    count = bisect_right(_SIZES, high) - first
    return _SIZES[first + pick(draw, count)] if count > 0 else low


@lru_cache(maxsize=8192)
def factorisations(product: int, parts: int) -> tuple[Shape, ...]:
    """All ways to write ``product`` >= 1 as an ordered product of ``parts`` factors, the largest first factor first.

    Example:
        >>> factorisations(4, 2)
        ((4, 1), (2, 2), (1, 4))
    """
    if parts == 0:
        return ((),)
    if parts == 1:
        return ((product,),)
    small = [k for k in range(1, math.isqrt(product) + 1) if product % k == 0]
    divisors = sorted({*small, *(product // k for k in small)}, reverse=True)
    return tuple((head, *rest) for head in divisors for rest in factorisations(product // head, parts - 1))


@lru_cache(maxsize=8192)
def _maps(features: int, spatial: int, min_positions: int) -> tuple[Shape, ...]:
    return tuple(s for s in factorisations(features, spatial + 1) if features // s[0] >= min_positions)


def draw_feature_shape(draw: st.DrawFn, spatial_dims: Sequence[int], min_positions: int, max_features: int) -> Shape:
    """A feature shape ``(C, *spatial)``: two choices, its size first."""
    features = draw_size(draw, min_positions, max_features)
    which, way = divmod(pick(draw, len(spatial_dims) * _WAYS), _WAYS)
    ways = _maps(features, spatial_dims[which], min_positions)
    quarter = _WAYS // 4  # of the draws take the first way: as many channels as there can be
    return ways[max(0, way - quarter) * len(ways) // (_WAYS - quarter)]


def draw_batch_shape(
    draw: st.DrawFn,
    min_dims: int,
    max_dims: int,
    max_rows: int,
    *,
    max_side: int | None = None,
    allow_empty: bool = True,
) -> Shape:
    """A leading shape: two choices, its rank first; one for rank 0. One in 16 of the others is empty."""
    code = pick(draw, (max_dims - min_dims + 1) * _WAYS)
    rank, way = min_dims + code // _WAYS, code % _WAYS
    if rank == 0:
        return ()
    side = max_rows if max_side is None else max_side
    count = bisect_right(_SIZES, min(max_rows, side**rank))
    index = pick(draw, count + (count // 16 + 1 if allow_empty else 0))
    if index >= count:
        return _empty(rank, way, side)
    rows = _SIZES[index]
    while not (ways := [s for s in factorisations(rows, rank) if max(s) <= side]):
        rows -= 1
    return ways[way * len(ways) // _WAYS]


def _empty(rank: int, way: int, side: int) -> Shape:
    """A shape of ``rank`` with a 0 in one place or, now and then, in two."""
    shape = []
    zero, way = way % rank, way // rank
    for d in range(rank):
        way, digit = divmod(way, 4)
        shape.append(0 if d == zero or digit == 3 else min(side, 1 + digit))
    return tuple(shape)


def batch_shapes(
    *, min_dims: int = 0, max_dims: int = 5, max_side: int = 256, max_rows: int = 256, allow_empty: bool = True
) -> st.SearchStrategy[Shape]:
    """Leading shapes: ``()``, ``(1,)``, ``(64,)``, ``(65,)``, ``(0,)``, ``(2, 1, 3)``, and so on.

    The product of a shape is at most ``max_rows``, each side at most ``max_side``; with ``allow_empty`` one in about 16
    has a side of 0. Shrinks to ``()``, or ``(1,) * min_dims``.

    Raises:
        EquivError: on the first draw, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(batch_shapes(), lambda shape: len(shape) == 2)
        (1, 1)
        >>> find(batch_shapes(), lambda shape: 0 in shape)
        (0,)
    """

    def build() -> st.SearchStrategy[Shape]:
        low, high = rank_bounds("min_dims", "max_dims", min_dims, max_dims)
        return _batch_shapes(
            low,
            high,
            checks.integer("max_rows", max_rows, 1),
            max_side=checks.integer("max_side", max_side, 1),
            allow_empty=checks.boolean("allow_empty", allow_empty),
        )

    return checks.lazily(build)


def rank_bounds(low_name: str, high_name: str, low: object, high: object) -> tuple[int, int]:
    """Two ranks in order, 0..MAX_DIMS."""
    least = checks.integer(low_name, low, 0, MAX_DIMS)
    return least, checks.integer(high_name, high, least, MAX_DIMS)


_batch_shapes = st.composite(draw_batch_shape)
_feature_shapes = st.composite(draw_feature_shape)


def spatial_ranks(value: object) -> tuple[int, ...]:
    """Numbers of spatial dimensions: an int from 1 to 3, or several."""
    return checks.choices("spatial_dims", (value,) if isinstance(value, int) else value, (1, 2, 3))


def feature_shapes(
    *, spatial_dims: Sequence[int] = (1, 2, 3), max_features: int = 512, min_positions: int = 1
) -> st.SearchStrategy[Shape]:
    """Feature shapes ``(C, *spatial)`` with ``C * prod(spatial) <= max_features``.

    The product and ``C`` reach 1, 2, 3, the vector widths with their neighbours (7, 8, 9, 15, 16, 17, 31, 32, 33, 63,
    64, 65, 127, 128, 129), 105, primes and powers of two; a quarter of the shapes are 1x1 maps (if ``min_positions``
    allows), and a side of 1 beside a longer one is common. Shrinks to ``(1, 1)``.

    Args:
        spatial_dims: how many spatial dimensions, any of 1, 2, 3.
        max_features: upper bound of the product.
        min_positions: lower bound of ``prod(spatial)``: 2 leaves out the 1x1 maps.

    Raises:
        EquivError: on the first draw, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(feature_shapes(spatial_dims=(2,), min_positions=2), lambda shape: True)
        (1, 2, 1)
    """

    def build() -> st.SearchStrategy[Shape]:
        least = checks.integer("min_positions", min_positions, 1)
        most = checks.integer("max_features", max_features, least, advice="it bounds C * prod(spatial)")
        return _feature_shapes(spatial_ranks(spatial_dims), least, most)

    return checks.lazily(build)
