"""Certificates: one ulp is found and named in every dtype and size, what is not affine is refuted."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import equiv
from equiv import Certificate, EquivError, certify
from equiv.causes import Cause
from equiv.certificate.progress import printed
from equiv.certificate.random_integers import plan

RUN = settings(derandomize=True, database=None, deadline=None, max_examples=25)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
WARNING = "ignore:Complex modules are a new feature"
MAPS = st.tuples(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(lambda t: (t[0], *t[1]))


def layer(n, outputs, dtype=torch.float32, *, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        if not (dtype.is_floating_point or dtype.is_complex):
            return torch.randint(0, 90, shape, generator=g).to(dtype)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return (torch.randn(shape, generator=g, dtype=wide) / 4).to(dtype)

    linear = nn.Linear(n, outputs, bias=bias)
    linear.weight = nn.Parameter(draw(outputs, n), requires_grad=False)
    linear.bias = nn.Parameter(draw(outputs), requires_grad=False) if bias else None
    return linear


def nudge(weight, output, index):
    """Change one entry by one ulp away from zero, in place."""
    flat = weight.data.view(len(weight), -1)
    away = torch.full_like(flat[output, index], math.inf).copysign(flat[output, index])
    flat[output, index] = torch.nextafter(flat[output, index], away)


# --- deterministic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 64, 1024, 4096])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_ulp_in_one_weight_is_found_and_named(dtype, n):
    linear = layer(n, 8, dtype, seed=n)
    conv = equiv.linear_to_full_conv(linear, (n // 4, 2, 2))
    assert certify(conv, linear, method="deterministic")
    for trial in range(3):
        output, index = (7 * trial + n) % 8, (1237 * trial + n // 3) % n
        wrong = copy.deepcopy(conv)
        nudge(wrong.weight, output, index)
        found = certify(wrong, linear, method="deterministic")
        assert not found.equivalent
        assert [(d.output, d.input) for d in found.differences] == [(output, index)]
        assert found.differences[0].candidate == wrong.weight.view(8, -1)[output, index].item()
        assert found.differences[0].reference == linear.weight[output, index].item()


@pytest.mark.filterwarnings(WARNING)
@RUN
@given(shape=MAPS, outputs=st.integers(1, 5), dtype=st.sampled_from(FLOATS + COMPLEX + INTS[:4]), data=st.data())
def test_every_form_is_certified_by_both_methods_and_a_change_is_named(shape, outputs, dtype, data):
    n = math.prod(shape)
    linear = layer(n, outputs, dtype, bias=data.draw(st.booleans()))
    full, pointwise = equiv.linear_to_full_conv(linear, shape), equiv.linear_to_pointwise_conv(linear)
    for conv in (full, pointwise):
        for method in ("deterministic", "random"):
            found = certify(conv, linear, method=method)
            assert found, found
            assert found.reason == "equivalent"
            assert len(max(str(found).splitlines(), key=len)) <= 80
            json.dumps(found.to_dict())
    output, index = data.draw(st.integers(0, outputs - 1)), data.draw(st.integers(0, n - 1))
    full.weight.data.view(outputs, n)[output, index] += 1
    for method in ("deterministic", "random"):
        found = certify(full, linear, method=method)
        assert not found
        assert [(d.output, d.input) for d in found.differences] == [(output, index)]


@pytest.mark.parametrize("method", ["deterministic", "random"])
def test_a_general_convolution_is_certified_against_its_dense_layer(method):
    for options in ({"padding": 1}, {"stride": 2, "groups": 2}, {"padding": 1, "padding_mode": "circular"}):
        conv = nn.Conv2d(2, 4, 3, **options)
        linear = equiv.conv_to_linear(conv, (2, 5, 6))
        found = certify(conv, linear, feature_shape=(2, 5, 6), method=method)
        assert found, found
        assert found.method == method
        linear.bias.data[3] += 1
        assert certify(conv, linear, feature_shape=(2, 5, 6), method=method).differences[0][:2] == (3, None)


def test_small_chunks_find_the_same():
    linear = layer(64, 6)
    conv = equiv.linear_to_full_conv(linear, (16, 2, 2))
    nudge(conv.weight, 5, 63)
    whole, parts = certify(conv, linear), certify(conv, linear, chunk_bytes=1)
    assert whole.differences == parts.differences
    assert (whole.scope["batch"], parts.scope["batch"]) == (64, 1)


def test_many_differences_are_counted_and_a_few_are_named():
    linear = layer(48, 10)
    other = equiv.linear_to_full_conv(linear, (3, 4, 4))
    other.weight.data.neg_()
    found = certify(other, linear)
    assert (found.difference_count, len(found.differences)) == (480, 64)
    assert "and 475 more" in str(found)


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("method", ["deterministic", "random"])
def test_the_reason_comes_from_all_differences_not_from_those_that_are_named(as_function, method):
    linear = layer(3, 100)
    other = copy.deepcopy(linear)
    other.bias.data += 1
    candidate = (lambda x: other(x)) if as_function else other
    assert certify(candidate, linear, method=method).reason == "bias differs"
    nudge(other.weight, 99, 2)
    found = certify(candidate, linear, method=method)
    assert all(difference.input is None for difference in found.differences)
    assert (found.reason, found.difference_count) == ("weights differ", 101)


def test_a_subnormal_weight_counts_although_bfloat16_kernels_may_flush_it():
    linear = layer(16, 3, torch.bfloat16)
    linear.weight.data[1, 2] = 1e-39
    conv = equiv.linear_to_pointwise_conv(linear)
    assert certify(conv, linear)
    conv.weight.data[1, 2] = 0
    assert certify(conv, linear).differences[0][:2] == (1, 2)


def test_the_sign_of_zero_is_no_difference_and_modules_stay_as_they_were():
    linear = layer(8, 3)
    linear.weight.data[0] = 0
    conv = equiv.linear_to_pointwise_conv(linear)
    conv.weight.data[0] = -0.0
    before, random = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    pointer, version = conv.weight.data_ptr(), conv.weight._version
    for method in ("deterministic", "random"):
        assert certify(conv, linear, method=method)
    assert all(torch.equal(before[name], value) for name, value in conv.state_dict().items())
    assert (conv.weight.data_ptr(), conv.weight._version) == (pointer, version)
    assert torch.equal(random, torch.get_rng_state())
    assert not conv.weight.is_meta
    assert not conv._forward_hooks


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_bias_hides_nothing_from_a_function_but_in_float16(dtype):
    linear = layer(24, 5, dtype)
    model = nn.Sequential(nn.Flatten(), copy.deepcopy(linear))
    found = certify(model, linear, feature_shape=(24, 1))
    assert found, found
    assert (found.resolution > 0) == (dtype == torch.float16)
    assert ("hides the last bits" in found.explanation) == (dtype == torch.float16)
    for output, index in ((0, 0), (4, 23), (2, 11)):
        wrong = copy.deepcopy(model)
        weight = wrong[1].weight
        weight.data[output, index] = 0.25  # large enough to be seen in float16 as well
        linear.weight.data[output, index] = 0.25
        model[1].weight.data[output, index] = 0.25
        nudge(weight, output, index)
        found = certify(wrong, linear, feature_shape=(24, 1))
        assert [(d.output, d.input) for d in found.differences] == [(output, index)]
        assert found.differences[0].candidate == pytest.approx(0.25, rel=0.02)


def test_a_function_without_parameters_takes_in_features():
    found = certify(lambda x: x.sum(1, keepdim=True), lambda x: x @ torch.ones(7, 1), in_features=7)
    assert found, found
    assert found.probes > 22 + 2048 // 2
    assert str(found).startswith(f"EQUIVALENT, affine as far as {found.probes:,} probes show. All 8 entries")
    assert found.to_dict()["assumed"] == f"affine as far as {found.probes:,} probes show"
    found = certify(lambda x: x.double().sum(1, keepdim=True), lambda x: x @ torch.ones(7, 1), in_features=7)
    assert found.reason == "dtypes differ"


NOT_AFFINE = [
    *(
        nn.ReLU(),
        nn.LeakyReLU(0.9),
        nn.Tanh(),
        nn.Hardtanh(-50, 50),
        nn.Hardtanh(-1e30, 1e30),
        nn.GELU(),
        nn.Softshrink(0.01),
    ),
    *(nn.Softmax(1), nn.LayerNorm(6), nn.BatchNorm1d(6), nn.Sigmoid()),
]


@pytest.mark.parametrize("activation", NOT_AFFINE, ids=repr)
def test_a_non_linearity_is_no_affine_map(activation):
    linear = layer(12, 6)
    state = copy.deepcopy(activation.state_dict())
    for model in (nn.Sequential(linear, activation), lambda x: activation(linear(x))):
        found = certify(model, linear)
        assert not found
        assert found.reason == "not affine"
        assert "candidate is no affine map" in found.explanation
        assert "Certify the layers between the non-linearities one by one" in found.explanation
        assert (found.differences, found.difference_count, found.cause) == ((), 0, None)  # it has no coefficients
        assert certify(linear, model).explanation.startswith("The reference is no affine map")
    if not isinstance(activation, nn.BatchNorm1d):
        assert all(torch.equal(state[name], value) for name, value in activation.state_dict().items())


def test_a_module_in_training_keeps_its_running_statistics():
    model = nn.Sequential(layer(4, 6), nn.BatchNorm1d(6))
    before = copy.deepcopy(model.state_dict())
    assert not certify(model, model[0])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "twist",
    [
        lambda x: x[:, :1] * x[:, 1:2],
        lambda x: x.amax(1, keepdim=True) + x.amin(1, keepdim=True),
        lambda x: torch.relu(x[:, :1] + x[:, 1:2]) - torch.relu(x[:, :1]) - torch.relu(x[:, 1:2]),
    ],
    ids=["product", "maximum", "relu of a sum"],
)
def test_what_no_one_hot_input_shows_is_found_by_sums(twist):
    linear = layer(12, 6)
    assert certify(lambda x: linear(x) + twist(x), linear).reason == "not affine"


def test_integers_are_read_exactly_and_what_is_not_affine_is_found():
    linear = layer(9, 4, torch.int32)
    assert certify(lambda x: F.linear(x, linear.weight, linear.bias), linear)
    assert certify(lambda x: F.linear(x, linear.weight, linear.bias).clamp(min=0), linear).reason == "not affine"
    unsigned = layer(9, 4, torch.uint8)
    assert certify(lambda x: unsigned(x), unsigned)


def test_a_dropout_is_refused():
    linear = layer(64, 8)
    for dropping in (nn.Sequential(linear, nn.Dropout(0.5)), nn.Sequential(nn.Dropout(0.1), linear)):
        with pytest.raises(EquivError, match=r"call \.eval\(\) first"):
            certify(dropping, linear)
    assert certify(nn.Sequential(linear, nn.Dropout(0.5)).eval(), linear)


def test_affine_models_of_several_layers_are_not_called_not_affine():
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 5))
    assert certify(model, copy.deepcopy(model), in_features=20)
    merged = nn.Linear(20, 5)
    merged.weight.data = model[2].weight @ model[1].weight @ model[0].weight
    merged.bias.data = model(torch.zeros(20)).detach()
    found = certify(model, merged)
    assert found.reason == "weights differ"  # by roundings, but not the same function
    assert all(abs(d.candidate - d.reference) < 1e-6 for d in found.differences)


# --- random -----------------------------------------------------------------------------------------------------------


def swapped(weight):
    """As a kernel would that exchanges two terms of one output."""
    weight = weight.clone()
    weight[1, 0], weight[1, 5] = weight[1, 5].clone(), weight[1, 0].clone()
    return weight


FAULTS = {
    "drops the last term": lambda x, w, b: F.linear(x[:, :-1], w[:, :-1], b),
    "exchanges two weights": lambda x, w, b: F.linear(x, swapped(w), b),
    "drops the bias": lambda x, w, _: F.linear(x, w),
    "doubles the bias of one output": lambda x, w, b: F.linear(x, w, b * torch.tensor([1.0, 2.0, 1.0]).to(b.dtype)),
    "negates one input": lambda x, w, b: F.linear(torch.cat([-x[:, :1], x[:, 1:]], 1), w, b),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_wrong_kernel_is_found_by_random_integers(fault, dtype, monkeypatch):
    linear = layer(12, 3, dtype)
    conv = equiv.linear_to_full_conv(linear, (3, 2, 2))
    right = F.linear

    def broken(x, w, b=None):
        monkeypatch.setattr(F, "linear", right)
        try:
            return FAULTS[fault](x, w, b)
        finally:
            monkeypatch.setattr(F, "linear", broken)

    monkeypatch.setattr(F, "linear", broken)
    found = certify(conv, linear, method="random")
    assert not found
    assert found.reason == "kernels differ"
    assert found.method == "random"
    expected = {
        "drops the last term": [(0, 11), (1, 11), (2, 11)],
        "exchanges two weights": [(1, 0), (1, 5)],
        "negates one input": [(0, 0), (1, 0), (2, 0)],
        "drops the bias": [(0, None), (1, None), (2, None)],
    }.get(fault, [(1, None)])
    assert found.differences[0][:2] in expected


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX + (torch.int32,), ids=str)
@pytest.mark.parametrize("terms", [1, 48, 4096, 25088])
def test_a_plan_keeps_what_it_promises(dtype, terms):
    for wanted in (1e-3, 1e-12):
        found = plan(terms, dtype, torch.device("cpu"), 1, wanted)
        assert found is not None
        assert found.error_probability <= wanted
        assert found.miss >= 1 / (2 * found.weight + 1)
        assert found.weight <= 2 ** {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}.get(dtype, 53)


def test_the_error_probability_asked_for_is_met_and_reported():
    linear = layer(40, 4)
    conv = equiv.linear_to_full_conv(linear, (10, 2, 2))
    few, many = (certify(conv, linear, method="random", error_probability=p) for p in (0.01, 1e-30))
    assert 0 < few.error_probability <= 0.01
    assert 0 < many.error_probability <= 1e-30
    assert few.probes < many.probes
    assert f"{many.error_probability:.1e}" in str(many)


def test_weights_of_any_layout_are_probed_as_they_lie():
    linear = layer(48, 6)
    conv = equiv.linear_to_full_conv(linear, (3, 4, 4))
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    linear.weight = nn.Parameter(linear.weight.data.T.contiguous().T)
    found = certify(conv, linear, method="random")
    assert found, found
    assert found.scope["candidate"].startswith("Conv2d strides")
    shared = nn.Linear(48, 6)
    shared.weight = nn.Parameter(linear.weight.data[:1].expand(6, 48))
    assert certify(equiv.linear_to_full_conv(shared, (3, 4, 4)), shared, method="random")


@pytest.mark.parametrize("method", ["deterministic", "random"])
def test_defaults_of_the_caller_change_nothing(method):
    linear = layer(48, 6)
    conv = equiv.linear_to_full_conv(linear, (3, 4, 4))
    expected = certify(conv, linear, method=method).to_dict()
    with torch.device("meta"), torch.inference_mode():
        assert certify(conv, linear, method=method).to_dict() == expected
        if method == "deterministic":
            assert certify(lambda x: linear(x), linear)


def test_auto_reads_small_layers_and_probes_large_ones(monkeypatch):
    linear = layer(48, 6)
    conv = equiv.linear_to_full_conv(linear, (3, 4, 4))
    assert certify(conv, linear).method == "deterministic"
    monkeypatch.setattr("equiv.certificate.run._CHEAP", 1)
    assert certify(conv, linear).method == "random"


def test_random_falls_back_and_says_so():
    linear = layer(12, 3)
    found = certify(lambda x: linear(x), linear, method="random")
    assert found.method == "deterministic"
    assert "Random probes were asked for, and not used" in found.explanation
    tiny = layer(200, 3, torch.int8)
    assert "too narrow" in certify(equiv.linear_to_pointwise_conv(tiny), tiny, method="random").explanation
    one, two = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    two.load_state_dict(one.state_dict())
    assert not certify(one, two, feature_shape=(1, 4, 4), method="random")


# --- progress and resume ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deterministic", "random"])
def test_a_stopped_certificate_goes_on_where_it_was(method):
    linear = layer(32, 4)
    conv = equiv.linear_to_full_conv(linear, (8, 2, 2))
    options = {"method": method, "chunk_bytes": 1200}
    steps = []
    whole = certify(conv, linear, progress=lambda done, total, _: steps.append((done, total)), **options)
    assert whole
    assert steps[-1][0] == steps[-1][1]
    part = certify(conv, linear, progress=lambda *_: False, **options)
    assert not part
    assert part.reason == "not finished"
    assert 0 < part.probes < whole.probes
    rest = certify(conv, linear, resume=saved(part.state), **options)
    assert rest
    assert (rest.probes, rest.error_probability) == (whole.probes, whole.error_probability)


def saved(state):
    """As it is after ``torch.save`` and ``torch.load``."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def stopped_after(chunks, candidate, reference):
    states = []

    def stop(_done, _total, state):
        states.append(state)
        return len(states) < chunks

    certify(candidate, reference, chunk_bytes=4000, progress=stop)
    return states


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_a_resumed_reading_keeps_differences_and_sums(dtype):
    linear = layer(32, 4, dtype)
    other = copy.deepcopy(linear)
    other.weight.data[2, 3] += 1
    product = (lambda x: linear(x) + x[:, :1] * x[:, -1:]) if dtype == torch.float32 else (lambda x: linear(x))
    for candidate in (product, lambda x: other(x)):
        whole = certify(candidate, linear, chunk_bytes=4000)
        states = stopped_after(4, candidate, linear)
        again = certify(candidate, linear, chunk_bytes=4000, resume=saved(states[-1]))
        assert len(states) == 4
        assert again.to_dict() == whole.to_dict()


def test_a_state_of_other_layers_is_refused():
    linear = layer(32, 4)
    conv = equiv.linear_to_full_conv(linear, (8, 2, 2))
    for method in ("deterministic", "random"):
        state = certify(conv, linear, method=method).state
        other = layer(32, 4, seed=1) if method == "deterministic" else layer(32, 5)
        same = equiv.linear_to_full_conv(other, (8, 2, 2))
        with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
            certify(same, other, method=method, resume=state)
        with pytest.raises(EquivError, match=r"resume: expected a state of the \w+ method"):
            certify(conv, linear, method="random" if method == "deterministic" else "deterministic", resume=state)
    state = certify(conv, linear).state
    with pytest.raises(EquivError, match="do not match its digest"):
        certify(conv, linear, resume={**state, "differences": 3})
    with pytest.raises(EquivError, match="resume: expected the state of a certificate"):
        certify(conv, linear, resume={"next": 3})


class StopError(Exception):
    """As a Ctrl-C at a bad moment."""


@pytest.mark.parametrize("method", ["deterministic", "random"])
@pytest.mark.parametrize("how", [KeyboardInterrupt, StopError])
def test_an_interrupted_certificate_goes_on_from_its_checkpoint(method, how, tmp_path):
    linear = layer(32, 4)
    conv = equiv.linear_to_full_conv(linear, (8, 2, 2))
    file = tmp_path / "layer.pt"
    options = {"method": method, "chunk_bytes": 1200, "checkpoint": file}
    steps = []

    def interrupt(done, total, _):
        steps.append(done)
        if done < total:
            raise how

    with pytest.raises(how):
        certify(conv, linear, progress=interrupt, **options)
    assert torch.load(file, weights_only=True)["next"] == steps[-1] > 0
    heard = []
    found = certify(conv, linear, progress=lambda done, *_: heard.append(done), **options)
    assert found
    assert min(heard) > steps[-1]
    whole = certify(conv, linear, method=method, chunk_bytes=1200)
    assert (found.probes, found.error_probability) == (whole.probes, whole.error_probability)
    assert not [*tmp_path.iterdir()]  # complete: the next one starts anew


def test_a_difference_found_before_the_interrupt_is_still_there_after_it(tmp_path):
    linear = layer(32, 4)
    other = copy.deepcopy(linear)
    nudge(other.weight, 2, 3)
    options = {"chunk_bytes": 4000, "checkpoint": str(tmp_path / "layer.pt")}
    certify(lambda x: other(x), linear, progress=lambda done, *_: done < 5, **options)
    assert (tmp_path / "layer.pt").exists()
    found = certify(lambda x: other(x), linear, **options)
    assert [(d.output, d.input) for d in found.differences] == [(2, 3)]
    assert found.cause.sentence.startswith("one entry differs: weight[2, 3]")


def test_a_wrong_kernel_found_by_random_integers_is_found_again_by_who_goes_on(monkeypatch):
    linear = layer(32, 4)
    conv = equiv.linear_to_full_conv(linear, (8, 2, 2))
    right = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *a, **k: right(x.clone().index_fill_(1, torch.tensor([7]), 0), *a, **k))
    found = certify(conv, linear, method="random")
    assert found.reason == "kernels differ"
    again = certify(conv, linear, method="random", resume=found.state)
    assert (again.reason, again.differences) == (found.reason, found.differences)


def test_a_checkpoint_is_written_on_the_way(tmp_path, monkeypatch):
    """A process that is killed leaves what it had a second ago."""
    monkeypatch.setattr("equiv.certificate.resume.EVERY", 0.0)
    linear, file = layer(32, 4), tmp_path / "layer.pt"
    seen = []
    assert certify(
        linear,
        linear,
        chunk_bytes=1200,
        checkpoint=file,
        progress=lambda *_: seen.append(torch.load(file, weights_only=True)),
    )
    assert [state["next"] for state in seen] == sorted(state["next"] for state in seen)
    assert len(seen) > 3


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    linear, file = layer(32, 4), tmp_path / "layer.pt"
    options = {"chunk_bytes": 1200, "progress": lambda *_: False, "checkpoint": file}
    certify(linear, linear, **options)
    with pytest.raises(
        EquivError, match=r"^checkpoint: expected the undamaged state of .* in '.*layer.pt', got something else"
    ):
        certify(layer(33, 4), layer(33, 4), **options)
    for text in ("", "[]", '{"version": 1}', "\0"):
        file.write_text(text)
        with pytest.raises(EquivError, match=r"^checkpoint: .* remove this one to start again"):
            certify(linear, linear, **options)
    with pytest.raises(
        EquivError, match=r"checkpoint: expected to write .* No such file or directory; name a file in a folder"
    ):
        certify(linear, linear, checkpoint=tmp_path / "none" / "layer.pt")
    with pytest.raises(EquivError, match="checkpoint: expected the path of a file, got 3"):
        certify(linear, linear, checkpoint=3)
    with pytest.raises(EquivError, match="resume: expected None where checkpoint= is passed"):
        certify(linear, linear, checkpoint=file, resume={"version": 1, "method": "random", "of": "", "next": 0})


def test_progress_is_written_to_standard_error_where_it_is_asked_for(capsys):
    linear = layer(32, 4)
    assert certify(linear, linear, chunk_bytes=1200, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "certify: 32 of 32 (100%)"
    assert certify(linear, linear, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_writes_over_its_line_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    line = printed(out)
    for done in (1, 2, 3):
        line(done, 3, {})
    assert out.getvalue().startswith("\rcertify: 1 of 3 (33%)")
    assert out.getvalue().endswith("certify: 3 of 3 (100%)".ljust(60) + "\n")
    assert max(map(len, out.getvalue().splitlines())) <= 80


# --- causes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deterministic", "random"])
@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda conv: conv.weight.data.copy_(conv.weight.data.flip(3)), "kernel flipped along W"),
        (lambda conv: conv.bias.data.zero_(), "the bias is dropped"),
        (
            lambda conv: conv.weight.data[:, 2:].zero_(),
            "the last 16 of 48 columns are zero: the reduction is cut short",
        ),
    ],
)
def test_the_cause_of_a_difference_is_named(method, as_function, fault, cause):
    linear = layer(48, 7)
    conv = equiv.linear_to_full_conv(linear, (3, 4, 4))
    fault(conv)
    found = certify((lambda x: conv(x)) if as_function else conv, linear, feature_shape=(3, 4, 4), method=method)
    assert not found
    assert found.cause.sentence == cause
    assert f"  cause        {cause}" in str(found)
    assert found.to_dict()["cause"] == {"name": found.cause.name, "sentence": cause, "fix": found.cause.fix}


def test_a_fix_stands_below_its_cause():
    cause = Cause("bias-dropped", "the bias is dropped", "candidate.bias = reference.bias")
    found = Certificate(False, "random", 0, 0.0, "bias differs", "", cause=cause)
    assert "  cause        the bias is dropped\n  fix          candidate.bias = reference.bias" in str(found)
    assert found.to_dict()["cause"] == {"name": cause.name, "sentence": cause.sentence, "fix": cause.fix}
    assert "fix" not in str(dataclasses.replace(found, cause=dataclasses.replace(cause, fix="")))


def test_the_cause_of_a_large_difference_is_named_from_a_sample_first():
    linear = layer(2**14, 2**9)
    conv = equiv.linear_to_full_conv(linear, (256, 8, 8))
    conv.weight.data = conv.weight.data.flip(2).contiguous()
    assert certify(conv, linear, method="random").cause.sentence == "kernel flipped along H"
    conv = equiv.linear_to_full_conv(linear, (256, 8, 8))
    nudge(conv.weight.data.view(2**9, -1), 333, 77)
    assert certify(conv, linear, method="random").cause.sentence.startswith(
        "one entry differs: weight[333, 77], input (1, 1, 5)"
    )
    conv.weight.data.mul_(torch.rand(1, 256, 8, 8))
    assert certify(conv, linear, method="random").cause is None


def test_a_cause_is_not_made_up():
    linear, other = layer(48, 7), layer(48, 7)
    other.weight.data.mul_(torch.rand(7, 48))
    assert certify(other, linear).cause is None
    assert certify(linear, linear).cause is None
    assert "cause" not in str(certify(other, linear))


def test_rows_have_inputs_not_channels():
    linear = layer(12, 7)
    found = certify(lambda x: linear(x[:, [3, 1, 4, 0, 5, 9, 2, 6, 11, 7, 8, 10]]), linear)
    assert found.cause.sentence.startswith("inputs in another order (11 of 12 moved")


# --- printing, misuse -------------------------------------------------------------------------------------------------


def test_a_certificate_reads_well():
    linear = layer(12, 5)
    conv = equiv.linear_to_full_conv(linear, (3, 2, 2))
    nudge(conv.weight, 4, 10)
    found = certify(conv, linear)
    lines = str(found).splitlines()
    assert (
        str(found)
        .replace("\n", " ")
        .startswith("NOT CERTIFIED: weights differ. 1 of 65 entries (12 columns and the bias) differs; it follows.")
    )
    assert any(line.split()[:2] == ["4", "10"] for line in lines)
    assert any(line.startswith("  cause        one entry differs: weight[4, 10]") for line in lines)
    assert any(line.startswith("  scope        dtype float32, device cpu, input 3x2x2") for line in lines)
    assert max(map(len, lines)) <= 80
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["differences"][0]["output"] == 4
    assert isinstance(found, Certificate)


def test_shapes_and_dtypes_that_differ_are_reported():
    assert certify(layer(6, 3), layer(6, 4)).reason == "shapes differ"
    assert certify(layer(6, 3), layer(6, 3).double()).reason == "dtypes differ"
    assert not any(line.strip() == "scope" for line in str(certify(layer(6, 3), layer(6, 3).double())).splitlines())
    assert certify(lambda x: x, layer(6, 3)).reason == "shapes differ"


CONV, LINEAR = nn.Conv2d(3, 5, 2), layer(12, 5)
MISUSE = [
    (lambda: certify(3, LINEAR), "candidate: expected a layer, a module or a function of a batch, got int"),
    (lambda: certify(nn.Linear(12, 5, device="meta"), LINEAR), "candidate: expected values, got a Linear on the meta"),
    (lambda: certify(LINEAR, nn.LazyLinear(5)), "reference: expected initialized parameters, got a lazy LazyLinear"),
    (lambda: certify(abs, abs), "in_features: expected a number of features where neither side is a layer"),
    (lambda: certify(abs, abs, in_features=0), "in_features: expected an integer of at least 1, got 0"),
    (lambda: certify(abs, abs, in_features=True), "in_features: expected an integer of at least 1, got True"),
    (lambda: certify(abs, abs, in_features=5, feature_shape=(3, 2)), "in_features: expected 6"),
    (lambda: certify(abs, abs, in_features=5, dtype=torch.bool), "dtype: expected one of"),
    (lambda: certify(abs, abs, in_features=5, device="meta"), "device: expected a torch device that is present"),
    (lambda: certify(abs, abs, in_features=5, device="abacus"), "device: expected a torch device"),
    (lambda: certify(CONV, LINEAR, feature_shape=12), "feature_shape: expected a tuple"),
    (lambda: certify(CONV, layer(13, 5)), r"feature_shape: expected a product of 13 \(= reference.in_features\)"),
    (lambda: certify(CONV, LINEAR, feature_shape=(12, 1)), r"feature_shape: expected \(3, \*spatial\) with 2 spatial"),
    (lambda: certify(CONV, LINEAR, method="exact"), "method: expected one of auto, deterministic, random, got 'exact'"),
    *[
        (lambda p=p: certify(CONV, LINEAR, error_probability=p), "error_probability: expected a number between 0 and 1")
        for p in (0, 1, 0.0, 1.5, -1e-3, math.nan, "low", True)
    ],
    (lambda: certify(CONV, LINEAR, seed=1.5), "seed: expected an integer, got 1.5"),
    (lambda: certify(CONV, LINEAR, chunk_bytes=0), "chunk_bytes: expected an integer of at least 1, got 0"),
    (lambda: certify(CONV, LINEAR, progress=1), "progress: expected a function"),
    (lambda: certify(lambda x: [x, x], LINEAR), "candidate: expected a function that returns a tensor, got list of 2"),
    (lambda: certify(lambda x: x.sum(), LINEAR), r"candidate: expected a result of shape \(N, ...\)"),
    (lambda: certify(lambda x: x[0], LINEAR), r"candidate: expected a result of shape \(N, ...\)"),
    (lambda: certify(lambda x: x.view(3, 7), LINEAR), "candidate: expected to run on an input of shape"),
    (lambda: certify(lambda x: LINEAR(x) / x.sum(), LINEAR), "candidate: expected finite values at the zero input"),
    (lambda: certify(lambda x: LINEAR(x) / (1 - x[:, :1]), LINEAR), "candidate: expected finite results for one-hot"),
]


@pytest.mark.parametrize(("call", "message"), MISUSE, ids=[f"{i:02}" for i in range(len(MISUSE))])
def test_misuse_is_refused_in_words(call, message):
    with pytest.raises(EquivError, match=message):
        call()


def test_weights_that_are_not_finite_are_refused():
    linear = layer(12, 5)
    linear.weight.data[2, 2] = math.inf
    with pytest.raises(EquivError, match=r"candidate\.weight: expected finite entries, got 1 infinite"):
        certify(equiv.linear_to_full_conv(linear, (3, 2, 2)), linear)
