"""The law about round trips: through the mapping and back, through files and copies, through torch.export."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

from equiv.dtypes import is_inexact
from equiv.laws.call import Call
from equiv.laws.checks.convolutions import any_convolution
from equiv.laws.checks.drawing import rows_of, value_cases
from equiv.laws.checks.expected import reference_of
from equiv.laws.reach import Reach
from equiv.laws.registry import law
from equiv.laws.trial import Trial, as_linear
from equiv.mapping import FeatureShape, conv_to_linear, linear_to_full_conv, linear_to_pointwise_conv, to_feature_map
from equiv.numerics import bit_equal
from equiv.strategies import Case, Layout

_EXPORTED = 24  # torch.export takes most of a second: one in so many cases, chosen by the seed so that it fails again


def mapped(form: str, layer: nn.Linear, feature_shape: FeatureShape, *, share: bool = False) -> Any:
    """The layer as the module of a form."""
    if form == "linear":
        return layer
    if form == "full":
        return linear_to_full_conv(layer, feature_shape, share=share)
    return linear_to_pointwise_conv(layer, len(feature_shape) - 1, share=share)


def shaped(form: str, x: torch.Tensor, feature_shape: tuple[int, ...]) -> torch.Tensor:
    """Rows ``(N, n)`` as the module of a form takes them; also inside vmap, where N is hidden."""
    if form == "linear":
        return x
    shape = feature_shape if form == "full" else (x.shape[-1], *(1,) * (len(feature_shape) - 1))
    return to_feature_map(x, shape)


@law(
    10,
    "round trip",
    draw=partial(value_cases, layouts=False),
    needs_torch=True,
    reaches=[Reach("transform", ("export",))],
)
def round_trip(trial: Trial, case: Case) -> None:
    """A layer mapped to a convolution and back keeps its bits, and survives state_dict, deepcopy, pickle and export.

    Any other convolution gives the result of its dense layer; and what is to be shared shares its memory.
    """
    if not trial.asks("transforms"):
        return
    fs = case.feature_shape
    layer = as_linear(case.weight, case.bias)
    forms = [form for form in trial.forms if form == "linear" or trial.asks("spatial_ranks", form, wanted=len(fs) - 1)]
    for form in forms:
        module = mapped(form, layer, fs)
        if form != "linear":
            shape = fs if form == "full" else (case.weight.shape[1], *(1,) * (len(fs) - 1))
            _same_parameters(trial, form, conv_to_linear(module, shape), layer, "there and back")
            shared = mapped(form, layer, fs, share=True).weight.untyped_storage()
            is_shared = shared.data_ptr() == layer.weight.untyped_storage().data_ptr()
            trial.holds(is_shared, form, "has a weight with memory of its own in spite of share=True")
            turned = Layout(("permuted", "step", "offset")[case.seed % 3], case.seed % 16)
            laid = mapped(form, as_linear(turned.apply(case.weight), case.bias), fs)
            _same_parameters(trial, form, laid, module, f"from a weight in the layout {turned.name}")
        _same_parameters(trial, form, copy.deepcopy(module), module, "in a deepcopy")
        _same_parameters(trial, form, pickle.loads(pickle.dumps(module)), module, "through pickle")
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        zeros = as_linear(torch.zeros_like(case.weight), None if case.bias is None else torch.zeros_like(case.bias))
        fresh = mapped(form, zeros, fs)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        _same_parameters(trial, form, fresh, module, "through state_dict")
    if case.seed % _EXPORTED == 0 and len(rows_of(case)):
        _exported(trial, case, layer, forms)
    if "full" in forms and is_inexact(case.dtype):
        any_convolution(trial, case)


def _same_parameters(trial: Trial, form: str, found: nn.Module, wanted: nn.Module, how: str) -> None:
    for name in ("weight", "bias"):
        a, b = getattr(found, name), getattr(wanted, name)
        same = (a is None and b is None) or (a is not None and b is not None and bit_equal(a, b))
        trial.holds(same, form, f"does not keep the bits of the {name} {how}")


def _exported(trial: Trial, case: Case, layer: nn.Linear, forms: list[str]) -> None:
    """An exported program may add in another order: its results are held against the envelope."""
    reference = reference_of(rows_of(case), case.weight, case.bias)
    for form in forms:
        module = mapped(form, layer, case.feature_shape).eval()
        x = shaped(form, rows_of(case), case.feature_shape)
        call = Call(form, x, module.weight.detach(), None if module.bias is None else module.bias.detach())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's own deprecations
            torch.compiler.reset()  # torch 2.6 counts exports as compilations, and stops at the eighth
            program = torch.export.export(module, (x,))
        trial.cover("transform", "export")
        y = program.module()(x)
        trial.judge(call, y.reshape(len(x), case.weight.shape[0]), reference, "after torch.export")
