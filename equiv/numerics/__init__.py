"""Bounds and probes: what a right kernel may return (envelope), and where it has no choice (exact probes)."""

from equiv.numerics.arithmetic import OPS, Arithmetic, declared
from equiv.numerics.envelope import Exact, Judgement, exact_affine, judge
from equiv.numerics.formats import (
    COMPLEX,
    DTYPES,
    FLOATS,
    INTEGERS,
    Format,
    bit_equal,
    format_of,
    ordinal,
    round_down,
    round_up,
    same_bits,
)
from equiv.numerics.fprev import Order
from equiv.numerics.measure import forget, measure
from equiv.numerics.measured import Finding, Measured
from equiv.numerics.outputs import Assessment, Reference, assess, tolerance
from equiv.numerics.probes import STYLES, address_coded_weight, entry_range, exact_case, exact_range, one_hot_rows
from equiv.numerics.reference import dot_double_double, exact_integers

__all__ = [
    "COMPLEX",
    "DTYPES",
    "FLOATS",
    "INTEGERS",
    "OPS",
    "STYLES",
    "Arithmetic",
    "Assessment",
    "Exact",
    "Finding",
    "Format",
    "Judgement",
    "Measured",
    "Order",
    "Reference",
    "address_coded_weight",
    "assess",
    "bit_equal",
    "declared",
    "dot_double_double",
    "entry_range",
    "exact_affine",
    "exact_case",
    "exact_integers",
    "exact_range",
    "forget",
    "format_of",
    "judge",
    "measure",
    "one_hot_rows",
    "ordinal",
    "round_down",
    "round_up",
    "same_bits",
    "tolerance",
]
