"""What is done to each position alone: activations, sums of maps, norms, softmax; Linear layers become convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from equiv.backends import shallow
from equiv.mapping import check_linear, linear_to_full_conv
from equiv.models.dense_sliding import value_node
from equiv.models.dense_surgery import Surgery, Values
from equiv.models.dense_values import Value, bound, refusal_at

_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def kept(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """What is done to each entry alone, whatever the shape."""
    return value.like(value.axes, surgery.shape_of(node))


def dropout(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Dropout as a function, which does nothing in eval mode."""
    given = bound(node, "input", "p", "training", "inplace")
    given["training"] = given.get("training", given.get("train", True))
    if given["training"] and given.get("p", 0.5):
        raise refusal_at(
            node,
            "dropout in training mode",
            "whose results depend on chance",
            "call model.eval(), and pass training=self.training",
        )
    return kept(surgery, node, value)


def per_channel(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """What knows channels by the second axis of a map, and nothing of positions."""
    if not value.is_map and not (value.is_vector and value.positions == 1):
        raise refusal_at(
            node, f"{node.target} on a tensor of shape {value.shape}", "whose second axis is not the channels of a map",
            "apply it to the map (N, C, *spatial), or after the first Linear",
        )  # fmt: skip
    return kept(surgery, node, value)


def prelu(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """PReLU, with one slope or one for each channel."""
    single = node.op == "call_module" and surgery.part(node).num_parameters == 1
    return kept(surgery, node, value) if single else per_channel(surgery, node, value)


def binary(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Two maps, a map and a number, or a map and a parameter for each channel."""
    for other in (*node.args, *node.kwargs.values()):
        if not isinstance(other, fx.Node):
            continue
        known = surgery.values.get(other)
        if known is None:
            _constant(surgery, node, value, other)
        elif isinstance(known, Value):
            value = _joined(node, value, known)
    return value.like(value.axes, surgery.shape_of(node))


def _joined(node: fx.Node, value: Value, other: Value) -> Value:
    same = value.shape == other.shape and value.sizes == other.sizes and value.last == other.last
    if not same or value.channels != other.channels or value.by_position != other.by_position:
        raise refusal_at(
            node, f"{node.target} of maps of {value.sizes} and {other.sizes} positions",
            "where what was pooled over a whole window meets each of its positions (squeeze and excitation, global "
            "attention)", "run such a model on each window: a convolution is not it",
        )  # fmt: skip
    if any(a.stride != b.stride for a, b in zip(value.axes, other.axes, strict=True)):
        strides = [tuple(axis.stride for axis in v.axes) for v in (value, other)]
        raise refusal_at(
            node, f"{node.target} of maps of strides {strides[0]} and {strides[1]}", "which part on larger inputs",
            "give both branches the same strides",
        )  # fmt: skip
    axes = tuple(a.joined(b) for a, b in zip(value.axes, other.axes, strict=True))
    return value.like(axes, value.shape)


def _constant(surgery: Surgery, node: fx.Node, value: Value, other: fx.Node) -> None:
    result = surgery.results[other.name]
    if not isinstance(result, Tensor) or result.numel() == 1:
        return
    shape = (1,) * (len(value.shape) - result.ndim) + tuple(result.shape)
    wide = [dim for dim, size in enumerate(shape) if size != 1]
    if len(shape) != len(value.shape) or len(wide) != 1 or not value.is_channels(wide[0]):
        raise refusal_at(
            node, f"{node.target} with a tensor of shape {tuple(result.shape)}",
            "which has values for each position of the example, as positional embeddings do, or depends on the batch",
            "use one value for each channel",
        )  # fmt: skip
    if not (value.is_map or value.is_map_last):  # (F,) meets the last axis: here it is the second
        new = surgery.call(node, torch.reshape, other, (-1, *[1] * len(value.axes)))
        node.replace_input_with(other, new)


def joined_channels(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Maps behind one another along their channels."""
    given = bound(node, "tensors", "dim")
    dim = given.get("dim", given.get("axis", 0))
    parts = [surgery.values.get(n) for n in given["tensors"]]
    found = [p for p in parts if isinstance(p, Value) and p.is_channels(dim) and p.last == value.last]
    if len(found) < len(parts):
        raise refusal_at(
            node, f"cat along axis {dim} of tensors of shape {value.shape}",
            "where more than channels of maps is joined (a class token, coordinates?)",
            "concatenate maps along their channels, or vectors after pooling to one position",
        )  # fmt: skip
    for part in found[1:]:
        value = _joined(node, value, part.like(part.axes, value.shape, value.channels))
    if not value.last:
        node.args, node.kwargs = (given["tensors"], 1), {}
    channels = sum(part.channels for part in found)
    return value.like(value.axes, surgery.shape_of(node), channels)


def split_channels(surgery: Surgery, node: fx.Node, value: Value) -> Values:
    """Pieces along the channels."""
    given = bound(node, "input", "sizes", "dim")
    if not value.is_channels(given.get("dim", 0)):
        raise refusal_at(
            node, f"{node.target} along axis {given.get('dim', 0)}", "which is not the channels", "split those"
        )
    if not value.last:
        node.args, node.kwargs = (*node.args[:2], 1), {k: v for k, v in node.kwargs.items() if k != "dim"}
    at = given.get("dim", 0)
    shapes = [tuple(result.shape) for result in surgery.results[node.name]]
    return tuple(value.like(value.axes, shape, shape[at]) for shape in shapes)


def reshaped(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Flattening and the like: another shape for the same entries, in the same order."""
    shape, source = surgery.shape_of(node), value_node(surgery, node)
    if not shape or shape[0] != value.shape[0]:
        raise refusal_at(
            node, f"{node.target} of {value.shape} to {shape}", "which mixes the batch with the features",
            "keep the batch as the first axis",
        )  # fmt: skip
    if value.is_map_last:
        new = surgery.call(node, torch.movedim, source, -1, 1)
        return surgery.instead(node, new, Value(value.channels, value.axes, shape, by_position=value.positions > 1))
    return surgery.drop(node, value.like(value.axes, shape))


def moved(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Channels to the last axis, or back."""
    shape = surgery.shape_of(node)
    ndim = len(value.shape)
    order = _order(node, ndim)
    last = (0, *range(2, ndim), 1)
    back = (0, ndim - 1, *range(1, ndim - 1))
    if value.is_map and order == last:
        return Value(value.channels, value.axes, shape, last=True)
    if value.is_map_last and order == back:
        flat = ndim == 3 and len(value.axes) > 1  # here the map has its positions in several axes
        to = Value(value.channels, value.axes, shape)
        return _movedim(surgery, node, -1, 1, to) if flat else to
    if order == last and value.shape[1:] == (value.channels, value.positions) and not value.last:
        return _movedim(surgery, node, 1, -1, Value(value.channels, value.axes, shape, last=True))
    raise refusal_at(
        node, f"{node.target} of {value.shape} to {shape}",
        "which exchanges positions with each other or with the batch",
        "move the channels to the last axis or back, and nothing else",
    )  # fmt: skip


def _movedim(surgery: Surgery, node: fx.Node, source: int, destination: int, value: Value) -> Value:
    new = surgery.call(node, torch.movedim, value_node(surgery, node), source, destination)
    return surgery.instead(node, new, value)


def _order(node: fx.Node, ndim: int) -> tuple[int, ...]:
    """By which permutation the axes are moved."""
    axes = torch.empty([d + 2 for d in range(ndim)], device="meta")
    args = [axes if isinstance(a, fx.Node) else a for a in node.args]
    function = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
    result = function(*args, **node.kwargs)  # type: ignore[operator]
    return tuple(size - 2 for size in result.shape)


def batch_norm(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """BatchNorm of a vector becomes that of a map with the same parameters."""
    per_channel(surgery, node, value)
    if node.op != "call_module":
        if bound(node, *("input", "a", "b", "c", "d", "training")).get("training"):
            raise refusal_at(
                node, "batch norm in training mode", "whose results depend on the batch", "call model.eval()"
            )
        return kept(surgery, node, value)
    norm, rank = surgery.part(node), len(value.axes)
    if norm.training or not norm.track_running_stats:
        raise refusal_at(
            node, f"a {type(norm).__name__} that uses the statistics of its batch", "which a larger map changes",
            "call model.eval(), and track running statistics",
        )  # fmt: skip
    kind = _BATCH_NORMS[rank]
    if type(norm) in _BATCH_NORMS.values() and type(norm) is not kind:
        new = kind(1, affine=False)
        new.__dict__ = norm.__dict__
        surgery.exchange(node, new)
    return kept(surgery, node, value)


def layer_norm(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """LayerNorm over the channels of each position."""
    if node.op == "call_module":
        over = tuple(surgery.part(node).normalized_shape)
    else:
        over = tuple(bound(node, "input", "normalized_shape")["normalized_shape"])
    if over != (value.channels,) or not value.is_channels(len(value.shape) - 1):
        raise refusal_at(
            node, f"a LayerNorm over {over} of a tensor of shape {value.shape}",
            "whose mean is taken over positions, which a larger map has more of",
            "normalize over the channels of each position, or pool to one position first",
        )  # fmt: skip
    if value.last:
        return kept(surgery, node, value)
    source = value_node(surgery, node)
    there = surgery.call(node, torch.movedim, source, 1, -1)
    node.replace_input_with(source, there)
    with surgery.module.graph.inserting_after(node):
        back = surgery.module.graph.call_function(torch.movedim, (node, -1, 1))
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    surgery.values[back] = kept(surgery, node, value)
    return kept(surgery, node, value)


def along_channels(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """Softmax and the like over the channels, which are axis 1 of a map."""
    module = surgery.part(node) if node.op == "call_module" else None
    given = {} if module is not None else bound(node, "input", "dim")
    dim = module.dim if module is not None else given.get("dim", 1 if "normalize" in str(node.target) else None)
    dim = 1 if dim is None and len(value.shape) == 2 else dim
    if not value.is_channels(dim):
        raise refusal_at(
            node, f"{node.target} over axis {dim} of a tensor of shape {value.shape}",
            "which is not the channels alone", "take it over the classes",
        )  # fmt: skip
    if value.last:
        return kept(surgery, node, value)
    if module is not None:
        surgery.exchange(node, shallow(module, dim=1))
    else:
        names = ("input", "p", "dim") if "normalize" in str(node.target) else ("input", "dim")
        given = bound(node, *names)
        node.args, node.kwargs = (given.pop("input"),), {**given, "dim": 1}
        if isinstance(node.target, torch._ops.OpOverload):
            node.args, node.kwargs = (*node.args, 1), {k: v for k, v in node.kwargs.items() if k != "dim"}
    return kept(surgery, node, value)


def linear_module(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """A Linear over a flattened map becomes the convolution whose kernel is the map; later ones have kernels of 1."""
    linear = surgery.part(node)
    target = str(node.target)
    if value.is_map_last:
        return value.like(value.axes, surgery.shape_of(node), linear.out_features)
    shape = _read(node, value)
    if target in surgery.converted:
        if surgery.converted[target] != (*shape, value.by_position):
            raise refusal_at(
                node, "a Linear that is called on maps of several sizes", "as which it has one kernel only", _COPY
            )
    else:
        checked = check_linear(linear, name=f"model.{target}")
        if value.by_position:
            checked = _channels_first(checked, shape)
        surgery.exchange(node, linear_to_full_conv(checked, shape))
        surgery.converted[target] = (*shape, value.by_position)
    return _after_linear(surgery, node, value)


def linear_function(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """``F.linear`` with a weight that is a parameter, or computed from parameters: its kernel is a view of that."""
    given = bound(node, "input", "weight", "bias")
    weight, bias = given["weight"], given.get("bias")
    if weight in surgery.values or bias in surgery.values or given["input"] not in surgery.values:
        raise refusal_at(
            node, "a linear map whose weight is computed from the input", "so that it differs between windows", _COPY
        )
    if value.is_map_last:
        return value.like(value.axes, surgery.shape_of(node), surgery.shape_of(weight)[0])
    return _as_conv(surgery, node, value, weight, bias)


def matmul(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """``x @ weight`` with a weight (n, O) that is a parameter, or computed from parameters."""
    given = bound(node, "input", "other")
    weight = given["other"]
    if weight in surgery.values or given["input"] not in surgery.values or len(surgery.shape_of(weight)) != 2:
        raise refusal_at(
            node, f"{node.target} on a tensor of shape {value.shape}", "which mixes positions, as attention does",
            "use Linear layers and convolutions",
        )  # fmt: skip
    if value.is_map_last:
        return value.like(value.axes, surgery.shape_of(node), surgery.shape_of(weight)[1])
    return _as_conv(surgery, node, value, surgery.call(node, torch.transpose, weight, 0, 1), None)


def _as_conv(surgery: Surgery, node: fx.Node, value: Value, weight: fx.Node, bias: fx.Node | None) -> Value:
    shape = _read(node, value)
    if value.by_position:
        last = surgery.call(node, torch.reshape, weight, (-1, *shape[1:], shape[0]))
        kernel = surgery.call(node, torch.movedim, last, -1, 1)
    else:
        kernel = surgery.call(node, torch.reshape, weight, (-1, *shape))
    convolve = getattr(functional, f"conv{len(value.axes)}d")
    new = surgery.call(node, convolve, value_node(surgery, node), kernel, bias)
    return surgery.instead(node, new, _after_linear(surgery, node, value))


def _read(node: fx.Node, value: Value) -> tuple[int, ...]:
    if not value.is_vector:
        raise refusal_at(
            node, f"a Linear on a tensor of shape {value.shape}", "of which it reads an axis that is not all features",
            "flatten or pool the map first, or move its channels to the last axis",
        )  # fmt: skip
    return (value.channels, *value.sizes)


def _after_linear(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    shape = surgery.shape_of(node)
    return Value(shape[-1], tuple(axis.whole for axis in value.axes), shape)


def _channels_first(linear: nn.Linear, shape: tuple[int, ...]) -> nn.Linear:
    """The layer over a map flattened with its channels first, from one over the map with its channels last."""
    weight = linear.weight.detach().view(-1, *shape[1:], shape[0]).movedim(-1, 1).flatten(1).contiguous()
    return shallow(
        linear, _parameters={"weight": nn.Parameter(weight, linear.weight.requires_grad), "bias": linear.bias}
    )


_COPY = "give each its own"
