"""One of the two models: what it is, a twin of it to run, and which of its modules are called in which order.

A module runs as its twin, a function as it is, a session of ONNX Runtime by its input names. What is compiled or
scripted is one function: nothing inside it is seen.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import attribute_of
from equiv.backends import Twin
from equiv.errors import EquivError
from equiv.models.trees import mapped, once, tensors
from equiv.text import quoted, shown


@dataclass
class Seen:
    """A module of which a run called ``forward``.

    Attributes:
        name: Qualified.
        module: The caller's own.
        order: Number of the first call among all calls that ended.
        inputs: Shapes of the tensors of the first call.
        outputs: The same of its results.
        calls: How often.
        inner: Whether the call called other modules.
        after: The module whose one result was the first input.
        last: Number of the last call that ended.
    """

    name: str
    module: nn.Module
    order: int = -1
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    calls: int = 0
    inner: bool = False
    after: str | None = None


class Side:
    """A candidate or a reference, called ``name`` in messages.

    Example:
        >>> side = Side("candidate", nn.Sequential(nn.Linear(2, 3), nn.ReLU()), (torch.ones(1, 2),), {})
        >>> _ = side.record()
        >>> [(seen.name, seen.after) for seen in sorted(side.seen.values(), key=lambda seen: seen.order)]
        [('0', None), ('1', '0'), ('', None)]
    """

    def __init__(self, name: str, given: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.name, self.given, self.args, self.kwargs = name, given, args, dict(kwargs)
        self.modules: dict[str, nn.Module] = dict(parts(given)) if isinstance(given, nn.Module) else {}
        self.seen: dict[str, Seen] = {}
        if not isinstance(given, nn.Module) and not callable(given) and not _is_session(given):
            raise EquivError(
                f"{name}: expected a module, a function or a session, got {shown(given)}; pass what is called with the "
                "inputs"
            )
        if isinstance(given, type):
            raise EquivError(f"{name}: expected a model, got the class {given.__name__}; pass an instance")

    @property
    def is_whole(self) -> bool:
        """Whether nothing inside is seen."""
        return not self.modules

    def twin(self, stand_ins: Mapping[int, Tensor] | None = None) -> tuple[Callable[..., Any], dict[str, nn.Module]]:
        """Something to call in its place, and its modules by name, each of which may be changed.

        ``stand_ins`` take the place of parameters, by the ``id`` of each.
        """
        if not isinstance(self.given, nn.Module):
            return (_session(self.given) if _is_session(self.given) else self.given), {}
        try:
            twin = Twin(self.given, stand_ins)
        except Exception as error:
            raise EquivError(
                f"{self.name}: expected a module that torch has set up, got a {type(self.given).__name__} that raises "
                f"{type(error).__name__}: {quoted(error)}; call super().__init__() in its __init__ first"
            ) from error
        modules = dict(parts(twin.module)) if self.modules else {}
        for module in modules.values():
            _unfused(module)
        return twin, modules

    def inputs(self, change: Callable[[Tensor], Tensor] = torch.clone) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The caller's inputs, copied: a model may write to them."""
        args, kwargs = mapped((self.args, self.kwargs), once(lambda t: change(t.detach())), _copied)
        return args, kwargs

    def record(self) -> Any:
        """Run it once as it is: what it returns. What was called is known afterwards."""
        call, modules = self.twin()
        recorder = _Recorder(self)
        for name, module in modules.items():
            instrument(module, functools.partial(recorder.run, name))
        args, kwargs = self.inputs()
        try:
            return call(*args, **kwargs)
        except Exception as error:
            given = ", ".join(str(tuple(t.shape)) for t in tensors((self.args, self.kwargs))) or "no tensor"
            said = f"{type(error).__name__}: {quoted(error)}"
            raise EquivError(
                f"{self.name}: expected a model that runs on the inputs ({given}), got {said}; pass the inputs as it "
                "takes them"
            ) from error


def parts(module: nn.Module, prefix: str = "", known: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Named modules, each once, none inside what is compiled or scripted; empty where the whole is."""
    known = set() if known is None else known
    if id(module) in known or attribute_of(module, "_modules") is None:
        return
    compiled = "dynamo_ctx" in vars(module) or vars(module).get("_compiled_call_impl") is not None
    closed = compiled or isinstance(module, torch.jit.ScriptModule)
    if closed and not prefix:
        return
    known.add(id(module))
    if isinstance(module, torch.jit.ScriptModule):
        return
    yield prefix, module
    if closed:
        return
    for name, part in module._modules.items():
        if part is not None:
            yield from parts(part, f"{prefix}.{name}" if prefix else name, known)


def instrument(module: nn.Module, run: Callable[..., Any]) -> None:
    """Have a module of a twin call ``run(forward, *args, **kwargs)`` where it would call its forward."""
    place = "forward" if vars(module).get("_compiled_call_impl") is None else "_compiled_call_impl"
    forward = getattr(module, place)

    @functools.wraps(forward)
    def instead(*args: Any, **kwargs: Any) -> Any:
        return run(forward, *args, **kwargs)

    vars(module)[place] = instead


def _unfused(module: nn.Module) -> None:
    """Have a module of a twin call its parts: one fused kernel would pass them by. torch takes none beside a hook."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention):
        module.register_forward_pre_hook(_nothing)


def _nothing(*_: Any) -> None:
    return None


@dataclass
class _Recorder:
    side: Side
    stack: list[str] = field(default_factory=list)
    results: dict[int, tuple[weakref.ref[Tensor], str]] = field(default_factory=dict)
    ended: int = 0

    def run(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = tensors((args, kwargs))
        before = self._maker(given[0]) if given else None
        self.stack.append(name)
        try:
            result = forward(*args, **kwargs)
        finally:
            self.stack.pop()
        seen = self.side.seen.setdefault(name, Seen(name, self.side.modules[name]))
        returned = tensors(result)
        if not seen.calls:
            seen.order, seen.after = self.ended, before
            seen.inputs, seen.outputs = (tuple(tuple(t.shape) for t in some) for some in (given, returned))
        seen.calls += 1
        self.ended += 1
        for outer in self.stack:
            self.side.seen.setdefault(outer, Seen(outer, self.side.modules[outer])).inner = True
        if len(returned) == 1 and not seen.inner:
            self.results[id(returned[0])] = (weakref.ref(returned[0]), name)
        return result

    def _maker(self, x: Tensor) -> str | None:
        kept, name = self.results.get(id(x), (None, None))
        return name if kept is not None and kept() is x else None


def _copied(leaf: Any) -> Any:
    try:
        return copy.deepcopy(leaf)
    except Exception:  # what cannot be copied is handed over as it is
        return leaf


def _is_session(given: Any) -> bool:
    return callable(attribute_of(given, "run")) and callable(attribute_of(given, "get_inputs"))


def _session(session: Any) -> Callable[..., Any]:
    """A session of ONNX Runtime as a function of tensors in the order of its inputs."""

    def call(*args: Any, **kwargs: Any) -> list[Tensor]:
        names = [each.name for each in session.get_inputs()]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        arrays = {name: t.detach().cpu().numpy() if isinstance(t, Tensor) else t for name, t in given.items()}
        return [torch.from_numpy(array.copy()) for array in session.run(None, arrays)]

    return call
