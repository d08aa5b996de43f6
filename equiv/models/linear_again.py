"""The way back: a copy of a model in which pointwise convolutions are linear layers."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from equiv.mapping import Conv, ConvTranspose
from equiv.models.choosing import check_model, copied, names_of
from equiv.models.conversion import Conversion
from equiv.models.pointwise import attach, layer_row
from equiv.models.pointwise_layers import class_before, is_pointwise, swap_class
from equiv.models.positionwise import make_positionwise, why_not_positionwise

M = TypeVar("M", bound=nn.Module)


def to_linear(model: M) -> M:
    """Copy a model so that its pointwise convolutions are linear layers again.

    What :func:`equiv.to_pointwise` converted gets its own class back, and torch's fast paths, where they were switched
    off, are switched on. A convolution with kernel 1, any stride, no padding and one group becomes an
    `equiv.models.PositionwiseLinear` in the same place: an `nn.Linear` over the channels of a map, whose results have
    the convolution's shape, (N, O, H, W). Its weight is (O, n), in a ``state_dict`` (O, n, 1, 1) as before: checkpoints
    load in both directions.

    Args:
        model: Any module; a convolution too. Nothing of it is changed.

    Returns:
        The copy. Its attribute ``report`` is an `equiv.models.Conversion`, as that of :func:`equiv.to_pointwise`.

    Raises:
        EquivError: It is no module, or one that cannot be copied.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1))
        >>> again = to_linear(model)
        >>> print(again.report)
        1 layer converted to Linear
              1 x *: Conv2d (5, 8, 1, 1)
        1 left alone
              1 x *: Conv2d (8, 3, 3, 3), its kernel is 3x3
        >>> again(torch.zeros(1, 3, 9, 9)).shape, again.state_dict()["1.weight"].shape
        (torch.Size([1, 5, 7, 7]), torch.Size([5, 8, 1, 1]))
    """
    check_model(model)
    result: Any = copied(model)
    modules = names_of(result)
    reasons = {module: _reason(module) for module in modules if _is_convolution(module)}
    _leave_shared(modules, reasons)
    rows = {module: layer_row(module, modules[module], reason) for module, reason in reasons.items()}
    made: dict[Any, nn.Parameter] = {}
    for module, reason in reasons.items():
        if is_pointwise(module):
            swap_class(module, class_before)
        elif not reason:
            make_positionwise(module, made)  # type: ignore[arg-type]
    for module in modules:
        _fast_path_again(module)
    left = tuple(row for row in rows.values() if row.reason)
    report = Conversion("Linear", tuple(row for row in rows.values() if not row.reason), left)
    return attach(result, report)  # type: ignore[no-any-return]


def _is_convolution(module: nn.Module) -> bool:
    return is_pointwise(module) or isinstance(module, (Conv, ConvTranspose))


def _reason(module: nn.Module) -> str:
    if is_pointwise(module):
        return ""
    return "it is transposed" if isinstance(module, ConvTranspose) else why_not_positionwise(module)


def _leave_shared(modules: Any, reasons: dict[nn.Module, str]) -> None:
    """A weight is given another shape only if all that hold it are given one."""
    held = {p for m in modules if reasons.get(m, "other") for p in m._parameters.values() if p is not None}
    for module, reason in reasons.items():
        if not reason and not is_pointwise(module) and module._parameters["weight"] in held:
            reasons[module] = "its weight is that of another module too"


def _fast_path_again(module: Any) -> None:
    own = vars(module)
    if "_equiv_fast_path" in own:
        module.activation_relu_or_gelu = own.pop("_equiv_fast_path")
    if "_equiv_nested" in own:
        module.use_nested_tensor = own.pop("_equiv_nested")
