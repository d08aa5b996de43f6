"""Every law of torch-equiv that these kernels serve."""

from collections.abc import Callable

import equiv.testing
from equiv.backends import Backend
from equiv.testing import Kernels

from tinykernels import NumpyLayers, OnceLayers, conv2d

BACKENDS: list[Backend] = [NumpyLayers(), OnceLayers(), Kernels(conv2d=conv2d, name="shifts")]


@equiv.testing.parametrize_with_laws(BACKENDS)
def test_laws(law: Callable[[], object]) -> None:
    law()
