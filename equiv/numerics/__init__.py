"""Bounds and probes: the interval in which the outputs of right kernels lie, and inputs on which all of them agree."""

from equiv.dtypes import COMPLEX, DTYPES, FLOATS, INTEGERS
from equiv.numerics.arithmetic import OPS, Arithmetic, declared
from equiv.numerics.arithmetic import check_arithmetic as check_arithmetic
from equiv.numerics.directions import DIRECTIONS as DIRECTIONS
from equiv.numerics.directions import STOCHASTIC as STOCHASTIC
from equiv.numerics.directions import Between as Between
from equiv.numerics.directions import between as between
from equiv.numerics.directions import nearest_of as nearest_of
from equiv.numerics.envelope import Judgement, judge
from equiv.numerics.exact import SMALL_FACTORS as SMALL_FACTORS
from equiv.numerics.exact import Classes as Classes
from equiv.numerics.exact import Exact, exact_affine
from equiv.numerics.formats import Format, bit_equal, format_of, ordinal, round_down, round_nearest, round_up, same_bits
from equiv.numerics.formats import from_ordinal as from_ordinal
from equiv.numerics.formats import gap_words as gap_words
from equiv.numerics.formats import surely_bit_equal as surely_bit_equal
from equiv.numerics.measuring import measure
from equiv.numerics.measuring.findings import Finding, Measured
from equiv.numerics.measuring.fprev import Order
from equiv.numerics.measuring.measure import forget
from equiv.numerics.nearest import Misrounding as Misrounding
from equiv.numerics.nearest import Rounded as Rounded
from equiv.numerics.nearest import misrounding as misrounding
from equiv.numerics.outputs import Assessment, Reference, assess, tolerance
from equiv.numerics.probes import STYLES, address_coded_weight, entry_range, exact_case, exact_range, one_hot_rows
from equiv.numerics.reference import dot_double_double, exact_integers
from equiv.numerics.reference import fast_two_sum as fast_two_sum
from equiv.numerics.reference import two_product as two_product
from equiv.numerics.reference import two_sum as two_sum
from equiv.numerics.roundings import Rounding
from equiv.numerics.roundings import rounding_to as rounding_to
from equiv.numerics.settled import last_bit as last_bit
from equiv.numerics.splitting import dot_integers as dot_integers
from equiv.numerics.surroundings import flushing_is_on as flushing_is_on
from equiv.numerics.surroundings import gradients_recorded as gradients_recorded
from equiv.numerics.surroundings import plain_torch as plain_torch
from equiv.numerics.surroundings import subnormals_kept as subnormals_kept
from equiv.numerics.surroundings import threads as threads
from equiv.numerics.winograd import winograd

# Listed: for users. Imported under their own names above: for the other packages of equiv.
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
    "Rounding",
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
    "round_nearest",
    "round_up",
    "same_bits",
    "tolerance",
    "winograd",
]
