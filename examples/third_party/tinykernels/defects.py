"""Deliberate defects, one at a time: ``TINYKERNELS_DEFECT=numpy-tail pytest``."""

from __future__ import annotations

import os

DEFECTS = (
    "numpy-tail",
    "numpy-bias",
    "once-bias-gradient",
    "once-weight-gradient",
    "shifts-transposed",
    "shifts-stride",
)


def has(defect: str) -> bool:
    """Whether this defect is switched on."""
    return os.environ.get("TINYKERNELS_DEFECT") == defect
