"""Knows how a recipe of values is drawn, and the strategies of single tensors and layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from hypothesis import strategies as st
from torch import nn

from equiv.strategies import checks
from equiv.strategies.dtypes import dtype as check_dtype
from equiv.strategies.dtypes import present
from equiv.strategies.layouts import draw_layout, menu
from equiv.strategies.shapes import pick
from equiv.strategies.values import EVERYTHING, Values, Window, kinds_for

SEEDS = 2**16
_SHARES = {"small_integers": 2, "distinct": 3, "normals": 3, "wide": 2}  # of the draws, against 1 for the others
_EDITS = 16  # 14 and 15 stand for one and two edits
_EDIT_VALUES = st.integers(-8, 8)


@lru_cache(maxsize=256)
def weighted(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """``kinds`` with each as often as its share, in their order."""
    return tuple(kind for kind in kinds for _ in range(_SHARES.get(kind, 1)))


def draw_kind(draw: st.DrawFn, kinds: tuple[str, ...]) -> str:
    """One choice, simplest kind first."""
    table = weighted(kinds)
    return table[pick(draw, len(table))]


def draw_window(draw: st.DrawFn, numel: int) -> Window:
    """Three choices; none for fewer than two entries. About six of seven windows keep everything."""
    if numel < 2:
        return EVERYTHING
    count = 2 ** (numel.bit_length() + 4)  # 16 to 32 times numel
    return Window.clipped(numel, pick(draw, count), pick(draw, count), pick(draw, count))


def draw_values(draw: st.DrawFn, numel: int, kinds: tuple[str, ...], *, edits: bool, dtype: torch.dtype) -> Values:
    """A recipe for ``numel`` entries: two to six choices."""
    kind = draw_kind(draw, kinds)
    plain = kind == "zeros"
    seed = 0 if plain else pick(draw, SEEDS)
    window = EVERYTHING if plain or kind == "one_hot" else draw_window(draw, numel)
    count = max(0, pick(draw, _EDITS) - 13) if edits and numel else 0
    lift = 0 if dtype.is_signed else 8
    changed = tuple((pick(draw, numel), draw(_EDIT_VALUES) + lift) for _ in range(count))
    return Values(kind, seed, window, changed)


@st.composite
def _tensors(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    kinds: tuple[str, ...] | None,
    layouts: bool,
    requires_grad: bool,
) -> torch.Tensor:
    numel = 1
    for side in shape:
        numel *= side
    values = draw_values(draw, numel, kinds or kinds_for(dtype), edits=kinds is None, dtype=dtype)
    made = values.tensor(shape, dtype, device).requires_grad_(requires_grad)
    return draw_layout(draw, menu(len(shape), dtype)).apply(made) if layouts else made


def check_grad(requires_grad: object, dtype: torch.dtype) -> bool:
    """``requires_grad`` if ``dtype`` can have a gradient."""
    wanted = checks.boolean("requires_grad", requires_grad)
    if wanted and not (dtype.is_floating_point or dtype.is_complex):
        checks.refuse("requires_grad", f"False for {dtype}", wanted, "integers have no gradient")
    return wanted


def tensors(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    device: torch.device | str = "cpu",
    kinds: Sequence[str] | None = None,
    layouts: bool = False,
    requires_grad: bool = False,
) -> st.SearchStrategy[torch.Tensor]:
    """Tensors of one shape and dtype, whose size costs no choices: 2 to 11 for any number of entries.

    About six of seven draws keep every entry of their kind. Shrinks to the simplest kind and the fewest non-zeros.

    Args:
        shape: of the tensor, rank 0 included.
        dtype: one of ``ALL``.
        device: where it is put; its values are made on the CPU and do not depend on it.
        kinds: which kinds of values (see ``Values``). None draws all that ``dtype`` holds, and changes up to two
            single entries to integers in -8..8 (0..16 if unsigned) in one of eight draws.
        layouts: draw a memory layout too, ``broadcast`` among them; else the tensor is contiguous.
        requires_grad: of the tensor, a leaf.

    Raises:
        EquivError: on the first draw, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(tensors((2, 2)), lambda t: t[1, 0] != 0)
        tensor([[0., 0.],
                [1., 0.]])
    """

    def build() -> st.SearchStrategy[torch.Tensor]:
        size, kind = checks.dims("shape", shape), check_dtype("dtype", dtype)
        return _tensors(
            size,
            kind,
            present(checks.device("device", device)),
            None if kinds is None else checks.choices("kinds", kinds, kinds_for(kind)),
            checks.boolean("layouts", layouts),
            check_grad(requires_grad, kind),
        )

    return checks.lazily(build)


def linear(weight: torch.Tensor, bias: torch.Tensor | None, *, requires_grad: bool = True) -> nn.Linear:
    """A layer with these tensors as its parameters, themselves and not copies; no random number is drawn.

    Example:
        >>> linear(torch.ones(2, 3), None)
        Linear(in_features=3, out_features=2, bias=False)
    """
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight, requires_grad=requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=requires_grad)
    return layer


@st.composite
def _layers(
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
    w = draw_values(draw, out_features * in_features, kinds, edits=False, dtype=dtype).tensor(size, dtype, device)
    b = None
    if with_bias:
        b = draw_values(draw, out_features, kinds, edits=False, dtype=dtype).tensor((out_features,), dtype, device)
    return linear(w, b, requires_grad=requires_grad)


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
        EquivError: on the first draw, if an argument is wrong.

    Example:
        >>> from hypothesis import find
        >>> find(layers(in_features=3, out_features=2, bias=True), lambda layer: True).bias.tolist()
        [0.0, 0.0]
    """

    def build() -> st.SearchStrategy[nn.Linear]:
        kind = check_dtype("dtype", dtype)
        grad = kind.is_floating_point or kind.is_complex if requires_grad is None else requires_grad
        return _layers(
            (checks.integer("out_features", out_features, 0), checks.integer("in_features", in_features, 0)),
            kind,
            present(checks.device("device", device)),
            None if bias is None else checks.boolean("bias", bias),
            kinds_for(kind) if kinds is None else checks.choices("kinds", kinds, kinds_for(kind)),
            check_grad(grad, kind),
        )

    return checks.lazily(build)
