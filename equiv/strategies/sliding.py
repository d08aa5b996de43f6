"""Which convolutions slide over which maps: those of networks, and shapes beside them."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from equiv.strategies.traffic import SLIDING, Sliding

Shape = tuple[int, ...]

_KERNELS = {1: (1, 2, 3, 3, 3, 4, 5, 7), 2: (1, 2, 3, 3, 3, 4, 5, 7), 3: (1, 2, 3)}
_OF_FAMILY = {"first layer": (7, 3), "wide": (3, 3, 3, 1), "depthwise": (3, 3, 5, 2, 7)}
_FAMILIES = ("one group", "groups", "depthwise", "wide", "first layer", "patches")
_PATCHES = {1: (2, 4, 8, 14, 16, 32), 2: (2, 14, 16, 4, 14, 16, 8), 3: (2, 4)}
_ARRANGED = ("freely", "freely", "same size", "plainly")
_POSITIONS = {1: (1, 2, 4, 5, 7, 8, 9, 13, 16, 33), 2: (1, 2, 3, 4, 5, 6, 7, 7, 8, 9), 3: (1, 2, 2, 3, 4, 5)}
_MOST = (1, 2, 4, 8, 16, 32, *26 * (2**20,))  # channels, outputs and groups: those of the network, but failures shrink


def draw_sliding(draw: st.DrawFn, rank: int, *, padded_with_zeros: bool, max_work: int) -> tuple[Sliding, Shape]:
    """A convolution and the size of its map: every other one is that of a network."""
    if draw(st.booleans()):
        return draw_on_map(draw, draw(st.sampled_from(SLIDING[rank])), max_work=max_work)
    family = draw(st.sampled_from(_FAMILIES))
    channels, outputs, groups = _channels(draw, family)
    drawn = _steps(draw, family, rank)
    axes = zip(drawn["kernel"], drawn["dilation"], drawn["padding"], drawn["extra"], strict=True)
    size = tuple(max(e * (k - 1) + 1 + more - 2 * p, 1 if padded_with_zeros else p + 1) for k, e, p, more in axes)
    steps = drawn["kernel"], drawn["stride"], drawn["padding"], drawn["dilation"]
    return Sliding(channels, outputs, *steps, groups), size


def draw_on_map(draw: st.DrawFn, layer: Sliding, *, max_work: int) -> tuple[Sliding, Shape]:
    """With its own steps, or on a map that was padded before, and its channels halved until ``max_work`` is kept.

    Most maps are as high as they are wide.
    """
    rank = len(layer.kernel)
    if draw(st.sampled_from(range(4))) == 3:
        layer = layer._replace(padding=(0,) * rank)
    drawn = [(draw(st.sampled_from(_POSITIONS[rank])), draw(st.integers(0, s - 1))) for s in layer.stride]
    drawn = drawn[:1] * rank if draw(st.booleans()) else drawn
    size, work = [], math.prod(layer.kernel)
    for (positions, more), k, s, p, e in zip(drawn, *layer[2:6], strict=True):
        reach = e * (k - 1) + 1 - 2 * p
        size.append(max(p + 1, (positions - 1) * s + reach + more))
        work *= (size[-1] - reach) // s + 1
    groups = layer.groups
    most = draw(st.sampled_from(_MOST))
    parts = {"outputs": layer.outputs // groups, "channels": layer.channels // groups, "groups": groups}
    parts = {name: min(part, most) for name, part in parts.items()}
    while work * math.prod(parts.values()) > max_work and max(parts.values()) > 1:
        parts[max(parts, key=parts.__getitem__)] //= 2
    channels, outputs, groups = parts["channels"], parts["outputs"], parts["groups"]
    return layer._replace(channels=groups * channels, outputs=groups * outputs, groups=groups), tuple(size)


def _channels(draw: st.DrawFn, family: str) -> tuple[int, int, int]:
    """Channels, outputs and groups."""
    if family == "depthwise":
        groups = draw(st.sampled_from((2, 3, 4, 7, 8, 9, 12, 16, 17, 24, 32)))
        return groups, groups * draw(st.sampled_from((1, 1, 2, 3))), groups
    if family == "wide":
        return draw(st.sampled_from((32, 16, 17, 24, 32, 64))), draw(st.sampled_from((32, 8, 16, 17, 32, 64))), 1
    if family in ("first layer", "patches"):
        return 3, draw(st.sampled_from((2, 4, 8, 16))), 1
    groups = draw(st.sampled_from((2, 3, 4, 8))) if family == "groups" else 1
    return groups * draw(st.sampled_from(range(1, 9))), groups * draw(st.sampled_from(range(1, 9))), groups


def _steps(draw: st.DrawFn, family: str, rank: int) -> dict[str, Shape]:
    """Kernel, stride, dilation and padding, and by how many entries the padded map is larger than the kernel."""
    if family == "patches":
        edge, more = draw(st.sampled_from(_PATCHES[rank])), draw(st.sampled_from((0, 1)))
        fixed = {"kernel": edge, "stride": edge, "dilation": 1, "padding": 0, "extra": edge + more}
        return {name: (value,) * rank for name, value in fixed.items()}
    table = {
        "kernel": st.sampled_from(_OF_FAMILY.get(family, _KERNELS[rank]) if rank < 3 else _KERNELS[rank]),
        "stride": st.sampled_from((1, 2, 2, 3) if family != "first layer" else (2, 1, 4)),
        "dilation": st.sampled_from((1, 1, 1, 2, 3)),
        "padding": st.sampled_from((0, 1, 1, 2, 3, 3, 4)),
        "extra": st.sampled_from(range(7) if family != "wide" else (0, 0, 1)),
    }
    drawn = {name: tuple(draw(each) for _ in range(rank)) for name, each in table.items()}
    if draw(st.booleans()):  # what most layers have: one number for all dimensions
        drawn = {name: each[:1] * rank if name != "extra" else each for name, each in drawn.items()}
    arranged = draw(st.sampled_from(_ARRANGED))
    if arranged == "same size":
        drawn["padding"] = tuple(e * (k - 1) // 2 for k, e in zip(drawn["kernel"], drawn["dilation"], strict=True))
        drawn["extra"] = tuple(more + p for more, p in zip(drawn["extra"], drawn["padding"], strict=True))
    elif arranged == "plainly":
        drawn |= {"stride": (1,) * rank, "dilation": (1,) * rank, "padding": (0,) * rank}
    return drawn
