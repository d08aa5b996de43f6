"""Which rule each operation of a classifier has, and why some have none."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from equiv.models import dense_sliding
from equiv.models.dense_heads import (
    along_channels,
    batch_norm,
    binary,
    dropout,
    joined_channels,
    kept,
    layer_norm,
    linear_function,
    linear_module,
    matmul,
    moved,
    per_channel,
    prelu,
    reshaped,
    split_channels,
)
from equiv.models.dense_surgery import Rule, Surgery
from equiv.models.dense_values import Value, refusal_at

_ENTRYWISE: tuple[Any, ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid),
    *(nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold),
    *(nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Identity, nn.modules.dropout._DropoutNd),
)
_MODULES: tuple[tuple[Any, Rule], ...] = (
    (nn.Linear, linear_module),
    (_ENTRYWISE, kept),
    (nn.PReLU, prelu),
    *dense_sliding.MODULES,
    (nn.modules.batchnorm._BatchNorm, batch_norm),
    (nn.LayerNorm, layer_norm),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmin), along_channels),
    ((nn.LocalResponseNorm, nn.Softmax2d, nn.ChannelShuffle), per_channel),
    ((nn.Flatten, nn.Unflatten), reshaped),
)
_ENTRYWISE_NAMES = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardtanh"),
    *("hardswish", "hardsigmoid", "softplus", "softsign", "logsigmoid", "log_sigmoid", "threshold", "softshrink"),
    *(
        "hardshrink",
        "tanhshrink",
        "neg",
        "abs",
        "exp",
        "expm1",
        "log",
        "log1p",
        "sqrt",
        "rsqrt",
        "square",
        "clamp",
        "clip",
    ),
    *("clamp_min", "clamp_max", "erf", "sin", "cos", "reciprocal", "float", "double", "half", "bfloat16", "to", "type"),
    *("_to_copy", "clone", "detach", "alias", "positive", "hardtanh", "rrelu"),
)
_FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(_ENTRYWISE_NAMES, kept),
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"), dropout
    ),
    **dict.fromkeys(("feature_dropout",), dropout),
    "prelu": prelu,
    **dict.fromkeys(("add", "sub", "mul", "div", "truediv", "true_divide", "subtract", "multiply", "divide"), binary),
    **dict.fromkeys(("iadd", "isub", "imul", "itruediv", "maximum", "minimum", "pow", "rsub", "radd"), binary),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "where"), binary),
    **dict.fromkeys(("cat", "concat", "concatenate"), joined_channels),
    **dict.fromkeys(("chunk", "split", "tensor_split", "split_with_sizes"), split_channels),
    **dict.fromkeys(("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "unflatten"), reshaped),
    **dict.fromkeys(("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"), moved),
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "normalize", "special_softmax"), along_channels),
    **dict.fromkeys(("local_response_norm", "channel_shuffle"), per_channel),
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "linear": linear_function,
    **dict.fromkeys(("matmul", "mm"), matmul),
    **dense_sliding.FUNCTIONS,
}

_POOL_FIRST = "pool to one position first, or run it on each window"
_STATISTICS = ("whose mean is taken over all positions, which a larger map has more of", "use BatchNorm in eval mode")
_ATTENTION = ("in which every position reads all others, so that a score would depend on all of the input", _POOL_FIRST)
_ORDER = ("which reads positions one after another from the border", _POOL_FIRST)
_GRID = ("which puts positions between others", "leave it out, and enlarge the map of scores instead")
_REFUSED: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    (("attention", "transformer"), _ATTENTION),
    (("lstm", "gru", "rnn"), _ORDER),
    (("groupnorm", "instancenorm", "group_norm", "instance_norm"), _STATISTICS),
    (("upsample", "interpolate", "convtranspose", "conv_transpose", "pixelshuffle", "pixel_shuffle", "fold"), _GRID),
    (("bmm", "einsum", "addmm"), ("which may mix positions", "use Linear layers and convolutions")),
)


def rule_of(name: str, module: nn.Module | None) -> Rule | None:
    """The rule of an operation by its name, or by its module; None where nothing is known of it."""
    if module is not None:
        found = next((rule for kinds, rule in _MODULES if isinstance(module, kinds)), None)
    else:
        found = {"contiguous": _dropped}.get(name) or _FUNCTIONS.get(name)
    if found is None:
        words = next((words for keys, words in _REFUSED if any(key in name.lower() for key in keys)), None)
        return None if words is None else _refusing(name, *words)
    return found


def _dropped(surgery: Surgery, node: fx.Node, value: Value) -> Value:
    """What concerns memory alone."""
    return surgery.drop(node, value)


def _refusing(name: str, why: str, advice: str) -> Rule:
    def rule(_: Surgery, node: fx.Node, value: Value) -> Value:
        raise refusal_at(node, f"{name} on a tensor of shape {value.shape}", why, advice)

    return rule
