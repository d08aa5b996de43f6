"""Sizes and shapes that are worth drawing: a whole shape takes two or three of Hypothesis's choices.

A size is drawn from a sorted table in which small sizes, and those where kernels change, stand closer together: an
earlier place is a smaller size, so Hypothesis's search for the first place is the search for the smallest size. Each
side of a feature shape is drawn by itself and bounded by what the others leave, so that each shrinks by itself.

Two habits of Hypothesis shape this module. It draws the integers of a wide range near 0 (of 0..2^19, three in four are
below 2^15), and most of its examples are earlier ones with one part copied over another of the same label; integers
all share one label, whereas ``sampled_from`` has one for each table. So tables stay short, some hundred places, and
a tensor or a case draws one integer (see ``tensor.draw_windows``). So hardly two parts of a case share a label, and
nearly every example has sizes of its own: 197 of 200 cases, against 42 when each choice was an integer.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

from hypothesis import strategies as st

from equiv.arguments import check_bool, check_choices, check_integer, check_shape, refusal
from equiv.strategies.lazy import lazy
from equiv.strategies.traffic import SIZES, channels_of
from equiv.text import quoted

Shape: TypeAlias = tuple[int, ...]
MAX_DIMS = 8

BOUNDARIES = tuple(
    sorted(
        {s for k in range(1, 17) for s in (2**k - 1, 2**k, 2**k + 1)}
        | {s for k in range(3, 14) for s in (3 * 2**k - 1, 3 * 2**k, 3 * 2**k + 1)}
        | {5, 6, 11, 13, 14, 19, 37, 61, 104, 105, 106, 113, 251, 509, 1021, 4093, 32749}
    )
)
"""The sizes at which kernels change: powers of two, three times these, their neighbours, and primes.

Example:
    >>> 65 in BOUNDARIES, 70 in BOUNDARIES
    (True, False)
"""

_NEAR_REAL = {size + step for size in SIZES for step in (-1, 1)}
_BETWEEN = {*range(1, 257), 1000, *range(257, 1024, 27)}  # every size up to 256, and residues of every kind beyond
_OFTEN = {*BOUNDARIES, *SIZES}
_SIZES = tuple(
    size
    for size in sorted({*BOUNDARIES, *_BETWEEN, *SIZES, *_NEAR_REAL})
    for _ in range(max(8 if size in _OFTEN else 4 if size in _NEAR_REAL else 1, 60 // size))  # 1 sixty times, ...
)


def _table(low: int, high: int) -> tuple[int, ...]:
    """The sizes in low..high, or ``low`` if there is none."""
    return _SIZES[bisect_left(_SIZES, low) : bisect_right(_SIZES, high)] or (low,)


@lru_cache(maxsize=4096)
def _sizes_between(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from(_table(low, high))


@lru_cache(maxsize=4096)
def _channels(high: int, sides: Shape) -> st.SearchStrategy[int]:
    """Numbers of channels: in half of the draws those of real layers with this kernel, such as 3 for (16, 16).

    Those of a square kernel that no layer has are 3 instead, as in a patch embedding. Each has two neighbours.
    """
    table = _table(1, high)
    real = channels_of(sides, high)
    if not real and len(sides) == 2 and sides[0] == sides[1] and high >= 3:
        real = (3,)
    near = [c + step for c in real for step in (-1, 1) if c > 3 and c + step <= high]
    each = len(table) // max(1, 2 * len(real) + len(near))
    return st.sampled_from(table + tuple(c for c in sorted((*real, *real, *near)) for _ in range(each)))


@lru_cache(maxsize=4096)
def _rows(high: int, allow_empty: bool) -> st.SearchStrategy[int]:
    """Numbers of rows; 0 comes last, in about one of 16 places."""
    table = _table(1, high)
    return st.sampled_from(table + (0,) * (allow_empty * (1 + len(table) // 16)))


@lru_cache(maxsize=8192)
def factorisations(product: int, parts: int) -> tuple[Shape, ...]:
    """All ways to write ``product`` >= 1 as a product of ``parts`` >= 1 factors, the largest first factor first.

    Example:
        >>> factorisations(4, 2)
        ((4, 1), (2, 2), (1, 4))
    """
    if parts == 1:
        return ((product,),)
    small = [k for k in range(1, math.isqrt(product) + 1) if product % k == 0]
    divisors = sorted({*small, *(product // k for k in small)}, reverse=True)
    return tuple((head, *rest) for head in divisors for rest in factorisations(product // head, parts - 1))


_OF_SIDES = {1: 70, 2: 30, 3: 20, 4: 14, 5: 8, 7: 14, 8: 8, 14: 12, 16: 12}  # of 3 for other sides up to 16, 1 beyond


@lru_cache(maxsize=4096)
def _sides(place: int, low: int, high: int, first: int) -> st.SearchStrategy[tuple[int, int]]:
    """Sides of a feature map in low..high, 1 and its neighbours more often; places stay apart (see above).

    A ``first`` side above 1 comes again in a third of the draws: square maps and cubes are what most people have.
    """
    near = range(low, min(high, max(16, low)) + 1)
    far = [size for size in BOUNDARIES if max(16, low) < size <= high]
    table = [(place, s) for s in near for _ in range(_OF_SIDES.get(s, 3))] + [(place, s) for s in far]
    again = len(table) // 2 if first > 1 and low <= first <= high else 0
    return st.sampled_from(table + [(place, first)] * again)


@lru_cache(maxsize=16)
def _ranks(ranks: tuple[int, ...]) -> st.SearchStrategy[int]:
    return st.sampled_from(ranks)


def draw_feature_shape(draw: st.DrawFn, spatial_dims: tuple[int, ...], min_positions: int, max_features: int) -> Shape:
    """A feature shape ``(C, *spatial)``: its rank, each side, then C within what is left: three to five choices."""
    rank, positions = draw(_ranks(spatial_dims + (2,) * (2 in spatial_dims))), 1
    sides: list[int] = []
    for place in range(rank):
        least = -(-min_positions // positions) if place == rank - 1 else 1
        sides.append(draw(_sides(place, least, max_features // positions, sides[0] if sides else 1))[1])
        positions *= sides[-1]
    return (draw(_channels(max_features // positions, tuple(sides))), *sides)


def draw_size(draw: st.DrawFn, high: int) -> int:
    """A size in 1..high, drawn with one choice."""
    return draw(_sizes_between(1, high))


@lru_cache(maxsize=8192)
def _leading(rows: int, rank: int, max_side: int) -> st.SearchStrategy[Shape]:
    """Shapes of this rank with this product, or with the next smaller one that ``max_side`` allows."""
    if rows == 0:
        sides = range(1, min(max_side, 3) + 1)
        return st.sampled_from(
            [(0,) * rank] + [(side,) * d + (0,) + (1,) * (rank - d - 1) for d in range(rank) for side in sides]
        )
    while not (ways := [s for s in factorisations(rows, rank) if max(s) <= max_side]):
        rows -= 1
    return st.sampled_from(ways)


def draw_batch_shape(
    draw: st.DrawFn, ranks: tuple[int, ...], max_rows: int, *, max_side: int | None = None, allow_empty: bool = True
) -> Shape:
    """A leading shape: its rank, its product, and how: three choices at most."""
    rank = draw(_ranks(ranks))
    if rank == 0:
        return ()
    side = max_rows if max_side is None else max_side
    rows = draw(_rows(min(max_rows, side**rank), allow_empty))
    return (rows,) if rank == 1 else draw(_leading(rows, rank, side))


def batch_shapes(
    *, min_dims: int = 0, max_dims: int = 5, max_side: int = 256, max_rows: int = 256, allow_empty: bool = True
) -> st.SearchStrategy[Shape]:
    """Leading shapes: ``()``, ``(1,)``, ``(64,)``, ``(65,)``, ``(0,)``, ``(2, 1, 3)``, and so on.

    The product of a shape is at most ``max_rows``, each side at most ``max_side``; with ``allow_empty`` one in about 16
    has a side of 0. Shrinks to ``()``, or ``(1,) * min_dims``.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(batch_shapes(), lambda shape: len(shape) == 2)
        (1, 1)
        >>> find(batch_shapes(), lambda shape: 0 in shape)
        (0,)
    """
    given = dict(locals())

    def build() -> Callable[[st.DrawFn], Shape]:
        low, high = rank_bounds("min_dims", "max_dims", min_dims, max_dims)
        return partial(
            draw_batch_shape,
            ranks=tuple(range(low, high + 1)),
            max_rows=check_integer("max_rows", max_rows, least=1),
            max_side=check_integer("max_side", max_side, least=1),
            allow_empty=check_bool("allow_empty", allow_empty),
        )

    return lazy(batch_shapes, given, build)


def rank_bounds(low_name: str, high_name: str, low: object, high: object) -> tuple[int, int]:
    """Two ranks in order, 0..MAX_DIMS."""
    least = check_integer(low_name, low, least=0, most=MAX_DIMS)
    return least, check_integer(high_name, high, least=least, most=MAX_DIMS)


def spatial_ranks(value: object) -> tuple[int, ...]:
    """Numbers of spatial dimensions: an int from 1 to 3, or several."""
    return check_choices("spatial_dims", (value,) if isinstance(value, int) else value, (1, 2, 3))


def feature_shapes(
    *, spatial_dims: Sequence[int] = (1, 2, 3), max_features: int = 512, min_positions: int = 1
) -> st.SearchStrategy[Shape]:
    """Feature shapes ``(C, *spatial)`` with ``C * prod(spatial) <= max_features``.

    The product and ``C`` reach 1, 2, 3, the vector widths with their neighbours (7, 8, 9, 15, 16, 17, 31, 32, 33, 63,
    64, 65, 127, 128, 129), primes and powers of two more often than others. Half the shapes have two spatial
    dimensions, nearly half of these with both sides above 1; squares, cubes, and a side of 1 beside a longer one are
    common, and so are kernels with the channels that real models give them, such as (3, 16, 16) and (64, 3, 3), see
    ``equiv.strategies.traffic``; a seventh are 1x1 maps (if ``min_positions`` allows).
    Shrinks to ``(1, 1)``.

    Args:
        spatial_dims: how many spatial dimensions, any of 1, 2, 3.
        max_features: upper bound of the product.
        min_positions: lower bound of ``prod(spatial)``: 2 leaves out the 1x1 maps.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(feature_shapes(spatial_dims=(2,), min_positions=2), lambda shape: True)
        (1, 1, 2)
    """
    given = dict(locals())

    def build() -> Callable[[st.DrawFn], Shape]:
        least = check_integer("min_positions", min_positions, least=1)
        most = check_integer("max_features", max_features, least=least, advice="it bounds C * prod(spatial)")
        ranks = spatial_ranks(spatial_dims)
        return lambda draw: draw_feature_shape(draw, ranks, least, most)

    return lazy(feature_shapes, given, build)


def broadcastable_shapes(
    shape: Sequence[int],
    *,
    min_dims: int = 0,
    max_dims: int | None = None,
    min_side: int = 1,
    max_side: int | None = None,
) -> st.SearchStrategy[Shape]:
    """Shapes that broadcast with ``shape``: aligned from the right, each side is the same or 1 in one of the two.

    Arguments, defaults and shrinking are those of ``hypothesis.extra.numpy.broadcastable_shapes``.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(broadcastable_shapes((4, 3)), lambda shape: len(shape) == 3 and shape[1] > 1)
        (1, 4, 1)
    """
    given = dict(locals())

    def build() -> st.SearchStrategy[Shape]:
        return _of_hypothesis("broadcastable_shapes", {**given, "shape": check_shape("shape", shape)})

    return lazy(broadcastable_shapes, given, build)


def mutually_broadcastable_shapes(
    *,
    num_shapes: int,
    base_shape: Sequence[int] = (),
    min_dims: int = 0,
    max_dims: int | None = None,
    min_side: int = 1,
    max_side: int | None = None,
) -> st.SearchStrategy[Any]:
    """Several shapes that broadcast together, and with ``base_shape``: ``input_shapes``, and their ``result_shape``.

    Arguments, defaults and shrinking are those of ``hypothesis.extra.numpy.mutually_broadcastable_shapes``.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(mutually_broadcastable_shapes(num_shapes=2, min_dims=1), lambda s: s.result_shape == (3,)).input_shapes
        ((1,), (3,))
    """
    given = dict(locals())

    def build() -> st.SearchStrategy[Any]:
        base = check_shape("base_shape", base_shape)
        return _of_hypothesis("mutually_broadcastable_shapes", {**given, "base_shape": base})

    return lazy(mutually_broadcastable_shapes, given, build)


def _of_hypothesis(name: str, given: dict[str, Any]) -> st.SearchStrategy[Any]:
    """The strategy of that name, which comes with those of NumPy; its refusals in our words."""
    from hypothesis.extra import numpy

    for key in ("num_shapes", "min_dims", "max_dims", "min_side", "max_side"):
        if given.get(key) is not None:
            check_integer(key, given[key], least=0)
    try:
        found: st.SearchStrategy[Any] = getattr(numpy, name)(**given)
        found.validate()
    except Exception as error:
        numbers = {key: value for key, value in given.items() if value is not None}
        raise refusal(name, "numbers that leave some shapes", numbers, f"Hypothesis says: {quoted(error)}") from error
    return found
