"""Linear to convolution and back, in both forms and both directions: the small core.

A layer of weight ``(O, n)`` over a flattened map ``(C, *spatial)``, ``n = C * prod(spatial)``, is a convolution whose
kernel is the whole map (the full form), and a convolution of kernel 1 over n channels (the pointwise form). Any
convolution on a map of fixed shape is one dense layer, a transposed one too. A layer whose result is a flattened map is
a transposed convolution whose kernel is the whole map.
"""

from equiv.mapping.attributes import CONV_TRANSPOSES as CONV_TRANSPOSES
from equiv.mapping.attributes import CONVS as CONVS
from equiv.mapping.attributes import Conv, ConvTranspose
from equiv.mapping.build import undrawn as undrawn
from equiv.mapping.checks import FeatureShape, check_feature_shape
from equiv.mapping.checks import check_product as check_product
from equiv.mapping.conv1d import check_conv1d as check_conv1d
from equiv.mapping.convert import (
    conv_to_linear,
    linear_to_full_conv,
    linear_to_pointwise_conv,
    to_channels,
    to_feature_map,
)
from equiv.mapping.dense_matrix import tap_weights as tap_weights
from equiv.mapping.dense_matrix import taps_as_dense as taps_as_dense
from equiv.mapping.geometry import Axis as Axis
from equiv.mapping.geometry import axes_read as axes_read
from equiv.mapping.geometry import covers as covers
from equiv.mapping.geometry import geometry_of as geometry_of
from equiv.mapping.geometry import inputs_read as inputs_read
from equiv.mapping.geometry import is_unpadded as is_unpadded
from equiv.mapping.geometry import pads_and_positions as pads_and_positions
from equiv.mapping.plain import check_attributes as check_attributes
from equiv.mapping.plain import check_conv, check_conv_transpose, check_linear
from equiv.mapping.plain import is_conv1d as is_conv1d
from equiv.mapping.plain import is_plain_layer as is_plain_layer
from equiv.mapping.transposed import (
    linear_to_full_conv_transpose,
    linear_to_pointwise_conv_transpose,
    linear_to_transformers_conv1d,
)
from equiv.mapping.transposed import plain_form as plain_form

# Listed: for users. Imported under their own names above: for the other packages of equiv.
__all__ = [
    "Conv",
    "ConvTranspose",
    "FeatureShape",
    "check_conv",
    "check_conv_transpose",
    "check_feature_shape",
    "check_linear",
    "conv_to_linear",
    "linear_to_full_conv",
    "linear_to_full_conv_transpose",
    "linear_to_pointwise_conv",
    "linear_to_pointwise_conv_transpose",
    "linear_to_transformers_conv1d",
    "to_channels",
    "to_feature_map",
]
