"""Is a flattened layer a 1x1 convolution over the map that was flattened? The closest one, and where it fails."""

from equiv.structure.search import Counterexample, counterexample

__all__ = ["Counterexample", "counterexample"]
