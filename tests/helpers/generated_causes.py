"""Generated layers with one named mistake each, and what its mend makes of the wrong layer or its results.

A case is a Linear over a flattened map, a convolution as large as its map, or one that slides over it. A mistake is
planted in its parameters or in what it returns, and seen in one of several ways: between two layers, or in results.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from mistaken_convolutions import run
from torch import Tensor, nn

import equiv
from equiv import Cause, NotEquivalent, Outcome

EQUAL = (Outcome.IDENTICAL, Outcome.ROUNDING)
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Case:
    """A right layer, its map ``(C, *spatial)``, and an input ``(N, C, *spatial)``."""

    form: str
    layer: nn.Module
    shape: tuple[int, ...]
    x: Tensor
    generator: torch.Generator
    draw: random.Random
    draw_seed: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """``(C, *kernel)``: what the columns of the flattened weight are."""
        return self.shape if self.form == "linear" else tuple(self.layer.weight.shape[1:])

    def __call__(self, layer: nn.Module | None = None, x: Tensor | None = None) -> Tensor:
        """The results ``(N, O, *positions)`` of a layer of this form, without positions where there is one alone."""
        layer, x = self.layer if layer is None else layer, self.x if x is None else x
        with torch.no_grad():
            y = layer(x.flatten(1) if self.form == "linear" else x)
        return y if self.form == "sliding" else y.flatten(1)

    def with_parameters(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """The layer with other parameters: a weight ``(O, n)``, and a bias or None."""
        layer = copy.deepcopy(self.layer)
        layer.weight = nn.Parameter(weight.contiguous().reshape(self.layer.weight.shape), requires_grad=False)
        layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        return layer


@dataclass(frozen=True)
class Wrong:
    """What a mistake makes of a case: other parameters, or other results for the same input."""

    layer: nn.Module | None = None
    function: Callable[[Tensor], Tensor] | None = None


def case(
    seed: int, forms: tuple[str, ...], dtypes: tuple[torch.dtype, ...], *, square: bool = False, bias: bool = True
) -> Case:
    """A case of this seed; ``square``: as many outputs as inputs, or as output channels."""
    draw, g = random.Random(seed), torch.Generator().manual_seed(seed)
    form, dtype = draw.choice(forms), draw.choice(dtypes)
    rank = draw.choice((1, 2, 2, 2, 3))
    axes = (2, 3) if rank == 3 else (2, 3, 4, 5)
    shape = (draw.choice((2, 3, 4, 6)), *(draw.choice(axes) for _ in range(rank)))
    rows, outs = draw.choice((5, 8, 12)), draw.choice((4, 5, 7, 10))
    if form == "sliding":
        kernel = tuple(draw.choice((2, 3)) for _ in range(rank))
        shape = (shape[0], *(draw.choice((5, 6, 7) if rank < 3 else (4, 5)) for _ in range(rank)))
        outs = shape[0] if square else outs
        options: dict[str, Any] = {"stride": draw.choice((1, 1, 2)), "padding": draw.choice((0, 1))}
        layer: nn.Module = CONVS[rank](shape[0], outs, kernel, bias=bias, **options)
    else:
        n = math.prod(shape)
        outs = n if square else outs
        layer = nn.Linear(n, outs, bias=bias) if form == "linear" else CONVS[rank](shape[0], outs, shape[1:], bias=bias)
    scale = layer.weight[0].numel() ** -0.5
    layer.weight.data = (torch.rand(layer.weight.shape, generator=g, dtype=torch.float64) * 2 - 1) * scale
    if bias:
        layer.bias.data = (torch.rand(outs, generator=g, dtype=torch.float64) * 2 - 1) * scale
    x = torch.randn(rows, *shape, generator=g, dtype=torch.float64).to(dtype)
    return Case(form, layer.to(dtype).requires_grad_(False), shape, x, g, draw, seed)


def exchanged(case: Case, wrong: Wrong) -> tuple[Case, Wrong]:
    """The wrong layer as the right one, and the right one as the wrong one."""
    return replace(case, layer=wrong.layer), Wrong(case.layer)


def fixed(case: Case, wrong: Wrong) -> Wrong:
    """The same mistake; a function that draws at random draws alike from now on."""
    if wrong.function is None:
        return wrong
    function, state, draw = wrong.function, case.generator.get_state(), case.draw.getstate()

    def again(x: Tensor) -> Tensor:
        case.generator.set_state(state)
        case.draw.setstate(draw)
        return function(x)

    return Wrong(function=again)


def seen(case: Case, wrong: Wrong, way: str) -> Cause | str | None:
    """The cause named for a wrong layer or function, or "equal" where no difference is seen."""
    if way.startswith("results"):
        y = case(wrong.layer) if wrong.layer is not None else wrong.function(case.x)
        pair = (y, case()) if way == "results" else (case(), y)
        verdict = equiv.compare(*pair, input=case.x, layer=case.layer)
        return "equal" if verdict.equivalent else verdict.cause
    candidate = wrong.layer if wrong.layer is not None else wrong.function
    pair = (case.layer, candidate) if way.endswith("exchanged") else (candidate, case.layer)
    if way.startswith("certify"):
        certificate = equiv.certify(*pair, feature_shape=case.shape)
        return "equal" if certificate else certificate.cause
    try:
        equiv.assert_equivalent(*pair, feature_shape=case.shape)
    except NotEquivalent as difference:
        return difference.verdict.cause
    return "equal"


def mended(case: Case, wrong: Wrong, cause: Cause, y: Tensor | None = None) -> bool:
    """Whether the line of the cause, run on the wrong layer or its results, makes the right ones of them.

    ``weight`` and ``bias`` are the wrong layer's, or those that a wrong function holds, which are right.
    """
    if not cause.fix:
        return False
    layer = case.layer if wrong.layer is None else wrong.layer
    y = (case(wrong.layer) if wrong.function is None else wrong.function(case.x)) if y is None else y
    with settings_kept():
        return _run(case, wrong, layer, y, cause.fix)


@contextmanager
def settings_kept() -> Iterator[None]:
    """The settings of torch that a line of a cause may change are put back."""
    backends = torch.backends
    places = backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv
    kept = [place.fp32_precision for place in places]
    try:
        yield
    finally:
        for place, precision in zip(places, kept, strict=True):
            place.fp32_precision = precision


def _run(case: Case, wrong: Wrong, layer: nn.Module, y: Tensor, fix: str) -> bool:
    names = {"torch": torch, "x": case.x if case.form == "sliding" else case.x.flatten(1), "y": y.clone()}
    names |= {"weight": layer.weight.flatten(1).clone(), "bias": None if layer.bias is None else layer.bias.clone()}
    names["reference"] = SimpleNamespace(weight=case.layer.weight.flatten(1), bias=case.layer.bias)
    before = dict(names)
    versions = names["weight"]._version
    exec(compile(fix, "fix", "exec"), names)
    if names["y"] is before["y"]:
        changed = before["weight"]._version != versions or any(
            names[name] is not before[name] for name in ("weight", "bias")
        )
        if wrong.layer is None and not changed:
            names["y"] = wrong.function(case.x)  # a setting of torch
        else:
            mended_layer = case.with_parameters(names["weight"], names["bias"])
            equiv.assert_equivalent(mended_layer, case.layer, feature_shape=case.shape)
            names["y"] = case(mended_layer)
    return equiv.compare(names["y"], case(), input=case.x, layer=case.layer).outcome in EQUAL


Plant = Callable[[Case], Wrong]
FORMS, LAYERS, RESULTS = (
    ("linear", "full", "sliding"),
    ("layers", "layers exchanged", "certify"),
    ("results", "results exchanged"),
)


@dataclass
class Found:
    """What became of some cases; ``claims`` are the names that they were given wrongly."""

    cases: int = 0
    recognised: int = 0
    mended: int = 0
    bad: int = 0
    claims: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __add__(self, other: Found) -> Found:
        return Found(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def note(self, case: Case, way: str, cause: Cause | None, *, right: bool, claimed: bool = False) -> None:
        """One more case."""
        self.cases += 1
        self.bad += not right
        if claimed and cause is not None:
            self.claims.append(cause.name)
        if not right:
            layer = f"{case.form} {tuple(case.layer.weight.shape)} on {case.shape} in {case.x.dtype}"
            self.failures.append(f"{way}: {layer}, seed {case.draw_seed}: {cause}; {cause and cause.fix}")


def tried(mistake: Any, count: int) -> Found:
    """Whether a named mistake is recognised in so many cases in which it makes a difference, and mended."""
    found, seed = Found(), -1
    while found.cases < count and seed < 40 * count:
        seed += 1
        bias = mistake.bias if mistake.bias is not None else seed % 3 > 0
        it = case(seed, mistake.forms, mistake.dtypes, square=mistake.square, bias=bias)
        if not mistake.fits(it):
            continue
        way, wrong = mistake.seen_in[seed % len(mistake.seen_in)], fixed(it, mistake.plant(it))
        cause = seen(it, wrong, way)
        if cause == "equal":
            continue
        named = cause is not None and cause.name in mistake.called(way)
        named = named and all(word in cause.sentence for word in mistake.words)
        at = exchanged(it, wrong) if way == "layers exchanged" and wrong.layer is not None else (it, wrong)
        mend = cause is not None and mended(*at, cause)
        found.note(it, way, cause, right=named and mend, claimed=not named)
        found.recognised, found.mended = found.recognised + named, found.mended + mend
    return found


def unnamed(key: str, plant: Plant, count: int) -> Found:
    """Whether a difference that no mistake explains has no name, in so many cases."""
    found = Found()
    dtypes = (torch.float32,) if "float16" in key else (torch.float32, torch.float64)
    for seed in range(count):
        it = case(seed, FORMS, dtypes, bias=seed % 3 > 0)
        wrong = fixed(it, plant(it))
        ways = RESULTS if wrong.layer is None else (*LAYERS, *RESULTS)
        way = ways[seed % len(ways)]
        cause = seen(it, wrong, way)
        found.note(it, way, cause, right=cause in (None, "equal"), claimed=True)
    return found


def two_at_once(plant: Plant, count: int) -> Found:
    """Whether two mistakes together are named as what they make together, or not at all."""
    found = Found()
    for seed in range(count):
        it = case(seed, FORMS, (torch.float32,), bias=True)
        way = ("layers", "results", "certify", "results exchanged")[seed % 4]
        wrong = fixed(it, plant(it))
        cause = seen(it, wrong, way)
        if cause in (None, "equal"):
            found.note(it, way, None, right=True)
            continue
        whole = mended(it, wrong, cause)
        found.note(it, way, cause, right=whole, claimed=not whole)
        found.recognised += whole
    return found


def of_weight(change: Callable[[Tensor, Case], Tensor]) -> Plant:
    """A mistake of the weight ``(O, n)``."""
    return lambda case: Wrong(case.with_parameters(change(case.layer.weight.flatten(1), case), case.layer.bias))


def of_parameters(change: Callable[[Tensor], Tensor]) -> Plant:
    """A mistake of weight and bias alike."""

    def plant(case: Case) -> Wrong:
        bias = case.layer.bias
        return Wrong(case.with_parameters(change(case.layer.weight.flatten(1)), None if bias is None else change(bias)))

    return plant


def of_bias(change: Callable[[Tensor, Case], Tensor | None]) -> Plant:
    """A mistake of the bias."""
    return lambda case: Wrong(case.with_parameters(case.layer.weight.flatten(1), change(case.layer.bias, case)))


def of_results(change: Callable[[Tensor, Case], Tensor]) -> Plant:
    """A mistake of the results."""
    return lambda case: Wrong(function=lambda x: change(case(x=x), case))


def of_kernel(x: Callable[[Tensor], Tensor], weight=None, bias=None, results=None) -> Plant:
    """A layer that is computed in other formats."""

    def plant(case: Case) -> Wrong:
        weight_ = case.layer.weight if weight is None else weight(case.layer.weight.flatten(1))
        bias_ = case.layer.bias if bias is None or case.layer.bias is None else bias(case.layer.bias)
        layer = case.with_parameters(weight_.flatten(1), bias_)

        def function(given: Tensor) -> Tensor:
            y = case(layer, x(given.flatten(1)).view_as(given))
            return y if results is None else results(y)

        return Wrong(function=function)

    return plant


def of_window(change: Callable[[Case], dict[str, Any]], x: Callable[[Tensor], Tensor] | None = None) -> Plant:
    """A sliding convolution that reads elsewhere."""

    def plant(case: Case) -> Wrong:
        options = change(case)

        def function(given: Tensor) -> Tensor:
            with torch.no_grad():
                return run(case.layer, given if x is None else x(given), **options)

        return Wrong(function=function)

    return plant


def moved(count: int, case: Case) -> Tensor:
    """An order that is not the right one."""
    while True:
        order = torch.randperm(count, generator=case.generator)
        if not torch.equal(order, torch.arange(count)):
            return order


def as_map(weight: Tensor, case: Case) -> Tensor:
    """``(O, C, *kernel)``."""
    return weight.reshape(len(weight), *case.kernel)


def spatial_axes(case: Case) -> tuple[int, ...]:
    """Axes of the kernel in ``(O, C, *kernel)``."""
    return tuple(range(2, 1 + len(case.kernel)))
