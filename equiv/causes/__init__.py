"""The likely mistake by name: what turns the right layer, or its right output, into what was seen.

A cause is reported only where it fits: bit for bit between two weights, within the caller's bound between two outputs.
Nothing here decides whether two layers are equivalent; it explains a difference that is already known.
"""

from equiv.causes.weights import Cause, likely_cause, name_cause, name_output_cause

__all__ = ["Cause", "likely_cause", "name_cause", "name_output_cause"]
