"""Three little implementations of linear and convolution."""

from tinykernels.numpy_layers import NumpyLayers
from tinykernels.once import OnceLayers
from tinykernels.shifts import conv2d

__all__ = ["NumpyLayers", "OnceLayers", "conv2d"]
