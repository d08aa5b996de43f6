"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

from equiv.models.dense import FullyConvolutional as FullyConvolutional
from equiv.models.dense import to_fully_convolutional
from equiv.models.dense_windows import Windows
from equiv.models.patches import PatchLinear as PatchLinear
from equiv.models.patches import to_patch_linear

# Listed: for users. Imported under their own names above: for the other packages of equiv.
__all__: list[str] = ["Windows", "to_fully_convolutional", "to_patch_linear"]
