"""A smaller case that breaks the same law: what Hypothesis's shrinking leaves is tried once more, size by size.

Sizes are drawn from tables, and Hypothesis looks for the smallest place in each. It assumes that what fails at a size
fails at larger ones too: a fault that needs 7 outputs modulo 8 comes out with 31, 63 or 127 of them. Here every size up
to 32 is tried, smallest first, then those where kernels change, within a bounded number of trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from equiv.laws.call import Broken
from equiv.laws.checks.boundaries import SizedCase
from equiv.laws.selection import Item
from equiv.laws.witness.replay import tried
from equiv.strategies import BOUNDARIES, CONTIGUOUS, Case, Recipe, Window, build_case

_TRIALS, _SECONDS = 200, 3.0
_ALL = 32  # sizes up to here are tried one by one
_ENTRIES = 12  # single entries of a tensor that are tried alone


def smaller(
    broken: Broken,
    case: Any,
    *,
    item: Item,
    measured: bool = False,
    trials: int = _TRIALS,
    seconds: float = _SECONDS,
) -> tuple[Broken, Any]:
    """The smallest case found that still breaks the law, and how; what was given where none is smaller.

    Args:
        broken: How the case breaks the law.
        case: An ``equiv.strategies.Case`` or ``equiv.laws.SizedCase``; any other is given back.
        item: The law, the forms, and who runs them.
        measured: Whether envelopes follow measured arithmetic.
        trials: Most cases to try.
        seconds: Start no trial after this time.
    """
    recipe = case.recipe if isinstance(case, Case) else case
    if not isinstance(recipe, Recipe | SizedCase):
        return broken, case
    search = _Search(broken, recipe, item, measured, trials, time.monotonic() + seconds)
    if broken.form in item.forms and len(item.forms) > 1:
        search.item = replace(item, forms=(broken.form,))
    if not search.breaks(recipe):
        search.item = item
        if not search.breaks(recipe):
            return broken, case  # it does not fail every time: there is nothing to learn from another case
    if isinstance(recipe, Recipe):
        search.plainer()
    for _ in range(2):  # a second round, as one size may have kept another large
        before = search.best
        search.shorter()
        if search.best == before:
            break
    if isinstance(recipe, Recipe):
        search.sparser()
    return search.broken, build_case(search.best) if isinstance(search.best, Recipe) else search.best


@dataclass
class _Search:
    """What is known so far: the smallest recipe that breaks the law, and how many trials are left until when."""

    broken: Broken
    best: Recipe | SizedCase
    item: Item
    measured: bool
    left: int
    deadline: float

    def breaks(self, recipe: Recipe | SizedCase | None) -> bool:
        """Whether the recipe breaks the law too; if so it is the best from now on."""
        if recipe is None or self.left <= 0 or time.monotonic() > self.deadline:
            return False
        self.left -= 1
        case = build_case(recipe) if isinstance(recipe, Recipe) else recipe
        found = tried(self.item, case, measured=self.measured)
        if found is None:
            return False
        self.best, self.broken = recipe, found
        return True

    def plainer(self) -> None:
        """All values rather than some of them, which have other places at other sizes; no layouts, no bias."""
        assert isinstance(self.best, Recipe)
        for changes in (
            {"x": replace(self.best.x, window=Window()), "weight": replace(self.best.weight, window=Window())},
            {"layouts": (CONTIGUOUS,) * 4},
            {"bias": None},
        ):
            changed = replace(self.best, **changes)
            if changed != self.best:
                self.breaks(changed)

    def shorter(self) -> None:
        """Every size in turn."""
        for size_of, resized in _dimensions(self.best):
            now = size_of(self.best)
            low = 0
            for size in [*range(1, min(now - 1, _ALL) + 1), *(size for size in BOUNDARIES if _ALL < size < now)]:
                if self.breaks(resized(self.best, size)):
                    break
                low = size
            high = size_of(self.best)
            while high > _ALL and high - low > 1 and self.left > 0:  # low holds, high does not
                middle = (low + high) // 2
                low, high = (low, middle) if self.breaks(resized(self.best, middle)) else (middle, high)

    def sparser(self) -> None:
        """One entry of the input, then of the weight, in place of all."""
        for name in ("x", "weight"):
            assert isinstance(self.best, Recipe)
            values, n = getattr(self.best, name), math.prod(self.best.feature_shape)
            count = n * (math.prod(self.best.batch_shape) if name == "x" else self.best.out_features)
            if values.window == Window() and count > 1:
                places = range(1, min(count, _ENTRIES) + 1) if count <= _ENTRIES else (*range(1, _ENTRIES), count)
                windows = (Window(end=None if place == count else place, length=1) for place in places)
                singles: Iterator[dict[str, Any]] = ({name: replace(values, window=window)} for window in windows)
                any(self.breaks(replace(self.best, **single)) for single in singles)


SizeOf = Callable[[Any], int]
Resized = Callable[[Any, int], Any]


def _dimensions(recipe: Recipe | SizedCase) -> Iterator[tuple[SizeOf, Resized]]:
    """How to read each size of a recipe and how to change it. The spatial sides keep more than one position apart."""
    for place in range(len(recipe.batch_shape)):
        yield _dimension("batch_shape", place)
    yield lambda r: int(r.out_features), lambda r, size: replace(r, out_features=size)
    if isinstance(recipe, SizedCase):
        yield (
            lambda r: int(r.in_features),
            lambda r, size: replace(r, in_features=size, feature_shape=(size, *(1,) * (len(r.feature_shape) - 1))),
        )
        return
    for place in range(len(recipe.feature_shape)):
        # One position is another case: a law may be about maps with several, and Hypothesis has tried 1 itself.
        is_map = place > 0 and math.prod(recipe.feature_shape[1:]) > 1
        yield _dimension("feature_shape", place, positions=2 if is_map else 1)


def _dimension(name: str, place: int, *, positions: int = 1) -> tuple[SizeOf, Resized]:
    def size_of(recipe: Any) -> int:
        return int(getattr(recipe, name)[place])

    def resized(recipe: Any, size: int) -> Any:
        shape = getattr(recipe, name)
        changed = (*shape[:place], size, *shape[place + 1 :])
        return None if math.prod(changed[1:]) < positions else replace(recipe, **{name: changed})

    return size_of, resized
