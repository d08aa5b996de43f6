"""A smaller case that breaks the same law: what Hypothesis's shrinking leaves is tried once more, size by size.

Sizes are drawn from tables, and Hypothesis looks for the smallest place in each. It assumes that what fails at a size
fails at larger ones too: a fault that needs 7 outputs modulo 8 comes out with 31, 63 or 127 of them. Here every size up
to 32 is tried, smallest first, then those where kernels change, within a bounded number of trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from equiv.laws.call import Broken
from equiv.laws.checks.boundaries import SizedCase
from equiv.laws.selection import Item
from equiv.laws.witness.replay import tried
from equiv.strategies import BOUNDARIES, CONTIGUOUS, Case, Recipe, Window, build_case, plainer

_TRIALS, _SECONDS = 200, 3.0
_ALL = 32  # sizes up to here are tried one by one
_ENTRIES = 12  # single entries of a tensor that are tried alone


def smaller(
    broken: Broken, case: Any, *, item: Item, measured: bool = False, trials: int = _TRIALS, seconds: float = _SECONDS
) -> tuple[Broken, Any]:
    """The smallest case found that still breaks the item's law, and how; what was given where none is smaller.

    At most ``trials`` cases are tried, and none after ``seconds``. See :class:`equiv.laws.Trial` for ``measured``.
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
        search.rounder()
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
        for place in _places(self.best):
            now = _size(self.best, place)
            low = 0
            for size in [*range(1, min(now - 1, _ALL) + 1), *(size for size in BOUNDARIES if _ALL < size < now)]:
                if self.breaks(_resized(self.best, place, size)):
                    break
                low = size
            high = _size(self.best, place)
            while high > _ALL and high - low > 1 and self.left > 0:  # low holds, high does not
                middle = (low + high) // 2
                low, high = (low, middle) if self.breaks(_resized(self.best, place, middle)) else (middle, high)

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

    def rounder(self) -> None:
        """Zeros or small whole numbers in place of the values of bias, input and weight."""
        for name in ("bias", "x", "weight"):
            values = getattr(self.best, name)
            for plain in plainer(values) if values else ():
                before, change = (self.best, self.broken), {name: plain}
                if not self.breaks(replace(self.best, **cast(dict[str, Any], change))):
                    continue
                if _is_of_gradient(before[1]) and not _is_of_gradient(self.broken):
                    self.best, self.broken = before  # it would show on other values than those of the case alone
                    continue
                break


def _is_of_gradient(broken: Broken) -> bool:
    """Whether the failure is a gradient that the tensors of its call show."""
    return broken.mismatch is not None and broken.mismatch.gradient is not None


Place = tuple[str, int | None]  # a field of a recipe, and where in it if it is a shape


def _places(recipe: Recipe | SizedCase) -> list[Place]:
    """Where a recipe has its sizes."""
    batch: list[Place] = [("batch_shape", i) for i in range(len(recipe.batch_shape))]
    if isinstance(recipe, SizedCase):
        return [*batch, ("out_features", None), ("in_features", None)]
    return [*batch, ("out_features", None), *(("feature_shape", i) for i in range(len(recipe.feature_shape)))]


def _size(recipe: Recipe | SizedCase, place: Place) -> int:
    name, index = place
    return int(getattr(recipe, name) if index is None else getattr(recipe, name)[index])


def _resized(recipe: Any, place: Place, size: int) -> Any:
    """The recipe with another size in a place; None where that would make one position of several.

    A law may be about maps with several positions, and Hypothesis has tried one itself.
    """
    name, index = place
    if index is None:
        shape = {"feature_shape": (size, *(1,) * (len(recipe.feature_shape) - 1))} if name == "in_features" else {}
        return replace(recipe, **{name: size}, **shape)
    before = getattr(recipe, name)
    after = (*before[:index], size, *before[index + 1 :])
    if name == "feature_shape" and math.prod(before[1:]) > 1 and math.prod(after[1:]) == 1:
        return None
    return replace(recipe, **{name: after})
