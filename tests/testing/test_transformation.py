"""Transformations of ONNX graphs: right ones pass, and a planted fault is named with the graphs that it spoils."""

from __future__ import annotations

import warnings

import pytest
import torch

from equiv.errors import EquivError

onnx = pytest.importorskip("onnx", reason="needs the extra onnxruntime")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")

from onnx import numpy_helper  # noqa: E402

from equiv import Outcome  # noqa: E402
from equiv.testing import TransformationBroken, check_transformation  # noqa: E402
from equiv.testing.graphs import BUILDERS, graph, graphs  # noqa: E402


def optimized(level):
    """ONNX Runtime's own optimizer."""

    def transform(path):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = f"{path}.optimized"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return options.optimized_model_filepath

    return transform


def edited(name, change):
    """A transformation that changes a constant in place, and returns nothing."""

    def transform(model):
        for one in model.graph.initializer:
            if one.name == name:
                one.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(one)).copy(), name))

    return transform


def _broken(after, **options):
    with pytest.raises(TransformationBroken) as caught:
        check_transformation(None, after, **options)
    return caught.value


def _names(error):
    return {one.graph.removesuffix("-integers") for one in error.broken}


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_the_optimizer_of_onnxruntime_keeps_every_graph(level):
    results = check_transformation(None, optimized(level), by_path=True)
    assert len(results) == len(graphs())
    assert {one.outcome for one in results} <= {Outcome.IDENTICAL, Outcome.ROUNDING}


@pytest.mark.slow
def test_onnxslim_and_onnxsim_keep_every_graph():
    slim = pytest.importorskip("onnxslim", reason="an optimizer to be tried")
    sim = pytest.importorskip("onnxsim", reason="an optimizer to be tried")
    assert all(not one.problem for one in check_transformation(None, slim.slim))
    assert all(not one.problem for one in check_transformation(None, sim.simplify))


@pytest.mark.slow
def test_the_exporter_of_torch_keeps_modules():
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")

    def export(module, x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own exporter
            return torch.onnx.export(module, (x,), dynamo=True, verbose=False)

    names = ["gemm", "gemm-and-batch-norm", "full-conv-between-reshapes", "padded-conv"]
    assert len(check_transformation(export, None, names=names)) == 7


def test_a_dropped_bias_is_found_in_every_graph_that_has_one():
    error = _broken(edited("bias", lambda b: 0 * b))
    assert _names(error) == set(BUILDERS) - {"conv-without-bias-and-batch-norm"}
    assert "the bias is dropped" in str(error)
    assert error.broken[0].side == "after"


def test_a_transposed_weight_is_found_where_it_has_the_same_shape():
    error = _broken(edited("weight", lambda w: w.T if w.ndim == 2 and w.shape[0] == w.shape[1] else w))
    assert _names(error) == {"square-gemm"}
    assert "square-gemm: after the transformation, DIFFERENT" in str(error)
    assert "the weight (7, 7) is transposed" in str(error)


@pytest.mark.parametrize("name", ["gemm-and-batch-norm", "conv-and-batch-norm", "conv-without-bias-and-batch-norm"])
def test_a_wrong_fold_is_found(name):
    def forgets_the_mean(model):
        for one in model.graph.initializer:
            if one.name == "mean":
                one.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(one), "mean"))

    def takes_another_epsilon(model):
        for node in model.graph.node:
            for one in node.attribute:
                if one.name == "epsilon":
                    one.f = 1e-4

    assert _names(_broken(forgets_the_mean, names=[name])) == {name}
    assert "eps 0.0001 instead of 1e-05" in " ".join(str(_broken(takes_another_epsilon, names=[name])).split())


def test_a_right_fold_passes():
    def fold(model):
        held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        conv, norm = model.graph.node
        factor = held["scale"] / (held["var"] + norm.attribute[0].f) ** 0.5
        weight = held["weight"] * factor.reshape(-1, 1, 1, 1)
        bias = (held["bias"] - held["mean"]) * factor + held["shift"]
        del model.graph.initializer[:]
        for name, value in (("weight", weight), ("bias", bias)):
            model.graph.initializer.append(numpy_helper.from_array(value.astype("float32"), name))
        conv.output[0] = "y"
        model.graph.node.remove(norm)

    (result,) = check_transformation(None, fold, names=["conv-and-batch-norm"])
    assert result.outcome is Outcome.ROUNDING
    assert not result.identical


def test_weights_kept_in_float16_are_found_and_not_taken_for_rounding():
    error = _broken(edited("weight", lambda w: w.astype("float16").astype("float32") if w.dtype == "f4" else w))
    assert "quantized-gemm" not in _names(error)
    assert len(_names(error)) == len(BUILDERS) - 2
    assert not any(one.graph.endswith("-integers") for one in error.broken)


def test_a_wrong_scale_is_found_in_quantized_graphs():
    assert _names(_broken(edited("y_scale", lambda s: 2 * s))) == {"quantized-gemm", "quantized-conv"}


def test_what_raises_or_returns_nothing_useful_is_named():
    def fails(model):
        raise RuntimeError("no such operator")

    assert "gemm: after the transformation, RuntimeError is raised: no such operator" in str(
        _broken(fails, names=["gemm"])
    )
    assert "expected an onnx.ModelProto, its bytes or the path of its file, got 3" in str(
        _broken(lambda _: 3, names=["gemm"])
    )

    def loses_a_constant(model):
        del model.graph.initializer[:]

    assert "ONNX Runtime raises" in str(_broken(loses_a_constant, names=["gemm"]))

    def another_shape(model):
        model.graph.node[-1].output[0] = "flat"
        model.graph.node.append(onnx.helper.make_node("Transpose", ["flat"], ["y"]))

    assert "it returns torch.float32 of shape (7, 6), expected torch.float32 of shape (6, 7)" in str(
        _broken(another_shape, names=["gemm"])
    )


def test_the_models_of_the_caller_stay_as_they_are(tmp_path):
    given = graph("gemm")
    before = given.model.SerializeToString()
    with pytest.raises(TransformationBroken):
        check_transformation(given.model, edited("bias", lambda b: b + 1), layer=given.layer, inputs=given.inputs)
    assert given.model.SerializeToString() == before


@pytest.mark.parametrize("name", ["matmul-and-add", "padded-conv", "full-conv-between-reshapes", "quantized-gemm"])
def test_one_model_by_its_path_or_with_another_that_was_made_of_it(name, tmp_path):
    model = graph(name).model
    onnx.save(model, tmp_path / "mine.onnx")
    if name == "quantized-gemm":  # which is not affine
        with pytest.raises(EquivError, match=r"layer: expected the torch module that mine computes, got None"):
            check_transformation(tmp_path / "mine.onnx", lambda m: m)
        return
    (result,) = check_transformation(tmp_path / "mine.onnx", lambda m: m)
    assert result.graph == "mine"
    assert result.identical
    wrong = type(model)()
    wrong.CopyFrom(model)
    edited("bias", lambda b: 2 * b)(wrong)
    with pytest.raises(TransformationBroken, match="DIFFERENT"):
        check_transformation(model, wrong)


def test_a_fault_before_the_transformation_is_not_laid_on_it():
    def wrong(model):
        edited("bias", lambda b: 0 * b)(model)

    with pytest.raises(TransformationBroken) as caught:
        check_transformation(wrong, lambda m: m, names=["pointwise-conv"])
    assert {one.side for one in caught.value.broken} == {"before"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(EquivError, match="after: expected a function of an ONNX model, got None"):
        check_transformation(None, None)
    with pytest.raises(EquivError, match="after: expected a function of an ONNX model, got 3"):
        check_transformation(None, 3)
    with pytest.raises(EquivError, match="names"):
        check_transformation(None, lambda m: m, names=["gem"])
    with pytest.raises(EquivError, match="there is no such file here"):
        check_transformation("nowhere.onnx", lambda m: m)


@pytest.mark.parametrize("odd", ["", b"", 0, 1.5, [], object(), torch.ones(2)], ids=repr)
def test_an_odd_argument_ends_in_one_sentence(odd):
    for given in ((odd, None), (odd, lambda m: m), (None, odd)):
        with pytest.raises(EquivError) as caught:
            check_transformation(*given)
        assert len(str(caught.value).splitlines()) == 1
