"""Does a transformation of ONNX graphs, an exporter or an optimizer, keep what the graphs compute?

Each graph is run before and after, and both results are held against the envelope of the layer: no tolerance.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import check_bool, check_choices, refusal
from equiv.errors import EquivError, MissingExtraError
from equiv.testing.dense_graph import layer_of, shape_of
from equiv.testing.graphs import BUILDERS, Graph, graphs
from equiv.text import counted, quoted
from equiv.verdict import Outcome, Verdict, compare


@dataclass(frozen=True)
class GraphResult:
    """What came of one graph.

    Attributes:
        graph: Its name.
        side: ``before`` or ``after``: what is wrong; ``after`` too where nothing is.
        outcome: The worst of its inputs.
        problem: What is wrong in words; empty where nothing is.
        verdict: Of the input with the worst outcome; None where no result can be judged.
        identical: Whether results after are those before, bit for bit.

    Example:
        >>> print(GraphResult("a Gemm", "after", Outcome.ROUNDING))
        a Gemm: ROUNDING
    """

    graph: str
    side: str
    outcome: Outcome
    problem: str = ""
    verdict: Verdict | None = None
    identical: bool = False

    def __str__(self) -> str:
        if self.problem:
            return f"{self.graph}: {self.side} the transformation, {self.problem}"
        return f"{self.graph}: {self.outcome.name}"


class TransformationBroken(AssertionError):  # noqa: N818 - what it says is that something is broken
    """A transformation changes what a graph computes, or makes a graph that does not run.

    Attributes:
        results: Of every graph.
        broken: Those that are wrong.

    Example:
        >>> wrong = GraphResult("a Gemm", "after", Outcome.DIFFERENT, "the bias is dropped")
        >>> print(TransformationBroken([wrong]))
        1 of 1 graph broken: a Gemm
        a Gemm: after the transformation, the bias is dropped
    """

    def __init__(self, results: Sequence[GraphResult]) -> None:
        self.results = tuple(results)
        self.broken = tuple(one for one in results if one.problem)
        names = ", ".join(one.graph for one in self.broken)
        head = f"{len(self.broken)} of {counted(len(results), 'graph')} broken: {names}"
        super().__init__("\n".join([head, *map(str, self.broken)]))


Transformation = Callable[[Any], Any]


def check_transformation(
    before: Any = None,
    after: Any = None,
    *,
    layer: nn.Module | None = None,
    inputs: Sequence[Tensor] = (),
    names: Sequence[str] | None = None,
    by_path: bool = False,
    seed: int = 0,
) -> tuple[GraphResult, ...]:
    """Run graphs before and after a transformation, and judge both results by the envelope of right kernels.

    The graphs are those of dense layers and convolutions that exporters write: Gemm and MatMul, with a Transpose of the
    input or of the weight before it, Conv between Reshapes, batch norms to be folded, quantized operands. They have
    normal numbers, and small integers with which every right kernel gives the same bits. ONNX Runtime runs them with
    its own optimizations off.

    Args:
        before: What is done to each graph first; None for nothing. A function of the ``onnx.ModelProto``; or a function
            of a torch module and an example input, two arguments, which exports it. Or one model: an
            ``onnx.ModelProto``, its bytes, or the path of a file.
        after: The transformation: a function of the model, whose copy it gets. It returns a model in any of these
            ways, or a tuple that begins with one, as onnxsim does, or what ``torch.onnx.export`` returns; None if it
            has changed the model in place. Or one model that was transformed already. None for nothing, where an
            exporter alone is tested.
        layer: What the one model computes: a plain Linear or convolution, or an ``nn.Sequential`` of affine layers,
            as :func:`equiv.compare` takes them. It need not be given where the model is one dense layer, or a
            convolution, whose weights float32 holds: that is read off the model.
        inputs: Of the one model, float32; drawn if it has one input of known sizes.
        names: Graphs by name, of ``equiv.testing.graphs.BUILDERS``; None for all.
        by_path: Whether functions get the path of a file in place of the model, and may write to it.
        seed: Of the numbers.

    Returns:
        What came of each graph.

    Raises:
        TransformationBroken: A result is outside its envelope, or not exact where all numbers are integers; or a
            function or ONNX Runtime raises an error. The message names each graph.
        MissingExtraError: onnx or onnxruntime is not installed.
        EquivError: Arguments that do not fit together.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
        >>> def drops_the_bias(model):
        ...     for node in model.graph.node:
        ...         if node.op_type == "Gemm":
        ...             del node.input[2:]
        ...     return model
        >>> check_transformation(None, drops_the_bias, names=["gemm", "padded-conv"])
        Traceback (most recent call last):
        equiv.testing.transformation.TransformationBroken: 2 of 4 graphs broken: gemm, gemm-integers
        ...
    """
    _check_packages()
    check_bool("by_path", by_path)
    is_model = before is not None and not callable(before)
    if is_model:
        found = [_given(before, layer, inputs, seed)]
        before = None
    else:
        if layer is not None or len(inputs):
            raise EquivError("layer: expected none without one model as before, got one; pass the model too")
        if before is None and after is None:
            raise EquivError("after: expected a function of an ONNX model, got None; pass the transformation")
        chosen = BUILDERS if names is None else check_choices("names", names, tuple(BUILDERS))
        found = [g for g in graphs(seed=seed) if g.name.removesuffix("-integers") in chosen]
    if after is not None and not callable(after) and not is_model:
        raise refusal("after", "a function of an ONNX model", after, "pass the one model that it was made of as before")
    results = tuple(_result(graph, before, after, by_path=by_path) for graph in found)
    if any(result.problem for result in results):
        raise TransformationBroken(results)
    return results


def _check_packages() -> None:
    for name in ("onnx", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            install = 'run: pip install "torch-equiv[onnxruntime]"'
            raise MissingExtraError(
                f"check_transformation: expected the package {name}, got none; {install}"
            ) from error


def _given(model: Any, layer: nn.Module | None, inputs: Sequence[Tensor], seed: int) -> Graph:
    """One model of the caller's as a graph."""
    loaded = model_of(model)
    name = Path(model).stem if isinstance(model, (str, os.PathLike)) else loaded.graph.name or "model"
    shape = shape_of(loaded)
    if not len(inputs):
        if shape is None:
            raise refusal(
                "inputs", "float32 tensors for a model of open sizes", inputs, "pass inputs=[torch.randn(4, 60)]"
            )
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(shape, generator=generator), torch.randint(-4, 5, shape, generator=generator).float()]
    if not all(isinstance(x, Tensor) and x.dtype == torch.float32 for x in inputs):
        raise refusal("inputs", "float32 tensors that the model takes", inputs, "pass inputs=[torch.randn(4, 60)]")
    found = layer_of(loaded) if layer is None else layer
    if not isinstance(found, nn.Module):
        what = f"the torch module that {name} computes"
        raise refusal("layer", what, layer, "pass layer=: this model is not read as one dense layer")
    return Graph(name, loaded, found, tuple(inputs))


class _Wrong(Exception):  # noqa: N818 - what it says is that a graph is wrong
    """Something that ends the judging of a graph, in words."""

    def __init__(self, side: str, problem: str) -> None:
        super().__init__(problem)
        self.side, self.problem = side, problem


def _result(graph: Graph, before: Any, after: Any, *, by_path: bool) -> GraphResult:
    try:
        first = _transformed("before", before, graph, graph.model, by_path=by_path)
        exported = first is not graph.model and _exports(before)
        graph = replace(graph, turned=False) if exported else graph  # the module takes it as it is
        second = _transformed("after", after, graph, first, by_path=by_path)
        return _judged(graph, first, second)
    except _Wrong as wrong:
        return GraphResult(graph.name, wrong.side, Outcome.DIFFERENT, wrong.problem)


def _exports(function: object) -> bool:
    """Whether a function takes two arguments, a module and an input."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.default is one.empty and one.kind in kinds for one in parameters) == 2


def _transformed(side: str, what: Any, graph: Graph, model: Any, *, by_path: bool) -> Any:
    """The model that a function makes of a model, or of the module."""
    if what is None:
        return model
    copied = type(model)()
    copied.CopyFrom(model)
    try:
        if not callable(what):
            return model_of(what)
        if side == "before" and _exports(what):
            return model_of(what(graph.layer, graph.inputs[0].clone()))
        if not by_path:
            made = what(copied)
            return copied if made is None else model_of(made)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{graph.name}.onnx")
            path.write_bytes(model.SerializeToString())
            made = what(str(path))
            return model_of(str(path) if made is None else made)
    except Exception as error:
        raise _Wrong(side, f"{type(error).__name__} is raised: {quoted(error, 300)}") from error


def model_of(made: Any) -> Any:
    """The ``onnx.ModelProto`` in what a function returned: itself, bytes, a path, a tuple, torch's export.

    Raises:
        EquivError: It is none of these.
    """
    import onnx

    if isinstance(made, tuple) and made:
        made = made[0]
    made = getattr(made, "model_proto", made)
    if isinstance(made, onnx.ModelProto):
        return made
    if isinstance(made, bytes):
        return onnx.load_from_string(made)
    if isinstance(made, (str, os.PathLike)):
        if not Path(made).is_file():
            raise EquivError(f"model: expected the path of an ONNX file, got {str(made)!r}; there is no such file here")
        return onnx.load(str(made))
    raise refusal("model", "an onnx.ModelProto, its bytes or the path of its file", made, "return one of these")


def _run(side: str, model: Any, feeds: Sequence[Tensor]) -> Iterator[Tensor]:
    """The first output for each input, by ONNX Runtime with its optimizations off."""
    ort: Any = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for x in feeds:
            yield torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0].copy())
    except Exception as error:
        raise _Wrong(side, f"ONNX Runtime raises {type(error).__name__}: {quoted(error, 300)}") from error


_RANK = (Outcome.IDENTICAL, Outcome.ROUNDING, Outcome.UNDECIDED, Outcome.DIFFERENT)


def _judged(graph: Graph, before: Any, after: Any) -> GraphResult:
    """Both sides of a graph on its inputs, each against the exact result."""
    feeds = [graph.feed(x) for x in graph.inputs]
    found: dict[str, list[Tensor]] = {}
    worst: Verdict | None = None
    for side, model in (("before", before), ("after", after)):
        found[side] = list(_run(side, model, feeds))
        for x, y in zip(graph.inputs, found[side], strict=True):
            verdict = _verdict(side, graph, x, y)
            if worst is None or _RANK.index(verdict.outcome) > _RANK.index(worst.outcome):
                worst = verdict
    assert worst is not None
    same = all(torch.equal(a, b) for a, b in zip(found["before"], found["after"], strict=True))
    return GraphResult(graph.name, "after", worst.outcome, verdict=worst, identical=same)


def _verdict(side: str, graph: Graph, x: Tensor, y: Tensor) -> Verdict:
    exact = graph.exact(x)
    if y.shape != exact.shape or y.dtype != x.dtype:
        got, wanted = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (y, exact.float()))
        raise _Wrong(side, f"it returns {got}, expected {wanted}")
    verdict = compare(y, exact, input=x, layer=graph.layer)
    if verdict.outcome is Outcome.DIFFERENT:
        raise _Wrong(side, str(verdict))
    if graph.is_exact and not torch.equal(y.double(), exact):
        count = int((y.double() != exact).sum())
        raise _Wrong(side, f"{count} of {counted(y.numel(), 'output')} of integers not exact")
    return verdict
