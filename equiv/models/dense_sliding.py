"""What slides over a map: convolutions, pooling, padding, and what becomes of pooling that is global or adaptive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from equiv.models.dense_surgery import Rule, Surgery
from equiv.models.dense_values import Value, bound, refusal_at

_POOL = ("input", "kernel_size", "stride", "padding")
_SIZES = "choose an example whose map it divides, or replace it by an AvgPool of fixed kernel"


def per_axis(value: Any, rank: int) -> tuple[int, ...]:
    """One number for each axis."""
    listed = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return listed if len(listed) == rank else listed * rank


def need_map(node: fx.Node, value: Value, what: str) -> int:
    """The number of spatial axes of a value that is a map ``(N, C, *spatial)`` in the classifier too."""
    if not value.is_map:
        raise refusal_at(
            node, f"{what} on a tensor of shape {value.shape}", "which is no longer a map (N, C, *spatial) there",
            "flatten or pool the map once, in front of the first Linear",
        )  # fmt: skip
    return len(value.axes)


def _slid(surgery: Surgery, node: fx.Node, value: Value, *geometry: tuple[int, ...]) -> Value:
    """After a kernel: its sizes, strides, dilations, and what is padded before, one for each axis."""
    shape = surgery.shape_of(node)
    numbers = list(zip(value.axes, shape[2:], *geometry, strict=True))
    found = value.like(tuple(axis.slid(*rest) for axis, *rest in numbers), shape, shape[1])
    if any(
        before or (size - 1) * stride + dilation * (kernel - 1) >= axis.size
        for axis, size, kernel, stride, dilation, before in numbers
    ):
        surgery.padded[node.name] = found
    return found


def conv_module(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """A convolution stays."""
    conv = surgery.part(node)
    found = _conv(surgery, node, value, conv.kernel_size, (conv.stride, conv.padding, conv.dilation))
    return _wrapping(found) if conv.padding_mode == "circular" else found


def _wrapping(value: Value) -> Value:
    """With the other end of an axis in its padding, where there is some."""
    axes = tuple(replace(axis, wraps=axis.wraps or axis.start < 0) for axis in value.axes)
    return value.like(axes, value.shape)


def conv_function(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """The same, with a weight that is read or computed from parameters alone."""
    given = bound(node, "input", "weight", "bias", "stride", "padding", "dilation", "groups")
    if given["weight"] in surgery.values:
        raise refusal_at(
            node, "a convolution whose weight is computed from the input", "so that it differs between windows", _FIXED
        )
    kernel = surgery.shape_of(given["weight"])[2:]
    numbers = given.get("stride", 1), given.get("padding", 0), given.get("dilation", 1)
    return _conv(surgery, node, value, kernel, numbers)


def _conv(surgery: Surgery, node: fx.Node, value: Value, kernel: tuple[int, ...], numbers: tuple[Any, ...]) -> Value:
    rank = need_map(node, value, "a convolution")
    if len(kernel) != rank:
        raise refusal_at(node, f"a Conv{len(kernel)}d", f"on a map of {rank} spatial axes", "pass one of its own rank")
    stride, dilation = per_axis(numbers[0], rank), per_axis(numbers[2], rank)
    if numbers[1] == "same":
        before = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        before = per_axis(0 if numbers[1] == "valid" else numbers[1], rank)
    return _slid(surgery, node, value, kernel, stride, dilation, before)


def pool_module(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Max, average and power-average pooling with a kernel."""
    pool = surgery.part(node)
    keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "count_include_pad", "divisor_override")
    given = {key: getattr(pool, key) for key in keys if hasattr(pool, key)}
    if isinstance(pool, nn.modules.pooling._LPPoolNd):
        given = {"norm_type": pool.norm_type, **given}
    if getattr(pool, "return_indices", False):
        raise refusal_at(node, "pooling that returns indices", "which count from the border of the input", _FIXED)
    kind = type(pool).__name__
    name = {"MaxPool": "max_pool", "AvgPool": "avg_pool", "LPPool": "lp_pool"}[kind[:-2]] + kind[-2:]
    return _pool(surgery, node, value, name, given)


def pool_function(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """The same, as functions."""
    name: str = getattr(node.target, "__name__", "")
    name = node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else name
    rest = ("dilation", "ceil_mode") if name.startswith("max") else ("ceil_mode", "count_include_pad")
    given = bound(node, *_POOL, *rest, "divisor_override")
    given.pop("input")
    return _pool(surgery, node, value, name, given)


def _pool(surgery: Surgery, node: fx.Node, value: Value, name: str, given: dict[str, Any]) -> Value:
    rank = need_map(node, value, "pooling")
    kernel = per_axis(given["kernel_size"], rank)
    stride = per_axis(given.get("stride") or kernel, rank)
    pads, dilation = per_axis(given.get("padding", 0), rank), per_axis(given.get("dilation", 1), rank)
    sizes = zip(kernel, value.sizes, stride, pads, surgery.shape_of(node)[2:], strict=True)
    free = tuple(1 if k == n and not p and out == 1 else s for k, n, s, p, out in sizes)  # the stride decides nothing
    if free != stride:
        function = getattr(functional, name)
        given = {key: v for key, v in given.items() if v is not None}
        with surgery.module.graph.inserting_before(node):
            args = (value_node(surgery, node),)
            new = surgery.module.graph.call_function(function, args, {**given, "stride": list(free)})
        return surgery.instead(node, new, _slid(surgery, node, value, kernel, free, dilation, pads))
    return _slid(surgery, node, value, kernel, stride, dilation, pads)


def value_node(surgery: Surgery, node: fx.Node) -> fx.Node:
    """The node that a node reads first."""
    return next(n for n in node.all_input_nodes if n in surgery.values)


def adaptive_module(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Adaptive pooling by its class."""
    return _adaptive(surgery, node, value, "Max" in type(surgery.part(node)).__name__)


def adaptive_function(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Adaptive pooling by its function."""
    return _adaptive(surgery, node, value, "max" in str(node.target))


def _adaptive(surgery: Surgery, node: fx.Node, value: Value, largest: bool) -> Value:
    """As pooling with the kernel that it has on the example, if that is the same for every window."""
    rank = need_map(node, value, "adaptive pooling")
    if not hasattr(surgery.results[node.name], "shape"):
        raise refusal_at(node, "pooling that returns indices", "which count from the border of the input", _FIXED)
    outs = surgery.shape_of(node)[2:]
    if any(size % out for size, out in zip(value.sizes, outs, strict=True)):
        raise refusal_at(
            node, f"adaptive pooling of a map of {value.sizes} to {outs}",
            "whose kernels overlap and change from one output to the next", _SIZES,
        )  # fmt: skip
    kernel = tuple(size // out for size, out in zip(value.sizes, outs, strict=True))
    if set(kernel) == {1}:
        return surgery.drop(node, value)
    return pooled(surgery, node, value, f"{'max' if largest else 'avg'}_pool{rank}d", kernel)


def pooled(surgery: Surgery, node: fx.Node, value: Value, name: str, kernel: tuple[int, ...]) -> Value:
    """Pooling in which a kernel that covers its axis takes steps of 1, any other does not overlap."""
    source = value_node(surgery, node)
    stride = tuple(1 if k == size else k for k, size in zip(kernel, value.sizes, strict=True))
    if value.last:
        source = surgery.call(node, torch.movedim, source, -1, 1)
    new = surgery.call(node, getattr(functional, name), source, list(kernel), list(stride))
    ones = (1,) * len(kernel)
    shape = surgery.shape_of(node)
    sizes = tuple(size // k for size, k in zip(value.sizes, kernel, strict=True))
    numbers = zip(value.axes, sizes, kernel, stride, ones, strict=True)
    axes = tuple(axis.slid(*rest) for axis, *rest in numbers)
    return surgery.instead(node, new, Value(value.channels, axes, shape))


def reduced(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """A mean or maximum over spatial axes is pooling over them."""
    given = bound(node, "input", "dim", "keepdim")
    dims = given.get("dim", given.get("axis"))
    ndim, rank = len(value.shape), len(value.axes)
    listed = {d % ndim for d in per_axis(dims, 1)} if dims is not None else set(range(ndim))
    first = 1 if value.is_map_last else 2
    spatial = range(first, first + rank)
    if value.is_map or (value.is_map_last and len(value.shape) == rank + 2):
        over = tuple(i + first in listed for i in range(rank))
        fits = listed <= set(spatial)
    else:  # (N, C, L): all positions in one axis
        over = (True,) * rank
        fits = value.shape[1:] == (value.channels, value.positions) and listed == {2} and not value.by_position
        fits |= value.is_map_last and listed == {1}
    if not fits or surgery.results[node.name].dtype.is_complex:
        raise refusal_at(
            node, f"a reduction of a tensor of shape {value.shape} over axes {sorted(listed)}",
            "which are not spatial axes of a map alone", "take the mean over spatial axes, or AdaptiveAvgPool to 1",
        )  # fmt: skip
    kernel = tuple(size if here else 1 for size, here in zip(value.sizes, over, strict=True))
    largest = "max" in str(node.target)
    return pooled(surgery, node, value, f"{'max' if largest else 'avg'}_pool{rank}d", kernel)


def pad_module(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Padding by a module."""
    return _pad(surgery, node, value, per_axis(surgery.part(node).padding, 2 * len(value.axes)))


def pad_function(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Padding by a function; zeros may be added to the channels too."""
    pads = tuple(bound(node, "input", "pad", "mode", "value").get("pad", ()))
    rank = len(value.axes)
    need_map(node, value, "padding")
    return _pad(surgery, node, value, pads[: 2 * rank] + (0,) * (2 * rank - len(pads)), pads[2 * rank :])


def _pad(surgery: Surgery, node: fx.Node, value: Value, pads: tuple[int, ...], others: tuple[int, ...] = ()) -> Value:
    rank = need_map(node, value, "padding")
    circular = (
        "ircular" in type(surgery.part(node)).__name__
        if node.op == "call_module"
        else "circular" in (*node.args, *node.kwargs.values())
    )
    uneven = circular and pads[::2] != pads[1::2]
    if min(pads, default=0) < 0 or any(others[2:]) or min(others, default=0) < 0 or uneven:
        raise refusal_at(
            node, f"padding by {pads + others}", "which crops, or pads the batch, or takes one border for the other",
            "pad spatial axes by numbers of at least 0, circular padding by the same on both sides",
        )  # fmt: skip
    ones = (1,) * rank
    found = _slid(surgery, node, value, ones, ones, ones, pads[::2][::-1])
    return _wrapping(found) if circular else found


def taken(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Slices: a range of channels, every n-th position, or the only one."""
    index = node.args[1]
    items = [i for i in (index if isinstance(index, tuple) else (index,)) if i is not None]
    shape = surgery.shape_of(node)
    if all(_is_all(i) for i in items):
        return surgery.drop(node, value.like(value.axes, shape))
    if value.is_map and value.positions == 1 and all(_is_all(i) or i in (0, -1) for i in items) and _is_all(items[0]):
        return surgery.drop(node, value.like(value.axes, shape))  # x[:, :, 0, 0]
    steps = [i.step or 1 for i in items[2:] if isinstance(i, slice) and i.start in (None, 0) and i.stop is None]
    right = value.is_map and len(steps) == len(items[2:]) and _is_all(items[0]) and isinstance(items[-1], slice)
    if not right or not isinstance(items[1] if len(items) > 1 else slice(None), slice):
        raise refusal_at(
            node, f"an index {items}", "which takes positions counted from the border",
            "keep all positions, or every n-th of them",
        )  # fmt: skip
    rank = len(value.axes)
    ones = (1,) * rank
    return _slid(surgery, node, value, ones, (*steps, *ones)[:rank], ones, (0,) * rank)


def _is_all(item: object) -> bool:
    return item is Ellipsis or (isinstance(item, slice) and item in (slice(None), slice(None, None, 1), slice(0, None)))


_FIXED = "use layers whose weights and results do not depend on the input's size"

MODULES: tuple[tuple[Any, Rule], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), conv_module),
    ((nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._LPPoolNd), pool_module),
    ((nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd), adaptive_module),
    ((nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd), pad_module),
    ((nn.modules.padding._ReplicationPadNd, nn.modules.padding._CircularPadNd), pad_module),
)
FUNCTIONS: dict[str, Rule] = {
    **{f"conv{r}d": conv_function for r in (1, 2, 3)},
    **{f"{kind}_pool{r}d": pool_function for kind in ("max", "avg") for r in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{r}d": adaptive_function for kind in ("max", "avg") for r in (1, 2, 3)},
    **dict.fromkeys(("mean", "amax"), reduced),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad_function),
    "getitem": taken,
}
