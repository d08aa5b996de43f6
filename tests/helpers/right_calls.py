"""A right call of every public callable of equiv, from which misuses are made by replacing one argument."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import right_numerics
import right_pictures
import torch
from hypothesis import HealthCheck, Phase, find, settings
from right_layer import Use, bias, conv, layer, linear, projection, weight, x, y

import equiv
from equiv import laws, report, testing
from equiv import strategies as est
from equiv.backends import Capabilities, TorchEager, load_backend, measure_form
from equiv.causes import likely_cause, name_cause, name_misrounding, name_output_cause, sliding_cause
from equiv.mapping import check_conv, check_conv_transpose, check_feature_shape, check_linear
from equiv.testing import faults

FACES = (
    "equiv",
    "equiv.backends",
    "equiv.causes",
    "equiv.certificate",
    "equiv.laws",
    "equiv.mapping",
    "equiv.models",
    "equiv.numerics",
    *right_pictures.FACES,
    "equiv.report",
    "equiv.strategies",
    "equiv.structure",
    "equiv.testing",
    "equiv.testing.faults",
    "equiv.verdict",
)


def classifier() -> torch.nn.Module:
    return torch.nn.Sequential(patches(), torch.nn.ReLU(), torch.nn.Flatten(), wide())


def wide() -> torch.nn.Linear:
    layer = torch.nn.Linear(20, 4, device="meta")
    layer.weight = torch.nn.Parameter(torch.arange(80.0).reshape(4, 20) % 7 - 3)
    layer.bias = torch.nn.Parameter(torch.arange(4.0))
    return layer


def patches() -> torch.nn.Conv2d:
    layer = conv()
    layer.stride = (2, 2)
    return layer


class Aten:
    """As BackendBench's own backend."""

    def __getitem__(self, op: object) -> object:
        return op

    def __contains__(self, op: object) -> bool:
        return str(op) in ("aten.mm.default", "aten.addmm.default")


@functools.cache
def problem() -> str:
    """A file with a problem of KernelBench and its solution."""
    path = Path(tempfile.mkdtemp()) / "problem.py"
    path.write_text(
        "import torch\nModel = ModelNew = torch.nn.Linear\n"
        "def get_inputs(): return [torch.ones(2, 3)]\ndef get_init_inputs(): return [3, 2]\n"
    )
    return str(path)


CPU = TorchEager()
ONCE = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=1,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def drawn(strategy: Callable[..., Any]) -> Callable[..., Any]:
    """A strategy together with its first draw, at which it looks at its arguments."""

    def draw(**arguments: Any) -> Any:
        return find(strategy(**arguments), lambda _: True, settings=ONCE)

    return draw


def item() -> laws.Item:
    return laws.items([CPU], laws=["exact"], dtypes=["float32"])[0]


def recipe() -> dict[str, Any]:
    return {
        "feature_shape": (2, 1),
        "out_features": 1,
        "batch_shape": (),
        "x": est.Values("distinct"),
        "weight": est.Values("constant"),
        "bias": None,
        "seed": 0,
        "style": None,
        "gradients": False,
        "dtype": torch.float32,
        "device": "cpu",
    }


def from_recipe(**changed: Any) -> est.Case:
    return est.build_case(est.Recipe(**changed))


def convolution_recipe() -> dict[str, Any]:
    sizes = {"channels": 4, "outputs": 2, "size": (5, 6), "kernel": (3, 3), "groups": 2, "samples": 1}
    steps = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "padding_mode": "zeros"}
    return {**sizes, **steps, "bias": True, "style": "dense", "seed": 0, "dtype": torch.float32, "device": "cpu"}


def from_convolution_recipe(**changed: Any) -> est.Convolution:
    return est.build_convolution(est.ConvolutionRecipe(**changed))


def form() -> dict[str, Any]:
    sizes = {"out_features": 2, "feature_shape": (2, 1, 1), "batch_shape": (2,), "bias": True}
    options = {"lay_input": None, "lay_weight": None, "order_limit": 4, "keep": False}
    return {"backend": CPU, "form": "full", "dtype": torch.float32, **sizes, **options}


def certified() -> dict[str, Any]:
    return {
        "candidate": conv(),
        "reference": linear(),
        "feature_shape": (3, 2, 2),
        "in_features": None,
        "method": "auto",
        "error_probability": 1e-12,
        "seed": 0,
        "dtype": None,
        "device": None,
        "chunk_bytes": 2**20,
        "progress": None,
    }


def run() -> report.Run:
    return report.Run.of(report.Request(), [], planned=[], jobs=1, seconds=0.0)


SCRATCH = tempfile.TemporaryDirectory(prefix="equiv-right-calls-")


def report_file() -> str:
    path = f"{SCRATCH.name}/run.json"
    report.write_run(run(), {"json": path})
    return path


CHOICE: dict[str, Any] = {"laws": ["exact"], "forms": ["linear"], "dtypes": ["float32"]}
HOW: dict[str, Any] = {"profile": "dev", "examples": 1, "seed": 1, "arithmetic": "declared"}

USES = (
    *right_numerics.USES,
    Use(
        "equiv.linear_to_full_conv",
        equiv.linear_to_full_conv,
        lambda: {"linear": linear(), "feature_shape": (3, 2, 2), "share": False},
    ),
    Use(
        "equiv.linear_to_pointwise_conv",
        equiv.linear_to_pointwise_conv,
        lambda: {"linear": linear(), "spatial_dims": 2, "share": False},
    ),
    Use(
        "equiv.linear_to_full_conv_transpose",
        equiv.linear_to_full_conv_transpose,
        lambda: {"linear": projection(), "feature_shape": (5, 2, 2), "share": False},
    ),
    Use(
        "equiv.linear_to_pointwise_conv_transpose",
        equiv.linear_to_pointwise_conv_transpose,
        lambda: {"linear": linear(), "spatial_dims": 2, "share": False},
    ),
    Use(
        "equiv.conv_to_linear",
        equiv.conv_to_linear,
        lambda: {"conv": conv(), "feature_shape": (3, 4, 4), "share": False},
    ),
    Use("equiv.to_feature_map", equiv.to_feature_map, lambda: {"x": x(), "feature_shape": (3, 2, 2)}),
    Use(
        "equiv.to_fully_convolutional",
        equiv.to_fully_convolutional,
        lambda: {"model": classifier(), "example_input": torch.zeros(1, 3, 5, 5), "padding": "keep"},
    ),
    Use("equiv.to_patch_linear", equiv.to_patch_linear, lambda: {"conv": patches()}),
    Use("equiv.to_channels", equiv.to_channels, lambda: {"x": x(), "spatial_dims": 2}),
    Use(
        "equiv.counterexample",
        equiv.counterexample,
        lambda: {"linear": linear(), "feature_shape": (3, 2, 2), "readout": None},
    ),
    Use(
        "equiv.compare",
        equiv.compare,
        lambda: {
            "actual": y(),
            "expected": y(),
            "input": None,
            "weight": None,
            "bias": None,
            "layer": None,
            "arithmetic": None,
            "rtol": None,
            "atol": None,
        },
    ),
    Use(
        "equiv.compare",
        equiv.compare,
        lambda: {
            "actual": y(),
            "expected": y(),
            "input": x(),
            "layer": linear(),
            "arithmetic": None,
            "rtol": None,
            "atol": None,
        },
    ),
    Use(
        "equiv.compare",
        equiv.compare,
        lambda: {"actual": y(), "expected": y(), "input": x(), "weight": weight(), "bias": bias()},
    ),
    Use("equiv.compare", equiv.compare, lambda: {"actual": y(), "expected": y(), "input": x(), "layer": conv()}),
    Use(
        "equiv.assert_equivalent",
        equiv.assert_equivalent,
        lambda: {
            "candidate": conv(),
            "reference": linear(),
            "input": x(),
            "feature_shape": None,
            "seed": 0,
            "rtol": None,
            "atol": None,
        },
    ),
    Use(
        "equiv.assert_equivalent",
        equiv.assert_equivalent,
        lambda: {"candidate": conv(), "reference": linear(), "input": None, "feature_shape": (3, 2, 2), "seed": 0},
    ),
    Use(
        "equiv.diagnose",
        lambda candidate, reference, x, match, kwargs: equiv.diagnose(
            candidate, reference, x, match=match, kwargs=kwargs
        ),
        lambda: {
            "candidate": linear(),
            "reference": torch.nn.Sequential(linear(), torch.nn.Identity()),
            "x": x(),
            "match": {"": "0"},
            "kwargs": {},
        },
    ),
    Use(
        "equiv.to_pointwise",
        equiv.to_pointwise,
        lambda: {"model": torch.nn.Sequential(linear()), "only": "0", "example_inputs": x()},
    ),
    Use(
        "equiv.to_linear",
        equiv.to_linear,
        lambda: {"model": torch.nn.Sequential(conv()), "example_inputs": x().view(5, 3, 2, 2)},
    ),
    Use("equiv.certify", equiv.certify, certified),
    Use(
        "equiv.certify",
        equiv.certify,
        lambda: {
            "candidate": lambda x: x @ weight().T,
            "reference": lambda x: x @ weight().T,
            "in_features": 12,
            "dtype": torch.float32,
        },
    ),
    Use(
        "equiv.Verdict",
        equiv.Verdict,
        lambda: {"outcome": equiv.Outcome.IDENTICAL, "explanation": "same", "dtype": "float32", "shape": (5, 5)},
    ),
    Use("equiv.mapping.check_conv", check_conv, lambda: {"conv": conv()}),
    Use("equiv.mapping.check_linear", check_linear, lambda: {"linear": linear()}),
    Use("equiv.mapping.check_feature_shape", check_feature_shape, lambda: {"feature_shape": (3, 2, 2)}),
    Use(
        "equiv.mapping.check_conv_transpose",
        check_conv_transpose,
        lambda: {"conv": equiv.linear_to_pointwise_conv_transpose(linear())},
    ),
    Use("equiv.causes.name_misrounding", name_misrounding, lambda: {"actual": y(), **layer(), "arithmetic": None}),
    Use(
        "equiv.causes.sliding_cause",
        sliding_cause,
        lambda: {"actual": torch.ones(2, 5, 3, 3), "conv": conv(), "x": torch.ones(2, 3, 4, 4), "expected": None},
    ),
    Use("equiv.causes.likely_cause", likely_cause, lambda: {"actual": 2 * y(), **layer(feature_shape=(3, 2, 2))}),
    Use(
        "equiv.causes.name_cause",
        name_cause,
        lambda: {
            "candidate_weight": -weight(),
            "reference_weight": weight(),
            "feature_shape": (3, 2, 2),
            "candidate_bias": bias(),
            "reference_bias": 2 * bias(),
        },
    ),
    Use(
        "equiv.causes.name_output_cause",
        name_output_cause,
        lambda: {
            "actual": 2 * y(),
            "expected_exact": y().double(),
            **layer(feature_shape=(3, 2, 2), bound=torch.full((5, 5), 1e-3)),
        },
    ),
    Use("equiv.backends.TorchEager", TorchEager, lambda: {"device": "cpu"}),
    Use("equiv.backends.load_backend", load_backend, lambda: {"text": "numpy"}),
    Use("equiv.backends.measure_form", measure_form, form),
    Use("equiv.strategies.all_layouts", est.all_layouts, lambda: {"ndim": 2, "dtype": torch.float32}),
    Use(
        "equiv.strategies.batch_shapes",
        drawn(est.batch_shapes),
        lambda: {"min_dims": 0, "max_dims": 2, "max_side": 4, "max_rows": 4, "allow_empty": True},
    ),
    Use(
        "equiv.strategies.build_layer",
        est.build_layer,
        lambda: {"weight": torch.ones(2, 3), "bias": torch.ones(2), "requires_grad": True},
    ),
    Use("equiv.strategies.build_case", est.build_case, lambda: {"recipe": est.Recipe(**recipe())}),
    Use("equiv.strategies.Recipe", from_recipe, recipe),
    Use(
        "equiv.strategies.build_convolution",
        est.build_convolution,
        lambda: {"recipe": est.ConvolutionRecipe(**convolution_recipe())},
    ),
    Use("equiv.strategies.ConvolutionRecipe", from_convolution_recipe, convolution_recipe),
    Use(
        "equiv.strategies.convolutions",
        drawn(est.convolutions),
        lambda: {"dtype": torch.float32, "device": "cpu", "spatial_dims": (1, 2), "max_work": 4096},
    ),
    Use(
        "equiv.strategies.Recipe",
        from_recipe,
        lambda: {**recipe(), "x": est.Values("probe"), "weight": est.Values("probe"), "style": "dense"},
    ),
    Use(
        "equiv.strategies.cases",
        drawn(est.cases),
        lambda: {
            "dtype": torch.float32,
            "device": "cpu",
            "spatial_dims": (1, 2),
            "max_features": 8,
            "max_out": 4,
            "max_rows": 4,
            "max_work": 4096,
            "min_positions": 1,
            "batch_dims": (0, 2),
            "allow_empty": True,
            "bias": None,
            "kinds": None,
            "exact": False,
            "gradients": False,
            "layouts": False,
        },
    ),
    Use(
        "equiv.strategies.broadcastable_shapes",
        drawn(est.broadcastable_shapes),
        lambda: {"shape": (2, 3), "min_dims": 0, "max_dims": 3, "min_side": 1, "max_side": 4},
    ),
    Use(
        "equiv.strategies.mutually_broadcastable_shapes",
        drawn(est.mutually_broadcastable_shapes),
        lambda: {"num_shapes": 2, "base_shape": (2,), "min_dims": 0, "max_dims": 3, "min_side": 1, "max_side": 4},
    ),
    Use("equiv.strategies.devices", drawn(est.devices), lambda: {"kinds": None}),
    Use("equiv.strategies.dtypes", drawn(est.dtypes), lambda: {"kinds": ("float",), "device": "cpu"}),
    Use(
        "equiv.strategies.feature_shapes",
        drawn(est.feature_shapes),
        lambda: {"spatial_dims": (1, 2), "max_features": 8, "min_positions": 1},
    ),
    Use("equiv.strategies.kinds_for", est.kinds_for, lambda: {"dtype": torch.float32}),
    Use(
        "equiv.strategies.layers",
        drawn(est.layers),
        lambda: {
            "in_features": 2,
            "out_features": 3,
            "dtype": torch.float32,
            "device": "cpu",
            "bias": None,
            "kinds": None,
            "requires_grad": None,
        },
    ),
    Use("equiv.strategies.layouts", drawn(est.layouts), lambda: {"ndim": 2, "dtype": torch.float32, "kinds": None}),
    Use(
        "equiv.strategies.tensors",
        drawn(est.tensors),
        lambda: {
            "shape": (2, 3),
            "dtype": torch.float32,
            "device": "cpu",
            "kinds": None,
            "layouts": False,
            "requires_grad": False,
        },
    ),
    Use(
        "equiv.strategies.Layout",
        lambda t, kind, variant: est.Layout(kind, variant).apply(t),
        lambda: {"kind": "step", "variant": 0, "t": x()},
    ),
    Use(
        "equiv.strategies.Values",
        lambda shape, dtype, device, **of: est.Values(**of).tensor(shape, dtype, device),
        lambda: {
            "kind": "normals",
            "seed": 1,
            "window": est.Window(),
            "edits": ((1, 2.0),),
            "shape": (2, 3),
            "dtype": torch.float32,
            "device": "cpu",
        },
    ),
    Use(
        "equiv.strategies.Window",
        lambda **of: est.Values("normals", window=est.Window(**of)).tensor((9,), torch.float32),
        lambda: {"end": 5, "length": 4, "ends": 1},
    ),
    Use(
        "equiv.laws.check_case",
        laws.check_case,
        lambda: {
            "law": "exact",
            "case": from_recipe(
                **{**recipe(), "x": est.Values("probe"), "weight": est.Values("probe"), "style": "dense"}
            ),
            "backend": CPU,
            "forms": ["linear"],
        },
    ),
    Use("equiv.laws.items", laws.items, lambda: {"backends": [CPU], **CHOICE}),
    Use(
        "equiv.laws.law",
        laws.law,
        lambda: {
            "number": 99,
            "title": "none",
            "draw": lambda _: None,
            "forms": ("linear",),
            "kinds": ("float",),
            "weight": 1.0,
            "needs_torch": False,
        },
    ),
    Use("equiv.laws.profile_of", laws.profile_of, lambda: {"name": "dev"}),
    Use(
        "equiv.laws.run_item",
        laws.run_item,
        lambda: {"item": item(), **HOW, "expected": None},
    ),
    Use("equiv.testing.Check", testing.Check, lambda: {"item": item()}),
    Use(
        "equiv.testing.check_backend",
        testing.check_backend,
        lambda: {"backend": CPU, **CHOICE, **HOW, "expected_failures": None},
    ),
    Use(
        "equiv.testing.check_kernel",
        testing.check_kernel,
        lambda: {
            "candidate": torch.nn.functional.linear,
            "like": "linear",
            "device": "cpu",
            "dtypes": ["float32"],
            "laws": ["exact"],
            "profile": "dev",
            "examples": 1,
            "seed": 1,
            "arithmetic": "declared",
            "capabilities": Capabilities(gradient_order=0),
        },
    ),
    Use(
        "equiv.testing.check_kernel",
        testing.check_kernel,
        lambda: {
            "candidate": torch.nn.functional.linear,
            "like": linear(),
            "inputs": [torch.ones(2, linear().in_features)],
            "laws": ["values", "purity"],
        },
    ),
    Use(
        "equiv.testing.parametrize_kernel",
        testing.parametrize_kernel,
        lambda: {"candidate": torch.nn.functional.linear, "like": linear()},
    ),
    Use(
        "equiv.testing.backendbench_kernels", testing.backendbench_kernels, lambda: {"backend": Aten(), "device": "cpu"}
    ),
    Use(
        "equiv.testing.kernelbench_problem",
        testing.kernelbench_problem,
        lambda: {"solution": problem(), "problem": problem(), "device": "cpu", "seed": 1},
    ),
    Use(
        "equiv.testing.Kernels",
        testing.Kernels,
        lambda: {
            "linear": CPU.linear,
            "conv1d": CPU.conv,
            "conv2d": CPU.conv,
            "conv3d": CPU.conv,
            "name": "mine",
            "device": "cpu",
            "capabilities": Capabilities(stride=True),
        },
    ),
    Use("equiv.testing.checks", testing.checks, lambda: {"backend": CPU, **CHOICE}),
    Use("equiv.testing.devices_under_test", testing.devices_under_test, dict),
    Use(
        "equiv.testing.parametrize_with_laws",
        testing.parametrize_with_laws,
        lambda: {
            "backend": CPU,
            **CHOICE,
            "expected_failures": None,
            "skips": {"exact": "not ours"},
            "strict": True,
            **HOW,
        },
    ),
    Use(
        "equiv.testing.faults.find",
        faults.find,
        lambda: {
            "fault": "pairwise",
            "profile": "dev",
            "seed": 1,
            "examples": 1,
            "laws": ["exact"],
            "dtypes": ["float32"],
        },
    ),
    Use("equiv.testing.faults.inject", faults.inject, lambda: {"name": "bias-doubled"}),
    *right_pictures.USES,
    Use("equiv.report.check_target", report.check_target, lambda: {"target": "-", "option": "--json"}),
    Use("equiv.report.check_targets", report.check_targets, lambda: {"targets": {"json": "-"}}),
    Use("equiv.report.ratio_text", report.ratio_text, lambda: {"ratio": 0.5}),
    Use("equiv.report.schema", report.schema, dict),
    Use("equiv.report.summary_lines", report.summary_lines, lambda: {"run": run()}),
    Use(
        "equiv.report.table_lines",
        report.table_lines,
        lambda: {"columns": ("a", "b"), "rows": [("1", "2")], "width": 80, "left": 1, "gap": 2},
    ),
    Use("equiv.report.annotations_of", report.annotations_of, lambda: {"run": run(), "root": ".", "otherwise": "a.py"}),
    Use("equiv.report.read_run", report.read_run, lambda: {"path": report_file(), "argument": "path"}),
    Use("equiv.report.write_json", report.write_json, lambda: {"payload": {}, "target": "-", "option": "--json"}),
    Use("equiv.report.write_run", report.write_run, lambda: {"run": run(), "targets": {"json": "-"}}),
)


def public_names() -> Iterator[tuple[str, Any]]:
    """Every name in the ``__all__`` of a face, with what it stands for."""
    for face in FACES:
        module = importlib.import_module(face)
        yield from ((f"{face}.{name}", getattr(module, name)) for name in module.__all__)
