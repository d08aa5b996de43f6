"""The way back: a copy of a model in which convolutions that are linear layers are that again."""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any, TypeVar

from torch import Tensor, nn

from equiv.mapping import CONV_TRANSPOSES, CONVS
from equiv.models.choosing import check_model, copied, names_of
from equiv.models.conversion import Conversion
from equiv.models.pointwise import attach, layer_row, with_products
from equiv.models.pointwise_layers import class_before, is_pointwise, swap_class
from equiv.models.positionwise import PositionwiseLinear, convolution_kind, make_linear
from equiv.models.products import count_products, run_example

M = TypeVar("M", bound=nn.Module)
_TRANSPOSED, _CONVS = tuple(CONV_TRANSPOSES.values()), tuple(CONVS.values())


def to_linear(model: M, *, example_inputs: Any = None) -> M:
    """Copy a model so that its convolutions that are linear layers are written as such.

    What :func:`equiv.to_pointwise` converted gets its own class back, and torch's fast paths, where they were switched
    off, are switched on. Of the other convolutions, each becomes in its place

    - with kernel 1, any stride, one group and no padding: an `nn.Linear` over the channels of a map, which returns
      (N, O, H, W) as before. Its weight is (O, n), in a ``state_dict`` (O, n, 1, 1) as before; it loads both;
    - with its kernel as stride, such as a patch embedding: a product over patches (:func:`equiv.to_patch_linear`) with
      the same parameters;
    - with a kernel as large as its map, which only an example shows: the same over the one patch. It refuses maps of
      another size.

    Hooks, ties, dtype, device and training mode stay. All others are left alone.

    Args:
        model: Any module; a convolution too. Nothing of it is changed.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments, on which the model is run.

    Returns:
        The copy. Its attribute ``report`` is an `equiv.models.Conversion`, as that of :func:`equiv.to_pointwise`.

    Raises:
        EquivError: It is no module, or one that cannot be copied, or that does not run on ``example_inputs``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1))
        >>> again = to_linear(model)
        >>> print(again.report)
        1 layer converted to Linear
              1 x *: Conv2d (5, 8, 1, 1)
        1 left alone
              1 x *: Conv2d (8, 3, 3, 3), its kernel 3x3 slides in steps of 1x1; if it is as large as its map, ...
        >>> again(torch.zeros(1, 3, 9, 9)).shape, again.state_dict()["1.weight"].shape
        (torch.Size([1, 5, 7, 7]), torch.Size([5, 8, 1, 1]))
        >>> to_linear(model, example_inputs=torch.zeros(1, 3, 3, 3)).report.left_alone
        ()
    """
    check_model(model)
    result: Any = copied(model)
    modules = names_of(result)
    sizes = {} if example_inputs is None else _sizes_of_maps(result, example_inputs)
    kinds = {m: _kind(m, sizes.get(names[0], set())) for m, names in modules.items() if _is_convolution(m)}
    _leave_shared(modules, kinds)
    rows = [layer_row(module, modules[module], reason) for module, (_, reason) in kinds.items()]
    made: dict[Any, nn.Parameter] = {}
    for module, (kind, reason) in kinds.items():
        if is_pointwise(module):
            swap_class(module, class_before)
        elif not reason:
            make_linear(module, kind, made)
    for module in modules:
        _fast_path_again(module)
    left = tuple(row for row in rows if row.reason)
    report = Conversion("Linear", tuple(row for row in rows if not row.reason), left)
    if example_inputs is not None:
        report = with_products(report, count_products(result, {row.name for row in report.converted}, example_inputs))
    return attach(result, report)  # type: ignore[no-any-return]


def _is_convolution(module: nn.Module) -> bool:
    return is_pointwise(module) or isinstance(module, (*_CONVS, *_TRANSPOSED))


def _kind(module: nn.Module, sizes: set[tuple[int, ...]]) -> tuple[Any, str]:
    if is_pointwise(module):
        return None, ""
    return (None, "it is transposed") if isinstance(module, _TRANSPOSED) else convolution_kind(module, sizes)


def _leave_shared(modules: Any, kinds: dict[nn.Module, tuple[Any, str]]) -> None:
    """A weight is given another shape only if all that hold it are given one."""
    others = [module for module in modules if kinds.get(module, (None, ""))[0] is not PositionwiseLinear]
    held = {parameter for module in others for parameter in module._parameters.values() if parameter is not None}
    for module, (kind, _) in kinds.items():
        if kind is PositionwiseLinear and module._parameters["weight"] in held:
            kinds[module] = None, "its weight is that of another module too"


def _sizes_of_maps(model: nn.Module, inputs: Any) -> dict[str, set[tuple[int, ...]]]:
    """The sizes of the maps that every convolution has in an example."""
    sizes: dict[str, set[tuple[int, ...]]] = defaultdict(set)

    def watched(name: str, part: Any) -> Any:
        forward = part.forward
        if not isinstance(part, _CONVS):
            return forward

        @functools.wraps(forward)
        def called(input: Tensor) -> Any:
            sizes[name].add(tuple(input.shape[2 - part.weight.ndim :]))
            return forward(input)

        return called

    run_example(model, inputs, watched)
    return sizes


def _fast_path_again(module: Any) -> None:
    own = vars(module)
    if "_equiv_fast_path" in own:
        module.activation_relu_or_gelu = own.pop("_equiv_fast_path")
    if "_equiv_nested" in own:
        module.use_nested_tensor = own.pop("_equiv_nested")
