"""States of certificates: what they belong to is hashed whole, what they hold is checked, functions are read again."""

from __future__ import annotations

import copy
import io
import os
import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import equiv
from equiv import EquivError, certify
from equiv.certificate.progress import Pace


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


def written(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def stopped(candidate, reference, **options):
    """The state after the first chunk, once it was written and read."""
    found = certify(candidate, reference, progress=lambda *_: False, **options)
    assert not found
    return torch.load(io.BytesIO(written(found.state)), weights_only=True)


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
    linear, file = layer(40, 6), tmp_path / "layer.pt"
    state = stopped(Wrapped(linear), linear, chunk_bytes=20000)
    assert certify(Wrapped(linear), linear, chunk_bytes=20000, resume=state)
    with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
        certify(OTHERS[other](linear), linear, chunk_bytes=20000, resume=state)
    stopped(Wrapped(linear), linear, chunk_bytes=20000, checkpoint=file)
    with pytest.raises(
        EquivError, match="checkpoint: expected the undamaged state of a certificate of these very layers"
    ):
        certify(OTHERS[other](linear), linear, chunk_bytes=20000, checkpoint=file)


def test_a_state_belongs_to_one_seed():
    linear = layer(40, 6)
    state = stopped(Wrapped(linear), linear, chunk_bytes=20000)
    with pytest.raises(EquivError, match="resume: expected a state of these very layers"):
        certify(Wrapped(linear), linear, chunk_bytes=20000, resume=state, seed=1)


def test_another_number_of_threads_is_told(tmp_path):
    linear, file = layer(40, 6), tmp_path / "layer.pt"
    threads = torch.get_num_threads()
    for method, options in (("deterministic", {"chunk_bytes": 1000}), ("random", {})):
        state = stopped(copy.deepcopy(linear), linear, method=method, **options)
        stopped(copy.deepcopy(linear), linear, method=method, checkpoint=file, **options)
        torch.set_num_threads(threads + 1)
        try:
            got = rf"one made with {threads}; call torch.set_num_threads\({threads}\) to go on"
            expected = f"resume: expected a state made with {threads + 1} threads"
            with pytest.raises(EquivError, match=f"^{expected}.* got {got}$"):
                certify(linear, linear, method=method, resume=state, **options)
            with pytest.raises(EquivError, match=f"^checkpoint: .* got something else: {got}, name another"):
                certify(linear, linear, method=method, checkpoint=file, **options)
        finally:
            torch.set_num_threads(threads)
        assert certify(copy.deepcopy(linear), linear, method=method, checkpoint=file, **options)


@pytest.mark.parametrize("name", ["mkldnn", "capability", "torch"])
def test_another_setting_is_told(name, monkeypatch):
    linear = layer(40, 6)
    state = stopped(Wrapped(linear), linear, chunk_bytes=20000)
    places = {"mkldnn": "torch.backends.mkldnn.enabled", "torch": "torch.__version__"}
    if name == "capability":
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "ABACUS")
    elif name == "mkldnn":
        monkeypatch.setattr("equiv.certificate.resume.torch.backends.mkldnn.is_available", lambda: True)
        before = torch.backends.mkldnn.set_flags(False)
    else:
        monkeypatch.setattr(places[name], "1.0")
    try:
        with pytest.raises(
            EquivError, match=f"^resume: expected a state made with {name} .*, got one made with {name} "
        ):
            certify(Wrapped(linear), linear, chunk_bytes=20000, resume=state)
    finally:
        if name == "mkldnn":
            torch.backends.mkldnn.set_flags(*before)


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
    *({"counts": value} for value in ([0, 0, 0, 1], [0.0, 0, 0, 0], (0, 0, 0), None)),
    *({"named": value} for value in (5, [(0, 0, 1.0, 2.0)], [(0,)])),
    *({"not_affine": 5}, {"outside_envelope": "x"}, {"resolution": "a"}, {"resolution": float("nan")}),
    *({"sums": value} for value in (3, {"candidate": []}, {"candidate": [torch.zeros(2).to_sparse()]})),
    *({"origin": None}, {"version": "1"}, {"version": 1}, {"version": torch.ones(2)}, {"method": []}),
    *({"digest": value} for value in ("", None, torch.ones(2))),
    *({"more": 1}, {3: 4}, {"sums": []}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("method", ["deterministic", "random"])
def test_a_state_with_another_entry_is_refused(wrong, method):
    linear = layer(12, 5)
    state = certify(copy.deepcopy(linear), linear, method=method).state
    assert certify(copy.deepcopy(linear), linear, method=method, resume=state)
    with pytest.raises(EquivError, match=r"^resume: expected a state .* start again without resume="):
        certify(copy.deepcopy(linear), linear, method=method, resume={**state, **wrong})


def test_what_is_no_state_is_refused():
    linear = layer(12, 5)
    for state in ({}, {"next": 3}, [], "x", 0, torch.ones(2)):
        with pytest.raises(EquivError, match=r"^resume: expected the state of a certificate, got .* pass the state"):
            certify(linear, linear, resume=state)


def wrong_kernel(x):
    """Right in its first columns, which were read before the interrupt."""
    return nn.functional.linear(x, changed(layer(40, 6)).weight, layer(40, 6).bias)


CASES = {
    "layers": (changed(layer(40, 6)), layer(40, 6), {"chunk_bytes": 1000}),
    "modules": (Wrapped(changed(layer(40, 6))), layer(40, 6), {"chunk_bytes": 20000}),
    "functions": (wrong_kernel, layer(40, 6), {"chunk_bytes": 20000}),
    "random": (equiv.linear_to_full_conv(layer(40, 6), (10, 2, 2)), layer(40, 6), {"method": "random"}),
}


def same(a, b):
    return a.to_dict() == b.to_dict()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_file_with_any_byte_changed_is_refused_or_changes_nothing(case, tmp_path):
    candidate, reference, options = CASES[case]
    whole, file = certify(candidate, reference, **options), tmp_path / "layer.pt"
    content = written(stopped(candidate, reference, **options))
    g, refused = random.Random(0), 0
    for trial in range(50):
        damaged = bytearray(content)
        if trial % 10 == 0:
            damaged = damaged[: g.randrange(len(damaged))]
        else:
            damaged[g.randrange(len(damaged))] ^= 1 << g.randrange(8)
        file.write_bytes(damaged)
        try:
            found = certify(candidate, reference, checkpoint=file, **options)
        except EquivError as error:
            assert str(error).startswith("checkpoint: expected the undamaged state")  # noqa: PT017 - both may happen
            refused += 1
        else:
            assert same(found, whole)
    assert refused > 10  # the others hit padding between the records


def alter(value, g):
    """The same with one number, text or tensor entry in it changed, however deep."""
    if isinstance(value, dict):
        key = g.choice(sorted(value) or ["more"])
        return {**value, key: alter(value.get(key), g)}
    if isinstance(value, list | tuple):
        if not value:
            return [g.randrange(5)]
        at = g.randrange(len(value))
        return type(value)(alter(item, g) if i == at else item for i, item in enumerate(value))
    if isinstance(value, torch.Tensor):
        other = value.clone()
        flat = other.view(-1).view(torch.uint8)
        flat[g.randrange(len(flat))] ^= 1 << g.randrange(8)
        return other
    if isinstance(value, str):
        at = g.randrange(len(value))
        return value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
    return value + g.choice([-1, 1, 2]) if isinstance(value, int | float) else 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_state_with_any_entry_changed_is_refused(case):
    candidate, reference, options = CASES[case]
    state, g = stopped(candidate, reference, **options), random.Random(1)
    assert same(certify(candidate, reference, resume=state, **options), certify(candidate, reference, **options))
    for _ in range(50):
        with pytest.raises(EquivError, match=r"^resume: expected"):
            certify(candidate, reference, resume=alter(state, g), **options)


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


def test_a_file_of_another_kind_is_no_state(tmp_path):
    linear, file = layer(12, 5), tmp_path / "layer.pt"
    for content in (b"", b"[]", b"[" * 100_000, b"\0", written(3), written(linear.state_dict()), written(linear)):
        file.write_bytes(content)
        with pytest.raises(EquivError, match=r"^checkpoint: .* remove this one to start again"):
            certify(linear, linear, checkpoint=file)
        assert file.read_bytes() == content


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "/proc/layer.pt"], ids=["long", "null", "unwritable"])
def test_a_path_that_takes_no_file_is_refused_before_the_work(path):
    linear = layer(12, 5)
    with pytest.raises(EquivError, match=r"^checkpoint: expected"):
        certify(linear, linear, checkpoint=path)


def test_a_disk_that_fails_on_the_way_is_reported(tmp_path, monkeypatch):
    linear, file = layer(12, 5), tmp_path / "sub" / "layer.pt"
    file.parent.mkdir()

    def gone(*_):
        file.parent.rmdir()
        return False

    with pytest.raises(EquivError, match=r"^checkpoint: expected to write"):
        certify(linear, linear, chunk_bytes=1, checkpoint=file, progress=gone)


def test_half_a_file_never_takes_the_place_of_a_whole_one(tmp_path, monkeypatch):
    linear, file = layer(12, 5), tmp_path / "layer.pt"
    options = {"chunk_bytes": 1, "checkpoint": file}
    certify(linear, linear, progress=lambda *_: False, **options)
    before = file.read_bytes()

    def full(_, out):
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EquivError, match=r"^checkpoint: expected to write .* No space left on device"):
        certify(linear, linear, progress=lambda done, *_: done < 3, **options)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("layer.pt", before)]


def test_a_link_is_replaced_and_never_followed(tmp_path):
    linear, file, target = layer(12, 5), tmp_path / "layer.pt", tmp_path / "elsewhere"
    file.symlink_to(target)
    certify(linear, linear, chunk_bytes=1, checkpoint=file, progress=lambda *_: False)
    assert not file.is_symlink()
    assert not target.exists()


def test_what_is_no_file_is_refused(tmp_path):
    linear = layer(12, 5)
    for path in (tmp_path, "", "/dev/null"):
        with pytest.raises(EquivError, match=r"checkpoint: expected a file, got .* name a file in a folder"):
            certify(linear, linear, checkpoint=path)


def test_a_checkpoint_is_read_under_any_default_device(tmp_path):
    linear, file = layer(40, 6), tmp_path / "layer.pt"
    options = {"chunk_bytes": 20000, "checkpoint": file}
    with torch.device("meta"):
        assert certify(Wrapped(linear), linear, progress=lambda *_: False, **options).reason == "not finished"
        assert certify(Wrapped(linear), linear, **options)


def test_a_name_as_long_as_a_file_may_have_is_served(tmp_path):
    linear = layer(12, 5)
    for name in ("a" * 255, "\u00e9" * 127):
        file = tmp_path / name
        certify(linear, linear, chunk_bytes=1, checkpoint=file, progress=lambda *_: False)
        assert [found.name for found in tmp_path.iterdir()] == [name]
        assert certify(linear, linear, chunk_bytes=1, checkpoint=file)
        assert not [*tmp_path.iterdir()]


def test_pipes_and_links_to_devices_are_refused(tmp_path):
    linear, pipe, device = layer(12, 5), tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    for path in (pipe, device, "/dev/full"):
        with pytest.raises(EquivError, match=r"checkpoint: expected a file, got .* name a file in a folder"):
            certify(linear, linear, checkpoint=path)


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("equiv.certificate.resume.tempfile.NamedTemporaryFile", denied)
    calls = []
    expected = r"^checkpoint: expected to write .*layer.pt', got PermissionError: Permission denied; name a file in a"
    with pytest.raises(EquivError, match=expected):
        certify(calls.append, calls.append, in_features=3, checkpoint=tmp_path / "layer.pt")
    assert not calls


def test_temporary_files_have_names_that_nobody_foresees_and_are_the_owners_alone(tmp_path, monkeypatch):
    linear, file, seen = layer(12, 5), tmp_path / "layer.pt", []
    save = torch.save

    def watched(state, out):
        (temporary,) = (found for found in tmp_path.iterdir() if found != file)
        seen.append((temporary.name, temporary.stat().st_mode & 0o777))
        return save(state, out)

    monkeypatch.setattr(torch, "save", watched)
    for columns in (1, 2, 3):
        certify(linear, linear, chunk_bytes=1, checkpoint=file, progress=lambda done, *_, c=columns: done < c)
    names = [name for name, _ in seen]
    assert len(set(names)) == len(names) == 3
    assert all(mode == 0o600 for _, mode in seen)


# --- how often --------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in ("progress", "resume"):
            monkeypatch.setattr(f"equiv.certificate.{module}.time", SimpleNamespace(monotonic=lambda: self.now))


def test_a_state_is_kept_about_once_a_second_whatever_a_column_takes(tmp_path, monkeypatch):
    linear, file, clock = layer(2000, 3), tmp_path / "layer.pt", Clock(monkeypatch)
    kept = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (kept.append(clock.now), replace(*names)))

    def slow(seconds):
        def run(x):
            clock.now += seconds * len(x)
            return linear(x)

        return run

    for seconds in (0.0001, 0.002, 0.05):
        kept.clear()
        began = clock.now
        assert certify(slow(seconds), linear, checkpoint=file)
        gaps = [b - a for a, b in pairwise([began, *kept])]
        assert max(gaps[2:], default=0) < 2.5, (
            seconds,
            gaps,
        )  # a chunk may take a second, and begin just before one is over
        assert len(kept) >= (clock.now - began) / 2.5 - 3
        assert not file.exists()


def test_chunks_without_a_listener_are_as_large_as_memory_allows(monkeypatch):
    linear, batches = layer(2000, 3), []
    Clock(monkeypatch)

    def run(x):
        batches.append(len(x))
        return linear(x)

    certify(run, linear)
    assert max(batches) == 2000
    assert {size for size in batches if size > 512} == {2000}  # rows that are no columns come in smaller batches


def test_a_pace_halves_and_doubles(monkeypatch):
    clock, pace = Clock(monkeypatch), Pace(1000)
    assert pace.columns() == 62
    assert [pace.columns() for _ in range(5)] == [125, 250, 500, 1000, 1000]
    clock.now += 0.5
    assert pace.columns() == 1000
    clock.now += 1.5
    assert pace.columns() == 500
    clock.now += 30
    assert pace.columns() == 15
    clock.now += 10_000
    assert pace.columns() == 1
    assert pace.columns() == 1
    assert [Pace(most).columns() for most in (1, 5, 64, 65)] == [1, 5, 64, 32]


class Session(nn.Module):
    """A layer, until it breaks down after a number of calls."""

    def __init__(self, inner, calls):
        super().__init__()
        self.inner, self.left = inner, calls

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise OSError("the device is gone")
        return self.inner(x.flatten(1))


def test_what_was_read_before_an_error_is_kept(tmp_path, monkeypatch):
    linear, file, clock = layer(300, 3), tmp_path / "layer.pt", Clock(monkeypatch)
    options = {"feature_shape": (300, 1), "checkpoint": file, "chunk_bytes": 300 * 400}
    with pytest.raises(EquivError, match="as it did before, got OSError: the device is gone"):
        certify(Session(linear, 30), linear, **options)
    assert clock.now == 0.0
    kept = torch.load(file, weights_only=True)["next"]
    assert 60 < kept < 300
    assert [found.name for found in tmp_path.iterdir()] == ["layer.pt"]
    done = []
    with pytest.raises(EquivError, match="got something else: one of others"):
        certify(Session(linear, 1000), linear, **options)  # its attribute tells that it is another one
    file.rename(tmp_path / "other.pt")
    assert certify(Session(linear, 1000), linear, progress=lambda *now: done.append(now[0]), **options)
    assert done[-1] == 300
