"""Strategies of single tensors and layers, and how the recipe of their values is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from hypothesis import strategies as st
from torch import nn

from equiv.arguments import check_bool, check_device, check_dtype, check_integer, check_shape, refusal
from equiv.dtypes import is_inexact
from equiv.strategies.layout import draw_layout
from equiv.strategies.values import EVERYTHING, Values, Window, check_kinds, kinds_for

_SHARES = {"small_integers": 2, "distinct": 3, "normals": 3, "wide": 2}  # of the draws, against 1 for the others
_SEED = st.binary(min_size=2, max_size=2)  # flat over 0..65535, and no integer that a mutation would copy elsewhere
_EDITS = st.sampled_from((0,) * 14 + (1, 2))
_EDIT_VALUES = st.sampled_from(sorted(range(-8, 9), key=lambda v: (abs(v), v < 0)))
_FAR = 2**400  # here Hypothesis (6.160 or later) draws any range flat; near 0 small integers prevail
_WIDE = 2**24


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


def draw_values(draw: st.DrawFn, numel: int, kinds: tuple[str, ...], *, edits: bool, dtype: torch.dtype) -> Values:
    """A recipe for ``numel`` entries: one to four choices, and two for each edit."""
    kind = draw_kind(draw, kinds)
    plain = kind == "zeros"
    seed = 0 if plain else draw_seed(draw)
    window = EVERYTHING if plain or kind == "one_hot" else draw_windows(draw, numel)[0]
    if not edits or not numel:
        return Values(kind, seed, window)
    lift = 0 if dtype.is_signed else 8
    changed = tuple(((draw(_flat(_WIDE)) - _FAR) % numel, draw(_EDIT_VALUES) + lift) for _ in range(draw(_EDITS)))
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
    values = draw_values(draw, math.prod(shape), kinds or kinds_for(dtype), edits=kinds is None, dtype=dtype)
    made = values.tensor(shape, dtype, device).requires_grad_(requires_grad)
    return draw_layout(draw, len(shape), dtype).apply(made) if layouts else made


def check_grad(requires_grad: object, dtype: torch.dtype) -> bool:
    """``requires_grad`` if ``dtype`` can have a gradient."""
    wanted = check_bool("requires_grad", requires_grad)
    if wanted and not is_inexact(dtype):
        raise refusal("requires_grad", f"False for {dtype}", wanted, "integers have no gradient")
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
    """Tensors of one shape and dtype, whose size costs no choices: 1 to 9 for any number of entries.

    Nine of ten draws or more keep every entry of their kind. Shrinks to the simplest kind and the fewest non-zeros.

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
        size, kind = check_shape("shape", shape), check_dtype("dtype", dtype)
        return _tensors(
            size,
            kind,
            check_device("device", device),
            None if kinds is None else check_kinds(kinds, kind),
            check_bool("layouts", layouts),
            check_grad(requires_grad, kind),
        )

    return st.deferred(build)


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
        grad = is_inexact(kind) if requires_grad is None else requires_grad
        return _layers(
            (check_integer("out_features", out_features, least=0), check_integer("in_features", in_features, least=0)),
            kind,
            check_device("device", device),
            None if bias is None else check_bool("bias", bias),
            check_kinds(kinds, kind),
            check_grad(grad, kind),
        )

    return st.deferred(build)
