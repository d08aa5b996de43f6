"""Models that are named on the command line: modules, functions, what makes one when it is called, ONNX files.

An object of Python code that can be called without arguments makes the model; any other is the model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equiv.cli.objects import attribute, named, own_errors, run_anew
from equiv.dtypes import dtype_name
from equiv.errors import EquivError, MissingExtraError
from equiv.text import counted, quoted, shown

_EXPECTED = "expected a model: path.py:object, package.module:object or a file.onnx"
_ADVICE = "name a module, a function of tensors, or what makes one when it is called without arguments"


@dataclass
class Model:
    """A model and how it came about. ``option`` is what messages call it."""

    option: str
    text: str
    call: Any
    """A module, or a function of tensors."""
    made: bool
    """Whether it was made here, by a call without arguments."""
    weights: str = ""
    """What its weights are, in words."""

    @property
    def module(self) -> nn.Module | None:
        """The model, if it is a module."""
        return self.call if isinstance(self.call, nn.Module) else None

    def need_module(self, what: str) -> nn.Module:
        """The model, which must be a module for ``what``.

        Raises:
            EquivError: It is a function or an ONNX file.
        """
        if self.module is None:
            raise EquivError(f"{self.option}: expected an nn.Module for {what}, got {self.kind}; name a module")
        return self.module

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if self.module is None:
            return "an ONNX file" if isinstance(self.call, OnnxModel) else "a function"
        return f"a {type(self.call).__name__}"

    @property
    def sentence(self) -> str:
        """The model and its state in a line."""
        text = quoted(self.text, 200)
        if self.module is None:
            return f"{text}{'()' * self.made}, {self.kind}, compared as a whole"
        number = sum(p.numel() for p in self.module.parameters())
        mode = "training" if self.module.training else "evaluation"
        weights = f"; weights: {self.weights}" if number and self.weights else ""
        return f"{text}{'()' * self.made}, {self.kind} of {counted(number, 'parameter')} in {mode} mode{weights}"

    def to_dict(self) -> dict[str, Any]:
        """The model for a report."""
        module = self.module
        return {
            "name": self.text,
            "called": self.made,
            "kind": "onnx" if isinstance(self.call, OnnxModel) else "module" if module else "function",
            "type": type(self.call).__name__,
            "parameters": sum(p.numel() for p in module.parameters()) if module else None,
            "training": module.training if module else None,
            "weights": self.weights or None,
        }


def load_model(option: str, text: str, *, seed: int) -> Model:
    """The model of a name. Random numbers that making it takes follow from ``seed``.

    Raises:
        EquivError: There is none, it is no model, or its code raises an error.
    """
    if text.endswith(".onnx"):
        return Model(option, text, OnnxModel(option, text), made=False)
    place, name = named(option, text, _EXPECTED)
    with own_errors(option, text, _EXPECTED):
        with _seeded(seed):
            found = attribute(run_anew(place), name)
        made = _makes(found)
        if isinstance(found, type) and _needs_arguments(found):
            raise TypeError(f"{name} takes arguments; write a function of none that returns the model, and name it")
        with _seeded(seed):  # anew, whatever the code around it has drawn
            call = found() if made else found
    if not callable(call):
        got = f"{shown(text)}, which {'returns' if made else 'is'} {_article(type(call).__name__)}"
        raise EquivError(f"{option}: {_EXPECTED}, got {got}; {_ADVICE}")
    weights = f"those of its code, with seed {seed}" if made else "those of its code"
    return Model(option, text, call, made, weights if isinstance(call, nn.Module) else "")


def _article(word: str) -> str:
    return f"{'an' if word[:1] in 'AEIOUaeiou' else 'a'} {word}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


def _makes(found: Any) -> bool:
    """Whether an object makes the model: a class, or what can be called without arguments and takes none by ``*``."""
    if isinstance(found, nn.Module) or not callable(found):
        return False
    if isinstance(found, type):
        return True
    several = inspect.Parameter.VAR_POSITIONAL
    taken = _parameters_of(found)
    return taken is not None and not any(p.kind == several for p in taken) and not _needs_arguments(found)


def _needs_arguments(found: Any) -> bool:
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.kind not in free and p.default is p.empty for p in _parameters_of(found) or ())


def _parameters_of(found: Any) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):  # of torch's own, written in C++
        return None


def prepare(model: Model, *, evaluate: bool | None, dtype: torch.dtype | None, device: torch.device) -> None:
    """Set the mode, the dtype and the device of a module; a function stays as it is.

    ``evaluate`` None puts a model that was made here into evaluation mode, and no other.

    Raises:
        EquivError: It cannot be moved there.
    """
    module = model.module
    if module is None:
        return
    if model.made if evaluate is None else evaluate:
        module.eval()
    try:
        module.to(device=device, dtype=dtype)
    except Exception as error:
        where = " and ".join([str(device), *([dtype_name(dtype)] if dtype else [])])
        got = f"{type(error).__name__}: {quoted(error, 200)}"
        raise EquivError(f"{model.option}: expected a model that can be moved to {where}, got {got}") from error


def parted(model: Model, other: Model) -> None:
    """Make ``model`` a copy where both names are one object, so that each has its own weights and mode."""
    if model.module is not None and model.call is other.call:
        with own_errors(model.option, model.text, "expected a model that can be copied"):
            model.call = copy.deepcopy(model.call)


class OnnxModel:
    """An ONNX file as a function of tensors, run by ONNX Runtime on the CPU.

    Raises:
        EquivError: There is no such file, or ONNX Runtime does not take it.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, option: str, path: str) -> None:
        with own_errors(option, path, _EXPECTED):
            there = Path(path).is_file()
        if not there:
            raise EquivError(f"{option}: {_EXPECTED}, got {shown(path)}; there is no such file here")
        try:
            onnxruntime: Any = import_module("onnxruntime")
        except ImportError as error:
            raise MissingExtraError(
                f'{option}: expected ONNX Runtime for {shown(path)}, got none; run: pip install "torch-equiv[runtimes]"'
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it has to say is in its errors
        with own_errors(option, path, _EXPECTED):
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for inputs in the order of the file; the one output alone where there is one."""
        if len(inputs) != len(self._names):
            wanted = counted(len(self._names), "input")
            raise TypeError(f"the file takes {wanted} ({', '.join(self._names)}), got {len(inputs)}")
        feed = {name: one.detach().cpu().numpy() for name, one in zip(self._names, inputs, strict=True)}
        outputs = tuple(map(torch.as_tensor, self._session.run(None, feed)))
        device = inputs[0].device if inputs else torch.device("cpu")
        outputs = tuple(one.to(device) for one in outputs)
        return outputs[0] if len(outputs) == 1 else outputs
