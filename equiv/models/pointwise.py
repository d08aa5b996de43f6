"""A copy of a model in which linear layers compute as convolutions with kernel 1."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from equiv.backends import shallow
from equiv.dtypes import DTYPES
from equiv.errors import EquivError
from equiv.mapping import check_conv1d, is_conv1d
from equiv.models.choosing import Only, check_model, chosen, copied, described, names_of
from equiv.models.conversion import Conversion, ConvertedLayer, Product
from equiv.models.pointwise_layers import class_before, class_of, is_pointwise, pointwise_class, swap_class
from equiv.models.positionwise import PositionwiseLinear, make_convolution
from equiv.models.products import Ran, count_products, is_convolution
from equiv.text import quoted

M = TypeVar("M", bound=nn.Module)

TARGET = "1x1 convolution"
_NOT_CHOSEN = "not chosen by only"
_OWN_PARAMETERS = "uses parameters of its own, in code of its own; example_inputs= shows whether it multiplies them"
_HARMLESS = (
    *(nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase),
    *(nn.ParameterList, nn.ParameterDict, parametrize.ParametrizationList),
)


def to_pointwise(model: M, *, only: Only | None = None, example_inputs: Any = None) -> M:
    """Copy a model so that its linear layers compute as 1x1 convolutions.

    A layer keeps its parameters, its hooks and everything else: it becomes an instance of a subclass of its class that
    runs a convolution with kernel 1 on a view of the same weight. So inputs of any rank, ``state_dict`` in both
    directions, optimizers, tied weights, ``isinstance``, and code that reads ``weight`` or ``in_features`` work as
    before. It serves `nn.Linear`, subclasses of it that compute by its forward, parametrized and pruned ones, those
    inside of others (``base_layer`` and the factors of PEFT's LoRA), and the ``Conv1D`` of transformers.

    Layers that would not compute so are left as they are: those with a forward of their own, uninitialized and
    quantized ones, the output projection of `nn.MultiheadAttention`, which is never called. What calls
    ``torch.nn.functional.linear`` on a weight still multiplies matrices. The report says so.

    Args:
        model: Any module; a Linear too. Nothing of it is changed.
        only: Which linear layers: a qualified name, a pattern of `fnmatch`, a tuple or list of these, or a predicate
            of the name and the module. All by default.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments. The copy is run on them once, and
            its report counts every matrix product.

    Returns:
        The copy. Its attribute ``report`` is an `equiv.models.Conversion`; it is ``equiv_report`` too, which stands
        where the model has a ``report`` of its own.

    Raises:
        EquivError: It is no module, or one that cannot be copied; ``only`` chooses nothing, or names a layer that
            cannot be converted; the model does not run on ``example_inputs``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> converted = to_pointwise(model, example_inputs=torch.zeros(5, 4))
        >>> converted.load_state_dict(model.state_dict())
        <All keys matched successfully>
        >>> print(converted.report)
        2 layers converted to 1x1 convolution
              1 x *: Linear (8, 4)
              1 x *: Linear (2, 8)
        in the example 2 converted products ran, and 0 others
    """
    check_model(model)
    modules = names_of(model)
    reasons = {module: _reason(module) for module in modules if _is_linear(module)}
    reasons.update(dict.fromkeys(_never_called(modules), "nn.MultiheadAttention reads its weight and never calls it"))
    wanted = chosen(only, {module: modules[module] for module in reasons}, "linear layers")
    _check_named(only, modules, reasons)
    converted, rows, left = copied(model), [], []
    made: dict[Any, nn.Parameter] = {}
    twins = dict(zip(modules, names_of(converted), strict=True))
    for module, reason in reasons.items():
        reason = reason or ("" if module in wanted else _NOT_CHOSEN)
        row = layer_row(module, modules[module], reason)
        if reason:
            left.append(row)
            continue
        rows.append(row)
        if type(module) is PositionwiseLinear:
            make_convolution(twins[module], made)
        elif not is_pointwise(module):
            swap_class(twins[module], pointwise_class)
    left += _others(modules, {row.name for row in rows})
    notes = _without_fast_path(names_of(converted))
    report = Conversion(TARGET, tuple(rows), tuple(left), None, notes)
    if example_inputs is not None:
        report = with_products(report, count_products(converted, {row.name for row in rows}, example_inputs))
    return attach(converted, report)


def attach(model: M, report: Conversion) -> M:
    """Set the report on a copy; ``report`` only where nothing of the model is called so."""
    stale = isinstance(vars(model).get("report"), Conversion)
    if stale or not hasattr(model, "report"):
        vars(model)["report"] = report
    vars(model)["equiv_report"] = report
    return model


def with_products(report: Conversion, seen: Counter[Ran]) -> Conversion:
    """The report with what ran, and without modules of which the example shows that they multiply nothing."""
    products: Counter[Product] = Counter()
    for ran, count in seen.items():
        done = ran.converted and is_convolution(ran.operation) == (report.target == TARGET)
        reason = "" if done else _why(ran)
        products[Product(ran.module, ran.kind, ran.operation, 0, done, reason)] += count
    listed = tuple(replace(product, count=count) for product, count in products.items())
    calls: Counter[str] = Counter()
    for product in listed:
        calls[product.module] += product.count * product.converted
    rows = tuple(replace(row, calls=sum(calls[name] for name in (row.name, *row.also))) for row in report.converted)
    multiply = {parameter.rpartition(".")[0] for ran in seen for parameter in ran.parameters}
    left = tuple(
        replace(row, reason="multiplies parameters of its own, in code of its own") if unsure else row
        for row in report.left_alone
        if not (unsure := row.reason == _OWN_PARAMETERS) or row.name in multiply
    )
    return replace(report, converted=rows, left_alone=left, products=listed)


def _why(ran: Ran) -> str:
    if is_convolution(ran.operation):
        return "a convolution of the model itself"
    if ran.parameters:
        return f"code of {ran.kind} multiplies {' and '.join(sorted(set(ran.parameters)))}"
    return f"code of {ran.kind} multiplies what it computed"


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module)


def _reason(module: Any) -> str:
    """Why a linear layer cannot be converted by giving it another class; empty where it can."""
    if is_pointwise(module) or type(module) is PositionwiseLinear:
        return ""
    if any(is_lazy(parameter) for parameter in module.parameters()):
        return "has no weight yet: run the model once on an example input first"
    if not isinstance(module, nn.Linear):
        return _reason_conv1d(module)
    for method in ("forward", "__call__"):
        if method in vars(module) or getattr(type(module), method) is not getattr(nn.Linear, method):
            return f"{described(module)} has its own {method}, which may compute something else"
    return "" if parametrize.is_parametrized(module) else _reason_weight(module)


def _reason_weight(module: Any) -> str:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.layout != torch.strided or weight.is_quantized or weight.is_nested:
        return "its weight is no plain tensor"
    if type(weight) not in (Tensor, nn.Parameter, FakeTensor):
        return f"its weight is a {type(weight).__qualname__}, which may compute linear layers in its own way"
    if weight.ndim != 2 or 0 in weight.shape:
        return f"its weight has shape {tuple(weight.shape)}, which no convolution takes"
    if weight.dtype not in DTYPES:
        return f"torch has no convolution in {str(weight.dtype).removeprefix('torch.')}"
    return ""


def _reason_conv1d(module: Any) -> str:
    try:
        check_conv1d(shallow(module, _forward_hooks={}, _forward_pre_hooks={}))
    except EquivError as error:
        return quoted(str(error).partition(": ")[2], 200)
    return ""


def _never_called(modules: dict[nn.Module, tuple[str, ...]]) -> set[nn.Module]:
    return {part for module in modules if isinstance(module, nn.MultiheadAttention) for part in module.modules()} & {
        module for module in modules if isinstance(module, nn.Linear)
    }


def _check_named(only: Any, modules: dict[nn.Module, tuple[str, ...]], reasons: dict[nn.Module, str]) -> None:
    """Refuse a layer that is asked for by its very name, and cannot be converted."""
    named = (
        {only} if isinstance(only, str) else {name for name in only if isinstance(name, str)} if _listed(only) else ()
    )
    for module, reason in reasons.items():
        asked = [name for name in modules[module] if name in named]
        if reason and asked:
            advice = "leave it out, or replace it by a plain nn.Linear first"
            raise EquivError(f"only: expected layers that can be converted, got {asked[0]!r}, which {reason}; {advice}")


def _listed(only: Any) -> bool:
    return isinstance(only, (tuple, list, set, frozenset))


def _others(modules: dict[nn.Module, tuple[str, ...]], converted: set[str]) -> list[ConvertedLayer]:
    """Modules that are no linear layers and multiply weights all the same, or may."""
    rows = []
    for module, names in modules.items():
        if _is_linear(module):
            continue
        inside = any(name.startswith(f"{names[0]}.") for name in converted)
        reason = _reason_other(module, inside)
        if reason:
            rows.append(layer_row(module, names, reason))
    return rows


def _reason_other(module: nn.Module, holds_converted: bool) -> str:
    if isinstance(module, nn.MultiheadAttention):
        return "multiplies in_proj_weight by torch.nn.functional.multi_head_attention_forward"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase, nn.Bilinear)):
        return f"multiplies its weights inside of {described(module)}"
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled by torch.jit, its code is fixed"
    if isinstance(module, _HARMLESS):
        return ""
    if type(module).__name__.endswith("Linear") and not holds_converted:
        return f"{described(module)} is no torch.nn.Linear (quantized, for example)"
    return _OWN_PARAMETERS if _largest(module) else ""


def _largest(module: nn.Module) -> tuple[int, ...]:
    """The shape of the largest parameter that the module holds itself and that could be a factor; else ()."""
    shapes = [tuple(p.shape) for p in module._parameters.values() if p is not None and not is_lazy(p) and p.ndim > 1]
    return max((shape for shape in shapes if sum(size > 1 for size in shape) > 1), key=_entries, default=())


def _entries(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def layer_row(module: Any, names: tuple[str, ...], reason: str) -> ConvertedLayer:
    """What the report says of one module."""
    kind = class_of(module)
    kind = class_before(kind) or kind
    own = [module, *module.parametrizations.modules()] if parametrize.is_parametrized(module) else [module]
    held = [p for part in own for p in part._parameters.values() if p is not None and not is_lazy(p)]
    shape = max((tuple(p.shape) for p in held), key=_entries, default=())
    return ConvertedLayer(names[0], kind.__name__, shape, reason, names[1:])


def _without_fast_path(modules: dict[nn.Module, tuple[str, ...]]) -> tuple[str, ...]:
    """Keep torch from computing encoder layers in one call that would pass by the converted layers in them."""
    stopped = []
    for module, names in modules.items():
        if isinstance(module, nn.TransformerEncoderLayer) and any(map(is_pointwise, module.modules())):
            if "_equiv_fast_path" not in vars(module):
                vars(module)["_equiv_fast_path"] = module.activation_relu_or_gelu
            module.activation_relu_or_gelu = 0
            stopped.append(names[0])
    for module in modules:
        holds = isinstance(module, nn.TransformerEncoder) and any(
            "_equiv_fast_path" in vars(p) for p in module.modules()
        )
        if holds and getattr(module, "use_nested_tensor", False):
            vars(module)["_equiv_nested"] = True
            module.use_nested_tensor = False  # type: ignore[assignment]
    if not stopped:
        return ()
    return (
        f"The fast path of nn.TransformerEncoderLayer, which reads weights and calls no layer, is switched off in "
        f"{', '.join(name or 'the model itself' for name in stopped)}: positions that src_key_padding_mask masks then "
        "hold what they hold in training, not zeros.",
    )
