"""AOTInductor: an exported layer compiled ahead into a library, which takes a compiler of C++."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.exported import program_of
from equiv.backends.runtimes.layers import Layer, LayerRuntime, Program


class AOTInductor(LayerRuntime):
    """AOTInductor: exported layers compiled to libraries. A compile takes some 10 to 60 seconds.

    Args:
        dynamic: Whether the first size of the input is left open, where it is above 1, or each has its library.
    """

    title = "torch.aotinductor"
    torchs = True
    slow = True
    capabilities = Capabilities(gradient_order=0, forward_mode=False, concurrent=False)

    def __init__(self, *, dynamic: bool = True) -> None:
        super().__init__(dynamic=dynamic)

    def key(self, layer: Layer) -> Layer:
        """Libraries for batches of every size above 1, or for each size."""
        return layer.of_any_batch if self.arguments["dynamic"] else layer

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """The function of a library, which is loaded from a folder that is removed again."""
        from torch import _inductor

        exported = program_of(layer, dynamic=self.arguments["dynamic"])
        with tempfile.TemporaryDirectory(prefix="equiv-") as folder:
            package = _inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "layer.pt2"))
            loaded = _inductor.aoti_load_package(package)
        return lambda *given: cast(Callable[..., Tensor], loaded)(*(one.detach() for one in given))
