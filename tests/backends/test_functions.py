"""Functions as they are: sessions of one batch, rank and dtype are asked for what they take, results are unwrapped."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import runtimes
import torch
from torch import nn

import equiv
from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent, certify
from equiv.backends import Function

N, OUT = 12, 5


def layer(n=N, outputs=OUT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(n, outputs).requires_grad_(False)
    for parameter in linear.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return linear


LINEAR, WRONG = layer(), layer()
WRONG.weight[2, 7] = torch.nextafter(WRONG.weight[2, 7], torch.tensor(9.0))
OFF = layer()
OFF.weight[2, 7] += 1

# The shape of a session, and how it is asked.
SHAPES = {
    (1, N): "one row at a time",
    (N,): "one row at a time, shaped (12,)",
    (1, 1, N): "one row at a time, shaped (N, 1, 12)",
    (None, 1, N): "shaped (N, 1, 12)",
    (None, N, 1, 1): "shaped (N, 12, 1, 1)",
    (8, N): "8 rows at a time",
    (3, N): "3 rows at a time",
    (1, 16, N): "16 rows at a time, shaped (1, ",
    (4, 16, N): "64 rows at a time, shaped (4, 16, 12)",
    (None, N): "",
}


def reshaped(make):
    """The runtime with its last dimensions flattened, as a layer of a map of one position has it."""

    def run(linear, shape, *rest):
        session = make(linear, (shape[0], N), *rest)

        def call(x):
            if x.ndim != len(shape) or tuple(x.shape[1:]) != shape[1:]:
                raise ValueError(f"expected {shape}, got {tuple(x.shape)}")
            return session(x.reshape(-1, N))

        return call

    return run


SESSIONS = [
    pytest.param(runtime, shape, id=f"{runtime}-{shape}")
    for runtime in runtimes.RUNTIMES
    for shape in SHAPES
    if runtime != "jax" or None not in shape  # that is compiled for one shape
]


@pytest.mark.parametrize(("runtime", "shape"), SESSIONS)
def test_a_session_is_asked_for_the_shape_that_it_takes(runtime, shape):
    make = runtimes.RUNTIMES[runtime]
    make = reshaped(make) if shape[1:] == (N, 1, 1) else make
    found = certify(make(LINEAR, shape), LINEAR)
    assert found, found
    asked = SHAPES[shape]
    assert asked in found.scope["candidate"] if asked else "candidate" not in found.scope
    wrong = certify(LINEAR, make(WRONG, shape))
    assert [(d.output, d.input) for d in wrong.differences] == [(2, 7)]
    assert_equivalent(make(LINEAR, shape), LINEAR)
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(make(OFF, shape), LINEAR)
    explanation = caught.value.verdict.explanation
    assert caught.value.verdict.outcome is Outcome.DIFFERENT
    assert f"the candidate (asked {asked}" in explanation if asked else "asked" not in explanation


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_two_sessions_are_asked_each_in_its_own_way(runtime):
    make = runtimes.RUNTIMES[runtime]
    found = certify(make(LINEAR, (1, N)), make(LINEAR, (4, N)), in_features=N)
    assert found, found
    assert found.scope["candidate"].startswith("asked one row at a time")
    assert found.scope["reference"].startswith("asked 4 rows at a time")


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (3, 4, 4), (2, 3, 4, 4), (1, 48), (48,)], ids=str)
def test_a_session_of_maps_is_asked_for_the_shape_that_it_takes(shape):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, 3, padding=1).requires_grad_(False)
    other = nn.Conv2d(3, 2, 3, padding=1).requires_grad_(False)
    other.load_state_dict(conv.state_dict())
    other.weight[1, 2, 0, 1] += 1

    def session(conv):
        def run(x):
            if tuple(x.shape) != shape:
                raise RuntimeError(f"Guard failed:\n the input has shape {tuple(x.shape)}, not that of the example")
            return {"y": conv(x.reshape(-1, 3, 4, 4)).numpy()}

        return run

    dense = equiv.conv_to_linear(conv, (3, 4, 4))
    assert certify(session(conv), dense, feature_shape=(3, 4, 4))
    assert certify(session(other), dense, feature_shape=(3, 4, 4)).reason == "weights differ"
    assert_equivalent(session(conv), dense, feature_shape=(3, 4, 4))
    with pytest.raises(NotEquivalent):
        assert_equivalent(session(other), dense, feature_shape=(3, 4, 4))


def test_what_was_learned_is_remembered():
    refused, ran = [], []

    def session(x):
        (ran if x.shape == (7, N) else refused).append(len(ran))
        if x.shape != (7, N):
            raise ValueError("not the batch that this was built for")
        return LINEAR(x)

    assert certify(session, LINEAR)
    assert refused == sorted(refused)
    assert max(refused) == 0  # nothing was refused after the first call that ran
    assert len(refused) < 1000


@pytest.mark.parametrize("size", [1, 2, 5, 9, 16, 31, 64, 100, 256])
def test_a_batch_is_found_without_being_told(size):
    def session(x):
        if x.shape != (size, N):
            raise ValueError("no")
        return x.mul_(2) @ (LINEAR.weight / 2).T + LINEAR.bias  # in place, in memory that is its own

    x = torch.randn(3, N, generator=torch.Generator().manual_seed(0))
    function, before = Function("candidate", session), x.clone()
    assert torch.allclose(function.run(x), LINEAR(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)
    assert function.batch == size


def test_one_row_at_a_time_is_seen_as_one_convolution():
    for seed in range(3):
        torch.manual_seed(seed)
        conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="replicate").requires_grad_(False)
        dense = equiv.conv_to_linear(conv, (1, 4, 4))

        def session(x, conv=conv):
            if len(x) != 1:
                raise AssertionError("Guard failed: input.size()[0] == 1")
            return conv(x)

        found = certify(session, dense, feature_shape=(1, 4, 4))
        assert found, found
        assert "several taps" in found.explanation


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_convolution_of_maps_takes_no_rows_for_channels_or_lines(channels, outputs):
    conv = nn.Conv2d(channels, outputs, 3, padding=1).requires_grad_(False)
    dense = equiv.conv_to_linear(conv, (channels, 4, 4))
    for function in (lambda x: conv(x), nn.Sequential(conv, nn.Flatten(-3))):
        for run in (certify, assert_equivalent):
            with pytest.raises(
                EquivError, match=r"(got RuntimeError|refuses as).*; pass feature_shape= if it takes maps$"
            ):
                run(function, dense)
        assert certify(function, dense, feature_shape=(channels, 4, 4))


def test_a_function_of_sequences_must_keep_their_places_apart():
    def mixing(x):
        if x.ndim != 3 or x.shape[1] == 1:
            raise ValueError("expected (N, T, 12) with T > 1")
        return LINEAR(x - x.mean(1, keepdim=True))

    with pytest.raises(EquivError, match="expected to run on an input of shape"):
        certify(mixing, LINEAR)
    assert certify(lambda x: LINEAR(x) if x.ndim == 3 and x.shape[1] > 1 else raises(ValueError("T"))(x), LINEAR)


class NotSetUp(nn.Module):
    def __init__(self):
        pass


@pytest.mark.parametrize("run", [certify, assert_equivalent])
def test_modules_that_are_not_ready_are_refused_and_stay_as_they_are(run):
    with pytest.raises(EquivError, match=r"^candidate: expected a module that torch has set up, got a NotSetUp that"):
        run(NotSetUp(), LINEAR)
    lazy = nn.Sequential(nn.LazyLinear(OUT))
    with pytest.raises(EquivError, match=r"^candidate: expected initialized parameters, got a lazy Sequential; run it"):
        run(lazy, LINEAR)
    assert isinstance(lazy[0], nn.LazyLinear)
    assert lazy[0].has_uninitialized_params()


@pytest.mark.parametrize("run", [certify, assert_equivalent])
def test_buffers_of_a_module_stay_as_they_are(run):
    module = nn.Sequential(nn.BatchNorm1d(N), LINEAR)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    refused = AssertionError if run is certify else EquivError  # a batch norm that is not in eval mode is no layer
    with pytest.raises(refused):
        assert run(module, LINEAR)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# --- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("runtime", ["onnxruntime", "jax", "exported"])
def test_a_session_of_float32_is_another_arithmetic_than_a_layer_of_sixteen_bits(runtime, dtype):
    linear = layer().to(dtype)
    session = runtimes.RUNTIMES[runtime](linear, (1, N))
    found = certify(session, linear)
    assert found.reason == "dtypes differ"
    assert "the sides return float32 and" in found.explanation
    assert "in float32, which holds all of their values" in found.scope["candidate"]
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(session, linear)
    assert "which holds all of their values) returns float32 for an input of" in caught.value.verdict.explanation


def test_results_in_the_dtype_of_the_layer_are_compared_whatever_was_handed_over():
    linear = layer().to(torch.bfloat16)
    session = runtimes.onnxruntime(linear, (1, N))  # numpy has no bfloat16
    found = certify(lambda x: torch.from_numpy(session(x)[0]).bfloat16(), linear)
    assert found.reason != "dtypes differ"
    assert "in float32" in found.scope["candidate"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "jax", "exported"])
def test_rows_are_never_rounded_for_a_session(runtime):
    double, half = layer().double(), runtimes.RUNTIMES[runtime](layer(), (1, N), torch.float16)
    for call in (lambda: certify(half, LINEAR), lambda: assert_equivalent(half, LINEAR)):
        with pytest.raises(EquivError, match="it takes float16, which does not hold all values of float32: compare it"):
            call()
    session = runtimes.RUNTIMES[runtime](LINEAR, (1, N))
    with pytest.raises(EquivError, match=r"of float64, got .* it takes float32, which does not hold all values of"):
        certify(session, double)


# --- results ----------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "y")
RESULTS = {
    "array": lambda y: y.numpy(),
    "read-only": lambda y: runtimes.Array(y.numpy()),
    "big-endian": lambda y: y.numpy().astype(">f4"),
    "transposed memory": lambda y: np.asfortranarray(y.numpy()),
    "list": lambda y: [y],
    "tuple": lambda y: (y.numpy(),),
    "named tuple": lambda y: Pair(y),
    "dict": lambda y: {"logits": y.numpy()},
    "nested": lambda y: [{"y": (y,)}],
    "parameter": lambda y: nn.Parameter(y),
    "more dimensions": lambda y: y.reshape(len(y), 1, -1, 1),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_a_result_of_one_tensor_is_taken_for_it(kind):
    wrap = RESULTS[kind]
    assert certify(lambda x: wrap(LINEAR(x)), LINEAR)
    assert [d[:2] for d in certify(lambda x: wrap(WRONG(x)), LINEAR).differences] == [(2, 7)]
    assert_equivalent(LINEAR, lambda x: wrap(LINEAR(x)))


REFUSED = {
    "two": (lambda y: [y, y], "got list of 2; return the result alone"),
    "two of a dict": (lambda y: {"a": y, "b": y}, "got dict of 2; return"),
    "none": (lambda y: None, "got NoneType; return"),
    "number": (lambda y: 3.0, "got float; return"),
    "empty": (lambda y: [], "got list of 0; return"),
    "numbers": (lambda y: y.tolist(), "got list of 2; return"),
    "words": (lambda y: np.array(["a", "b"]), "got ndarray, and TypeError: can't convert"),
    "objects": (lambda y: np.array([None, y], dtype=object), "got ndarray, and TypeError: can't convert"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_single_tensor_is_refused_in_words(kind):
    wrap, message = REFUSED[kind]
    with pytest.raises(EquivError) as caught:
        certify(lambda x: wrap(LINEAR(x)), LINEAR)
    assert str(caught.value).startswith(f"candidate: expected a function that returns a tensor, {message}")
    with pytest.raises(EquivError, match=r"^reference: expected a function that returns a tensor, got "):
        assert_equivalent(LINEAR, lambda x: wrap(LINEAR(x)))


def test_results_in_memory_that_is_written_to_again_are_kept_apart():
    memory = {}

    def session(linear):
        def run(x):
            y = linear(x)
            out = memory.setdefault(y.shape, torch.empty_like(y))
            return out.copy_(y)

        return run

    assert certify(session(LINEAR), session(LINEAR), in_features=N)
    assert certify(session(WRONG), session(LINEAR), in_features=N).differences[0][:2] == (2, 7)
    with pytest.raises(NotEquivalent):
        assert_equivalent(session(OFF), LINEAR)


# --- words ------------------------------------------------------------------------------------------------------------


def raises(error):
    def run(x):
        raise error

    return run


@pytest.mark.parametrize("run", [certify, assert_equivalent])
def test_a_message_is_told_whole_and_in_one_line(run):
    session = raises(RuntimeError("first line\n\n  second\tline\x1b[31m of\x00 nine"))
    with pytest.raises(EquivError) as caught:
        run(session, LINEAR)
    said = str(caught.value)
    assert "got RuntimeError: first line second line\\x1b[31m of\\x00 nine; it refuses other batches" in said
    assert said.endswith("; pass feature_shape= if it takes maps")
    with pytest.raises(EquivError) as caught:
        run(session, layer(48), feature_shape=(3, 4, 4))
    assert "feature_shape" not in str(caught.value)
    with pytest.raises(EquivError) as caught:
        run(raises(ValueError("long " * 1000)), LINEAR)
    assert 500 < len(str(caught.value)) < 800


def test_a_mistake_of_the_function_itself_is_not_asked_again():
    calls = []

    def broken(x):
        calls.append(1)
        return x @ undefined  # noqa: F821

    with pytest.raises(EquivError, match="got NameError: name 'undefined' is not defined; make it run on such a batch"):
        certify(broken, LINEAR)
    assert len(calls) == 1


@pytest.mark.parametrize("run", [certify, assert_equivalent])
def test_a_function_that_changes_its_mind_is_told_so(run):
    calls = []

    def session(x):
        calls.append(len(x))
        if len(x) != 1:
            raise ValueError("one row")
        if len(calls) > 20:
            raise RuntimeError("the session was closed")
        return LINEAR(x)

    with pytest.raises(EquivError) as caught:
        run(session, LINEAR)
    said = str(caught.value)
    assert "expected to run on an input of shape (1, 12) of float32, as it did before, got RuntimeError: the" in said
    assert "it keeps a state or refuses some values" in said


def test_a_function_that_returns_fewer_outputs_later_is_told_so():
    calls = []

    def session(x):
        calls.append(1)
        return LINEAR(x)[:, : 5 if len(calls) < 4 else 4]

    with pytest.raises(EquivError, match="expected 5 outputs for each row, as it returned before, got 4"):
        certify(session, LINEAR)


def test_results_of_other_rows_are_no_reason_to_ask_otherwise():
    for wrap in (lambda y: y.flatten(), lambda y: y[:1], lambda y: y.sum(), lambda y: y.T):
        with pytest.raises(EquivError, match=r"expected a result of shape \(N, ...\) with values for N = 2 rows"):
            certify(lambda x, wrap=wrap: wrap(LINEAR(x)), LINEAR)
        with pytest.raises(NotEquivalent):
            assert_equivalent(lambda x, wrap=wrap: wrap(LINEAR(x)), LINEAR)
    with pytest.raises(EquivError, match="expected a result for each of the 4 rows that it is given at a time"):
        certify(lambda x: LINEAR(x)[: 3 if x.any() else 4] if len(x) == 4 else raises(ValueError("4"))(x), LINEAR)
