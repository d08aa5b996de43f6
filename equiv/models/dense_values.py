"""What is known of a tensor inside a classifier while it is rewritten, and how operations are called by name."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from equiv.errors import EquivError
from equiv.models.dense_windows import Axis


@dataclass(frozen=True)
class Value:
    """A map ``(N, channels, *sizes)``, whatever shape the classifier gives it at the example's size.

    The rewritten model always holds it as a map: ``(N, channels, *positions)``, or ``(N, *positions, channels)``.

    Attributes:
        channels: C.
        axes: One for each spatial axis.
        shape: What the classifier has, on the example.
        last: Whether the map has its channels last.
        by_position: Whether ``shape`` is flattened with the channels last.
    """

    channels: int
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    last: bool = False
    by_position: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Positions along each axis, on the example."""
        return tuple(axis.size for axis in self.axes)

    @property
    def positions(self) -> int:
        """How many there are, on the example."""
        return math.prod(self.sizes)

    @property
    def is_map(self) -> bool:
        """Whether the classifier too has it as ``(N, C, *spatial)``."""
        return not self.last and self.shape[1:] == (self.channels, *self.sizes)

    @property
    def is_map_last(self) -> bool:
        """Whether the classifier too has it as ``(N, *spatial, C)``, or with all positions in one axis."""
        return self.last and self.shape[1:] in ((*self.sizes, self.channels), (self.positions, self.channels))

    @property
    def is_vector(self) -> bool:
        """Whether its last axis holds all features, and there is no other."""
        return not self.last and math.prod(self.shape[1:]) == self.shape[-1] == self.channels * self.positions

    def is_channels(self, dim: Any) -> bool:
        """Whether this axis of the classifier's tensor runs over the channels, and over nothing else."""
        ndim = len(self.shape)
        if not isinstance(dim, int) or not -ndim <= dim < ndim:
            return False
        at = dim % ndim
        if self.is_map_last:
            return at == ndim - 1
        if self.is_map:
            return at == 1
        return self.positions == 1 and not self.last and at > 0 and self.shape[at] == self.channels

    def like(self, axes: tuple[Axis, ...], shape: Any, channels: int | None = None) -> Value:
        """The same with other axes."""
        return replace(self, axes=axes, shape=tuple(shape), channels=self.channels if channels is None else channels)


def name_of(node: fx.Node, module: nn.Module | None) -> str:
    """The operation of a node, as rules are looked up: the class of a module, else the name of a function or method.

    A function of torch that works in place has the name of the one that does not; one of somebody else's has its
    module in front.
    """
    if module is not None:
        return type(module).__name__
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).removeprefix("aten::").rstrip("_")
    home, name = str(getattr(target, "__module__", "") or ""), str(getattr(target, "__name__", target))
    ours = home.split(".")[0] in ("", "torch", "_operator", "math", "builtins")
    if not ours:
        return f"{home}.{name}"
    return name.rstrip("_") if not name.startswith("_") else name


def place_of(node: fx.Node) -> str:
    """Where in the model a node comes from, in words."""
    stack = node.meta.get("nn_module_stack") or {}
    held = [entry[0] if isinstance(entry, tuple) else entry for entry in stack.values()]
    paths = [str(path).removeprefix("L['self'].").replace("L['self']", "") for path in held]
    path = str(node.target) if node.op == "call_module" else next((p for p in reversed(paths) if p), "")
    return f"model.{path}" if path else "model"


def refusal_at(node: fx.Node, what: str, why: str, advice: str) -> EquivError:
    """What is not the same function on every window, and what would be."""
    return EquivError(
        f"{place_of(node)}: expected layers that a window of a larger map cannot tell from its own, got {what}, {why}; "
        f"{advice}"
    )


def bound(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a function's node by name, the first being its input."""
    given = dict(zip(names, node.args, strict=False))
    aliases = {"self": names[0], "x": names[0]}
    return {**given, **{aliases.get(key, key): value for key, value in node.kwargs.items()}}
