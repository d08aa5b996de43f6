"""Runtimes that compute on numpy arrays: tensors go over as arrays, and a program is built once for each kind of call.

A program is what a runtime makes of a graph: a session, a compiled model, a function. Those that take the weights as
inputs are kept by the call's shapes, dtype and steps; those that hold the weights are built for every call.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiv.backends.runtimes.base import Runtime

Program = Callable[..., Any]
"""Takes the input, the weight and the bias where there is one, as arrays; returns an array."""

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
    def result(self) -> tuple[int, ...]:
        """The shape of the result."""
        if not self.dims:
            return (*self.input[:-1], self.weight[0])
        places = zip(self.input[2:], self.weight[2:], self.stride, self.padding, self.dilation, strict=True)
        sizes = ((size + 2 * pad - step * (k - 1) - 1) // stride + 1 for size, k, stride, pad, step in places)
        return (self.input[0], self.weight[0], *sizes)

    @property
    def is_empty(self) -> bool:
        """Whether some tensor has no entries."""
        return 0 in (math.prod(self.input), math.prod(self.weight), math.prod(self.result))


class ArrayRuntime(Runtime):
    """A backend whose runtime takes arrays. Whoever derives from it says in :meth:`build` how a program is made.

    Results carry no gradients. Convolutions without a batch dimension are not served.

    Attributes:
        holds_weights: Whether a program is built for every call, with its weights as constants.
        kept: Programs by the kind of call, the last ones.
        built: How many have been built.
    """

    holds_weights = False

    def __init__(self, /, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kept: OrderedDict[Layer, Program] = OrderedDict()
        self.built = 0
        self._lock = threading.Lock()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A program for calls of this kind.

        Args:
            layer: The kind of call.
            constants: Weight and bias as arrays where :attr:`holds_weights`; the program is then called with the input
                alone. Else empty.

        Raises:
            NotImplementedError: The runtime does not serve such calls.
        """
        raise NotImplementedError

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
        if input.ndim != weight.ndim:
            raise NotImplementedError(f"{self.title} has no convolutions without a batch dimension")
        steps = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._run(Layer.of(input, weight, bias, **steps), input, weight, bias)

    def _run(self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        given, *parameters = (as_array(one) for one in (x, weight, bias) if one is not None)
        if self.holds_weights:
            self.built += 1
            y = self.build(layer, tuple(parameters))(given)
        else:
            y = self.program(layer)(given, *parameters)
        return as_tensor(y)

    def program(self, layer: Layer) -> Program:
        """The program for calls of this kind, built if it is not kept."""
        with self._lock:
            if layer not in self.kept:
                self.kept[layer] = self.build(layer, ())
                self.built += 1
                if len(self.kept) > _KEPT:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(layer)
            return self.kept[layer]


def as_array(x: Tensor) -> Any:
    """A tensor's values as a contiguous array of numpy, which shares its memory where it is contiguous itself.

    Raises:
        NotImplementedError: numpy has no such dtype.
    """
    if x.dtype == torch.bfloat16:
        raise NotImplementedError("numpy has no bfloat16")
    return x.detach().resolve_conj().resolve_neg().contiguous().numpy()


def as_tensor(y: Any) -> Tensor:
    """An array as a tensor with memory of its own: some runtimes write to theirs again."""
    return torch.from_numpy(y if y.flags.owndata and y.flags.writeable else y.copy())
