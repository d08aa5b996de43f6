"""A case as one line of JSON and back, so that a cache, a command or a report can hold what failed.

Text is data: reading it builds the classes named here and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import torch

from equiv.arguments import check_words, refusal
from equiv.dtypes import BY_NAME, dtype_name
from equiv.errors import EquivError
from equiv.laws.checks.boundaries import SizedCase
from equiv.laws.registry import LAWS
from equiv.laws.selection import Item
from equiv.strategies import (
    Case,
    Convolution,
    ConvolutionRecipe,
    Layout,
    Recipe,
    Values,
    Window,
    build_case,
    build_convolution,
)

_KINDS = (Recipe, ConvolutionRecipe, SizedCase)
_CLASSES: dict[str, type[Any]] = {kind.__name__: kind for kind in (*_KINDS, Values, Window, Layout)}


@dataclass(frozen=True)
class Stored:
    """A case, and the law that it is a case of."""

    law: str
    case: Case | Convolution | SizedCase

    def fits(self, item: Item) -> bool:
        """Whether it is a case of the item: of its law, in its dtype, on its device."""
        device = torch.device(self.case.device)
        return (self.law, self.case.dtype, device) == (item.law.id, item.dtype, torch.device(item.backend.device))


def case_text(law: str, case: object) -> str | None:
    """A case of a law as one line of JSON; None for a case of a class that a user's own law draws.

    Example:
        >>> case = build_case(Recipe((2, 1), 1, (), x=Values("distinct"), weight=Values("constant")))
        >>> text = case_text("exact", case)
        >>> text[:60]
        '{"law":"exact","case":{"Recipe":{"feature_shape":[2,1],"out_'
        >>> read_case(text).case.x
        tensor([1., 2.])
    """
    recipe = case.recipe if isinstance(case, Case | Convolution) else case
    if not isinstance(recipe, _KINDS):
        return None
    return json.dumps({"law": law, "case": _plain(recipe)}, separators=(",", ":"))


def read_case(text: str, *, argument: str = "case") -> Stored:
    """What :func:`case_text` wrote.

    Raises:
        EquivError: The text holds no case of a law that there is.
    """
    check_words(argument, text)
    try:
        read = json.loads(text)
        law, recipe = read["law"], _built(read["case"])
        if law not in LAWS or not isinstance(recipe, _KINDS):
            raise ValueError("no case of a law")
        if isinstance(recipe, ConvolutionRecipe):
            return Stored(law, build_convolution(recipe))
        return Stored(law, build_case(recipe) if isinstance(recipe, Recipe) else recipe)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, EquivError):
            raise
        expected = 'a case as a failure prints it, {"law": ..., "case": ...}'
        raise refusal(argument, expected, text, "copy it whole, in single quotes") from error


def _plain(value: Any) -> Any:
    """In JSON's types: of a dataclass its name and the fields that differ from their defaults."""
    if type(value).__name__ in _CLASSES:
        changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
        return {type(value).__name__: {name: _plain(part) for name, part in changed.items()}}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return dtype_name(value) if isinstance(value, torch.dtype) else value


def _built(value: Any) -> Any:
    """The value that :func:`_plain` was given."""
    if isinstance(value, list):
        return tuple(_built(part) for part in value)
    if not isinstance(value, dict):
        return value
    ((name, given),) = value.items()
    built = {key: _built(part) for key, part in given.items()}
    return _CLASSES[name](**{key: BY_NAME[part] if key == "dtype" else part for key, part in built.items()})
