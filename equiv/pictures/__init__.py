"""What does it look like? Verdicts, counterexamples, certificates, diagnoses and orders of summation as pictures.

The objects have ``.plot()`` for it. matplotlib (extra ``plot``) is imported when the first picture is drawn, never
pyplot: no figure stays behind, and no setting of the caller's changes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiv.pictures.notebook import in_notebook as in_notebook

if TYPE_CHECKING:
    from equiv.pictures.canvas import Picture as Picture
    from equiv.pictures.canvas import png as png
    from equiv.pictures.canvas import svg as svg

_HOME = {"Picture": "canvas", "png": "canvas", "svg": "canvas"}

__all__ = ["Picture", "png", "svg"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'equiv.pictures' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"equiv.pictures.{_HOME[name]}"), name)
    return value
