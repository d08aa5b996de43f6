"""``torch.compile``: each kind of call a function of its own, compiled as a whole or not at all."""

from __future__ import annotations

import types
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, cast

import torch
from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.layers import Layer, LayerRuntime, Program

_MANY = 1_000_000  # recompilations: at its limit, torch would run eagerly without a word
_LIMITS = ("recompile_limit", "accumulated_recompile_limit")


class Compiled(LayerRuntime):
    """torch.compile, of the whole function: what cannot be compiled raises, and nothing falls back to eager.

    Args:
        backend: The compiler: ``inductor``, or ``aot_eager``, which traces forward and backward and runs them as they
            are.
        dynamic: Whether one program serves all sizes, or one is compiled for each.

    Example:
        >>> Compiled(backend="aot_eager").linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "torch.compile"
    torchs = True
    slow = True
    capabilities = Capabilities(gradient_order=1, forward_mode=False, concurrent=False)

    def __init__(self, *, backend: Literal["inductor", "aot_eager"] = "inductor", dynamic: bool = True) -> None:
        super().__init__(backend=backend, dynamic=dynamic)

    def key(self, layer: Layer) -> Layer:
        """Programs for all sizes, or for each."""
        return layer.of_any_size if self.arguments["dynamic"] else layer

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A compiled function, whose code is a copy: torch counts recompilations by code."""
        config: Any = import_module("torch._dynamo.config")
        steps, function = layer.steps, layer.function

        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return function(x, weight, bias, **steps)

        code = run.__code__.replace(co_name=f"layer_{self.built}")
        own = types.FunctionType(code, run.__globals__, code.co_name, run.__defaults__, run.__closure__)
        how: dict[str, Any] = {"backend": self.arguments["backend"], "dynamic": self.arguments["dynamic"]}
        compiled = cast(Callable[..., Tensor], torch.compile(own, fullgraph=True, **how))
        return cast(Program, config.patch({name: _MANY for name in _LIMITS if hasattr(config, name)})(compiled))
