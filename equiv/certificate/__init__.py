"""Equivalence for all inputs of two layers, modules or functions that are affine, with what the proof rests on."""

from equiv.certificate.report import Certificate
from equiv.certificate.run import certify

__all__ = ["Certificate", "certify"]
