"""The structure test: 1x1 convolutions are recognised bit for bit, everything else is refuted at the right place."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiv import EquivError, counterexample
from equiv.structure.snippet import shortest

RUN = settings(derandomize=True, database=None, deadline=None, max_examples=40)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

maps = st.tuples(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(lambda t: (t[0], *t[1]))
wide_maps = maps.filter(lambda shape: math.prod(shape[1:]) > 1)


def values(shape, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    if dtype in INTS:
        return torch.randint(0, 100, shape, generator=g, dtype=torch.int64).to(dtype)
    return torch.randn(shape, generator=g, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)


def layer_of(w, b=None):
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=b is not None, device="meta")
    linear.weight = torch.nn.Parameter(w, requires_grad=False)
    if b is not None:
        linear.bias = torch.nn.Parameter(b, requires_grad=False)
    return linear


def kronecker(k, hw):
    """K (x) I by placing entries: no arithmetic."""
    w = torch.zeros(k.shape[0], hw, k.shape[1], hw, dtype=k.dtype)
    for p in range(hw):
        w[:, p, :, p] = k
    return w.view(k.shape[0] * hw, k.shape[1] * hw)


def next_value(t):
    """One unit in the last place away from zero; integers: one more."""
    if t.dtype in INTS:
        return t + 1
    part = torch.view_as_real(t)[..., 1].clone() if t.is_complex() else t.clone()
    part = (part.view(BITS[part.element_size()]) + 1).view(part.dtype)
    return torch.complex(t.real.clone(), part) if t.is_complex() else part


def read_densely(w, b, x, dtype):
    """W x + b for one sample in float64, complex128 or int64, by dense arithmetic."""
    wide = torch.int64 if dtype in INTS else torch.complex128 if dtype.is_complex else torch.float64
    y = (w.to(wide) * x.flatten().to(wide)).sum(1)
    return y if b is None else y + b.to(wide)


def check_witness(linear, found):
    """The recorded numbers are what dense arithmetic gives, and they differ; the snippet agrees."""
    shape, dtype = found.feature_shape, linear.weight.dtype
    hw = math.prod(shape[1:])
    assert found.witness.shape == shape
    assert found.witness.dtype == dtype
    assert int(found.witness.count_nonzero()) == (0 if found.cause == "bias" else 1)
    b, kb = linear.bias, found.conv.bias
    if found.without_bias or (found.readout != "positions" and found.cause != "bias"):
        b = kb = None  # pooled, the bias is rounded once more on its way
    layer = read_densely(linear.weight, b, found.witness, dtype).reshape(-1)
    k = found.conv.weight.flatten(1)
    conv = read_densely(kronecker(k, hw), None if kb is None else kb.repeat_interleave(hw), found.witness, dtype).view(
        found.conv_output_shape
    )
    if found.readout != "positions":
        conv = conv.flatten(1).sum(1) if found.readout == "sum" else conv.flatten(1).mean(1)
    row = (
        int(torch.arange(found.out_features).view(-1, *shape[1:])[found.output_index])
        if found.readout == "positions"
        else found.output_index[0]
    )
    assert found.expected != found.actual
    assert layer[row].item() != conv[found.output_index].item()
    if dtype not in INTS and (found.without_bias or linear.bias is None or b is not None):
        scale = abs(found.expected) + abs(found.actual) + (0 if b is None else float(b.abs().max()))
        assert abs(layer[row].item() - found.expected) <= 1e-14 * scale
        slack = 1e-14 if found.readout == "positions" else 2 * hw * torch.finfo(dtype).eps
        assert abs(conv[found.output_index].item() - found.actual) <= slack * scale
    exec(compile(found.snippet(), "snippet", "exec"), {})
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 32
    json.loads(json.dumps(found.to_dict(), allow_nan=False))


@RUN
@given(maps, st.integers(1, 3), st.sampled_from(FLOATS + COMPLEX + INTS), st.booleans(), st.integers(0, 99))
def test_kronecker_identity_is_recognised_bit_for_bit(shape, o, dtype, bias, seed):
    k = values((o, shape[0]), dtype, seed)
    kb = values((o,), dtype, seed + 1) if bias else None
    hw = math.prod(shape[1:])
    found = counterexample(layer_of(kronecker(k, hw), None if kb is None else kb.repeat_interleave(hw)), shape)
    assert found.equivalent
    assert found.readout == "positions"
    assert found.witness is None
    assert found.distance == found.gap == found.gap_inf == 0
    assert torch.equal(found.conv.weight.flatten(1), k)
    assert (found.conv.bias is None) == (kb is None)
    assert kb is None or torch.equal(found.conv.bias, kb)
    assert type(found.conv).__name__ == f"Conv{len(shape) - 1}d"
    assert "EQUIVALENT" in str(found)
    assert "NOT" not in str(found)
    exec(compile(found.snippet(), "snippet", "exec"), {})
    json.dumps(found.to_dict())


@RUN
@given(wide_maps, st.integers(1, 2), st.sampled_from(FLOATS + COMPLEX + INTS), st.booleans(), st.data())
def test_one_entry_changed_by_one_ulp_is_found_at_its_place(shape, o, dtype, bias, data):
    hw = math.prod(shape[1:])
    w = kronecker(values((o, shape[0]), dtype, 3) + 2, hw)
    row = data.draw(st.integers(0, w.shape[0] - 1))
    column = data.draw(st.integers(0, w.shape[1] - 1))
    w[row, column] = next_value(w[row, column])
    b = values((o,), dtype, 4).repeat_interleave(hw) if bias else None
    linear = layer_of(w, b)
    found = counterexample(linear, shape)
    assert not found.equivalent
    own = row % hw == column % hw
    assert found.cause == ("position_dependent" if own else "off_diagonal")
    assert f"W[{row}, {column}]" in found.reason
    if hw > 2 or not own:  # with two positions either one is the odd one
        assert found.witness.flatten().nonzero().tolist() == [[column]]
        assert int(torch.arange(w.shape[0]).view(-1, *shape[1:])[found.output_index]) == row
    check_witness(linear, found)


@RUN
@given(wide_maps, st.integers(1, 2), st.sampled_from(FLOATS + COMPLEX + INTS), st.booleans(), st.integers(0, 99))
def test_a_dense_layer_is_refuted_and_its_witness_holds(shape, o, dtype, bias, seed):
    hw = math.prod(shape[1:])
    w = values((o * hw, math.prod(shape)), dtype, seed)
    w[0, 1] = 5  # keep a difference in sparse integers
    linear = layer_of(w, values((o * hw,), dtype, seed + 1) if bias else None)
    found = counterexample(linear, shape)
    assert not found.equivalent
    check_witness(linear, found)


@RUN
@given(wide_maps, st.sampled_from(FLOATS + COMPLEX + INTS), st.sampled_from(["sum", "mean"]), st.integers(0, 99))
def test_pooled_readouts_hold_only_without_dependence_on_position(shape, dtype, readout, seed):
    if readout == "mean" and dtype in INTS:
        readout = "sum"
    hw = math.prod(shape[1:])
    k = values((3, shape[0]), dtype, seed) + 1
    w = k.repeat_interleave(hw, dim=1)
    b = values((3,), dtype, seed)
    b = b // hw * hw if dtype in INTS else b
    found = counterexample(layer_of(w.clone(), b), shape, readout=readout)
    assert found.equivalent, found.reason
    times = 1 if readout == "sum" else hw
    wide = torch.complex128 if dtype.is_complex else torch.float64
    assert torch.equal(found.conv.weight.flatten(1), k if times == 1 else (k.to(wide) * hw).to(dtype))
    w[1, -1] = next_value(w[1, -1])
    linear = layer_of(w, b)
    found = counterexample(linear, shape, readout=readout)
    assert not found.equivalent
    assert found.cause == "position_dependent"
    assert found.output_index == (1,)
    check_witness(linear, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.int64])
def test_a_bias_that_changes_over_positions_is_shown_by_the_zero_input(dtype):
    k, hw = values((2, 1), dtype, 0), 3
    b = values((2,), dtype, 1).repeat_interleave(hw)
    b[4] = next_value(b[4])
    linear = layer_of(kronecker(k, hw), b)
    found = counterexample(linear, (1, 3))
    assert found.cause == "bias"
    assert found.witness_index is None
    assert found.output_index == (1, 1)
    assert found.distance == 0
    assert found.bias_distance > 0
    check_witness(linear, found)


def test_an_integer_bias_that_does_not_divide_is_refuted_under_sum():
    linear = layer_of(torch.ones(2, 4, dtype=torch.int64), torch.tensor([8, 7]))
    found = counterexample(linear, (1, 4), readout="sum")
    assert found.cause == "bias"
    assert (found.expected, found.actual) == (7, 8)
    check_witness(linear, found)


def test_large_integers_lose_nothing_to_floating_point():
    k = torch.tensor([[2**62 + 1]])
    w = kronecker(k, 3)
    assert torch.equal(counterexample(layer_of(w), (1, 3)).conv.weight.flatten(1), k)
    w[1, 1] += 1
    found = counterexample(layer_of(w), (1, 3))
    assert (found.expected, found.actual) == (2**62 + 2, 2**62 + 1)
    assert found.distance == pytest.approx(math.sqrt(2 / 3))


def test_one_position_is_the_layer_itself():
    linear = torch.nn.Linear(3, 5)
    for readout in (None, "positions", "sum", "mean"):
        found = counterexample(linear, (3, 1, 1), readout=readout)
        assert found.equivalent
        assert "one position" in found.reason
        assert torch.equal(found.conv.weight.flatten(1), linear.weight)
        assert torch.equal(found.conv.bias, linear.bias)


def test_the_tiniest_map_and_its_text():
    linear = layer_of(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    found = counterexample(linear, (1, 1, 2))
    assert str(found) == (
        "NOT EQUIVALENT: Linear(2 -> 2) over a flattened map (1, 1, 2) is not a 1x1 conv\n"
        "  over 1 channel, flattened.\n"
        "  layer     2 numbers -> 2; 4 weights\n"
        "  1x1 conv  (1, 1, 2) -> (1, 1, 2), 2 numbers; 1 weight\n"
        "The 1x1 conv is one layer 1 -> 1 at each of 2 positions: the dense matrix K (x)\n"
        "  I_2, where 2 of 4 entries can be non-zero.\n"
        "Reason: output channel 0 at position (0, 0) depends on input channel 0 at\n"
        "  position (0, 1): W[0, 1] = 2.0, and a 1x1 conv has 0 there.\n"
        "Smallest witness: x = 0 but x[0, 0, 1] = 1.\n"
        "  output [0, 0, 0]\n"
        "    layer     2.0\n"
        "    1x1 conv  0.0\n"
        "  layer W    1x1 conv (. = 0 by structure)\n"
        "  1 2        1 .\n"
        "  0 1        . 1\n"
        "Closest 1x1 conv: distance 2 (0.816 of the layer's norm)\n"
        "  worst error for |x|_2 = 1: 2; for max|x| = 1: 2"
    )


def dense_of(found):
    k = found.conv.weight.detach().flatten(1)
    hw = math.prod(found.feature_shape[1:])
    if found.readout == "positions":
        return kronecker(k, hw)
    return (k if found.readout == "sum" else k / hw).repeat_interleave(hw, dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("readout", ["positions", "sum", "mean"])
def test_distances_and_worst_inputs_agree_with_the_dense_residual(dtype, readout):
    shape = (3, 2, 2)
    w = values((8, 12), dtype, 1)
    found = counterexample(layer_of(w), shape, readout=readout)
    r = w - dense_of(found)
    assert found.distance == pytest.approx(float(torch.linalg.vector_norm(r)), rel=1e-12)
    assert found.relative_distance == pytest.approx(found.distance / float(torch.linalg.vector_norm(w)), rel=1e-12)
    k = found.conv.weight.detach().flatten(1)
    if readout == "positions":
        squares = float(torch.linalg.vector_norm(w)) ** 2 - 4 * float(torch.linalg.vector_norm(k)) ** 2
        assert found.distance**2 == pytest.approx(squares, rel=1e-10)
    assert found.gap_is_exact
    assert found.gap == pytest.approx(float(torch.linalg.matrix_norm(r, 2)), rel=1e-12)
    assert float(torch.linalg.vector_norm(found.worst_input_2)) == pytest.approx(1)
    assert float(torch.linalg.vector_norm(r @ found.worst_input_2.flatten())) == pytest.approx(found.gap, rel=1e-12)
    assert float(found.worst_input_inf.abs().max()) == pytest.approx(1)
    assert float((r @ found.worst_input_inf.flatten()).abs().max()) == pytest.approx(found.gap_inf, rel=1e-12)
    assert found.gap_inf == pytest.approx(float(r.abs().sum(1).max()), rel=1e-12)


def test_no_other_kernel_is_closer():
    w = values((8, 12), torch.float64, 5)
    found = counterexample(layer_of(w), (3, 2, 2))
    for seed in range(20):
        k = found.conv.weight.detach().flatten(1) + 1e-3 * values((2, 3), torch.float64, seed)
        assert float(torch.linalg.vector_norm(w - kronecker(k, 4))) > found.distance


def test_large_layers_take_krylov_steps_and_several_blocks(monkeypatch):
    monkeypatch.setattr("equiv.structure.closest._BLOCK", 5000)
    w = values((320, 300), torch.float32, 2)
    w[7] *= 40
    linear = layer_of(w)
    found = counterexample(linear, (3, 10, 10), readout="sum")
    r = w.double().view(320, 3, 100)
    r = (r - r.mean(-1, keepdim=True)).view(320, 300)
    assert not found.gap_is_exact
    assert found.gap == pytest.approx(float(torch.linalg.matrix_norm(r, 2)), rel=1e-6)
    assert found.distance == pytest.approx(float(torch.linalg.vector_norm(r)), rel=1e-12)
    assert "at least" in str(found)
    check_witness(linear, found)
    w = kronecker(values((32, 30), torch.float32, 3), 10)
    assert counterexample(layer_of(w), (30, 10)).equivalent
    w[311, 291] = next_value(w[311, 291])
    found = counterexample(layer_of(w), (30, 10))
    assert (found.witness_index, found.output_index) == ((29, 1), (31, 1))
    check_witness(layer_of(w), found)


@pytest.mark.parametrize("size", [1e308, 1e-310])
def test_extreme_values_neither_overflow_nor_vanish(size):
    w = torch.tensor([[1.0, 0.5], [0.5, -1.0]], dtype=torch.float64) * size
    found = counterexample(layer_of(w), (1, 2))
    assert found.distance == pytest.approx(size * math.sqrt(2.5), rel=1e-9) or math.isinf(size * math.sqrt(2.5))
    assert found.gap > 0
    check_witness(layer_of(w), found)


def test_a_difference_that_the_bias_would_hide_is_shown_without_it():
    w = torch.eye(2)
    w[0, 1] = 1e-30
    linear = layer_of(w, torch.ones(2))
    found = counterexample(linear, (1, 2))
    assert found.without_bias
    assert (found.expected, found.actual) == (w[0, 1].item(), 0)
    assert "without bias" in str(found)
    check_witness(linear, found)


def test_the_module_keeps_dtype_mode_and_requires_grad_and_the_layer_is_untouched():
    linear = torch.nn.Linear(12, 8, dtype=torch.bfloat16).eval()
    linear.weight.requires_grad_(False)
    before, state = linear.weight.clone(), torch.get_rng_state()
    conv = counterexample(linear, (3, 2, 2)).conv
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(linear.weight, before)
    assert conv.weight.dtype == torch.bfloat16
    assert not conv.training
    assert not conv.weight.requires_grad
    assert conv.bias.requires_grad
    assert conv(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).shape == (1, 2, 2, 2)


def test_strides_and_the_default_device_do_not_matter():
    w = kronecker(values((2, 3), torch.float32, 0), 4)
    linear = layer_of(w.T.contiguous().T)
    with torch.device("meta"):
        found = counterexample(linear, (3, 2, 2))
    assert found.equivalent
    assert found.conv.weight.device.type == "cpu"


def test_shape_facts():
    found = counterexample(torch.nn.Linear(12, 8), (3, 2, 2))
    assert found.conv_output_shape == (2, 2, 2)
    assert (found.layer_weights, found.conv_weights, found.dense_entries, found.dense_nonzeros) == (96, 6, 96, 24)
    found = counterexample(torch.nn.Linear(12, 5), (3, 2, 2))
    assert found.readout == "sum"
    assert (found.conv_output_shape, found.dense_entries, found.dense_nonzeros) == ((5, 2, 2), 240, 60)


def test_a_real_1x1_conv_flattened_by_torch_is_equivalent():
    conv = torch.nn.Conv2d(3, 2, 1)
    basis = torch.eye(12).view(12, 3, 2, 2)
    w = (torch.nn.functional.conv2d(basis, conv.weight)).flatten(1).T
    found = counterexample(layer_of(w.detach(), conv.bias.detach().repeat_interleave(4)), (3, 2, 2))
    assert found.equivalent
    assert torch.equal(found.conv.weight, conv.weight)


def test_minus_zero_is_zero():
    w = kronecker(torch.tensor([[-0.0, 1.0]]), 2)
    w[w == 0] *= -1
    assert counterexample(layer_of(w), (2, 2)).equivalent


def with_nan():
    linear = torch.nn.Linear(4, 4)
    linear.weight.data[2, 1] = math.nan
    return linear


@pytest.mark.parametrize(
    ("linear", "shape", "readout", "message"),
    [
        (torch.nn.Conv2d(1, 1, 1), (1, 2, 2), None, "linear: expected a"),
        (torch.nn.Linear(4, 4), (3, 2), None, "feature_shape: expected (C, *spatial) with product 4"),
        (torch.nn.Linear(4, 4), 4, None, "feature_shape: expected"),
        (torch.nn.Linear(4, 4), (4,), None, "feature_shape: expected"),
        (torch.nn.Linear(4, 4), (1, 2, 2), "max", "readout: expected one of positions, sum, mean, got 'max'"),
        (torch.nn.Linear(4, 5), (1, 2, 2), "positions", "5 is no multiple of 4"),
        (torch.nn.Linear(4, 4, device="meta"), (1, 2, 2), None, "linear: expected weights with values, got a meta"),
        (with_nan(), (1, 2, 2), None, "linear: expected finite values, got linear.weight[2, 1] = nan"),
        (layer_of(torch.ones(4, 4, dtype=torch.int32)), (1, 4), "mean", "integers have no mean"),
        (layer_of(torch.ones(4, 4, dtype=torch.float16) * 60000), (1, 4), "mean", "beyond the range of float16"),
        (layer_of(torch.ones(4, 4), torch.ones(4).double()), (1, 4), None, "one dtype"),
    ],
)
def test_misuse_names_the_argument_and_what_to_do(linear, shape, readout, message):
    with pytest.raises(EquivError) as caught:
        counterexample(linear, shape, readout=readout)
    assert message in str(caught.value)


def test_shortest_reads_back():
    for dtype in FLOATS:
        for value in values((50,), dtype, 0):
            assert torch.tensor(float(shortest(value.item(), dtype)), dtype=torch.float64).to(dtype) == value
