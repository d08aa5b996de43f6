"""Is this convolution the same function as that fully connected layer? A verdict with evidence.

The names below load on first use, so that ``import equiv`` costs nothing and a pytest run that merely has
the package installed does not start torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv import laws as laws
    from equiv import numerics as numerics
    from equiv import strategies as strategies
    from equiv import testing as testing
    from equiv.causes import Cause as Cause
    from equiv.certificate import Certificate as Certificate
    from equiv.certificate import certify as certify
    from equiv.errors import EquivError as EquivError
    from equiv.errors import MissingExtraError as MissingExtraError
    from equiv.mapping import conv_to_linear as conv_to_linear
    from equiv.mapping import linear_to_full_conv as linear_to_full_conv
    from equiv.mapping import linear_to_full_conv_transpose as linear_to_full_conv_transpose
    from equiv.mapping import linear_to_pointwise_conv as linear_to_pointwise_conv
    from equiv.mapping import linear_to_pointwise_conv_transpose as linear_to_pointwise_conv_transpose
    from equiv.mapping import linear_to_transformers_conv1d as linear_to_transformers_conv1d
    from equiv.mapping import to_channels as to_channels
    from equiv.mapping import to_feature_map as to_feature_map
    from equiv.models import Diagnosis as Diagnosis
    from equiv.models import diagnose as diagnose
    from equiv.models import to_fully_convolutional as to_fully_convolutional
    from equiv.models import to_linear as to_linear
    from equiv.models import to_patch_linear as to_patch_linear
    from equiv.models import to_pointwise as to_pointwise
    from equiv.structure import Counterexample as Counterexample
    from equiv.structure import counterexample as counterexample
    from equiv.verdict import NotEquivalent as NotEquivalent
    from equiv.verdict import Outcome as Outcome
    from equiv.verdict import Verdict as Verdict
    from equiv.verdict import assert_equivalent as assert_equivalent
    from equiv.verdict import compare as compare

__version__ = "0.1.0"

_NAMES = {
    "causes": ("Cause",),
    "certificate": ("Certificate", "certify"),
    "errors": ("EquivError", "MissingExtraError"),
    "mapping": (
        *("conv_to_linear", "linear_to_full_conv", "linear_to_pointwise_conv", "to_channels", "to_feature_map"),
        *("linear_to_full_conv_transpose", "linear_to_pointwise_conv_transpose", "linear_to_transformers_conv1d"),
    ),
    "models": ("Diagnosis", "diagnose", "to_fully_convolutional", "to_linear", "to_patch_linear", "to_pointwise"),
    "structure": ("Counterexample", "counterexample"),
    "verdict": ("NotEquivalent", "Outcome", "Verdict", "assert_equivalent", "compare"),
}
_HOME = {name: package for package, names in _NAMES.items() for name in names}
_PACKAGES = ("laws", "numerics", "strategies", "testing")

__all__ = ["__version__", *sorted(_HOME), *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'equiv' has no attribute {name!r}")
    module = import_module(f"equiv.{_HOME.get(name, name)}")
    value = globals()[name] = getattr(module, name) if name in _HOME else module
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
