"""Whole models: do these two compute the same, where do they first part, and convert one for me."""

from equiv.models.course import diagnose
from equiv.models.diagnosis import Diagnosis, Layer

__all__ = ["Diagnosis", "Layer", "diagnose"]
