"""Whether a rewritten classifier gives on every window of a larger map what the classifier gives on that window.

Both run in float64, on values that are drawn. What is left between them then is rounding, or a defect. How large
rounding is, is measured: it is what the classifier itself makes of the same windows in float32. From float32 to float64
the unit roundoff is halved 29 times, and rounding with it, whatever amplified it on the way; a defect stays as it is. A
difference that has not lost the half of these 29 halvings is no rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from equiv.errors import EquivError
from equiv.models.dense_surgery import Surgery
from equiv.models.dense_tracing import Traced
from equiv.models.dense_values import Value
from equiv.models.dense_windows import Windows

_SHRINKS = 2.0**-15
_CASTS = ("float", "double", "half", "bfloat16", "to", "type", "_to_copy")


class NoInformationError(Exception):
    """The scores are the same on all inputs, or not finite: they prove nothing."""


def check_windows(traced: Traced, surgery: Surgery, windows: Windows, seed: int) -> float:
    """Raise where a score differs from the classifier on its window; how far float32 rounds the scores.

    Where padding lets windows differ at their borders, the whole is checked on one window; and on the others what
    follows operations that pad, on windows of the maps that come from these.

    Raises:
        EquivError: It does.
        NoInformationError: Nothing can be told from the scores of this model.
    """
    spatial, stride = traced.spatial, windows.stride
    larger = tuple(size + step for size, step in zip(spatial, stride, strict=True))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*traced.example.shape[:2], *larger, generator=generator, dtype=torch.float64)
    axes = range(len(spatial))
    places = [(0,) * len(spatial), *(tuple(int(i == axis) for i in axes) for axis in axes)]
    crops = [_crop(x, place, stride, spatial) for place in places]
    exact = all(word == "all" for word in windows.exact)
    compared = crops if exact else crops[:1]  # the others of a padded model differ at their borders
    found, alone, maps = _of_candidate(surgery, x, crops[0])
    with torch.no_grad():  # one copy at a time: classifiers are large
        original = _as(traced.module, torch.float64)
        expected = [_flat(original(crop)) for crop in compared]
        rest = expected
        if not exact:
            given = [
                {name: _crop_map(maps[name], place, stride, value) for name, value in surgery.padded.items()}
                for place in places
            ]
            rest = [_flat(_Rest(original, some).run(crop)) for some, crop in zip(given, crops, strict=True)]
        del original
        single = _as(traced.module, torch.float32)
        rounding = max(_distance(y, _flat(single(crop.float()))) for crop, y in zip(compared, expected, strict=True))
    _check_information(rest, rounding)
    _same(alone, expected[0], rounding, "the example's size")
    for place, wanted in zip(places, rest, strict=True):
        _same(_at(found, place), wanted, rounding, f"the window at {place}")
    return rounding


def check_whole(traced: Traced, surgery: Surgery, windows: Windows, rounding: float) -> None:
    """Raise where a score that is said to read no padding changes with what lies around its window.

    Raises:
        EquivError: It does.
    """
    sizes = zip(windows.offset, windows.window, windows.stride, strict=True)
    larger = tuple(offset + window + stride + 1 for offset, window, stride in sizes)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*traced.example.shape[:2], *larger, generator=generator, dtype=torch.float64)
    least = tuple(size - stride - 1 for size, stride in zip(larger, windows.stride, strict=True))
    ones = (1,) * len(larger)
    candidate = _as(surgery.module, torch.float64)
    with torch.no_grad():
        whole, alone = _tensors(candidate(x)), _flat(candidate(_crop(x, ones, windows.stride, least)))
    _same(_at(whole, ones), alone, rounding, "a window inside and one at the border")


def _of_candidate(surgery: Surgery, x: Tensor, crop: Tensor) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Its scores on the larger map and on one crop, and those maps of the first that come from padding."""
    candidate = _as(surgery.module, torch.float64)
    keeping = _Keeping(candidate, {surgery.stands_for.get(name, name): name for name in surgery.padded})
    with torch.no_grad():
        return _tensors(keeping.run(x)), _flat(candidate(crop)), keeping.kept


def _check_information(scores: list[list[Tensor]], rounding: float) -> None:
    """Raise where no defect could show."""
    told = [torch.cat([y.flatten() for y in each]) for each in scores]
    spread = max(float((told[0] - other).abs().max()) for other in told[1:])
    if not spread > 0 or not rounding <= spread or not all(bool(y.isfinite().all()) for y in told):
        raise NoInformationError


def _same(actual: list[Tensor], expected: list[Tensor], rounding: float, where: str) -> None:
    fits = [a.shape for a in actual] == [b.shape for b in expected]
    distance = _distance(actual, expected) if fits else float("inf")
    if not distance <= rounding * _SHRINKS:
        raise EquivError(
            f"model: expected a score for each window that equals the classifier's, got {distance:.3g} between them in "
            f"float64 on {where}, where float32 rounds by {rounding:.3g}; this is no rounding: please report the model"
        )


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x.double() - y.double()).abs().max()) for x, y in zip(a, b, strict=True))


def _crop(x: Tensor, place: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    for dim, (p, s, n) in enumerate(zip(place, stride, size, strict=True), 2):
        x = x.narrow(dim, p * s, n)
    return x


def _crop_map(x: Tensor, place: tuple[int, ...], stride: tuple[int, ...], value: Value) -> Tensor:
    for i, (p, s, axis) in enumerate(zip(place, stride, value.axes, strict=True)):
        x = x.narrow(i + (1 if value.last else 2), p * (s // axis.stride), axis.size)
    return x.reshape(len(x), *value.shape[1:]).contiguous()


def _at(scores: list[Tensor], place: tuple[int, ...]) -> list[Tensor]:
    at: Any = (..., *place)
    return [y[at].flatten(1) for y in scores]


def _flat(result: Any) -> list[Tensor]:
    return [y.flatten(1) for y in _tensors(result)]


def _tensors(result: Any) -> list[Tensor]:
    found: list[Tensor] = []
    torch.utils._pytree.tree_map_only(Tensor, found.append, result)
    return found


def _as(module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """A copy on the CPU that computes in a dtype throughout."""
    held: dict[int, Any] = {}
    for parameter in module.parameters():
        values = parameter.detach().to("cpu", dtype)
        held[id(parameter)] = torch.nn.Parameter(values, requires_grad=False)
    own = copy.deepcopy(module, held).to("cpu", dtype).eval()
    for node in list(own.graph.nodes):
        name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
        if node.op in ("call_method", "call_function") and name in _CASTS:
            node.replace_all_uses_with(node.args[0])
            own.graph.erase_node(node)
    own.recompile()
    return own


class _Keeping(fx.Interpreter):
    """Runs a graph and keeps some of its results."""

    def __init__(self, module: fx.GraphModule, names: dict[str, str]) -> None:
        super().__init__(module)
        self.names, self.kept = names, dict[str, Tensor]()
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.kept[self.names[n.name]] = result.clone()
        return result


class _Rest(fx.Interpreter):
    """Runs only what follows from maps that are given."""

    def __init__(self, module: fx.GraphModule, given: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.given = given
        self.needed = {node.name for node in _needed(module.graph, set(given))}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.given:
            return self.given[n.name]
        if n.op != "placeholder" and n.name not in self.needed:
            return None
        return super().run_node(n)


def _needed(graph: fx.Graph, given: set[str]) -> Iterator[fx.Node]:
    """The nodes that the output is computed from, where some need not be."""
    waiting, seen = [node for node in graph.nodes if node.op == "output"], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [] if node.name in given else node.all_input_nodes
