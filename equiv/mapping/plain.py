"""Which layers the mappings serve: plain ones.

A layer is plain if its class, forward, hooks, attributes and parameters leave no doubt that it computes what its type
says. Every check returns its argument, or raises an `EquivError` that names the argument, its value, what was expected
and what to do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from equiv.arguments import check_dtype, check_integer
from equiv.dtypes import DTYPES, WIDE_UNSIGNED
from equiv.errors import EquivError
from equiv.mapping.attributes import CONV_TRANSPOSES, CONVS, Conv, ConvTranspose, attributes_of, rank_of, sizes_of
from equiv.mapping.checks import described

LAYER_ITSELF = "pass the layer itself, not its class or a model that holds it"


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
        served = isinstance(linear, Conv | ConvTranspose) or is_conv1d(linear)
        advice = "use equiv.conv_to_linear, which writes it as a Linear" if served else LAYER_ITSELF
        raise EquivError(f"{name}: expected a torch.nn.Linear, got {described(linear)}; {advice}")
    _check_plain(linear, nn.Linear, name)
    outs, ins = (
        check_integer(f"{name}.{key}", getattr(linear, key), least=0, advice="make attributes and weight agree")
        for key in ("out_features", "in_features")
    )
    check_shapes(linear, "(out_features, in_features)", (outs, ins), outs, name)
    return linear


def check_conv(conv: object, *, name: str = "conv") -> Conv:
    """Return the module if it is a convolution by its own parameters and nothing else, with attributes that torch runs.

    Args:
        conv: The module to check.
        name: What the message calls the argument.

    Raises:
        EquivError: As `check_linear`; the weight's shape is (out_channels, in_channels / groups, *kernel_size). A
            stride, padding, padding mode, dilation or number of groups that torch refuses.

    Example:
        >>> check_conv(nn.Conv1d(2, 3, 1))
        Conv1d(2, 3, kernel_size=(1,), stride=(1,))
    """
    if not isinstance(conv, Conv):
        advice = LAYER_ITSELF
        if isinstance(conv, nn.Linear):
            advice = "use equiv.linear_to_full_conv or equiv.linear_to_pointwise_conv for a linear layer"
        elif isinstance(conv, ConvTranspose):
            advice = "pass equiv.conv_to_linear(layer, feature_shape), the dense layer that it is"
        raise EquivError(f"{name}: expected a torch.nn.Conv1d, Conv2d or Conv3d, got {described(conv)}; {advice}")
    _check_convolution(conv, name)
    return conv


def check_conv_transpose(conv: object, *, name: str = "conv") -> ConvTranspose:
    """Return the module if it is a transposed convolution by its own parameters and nothing else.

    Args:
        conv: The module to check.
        name: What the message calls the argument.

    Raises:
        EquivError: As `check_conv`; the weight's shape is (in_channels, out_channels / groups, *kernel_size).

    Example:
        >>> check_conv_transpose(nn.ConvTranspose1d(2, 3, 1))
        ConvTranspose1d(2, 3, kernel_size=(1,), stride=(1,))
    """
    if not isinstance(conv, ConvTranspose):
        kinds = "a torch.nn.ConvTranspose1d, ConvTranspose2d or ConvTranspose3d"
        raise EquivError(f"{name}: expected {kinds}, got {described(conv)}; {LAYER_ITSELF}")
    _check_convolution(conv, name)
    return conv


def check_attributes(layer: object, name: str) -> None:
    """Refuse a convolution with attributes that torch refuses to run; a class that is not torch's may read others.

    Example:
        >>> conv = nn.ConvTranspose1d(2, 3, 1)
        >>> conv.stride = 0
        >>> check_attributes(conv, "candidate")
        Traceback (most recent call last):
        equiv.errors.EquivError: candidate.stride: expected an integer of at least 1, got 0; ...
    """
    if isinstance(layer, Conv | ConvTranspose) and type(layer) in (*CONVS.values(), *CONV_TRANSPOSES.values()):
        attributes_of(layer, name)


def is_plain_layer(module: object) -> bool:
    """Whether it is a Linear or convolution that computes from its own weight and bias and nothing else.

    True for what `check_linear` or `check_conv` accepts.

    Example:
        >>> is_plain_layer(nn.Linear(2, 3)), is_plain_layer(nn.LazyLinear(3)), is_plain_layer(nn.ReLU())
        (True, False, False)
    """
    try:
        (check_linear if isinstance(module, nn.Linear) else check_conv)(module)
    except EquivError:
        return False
    return True


def is_conv1d(layer: object) -> bool:
    """Whether it calls itself a Conv1D as transformers does: a linear layer that holds its weight transposed.

    Example:
        >>> is_conv1d(nn.Conv1d(1, 1, 1))
        False
    """
    names = {kind.__name__ for kind in type(layer).__mro__}
    return isinstance(layer, nn.Module) and "Conv1D" in names and "nf" in vars(layer)


def check_ready(module: nn.Module, name: str) -> None:
    """Refuse a layer with parameters that are not there yet, are computed, or are such that a mapping would lose them.

    And one with hooks around its forward.
    """
    held = module._parameters
    if any(parameter is not None and is_lazy(parameter) for parameter in held.values()):
        got = f"got {described(module)}"
        raise EquivError(f"{name}: expected an initialized layer, {got}; run it once on an example input first")
    _check_parameters_are_held(module, name)
    if module._forward_hooks or module._forward_pre_hooks:
        got = f"got {described(module)}"
        raise EquivError(
            f"{name}: expected a layer without forward hooks, {got} with {len(module._forward_pre_hooks)} before and "
            f"{len(module._forward_hooks)} after forward, which may change the result; remove them on a copy first"
        )
    if held["weight"] is None:
        raise EquivError(f"{name}.weight: expected a parameter, got None; give the layer a weight")
    for key, parameter in held.items():
        if parameter is not None:
            _check_tensor(parameter, f"{name}.{key}")


def check_shapes(module: nn.Module, meaning: str, expected: tuple[int, ...], outputs: int, name: str) -> None:
    """Refuse a weight or bias of another shape than the attributes say, and one without entries."""
    shapes = {key: None if held is None else tuple(held.shape) for key, held in module._parameters.items()}
    if shapes["weight"] != expected:
        got = f"got {shapes['weight']}; make attributes and weight agree"
        raise EquivError(f"{name}.weight: expected shape {meaning} = {expected}, {got}")
    if shapes["bias"] not in (None, (outputs,)):
        raise EquivError(
            f"{name}.bias: expected shape {(outputs,)}, got {shapes['bias']}; give it one entry per output"
        )
    if 0 in expected:
        raise EquivError(
            f"{name}.weight: expected at least one input and one output, got shape {expected}; torch's linear and conv "
            "treat empty layers differently, so none is equivalent: handle this case apart"
        )


def _check_convolution(conv: Conv | ConvTranspose, name: str) -> None:
    """Refuse what is not plain, or has attributes that torch refuses."""
    transposed = isinstance(conv, ConvTranspose)
    _check_plain(conv, (CONV_TRANSPOSES if transposed else CONVS)[rank_of(conv)], name)
    groups = attributes_of(conv, name).groups
    ins, outs, kernel = sizes_of(conv, name)
    sizes, meaning = (outs, ins // groups), "(out_channels, in_channels / groups, *kernel_size)"
    if transposed:
        sizes, meaning = (ins, outs // groups), "(in_channels, out_channels / groups, *kernel_size)"
    check_shapes(conv, meaning, (*sizes, *kernel), outs, name)


def _check_plain(module: nn.Module, kind: type[nn.Module], name: str) -> None:
    """Refuse what makes the module compute something else than ``kind`` does from weight and bias."""
    check_ready(module, name)
    plain = f"torch.nn.{kind.__name__}"
    for method in ("forward", "_conv_forward", "_output_padding", "__call__"):
        if method in vars(module) or getattr(type(module), method, None) is not getattr(kind, method, None):
            raise EquivError(
                f"{name}: expected a plain {plain}, got {described(module)} with its own {method}, which may compute "
                f"something else; if it does not, copy weight and bias into a {plain}"
            )


def _check_parameters_are_held(module: nn.Module, name: str) -> None:
    """Refuse weights and biases that are computed from other parameters whenever they are read, or are not there."""
    if all(_is_held(module, key) for key in ("weight", "bias")):
        return
    got = f"got {described(module)}"
    parametrized = parametrize.is_parametrized(module)
    for key in ("weight", "bias"):
        if parametrized and parametrize.is_parametrized(module, key):
            raise EquivError(
                f"{name}: expected a layer without parametrizations, {got} whose {key} is computed; call "
                f"torch.nn.utils.parametrize.remove_parametrizations(layer, {key!r}) on a copy first"
            )
        if not hasattr(module, key):
            raise EquivError(f"{name}.{key}: expected a parameter, {got} without one; register it on the layer")
        if key not in module._parameters or getattr(module, key) is not module._parameters[key]:
            raise EquivError(
                f"{name}: expected {key} to be a parameter, {got} that computes it (weight_norm, spectral_norm, "
                f"pruning); make it permanent on a copy with remove_weight_norm, remove_spectral_norm or prune.remove"
            )


def _is_held(module: nn.Module, key: str) -> bool:
    """Whether reading this attribute can give nothing but the module's own parameter of that name."""
    kind = type(module)
    return (
        key in module._parameters
        and key not in module.__dict__
        and not hasattr(kind, key)
        and (kind.__getattr__ is nn.Module.__getattr__ and kind.__getattribute__ is object.__getattribute__)
    )


def _check_tensor(tensor: Tensor, name: str) -> None:
    if tensor.is_nested:
        raise EquivError(f"{name}: expected a strided tensor, got a nested tensor; make it one tensor of one shape")
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
