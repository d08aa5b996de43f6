"""Convolutions with stride, padding and its modes, dilation and groups, on maps of one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from equiv.arguments import check_bool, check_choice, check_device, check_dtype, check_integer, check_shape, refusal
from equiv.dtypes import is_inexact
from equiv.mapping import CONVS, Conv
from equiv.numerics import entry_range, exact_range, gradients_recorded
from equiv.strategies.lazy import lazy
from equiv.strategies.shapes import Shape, spatial_ranks
from equiv.strategies.sliding import draw_on_map, draw_sliding
from equiv.strategies.tensor import draw_seed
from equiv.strategies.traffic import Sliding
from equiv.strategies.words import pretty_repr, short_repr

STYLES = ("dense", "wide", "signs")
MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True, repr=False)
class ConvolutionRecipe:
    """All that is needed to build a convolution again; prints as one Python expression.

    Attributes:
        channels: C, a multiple of ``groups``.
        outputs: O, a multiple of ``groups``.
        size: of the map, one number for each of its one to three dimensions.
        kernel: one number for each dimension, as stride, padding and dilation.
        stride: empty for 1.
        padding: at both ends of each dimension; empty for none.
        dilation: empty for 1.
        groups: of channels.
        padding_mode: as in ``torch.nn.Conv2d``.
        samples: N.
        bias: whether there is one.
        style: of the values: inputs and weights of one size (``dense``), large inputs and weights of -1, 0, 1
            (``wide``), or inputs of -1, 0, 1 and large weights (``signs``).
        seed: of the values.
        dtype: of all tensors.
        device: of all tensors.

    Example:
        >>> recipe = ConvolutionRecipe(channels=2, outputs=3, size=(5, 5), kernel=(3, 3))
        >>> tuple(build_convolution(recipe).weight.shape)
        (3, 2, 3, 3)
    """

    channels: int
    outputs: int
    size: Shape
    kernel: Shape
    stride: Shape = ()
    padding: Shape = ()
    dilation: Shape = ()
    groups: int = 1
    padding_mode: str = "zeros"
    samples: int = 1
    bias: bool = False
    style: str = "dense"
    seed: int = 0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    __repr__ = short_repr
    _repr_pretty_ = pretty_repr

    @property
    def steps(self) -> tuple[Shape, Shape, Shape]:
        """Stride, padding and dilation with one number for each dimension."""
        ones = (1,) * len(self.size)
        return self.stride or ones, self.padding or (0,) * len(self.size), self.dilation or ones

    @property
    def positions(self) -> Shape:
        """Sizes of the result."""
        axes = zip(self.size, self.kernel, *self.steps, strict=True)
        return tuple((size + 2 * p - e * (k - 1) - 1) // s + 1 for size, k, s, p, e in axes)


@dataclass(frozen=True, eq=False, repr=False)
class Convolution:
    """A convolution and a map for it, on which right kernels give the same bits, forward and back.

    Prints as the call that builds it again.

    Attributes:
        x: (N, C, *size).
        weight: (O, C / groups, *kernel).
        bias: (O,) or None.
        grad: an incoming gradient (N, O, *positions); None for integers.
        recipe: what ``build_convolution`` makes the same from.

    Example:
        >>> from hypothesis import find
        >>> smallest = find(convolutions(), lambda c: c.weight.shape[0] >= 2)
        >>> smallest.weight.shape[0]
        2
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    grad: Tensor | None
    recipe: ConvolutionRecipe

    @property
    def dtype(self) -> torch.dtype:
        """As in the recipe."""
        return self.recipe.dtype

    @property
    def device(self) -> torch.device:
        """As in the recipe."""
        return torch.device(self.recipe.device)

    @property
    def seed(self) -> int:
        """As in the recipe."""
        return self.recipe.seed

    @property
    def module(self) -> Conv:
        """A module of torch with these parameters, which are not copied."""
        r, kind = self.recipe, CONVS[len(self.recipe.size)]
        stride, padding, dilation = r.steps
        more: dict[str, Any] = {"groups": r.groups, "bias": r.bias, "padding_mode": r.padding_mode, "device": "meta"}
        made: Any = kind
        conv: Conv = made(r.channels, r.outputs, r.kernel, stride, padding, dilation, **more)
        conv.weight = nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias, requires_grad=False)
        return conv

    def __repr__(self) -> str:
        return f"build_convolution({self.recipe!r})"

    _repr_pretty_ = pretty_repr


@gradients_recorded()
def build_convolution(recipe: ConvolutionRecipe) -> Convolution:
    """The convolution of a recipe: the same bits every time.

    Raises:
        EquivError: if ``recipe`` is no ``ConvolutionRecipe``, or has sizes that no convolution has.

    Example:
        >>> made = build_convolution(ConvolutionRecipe(4, 8, (5, 6), (3, 3), padding=(1, 0), groups=2))
        >>> made.weight.shape, made.grad.shape
        (torch.Size([8, 2, 3, 3]), torch.Size([1, 8, 5, 4]))
    """
    if not isinstance(recipe, ConvolutionRecipe):
        raise refusal("recipe", "an equiv.strategies.ConvolutionRecipe", recipe, "pass the recipe of a convolution")
    _check(recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    x, weight, bias, grad = (_inexact if is_inexact(recipe.dtype) else _whole)(recipe, generator)
    shape = (recipe.outputs, recipe.channels // recipe.groups, *recipe.kernel)

    def put(t: Tensor) -> Tensor:
        return t.to(recipe.dtype).to(recipe.device)

    return Convolution(
        put(x.view(recipe.samples, recipe.channels, *recipe.size)),
        put(weight.view(shape)),
        put(bias) if recipe.bias else None,
        None if grad is None else put(grad.view(recipe.samples, recipe.outputs, *recipe.positions)),
        recipe,
    )


def _check(recipe: ConvolutionRecipe) -> None:
    rank = len(check_shape("size", recipe.size))
    if not 1 <= rank <= 3:
        raise refusal("size", "one to three dimensions", recipe.size, "pass such as (5, 6)")
    for name, least in (("channels", 1), ("outputs", 1), ("groups", 1), ("samples", 1), ("seed", 0)):
        check_integer(name, getattr(recipe, name), least=least)
    for name in ("kernel", "stride", "padding", "dilation"):
        given = check_shape(name, getattr(recipe, name))
        if len(given) != rank and (given or name == "kernel"):
            raise refusal(name, f"{rank} numbers, one for each dimension of the map", given, "pass so many")
        if name != "padding" and 0 in given:
            raise refusal(name, "numbers of at least 1", given, "pass such")
    for name in ("channels", "outputs"):
        if getattr(recipe, name) % recipe.groups:
            raise refusal(name, f"a multiple of groups={recipe.groups}", getattr(recipe, name), "pass one")
    check_bool("bias", recipe.bias, "pass True or False")
    check_choice("style", recipe.style, STYLES, "see ConvolutionRecipe")
    check_choice("padding_mode", recipe.padding_mode, MODES, "see torch.nn.Conv2d")
    check_dtype("dtype", recipe.dtype)
    check_device("device", recipe.device)
    if min(recipe.positions) < 1:
        raise refusal("size", "a padded map no smaller than the kernel", recipe.size, "pass a larger map")


Tensors = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _whole(recipe: ConvolutionRecipe, generator: torch.Generator) -> Tensors:
    """Integers wrap: the whole range of the dtype may be used."""
    info, count = torch.iinfo(recipe.dtype), recipe.channels * math.prod(recipe.size) * recipe.samples
    low, high = max(info.min, -(2**62)), min(info.max, 2**62)

    def draw(size: int) -> Tensor:
        return torch.randint(low, high + 1, (size,), generator=generator, dtype=torch.int64)

    terms = recipe.channels // recipe.groups * math.prod(recipe.kernel)
    return draw(count), draw(recipe.outputs * terms), draw(recipe.outputs), None


def _inexact(recipe: ConvolutionRecipe, generator: torch.Generator) -> Tensors:
    """Integers so few or so small that no sum of magnitudes, forward or back, leaves the exact range."""
    is_complex, r = recipe.dtype.is_complex, recipe
    budget = exact_range(r.dtype, unrounded=True) // (4 if is_complex else 1)
    largest = max(1, min(entry_range(r.dtype), budget // 2))
    taps, positions = math.prod(r.kernel), math.prod(r.positions)
    terms = r.channels // r.groups * taps
    left = budget * 3 // 4
    keep = min(terms, left)
    total = left // keep
    rx, rw = {"dense": (math.isqrt(total),) * 2, "wide": (total, 1), "signs": (1, total)}[r.style]
    rx, rw = min(rx, largest), min(rw, largest)

    def draw(size: int, radius: int) -> Tensor:
        def part() -> Tensor:
            return torch.randint(-radius, radius + 1, (size,), generator=generator).double()

        return torch.complex(part(), part()) if is_complex else part()

    weight = draw(r.outputs * terms, rw).view(r.outputs, terms)
    if keep < terms:
        kept = torch.rand((r.outputs, terms), generator=generator).topk(keep, dim=1).indices
        weight = torch.zeros_like(weight).scatter_(1, kept, weight.gather(1, kept))
    x = draw(r.samples * r.channels * math.prod(r.size), rx)
    bias = draw(r.outputs, min(largest, budget - keep * rx * rw))
    of_input, of_weight = r.outputs // r.groups * taps, r.samples * positions
    count = chosen = r.samples * r.outputs * positions
    # Other modes than zeros repeat an entry: an incoming one may reach it by several taps.
    copies = 1 if r.padding_mode == "zeros" else math.prod(2 * p + 1 for p in r.steps[1])
    radius = min(largest, budget // max(of_input * copies * rw, of_weight * rx))
    if radius == 0:
        radius, chosen = 1, min(count, max(1, budget // max(rx, rw * min(taps, copies))))
    places = torch.randperm(count, generator=generator)[:chosen]
    places[0] = count - 1  # the last corner is always among them
    grad = torch.zeros(count, dtype=x.dtype)
    grad[places] = draw(chosen, radius)
    return x, weight, bias, grad


@dataclass(frozen=True)
class _Plan:
    dtype: torch.dtype
    device: str
    ranks: tuple[int, ...]
    max_work: int
    layer: Sliding | None = None


def _drawn(draw: st.DrawFn, plan: _Plan) -> Convolution:
    if plan.layer is not None:
        return _built(draw, plan, *draw_on_map(draw, plan.layer, max_work=plan.max_work), "zeros")
    rank = draw(st.sampled_from(plan.ranks + (2,) * (2 in plan.ranks)))
    mode = draw(st.sampled_from(("zeros",) * 9 + MODES[1:]))
    drawn = draw_sliding(draw, rank, padded_with_zeros=mode == "zeros", max_work=plan.max_work)
    return _built(draw, plan, *drawn, mode)


def _built(draw: st.DrawFn, plan: _Plan, layer: Sliding, size: Shape, mode: str) -> Convolution:
    channels, outputs, kernel, stride, padding, dilation, groups = layer
    rest: dict[str, Any] = {
        "bias": draw(st.booleans()),
        "style": draw(st.sampled_from(STYLES)),
        "seed": draw_seed(draw),
        "dtype": plan.dtype,
        "device": plan.device,
    }
    steps = size, kernel, stride, padding, dilation, groups
    plain = ConvolutionRecipe(channels, outputs, *steps, padding_mode=mode, **rest)
    if groups == 1 and plan.layer is None and draw(st.sampled_from(range(6))) == 5:
        plain = replace(plain, outputs=plain.positions[0])  # an exchange of the two does not change the shape
    work = math.prod(plain.positions) * channels // groups * math.prod(kernel)
    outputs = groups * max(1, min(plain.outputs // groups, plan.max_work // (work * groups)))
    samples = max(1, min(draw(st.sampled_from((1, 2, 2, 3, 5, 17))), plan.max_work // (work * outputs)))
    return build_convolution(replace(plain, outputs=outputs, samples=samples))


def like(layer: Sliding, *, dtype: torch.dtype, device: torch.device, max_work: int) -> st.SearchStrategy[Convolution]:
    """Convolutions with the steps of ``layer``, one of ``SLIDING``, on small maps that are padded with zeros."""
    plan = _Plan(dtype, str(device), (len(layer.kernel),), max_work, layer)
    return lazy(like, {"layer": layer}, lambda: partial(_drawn, plan=plan))


def convolutions(
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    spatial_dims: Sequence[int] = (1, 2, 3),
    max_work: int = 2**15,
) -> st.SearchStrategy[Convolution]:
    """Convolutions with a map and an incoming gradient: integers on which every right kernel gives the same bits.

    Kernel, stride, padding (more than half the kernel among it) and dilation differ between dimensions, or are those of
    layers that keep the size of a map, or plain; channels lie in one group, in several, or each in its own (depthwise,
    also with several outputs for each); 3 channels with a kernel of 7, 16 to 64 channels, and patches (kernel and
    stride are the same) come as often. Every other one is a convolution of a network (ResNet, ConvNeXt, Whisper and
    their neighbours: ``SLIDING`` in ``equiv.strategies.traffic``) on a small map, its channels halved until they fit.
    A quarter of the maps is padded in another mode than with zeros.

    Args:
        dtype: of all tensors.
        device: of all tensors.
        spatial_dims: how many dimensions maps have, any of 1, 2, 3.
        max_work: upper bound of the number of products, where one output for each group and one sample allow it.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> made = find(convolutions(), lambda made: made.recipe.groups > 1)
        >>> made.weight.shape[1] * made.recipe.groups == made.x.shape[1]
        True
    """
    given = dict(locals())

    def build() -> Callable[[st.DrawFn], Convolution]:
        kind, place = check_dtype("dtype", dtype), check_device("device", device)
        work = check_integer("max_work", max_work, least=1)
        return partial(_drawn, plan=_Plan(kind, str(place), spatial_ranks(spatial_dims), work))

    return lazy(convolutions, given, build)
