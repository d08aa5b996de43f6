"""The laws as a conformance suite for other projects: as a pytest decorator, or as one call.

import equiv.testing
from my_kernels import MyBackend

@equiv.testing.parametrize_with_laws(MyBackend())
def test_my_backend(law):
    law()
"""

from equiv.testing import faults
from equiv.testing.benchmark_kernels import backendbench_kernels, kernelbench_problem
from equiv.testing.candidates import LIKES as LIKES
from equiv.testing.check_kernels import check_kernel
from equiv.testing.kernels import Kernels
from equiv.testing.parametrize import parametrize_with_laws
from equiv.testing.parametrize_kernels import parametrize_kernel
from equiv.testing.reasons import named as named
from equiv.testing.reasons import read_reasons as read_reasons
from equiv.testing.results import Results
from equiv.testing.suite import Check, LawBroken, check_backend, checks, devices_under_test
from equiv.testing.suite import called as called
from equiv.testing.transformation import GraphResult, TransformationBroken, check_transformation

__all__ = [
    "Check",
    "GraphResult",
    "Kernels",
    "LawBroken",
    "Results",
    "TransformationBroken",
    "backendbench_kernels",
    "check_backend",
    "check_kernel",
    "check_transformation",
    "checks",
    "devices_under_test",
    "faults",
    "kernelbench_problem",
    "parametrize_kernel",
    "parametrize_with_laws",
]
