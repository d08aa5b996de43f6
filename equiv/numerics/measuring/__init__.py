"""What a kernel really computes in, found by small calls: precision of factors and sums, rounding, flushing, order."""

from equiv.numerics.measuring.findings import Finding, Measured
from equiv.numerics.measuring.fprev import Order
from equiv.numerics.measuring.measure import forget, measure

__all__ = ["Finding", "Measured", "Order", "forget", "measure"]
