"""Which arguments the mappings serve: plain layers, feature shapes, rows.

A layer is plain if its class, forward, hooks and parameters leave no doubt that it computes what its type says. Every
check returns its argument, or raises an `EquivError` that names the argument, its value, what was expected and what to
do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from equiv.arguments import as_integer, check_bool, check_dtype, check_integer, check_tensor, shape_words
from equiv.dtypes import DTYPES, WIDE_UNSIGNED
from equiv.errors import EquivError
from equiv.text import shown

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""The convolution modules by their number of spatial dimensions."""
FeatureShape: TypeAlias = Sequence[SupportsIndex]

_LAYER_ITSELF = "pass the layer itself, not its class or a model that holds it"


def check_feature_shape(feature_shape: FeatureShape, *, name: str = "feature_shape") -> tuple[int, ...]:
    """Return the feature shape as a tuple of ints: channels first, then 1 to 3 spatial sizes, all at least 1.

    Args:
        feature_shape: A tuple, list or ``torch.Size`` of integers; numpy's are welcome, bools are not.
        name: What the message calls the argument.

    Raises:
        EquivError: Anything else.

    Example:
        >>> check_feature_shape(torch.Size([3, 2, 2]))
        (3, 2, 2)
        >>> check_feature_shape(12)
        Traceback (most recent call last):
        equiv.errors.EquivError: feature_shape: expected a tuple (C, *spatial), got 12; for one position pass (12, 1, 1)
    """
    expected = f"{name}: expected a tuple (C, *spatial)"
    if not isinstance(feature_shape, tuple | list):
        size = as_integer(feature_shape)
        advice = "pass a tuple such as (3, 2, 2)" if size is None else f"for one position pass ({shown(size)}, 1, 1)"
        raise EquivError(f"{expected}, got {_described(feature_shape)}; {advice}")
    shape = []
    for entry in feature_shape:
        size = as_integer(entry)
        if size is None:
            raise EquivError(f"{expected} of integers, got {shown(feature_shape)}; replace {shown(entry)} by an int")
        shape.append(size)
    if not 2 <= len(shape) <= 4:
        raise EquivError(
            f"{expected} with 1 to 3 spatial dimensions, got {shown(tuple(shape))} with {max(0, len(shape) - 1)}; "
            "give channels and spatial sizes, without the batch"
        )
    if min(shape) < 1 or max(shape) >= 2**63:
        bounds = "of sizes of at least 1" if min(shape) < 1 else "of sizes that 64 bits hold"
        raise EquivError(f"{expected} {bounds}, got {shown(tuple(shape))}; give the sizes of a map with entries")
    return tuple(shape)


def check_linear(linear: object, *, name: str = "linear") -> nn.Linear:
    """Return the module if it computes ``x @ weight.T + bias`` from its own parameters and nothing else.

    Args:
        linear: The module to check.
        name: What the message calls the argument.

    Raises:
        EquivError: Another type, an uninitialized, parametrized, pruned, quantized, sparse or empty layer, a subclass
            with its own forward, hooks, or a weight whose shape is not (out_features, in_features).

    Example:
        >>> check_linear(nn.Linear(2, 3))
        Linear(in_features=2, out_features=3, bias=True)
    """
    if not isinstance(linear, nn.Linear):
        advice = "use equiv.conv_to_linear for a convolution" if isinstance(linear, Conv) else _LAYER_ITSELF
        raise EquivError(f"{name}: expected a torch.nn.Linear, got {_described(linear)}; {advice}")
    _check_plain(linear, nn.Linear, name)
    _check_shapes(linear, "(out_features, in_features)", (linear.out_features, linear.in_features), name)
    return linear


def check_conv(conv: object, *, name: str = "conv") -> Conv:
    """Return the module if it is a convolution by its own parameters and nothing else.

    Args:
        conv: The module to check.
        name: What the message calls the argument.

    Raises:
        EquivError: As `check_linear`; the weight's shape is (out_channels, in_channels / groups, *kernel_size).

    Example:
        >>> check_conv(nn.Conv1d(2, 3, 1))
        Conv1d(2, 3, kernel_size=(1,), stride=(1,))
    """
    if not isinstance(conv, Conv):
        advice = _LAYER_ITSELF
        if isinstance(conv, nn.Linear):
            advice = "use equiv.linear_to_full_conv or equiv.linear_to_pointwise_conv for a linear layer"
        elif isinstance(conv, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            advice = "a transposed convolution is not served: build its matrix from the identity's image"
        raise EquivError(f"{name}: expected a torch.nn.Conv1d, Conv2d or Conv3d, got {_described(conv)}; {advice}")
    _check_plain(conv, next(kind for kind in CONVS.values() if isinstance(conv, kind)), name)
    expected = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
    _check_shapes(conv, "(out_channels, in_channels / groups, *kernel_size)", expected, name)
    return conv


def is_plain_layer(module: object) -> bool:
    """Whether it is a Linear or convolution that computes from its own weight and bias and nothing else.

    True for what `check_linear` or `check_conv` accepts.

    Example:
        >>> is_plain_layer(nn.Linear(2, 3)), is_plain_layer(nn.LazyLinear(3)), is_plain_layer(nn.ReLU())
        (True, False, False)
    """
    try:
        (check_linear if isinstance(module, nn.Linear) else check_conv)(module)
    except (EquivError, ZeroDivisionError, TypeError):  # attributes of any kind may have been set on a module
        return False
    return True


def check_share(share: bool) -> None:
    """Refuse anything but True and False."""
    check_bool("share", share, "pass share=True for views, False for copies")


def check_spatial_dims(spatial_dims: SupportsIndex) -> int:
    """Return 1, 2 or 3."""
    return check_integer("spatial_dims", spatial_dims, least=1, most=3, advice="it selects Conv1d, Conv2d or Conv3d")


def check_product(shape: tuple[int, ...], n: int, meaning: str) -> None:
    """Refuse a feature shape that does not hold n entries."""
    if math.prod(shape) != n:
        raise EquivError(
            f"feature_shape: expected (C, *spatial) with product {n} (= {meaning}), got {shape} with product "
            f"{math.prod(shape)}; pass the shape of the map that was flattened, channels first, without the batch"
        )


def check_input_of(conv: Conv, shape: tuple[int, ...]) -> None:
    """Refuse a feature shape with another rank, or other channels, than the convolution's input has."""
    rank = conv.weight.ndim - 2
    if len(shape) != rank + 1:
        raise EquivError(
            f"feature_shape: expected (C, *spatial) with {rank} spatial dimensions for a Conv{rank}d, got {shape} with "
            f"{len(shape) - 1}; give channels and {rank} spatial sizes, without the batch"
        )
    if shape[0] != conv.in_channels:
        hint = " (which looks like channels last)" if shape[-1] == conv.in_channels else ""
        raise EquivError(
            f"feature_shape: expected {conv.in_channels} channels first (= conv.in_channels), got {shape}{hint}; "
            "pass (C, *spatial) of the convolution's input, without the batch"
        )


def check_rows(x: Tensor) -> None:
    """Refuse what is not a strided tensor with a last dimension."""
    if check_tensor("x", x, meta=True).ndim == 0:
        raise EquivError("x: expected shape (*batch, n), got a tensor with 0 dimensions; pass a vector or rows")


def _described(value: object) -> str:
    if isinstance(value, nn.Module):
        return f"a {type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Tensor):
        return shape_words(value)
    return shown(value)


def _check_plain(module: nn.Module, kind: type[nn.Module], name: str) -> None:
    """Refuse what makes the module compute something else than ``kind`` does from weight and bias."""
    got, plain = f"got {_described(module)}", f"torch.nn.{kind.__name__}"
    if any(parameter is not None and is_lazy(parameter) for parameter in module._parameters.values()):
        raise EquivError(f"{name}: expected an initialized layer, {got}; run it once on an example input first")
    _check_parameters_are_held(module, name)
    for method in ("forward", "_conv_forward", "__call__"):
        if method in vars(module) or getattr(type(module), method, None) is not getattr(kind, method, None):
            raise EquivError(
                f"{name}: expected a plain {plain}, {got} with its own {method}, which may compute something else; "
                f"if it does not, copy weight and bias into a {plain}"
            )
    if module._forward_hooks or module._forward_pre_hooks:
        raise EquivError(
            f"{name}: expected a layer without forward hooks, {got} with {len(module._forward_pre_hooks)} before and "
            f"{len(module._forward_hooks)} after forward, which may change the result; remove them on a copy first"
        )
    if module._parameters["weight"] is None:
        raise EquivError(f"{name}.weight: expected a parameter, got None; give the layer a weight")
    for key, parameter in module._parameters.items():
        if parameter is not None:
            _check_tensor(parameter, f"{name}.{key}")


def _check_parameters_are_held(module: nn.Module, name: str) -> None:
    """Refuse weights and biases that are computed from other parameters whenever they are read."""
    got = f"got {_described(module)}"
    parametrized = parametrize.is_parametrized(module)
    for key in ("weight", "bias"):
        if parametrized and parametrize.is_parametrized(module, key):
            raise EquivError(
                f"{name}: expected a layer without parametrizations, {got} whose {key} is computed; call "
                f"torch.nn.utils.parametrize.remove_parametrizations(layer, {key!r}) on a copy first"
            )
        if key not in module._parameters or getattr(module, key) is not module._parameters[key]:
            raise EquivError(
                f"{name}: expected {key} to be a parameter, {got} that computes it (weight_norm, spectral_norm, "
                f"pruning); make it permanent on a copy with remove_weight_norm, remove_spectral_norm or prune.remove"
            )


def _check_tensor(tensor: Tensor, name: str) -> None:
    if tensor.layout != torch.strided:
        raise EquivError(f"{name}: expected a strided tensor, got {tensor.layout}; convert it with to_dense()")
    if tensor.is_quantized:
        raise EquivError(f"{name}: expected an unquantized tensor, got {tensor.dtype}; convert it with dequantize()")
    if type(tensor) not in (Tensor, nn.Parameter, FakeTensor):
        raise EquivError(
            f"{name}: expected a torch.nn.Parameter, got the tensor subclass {type(tensor).__qualname__}, which a "
            "mapping would lose; convert it to a plain parameter first"
        )
    check_dtype(name, tensor.dtype, DTYPES + WIDE_UNSIGNED, "convert the parameters to one of these first")


def _check_shapes(module: nn.Linear | Conv, meaning: str, expected: tuple[int, ...], name: str) -> None:
    shape = tuple(module.weight.shape)
    if shape != expected:
        raise EquivError(
            f"{name}.weight: expected shape {meaning} = {expected}, got {shape}; make attributes and weight agree"
        )
    if module.bias is not None and tuple(module.bias.shape) != expected[:1]:
        raise EquivError(
            f"{name}.bias: expected shape {expected[:1]}, got {tuple(module.bias.shape)}; give it one entry per output"
        )
    if 0 in shape:
        raise EquivError(
            f"{name}.weight: expected at least one input and one output, got shape {shape}; torch's linear and conv "
            "treat empty layers differently, so none is equivalent: handle this case apart"
        )
