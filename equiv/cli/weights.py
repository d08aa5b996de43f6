"""Weights from a file into a model: every name and shape must fit, and what does not is said in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from equiv.cli.files import read_tensors, tied_names
from equiv.cli.models import Model
from equiv.errors import EquivError
from equiv.text import counted, quoted, shown

_INSIDE = ("state_dict", "model_state_dict", "model")  # where checkpoints of trainers have them
_AROUND = ("module.", "_orig_mod.")  # before the names of a model in DataParallel, or compiled


def load_weights(option: str, path: str, model: Model) -> None:
    """Give a model the weights of a file.

    Raises:
        EquivError: It is no module, or names or shapes do not fit.
    """
    module = model.need_module(option)
    state = _without_prefix(state_of(option, path, read_tensors(option, path)), module)
    problem = _problem(module, state)
    reshaped = _reshaped(module, state) if problem else {}
    if reshaped:
        state.update(reshaped)
        problem = _problem(module, state)
    if problem:
        raise EquivError(f"{option}: expected the weights of {model.kind}, got {shown(path)} with {problem}")
    model.weights = quoted(path, 200)
    if reshaped:
        model.weights += f", {counted(len(reshaped), 'shape')} changed by sizes of 1"


def _reshaped(module: nn.Module, state: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors that fit but for sizes of 1, in the shapes that fit: those of a Linear in a 1x1 convolution."""
    found = {}
    for name, known in module.state_dict().items():
        given = state.get(name)
        if isinstance(known, Tensor) and isinstance(given, Tensor) and known.shape != given.shape:
            sizes, wanted = ([size for size in one.shape if size != 1] for one in (given, known))
            if sizes == wanted:
                found[name] = given.reshape(known.shape)
    return found


def state_of(option: str, path: str, found: Any) -> dict[str, Any]:
    """The state in what a file holds.

    Raises:
        EquivError: It holds none.
    """
    if isinstance(found, Mapping) and not any(isinstance(value, Tensor) for value in found.values()):
        found = next((found[name] for name in _INSIDE if isinstance(found.get(name), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise EquivError(
            f"{option}: expected a state_dict, got {shown(path)} with a {type(found).__name__}; save model.state_dict()"
        )
    return dict(found)


def _without_prefix(state: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """The same state without a prefix that wrappers put before every name."""
    known = module.state_dict()
    for prefix in _AROUND:
        if state and all(name.startswith(prefix) and name not in known for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _problem(module: nn.Module, state: dict[str, Any]) -> str:
    """What keeps the weights from fitting, in words; empty where the module has taken them."""
    known = module.state_dict()
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except Exception as error:  # RuntimeError where shapes differ; a module may raise its own
        shapes = [
            f"{name} of {tuple(state[name].shape)} for {tuple(value.shape)}"
            for name, value in known.items()
            if isinstance(value, Tensor) and isinstance(state.get(name), Tensor) and state[name].shape != value.shape
        ]
        if not shapes:
            return f"{type(error).__name__}: {quoted(error, 200)}; save the state_dict of this very model"
        return f"{_some('other shape', shapes)}; convert it, or name the model that it belongs to"
    ties = tied_names(known)
    groups = {name: ties.get(name, name) for name in known}
    there = {groups[name] for name in state if name in groups}
    missing = [name for name in missing if groups.get(name, name) not in there]  # a tie gives it its values
    if missing or unexpected:
        parts = [_some("missing name", missing)] * bool(missing) + [_some("unknown name", unexpected)] * bool(
            unexpected
        )
        return f"{' and '.join(parts)}; save the state_dict of this very model"
    return ""


def _some(noun: str, names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - 3:,} more" if len(every) > 3 else ""
    return f"{counted(len(every), noun)} ({quoted(', '.join(every[:3]), 200)}{more})"
