"""The likely mistake by name, with the line that mends it: what turned the right layer or output into what was seen.

A cause is reported only where it fits: bit for bit between two weights, within the caller's bound between two outputs.
Nothing here decides whether two layers are equivalent; it explains a difference that is already known.
"""

from equiv.causes.convolutions import sliding_cause
from equiv.causes.directions import name_misrounding
from equiv.causes.directions import rounding_cause as rounding_cause
from equiv.causes.folds import EPSILONS as EPSILONS
from equiv.causes.folds import BatchNorm as BatchNorm
from equiv.causes.folds import fold_mistakes as fold_mistakes
from equiv.causes.folds import right_fold as right_fold
from equiv.causes.mistakes import Cause
from equiv.causes.outputs import likely_cause, name_output_cause
from equiv.causes.weights import name_cause
from equiv.causes.windows import on_maps as on_maps

__all__ = ["Cause", "likely_cause", "name_cause", "name_misrounding", "name_output_cause", "sliding_cause"]
