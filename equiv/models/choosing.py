"""Which modules of a model a conversion is about: their names, those that ``only`` chooses, and a copy to work on."""

from __future__ import annotations

import copy
import difflib
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from equiv.arguments import refusal
from equiv.errors import EquivError
from equiv.text import counted, quoted

Only: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool]
M = TypeVar("M", bound=nn.Module)


def check_model(model: object) -> nn.Module:
    """Return the model if it is one whose modules can be changed on a copy.

    Raises:
        EquivError: Anything else, a model that torch.jit compiled among it.
    """
    if not isinstance(model, nn.Module):
        raise refusal("model", "a torch.nn.Module", model, "pass the model itself, not its class or its state_dict")
    if isinstance(model, torch.jit.ScriptModule):
        kind = type(model).__name__
        advice = "convert the module that it was made of, and script that"
        raise EquivError(f"model: expected a module of Python, got a {kind}, whose code is fixed; {advice}")
    if "_modules" not in vars(model):
        kind = type(model).__name__
        advice = "call super().__init__() in its __init__ first"
        raise EquivError(f"model: expected a module that torch has set up, got a {kind} that is not; {advice}")
    return model


def copied(model: M) -> M:
    """A deep copy; what is tied stays tied.

    A tensor that a hook computes before every call (``torch.nn.utils.weight_norm``, pruning) is copied without the
    operations that made it.

    Raises:
        EquivError: It cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise EquivError(
            f"model: expected a module that copy.deepcopy can copy, got one that raises {type(error).__name__}: "
            f"{quoted(error, 200)}; give it a __deepcopy__, or take out what cannot be copied"
        ) from error


def names_of(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    """Every module once, with all of its qualified names; the model itself is called ''.

    Example:
        >>> layer = nn.ReLU()
        >>> names_of(nn.Sequential(layer, layer))[layer]
        ('0', '1')
    """
    names: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[module] = (*names.get(module, ()), name)
    return names


def chosen(only: Any, modules: dict[nn.Module, tuple[str, ...]], what: str) -> set[nn.Module]:
    """Those of the modules that ``only`` chooses; all for None.

    Args:
        only: None, a qualified name, an fnmatch pattern, several of these, or a predicate of name and module.
        modules: Those that may be chosen, with their names.
        what: What they are, in the plural, for messages.

    Raises:
        EquivError: It is something else, or it, or one of several, chooses nothing.
    """
    if only is None:
        return set(modules)
    if isinstance(only, str):
        only = (only,)
    if isinstance(only, (tuple, list, set, frozenset)) and all(isinstance(name, str) for name in only):
        return set().union(*(_matching(name, modules, what) for name in only)) if only else _nothing(only, what)
    if not callable(only) or isinstance(only, (type, nn.Module)):
        advice = "pass such as only='encoder.*', or a function of the name and the module"
        raise refusal("only", "a name, a pattern, a tuple of them or a predicate", only, advice)
    found = {module for module, names in modules.items() if any(_asked(only, name, module) for name in names)}
    return found or _nothing(only, what)


def _asked(only: Any, name: str, module: nn.Module) -> bool:
    try:
        return bool(only(name, module))
    except Exception as error:
        raise EquivError(
            f"only: expected a predicate of a name and a module, got one that raises {type(error).__name__}: "
            f"{quoted(error, 200)} for {name!r}; let it return True or False for every module"
        ) from error


def _matching(pattern: str, modules: dict[nn.Module, tuple[str, ...]], what: str) -> set[nn.Module]:
    found = {m for m, names in modules.items() if any(n == pattern or fnmatch.fnmatchcase(n, pattern) for n in names)}
    if found:
        return found
    every = [name for names in modules.values() for name in names]
    inside = [name for name in every if name.startswith(f"{pattern}.")]
    close = difflib.get_close_matches(pattern, every, 1, 0.5)
    advice = f"did you mean {close[0]!r}?" if close else "pass a qualified name of named_modules(), or leave only out"
    if inside:
        advice = f"it holds {counted(len(inside), 'of them', 'of them')}: pass '{pattern}.*'"
    raise refusal("only", f"names or patterns of {what} of the model", pattern, advice)


def _nothing(only: Any, what: str) -> set[nn.Module]:
    raise refusal("only", f"a choice of {what}", only, f"it chooses none of them: leave it out for all {what}")


def described(module: nn.Module) -> str:
    """The class of a module, with its package where that is not torch's.

    Example:
        >>> described(nn.LSTM(1, 1)), described(names_of)
        ('torch.nn.LSTM', 'builtins.function')
    """
    kind = type(module)
    home = "torch.nn" if kind.__module__.startswith("torch.nn.modules") else kind.__module__
    return f"{home}.{kind.__qualname__}"
