"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

from equiv.models.dense import FullyConvolutional, to_fully_convolutional
from equiv.models.dense_windows import Windows

__all__: list[str] = ["FullyConvolutional", "Windows", "to_fully_convolutional"]
