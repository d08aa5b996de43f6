"""Whole cases: a layer, an input for it, and the memory layouts to try them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from hypothesis import strategies as st

from equiv.arguments import check_bool, check_device, check_dtype, check_integer, check_shape, refusal
from equiv.mapping import check_feature_shape
from equiv.numerics import STYLES, exact_case, gradients_recorded
from equiv.strategies.layout import Layout, draw_layout
from equiv.strategies.lazy import lazy, shown_in_statistics
from equiv.strategies.shapes import Shape, draw_batch_shape, draw_feature_shape, draw_size, rank_bounds, spatial_ranks
from equiv.strategies.tensor import draw_kind, draw_seed, draw_windows
from equiv.strategies.values import PROBE, Values, check_kinds
from equiv.strategies.words import pretty_repr, short_repr

CONTIGUOUS = Layout("contiguous")
_ROLES = ("x", "weight", "bias", "grad")
_FULL = ("signs", "dense", "address")  # probes without chance zeros come first: the window alone makes them sparse
_STYLES = tuple(sorted(STYLES, key=lambda style: style not in _FULL))
_PAIRED = ("normals", "wide", "cancelling")  # weights that do not let a cancelling input cancel


@dataclass(frozen=True, repr=False)
class Recipe:
    """All that is needed to build a case again; prints as one Python expression.

    Attributes:
        feature_shape: ``(C, *spatial)``, with product n.
        out_features: O.
        batch_shape: leading shape of the input.
        x: the values of the input. The kind ``"probe"`` takes them from ``equiv.numerics.probes``, and of the other
            attributes obeys ``window``, and ``most``, which keeps sums of integers exact.
        weight: likewise.
        bias: likewise; None for no bias.
        seed: that the seeds of the three came from, and that of the probe.
        style: of the probe; None if the kinds are not ``"probe"``.
        gradients: whether the probe's entries are so small that gradients are exact too.
        dtype: of all three.
        device: of all three.
        layouts: those to try x, weight, bias and the incoming gradient in.

    Example:
        >>> recipe = Recipe((2, 1, 1), 3, (5,), x=Values("distinct"), weight=Values("constant"))
        >>> tuple(build_case(recipe).weight.shape)
        (3, 2)
    """

    feature_shape: Shape
    out_features: int
    batch_shape: Shape
    x: Values
    weight: Values
    bias: Values | None = None
    seed: int = 0
    style: str | None = None
    gradients: bool = False
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    layouts: tuple[Layout, Layout, Layout, Layout] = (CONTIGUOUS,) * 4

    __repr__ = short_repr
    _repr_pretty_ = pretty_repr


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A layer and an input for it, contiguous, with the layouts that a law may put them in.

    Prints as the call that builds it again.

    Attributes:
        weight: (O, n).
        bias: (O,) or None.
        x: (*batch_shape, n).
        feature_shape, batch_shape, dtype, device, seed: as in the recipe.
        recipe: what ``build_case`` makes the same case from.
        layouts: ``"x"``, ``"weight"``, ``"bias"``, ``"grad"`` -> ``Layout``, drawn independently, not applied here.

    Example:
        >>> case = build_case(Recipe((2, 1, 1), 3, (5,), x=Values("distinct"), weight=Values("constant")))
        >>> tuple(case.weight.shape), tuple(case.x.shape)
        ((3, 2), (5, 2))
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    x: torch.Tensor
    feature_shape: Shape
    batch_shape: Shape
    dtype: torch.dtype
    device: torch.device
    seed: int
    recipe: Recipe
    layouts: dict[str, Layout]

    def __repr__(self) -> str:
        return f"build_case({self.recipe!r})"

    _repr_pretty_ = pretty_repr


@gradients_recorded()
def build_case(recipe: Recipe) -> Case:
    """The case of a recipe: the same bits every time.

    Raises:
        EquivError: if ``recipe`` is no ``Recipe``, or asks for values that its dtype cannot hold.

    Example:
        >>> case = build_case(Recipe((2, 1), 1, (), x=Values("distinct"), weight=Values("constant")))
        >>> case.x, case.weight, case.bias
        (tensor([1., 2.]), tensor([[1., 1.]]), None)
    """
    if not isinstance(recipe, Recipe):
        raise refusal("recipe", "an equiv.strategies.Recipe", recipe, "pass case.recipe")
    _check_recipe(recipe)
    device, n = torch.device(recipe.device), math.prod(recipe.feature_shape)
    if recipe.style is None:
        x = recipe.x.tensor((*recipe.batch_shape, n), recipe.dtype, device)
        w = recipe.weight.tensor((recipe.out_features, n), recipe.dtype, device)
        b = None if recipe.bias is None else recipe.bias.tensor((recipe.out_features,), recipe.dtype, device)
    else:
        x, w, b = _probe(recipe, recipe.style, device, n)
    return Case(
        weight=w,
        bias=b,
        x=x,
        feature_shape=recipe.feature_shape,
        batch_shape=recipe.batch_shape,
        dtype=recipe.dtype,
        device=device,
        seed=recipe.seed,
        recipe=recipe,
        layouts=dict(zip(_ROLES, recipe.layouts, strict=True)),
    )


def _check_recipe(recipe: Recipe) -> None:
    check_feature_shape(recipe.feature_shape)
    check_integer("out_features", recipe.out_features, least=0)
    check_shape("batch_shape", recipe.batch_shape)
    check_device("device", recipe.device)
    for name in ("x", "weight", "bias"):
        values = getattr(recipe, name)
        if not isinstance(values, Values) and (values is not None or name != "bias"):
            raise refusal(name, "equiv.strategies.Values", values, "pass such as Values('normals')")
    check_bool("gradients", recipe.gradients)
    whole = isinstance(recipe.layouts, tuple) and len(recipe.layouts) == len(_ROLES)
    if not whole or not all(isinstance(layout, Layout) for layout in recipe.layouts):
        raise refusal("layouts", "four of equiv.strategies.Layout", recipe.layouts, "leave it out for contiguous ones")


def _probe(
    recipe: Recipe, style: str, device: torch.device, n: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """An exact probe with the windows of the recipe: fewer non-zeros leave every partial sum exact."""
    rows, out = math.prod(recipe.batch_shape), recipe.out_features
    x, w, b = exact_case(
        seed=recipe.seed,
        style=style,
        rows=rows,
        in_features=n,
        out_features=out,
        bias=recipe.bias is not None,
        dtype=recipe.dtype,
        device=device,
        reduction=max(rows, n, out) if recipe.gradients else None,
    )
    x, w = x.contiguous(), w.contiguous()
    recipe.x.window.keep_(x.view(-1))
    recipe.weight.window.keep_(w.view(-1))
    x, w = recipe.x.plainer(x), recipe.weight.plainer(w)
    b = b if b is None or recipe.bias is None else recipe.bias.plainer(b)
    return x.view(*recipe.batch_shape, n), w, b


def plainer(values: Values) -> Iterator[Values]:
    """Values with small whole numbers in place of theirs, the smallest first; zeros, then one magnitude for all.

    Those of a probe are at most so large: smaller integers keep it exact.
    """
    for size in (0, 1, 2, 3, 4, 8, 16, 64, 256, 4096):
        if values.kind == PROBE:
            yield replace(values, most=size)
        else:
            yield replace(values, unit=size, bits=None, most=None) if size else Values("zeros")


@dataclass(frozen=True)
class _Plan:
    """The checked arguments of ``cases``."""

    dtype: torch.dtype
    device: torch.device
    spatial_dims: tuple[int, ...]
    max_features: int
    max_out: int
    max_rows: int
    max_work: int
    max_entries: int
    min_positions: int
    batch_ranks: tuple[int, ...]
    allow_empty: bool
    bias: bool | None
    kinds: tuple[str, ...]
    styles: tuple[str, ...]
    gradients: bool
    layouts: bool


def _drawn_case(draw: st.DrawFn, plan: _Plan) -> Case:
    most = min(plan.max_features, plan.max_work, plan.max_entries)
    feature_shape = draw_feature_shape(draw, plan.spatial_dims, plan.min_positions, most)
    n = math.prod(feature_shape)
    out = draw_size(draw, min(plan.max_out, plan.max_work // n, plan.max_entries // n))
    rows = min(plan.max_rows, plan.max_work // (n * out), plan.max_entries // max(n, out))
    batch_shape = draw_batch_shape(draw, plan.batch_ranks, rows, allow_empty=plan.allow_empty)
    with_bias = draw(st.booleans()) if plan.bias is None else plan.bias
    seed = draw_seed(draw)
    style = draw(st.sampled_from(plan.styles)) if plan.styles else None
    x, weight, bias = _draw_values(draw, plan, seed, n * math.prod(batch_shape), n * out)
    recipe = Recipe(
        feature_shape,
        out,
        batch_shape,
        x,
        weight,
        bias if with_bias else None,
        seed,
        style,
        plan.gradients,
        plan.dtype,
        str(plan.device),
        _draw_layouts(draw, plan, len(batch_shape) + 1, with_bias),
    )
    shown_in_statistics(f"cases: x of {style or x.kind}")
    return build_case(recipe)


def _draw_values(
    draw: st.DrawFn, plan: _Plan, seed: int, in_numel: int, weight_numel: int
) -> tuple[Values, Values, Values]:
    """Values of input, weight and bias: one to three choices. The bias has the kind of the weight."""
    if plan.styles:
        kind_x = kind_w = PROBE
    else:
        kind_x, kind_w = draw_kind(draw, plan.kinds, "x"), draw_kind(draw, plan.kinds, "weight")
    if kind_x == "cancelling" and kind_w in _PAIRED:
        kind_w = "repeated"  # equal weights on neighbours: now the sums cancel, not the inputs alone
    sparse = ("zeros", "one_hot")
    window_x, window_w = draw_windows(
        draw, 0 if kind_x in sparse else in_numel, 0 if kind_w in sparse else weight_numel
    )
    return Values(kind_x, seed, window_x), Values(kind_w, seed, window_w), Values(kind_w, seed + 1)


def _draw_layouts(draw: st.DrawFn, plan: _Plan, ndim: int, with_bias: bool) -> tuple[Layout, Layout, Layout, Layout]:
    if not plan.layouts:
        return (CONTIGUOUS,) * 4
    high = max(ndim, 3)  # a law may apply it to a feature map, whose rank is higher
    return (
        draw_layout(draw, high, plan.dtype, "x"),
        draw_layout(draw, high, plan.dtype, "weight"),
        draw_layout(draw, 1, plan.dtype, "bias") if with_bias else CONTIGUOUS,
        draw_layout(draw, high, plan.dtype, "grad"),
    )


def cases(  # noqa: PLR0913 - what a user may choose about a case, all by name
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    spatial_dims: Sequence[int] = (1, 2, 3),
    max_features: int = 512,
    max_out: int = 256,
    max_rows: int = 160,
    max_work: int = 2**18,
    max_entries: int | None = None,
    min_positions: int = 1,
    batch_dims: tuple[int, int] = (0, 5),
    allow_empty: bool = True,
    bias: bool | None = None,
    kinds: Sequence[str] | None = None,
    exact: bool = False,
    gradients: bool = False,
    layouts: bool = True,
) -> st.SearchStrategy[Case]:
    """Cases: weight (O, n), bias (O,) or none, input (*batch, n), a feature shape with product n, and four layouts.

    About 20 choices at most whatever the sizes. Sizes come first and shrink to 1, values to zeros, layouts to
    contiguous; n, O and the number of rows each reach the sizes where kernels change (see ``feature_shapes``).

    Args:
        dtype: of all tensors.
        device: of all tensors.
        spatial_dims: how many spatial dimensions, any of 1, 2, 3.
        max_features: upper bound of n.
        max_out: upper bound of O.
        max_rows: upper bound of the number of rows.
        max_work: upper bound of rows * O * n, kept by drawing O and then the rows below what is left.
        max_entries: upper bound of the entries of input, weight and result, each; None for no other bound than work.
        min_positions: lower bound of ``prod(spatial)``: 2 leaves out the 1x1 maps.
        batch_dims: least and most leading dimensions.
        allow_empty: whether the input may have no rows.
        bias: whether there is one; None draws it.
        kinds: which kinds of values (see ``Values``); None for all that ``dtype`` holds.
        exact: take the values from ``equiv.numerics.probes.exact_case``: right kernels agree on them bit for bit.
        gradients: with ``exact``, entries so small that sums over rows and over O are exact too.
        layouts: draw layouts; else all four are contiguous.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(cases(), lambda case: case.bias is None).recipe.x
        Values(kind='zeros')
    """
    given = dict(locals())

    def build() -> Callable[[st.DrawFn], Case]:
        kind = check_dtype("dtype", dtype)
        if not isinstance(batch_dims, (tuple, list)) or len(batch_dims) != 2:
            raise refusal("batch_dims", "a pair (least, most)", batch_dims, "pass for example batch_dims=(1, 2)")
        if check_bool("exact", exact) and kinds is not None:
            raise refusal(
                "kinds",
                "None with exact=True",
                kinds,
                "leave out kinds or exact: with exact=True the values come from probes",
            )
        if check_bool("gradients", gradients) and not exact:
            raise refusal("gradients", "False without exact=True", gradients, "add exact=True")
        low, high = rank_bounds("batch_dims[0]", "batch_dims[1]", *batch_dims)
        least = check_integer("min_positions", min_positions, least=1)
        work = check_integer("max_work", max_work, least=least, advice="it bounds rows * O * n")
        plan = _Plan(
            dtype=kind,
            device=check_device("device", device),
            spatial_dims=spatial_ranks(spatial_dims),
            max_features=check_integer("max_features", max_features, least=least, advice="it bounds C * prod(spatial)"),
            max_out=check_integer("max_out", max_out, least=1),
            max_rows=check_integer("max_rows", max_rows, least=1),
            max_work=work,
            max_entries=work if max_entries is None else check_integer("max_entries", max_entries, least=least),
            min_positions=least,
            batch_ranks=tuple(range(low, high + 1)),
            allow_empty=check_bool("allow_empty", allow_empty),
            bias=None if bias is None else check_bool("bias", bias),
            kinds=check_kinds(kinds, kind),
            styles=_STYLES if exact else (),
            gradients=gradients,
            layouts=check_bool("layouts", layouts),
        )
        return partial(_drawn_case, plan=plan)

    return lazy(cases, given, build)
