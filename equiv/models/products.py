"""Which matrix products and convolutions run when a model is called, in which module, and on which parameters."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equiv.backends import Twin
from equiv.errors import EquivError
from equiv.text import quoted

_NAMES = {"mm", "bmm", "addmm", "addbmm", "baddbmm", "mv", "addmv", "addr", "dot", "vdot", "matmul", "einsum"}
_WORDS = ("_mm", "mm_", "linear", "conv", "attention", "lstm", "gru", "rnn", "trilinear", "transformer_encoder_layer")
_NOT = ("upsample", "backward", "comm_", "unpack", "prepack", "grid_sampler")


class Ran(NamedTuple):
    """One operation in one module."""

    module: str
    kind: str
    operation: str
    parameters: tuple[str, ...]  # names of the parameters among its factors
    converted: bool  # whether it ran in the code of a converted layer


def is_convolution(operation: str) -> bool:
    """Whether an operation of torch is a convolution.

    Example:
        >>> is_convolution("aten.convolution"), is_convolution("aten.addmm")
        (True, False)
    """
    return "conv" in operation


def is_product(operation: str) -> bool:
    """Whether an operation of torch multiplies matrices, a convolution among them.

    Example:
        >>> [is_product(f"aten.{name}") for name in ("addmm", "convolution", "_scaled_mm", "mul")]
        [True, True, True, False]
    """
    name = operation.partition(".")[2]
    return name in _NAMES or (any(word in name for word in _WORDS) and not any(word in name for word in _NOT))


def count_products(model: nn.Module, converted: Collection[str], inputs: Any) -> Counter[Ran]:
    """Run a model once and count its matrix products.

    Args:
        model: Any module.
        converted: Names of the converted layers, the first one of each.
        inputs: As of :func:`run_example`.
    """
    counter = _Counter(model)
    with counter:
        run_example(
            model,
            inputs,
            lambda name, part: counter.inside(part.forward, (name, type(part).__name__, name in converted)),
        )
    return counter.seen


def run_example(model: nn.Module, inputs: Any, forward: Callable[[str, Any], Any]) -> None:
    """Run a model once, with other forwards, without gradients.

    It runs as its :class:`Twin`, in the training mode that it has. Random numbers drawn by it are drawn again by the
    caller.

    Args:
        model: Any module.
        inputs: A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.
        forward: Gives what runs in place of the forward of a module of the twin, of which it gets name and module.

    Raises:
        EquivError: The model does not run on them.
    """
    args: tuple[Any, ...] = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    kwargs: dict[str, Any] = {}
    if isinstance(inputs, Mapping):
        args, kwargs = (), dict(inputs)
    twin = Twin(model)
    for name, part in twin.module.named_modules():
        vars(part)["forward"] = forward(name, part)  # hooks would keep torch from its fast paths
    try:
        with _random_numbers_kept(model), torch.no_grad():
            twin(*args, **kwargs)
    except Exception as error:
        raise EquivError(
            f"example_inputs: expected arguments that the model takes, got some on which it raises "
            f"{type(error).__name__}: {quoted(error, 200)}; pass a tensor, a tuple of arguments or a dict of keywords"
        ) from error


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Ran] = Counter()
        self._stack: list[tuple[str, str, bool]] = []
        self._owners = {
            _memory(parameter): name
            for name, parameter in model.named_parameters()
            if not is_lazy(parameter) and parameter.ndim > 1
        }

    def inside(self, forward: Any, place: tuple[str, str, bool]) -> Any:
        @functools.wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            self._stack.append(place)
            try:
                return forward(*args, **kwargs)
            finally:
                self._stack.pop()

        return called

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = f"{func.namespace}.{func._schema.name.partition('::')[2]}"
        if is_product(operation):
            factors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            named = tuple(self._owners[memory] for memory in map(_memory, factors) if memory in self._owners)
            module, kind, converted = self._stack[-1] if self._stack else ("", "", False)
            self.seen[Ran(module, kind, operation, named, converted)] += 1
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> Any:
    """What two tensors have in common that look at the same memory."""
    try:
        return tensor.untyped_storage()._cdata
    except Exception:  # a subclass without memory of its own
        return id(tensor)


@contextmanager
def _random_numbers_kept(model: nn.Module) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield
