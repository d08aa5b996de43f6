"""Every misuse ends in one error of ours, which names the argument, its value, what was expected and what to do."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from torch import nn

import equiv
from equiv import EquivError, laws, numerics, testing
from equiv import strategies as est
from equiv.backends import Capabilities, TorchEager
from equiv.causes import name_cause
from equiv.cli import main
from equiv.plugin_report import check_reports

pytest_plugins = ["pytester"]

HOME = Path(equiv.__file__).parent
LONGEST = 400  # characters of a message

LINEAR = nn.Linear(12, 5, device="meta")
LINEAR.weight = nn.Parameter(torch.arange(60.0).reshape(5, 12) - 30)
LINEAR.bias = nn.Parameter(torch.arange(5.0))
FULL = equiv.linear_to_full_conv(LINEAR, (3, 2, 2))
GROUPED = nn.Conv2d(4, 4, 2, groups=2, device="meta")
SPATIAL = nn.Conv2d(3, 5, 3, device="meta")
TRANSPOSED = nn.ConvTranspose2d(3, 5, 1, padding=1, device="meta")
ON_META = nn.Linear(12, 5, device="meta")
LAZY = nn.LazyLinear(5, device="meta")
NAN = nn.Linear(12, 5, bias=False, device="meta")
NAN.weight = nn.Parameter(torch.full((5, 12), math.nan))
X = torch.arange(84.0).reshape(7, 12) / 84
Y = LINEAR(X).detach()
CPU = TorchEager()
EXACT: dict[str, Any] = {"laws": ["exact"], "dtypes": ["float32"]}
ITEM = laws.items([CPU], **EXACT)[0]
QUICK = settings(database=None, deadline=None, derandomize=True, max_examples=5, phases=[Phase.generate])


class Mine:
    """A right backend."""

    name: Any = "mine"
    device: Any = torch.device("cpu")

    def linear(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return CPU.linear(input, weight, bias)

    def conv(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **options: Any
    ) -> torch.Tensor:
        return CPU.conv(input, weight, bias, **options)


def mine(**changes: Any) -> Any:
    backend = Mine()
    vars(backend).update(changes)
    return backend


def first(strategy: st.SearchStrategy[Any]) -> Any:
    return find(strategy, lambda _: True, settings=QUICK)


def probe(**changes: Any) -> Any:
    sizes: dict[str, Any] = {"rows": 2, "in_features": 3, "out_features": 4}
    return numerics.exact_case(
        **{"seed": 1, "style": "dense", "bias": True, "dtype": torch.float32, **sizes, **changes}
    )


def changed(*, hook: bool = False, **parameters: Any) -> nn.Linear:
    layer = copy.deepcopy(LINEAR)
    for name, value in parameters.items():
        setattr(layer, name, value)
    if hook:
        layer.register_forward_hook(lambda _layer, _x, y: 2 * y)
    return layer


def measured(**changes: Any) -> Any:
    given = {"run": nn.functional.linear, "dtype": torch.float32, "rows": 2, "out_features": 2, "in_features": 4}
    return numerics.measure(**{**given, **changes})  # type: ignore[arg-type]


def fails(message: str) -> Callable[[Any], Any]:
    def function(_: Any) -> Any:
        raise ValueError(message)

    return function


# id, misuse, what the message begins with, what else it holds
full, pointwise, dense = equiv.linear_to_full_conv, equiv.linear_to_pointwise_conv, equiv.conv_to_linear
feature_map, channels, compare = equiv.to_feature_map, equiv.to_channels, equiv.compare
judge, refute, parametrize = equiv.assert_equivalent, equiv.counterexample, testing.parametrize_with_laws
check = testing.check_backend
wrong: Any = None  # mypy knows that these are misuses
Row = tuple[str, Callable[[], Any], str, tuple[str, ...]]
ROWS: list[Row] = [
    # linear_to_full_conv
    ("full-shape-none", lambda: full(LINEAR, wrong), "feature_shape:", ("got None", "(3, 2, 2)")),
    ("full-shape-string", lambda: full(LINEAR, "3x2x2"), "feature_shape:", ("got '3x2x2'", "pass a tuple")),  # type: ignore[arg-type]
    ("full-shape-nested", lambda: full(LINEAR, [[3, 2, 2]]), "feature_shape:", ("got [[3, 2, 2]]", "by an int")),  # type: ignore[list-item]
    ("full-shape-float", lambda: full(LINEAR, (3, 2.0, 2)), "feature_shape:", ("got (3, 2.0, 2)", "replace 2.0")),  # type: ignore[arg-type]
    ("full-shape-nan", lambda: full(LINEAR, (3, math.nan)), "feature_shape:", ("got (3, nan)", "replace nan")),  # type: ignore[arg-type]
    ("full-shape-bool", lambda: full(LINEAR, (12, True)), "feature_shape:", ("got (12, True)", "replace True")),
    (
        "full-shape-with-batch",
        lambda: full(LINEAR, (7, 3, 2, 2)),
        "feature_shape:",
        ("product 84", "without the batch"),
    ),
    ("full-shape-last", lambda: full(LINEAR, (2, 2, 4)), "feature_shape:", ("product 16", "channels first")),
    ("full-shape-minus-one", lambda: full(LINEAR, (3, -1)), "feature_shape:", ("got (3, -1)", "at least 1")),
    ("full-shape-zero", lambda: full(LINEAR, (3, 0, 4)), "feature_shape:", ("got (3, 0, 4)", "at least 1")),
    ("full-shape-flat", lambda: full(LINEAR, (12,)), "feature_shape:", ("got (12,) with 0", "channels and spatial")),
    ("full-shape-empty", lambda: full(LINEAR, ()), "feature_shape:", ("got () with 0",)),
    ("full-shape-number", lambda: full(LINEAR, 12), "feature_shape:", ("got 12", "pass (12, 1, 1)")),  # type: ignore[arg-type]
    ("full-shape-tensor", lambda: full(LINEAR, torch.tensor([3, 2, 2])), "feature_shape:", ("tensor of shape (3,)",)),  # type: ignore[arg-type]
    ("full-shape-long", lambda: full(LINEAR, tuple(range(1, 400))), "feature_shape:", ("1 to 3 spatial",)),
    ("full-shape-long-entry", lambda: full(LINEAR, (3, "2" * 999)), "feature_shape:", ("of integers",)),  # type: ignore[arg-type]
    ("full-swapped", lambda: full((3, 2, 2), LINEAR), "linear:", ("got (3, 2, 2)", "pass the layer itself")),  # type: ignore[arg-type]
    ("full-none", lambda: full(wrong, (3, 2, 2)), "linear:", ("got None",)),
    ("full-class", lambda: full(nn.Linear, (3, 2, 2)), "linear:", ("not its class",)),  # type: ignore[arg-type]
    ("full-model", lambda: full(nn.Sequential(LINEAR), (3, 2, 2)), "linear:", ("Sequential", "model that holds it")),  # type: ignore[arg-type]
    ("full-weight", lambda: full(LINEAR.weight, (3, 2, 2)), "linear:", ("tensor of shape (5, 12)",)),  # type: ignore[arg-type]
    ("full-conv", lambda: full(FULL, (3, 2, 2)), "linear:", ("Conv2d", "use equiv.conv_to_linear")),  # type: ignore[arg-type]
    ("full-lazy", lambda: full(LAZY, (3, 2, 2)), "linear:", ("run it once",)),
    ("full-share", lambda: full(LINEAR, (3, 2, 2), share="yes"), "share:", ("got 'yes'", "share=True for views")),  # type: ignore[arg-type]
    # linear_to_pointwise_conv
    ("pointwise-dims-string", lambda: pointwise(LINEAR, "2"), "spatial_dims:", ("got '2'", "from 1 to 3")),  # type: ignore[arg-type]
    ("pointwise-dims-shape", lambda: pointwise(LINEAR, (3, 2, 2)), "spatial_dims:", ("got (3, 2, 2)",)),  # type: ignore[arg-type]
    ("pointwise-dims-zero", lambda: pointwise(LINEAR, 0), "spatial_dims:", ("got 0", "Conv1d")),
    ("pointwise-dims-four", lambda: pointwise(LINEAR, 4), "spatial_dims:", ("got 4",)),
    ("pointwise-dims-float", lambda: pointwise(LINEAR, 2.0), "spatial_dims:", ("got 2.0",)),  # type: ignore[arg-type]
    ("pointwise-dims-bool", lambda: pointwise(LINEAR, True), "spatial_dims:", ("got True",)),
    ("pointwise-dims-long", lambda: pointwise(LINEAR, "2" * 999), "spatial_dims:", ("from 1 to 3",)),  # type: ignore[arg-type]
    ("pointwise-list", lambda: pointwise([LINEAR]), "linear:", ("pass the layer itself",)),  # type: ignore[arg-type]
    # conv_to_linear
    ("dense-linear", lambda: dense(LINEAR, (3, 2, 2)), "conv:", ("Linear", "use equiv.linear_to_full_conv")),  # type: ignore[arg-type]
    ("dense-swapped", lambda: dense((3, 2, 2), FULL), "conv:", ("got (3, 2, 2)",)),  # type: ignore[arg-type]
    ("dense-functional", lambda: dense(nn.functional.conv2d, (3, 2, 2)), "conv:", ("pass the layer itself",)),  # type: ignore[arg-type]
    (
        "dense-transposed",
        lambda: dense(TRANSPOSED, (3, 1, 1)),
        "feature_shape:",
        ("at least one output", "less padding"),
    ),
    (
        "dense-with-batch",
        lambda: dense(FULL, (1, 3, 2, 2)),
        "feature_shape:",
        ("got (1, 3, 2, 2)", "without the batch"),
    ),
    ("dense-channels-last", lambda: dense(FULL, (2, 2, 3)), "feature_shape:", ("got (2, 2, 3)", "channels last")),
    ("dense-small-map", lambda: dense(FULL, (3, 1, 1)), "feature_shape:", ("(2, 2)", "pass a larger map")),
    ("dense-huge-map", lambda: dense(FULL, (3, 10**5, 10**5)), "feature_shape:", ("GiB", "pass a smaller map")),
    ("dense-share", lambda: dense(FULL, (3, 4, 4), share=True), "share:", ("got True", "pass share=False")),
    # to_feature_map, to_channels
    ("map-list", lambda: feature_map([[1.0] * 12], (3, 2, 2)), "x:", ("torch.as_tensor",)),  # type: ignore[arg-type]
    ("map-numpy", lambda: feature_map(X.numpy(), (3, 2, 2)), "x:", ("torch.as_tensor",)),  # type: ignore[arg-type]
    ("map-swapped", lambda: feature_map((3, 2, 2), X), "x:", ("got tuple",)),  # type: ignore[arg-type]
    ("map-scalar", lambda: feature_map(torch.tensor(1.0), (1, 1)), "x:", ("0 dimensions", "pass a vector")),
    ("map-sparse", lambda: feature_map(X.to_sparse(), (3, 2, 2)), "x:", ("to_dense()",)),
    ("map-with-batch", lambda: feature_map(X, (7, 3, 2, 2)), "feature_shape:", ("last dimension of x", "product 84")),
    ("map-of-a-map", lambda: feature_map(torch.zeros(7, 3, 2, 2), (3, 2, 2)), "feature_shape:", ("product 2 ",)),
    ("channels-string", lambda: channels("x"), "x:", ("got str",)),  # type: ignore[arg-type]
    ("channels-layer", lambda: channels(LINEAR), "x:", ("Linear",)),  # type: ignore[arg-type]
    ("channels-scalar", lambda: channels(torch.tensor(1.0)), "x:", ("0 dimensions",)),
    ("channels-shape", lambda: channels(X, (1, 1)), "spatial_dims:", ("got (1, 1)",)),  # type: ignore[arg-type]
    # compare
    ("compare-layer-and-input", lambda: compare(LINEAR, X), "actual:", ("Linear", "result of a layer")),  # type: ignore[arg-type]
    ("compare-layer-second", lambda: compare(Y, LINEAR), "expected:", ("Linear",)),  # type: ignore[arg-type]
    ("compare-lists", lambda: compare([1.0], [1.0]), "actual:", ("list",)),  # type: ignore[arg-type]
    ("compare-bools", lambda: compare(Y > 0, Y > 0), "actual:", ("got bool", "convert it first")),
    ("compare-meta", lambda: compare(Y.to("meta"), Y), "actual:", ("meta", "real device")),
    ("compare-sparse", lambda: compare(Y.to_sparse(), Y), "actual:", ("sparse", "to_dense()")),
    ("compare-rtol-nan", lambda: compare(Y, Y, rtol=math.nan), "rtol:", ("got nan", "at least 0")),
    ("compare-atol-negative", lambda: compare(Y, Y, atol=-1), "atol:", ("got -1",)),
    ("compare-rtol-string", lambda: compare(Y, Y, rtol="1e-3"), "rtol:", ("got '1e-3'",)),  # type: ignore[arg-type]
    ("compare-rtol-huge", lambda: compare(Y, Y, rtol=10**400), "rtol:", ("finite number",)),
    ("compare-layer-hooked", lambda: compare(Y, Y, input=X, layer=changed(hook=True)), "layer:", ("hooks",)),
    ("compare-layer-no-weight", lambda: compare(Y, Y, input=X, layer=changed(weight=None)), "layer.weight:", ("None",)),
    ("compare-input-alone", lambda: compare(Y, Y, input=X), "weight (or layer):", ("the input and the layer",)),
    ("compare-layer-alone", lambda: compare(Y, Y, layer=LINEAR), "input:", ("the input and the layer",)),
    (
        "compare-layer-twice",
        lambda: compare(Y, Y, input=X, layer=LINEAR, weight=LINEAR.weight),
        "layer:",
        ("drop one",),
    ),
    ("compare-layer-string", lambda: compare(Y, Y, input=X, layer="linear"), "layer:", ("str", "weight= and bias=")),  # type: ignore[arg-type]
    ("compare-layer-class", lambda: compare(Y, Y, input=X, layer=nn.Linear), "layer:", ("weight= and bias=",)),  # type: ignore[arg-type]
    ("compare-layer-grouped", lambda: compare(Y, Y, input=X, layer=GROUPED), "layer:", ("groups=2", "conv_to_linear")),
    (
        "compare-layer-norm",
        lambda: compare(Y, Y, input=X, layer=nn.BatchNorm1d(5, device="meta")),
        "layer:",
        ("BatchNorm1d",),
    ),
    (
        "compare-layer-table",
        lambda: compare(Y, Y, input=X, layer=nn.Embedding(5, 12, device="meta")),
        "layer:",
        ("Embedding",),
    ),
    ("compare-layer-meta", lambda: compare(Y, Y, input=X, layer=ON_META), "weight:", ("meta", "real device")),
    ("compare-layer-lazy", lambda: compare(Y, Y, input=X, layer=LAZY), "layer:", ("run it once",)),
    (
        "compare-input-dtype",
        lambda: compare(Y, Y, input=X.double(), layer=LINEAR),
        "input:",
        ("float64", "dtype of actual"),
    ),
    ("compare-input-meta", lambda: compare(Y, Y, input=X.to("meta"), layer=LINEAR), "input:", ("meta", "real device")),
    ("compare-input-sparse", lambda: compare(Y, Y, input=X.to_sparse(), layer=LINEAR), "input:", ("to_dense()",)),
    ("compare-input-rows", lambda: compare(Y, Y, input=X[:3], layer=LINEAR), "input:", ("(3, 12)", "the very input")),
    ("compare-input-features", lambda: compare(Y, Y, input=X[:, :11], layer=LINEAR), "input:", ("(7, 11)", "12")),
    ("compare-weight-layer", lambda: compare(Y, Y, input=X, weight=LINEAR), "weight:", ("Linear",)),  # type: ignore[arg-type]
    ("compare-weight-row", lambda: compare(Y, Y, input=X, weight=X[0]), "weight:", ("(12,)", "(O, n)")),
    ("compare-bias-shape", lambda: compare(Y, Y, input=X, weight=LINEAR.weight, bias=X[0]), "bias:", ("(5,)", "(12,)")),
    (
        "compare-arithmetic",
        lambda: compare(Y, Y, input=X, layer=LINEAR, arithmetic="float32"),
        "arithmetic:",
        ("declared",),
    ),  # type: ignore[arg-type]
    # assert_equivalent
    ("judge-results", lambda: judge(Y, Y), "candidate:", ("Tensor", "use equiv.compare")),  # type: ignore[arg-type]
    ("judge-none", lambda: judge(LINEAR, wrong), "reference:", ("None",)),
    ("judge-functions", lambda: judge(lambda x: x, lambda x: x), "reference:", ("two functions", "pass the layer")),
    ("judge-class", lambda: judge(nn.Linear, LINEAR), "candidate:", ("an instance",)),
    ("judge-shape-string", lambda: judge(FULL, LINEAR, feature_shape="3x2x2"), "feature_shape:", ("got '3x2x2'",)),  # type: ignore[arg-type]
    ("judge-shape-with-batch", lambda: judge(FULL, LINEAR, feature_shape=(1, 3, 2, 2)), "feature_shape:", ("batch",)),
    ("judge-shape-last", lambda: judge(FULL, LINEAR, feature_shape=(2, 2, 3)), "feature_shape:", ("channels last",)),
    ("judge-shape-as-input", lambda: judge(FULL, LINEAR, (3, 2, 2)), "input:", ("got tuple", "feature_shape=")),  # type: ignore[arg-type]
    ("judge-kernel-is-no-map", lambda: judge(SPATIAL, LINEAR), "candidate:", ("meta",)),
    ("judge-input-list", lambda: judge(FULL, LINEAR, [[1.0] * 12]), "input:", ("list",)),  # type: ignore[arg-type]
    ("judge-input-dtype", lambda: judge(FULL, LINEAR, X.double()), "input:", ("float64", "float32")),
    ("judge-input-features", lambda: judge(FULL, LINEAR, X[:, :11]), "input:", ("(7, 11)", "12 features")),
    ("judge-input-meta", lambda: judge(FULL, LINEAR, X.to("meta")), "input:", ("meta",)),
    ("judge-input-sparse", lambda: judge(FULL, LINEAR, X.to_sparse()), "input:", ("to_dense()",)),
    ("judge-meta", lambda: judge(ON_META, LINEAR), "candidate:", ("meta", "load its weights")),
    ("judge-lazy", lambda: judge(LAZY, LINEAR), "candidate:", ("run it once",)),
    ("judge-no-weight", lambda: judge(changed(weight=None), LINEAR), "candidate.weight:", ("got None",)),
    (
        "judge-sparse-weight",
        lambda: judge(changed(weight=nn.Parameter(X[:5].to_sparse())), LINEAR),
        "candidate.weight:",
        ("to_dense()",),
    ),
    ("judge-flat-weight", lambda: judge(LINEAR, changed(weight=nn.Parameter(X[0]))), "reference.weight:", ("(12,)",)),
    ("judge-bias-shape", lambda: judge(changed(bias=nn.Parameter(X[0])), LINEAR), "candidate.bias:", ("(12,)",)),
    ("judge-both-hooked", lambda: judge(changed(hook=True), changed(hook=True)), "reference:", ("hooks",)),
    ("judge-rtol-huge", lambda: judge(FULL, LINEAR, rtol=10**400), "rtol:", ("finite number",)),
    ("judge-seed-string", lambda: judge(FULL, LINEAR, seed="1"), "seed:", ("got '1'",)),  # type: ignore[arg-type]
    ("judge-seed-none", lambda: judge(FULL, LINEAR, seed=wrong), "seed:", ("got None",)),
    ("judge-seed-large", lambda: judge(FULL, LINEAR, seed=10**30), "seed:", ("9223372036854775807",)),
    ("judge-rtol-nan", lambda: judge(FULL, LINEAR, rtol=math.nan), "rtol:", ("got nan",)),
    ("judge-function-fails", lambda: judge(fails("no"), LINEAR), "candidate:", ("ValueError: no", "feature_shape=")),
    ("judge-function-fails-in-silence", lambda: judge(fails(""), LINEAR), "candidate:", ("ValueError",)),
    ("judge-function-fails-at-length", lambda: judge(fails("no" * 999), LINEAR), "candidate:", ("ValueError",)),
    ("judge-function-returns-none", lambda: judge(lambda _: wrong, LINEAR), "candidate:", ("NoneType",)),
    # counterexample
    ("refute-none", lambda: refute(wrong, (3, 2, 2)), "linear:", ("got None",)),
    ("refute-swapped", lambda: refute((3, 2, 2), LINEAR), "linear:", ("got (3, 2, 2)",)),  # type: ignore[arg-type]
    ("refute-shape", lambda: refute(LINEAR, (2, 2, 4)), "feature_shape:", ("product 16",)),
    ("refute-shape-string", lambda: refute(LINEAR, "3x2x2"), "feature_shape:", ("got '3x2x2'",)),  # type: ignore[arg-type]
    (
        "refute-readout",
        lambda: refute(LINEAR, (3, 2, 2), readout="max"),
        "readout:",
        ("got 'max'", "positions, sum, mean"),
    ),  # type: ignore[arg-type]
    ("refute-readout-long", lambda: refute(LINEAR, (3, 2, 2), readout="x" * 999), "readout:", ("positions",)),  # type: ignore[arg-type]
    ("refute-readout-positions", lambda: refute(LINEAR, (3, 2, 2), readout="positions"), "readout:", ("pass 'sum'",)),
    ("refute-meta", lambda: refute(ON_META, (3, 2, 2)), "linear:", ("meta", "to_empty")),
    ("refute-nan", lambda: refute(NAN, (3, 2, 2)), "linear:", ("weight[0, 0] = nan", "remove NaN")),
    # numerics.measure, numerics.tolerance, causes.name_cause
    ("measure-none", lambda: measured(run=None), "run:", ("got None", "run(x, weight, bias)")),
    ("measure-returns-none", lambda: measured(run=lambda *_: None), "run:", ("NoneType",)),
    ("measure-returns-integers", lambda: measured(run=lambda x, w, _: (x @ w.T).int()), "run:", ("torch.int32",)),
    ("measure-fails", lambda: measured(run=lambda *_: 1 / 0), "run:", ("ZeroDivisionError",)),
    ("measure-dtype", lambda: measured(dtype="float32"), "dtype:", ("got 'float32'",)),
    ("measure-rows", lambda: measured(rows=0), "rows:", ("got 0",)),
    ("measure-device-unknown", lambda: measured(device="zz"), "device:", ("got 'zz'",)),
    ("measure-device-meta", lambda: measured(device="meta"), "device:", ("got 'meta'",)),
    ("measure-device-absent", lambda: measured(device="cuda:99"), "device:", ("got 'cuda:99'",)),
    ("measure-limit-negative", lambda: measured(order_limit=-1), "order_limit:", ("got -1",)),
    ("measure-limit-word", lambda: measured(order_limit="all"), "order_limit:", ("got 'all'",)),
    ("measure-key-list", lambda: measured(key=[1]), "key:", ("got [1]", "hashable")),
    ("measure-key-nested", lambda: measured(key=([1],)), "key:", ("got ([1],)", "hashable")),
    ("measure-bias", lambda: measured(bias="yes"), "bias:", ("got 'yes'",)),
    ("tolerance-arithmetic", lambda: numerics.tolerance(X, X, arithmetic=wrong or 3), "arithmetic:", ("got 3",)),  # type: ignore[arg-type]
    ("cause-meta-bias", lambda: name_cause(X, X, (3, 2, 2), X[:, 0], X[:, 0].to("meta")), "reference_bias:", ("meta",)),
    ("cause-meta-weight", lambda: name_cause(X.to("meta"), X, (3, 2, 2)), "candidate_weight:", ("meta",)),
    ("cause-sparse-weight", lambda: name_cause(X, X.to_sparse(), (3, 2, 2)), "reference_weight:", ("sparse",)),
    # testing.parametrize_with_laws, testing.check_backend
    ("laws-none", lambda: parametrize(wrong), "backend:", ("got None", "equiv.backends.Backend")),
    ("laws-word", lambda: parametrize("cpu"), "backend:", ("got 'cpu'", "without name")),  # type: ignore[arg-type]
    ("laws-class", lambda: parametrize(Mine), "backend:", ("class Mine", "pass an instance, Mine()")),  # type: ignore[arg-type]
    ("laws-function", lambda: parametrize(nn.functional.conv2d), "backend:", ("without name",)),  # type: ignore[arg-type]
    ("laws-no-backend", lambda: parametrize([]), "backend:", ("at least one", "got []")),
    ("laws-same-backend-twice", lambda: parametrize([CPU, CPU]), "backend:", ("['eager.cpu', 'eager.cpu']",)),
    ("laws-name-none", lambda: parametrize(mine(name=None)), "backend.name:", ("got None",)),
    ("laws-name-dash", lambda: parametrize(mine(name="my-kernel")), "backend.name:", ("got 'my-kernel'", "every id")),
    ("laws-name-long", lambda: parametrize(mine(name="-" * 999)), "backend.name:", ("every id",)),
    ("laws-device", lambda: parametrize(mine(device="toaster")), "backend.device:", ("got 'toaster'", "torch device")),
    ("laws-no-method", lambda: parametrize(mine(conv=3)), "backend.conv:", ("got 3", "equiv.backends.Backend")),
    ("laws-supports", lambda: parametrize(mine(supports=True)), "backend.supports:", ("got True",)),
    (
        "laws-capabilities",
        lambda: parametrize(mine(capabilities={"stride": False})),
        "backend.capabilities:",
        ("got {",),
    ),
    ("kernels-none", lambda: testing.Kernels(), "linear:", ("at least one of linear, conv1d", "got none")),
    ("kernels-word", lambda: testing.Kernels(linear=wrong or "f"), "linear:", ("got 'f'", "function itself")),
    ("kernels-class", lambda: testing.Kernels(conv2d=nn.Conv2d), "conv2d:", ("got <class", "function itself")),
    ("kernels-two", lambda: testing.Kernels(linear=lambda x, w: x @ w.T), "linear:", ("(x, w)", "cannot be called")),
    ("kernels-name", lambda: testing.Kernels(linear=torch.mm, name="my-f"), "Kernels.name:", ("got 'my-f'",)),
    ("kernels-device", lambda: testing.Kernels(linear=torch.mm, device="tpu0"), "device:", ("got 'tpu0'",)),
    ("kernels-can", lambda: testing.Kernels(linear=torch.mm, capabilities=wrong or 3), "capabilities:", ("got 3",)),
    ("can-dtype", lambda: Capabilities(dtypes=["flot32"]), "capabilities.dtypes:", ("mean 'float32'?",)),
    ("can-dtype-alone", lambda: Capabilities(dtypes="float32"), "capabilities.dtypes:", ("got 'float32'",)),
    ("can-dtype-none", lambda: Capabilities(dtypes=()), "capabilities.dtypes:", ("at least one dtype", "got ()")),
    ("can-dtype-form", lambda: Capabilities(dtypes={"conv": ["int8"]}), "capabilities.dtypes:", ("got 'conv'",)),
    ("can-dtype-in", lambda: Capabilities(dtypes={"full": [3]}), "capabilities.dtypes['full']:", ("got 3",)),  # type: ignore[dict-item]
    ("can-ranks", lambda: Capabilities(spatial_ranks=(0,)), "capabilities.spatial_ranks:", ("got 0", "1 to 3")),
    ("can-rank", lambda: Capabilities(spatial_ranks=wrong or 2), "capabilities.spatial_ranks:", ("got 2",)),
    ("can-empty", lambda: Capabilities(empty_batches=wrong or 1), "capabilities.empty_batches:", ("got 1",)),
    ("can-single", lambda: Capabilities(single_samples=wrong or "no"), "capabilities.single_samples:", ("got 'no'",)),
    ("can-layouts", lambda: Capabilities(layouts=wrong or []), "capabilities.layouts:", ("True or False", "got []")),
    ("can-stride", lambda: Capabilities(stride=wrong or 2), "capabilities.stride:", ("got 2",)),
    ("can-dilation", lambda: Capabilities(dilation=wrong or 2), "capabilities.dilation:", ("got 2",)),
    ("can-padding", lambda: Capabilities(padding=wrong or "same"), "capabilities.padding:", ("got 'same'",)),
    ("can-groups", lambda: Capabilities(groups=wrong or 4), "capabilities.groups:", ("got 4",)),
    ("can-order", lambda: Capabilities(gradient_order=3), "capabilities.gradient_order:", ("0 to 2", "got 3")),
    ("can-order-bool", lambda: Capabilities(gradient_order=True), "capabilities.gradient_order:", ("got True",)),
    ("can-forward", lambda: Capabilities(forward_mode=wrong or 0), "capabilities.forward_mode:", ("got 0",)),
    ("can-transforms", lambda: Capabilities(transforms=wrong or "vmap"), "capabilities.transforms:", ("'vmap'",)),
    ("can-same", lambda: Capabilities(deterministic=wrong or "yes"), "capabilities.deterministic:", ("'yes'",)),
    ("can-arithmetic", lambda: Capabilities(arithmetic="tf32"), "capabilities.arithmetic:", ("'measured'", "'tf32'")),
    ("can-largest", lambda: Capabilities(largest=-1), "capabilities.largest:", ("at least 1", "got -1")),
    ("laws-law", lambda: parametrize(CPU, laws=["foward"]), "laws:", ("got 'foward'", "did you mean 'forward'?")),
    ("laws-law-alone", lambda: parametrize(CPU, laws="forward"), "laws:", ("got 'forward'", "pass a list")),
    ("laws-no-law", lambda: parametrize(CPU, laws=[]), "laws:", ("got none", "leave laws out")),
    ("laws-law-number", lambda: parametrize(CPU, laws=wrong or 2), "laws:", ("got 2", "pass a list")),
    ("laws-form", lambda: parametrize(CPU, forms=["conv"]), "forms:", ("linear, full, pointwise", "got 'conv'")),
    ("laws-dtype", lambda: parametrize(CPU, dtypes=["flot32"]), "dtypes:", ("did you mean 'float32'?",)),
    ("laws-dtype-alone", lambda: parametrize(CPU, dtypes="float32"), "dtypes:", ("got 'float32'", "pass a list")),
    ("laws-dtype-of-torch", lambda: parametrize(CPU, dtypes=torch.float32), "dtypes:", ("pass a list",)),  # type: ignore[arg-type]
    ("laws-dtype-bool", lambda: parametrize(CPU, dtypes=[torch.bool]), "dtypes:", ("got 'bool'",)),  # type: ignore[list-item]
    ("laws-none-left", lambda: parametrize(CPU, laws=["gradients"], dtypes=["int8"]), "laws:", ("'int8'", "equiv env")),
    ("laws-failures-list", lambda: parametrize(CPU, expected_failures=["exact"]), "expected_failures:", ("['exact']",)),  # type: ignore[arg-type]
    ("laws-skips-set", lambda: parametrize(CPU, skips={"exact"}), "skips:", ("{'exact'}", "mapping")),  # type: ignore[arg-type]
    ("laws-skips-no-reason", lambda: parametrize(CPU, skips={"exact": ""}), "skips:", ("got ''", "say why")),
    ("laws-skips-true", lambda: parametrize(CPU, skips={"exact": True}), "skips:", ("for 'exact', got True",)),  # type: ignore[dict-item]
    ("laws-failures-key", lambda: parametrize(CPU, expected_failures={1: "x"}), "expected_failures:", ("got 1",)),  # type: ignore[dict-item]
    ("check-none", lambda: check(wrong), "backend:", ("got None",)),
    ("check-two", lambda: check([CPU, mine()]), "backend:", ("without name",)),  # type: ignore[arg-type]
    ("check-profile", lambda: check(CPU, profile="ci", **EXACT), "profile:", ("dev, gate, deep", "got 'ci'")),
    ("check-examples-zero", lambda: check(CPU, examples=0, **EXACT), "examples:", ("got 0", "at least 1")),
    ("check-examples-float", lambda: check(CPU, examples=2.5, **EXACT), "examples:", ("got 2.5",)),  # type: ignore[arg-type]
    ("check-examples-string", lambda: check(CPU, examples="5", **EXACT), "examples:", ("got '5'",)),  # type: ignore[arg-type]
    ("check-seed-string", lambda: check(CPU, examples=1, seed="x", **EXACT), "seed:", ("got 'x'",)),  # type: ignore[arg-type]
    ("check-seed-negative", lambda: check(CPU, examples=1, seed=-1, **EXACT), "seed:", ("got -1", "at least 0")),
    # laws.items, laws.run_item
    ("items-none", lambda: laws.items(wrong), "backends:", ("got None", "pass [backend]")),
    ("items-one", lambda: laws.items(CPU), "backends:", ("TorchEager('cpu')", "pass [backend]")),  # type: ignore[arg-type]
    ("items-word", lambda: laws.items("cpu"), "backends:", ("got 'cpu'",)),
    ("items-words", lambda: laws.items(["cpu"]), "backends:", ("got 'cpu'", "equiv.backends.Backend")),  # type: ignore[list-item]
    ("items-law", lambda: laws.items([CPU], laws=["gradient"]), "laws:", ("did you mean 'gradients'?",)),
    ("items-dtype", lambda: laws.items([CPU], dtypes=torch.float32), "dtypes:", ("pass a list",)),  # type: ignore[arg-type]
    ("run-id", lambda: laws.run_item(ITEM.id), "item:", (f"got '{ITEM.id}'", "equiv.laws.items")),  # type: ignore[arg-type]
    ("run-list", lambda: laws.run_item([ITEM]), "item:", ("equiv.laws.items",)),  # type: ignore[arg-type]
    ("run-profile", lambda: laws.run_item(ITEM, profile="fast"), "profile:", ("got 'fast'",)),
    ("run-examples", lambda: laws.run_item(ITEM, examples=True), "examples:", ("got True",)),
    # backends.TorchEager
    ("eager-device", lambda: TorchEager("toaster"), "device:", ("got 'toaster'", "'cpu'")),
    ("eager-none", lambda: TorchEager(wrong), "device:", ("got None",)),
    ("eager-list", lambda: TorchEager(["cpu"]), "device:", ("got ['cpu']",)),  # type: ignore[arg-type]
    ("eager-absent", lambda: TorchEager("cuda:99"), "device:", ("got 'cuda:99'", "present")),
    ("eager-meta", lambda: TorchEager("meta"), "device:", ("got 'meta'", "holds values")),
    ("eager-second-cpu", lambda: TorchEager("cpu:1"), "device:", ("got 'cpu:1'",)),
    ("eager-long", lambda: TorchEager("c" * 999), "device:", ("a torch device",)),
    # numerics.exact_case, declared, tolerance
    ("probe-style", lambda: probe(style="gaussian"), "style:", ("sparse, signs", "got 'gaussian'")),
    ("probe-dtype", lambda: probe(dtype="float32"), "dtype:", ("torch.float32", "got 'float32'")),
    ("probe-rows", lambda: probe(rows=-1), "rows:", ("got -1", "at least 0")),
    ("probe-features", lambda: probe(in_features=2.0), "in_features:", ("got 2.0",)),
    ("probe-outputs", lambda: probe(out_features="4"), "out_features:", ("got '4'",)),
    ("probe-seed", lambda: probe(seed=1.5), "seed:", ("got 1.5",)),
    ("probe-bias", lambda: probe(bias=torch.zeros(4)), "bias:", ("True or False",)),
    ("probe-device", lambda: probe(device="toaster"), "device:", ("got 'toaster'",)),
    ("probe-reduction", lambda: probe(reduction="n"), "reduction:", ("got 'n'",)),
    ("declared-dtype", lambda: numerics.declared("float32"), "dtype:", ("got 'float32'", "torch.float32")),  # type: ignore[arg-type]
    ("declared-integer", lambda: numerics.declared(torch.int32), "dtype:", ("got torch.int32", "integers")),
    ("declared-swapped", lambda: numerics.declared("cpu", torch.float32), "dtype:", ("got 'cpu'",)),  # type: ignore[arg-type]
    ("declared-op", lambda: numerics.declared(torch.float32, op="conv"), "op:", ("linear, full", "got 'conv'")),
    ("declared-device", lambda: numerics.declared(torch.float32, "toaster"), "device:", ("got 'toaster'",)),
    ("tolerance-none", lambda: numerics.tolerance(wrong, LINEAR.weight), "x:", ("got None",)),
    ("tolerance-layer", lambda: numerics.tolerance(X, LINEAR), "weight:", ("Linear",)),  # type: ignore[arg-type]
    ("tolerance-integer", lambda: numerics.tolerance(X.int(), X.int()), "x:", ("torch.int32", "equiv.compare")),
    ("tolerance-dtypes", lambda: numerics.tolerance(X.double(), LINEAR.weight), "weight:", ("float64", "float32")),
    ("tolerance-shapes", lambda: numerics.tolerance(X, LINEAR.weight.T), "weight:", ("(O, 12)", "(12, 5)")),
    ("tolerance-kernel", lambda: numerics.tolerance(X, FULL.weight), "weight:", ("(O, 12)", "(5, 3, 2, 2)")),
    ("tolerance-bias", lambda: numerics.tolerance(X, LINEAR.weight, X[0]), "bias:", ("(5,)", "(12,)")),
    ("tolerance-meta", lambda: numerics.tolerance(X.to("meta"), LINEAR.weight), "x:", ("meta",)),
    # strategies, on first draw
    ("dtypes-kinds-alone", lambda: first(est.dtypes(kinds="float")), "kinds:", ("got 'float'", "kinds=('float',)")),
    ("dtypes-kinds", lambda: first(est.dtypes(kinds=["floats"])), "kinds:", ("got 'floats'", "spelling")),
    ("dtypes-device", lambda: first(est.dtypes(device="toaster")), "device:", ("got 'toaster'", "'cpu'")),
    ("devices-kinds", lambda: first(est.devices(kinds=["tpu"])), "kinds:", ("got 'tpu'",)),
    ("tensors-number", lambda: first(est.tensors(3)), "shape:", ("got 3", "(2, 3)")),  # type: ignore[arg-type]
    ("tensors-float", lambda: first(est.tensors((2.0,))), "shape:", ("got (2.0,)",)),  # type: ignore[arg-type]
    ("tensors-negative", lambda: first(est.tensors((-2,))), "shape:", ("got (-2,)", "at least 0")),
    ("tensors-dtype", lambda: first(est.tensors((2,), "float32")), "dtype:", ("got 'float32'",)),  # type: ignore[arg-type]
    ("tensors-kinds", lambda: first(est.tensors((2,), torch.int8, kinds=["normals"])), "kinds:", ("got 'normals'",)),
    ("tensors-layouts", lambda: first(est.tensors((2,), layouts="step")), "layouts:", ("got 'step'", "bool")),  # type: ignore[arg-type]
    ("tensors-grad", lambda: first(est.tensors((2,), torch.int8, requires_grad=True)), "requires_grad:", ("integers",)),
    ("layers-size", lambda: first(est.layers(in_features=-1, out_features=2)), "in_features:", ("got -1",)),
    ("layers-bias", lambda: first(est.layers(in_features=2, out_features=2, bias="yes")), "bias:", ("got 'yes'",)),  # type: ignore[arg-type]
    ("layouts-kind", lambda: first(est.layouts(ndim=2, kinds=["nhwc"])), "kinds:", ("got 'nhwc'",)),
    ("layouts-rank", lambda: first(est.layouts(ndim=2, kinds=["channels_last"])), "kinds:", ("got 'channels_last'",)),
    ("layout-variant", lambda: est.Layout("step", "x").apply(X), "variant:", ("got 'x'",)),  # type: ignore[arg-type]
    ("values-seed", lambda: est.Values("normals", seed="x").tensor((2,)), "seed:", ("got 'x'",)),  # type: ignore[arg-type]
    ("values-shape", lambda: est.Values("normals").tensor(2), "shape:", ("got 2", "(2, 3)")),  # type: ignore[arg-type]
    ("values-device", lambda: est.Values("normals").tensor((2,), device="toaster"), "device:", ("got 'toaster'",)),
    ("kinds-dtype", lambda: est.kinds_for("float32"), "dtype:", ("got 'float32'",)),  # type: ignore[arg-type]
    ("batches-order", lambda: first(est.batch_shapes(min_dims=3, max_dims=1)), "max_dims:", ("from 3 to 8", "got 1")),
    ("maps-dims", lambda: first(est.feature_shapes(spatial_dims=4)), "spatial_dims:", ("got 4",)),  # type: ignore[arg-type]
    (
        "maps-room",
        lambda: first(est.feature_shapes(min_positions=9, max_features=5)),
        "max_features:",
        ("at least 9", "got 5"),
    ),
    ("cases-batch", lambda: first(est.cases(batch_dims=3)), "batch_dims:", ("got 3", "(1, 2)")),  # type: ignore[arg-type]
    ("cases-kinds", lambda: first(est.cases(exact=True, kinds=["normals"])), "kinds:", ("exact=True",)),
    ("cases-device", lambda: first(est.cases(device="meta")), "device:", ("got 'meta'",)),
    ("case-recipe", lambda: est.build_case("x"), "recipe:", ("got 'x'", "case.recipe")),  # type: ignore[arg-type]
]


# command, what the message holds
COMMANDS: list[tuple[list[str], tuple[str, ...]]] = [
    (["verfy"], ("verfy",)),
    (["demo", "--section", "9"], ("--section: expected", "got '9'")),
    (["demo", "--section", "1.0"], ("--section: expected", "got '1.0'")),
    (["verify", "--law", "gradient"], ("--law: expected", "did you mean 'gradients'?")),
    (["verify", "--law", "forward;exact"], ("--law: expected", "got 'forward;exact'")),
    (["verify", "--law", "1"], ("--law: expected", "got '1'")),
    (["verify", "--dtype", "flot"], ("--dtype: expected", "got 'flot'")),
    (["verify", "--dtype", "torch.bool"], ("--dtype: expected", "got 'bool'")),
    (["verify", "--form", "1x1"], ("--form: expected", "got '1x1'")),
    (["verify", "--device", "gpu"], ("--device: expected", "got 'gpu'", "choose among cpu")),
    (["verify", "--device", "cpu:7"], ("--device: expected", "got 'cpu:7'")),
    (["verify", "--profile", "nightly"], ("--profile: expected", "got 'nightly'")),
    (["verify", "--examples", "-3"], ("--examples: expected", "got '-3'")),
    (["verify", "--examples", "nan"], ("--examples: expected", "got 'nan'")),
    (["verify", "--examples", "1e3"], ("--examples: expected", "got '1e3'")),
    (["verify", "--seed", "0x10"], ("--seed: expected", "got '0x10'")),
    (["verify", "--jobs", "999"], ("--jobs: expected", "got '999'")),
    (["verify", "--json", "/"], ("--json: expected", "got '/'")),
    (["verify", "--json", ""], ("--json: expected", "got ''")),
    (["env", "--json", "."], ("--json: expected", "got '.'")),
    (["counterexample", "(3, 4, 4)", "--out", "8"], ("MAP: expected", "write whole numbers with an x")),
    (["counterexample", "3x4.0x4", "--out", "8"], ("MAP: expected", "'4.0'")),
    (["counterexample", "8x3x4x4x4", "--out", "8"], ("MAP: expected", "leave out the batch")),
    (["counterexample", "3x4x4", "--out", "-8"], ("--out: expected", "got '-8'")),
    (["counterexample", "3x4x4", "8"], ("8",)),
    (["counterexample", "3x4x4", "--out", "8", "--readout", ""], ("--readout: expected", "got ''")),
    (["counterexample", "3x4x4", "--out", "8", "--dtype", ""], ("--dtype: expected", "got ''")),
]

# options of pytest, what the message holds
OPTIONS: list[tuple[list[str], tuple[str, ...]]] = [
    (["--equiv-profile", "ci"], ("--equiv-profile: expected one of dev, gate, deep, got 'ci'",)),
    (["-o", "equiv_profile=nightly"], ("equiv_profile: expected one of dev, gate, deep, got 'nightly'",)),
    (["--equiv-examples", "0"], ("--equiv-examples: expected a whole number of at least 1, got '0'",)),
    (["--equiv-examples", "many"], ("--equiv-examples: expected", "got 'many'")),
    (["--equiv-examples", "9" * 5000], ("--equiv-examples: expected",)),
    (["--equiv-seed=-1"], ("--equiv-seed: expected a whole number of at least 0, got '-1'",)),
    (["--equiv-arithmetic", "guessed"], ("--equiv-arithmetic: expected one of declared, measured, got 'guessed'",)),
    (["--equiv-seed", "1.5"], ("--equiv-seed: expected", "got '1.5'")),
    (["--equiv-seed", "²"], ("--equiv-seed: expected", "got '²'")),
    (["--equiv-dtypes", "flot32"], ("--equiv-dtypes: expected", "got 'flot32'; did you mean 'float32'?")),
    (["--equiv-dtypes", ","], ("--equiv-dtypes: expected", "got ','")),
    (["--equiv-devices", "toaster"], ("--equiv-devices: expected", "got 'toaster'")),
    (["--equiv-devices", "meta"], ("--equiv-devices: expected", "got 'meta'")),
    (["--equiv-devices", "cpu,cuda:99"], ("--equiv-devices: expected", "got 'cuda:99'")),
    (["--equiv-devices", ""], ("--equiv-devices: expected", "got ''", "write one or more")),
    (["--equiv-profile", "\x1b[31m"], ("--equiv-profile: expected one of", r"got '\x1b[31m'")),
    (["--equiv-dtypes", "\ud800"], ("--equiv-dtypes: expected one of", r"got '\ud800'")),
]


# files for the report, what the message holds
REPORTS: list[tuple[str, tuple[str, ...]]] = [
    (".", ("--equiv-report: expected a file", "got '.'")),
    ("no/such/report.json", ("--equiv-report: expected a file", "create the folder")),
    ("x" * 300, ("--equiv-report: expected a file", "name too long")),
    ("a\0b", ("--equiv-report: expected a file", "null byte")),
]


def things() -> list[Any]:
    """Whatever the rows hand over."""
    modules = (LINEAR, FULL, NAN)
    return [X, Y, *(p for module in modules for p in module.parameters())]


@pytest.fixture(autouse=True)
def nothing_that_was_handed_over_changes() -> Iterator[None]:
    before = [(t, t.detach().clone(), t._version, t.requires_grad) for t in things()]
    modes = copy.deepcopy([vars(LINEAR)["training"], vars(FULL)["training"]])
    state = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [LINEAR.training, FULL.training]
    for tensor, values, version, grad in before:
        assert numerics.bit_equal(tensor.detach(), values)
        assert (tensor._version, tensor.requires_grad, tensor.grad) == (version, grad, None)


def test_the_table_is_long_and_its_ids_differ() -> None:
    ids = [row[0] for row in ROWS]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 70


@pytest.mark.parametrize(("misuse", "beginning", "fragments"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_a_misuse_is_refused_in_one_sentence(
    misuse: Callable[[], Any], beginning: str, fragments: tuple[str, ...]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on the way to the refusal
        with pytest.raises(EquivError) as caught:
            misuse()
    message = str(caught.value)
    kind = est.StrategyArgumentError if isinstance(caught.value, InvalidArgument) else EquivError
    assert type(caught.value) is kind  # not one of its other kinds by chance
    assert message.startswith(f"{beginning} expected ")
    for fragment in fragments:
        assert fragment in message
    assert re.search(r", got .+; .+", message, re.DOTALL), f"no value, or nothing to do: {message}"
    assert len(message) <= LONGEST + (500 if "ValueError" in fragments else 0)  # what another's error says whole
    assert "\n" not in message
    assert Path(caught.traceback[-1].path).is_relative_to(HOME)  # said by us, not by torch on our behalf


@pytest.mark.parametrize(("words", "fragments"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_a_misused_command_says_one_line_and_exits_2(
    words: list[str], fragments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("equiv")
    assert err.count("\n") == 1
    assert len(err) <= LONGEST
    for fragment in fragments:
        assert fragment in err


@pytest.mark.parametrize(("target", "fragments"), REPORTS, ids=[target[:40] for target, _ in REPORTS])
def test_a_report_that_cannot_be_written_ends_pytest_before_anything_is_run(
    target: str, fragments: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("def test_it(): print('it ran')")
    if "\0" in target:  # no command line can hold it: only an ini option, or a call
        with pytest.raises(pytest.exit.Exception, match=r"^--equiv-html: .*null byte") as caught:
            check_reports({"html": target}, options={"html": "--equiv-html"})
        assert caught.value.returncode == 2
        return
    done = pytester.runpytest_subprocess("-s", "--equiv-report", target)
    assert done.ret == 2
    assert "it ran" not in done.stdout.str()
    said = done.stderr.str()
    assert said.startswith("Exit: ")
    assert said.strip().count("\n") == 0
    assert len(said) <= LONGEST
    for fragment in fragments:
        assert fragment in said


@pytest.mark.parametrize(("words", "fragments"), OPTIONS, ids=[" ".join(words)[:40] for words, _ in OPTIONS])
def test_a_misused_option_of_pytest_is_a_usage_error(
    words: list[str], fragments: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    done = pytester.runpytest_inprocess(*words)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    said = done.stderr.str()
    assert said.startswith("ERROR: ")
    assert said.strip().count("\n") == 0
    assert len(said) <= LONGEST
    for fragment in fragments:
        assert fragment in said
