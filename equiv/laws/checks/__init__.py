"""The fifteen laws: one function each, registered when its module is imported."""

from equiv.laws.checks import (
    batches,
    boundaries,
    gradients,
    larger_maps,
    layouts,
    purity,
    round_trips,
    transforms,
    values,
)

__all__ = [
    "batches",
    "boundaries",
    "gradients",
    "larger_maps",
    "layouts",
    "purity",
    "round_trips",
    "transforms",
    "values",
]
