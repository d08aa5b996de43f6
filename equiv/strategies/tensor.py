"""Strategies of single tensors and layers, and how the recipe of their values is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from equiv.arguments import check_bool, check_device, check_dtype, check_integer, check_shape, check_tensor, refusal
from equiv.dtypes import dtype_name, is_inexact
from equiv.strategies.bounds import Bounds, Limits, count_within
from equiv.strategies.dtype import dtypes
from equiv.strategies.fills import most_distinct
from equiv.strategies.layout import draw_layout
from equiv.strategies.lazy import lazy, shown_in_statistics
from equiv.strategies.printed import Made, print_as
from equiv.strategies.shapes import Shape, batch_shapes
from equiv.strategies.values import DRAWABLE, EVERYTHING, UNIQUE, Values, Window, check_kinds

_SHARES = {"small_integers": 2, "distinct": 3, "normals": 3, "wide": 2}  # of the draws, against 1 for the others
_SEED = st.binary(min_size=2, max_size=2)  # flat over 0..65535, and no integer that a mutation would copy elsewhere
_FAR = 2**400  # here Hypothesis (6.160 or later) draws any range flat; near 0 small integers prevail
_WIDE = 2**24

_MAGNITUDES: tuple[int, ...] = (
    *(m for m in range(1, 9) for _ in range(2)),
    *range(9, 33),
    *(40, 50, 64, 80, 100, 128, 160, 200, 255, 300, 400, 500, 650, 800),
    *(1000, 1500, 2000, 5000, 10**4, 20_000, 50_000, 10**5, 200_000, 500_000, 10**6, 10**7),
)
"""Plain whole numbers, ascending."""
_PLACES = st.sampled_from(range(2048))  # Hypothesis draws a longer table near its start: half of 2^15 in the first 2^10

_PLAINER: dict[str, dict[str, Any]] = {
    "unit": {"absolute": True},
    "signed unit": {},
    **{f"absolute {bits}": {"bits": bits, "absolute": True} for bits in (0, 1, 2)},
    **{f"rounded {bits}": {"bits": bits} for bits in (0, 1, 2, 4)},
}
_FORMED = st.sampled_from((*_PLAINER, *("drawn",) * 119))  # Hypothesis tries the first places first
_FORMED_OR_EDITED = st.sampled_from((*_PLAINER, *("edited",) * 16, *("drawn",) * 103))


@lru_cache(maxsize=64)
def _flat(count: int) -> st.SearchStrategy[int]:
    return st.integers(_FAR, _FAR + count - 1)


@lru_cache(maxsize=256)
def _kinds(role: str, kinds: tuple[str, ...]) -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from([(role, kind) for kind in kinds for _ in range(_SHARES.get(kind, 1))])


def draw_kind(draw: st.DrawFn, kinds: tuple[str, ...], role: str = "") -> str:
    """A kind of values, drawn with one choice, the simplest first; roles as in ``layout.draw_layout``."""
    return draw(_kinds(role, kinds))[1]


def draw_seed(draw: st.DrawFn) -> int:
    """A seed in 0..65535, drawn with one choice."""
    return int.from_bytes(draw(_SEED), "big")


def draw_windows(draw: st.DrawFn, *numels: int) -> tuple[Window, ...]:
    """A window for each of these numbers of entries, all with one choice. About 29 of 30 keep everything.

    The integer has three digits for each window, its end, length and ends, in a base of 16 or more times the number of
    entries. Lowering it by as much as a condition allows lowers the first digit as far as it goes, then the second, and
    so on. Hypothesis draws the lowest values of a range more often, hence an empty window now and then.
    """
    bases = [max(_WIDE, 2 ** (numel.bit_length() + 4)) for numel in numels if numel > 1]
    if not bases:
        return (EVERYTHING,) * len(numels)
    code = draw(_flat(math.prod(bases) ** 3)) - _FAR
    windows = []
    for numel in reversed(numels):
        window = EVERYTHING
        if numel > 1:
            base = bases.pop()
            code, ends = divmod(code, base)
            code, length = divmod(code, base)
            code, end = divmod(code, base)
            window = Window.clipped(numel, end, length, ends)
        windows.append(window)
    return tuple(reversed(windows))


def _magnitude(place: int, dtype: torch.dtype) -> int:
    """A whole number that the dtype holds."""
    most = most_distinct(dtype.to_real() if dtype.is_complex else dtype)
    return min(_MAGNITUDES[place % len(_MAGNITUDES)], most)


def draw_values(
    draw: st.DrawFn,
    numel: int,
    kinds: tuple[str, ...],
    *,
    edits: bool,
    dtype: torch.dtype,
    bounds: Bounds | None = None,
) -> Values:
    """A recipe for ``numel`` entries: one to four choices.

    Nine of ten are values of a kind as they come. The others are plainer, or have one entry changed; Hypothesis
    replaces values that fail by them where they fail too.
    """
    kind = draw_kind(draw, kinds)
    if kind == "zeros" or not numel:
        return Values(kind, bounds=bounds)
    if kind == "one_hot":
        return Values(kind, draw_seed(draw), bounds=bounds)
    form, seed = draw(_FORMED_OR_EDITED if edits else _FORMED), draw_seed(draw)
    window, place = draw_windows(draw, numel)[0], draw(_PLACES)
    size = _magnitude(place, dtype)
    edit = (_edit(numel, seed, size, dtype, bounds),) if form == "edited" else ()
    unit, most = (size, None) if form.endswith("unit") else (None, size if place < len(_MAGNITUDES) else None)
    return Values(kind, seed, window, edit, unit=unit, most=most, bounds=bounds, **_PLAINER.get(form, {}))


def _edit(numel: int, seed: int, size: int, dtype: torch.dtype, bounds: Bounds | None) -> tuple[int, float]:
    """A place and a number of this size: the even seeds of a place have it above 0."""
    value: float = -size if seed % 2 and dtype.is_signed else size
    if bounds is not None:
        value = min(max(value, bounds.min_value), bounds.max_value)
    return seed // 2 * (1 + numel // 2**16) % numel, value


@dataclass(frozen=True)
class _Plan:
    """The checked arguments of ``tensors`` that do not depend on a drawn dtype."""

    shape: st.SearchStrategy[Any] | Shape
    dtype: st.SearchStrategy[Any] | torch.dtype
    device: torch.device
    kinds: Sequence[str] | None
    limits: Limits
    unique: bool
    layouts: bool
    requires_grad: bool


@dataclass(frozen=True)
class _InDtype:
    """What follows from the dtype."""

    kinds: tuple[str, ...]
    bounds: Bounds | None
    most: float  # entries

    @classmethod
    def of(cls, plan: _Plan, dtype: torch.dtype) -> _InDtype:
        check_grad(plan.requires_grad, dtype)
        bounds = plan.limits.within(dtype)
        real = dtype.to_real() if dtype.is_complex else dtype
        return cls(check_kinds(plan.kinds, dtype), bounds, count_within(real, bounds) if plan.unique else math.inf)


def _drawn_tensor(draw: st.DrawFn, plan: _Plan, in_dtype: Callable[[torch.dtype], _InDtype]) -> torch.Tensor:
    shape = check_shape("shape", draw(plan.shape)) if isinstance(plan.shape, st.SearchStrategy) else plan.shape
    dtype = draw(plan.dtype) if isinstance(plan.dtype, st.SearchStrategy) else plan.dtype
    numel, known = math.prod(shape), in_dtype(check_dtype("dtype", dtype, DRAWABLE))
    if plan.unique:
        if numel > known.most:
            raise refusal("shape", f"at most {known.most:,} entries with unique=True", shape, "make it smaller")
        values = Values(UNIQUE, draw_seed(draw), bounds=known.bounds)
    else:
        values = draw_values(draw, numel, known.kinds, edits=plan.kinds is None, dtype=dtype, bounds=known.bounds)
    layout = draw_layout(draw, len(shape), dtype) if plan.layouts else None
    made = Made(values, shape, dtype, plan.device, layout, plan.requires_grad)
    tensor = made.build()
    print_as(tensor, made.__str__)
    shown_in_statistics(f"tensors: {values.kind}", f"tensors: {_bucket(numel)}")
    if layout is not None:
        shown_in_statistics(f"tensors: layout {layout.kind}")
    return tensor


@lru_cache(maxsize=1024)
def _bucket(numel: int) -> str:
    """A number of entries in words, by its power of ten."""
    low = 10 ** (len(str(numel)) - 1)
    return f"{numel} entries" if numel < 2 else f"{max(2, low):,} to {10 * low - 1:,} entries"


def check_grad(requires_grad: object, dtype: torch.dtype) -> bool:
    """``requires_grad`` if ``dtype`` can have a gradient."""
    wanted = check_bool("requires_grad", requires_grad)
    if wanted and not is_inexact(dtype):
        raise refusal("requires_grad", f"False for {dtype}", wanted, "integers have no gradient")
    return wanted


def tensors(  # noqa: PLR0913 - what a user may choose about a tensor, all but the first two by name
    shape: Sequence[int] | st.SearchStrategy[Any],
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] = torch.float32,
    *,
    device: torch.device | str = "cpu",
    kinds: Sequence[str] | None = None,
    min_value: float | None = None,
    max_value: float | None = None,
    exclude_min: bool = False,
    exclude_max: bool = False,
    allow_nan: bool | None = None,
    allow_infinity: bool | None = None,
    allow_subnormal: bool | None = None,
    unique: bool = False,
    layouts: bool = False,
    requires_grad: bool = False,
) -> st.SearchStrategy[torch.Tensor]:
    """Tensors whose size costs no choices: 1 to 5 for any number of entries, beside those of ``shape`` and ``dtype``.

    Nine of ten draws or more keep every entry of their kind. Shrinks to the simplest kind, the fewest non-zeros, and
    small whole numbers. A failing example prints as the expression that builds it, layout included.

    Args:
        shape: of the tensor, rank 0 included, or a strategy of shapes.
        dtype: one of ``ALL``, bool or a float8, or a strategy of dtypes.
        device: where it is put; its values are made on the CPU and do not depend on it.
        kinds: which kinds of values (see ``Values``). None draws all that ``dtype`` holds, and changes a single entry
            to a whole number in one of eight draws.
        min_value: the least value. One that ``dtype`` does not hold is moved inwards. Where 0 is not allowed, the
            allowed value nearest to it takes its place.
        max_value: the largest value, likewise.
        exclude_min: leave out ``min_value`` itself.
        exclude_max: leave out ``max_value`` itself.
        allow_nan: None allows NaN unless there is a bound, as in Hypothesis's ``floats``.
        allow_infinity: None allows infinities unless there are two bounds.
        allow_subnormal: None allows subnormal numbers.
        unique: all entries differ, and are finite; such tensors shrink to 0, 1, 2 and so on.
        layouts: draw a memory layout too, ``broadcast`` among them; else the tensor is contiguous.
        requires_grad: of the tensor, a leaf.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong; on a draw, if a shape
            or dtype that was drawn does not go with the others. It is an ``EquivError`` and Hypothesis's
            ``InvalidArgument``.

    Example:
        >>> from hypothesis import find
        >>> find(tensors((2, 2)), lambda t: t[1, 0] != 0)
        tensor([[0., 0.],
                [1., 0.]])
        >>> find(tensors((3,), min_value=-8, max_value=8), lambda t: t.max() >= 2)
        tensor([2., 0., 0.])
        >>> tensors((2, 3), torch.float64, unique=True)
        tensors(shape=(2, 3), dtype=torch.float64, unique=True)
    """
    given = dict(locals())

    def build() -> Callable[[st.DrawFn], torch.Tensor]:
        limits = Limits(**{name: given[name] for name in Limits.__dataclass_fields__})
        limits.check()
        plan = _Plan(
            shape if isinstance(shape, st.SearchStrategy) else check_shape("shape", shape),
            dtype if isinstance(dtype, st.SearchStrategy) else check_dtype("dtype", dtype, DRAWABLE),
            check_device("device", device),
            kinds,
            limits,
            check_bool("unique", unique),
            check_bool("layouts", layouts),
            check_bool("requires_grad", requires_grad),
        )
        if unique and kinds is not None:
            raise refusal("kinds", "None with unique=True", kinds, "leave out one of them")
        for strategy in (plan.shape, plan.dtype):
            if isinstance(strategy, st.SearchStrategy):
                strategy.validate()
        in_dtype = lru_cache(maxsize=64)(partial(_InDtype.of, plan))
        if isinstance(plan.dtype, torch.dtype):
            in_dtype(plan.dtype)
        return lambda draw: _drawn_tensor(draw, plan, in_dtype)

    return lazy(tensors, given, build)


def build_layer(weight: torch.Tensor, bias: torch.Tensor | None, *, requires_grad: bool = True) -> nn.Linear:
    """A layer with these tensors as its parameters, themselves and not copies; no random number is drawn.

    Args:
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.
        requires_grad: Of both; False for integers.

    Raises:
        EquivError: Tensors of other shapes or of two dtypes or devices.

    Example:
        >>> build_layer(torch.ones(2, 3), None)
        Linear(in_features=3, out_features=2, bias=False)
    """
    check_tensor("weight", weight)
    if weight.ndim != 2:
        raise refusal("weight", "a shape (O, n)", tuple(weight.shape), "reshape it")
    if bias is not None:
        check_tensor("bias", bias, (len(weight),), advice="give one entry for each output")
        if (bias.dtype, bias.device) != (weight.dtype, weight.device):
            got, wanted = (f"{dtype_name(t.dtype)} on {t.device}" for t in (bias, weight))
            raise refusal("bias", f"{wanted} like the weight", got, "convert it")
    check_grad(requires_grad, weight.dtype)
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight, requires_grad=requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=requires_grad)
    return layer


def _drawn_layer(
    draw: st.DrawFn,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    bias: bool | None,
    kinds: tuple[str, ...],
    requires_grad: bool,
) -> nn.Linear:
    out_features, in_features = size
    with_bias = draw(st.booleans()) if bias is None else bias
    values = draw_values(draw, out_features * in_features, kinds, edits=False, dtype=dtype)
    w, b = Made(values, size, dtype, device), None
    if with_bias:
        b = Made(draw_values(draw, out_features, kinds, edits=False, dtype=dtype), (out_features,), dtype, device)
    layer = build_layer(w.build(), None if b is None else b.build(), requires_grad=requires_grad)
    print_as(layer, lambda: f"build_layer({w}, {b}{'' if requires_grad else ', requires_grad=False'})")
    shown_in_statistics(f"layers: weight of {values.kind}", f"layers: {'no ' * (b is None)}bias")
    return layer


def layers(
    *,
    in_features: int,
    out_features: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    bias: bool | None = None,
    kinds: Sequence[str] | None = None,
    requires_grad: bool | None = None,
) -> st.SearchStrategy[nn.Linear]:
    """``nn.Linear`` of one size with drawn weight and bias; no global random number is used.

    Args:
        in_features: 0 or more.
        out_features: 0 or more.
        dtype: of both parameters, integers included.
        device: of both parameters.
        bias: whether there is one; None draws it.
        kinds: which kinds of values (see ``Values``); None for all that ``dtype`` holds.
        requires_grad: of both parameters; None is what torch does: True unless ``dtype`` is an integer.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(layers(in_features=3, out_features=2, bias=True), lambda layer: True).bias.tolist()
        [0.0, 0.0]
    """
    given = dict(locals())

    def build() -> Callable[[st.DrawFn], nn.Linear]:
        kind = check_dtype("dtype", dtype)
        grad = is_inexact(kind) if requires_grad is None else requires_grad
        return partial(
            _drawn_layer,
            size=(
                check_integer("out_features", out_features, least=0),
                check_integer("in_features", in_features, least=0),
            ),
            dtype=kind,
            device=check_device("device", device),
            bias=None if bias is None else check_bool("bias", bias),
            kinds=check_kinds(kinds, kind),
            requires_grad=check_grad(grad, kind),
        )

    return lazy(layers, given, build)


def register_tensors() -> None:
    """Have ``st.from_type(torch.Tensor)`` draw tensors of up to 64 entries, in every dtype that layers have."""
    small = batch_shapes(max_dims=3, max_side=16, max_rows=64)
    st.register_type_strategy(torch.Tensor, lambda _type: tensors(small, dtypes()))
