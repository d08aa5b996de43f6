"""States of certificates: what they belong to is hashed whole, what they hold is checked, functions are read again."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import equiv
from equiv import EquivError, certify


class Wrapped(nn.Module):
    def __init__(self, inner, scale=1.0):
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x):
        return self.inner(x) * self.scale


def layer(n, outputs, seed=0, bias=True):
    linear = nn.Linear(n, outputs, bias=bias)
    g = torch.Generator().manual_seed(seed)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g)
    return linear


def stopped(candidate, reference, **options):
    found = certify(candidate, reference, progress=lambda *_: False, **options)
    assert found.reason == "not finished"
    return json.loads(json.dumps(found.state))


def changed(linear):
    """One weight of the first column one ulp further up."""
    other = copy.deepcopy(linear)
    with torch.no_grad():
        other.weight[3, 2] = torch.nextafter(other.weight[3, 2], torch.tensor(9.0))
    return other


OTHERS = {
    "one weight": lambda linear: Wrapped(changed(linear)),
    "an attribute": lambda linear: Wrapped(linear, 2.0),
    "another type": lambda linear: nn.Sequential(linear),
    "training": lambda linear: Wrapped(linear).eval(),
    "strides": lambda linear: Wrapped(transposed(linear)),
}


def transposed(linear):
    other = copy.deepcopy(linear)
    other.weight.data = linear.weight.data.t().contiguous().t()
    return other


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_module_that_changed_since_does_not_go_on(other, tmp_path):
    linear, file = layer(40, 6), tmp_path / "layer.json"
    state = stopped(Wrapped(linear), linear, chunk_bytes=20000)
    assert certify(Wrapped(linear), linear, chunk_bytes=20000, resume=state)
    with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
        certify(OTHERS[other](linear), linear, chunk_bytes=20000, resume=state)
    stopped(Wrapped(linear), linear, chunk_bytes=20000, checkpoint=file)
    with pytest.raises(EquivError, match="checkpoint: expected the state of a certificate of these very layers"):
        certify(OTHERS[other](linear), linear, chunk_bytes=20000, checkpoint=file)


def test_a_state_belongs_to_one_seed_and_number_of_threads():
    linear = layer(40, 6)
    state = stopped(Wrapped(linear), linear, chunk_bytes=20000)
    with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
        certify(Wrapped(linear), linear, chunk_bytes=20000, resume=state, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(EquivError, match="and settings of torch"):
            certify(Wrapped(linear), linear, chunk_bytes=20000, resume=state)
    finally:
        torch.set_num_threads(threads)


def test_functions_are_read_again_from_the_first_column():
    linear = layer(40, 6, bias=False)
    weight, other = linear.weight.detach(), changed(linear).weight.detach()
    options = {"in_features": 40, "chunk_bytes": 20000}
    state = stopped(lambda x: x @ weight.T, lambda x: x @ weight.T, **options)
    found = certify(lambda x: x @ other.T, lambda x: x @ weight.T, resume=state, **options)
    assert [(d.output, d.input) for d in found.differences] == [(3, 2)]
    hooked = Wrapped(linear)
    hooked.register_forward_hook(lambda *_: None)
    state = stopped(hooked, linear, chunk_bytes=20000)
    first = []
    assert certify(hooked, linear, chunk_bytes=20000, resume=state, progress=lambda done, *_: first.append(done))
    assert first[0] == state["next"]  # the first chunk once more


def test_a_state_of_two_layers_is_not_one_of_a_convolution_and_a_layer():
    linear = layer(12, 5, bias=False)
    conv = equiv.linear_to_full_conv(linear, (3, 2, 2))
    for method in ("deterministic", "random"):
        state = certify(copy.deepcopy(linear), linear, method=method).state
        with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
            certify(conv, linear, method=method, resume=state)
        with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
            certify(transposed(linear), linear, method=method, resume=state)


WRONG = [
    *({"next": value} for value in (13, 999, -1, 3.0, True, float("inf"), "x", None)),
    *({"count": value} for value in (-3, float("nan"), 10**9, 1)),
    *({"differences": value} for value in (5, [[0, 0, [], []]], [[0, 0, "zz", "0x1p0"]], [[0, 99, 1, 2]], [[0]])),
    *({"bent": 5}, {"rough": 5}, {"resolution": "a"}, {"resolution": float("inf")}, {"resolution": -1.0}),
    *({"flushed": -1}, {"unseen": 10**9}, {"of": None}, {"version": "1"}, {"version": 2}, {"method": []}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_no_state_can_hold_is_refused(wrong):
    linear = layer(12, 5)
    state = certify(copy.deepcopy(linear), linear).state
    assert certify(copy.deepcopy(linear), linear, resume=state)
    with pytest.raises(EquivError, match=r"^resume: .* start again|^resume: .* pass the method"):
        certify(copy.deepcopy(linear), linear, resume={**state, **wrong})


@pytest.mark.parametrize("sums", [3, {}, {"candidate": []}, {"candidate": ["", ""]}, {"candidate": ["A", "é"]}])
def test_sums_that_cannot_be_read_are_refused(sums):
    linear = layer(12, 5)
    state = certify(Wrapped(linear), linear).state
    with pytest.raises(EquivError, match="cannot be read"):
        certify(Wrapped(linear), linear, resume={**state, "sums": sums})


@pytest.mark.parametrize("done", [10**6, -1, True, 1.0, None])
def test_draws_that_were_never_made_are_refused(done):
    linear = layer(12, 5)
    state = certify(copy.deepcopy(linear), linear, method="random").state
    with pytest.raises(EquivError, match=r"resume: expected a state with 0 to \d+ draws done, got"):
        certify(copy.deepcopy(linear), linear, method="random", resume={**state, "next": done})


@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64, torch.int8], ids=str)
def test_a_layout_of_any_kind_is_hashed(dtype):
    conv = nn.Conv2d(4, 4, 1).requires_grad_(False).to(memory_format=torch.channels_last)
    lin = equiv.conv_to_linear(conv, (4, 1, 1))
    assert certify(conv, lin)
    sliced = nn.Linear(1, 8)
    sliced.weight = nn.Parameter(torch.randn(8, 3)[:, 1:2])
    assert certify(sliced, copy.deepcopy(sliced))
    other = nn.Linear(3, 2).requires_grad_(False)
    for name in ("weight", "bias"):
        value = getattr(other, name)
        value = value if dtype.is_floating_point or dtype.is_complex else (value * 9).round()
        setattr(other, name, nn.Parameter(value.to(dtype), requires_grad=False))
    state = certify(other, copy.deepcopy(other)).state
    assert certify(other, copy.deepcopy(other), resume=state)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_that_nests_too_deeply_is_no_state(tmp_path):
    linear, file = layer(12, 5), tmp_path / "layer.json"
    for text in ("[" * 100_000, '{"a":' * 100_000):
        file.write_text(text)
        with pytest.raises(EquivError, match=r"^checkpoint: .* remove this one to start again"):
            certify(linear, linear, checkpoint=file)


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "/proc/layer.json"], ids=["long", "null", "unwritable"])
def test_a_path_that_takes_no_file_is_told_before_the_work(path):
    linear = layer(12, 5)
    with pytest.raises(EquivError, match=r"^checkpoint: expected"):
        certify(linear, linear, checkpoint=path)


def test_a_disk_that_fails_on_the_way_is_told(tmp_path, monkeypatch):
    linear, file = layer(12, 5), tmp_path / "sub" / "layer.json"
    file.parent.mkdir()

    def gone(*_):
        file.parent.rmdir()
        return False

    with pytest.raises(EquivError, match=r"^checkpoint: expected to write"):
        certify(linear, linear, chunk_bytes=1, checkpoint=file, progress=gone)
