"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

from equiv.models.conversion import Conversion, ConvertedLayer, Product
from equiv.models.course import diagnose
from equiv.models.dense import FullyConvolutional as FullyConvolutional
from equiv.models.dense import to_fully_convolutional
from equiv.models.dense_windows import Windows
from equiv.models.diagnosis import Diagnosis, Layer
from equiv.models.linear_again import to_linear
from equiv.models.patches import PatchLinear as PatchLinear
from equiv.models.patches import to_patch_linear
from equiv.models.pointwise import to_pointwise
from equiv.models.pointwise_layers import PointwiseLinear as PointwiseLinear
from equiv.models.positionwise import PositionwiseLinear as PositionwiseLinear

# Listed: for users. Imported under their own names above: for the other packages of equiv.
__all__ = [
    "Conversion",
    "ConvertedLayer",
    "Diagnosis",
    "Layer",
    "Product",
    "Windows",
    "diagnose",
    "to_fully_convolutional",
    "to_linear",
    "to_patch_linear",
    "to_pointwise",
]
