"""ncnn: a net of one layer, ``InnerProduct`` or ``Convolution``, which holds its weights."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program

_FLOAT32 = bytes(4)  # before the weights of a model: how they are stored


class Ncnn(ArrayRuntime):
    """ncnn's ``InnerProduct``, ``Convolution1D``, ``Convolution`` and ``Convolution3D`` on the CPU, sample by sample.

    Args:
        storage: Of weights and maps. ncnn's own default is float16.
        winograd: Whether convolutions of 3x3 may go through a transform, as is ncnn's own default.

    Example:
        >>> import torch
        >>> Ncnn().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "ncnn"
    needs: ClassVar[Mapping[str, str]] = {"ncnn": "ncnn"}
    extra = "ncnn"
    holds_weights = True
    capabilities = Capabilities(
        dtypes=["float32"],
        empty_batches=False,
        empty_layers=False,
        gradient_order=0,
        forward_mode=False,
        concurrent=False,
    )

    def __init__(self, *, storage: Literal["float32", "float16"] = "float32", winograd: bool = False) -> None:
        super().__init__(storage=storage, winograd=winograd)

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A net with these weights."""
        import ncnn
        import numpy as np

        if layer.is_empty:
            raise NotImplementedError("ncnn has no empty tensors")
        net = ncnn.Net()
        net.opt.num_threads = 1
        net.opt.use_vulkan_compute = False
        for option in ("use_fp16_storage", "use_fp16_packed", "use_fp16_arithmetic"):
            setattr(net.opt, option, self.arguments["storage"] == "float16")
        net.opt.use_winograd_convolution = self.arguments["winograd"]
        weights = _FLOAT32 + b"".join(one.tobytes() for one in constants)
        with tempfile.NamedTemporaryFile() as file:
            file.write(weights)
            file.flush()
            if net.load_param_mem(_net(layer)) or net.load_model(file.name):
                raise NotImplementedError(f"ncnn does not load {layer}")

        def one(sample: Any) -> Any:
            run = net.create_extractor()
            run.input("x", ncnn.Mat(sample))
            code, y = run.extract("y")
            if code:
                raise RuntimeError(f"ncnn ends with code {code}")
            return np.array(y)

        rows = layer.input[-1:] if not layer.dims else layer.input[1:]

        def program(x: Any) -> Any:
            return np.stack([one(sample) for sample in x.reshape(-1, *rows)]).reshape(layer.result)

        return program


def _net(layer: Layer) -> str:
    """The net as ncnn's text: numbers are keys of a layer's parameters."""
    entries = math.prod(layer.weight)
    numbers = {0: layer.weight[0]}
    if not layer.dims:
        kind, numbers = "InnerProduct", {**numbers, 1: int(layer.bias), 2: entries}
    else:
        kind = ("Convolution1D", "Convolution", "Convolution3D")[layer.dims - 1]
        groups = "DepthWise" if layer.groups > 1 else ""
        kind = f"{kind.removesuffix('1D').removesuffix('3D')}{groups}{kind.removeprefix('Convolution')}"
        places = (1, 11, 21)  # keys of the width; the height's are 10 higher, the depth's 20
        for key, each in ((1, layer.weight[2:]), (2, layer.dilation), (3, layer.stride), (4, layer.padding)):
            numbers |= {key + place - 1: size for place, size in zip(places, reversed(each), strict=False)}
        numbers |= {5: int(layer.bias), 6: entries}
        if layer.groups > 1:
            numbers[7] = layer.groups
    words = " ".join(f"{key}={value}" for key, value in numbers.items())
    return f"7767517\n2 2\nInput in 0 1 x\n{kind} layer 1 1 x y {words}\n"
