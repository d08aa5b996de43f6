"""Shallow twins of modules: what runs in a module's place, so that a call changes nothing that other threads see."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

M = TypeVar("M", bound=nn.Module)
_DICTS = (dict, OrderedDict)


def shallow(module: M, **own: Any) -> M:
    """A module of the same type with the same attributes, but for those given; all that they hold is shared.

    Example:
        >>> linear = nn.Linear(2, 1)
        >>> twin = shallow(linear, _parameters={"weight": torch.ones(1, 2), "bias": None})
        >>> twin(torch.ones(1, 2)).item(), twin is linear, isinstance(linear.weight, nn.Parameter)
        (2.0, False, True)
    """
    twin = object.__new__(type(module))
    twin.__dict__ = {**module.__dict__, **own}
    compiled = twin.__dict__.get("_compiled_call_impl")
    if compiled is not None:  # by Module.compile, for that module: the same for this one
        held = dict(zip(compiled.__code__.co_freevars, compiled.__closure__, strict=True))
        twin.__dict__["_compiled_call_impl"] = held["self"].cell_contents(twin._call_impl)
    return twin


class Twin:
    """Runs a module as it is now, in another with parts and dicts of its own: the same parameters, copies of buffers.

    What is tied stays tied. An attribute, a parameter or a buffer that a call assigns, and a buffer that it changes in
    place, is changed in the twin alone, and every call starts with the module's buffers. Hooks run as the module's do;
    one that a call registers is the twin's alone. What plain attributes hold is the module's own: state in a list, in a
    dict, or in a module that lies in one, is shared.
    ``stand_ins`` take the place of parameters, by the ``id`` of each.

    Example:
        >>> module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
        >>> twin = Twin(module)
        >>> _ = twin(torch.randn(8, 2))
        >>> seen = twin.module[0].num_batches_tracked, module[0].num_batches_tracked
        >>> [int(count) for count in seen], twin.module[1].weight is module[1].weight
        ([1, 0], True)
    """

    def __init__(self, module: nn.Module, stand_ins: Mapping[int, Tensor] | None = None) -> None:
        self._made: dict[int, Any] = {}
        self._stand_ins = stand_ins or {}
        self._buffers: list[tuple[dict[str, Any], str, Tensor]] = []
        self.module: Any = self._twin(module)
        for part in self._made.values():
            for name, value in vars(part).items():  # such as a forward that was set on the module itself
                if isinstance(value, types.MethodType) and id(value.__self__) in self._made:
                    vars(part)[name] = types.MethodType(value.__func__, self._made[id(value.__self__)])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns."""
        copies: dict[int, Tensor] = {}
        for held, name, buffer in self._buffers:
            if id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
            held[name] = copies[id(buffer)]
        return self.module(*args, **kwargs)

    def _twin(self, module: Any) -> Any:
        if module is not None and id(module) not in self._made:
            if isinstance(module, torch.jit.ScriptModule):  # its tensors lie in C++
                changes = getattr(module, "training", False) and next(module.buffers(), None) is not None
                self._made[id(module)] = copy.deepcopy(module) if changes else module
            elif "dynamo_ctx" in vars(module):  # of torch.compile: its forward is made for the one module inside
                part = self._twin(module._modules["_orig_mod"])
                twin = self._made[id(module)] = type(module)(part, module.dynamo_ctx)
                vars(twin).update({name: value for name, value in vars(module).items() if name.endswith("_hooks")})
            else:
                self._copy(module)
        return None if module is None else self._made[id(module)]

    def _copy(self, module: nn.Module) -> None:
        own = {name: copy.copy(vars(module)[name]) for name in ("_buffers", "_modules")}
        own["_parameters"] = {name: self._stand_ins.get(id(held), held) for name, held in module._parameters.items()}
        own["_non_persistent_buffers_set"] = {*module._non_persistent_buffers_set}
        own |= {
            name: copy.copy(held) for name, held in vars(module).items() if "_hooks" in name and type(held) in _DICTS
        }
        self._made[id(module)] = shallow(module, **own)
        for name, buffer in module._buffers.items():
            if buffer is not None and not is_lazy(buffer):
                self._buffers.append((own["_buffers"], name, buffer))
        for name, part in module._modules.items():
            own["_modules"][name] = self._twin(part)
