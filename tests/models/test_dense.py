"""Classifiers as fully convolutional models: every score is the classifier's on its window."""

import copy
import pickle
import threading

import pytest
import torch
from classifiers import PADDED, UNPADDED, OverFeat, ResNet, Vgg, audio, normal, seeded
from torch import Tensor, nn
from torch.nn import functional

import equiv
from equiv import EquivError
from equiv.models import FullyConvolutional, dense_heads, dense_surgery
from equiv.models.dense_windows import Axis

A = slice(None)


def unpadded(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = UNPADDED[name]
    return seeded(make(), dtype), shape


def flat(result: object) -> Tensor:
    return torch.cat([y.flatten(1) for y in result.values()], 1) if isinstance(result, dict) else result.flatten(1)


def at(scores: object, place: tuple[int, ...]) -> Tensor:
    every = scores.values() if isinstance(scores, dict) else [scores]
    return torch.cat([y[(A, A, *place)] for y in every], 1)


def places(shape: torch.Size) -> list[tuple[int, ...]]:
    return [tuple(map(int, place)) for place in torch.ones(*shape).nonzero()]


@pytest.mark.parametrize("name", UNPADDED)
@torch.no_grad()
def test_every_score_is_the_classifiers_on_its_window(name: str) -> None:
    model, shape = unpadded(name)
    dense = equiv.to_fully_convolutional(model, torch.zeros(2, *shape, dtype=torch.float64))
    windows = dense.windows
    x = normal(2, shape[0], *(n + (i + 1) * s for i, (n, s) in enumerate(zip(shape[1:], windows.stride, strict=True))))
    scores = dense(x)
    spatial = next(iter(scores.values())).shape[2:] if isinstance(scores, dict) else scores.shape[2:]
    assert spatial == tuple(i + 2 for i in range(len(shape) - 1))
    assert windows.exact == ("all",) * (len(shape) - 1)
    for place in places(spatial):
        expected = flat(model(x[(..., *windows.at(*place))]))
        assert float((at(scores, place) - expected).abs().max()) < 1e-13, place  # float64: 29 bits beyond float32
    crop = x[(..., *windows.at(*[0] * len(spatial)))]
    assert at(dense(crop), (0,) * len(spatial)).shape == flat(model(crop)).shape
    assert list(dense.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", PADDED)
@torch.no_grad()
def test_with_padding_it_says_where_scores_are_exact(name: str) -> None:
    make, shape = PADDED[name]
    model = seeded(make())
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, *shape, dtype=torch.float64))
    windows = dense.windows
    assert windows.exact == ("alone", "alone")
    x = normal(1, *shape)
    assert float((dense(x)[..., 0, 0] - model(x)).abs().max()) < 1e-13
    x = normal(1, 3, shape[1] + 2 * windows.stride[0], shape[2] + windows.stride[1])
    scores = dense(x)
    assert scores.shape[2:] == (3, 2)
    assert not windows.exact_at((3, 2)).any()
    for place in places(scores.shape[2:]):
        assert float((scores[(A, A, *place)] - model(x[(..., *windows.at(*place))])).abs().max()) > 1e-6


@torch.no_grad()
def test_padding_on_one_axis_leaves_the_other_exact() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3, padding=(1, 0)), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 4, 5)))
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    assert dense.windows.exact == ("alone", "all")
    x = normal(1, 3, 6, 9)
    for j in range(4):
        assert float((dense(x)[..., 0, j] - model(x[..., j : j + 6])).abs().max()) < 1e-13


@torch.no_grad()
def test_padding_before_alone_leaves_the_first_exact() -> None:
    model = seeded(nn.Sequential(nn.ZeroPad2d((2, 0, 0, 1)), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 5 * 6, 5)))
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    windows = dense.windows
    assert windows.exact == ("last", "first")
    x = normal(1, 3, 8, 8)
    scores, right = dense(x), windows.exact_at((3, 3))
    assert right.sum() == 1
    for place in places(scores.shape[2:]):
        distance = float((scores[(A, A, *place)] - model(x[(..., *windows.at(*place))])).abs().max())
        assert (distance < 1e-13) == bool(right[place]), place


def without_padding(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.MaxPool2d)):
            part.padding = 0 if isinstance(part, nn.MaxPool2d) else (0, 0)
    return model


@pytest.mark.parametrize("name", ["vgg", "alexnet"])
@torch.no_grad()
def test_valid_scores_are_the_network_without_padding(name: str) -> None:
    make, shape = PADDED[name]
    model = seeded(make())
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, *shape, dtype=torch.float64), padding="valid")
    windows, plain = dense.windows, without_padding(model)
    assert windows.exact == ("all", "all")
    x = normal(
        1, 3, *(o + w + s * 2 + 1 for o, w, s in zip(windows.offset, windows.window, windows.stride, strict=True))
    )
    scores = dense(x)
    assert scores.shape[2:] == (3, 3)
    for place in places(scores.shape[2:]):
        assert float((scores[(A, A, *place)] - plain(x[(..., *windows.at(*place))])).abs().max()) < 1e-13
    with pytest.raises(EquivError, match=r"input: expected a spatial size of at least .*padding='keep'"):
        dense(torch.zeros(1, *shape, dtype=torch.float64))


@torch.no_grad()
def test_valid_scores_of_residual_networks_depend_on_their_window_alone() -> None:
    model = seeded(ResNet())
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, 3, 32, 32, dtype=torch.float64), padding="valid")
    windows = dense.windows
    size = [o + w + 2 * s for o, w, s in zip(windows.offset, windows.window, windows.stride, strict=True)]
    x, y = normal(1, 3, *size), normal(1, 3, *size, seed=1)
    assert dense(x).shape[2:] == (3, 3)
    here, there = windows.at(0, 2), windows.at(1, 1)
    y[(..., *there)] = x[(..., *here)]
    assert float((dense(x)[..., 0, 2] - dense(y)[..., 1, 1]).abs().max()) < 1e-13
    border = x.clone()
    border[..., here[0].start, :] += 100
    assert not torch.equal(dense(border)[..., 0, 2], dense(x)[..., 0, 2])
    valid, keep = dense(x), equiv.to_fully_convolutional(model, x[..., :32, :32])(x)
    assert any(torch.equal(valid, keep[..., i : i + 3, j : j + 3]) for i in range(8) for j in range(8))


def test_its_own_check_finds_scores_that_read_padding(monkeypatch) -> None:
    class Short(Axis):
        def slid(self, *args: int, **kwargs: int) -> Axis:
            after = super().slid(*args, **kwargs)
            return Short(after.size, after.stride, after.start, after.reach - (after.stride == 8))

    monkeypatch.setattr(dense_surgery, "Axis", Short)
    model = seeded(ResNet())
    equiv.to_fully_convolutional(model, normal(1, 3, 32, 32))
    with pytest.raises(EquivError, match="a window inside and one at the border"):
        equiv.to_fully_convolutional(model, normal(1, 3, 32, 32), padding="valid")


def test_it_pickles_copies_and_stays_apart_from_the_model() -> None:
    model, shape = unpadded("vgg", torch.float32)
    before = {name: held.clone() for name, held in model.state_dict().items()}
    state = torch.get_rng_state()
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, *shape))
    assert torch.equal(torch.get_rng_state(), state)
    x = normal(1, 3, 70, 62, dtype=torch.float32)
    for other in (pickle.loads(pickle.dumps(dense)), copy.deepcopy(dense)):
        assert isinstance(other, FullyConvolutional)
        assert other.windows == dense.windows
        assert torch.equal(other(x), dense(x))
        assert not other.training
    assert isinstance(dense.get_submodule("classifier.0"), nn.Conv2d)
    assert isinstance(model.classifier[0], nn.Linear)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    assert all(p.requires_grad for p in dense.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    model, shape = unpadded("overfeat", dtype)
    dense = equiv.to_fully_convolutional(model, torch.zeros(1, *shape, dtype=dtype))
    assert {p.dtype for p in dense.parameters()} == {dtype}
    assert dense(normal(1, 3, 65, 61, dtype=dtype)).dtype == dtype


def transposed(linear: nn.Linear, shape: tuple[int, ...], **_: object) -> nn.Module:
    """A kernel with H and W exchanged."""
    conv = equiv.linear_to_full_conv(linear, shape)
    if shape[1] == shape[2]:
        conv.weight = nn.Parameter(conv.weight.detach().mT.contiguous())
    return conv


def as_hwc(linear: nn.Linear, shape: tuple[int, ...], **_: object) -> nn.Module:
    """A kernel from a flattening of H, W, C."""
    conv = equiv.linear_to_full_conv(linear, shape)
    conv.weight = nn.Parameter(linear.weight.detach().view(-1, *shape[1:], shape[0]).movedim(-1, 1).contiguous())
    return conv


def without_bias(linear: nn.Linear, shape: tuple[int, ...], **_: object) -> nn.Module:
    conv = equiv.linear_to_full_conv(linear, shape)
    conv.bias = None
    return conv


def nearly(linear: nn.Linear, shape: tuple[int, ...], **_: object) -> nn.Module:
    conv = equiv.linear_to_full_conv(linear, shape)
    conv.weight.data.view(-1)[0] *= 1 + 2.0**-6
    return conv


@pytest.mark.parametrize("wrong", [transposed, as_hwc, without_bias, nearly])
@pytest.mark.parametrize("make", [Vgg, lambda: Vgg(1)])
@pytest.mark.parametrize("zero", [False, True])
def test_its_own_check_finds_wrong_surgery(monkeypatch, wrong, make, zero) -> None:
    model = make()
    shape = (3, 44, 44) if model.features[0].padding == (0, 0) else (3, 24, 24)
    model = seeded(model, torch.float32)
    if zero:  # a head that starts at zero proves nothing: other values are tried
        nn.init.zeros_(model.classifier[-1].weight)
    monkeypatch.setattr(dense_heads, "linear_to_full_conv", wrong)
    with pytest.raises(EquivError, match="expected a score for each window that equals the classifier's"):
        equiv.to_fully_convolutional(model, torch.zeros(1, *shape))


@torch.no_grad()
def test_other_threads_run_their_modules_meanwhile() -> None:
    other, x, wrong, done = seeded(OverFeat()), normal(1, 3, 33, 29), [], threading.Event()
    expected = other(x)

    def run() -> None:
        while not done.is_set():
            try:
                wrong.extend([] if torch.equal(other(x), expected) else ["other values"])
            except Exception as error:
                wrong.append(repr(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(5):
            equiv.to_fully_convolutional(seeded(ResNet()), normal(1, 3, 32, 32))
    finally:
        done.set()
        thread.join()
    assert not wrong


@torch.no_grad()
def test_batches_of_any_size_whatever_the_examples() -> None:
    class Squeezed(Vgg):
        def forward(self, x: Tensor) -> Tensor:
            return self.classifier[-1](functional.adaptive_avg_pool2d(self.features(x), 1).squeeze())

    model = seeded(Squeezed())
    model.classifier[-1] = seeded(nn.Linear(8, 5))
    dense = equiv.to_fully_convolutional(model, normal(2, 3, 44, 44))
    x = normal(3, 3, 52, 44)
    assert float((dense(x)[:, :, 1, 0] - model(x[:, :, 8:])).abs().max()) < 1e-13


@torch.no_grad()
def test_windows_say_which_part_of_the_input_they_are() -> None:
    windows = equiv.to_fully_convolutional(seeded(audio()), normal(1, 2, 37)).windows
    assert (windows.window, windows.stride, windows.offset, windows.padding) == ((37,), (6,), (0,), "keep")
    assert windows.at(2) == (slice(12, 49),)
    with pytest.raises(EquivError, match="position: expected 1 integers of at least 0"):
        windows.at(1, 2)
    with pytest.raises(EquivError, match="positions: expected 1 integers of at least 1"):
        windows.exact_at((0,))
