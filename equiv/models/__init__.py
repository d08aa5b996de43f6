"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

from equiv.models.dense import FullyConvolutional, to_fully_convolutional
from equiv.models.dense_windows import Windows
from equiv.models.patches import PatchLinear, to_patch_linear

__all__: list[str] = ["FullyConvolutional", "PatchLinear", "Windows", "to_fully_convolutional", "to_patch_linear"]
