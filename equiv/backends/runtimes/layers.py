"""What runs one kind of call: a program, built once for each kind and kept, which gets the values.

A program is what a runtime makes of a graph: a session, a compiled model, a function.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from equiv.backends.runtimes.base import Runtime

Program = Callable[..., Any]
"""Takes the input, the weight and the bias where there is one; returns the result."""

_KEPT = 256  # programs that an instance holds


@dataclass(frozen=True)
class Layer:
    """A call without its values: what a graph is built from. Hashable, the key of a kept program.

    Attributes:
        dtype: Of every tensor.
        input: ``(*batch, n)``, or ``(N, C, *spatial)``.
        weight: ``(O, n)``, or ``(O, C / groups, *kernel)``.
        bias: Whether there is one, ``(O,)``.
        stride: One number for each dimension, as of ``padding`` and ``dilation``; none of a linear layer.
        padding: Zeros at both ends.
        dilation: Of the kernel.
        groups: Of channels.

    Example:
        >>> Layer.of(torch.ones(2, 3, 5, 5), torch.ones(4, 3, 2, 2), None, stride=2).result
        (2, 4, 2, 2)
    """

    dtype: torch.dtype
    input: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor | None, **steps: int | Sequence[int]) -> Layer:
        """The kind of a call; steps that are not given are the usual ones."""
        dims = weight.ndim - 2
        groups = steps.pop("groups", 1)
        usual: dict[str, int | Sequence[int]] = {"stride": 1, "padding": 0, "dilation": 1, **steps} if dims else {}
        each = {name: (one,) * dims if isinstance(one, int) else tuple(one) for name, one in usual.items()}
        assert isinstance(groups, int)
        return cls(x.dtype, tuple(x.shape), tuple(weight.shape), bias is not None, **each, groups=groups)

    @property
    def dims(self) -> int:
        """Spatial dimensions; 0 for a linear layer."""
        return len(self.weight) - 2

    @property
    def steps(self) -> dict[str, Any]:
        """The keywords of torch's convolutions; none of a linear layer."""
        if not self.dims:
            return {}
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def function(self) -> Callable[..., Tensor]:
        """Torch's own function for this kind of call."""
        return (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)[self.dims]

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of the result."""
        if not self.dims:
            return (*self.input[:-1], self.weight[0])
        places = zip(self.input[-self.dims :], self.weight[2:], self.stride, self.padding, self.dilation, strict=True)
        sizes = ((size + 2 * pad - step * (k - 1) - 1) // stride + 1 for size, k, stride, pad, step in places)
        return (*self.input[: -self.dims - 1], self.weight[0], *sizes)

    @property
    def of_any_size(self) -> Layer:
        """The same with the sizes left out, and the numbers of dimensions kept."""
        return replace(self, input=(0,) * len(self.input), weight=(0,) * len(self.weight))

    @property
    def has_open_batch(self) -> bool:
        """Whether the first size of the input is a number of samples above 1, which a graph can leave open."""
        return len(self.input) > max(1, self.dims + 1) and self.input[0] != 1 and not self.is_empty

    @property
    def of_any_batch(self) -> Layer:
        """The same with the first size of the input left out, where it can be left open."""
        return replace(self, input=(-1, *self.input[1:])) if self.has_open_batch else self

    @property
    def is_empty(self) -> bool:
        """Whether some tensor has no entries."""
        return 0 in (math.prod(self.input), math.prod(self.weight), math.prod(self.result))


class LayerRuntime(Runtime):
    """A backend that runs programs. Whoever derives from it says in :meth:`build` how one is made.

    Attributes:
        kept: Programs by the kind of call, the last ones.
        built: How many have been built.
    """

    def __init__(self, /, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kept: OrderedDict[Layer, Program] = OrderedDict()
        self.built = 0
        self._lock = threading.Lock()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A program for calls of this kind.

        Args:
            layer: The kind of call.
            constants: Weight and bias where the program is to hold them: it is then called with the input alone.

        Raises:
            NotImplementedError: The runtime does not serve such calls.
        """
        raise NotImplementedError

    def key(self, layer: Layer) -> Layer:
        """The kind of calls that a program for this one serves: by default those of the same sizes."""
        return layer

    def program(self, layer: Layer) -> Program:
        """The program for calls of this kind, built if it is not kept."""
        key = self.key(layer)
        with self._lock:
            if key not in self.kept:
                self.kept[key] = self.build(layer, ())
                self.built += 1
                if len(self.kept) > _KEPT:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(key)
            return self.kept[key]

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(*batch, n)``, ``(O, n)``, ``(O,)`` -> ``(*batch, O)``."""
        return self._run(Layer.of(input, weight, bias), input, weight, bias)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        """``(N, C, *spatial)``, ``(O, C / groups, *kernel)``, ``(O,)`` -> ``(N, O, *out)``."""
        steps = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._run(Layer.of(input, weight, bias, **steps), input, weight, bias)

    def _run(self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = self.program(layer)(*(one for one in (x, weight, bias) if one is not None))
        return y
