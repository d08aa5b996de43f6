"""The attributes of a convolution as torch reads them when it runs the layer: stride, padding, dilation, groups.

They may have been set by hand since the layer was built. Each is read once, as one number for each axis; what torch
refuses to run is refused here in words. Which weight meets which input then follows in ``equiv.mapping.geometry``.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.utils import _single

from equiv.arguments import as_integer, check_choice, check_integer, refusal

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
"""A convolution module of one to three spatial dimensions.

Example:
    >>> isinstance(nn.Conv2d(1, 1, 1), Conv)
    True
"""

ConvTranspose: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
"""A transposed convolution module of one to three spatial dimensions.

Example:
    >>> isinstance(nn.ConvTranspose2d(1, 1, 1), ConvTranspose)
    True
"""

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""The convolution modules by their number of spatial dimensions."""
CONV_TRANSPOSES: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_RANKS = {kind: rank for kinds in (CONVS, CONV_TRANSPOSES) for rank, kind in kinds.items()}

_MODES = ("zeros", "reflect", "replicate", "circular", "constant")  # the last pads zeros too, by the record below
_LARGEST = 2**63 - 1
_LARGEST_TRANSPOSED = 2**31 - 1  # its kernel on a CPU counts in 32 bits, and refuses or misreads what does not fit
_LARGEST_PADDING = 2**61  # twice it and the map still fit into 64 bits
_ADVICE = "set it as the constructor of the layer would"


class Attributes(NamedTuple):
    """What decides which weight meets which input, besides the shape of the weight; one entry for each axis."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # added before the first entry and after the last
    output_padding: tuple[int, ...]  # of a transposed convolution
    groups: int
    mode: str  # zeros, reflect, replicate or circular


def attributes_of(conv: Conv | ConvTranspose, name: str = "conv") -> Attributes:
    """All of them.

    Args:
        conv: A convolution, transposed or not. Its weight is not looked at, but for the kernel's size.
        name: What the messages call it.

    Raises:
        EquivError: One that torch refuses to run with.

    Example:
        >>> attributes_of(nn.Conv2d(4, 6, 3, stride=2, padding=(0, 1), groups=2))[:3]
        ((2, 2), (1, 1), ((0, 0), (1, 1)))
    """
    mode = conv.padding_mode
    if type(mode) is not str or mode not in _MODES or (mode != "zeros" and isinstance(conv, ConvTranspose)):
        check_choice(f"{name}.padding_mode", mode, _MODES[:1] if isinstance(conv, ConvTranspose) else _MODES, _ADVICE)
    stride = _per_axis(conv, name, "stride", 1)
    dilation = _per_axis(conv, name, "dilation", 1)
    pads = _pads_of(conv, name, stride, dilation)
    extra = _output_padding_of(conv, name, stride, dilation)
    return Attributes(stride, dilation, pads, extra, _groups_of(conv, name), mode.replace("constant", "zeros"))


def rank_of(conv: Conv | ConvTranspose) -> int:
    """The number of spatial dimensions that the class has.

    Example:
        >>> rank_of(nn.ConvTranspose3d(1, 1, 1))
        3
    """
    rank = _RANKS.get(type(conv))
    return rank or next(rank for kind, rank in _RANKS.items() if isinstance(conv, kind))


def sizes_of(conv: Conv | ConvTranspose, name: str = "conv") -> tuple[int, int, tuple[int, ...]]:
    """Input channels, output channels and kernel size, as the attributes have them.

    Example:
        >>> sizes_of(nn.Conv2d(4, 6, (3, 5)))
        (4, 6, (3, 5))
    """
    ins, outs = conv.in_channels, conv.out_channels
    if type(ins) is not int or type(outs) is not int or min(ins, outs) < 0:
        ins = check_integer(f"{name}.in_channels", ins, least=0, advice=_ADVICE)
        outs = check_integer(f"{name}.out_channels", outs, least=0, advice=_ADVICE)
    return ins, outs, _per_axis(conv, name, "kernel_size", 0)


def _groups_of(conv: Conv | ConvTranspose, name: str) -> int:
    ins, outs, _ = sizes_of(conv, name)
    groups = conv.groups if type(conv.groups) is int else as_integer(conv.groups)
    if groups is None or groups < 1 or ins % groups or outs % groups:
        expected = f"an integer of at least 1 that divides {ins} input and {outs} output channels"
        raise refusal(f"{name}.groups", expected, conv.groups, _ADVICE)
    return groups


def _pads_of(
    conv: Conv | ConvTranspose, name: str, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    padding: Any = conv.padding
    if conv.padding_mode != "zeros":  # here nn.Conv pads from its own record, last axis first
        record = _record_of(conv, name)
        return tuple(zip(record[::2], record[1::2], strict=True))[::-1]
    if not isinstance(padding, tuple) and isinstance(conv, ConvTranspose):
        raise refusal(f"{name}.padding", "a tuple of integers, as its forward demands", padding, _ADVICE)
    if isinstance(padding, str) and padding in ("same", "valid"):
        if padding == "valid":
            return ((0, 0),) * len(stride)
        if max(stride) > 1:
            raise refusal(f"{name}.padding", f"integers with stride {stride}", padding, "set padding, or stride 1")
        kernel = _per_axis(conv, name, "kernel_size", 0)
        spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((span // 2, span - span // 2) for span in spans)
    return tuple((pad, pad) for pad in _per_axis(conv, name, "padding", 0))


def _record_of(conv: Conv | ConvTranspose, name: str) -> tuple[int, ...]:
    value, length = conv._reversed_padding_repeated_twice, 2 * rank_of(conv)
    record = _integers(value, -_LARGEST_PADDING, _LARGEST_PADDING) if isinstance(value, (list, tuple)) else None
    if record is None or len(record) != length:
        expected = f"{length} integers, by which padding_mode {conv.padding_mode!r} pads"
        raise refusal(f"{name}._reversed_padding_repeated_twice", expected, value, "build the layer anew with padding=")
    return record


def _output_padding_of(
    conv: Conv | ConvTranspose, name: str, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    value, rank = conv.output_padding, rank_of(conv)
    if not isinstance(conv, ConvTranspose):
        return (0,) * rank  # no other reads it
    try:
        found = _integers(_single(value), 0, _LARGEST_TRANSPOSED)  # as its forward does
    except TypeError:
        found = None
    if found is None or len(found) not in (1, rank):
        raise refusal(f"{name}.output_padding", _expected("of at least 0", rank), value, _ADVICE)
    found *= rank if len(found) == 1 else 1
    if any(extra >= max(s, d) for extra, s, d in zip(found, stride, dilation, strict=True)):
        expected = f"less than the stride {stride} or the dilation {dilation} along each axis"
        raise refusal(f"{name}.output_padding", expected, value, _ADVICE)
    return found


def _per_axis(conv: Conv | ConvTranspose, name: str, key: str, least: int) -> tuple[int, ...]:
    """An attribute as one integer for each axis: one for all of them, or a tuple or list of one or as many."""
    value, rank = getattr(conv, key), rank_of(conv)
    if type(value) is tuple and len(value) == rank and all(type(v) is int and least <= v < 2**31 for v in value):
        return value  # as constructors leave it
    most = _LARGEST_PADDING if key == "padding" else _LARGEST
    most = _LARGEST_TRANSPOSED if isinstance(conv, ConvTranspose) else most
    listed = value if isinstance(value, (list, tuple)) else (value,)
    entries = _integers(listed, least, most)
    # Torch takes what merely has an index inside a tuple, but not alone.
    if entries is None or len(entries) not in (1, rank) or not isinstance(value, (list, tuple, Integral, Tensor)):
        words = ", or 'same' or 'valid'" if key == "padding" and isinstance(conv, Conv) else ""
        bounds = f"of at least {least}" if _integers(listed, most + 1, math.inf) is None else f"of at most {most}"
        advice = "pad by nothing, and crop the input instead" if key == "padding" else _ADVICE
        raise refusal(f"{name}.{key}", _expected(bounds, rank) + words, value, advice)
    return entries if len(entries) == rank else entries * rank


def _integers(values: Any, least: int, most: float) -> tuple[int, ...] | None:
    """All of them as ints; None if one is no integer, or out of range."""
    numbers = [as_integer(value) for value in values]
    found = tuple(number for number in numbers if number is not None and least <= number <= most)
    return found if len(found) == len(numbers) else None


def _expected(bounds: str, rank: int) -> str:
    return f"an integer {bounds}" + ("" if rank == 1 else f", or one for each of {rank} axes")
