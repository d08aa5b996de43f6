"""A classifier as a graph of its operations, with the shape of every result on an example.

``torch.fx`` keeps modules, their names and their parameters, so it is asked first. What it cannot follow, such as an
``if`` on a shape, is recorded by ``torch.export``, which runs the code on the example: operations of aten then, on
parameters of the same names. Nothing of the caller's model is touched: a copy is traced.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_unflatten

from equiv.arguments import check_tensor
from equiv.backends import Twin
from equiv.errors import EquivError
from equiv.text import first_line

_DROPOUTS = nn.modules.dropout._DropoutNd
_NORMS = nn.modules.batchnorm._NormBase


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph that computes what a copy of the model computes.

    Attributes:
        module: The graph with the parameters of the copy.
        results: What each node is on the example, by its name: a tensor without values, a number, a tuple of them.
        example: ``(N, C, *spatial)``, on the device of the model.
    """

    module: fx.GraphModule
    results: dict[str, Any]
    example: Tensor

    @property
    def spatial(self) -> tuple[int, ...]:
        """The size of the example's map."""
        return tuple(self.example.shape[2:])


def check_example(example: object) -> Tensor:
    """Refuse what is not a batch of maps of a floating dtype."""
    x = check_tensor("example_input", example, advice="pass a batch such as torch.zeros(1, 3, 224, 224)")
    if not 3 <= x.ndim <= 5 or 0 in x.shape or not x.dtype.is_floating_point:
        raise EquivError(
            f"example_input: expected a floating tensor (N, C, *spatial) with 1 to 3 spatial axes, got shape "
            f"{tuple(x.shape)} of {x.dtype}; pass a batch such as torch.zeros(1, 3, 224, 224)"
        )
    return x.detach()


def check_model(model: object) -> nn.Module:
    """Refuse what is not a module, or whose results depend on chance, on the batch, or on hooks."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise EquivError(f"model: expected a torch.nn.Module that classifies maps, got {what}; pass the model itself")
    if isinstance(model, torch.jit.ScriptModule):
        raise EquivError("model: expected a module of Python, got a ScriptModule; pass the model it was scripted from")
    if any("windows" in held for held in (model._modules, model._parameters, model._buffers)):
        raise EquivError("model.windows: expected no part of this name, which the result has for itself; rename it")
    for name, part in model.named_modules():
        _check_part(part, f"model.{name}" if name else "model")
    return model


def _check_part(part: nn.Module, name: str) -> None:
    kind = type(part).__name__
    if part._forward_hooks or part._forward_pre_hooks:
        raise EquivError(
            f"{name}: expected a {kind} without forward hooks, which may change its result, got one with "
            f"{len(part._forward_hooks) + len(part._forward_pre_hooks)}; remove them on a copy first"
        )
    for key, held in part._parameters.items():
        if held is not None:
            check_tensor(f"{name}.{key}", held, advice="register a parameter")
    drops = isinstance(part, _DROPOUTS) and part.p > 0
    if part.training and (
        drops or (isinstance(part, _NORMS) and not isinstance(part, nn.modules.instancenorm._InstanceNorm))
    ):
        depends = "on chance" if drops else "on its batch"
        raise EquivError(
            f"{name}: expected a model in eval mode, got a {kind} in training mode, whose results depend {depends}; "
            "call model.eval() first"
        )


def traced(model: nn.Module, example: Tensor) -> Traced:
    """The graph of a copy of the model.

    Raises:
        EquivError: It cannot be copied, run on the example, or followed in either way.
    """
    try:
        own = copy.deepcopy(model)
    except Exception as error:
        raise EquivError(
            f"model: expected a module that copy.deepcopy copies, got {_said(error)}; make it one"
        ) from error
    try:
        with torch.no_grad():
            Twin(own)(example)
    except Exception as error:
        raise EquivError(
            f"example_input: expected a batch that the model takes, got shape {tuple(example.shape)}, on which it "
            f"raises {_said(error)}; pass one on the model's device, of its dtype and size"
        ) from error
    module = _graph(own, example)
    module.training = model.training
    recorder = _Recorder(module)
    try:
        with torch.no_grad():
            recorder.run(example)
    except Exception as error:
        raise EquivError(
            f"model: expected one that runs as torch.fx traces it, got {_said(error)}; take what depends on the kind "
            "of its tensors out of its forward"
        ) from error
    return Traced(module, recorder.results, example)


def _graph(model: nn.Module, example: Tensor) -> fx.GraphModule:
    try:
        graph = _Tracer().trace(model)
        for node in graph.nodes:
            node.type = None  # with an annotation that is a string a graph module does not pickle
        return fx.GraphModule(model, graph, type(model).__name__)
    except Exception as error:
        refused = error
    try:
        module = torch.export.export(model, (example,)).module()
    except Exception as error:
        raise EquivError(
            f"model: expected a model that torch.fx or torch.export can trace, got {_said(refused)} from the first and "
            f"{_said(error)} from the second; write its forward without control flow on values"
        ) from error
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):  # guards of the example's size
        if node.op == "call_module" and "guards" in str(node.target) and not node.users:
            module.graph.erase_node(node)
    codegen: Any = module.graph._codegen  # takes and returns trees, for which it holds what cannot be copied
    output = next(node for node in module.graph.nodes if node.op == "output")
    output.args = (tree_unflatten(list(output.args[0]), codegen.pytree_info.out_spec),)
    module.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, module.graph, type(model).__name__)


class _Tracer(fx.Tracer):
    """Follows calls of this thread alone: while it traces, torch hands it those of all modules, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        here = threading.get_ident() == self._thread
        return super().call_module(m, forward, args, kwargs) if here else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        here = threading.get_ident() == self._thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if here else attr_val


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


class _Recorder(fx.Interpreter):
    """Runs a graph, and keeps shapes and dtypes of tensors and the values of all else."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.results: dict[str, Any] = {}
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.results[n.name] = fx.node.map_aggregate(result, _without_values)
        return result


def _without_values(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value


class _Geometry(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records with which numbers convolutions, paddings and upsamplings are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if "pad" in name or name == "convolution":
            self.calls.append((name, tuple(a for a in args if not isinstance(a, Tensor))))
        return func(*args, **(kwargs or {}))


def check_sizes(model: nn.Module, example: Tensor) -> None:
    """Refuse a model that pads otherwise on a map one entry larger, such as one that computes SAME padding."""
    larger = torch.zeros(*example.shape[:2], *(n + 1 for n in example.shape[2:])).to(example)
    found = []
    for x in (example, larger):
        with torch.no_grad(), _Geometry() as recorded:
            try:
                Twin(model)(x)
            except Exception as error:  # a classifier refuses a larger map in its first Linear
                found.append(recorded.calls)
                del error
                continue
        found.append(recorded.calls)
    for (name, here), (other, there) in zip(*found, strict=False):
        if name != other or here != there:
            raise EquivError(
                f"model: expected layers that pad alike at every size, got {name} with {_numbers(here)} on a map of "
                f"{tuple(example.shape[2:])} and {other} with {_numbers(there)} on {tuple(larger.shape[2:])} (SAME "
                "padding that is computed from the size?); give its convolutions fixed padding= instead"
            )


def _numbers(arguments: tuple[Any, ...]) -> str:
    return ", ".join(str(a) for a in arguments if isinstance(a, (list, tuple)) and a) or "no numbers"
