"""Laws about torch's modules: round trips through mapping and files, and torch's own program transformations."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from equiv.dtypes import dtype_name
from equiv.laws.call import Broken, Call
from equiv.laws.checks.common import exact_cases, rows_of, value_cases, whole
from equiv.laws.checks.convolutions import any_convolution
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial, as_linear
from equiv.mapping import conv_to_linear, linear_to_full_conv, linear_to_pointwise_conv, to_feature_map
from equiv.numerics import Reference, bit_equal, exact_case
from equiv.strategies import Case, Layout

# torch.export and torch.compile take most of a second each: of all cases these take part, chosen by the case itself so
# that a failing case fails again.
_EXPORTED, _COMPILED = 24, 12
_MANY = 33  # rows that half of the compiled programs, and those of as many outputs, get at least: the case's own again


def _anything(context: Context) -> SearchStrategy[Case]:
    return value_cases(context, layouts=False)


def _exact(context: Context) -> SearchStrategy[Case]:
    return exact_cases(context, layouts=False, max_features=128, max_out=64, max_rows=32)


def _mapped(form: str, layer: nn.Linear, feature_shape: tuple[int, ...]) -> nn.Module:
    if form == "linear":
        return layer
    if form == "full":
        return linear_to_full_conv(layer, feature_shape)
    return linear_to_pointwise_conv(layer, len(feature_shape) - 1)


def _shaped(form: str, x: Tensor, feature_shape: tuple[int, ...]) -> Tensor:
    """Rows ``(N, n)`` as the module of this form takes them; also inside vmap, where N is hidden."""
    if form == "linear":
        return x
    shape = feature_shape if form == "full" else (x.shape[-1], *(1,) * (len(feature_shape) - 1))
    return to_feature_map(x, shape)


@law(10, "round trip", draw=_anything, needs_torch=True)
def round_trip(trial: Trial, case: Case) -> None:
    """There and back gives the same bits; state_dict, deepcopy, pickle and torch.export survive.

    So does any other convolution on its way to a layer; and what is to be shared shares its memory.
    """
    fs = case.feature_shape
    layer = as_linear(case.weight, case.bias)
    for form in trial.forms:
        module = _mapped(form, layer, fs)
        if form != "linear":
            assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
            shape = fs if form == "full" else (case.weight.shape[1], *(1,) * (len(fs) - 1))
            _same_parameters(trial, form, conv_to_linear(module, shape), layer, "there and back")
            _shares(trial, form, layer, fs)
            turned = Layout(("permuted", "step", "offset")[case.seed % 3], case.seed % 16)
            laid = _mapped(form, as_linear(turned.apply(case.weight), case.bias), fs)
            _same_parameters(trial, form, laid, module, f"from a weight in the layout {turned.name}")
        _same_parameters(trial, form, copy.deepcopy(module), module, "deepcopy")
        _same_parameters(trial, form, pickle.loads(pickle.dumps(module)), module, "pickle")
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        fresh = _mapped(
            form,
            as_linear(torch.zeros_like(case.weight), None if case.bias is None else torch.zeros_like(case.bias)),
            fs,
        )
        fresh.load_state_dict(torch.load(file, weights_only=True))
        _same_parameters(trial, form, fresh, module, "state_dict")
    if case.seed % _EXPORTED == 0 and len(rows_of(case)):
        _exported(trial, case, layer)
    if "full" in trial.forms and (case.dtype.is_floating_point or case.dtype.is_complex):
        any_convolution(trial, case)


def _same_parameters(trial: Trial, form: str, found: nn.Module, wanted: nn.Module, how: str) -> None:
    for name in ("weight", "bias"):
        a, b = getattr(found, name), getattr(wanted, name)
        same = (a is None and b is None) or (a is not None and b is not None and bit_equal(a, b))
        trial.holds(same, form, f"{how}: the {name} has not the same bits")


def _shares(trial: Trial, form: str, layer: nn.Linear, feature_shape: tuple[int, ...]) -> None:
    """A mapping with ``share=True`` holds the layer's own memory."""
    if form == "full":
        there = linear_to_full_conv(layer, feature_shape, share=True)
    else:
        there = linear_to_pointwise_conv(layer, len(feature_shape) - 1, share=True)
    same = there.weight.untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr()
    trial.holds(same, form, "share=True: the weight has memory of its own")


def _exported(trial: Trial, case: Case, layer: nn.Linear) -> None:
    """An exported program may add in another order: its results are held against the envelope."""
    reference = Reference(rows_of(case).cpu(), case.weight.cpu(), None if case.bias is None else case.bias.cpu())
    for form in trial.forms:
        module = _mapped(form, layer, case.feature_shape).eval()
        x = _shaped(form, rows_of(case), case.feature_shape)
        call = Call(form, x, module.weight.detach(), None if module.bias is None else module.bias.detach())  # type: ignore[operator]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's own deprecations
            torch.compiler.reset()  # torch 2.6 counts exports as compilations, and stops at the eighth
            program = torch.export.export(module, (x,))
        trial.cover("transform", "export")
        y = program.module()(x)
        trial.judge(call, y.reshape(len(x), case.weight.shape[0]), reference, note="after torch.export")


@law(11, "transforms", draw=_exact, needs_torch=True)
def transforms(trial: Trial, case: Case) -> None:
    """vmap, jvp, functional_call, compile, autocast and the meta device agree with the plain call."""
    x = rows_of(case)
    expected = whole(x, case.weight, case.bias)
    layer = as_linear(case.weight, case.bias)
    for form in trial.forms:
        module = _mapped(form, layer, case.feature_shape)
        call = trial.arrange(form, x, case.weight, case.bias, case.feature_shape)
        ways: dict[str, Callable[[], Tensor]] = {
            "functional_call": lambda m=module, f=form: _functional(m, f, x, case),  # type: ignore[misc]
        }
        for mode in (torch.no_grad, torch.inference_mode):
            ways[mode.__name__] = lambda m=module, f=form, mode=mode: _without_gradients(mode, m, f, x, case)  # type: ignore[misc]
        _on_meta(trial, call, module, form, x, case)
        if len(x):
            ways["vmap over both"] = lambda m=module, f=form: _over_both(m, f, x, case)  # type: ignore[misc]
            ways["vmap over rows"] = lambda m=module, f=form: _over_rows(m, f, x, case)  # type: ignore[misc]
            ways["vmap over weights"] = lambda m=module, f=form: _over_weights(m, f, x, case)  # type: ignore[misc]
        if len(x) and case.seed % _COMPILED == 0:
            large = case.seed % (2 * _COMPILED) == 0 or case.weight.shape[0] >= _MANY
            times = -(-_MANY // len(x)) if large else 1
            many = replace(call, input=torch.cat([call.input] * times))
            ways["compile"] = lambda m=module, f=form, many=many: _compiled(m, f, many.input, case)  # type: ignore[misc]
        for name, way in ways.items():
            trial.cover("transform", name)
            try:
                y = way()
            except Exception as error:
                if _is_opaque(error):
                    trial.cover("transform not served", name)
                    continue
                raise Broken(f"{name} raised {type(error).__name__}: {error}", form=form, call=call) from error
            if name == "compile":
                trial.same(many, y, expected.repeat(len(y) // len(x), 1), note="under compile")
            else:
                trial.same(call, y, expected, note=f"under {name}")
        if case.dtype.is_floating_point and len(x):
            _jvp(trial, call, module, form, x, case)
        if case.dtype == torch.float32:
            for lower in (torch.bfloat16, torch.float16):
                _autocast(trial, case, form, lower)


def _is_opaque(error: Exception) -> bool:
    """Whether a kernel is an ``autograd.Function`` that gave torch no rule for the transform: refused, not wrong."""
    return "autograd.Function" in str(error) or type(error).__name__ == "Unsupported"


def _functional(module: nn.Module, form: str, x: Tensor, case: Case) -> Tensor:
    parameters = {name: value.detach().clone() for name, value in module.named_parameters()}
    blank = copy.deepcopy(module).to("meta")
    y: Tensor = torch.func.functional_call(blank, parameters, (_shaped(form, x, case.feature_shape),))
    return y.reshape(len(x), case.weight.shape[0])


def _without_gradients(mode: Callable[[], Any], module: nn.Module, form: str, x: Tensor, case: Case) -> Tensor:
    with mode():
        y: Tensor = module(_shaped(form, x, case.feature_shape))
        return y.reshape(len(x), case.weight.shape[0]).clone()


def _on_meta(trial: Trial, call: Call, module: nn.Module, form: str, x: Tensor, case: Case) -> None:
    trial.cover("transform", "meta")
    shape = (len(x), case.weight.shape[0]) + (() if form == "linear" else (1,) * (len(case.feature_shape) - 1))
    try:
        y = copy.deepcopy(module).to("meta")(_shaped(form, x, case.feature_shape).to("meta"))
    except Exception as error:
        raise Broken(f"meta raised {type(error).__name__}: {error}", form=form, call=call) from error
    found = f"{tuple(y.shape)} of {y.dtype}"
    trial.holds(found == f"{shape} of {case.dtype}", form, f"meta: {found}, expected {shape} of {case.dtype}", call)


def _jvp(trial: Trial, call: Call, module: nn.Module, form: str, x: Tensor, case: Case) -> None:
    """The layer changes along any direction of its input as its linear part says; of its parameters, as itself."""
    shaped = _shaped(form, x, case.feature_shape)
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def of(values: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(module, values, (shaped,))
        return y

    name = "jvp" if case.seed % 2 else "jvp of parameters"
    trial.cover("transform", name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.func's own deprecations
            if case.seed % 2:
                along = torch.func.jvp(module, (shaped,), (shaped.clone(),))[1]
            else:
                along = torch.func.jvp(of, (parameters,), ({key: t.clone() for key, t in parameters.items()},))[1]
    except Exception as error:
        if _is_opaque(error):
            trial.cover("transform not served", name)
            return
        raise Broken(f"{name} raised {type(error).__name__}: {error}", form=form, call=call) from error
    expected = whole(x, case.weight, None if case.seed % 2 else case.bias)
    trial.same(call, along.reshape(expected.shape), expected, note=f"derivative by torch.func.jvp ({name})")


def _over_rows(module: nn.Module, form: str, x: Tensor, case: Case) -> Tensor:
    y: Tensor = torch.func.vmap(lambda row: module(_shaped(form, row, case.feature_shape)))(x)
    return y.reshape(len(x), case.weight.shape[0])


def _over_both(module: nn.Module, form: str, x: Tensor, case: Case) -> Tensor:
    """Two layers on two inputs, one each; the second pair is doubled, and the first must not notice."""
    weights = {name: torch.stack([value.detach(), value.detach() * 2]) for name, value in module.named_parameters()}
    shaped = _shaped(form, x, case.feature_shape)

    def one(parameters: dict[str, Tensor], given: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(module, parameters, (given,))
        return y

    y = torch.func.vmap(one)(weights, torch.stack([shaped, shaped]))
    return y[0].reshape(len(x), case.weight.shape[0])


def _over_weights(module: nn.Module, form: str, x: Tensor, case: Case) -> Tensor:
    """An ensemble of two, the second with all weights doubled; the first must not notice."""
    stacked = {name: torch.stack([value.detach(), value.detach() * 2]) for name, value in module.named_parameters()}
    shaped = _shaped(form, x, case.feature_shape)

    def one(parameters: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(module, parameters, (shaped,))
        return y

    y = torch.func.vmap(one)(stacked)
    return y[0].reshape(len(x), case.weight.shape[0])


def _compiled(module: nn.Module, form: str, given: Tensor, case: Case) -> Tensor:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's and functorch's own deprecations
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=False)
        y: Tensor = compiled(_shaped(form, given.flatten(1), case.feature_shape))
    return y.detach().reshape(len(given), case.weight.shape[0])


def _autocast(trial: Trial, case: Case, form: str, lower: torch.dtype) -> None:
    """Autocast computes a float32 layer in 16 bits: on integers that those sum exactly, the values are exact.

    The dtype of the result is that of the autocast, or float32 from a kernel that autocast does not know.
    """
    outputs, n = case.weight.shape
    x, weight, bias = exact_case(
        seed=case.seed,
        style=case.recipe.style or "dense",
        rows=len(rows_of(case)),
        in_features=n,
        out_features=outputs,
        bias=case.bias is not None,
        dtype=lower,
        device=case.device,
    )
    layer = as_linear(weight.float(), None if bias is None else bias.float())
    module = _mapped(form, layer, case.feature_shape)
    call = trial.arrange(form, x.float(), weight.float(), None if bias is None else bias.float(), case.feature_shape)
    word = dtype_name(lower)
    try:
        with torch.autocast(case.device.type, dtype=lower):
            y = module(_shaped(form, x.float(), case.feature_shape))
    except Exception as error:
        raise Broken(f"autocast to {word} raised {type(error).__name__}: {error}", form=form, call=call) from error
    trial.cover("transform", f"autocast to {word}")
    trial.holds(y.dtype in (lower, torch.float32), form, f"autocast to {word}: the result is {y.dtype}", call)
    wanted = whole(x, weight, bias).float()
    trial.same(call, y.reshape(len(x), outputs).float(), wanted, note=f"under autocast to {word}")
