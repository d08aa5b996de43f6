"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

from equiv.models.conversion import Conversion, ConvertedLayer, Product
from equiv.models.course import diagnose
from equiv.models.diagnosis import Diagnosis, Layer
from equiv.models.linear_again import to_linear
from equiv.models.pointwise import to_pointwise
from equiv.models.pointwise_layers import PointwiseLinear as PointwiseLinear
from equiv.models.positionwise import PositionwiseLinear as PositionwiseLinear

__all__ = ["Conversion", "ConvertedLayer", "Diagnosis", "Layer", "Product", "diagnose", "to_linear", "to_pointwise"]
