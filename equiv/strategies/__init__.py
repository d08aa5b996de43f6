"""Hypothesis strategies for layers, feature maps, memory layouts, dtypes and devices. They need no law and no backend.

    from hypothesis import given
    from equiv import strategies as est

    @given(est.tensors((64, 64), kinds=est.FINITE_KINDS, layouts=True))
    def test_my_kernel(t): ...

A tensor is drawn as a small recipe, so a large one costs as few choices as a small one, and shrinks to a handful of
small whole numbers. What is drawn prints as the expression that builds it again. With this package imported,
``st.from_type(torch.Tensor)`` draws small tensors. No global random state is read or set, and no accelerator is
initialised by drawing for the CPU.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401 - a clear message before the modules below need it
except ImportError as error:  # pragma: no cover - needs an environment without hypothesis
    from equiv.errors import MissingExtraError

    raise MissingExtraError(
        "equiv.strategies: expected the package hypothesis, got none; pip install 'torch-equiv[test]'"
    ) from error

from equiv.dtypes import COMPLEX, FLOATS, INTEGERS
from equiv.strategies.bounds import Bounds
from equiv.strategies.case import CONTIGUOUS as CONTIGUOUS
from equiv.strategies.case import Case, Recipe, build_case, cases
from equiv.strategies.case import plainer as plainer
from equiv.strategies.convolution import Convolution, ConvolutionRecipe, build_convolution, convolutions
from equiv.strategies.convolution import like as like
from equiv.strategies.dtype import ALL, devices, dtypes
from equiv.strategies.dtype import devices_present as devices_present
from equiv.strategies.dtype import served as served
from equiv.strategies.fills import FLOAT8
from equiv.strategies.layout import LAYOUTS, Layout, all_layouts, layouts
from equiv.strategies.lazy import StrategyArgumentError
from equiv.strategies.shapes import (
    BOUNDARIES,
    batch_shapes,
    broadcastable_shapes,
    feature_shapes,
    mutually_broadcastable_shapes,
)
from equiv.strategies.shapes import factorisations as factorisations
from equiv.strategies.tensor import build_layer, layers, register_tensors, tensors
from equiv.strategies.traffic import SLIDING as SLIDING
from equiv.strategies.values import FINITE_KINDS, INTEGER_KINDS, KINDS, Values, Window, kinds_for

__all__ = [
    "ALL",
    "BOUNDARIES",
    "COMPLEX",
    "FINITE_KINDS",
    "FLOAT8",
    "FLOATS",
    "INTEGERS",
    "INTEGER_KINDS",
    "KINDS",
    "LAYOUTS",
    "Bounds",
    "Case",
    "Convolution",
    "ConvolutionRecipe",
    "Layout",
    "Recipe",
    "StrategyArgumentError",
    "Values",
    "Window",
    "all_layouts",
    "batch_shapes",
    "broadcastable_shapes",
    "build_case",
    "build_convolution",
    "build_layer",
    "cases",
    "convolutions",
    "devices",
    "dtypes",
    "feature_shapes",
    "kinds_for",
    "layers",
    "layouts",
    "mutually_broadcastable_shapes",
    "tensors",
]

register_tensors()
