"""Who runs a form. A backend carries out two operations on given tensors; the rest is the business of the laws."""

from equiv.backends.base import FORMS, Backend
from equiv.backends.eager import TorchEager

__all__ = ["FORMS", "Backend", "TorchEager"]
