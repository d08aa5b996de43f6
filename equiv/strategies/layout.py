"""Memory layouts: the same values, bit for bit, under other strides, offsets and lazy views."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from hypothesis import strategies as st

from equiv.arguments import check_choice, check_choices, check_dtype, check_integer, check_tensor
from equiv.dtypes import COMPLEX, SIGNED_OF_SIZE, is_inexact
from equiv.strategies.lazy import lazy
from equiv.strategies.values import DRAWABLE
from equiv.strategies.words import pretty_repr, short_repr

LAYOUTS = (
    "contiguous",
    "permuted",
    "channels_last",
    "step",
    "padded",
    "offset",
    "odd_strides",
    "broadcast",
    "conj",
    "neg",
)
"""The kinds of memory layout, the plainest first; see :class:`Layout`.

Example:
    >>> LAYOUTS[0]
    'contiguous'
"""

_DTYPES = {"conj": COMPLEX, "neg": tuple(dtype.to_real() for dtype in COMPLEX)}  # where torch has these lazy views
_LEAST_DIMS = {"permuted": 2, "channels_last": 3, "step": 1, "padded": 1, "odd_strides": 1, "broadcast": 1}
_SCATTER = 7919  # spreads the variants that are drawn over the permutations of a rank above 5


@dataclass(frozen=True, repr=False)
class Layout:
    """A way to lie in memory, for tensors of any rank.

    ``contiguous``; ``permuted``, another order of the dimensions in memory; ``channels_last``, dimension 1 innermost;
    ``step``, every second or third entry of a larger buffer along some dimensions; ``padded``, a box inside a larger
    buffer; ``offset``, an odd storage offset; ``odd_strides``, contiguous but for the strides of dimensions of size 1;
    ``broadcast``, stride 0 along some dimensions; ``conj`` and ``neg``, torch's lazy views of a complex or real
    tensor. What lies around the values in a larger buffer is NaN, or 85 for integers, so that a read outside shows.

    Attributes:
        kind: one of ``LAYOUTS``.
        variant: 0 or more, which permutation, steps, dimensions or offset; the smallest is the plainest.

    Example:
        >>> Layout("permuted").apply(torch.zeros(2, 3)).stride()
        (1, 2)
        >>> Layout("offset", variant=1).apply(torch.zeros(2, 3)).storage_offset()
        3
    """

    kind: str
    variant: int = 0

    @property
    def name(self) -> str:
        """``kind``, or ``kind-variant`` when the variant is not 0."""
        return f"{self.kind}-{self.variant}" if self.variant else self.kind

    @property
    def changes_values(self) -> bool:
        """True for ``broadcast`` alone, which repeats the entries of index 0 along its dimensions."""
        return self.kind == "broadcast"

    def apply(self, t: torch.Tensor) -> torch.Tensor:
        """A new tensor of the same shape, dtype, device and bits (NaN payloads and -0.0 included) in this layout.

        ``broadcast`` repeats the entries of index 0: compare with ``.clone(memory_format=torch.contiguous_format)`` of
        the result. The result is a leaf and shares no memory with ``t``; its ``requires_grad`` is that of ``t``. At a
        rank where a layout has nothing to change (a permutation of one dimension) it is a plain copy.

        Raises:
            EquivError: if ``t`` is no tensor, or ``conj`` or ``neg`` does not exist in its dtype.
        """
        t = check_tensor("t", t)
        check_choice("kind", self.kind, LAYOUTS)
        variant = check_integer("variant", self.variant, least=0)
        check_dtype("t.dtype", t.dtype, _DTYPES.get(self.kind, (t.dtype,)), f"choose another layout than {self.kind}")
        with torch.no_grad():
            laid = _PLACES[self.kind](t.detach(), variant)
        return laid.requires_grad_(t.requires_grad)

    __repr__ = short_repr
    _repr_pretty_ = pretty_repr


def all_layouts(ndim: int, dtype: torch.dtype = torch.float32) -> tuple[Layout, ...]:
    """One layout of each kind that exists at this rank and dtype and differs from the others, contiguous first.

    Example:
        >>> [layout.name for layout in all_layouts(1)]
        ['contiguous', 'step', 'padded', 'offset', 'odd_strides', 'broadcast', 'neg']
    """
    return tuple(
        Layout(kind) for kind in _kinds(check_integer("ndim", ndim, least=0), check_dtype("dtype", dtype, DRAWABLE))
    )


@lru_cache(maxsize=256)
def _kinds(ndim: int, dtype: torch.dtype) -> tuple[str, ...]:
    return tuple(k for k in LAYOUTS if ndim >= _LEAST_DIMS.get(k, 0) and dtype in _DTYPES.get(k, (dtype,)))


# How many variants of a kind are drawn, and how many places each takes in the table.
_DRAWN = {
    "permuted": (119, 1),
    "step": (32, 2),
    "padded": (16, 2),
    "offset": (8, 4),
    "odd_strides": (4, 8),
    "broadcast": (31, 1),
}


@lru_cache(maxsize=256)
def _table(kinds: tuple[str, ...]) -> tuple[Layout, ...]:
    """Layouts of these kinds; contiguous takes 96 places, another kind 32 or so."""
    table: list[Layout] = []
    for kind in kinds:
        variants, places = _DRAWN.get(kind, (1, 96 if kind == "contiguous" else 32))
        table += [Layout(kind, variant) for variant in range(variants) for _ in range(places)]
    return tuple(table)


@lru_cache(maxsize=256)
def _menu(role: str, kinds: tuple[str, ...]) -> st.SearchStrategy[tuple[str, Layout]]:
    return st.sampled_from([(role, layout) for layout in _table(kinds)])


def draw_layout(draw: st.DrawFn, ndim: int, dtype: torch.dtype, role: str = "") -> Layout:
    """A layout, drawn with one choice; two draws of one test case need different roles (see ``shapes``)."""
    return draw(_menu(role, _kinds(ndim, dtype)))[1]


def layouts(
    *, ndim: int, dtype: torch.dtype = torch.float32, kinds: Sequence[str] | None = None
) -> st.SearchStrategy[Layout]:
    """Layouts that exist for tensors of rank ``ndim`` and differ; shrinks to ``Layout(kind='contiguous')``.

    Args:
        ndim: rank of the tensors that it will be applied to.
        dtype: theirs: ``conj`` needs a complex one, ``neg`` float32 or float64.
        kinds: which of ``LAYOUTS``; None for all that fit.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if an argument is wrong or a kind
            does not fit rank or dtype.

    Example:
        >>> from hypothesis import find
        >>> find(layouts(ndim=2), lambda layout: layout.kind == "step")
        Layout(kind='step')
    """
    given = dict(locals())

    def build() -> st.SearchStrategy[Layout]:
        fitting = _kinds(check_integer("ndim", ndim, least=0), check_dtype("dtype", dtype, DRAWABLE))
        if kinds is None:
            return st.sampled_from(_table(fitting))
        return st.sampled_from(_table(check_choices("kinds", kinds, fitting)))

    return lazy(layouts, given, build)


# The places: (detached tensor, variant) -> fresh tensor with the same bits


def _buffer(t: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    outside = math.nan if is_inexact(t.dtype) else 85
    return torch.full(tuple(shape), outside, dtype=t.dtype, device=t.device)


def _contiguous(t: torch.Tensor, _variant: int) -> torch.Tensor:
    return t.clone(memory_format=torch.contiguous_format)


def permutation(index: int, ndim: int) -> tuple[int, ...]:
    """The permutation of ``range(ndim)`` with this index in lexicographic order; 0 is the identity."""
    left, order = list(range(ndim)), []
    for d in range(ndim, 0, -1):
        which, index = divmod(index, math.factorial(d - 1))
        order.append(left.pop(which))
    return tuple(order)


def _in_order(t: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """With the dimensions in memory in this order, outermost first."""
    back = [0] * t.ndim
    for place, d in enumerate(order):
        back[d] = place
    return t.permute(tuple(order)).clone(memory_format=torch.contiguous_format).permute(back)


def _permuted(t: torch.Tensor, variant: int) -> torch.Tensor:
    others = math.factorial(t.ndim) - 1
    if others == 0:
        return _contiguous(t, 0)
    spread = variant if others < 120 else variant * _SCATTER
    return _in_order(t, permutation(1 + spread % others, t.ndim))


def _channels_last(t: torch.Tensor, _variant: int) -> torch.Tensor:
    return _in_order(t, (*range(t.ndim)[:1], *range(2, t.ndim), *range(t.ndim)[1:2]))


def _step(t: torch.Tensor, variant: int) -> torch.Tensor:
    digits = variant + 1
    steps = []
    for _ in range(t.ndim):
        digits, digit = divmod(digits, 3)
        steps.append(1 + digit)
    steps.reverse()  # the last dimension takes the lowest digit
    if t.ndim and max(steps) == 1:
        steps[-1] = 2
    shape = [1 + size * step if step > 1 else size for size, step in zip(t.shape, steps, strict=True)]
    box = tuple(slice(int(step > 1), size * step + 1, step) for size, step in zip(t.shape, steps, strict=True))
    inside = _buffer(t, shape)[box]
    inside.copy_(t)
    return inside


def _padded(t: torch.Tensor, variant: int) -> torch.Tensor:
    before = [1 + (variant >> d) % 2 for d in range(t.ndim)]
    after = [1 + (variant >> d) // 2 % 2 for d in range(t.ndim)]
    buffer = _buffer(t, [a + size + b for a, size, b in zip(before, t.shape, after, strict=True)])
    inside = buffer[tuple(slice(a, a + size) for a, size in zip(before, t.shape, strict=True))]
    inside.copy_(t)
    return inside


def _offset(t: torch.Tensor, variant: int) -> torch.Tensor:
    start = 1 + 2 * (variant % 8)
    inside = _buffer(t, (start + t.numel() + 1,))[start : start + t.numel()].view(t.shape)
    inside.copy_(t)
    return inside


def _odd_strides(t: torch.Tensor, variant: int) -> torch.Tensor:
    plain = _contiguous(t, 0)
    odd = (3, 1000003, 0, 2 * t.numel() + 1)
    strides = [
        odd[(variant + d) % len(odd)] if size == 1 else stride
        for d, (size, stride) in enumerate(zip(plain.shape, plain.stride(), strict=True))
    ]
    return plain.as_strided(plain.shape, strides)


def _broadcast(t: torch.Tensor, variant: int) -> torch.Tensor:
    which = (variant + 1) % 2**t.ndim or 2**t.ndim - 1
    first = t
    for d in range(t.ndim):
        if which >> d & 1 and t.shape[d] > 1:
            first = first.narrow(d, 0, 1)
    return first.clone(memory_format=torch.contiguous_format).expand(t.shape)


def _conj(t: torch.Tensor, _variant: int) -> torch.Tensor:
    return torch.view_as_complex(_negated(torch.view_as_real(t.resolve_conj()), slice(1, 2))).conj()


def _neg(t: torch.Tensor, _variant: int) -> torch.Tensor:
    bits = _negated(t.resolve_neg(), slice(None)) if t.ndim else _negated(t.resolve_neg()[None], slice(None))[0]
    pair = torch.stack((torch.zeros_like(bits), bits), dim=-1)
    return torch.view_as_complex(pair).conj().imag


def _negated(t: torch.Tensor, last: slice) -> torch.Tensor:
    """A copy with the sign bit of ``t[..., last]`` turned: arithmetic might quiet a NaN."""
    bits = SIGNED_OF_SIZE[t.element_size()]
    copy = t.clone(memory_format=torch.contiguous_format)
    copy.view(bits)[..., last] ^= torch.iinfo(bits).min
    return copy


_PLACES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "contiguous": _contiguous,
    "permuted": _permuted,
    "channels_last": _channels_last,
    "step": _step,
    "padded": _padded,
    "offset": _offset,
    "odd_strides": _odd_strides,
    "broadcast": _broadcast,
    "conj": _conj,
    "neg": _neg,
}
