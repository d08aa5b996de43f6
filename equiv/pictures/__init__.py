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
    from equiv.pictures.forms import of_forms as of_forms
    from equiv.pictures.layers import of_diagnosis as of_diagnosis
    from equiv.pictures.matrices import of_counterexample as of_counterexample
    from equiv.pictures.orders import of_measured as of_measured
    from equiv.pictures.outputs import of_verdict as of_verdict
    from equiv.pictures.weights import of_certificate as of_certificate

_NAMES = {
    "canvas": ("Picture", "png", "svg"),
    "forms": ("of_forms",),
    "layers": ("of_diagnosis",),
    "matrices": ("of_counterexample",),
    "orders": ("of_measured",),
    "outputs": ("of_verdict",),
    "weights": ("of_certificate",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["png", "svg"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'equiv.pictures' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"equiv.pictures.{_HOME[name]}"), name)
    return value
