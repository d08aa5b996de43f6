"""Parameters of a backend that is named: what can follow its name, and their values from text.

They are the keyword-only arguments of the class or function that makes the backend, as its signature has them.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from equiv.arguments import check_bool, check_choice, check_integer, check_words, refusal
from equiv.errors import EquivError
from equiv.text import shown

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parameters_of(maker: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Each parameter with what it can be, and its default.

    Example:
        >>> def make(*, opset: int = 18, level: Literal["all", "off"] = "all"): ...
        >>> {name: default for name, (_, default) in parameters_of(make).items()}
        {'opset': 18, 'level': 'all'}
    """
    try:
        every = inspect.signature(maker, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError):  # a builtin, or annotations that only a checker understands
        return {}
    named = (one for one in every if one.kind is inspect.Parameter.KEYWORD_ONLY)
    return {one.name: (str if one.annotation is one.empty else one.annotation, one.default) for one in named}


def parse_parameters(maker: Callable[..., Any], words: Mapping[str, str], argument: str) -> dict[str, Any]:
    """The values that were typed, each read as its parameter has it.

    Raises:
        EquivError: A name that there is not, or a value that it cannot have.

    Example:
        >>> def make(*, opset: int = 18, dynamic: bool = True): ...
        >>> parse_parameters(make, {"opset": "17", "dynamic": "no"}, "--backend")
        {'opset': 17, 'dynamic': False}
    """
    known = parameters_of(maker)
    values = {}
    for name, text in words.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {close[0]!r}?" if close else "leave it out"
            raise refusal(argument, f"parameters among {', '.join(known)}" if known else "no parameters", name, advice)
        values[name] = _value(f"{argument}, {name}", text, known[name][0])
    return values


def _value(argument: str, text: str, kind: Any) -> Any:
    if kind is bool and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            return _checked(argument, text, kind)
    if typing.get_origin(kind) is Literal:
        return next((one for one in typing.get_args(kind) if str(one) == text), text)
    return text


def check_parameters(maker: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters in the order of the signature, those that are not given at their defaults.

    Raises:
        EquivError: A value that a parameter cannot have.
    """
    known = parameters_of(maker)
    given = {name: values.get(name, default) for name, (_, default) in known.items()}
    return {name: _checked(name, value, known[name][0]) for name, value in given.items()}


def _checked(argument: str, value: Any, kind: Any) -> Any:
    if kind is bool:
        return check_bool(argument, value)
    if kind is int:
        return check_integer(argument, value, least=0)
    if typing.get_origin(kind) is Literal:
        return check_choice(argument, value, typing.get_args(kind))
    return check_words(argument, value)


def split_parameters(argument: str, text: str) -> tuple[str, dict[str, str]]:
    """``onnxruntime?opset=18&level=all`` as a name and what was typed for its parameters; a comma separates them too.

    Example:
        >>> split_parameters("--backend", "onnxruntime?opset=18,level=all")
        ('onnxruntime', {'opset': '18', 'level': 'all'})
    """
    name, _, rest = text.partition("?")
    words: dict[str, str] = {}
    for part in rest.replace("&", ",").split(",") if rest else ():
        key, equals, value = (one.strip() for one in part.partition("="))
        if not (key and equals and value) or key in words:
            raise EquivError(
                f"{argument}: expected a name and parameters, each once, such as 'onnxruntime?opset=18&level=all', "
                f"got {shown(text)}; write parameters as name=value"
            )
        words[key] = value
    return name, words
