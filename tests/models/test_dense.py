"""Classifiers as fully convolutional models: every score is the classifier's on its window."""

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import equiv
from equiv import EquivError
from equiv.models import FullyConvolutional, dense_heads, dense_surgery
from equiv.models.dense_windows import Axis

A = slice(None)


def seeded(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval mode, with parameters and statistics drawn from a generator of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, held in model.state_dict().items():
            if held.is_floating_point():
                values = torch.randn(held.shape, generator=generator)
                spread = (held[0].numel() if held.ndim > 1 else 1) ** -0.5 * 1.5
                held.copy_(values.abs() + 0.5 if "var" in name else values * spread)
    return model.to(dtype).eval()


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Vgg(nn.Module):
    """Blocks of 3x3 convolutions, an adaptive pooling that does nothing, three Linear layers."""

    def __init__(self, padding: int = 0, classes: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, count in ((4, 2), (6, 2), (8, 1)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=padding), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(8 * 9, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 12), nn.ReLU(True), nn.Dropout(),
            nn.Linear(12, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class AlexNet(nn.Module):
    """A large first kernel with stride 4, response norms, overlapping pooling, groups, and a view."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 7, stride=4, padding=padding)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=padding, groups=2)
        self.fc6 = nn.Linear(8 * 3 * 3, 16)
        self.fc7 = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.max_pool2d(functional.local_response_norm(x, 3), 3, 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), kernel_size=3, stride=2)
        x = x.view(x.size(0), -1)
        x = functional.dropout(functional.relu(self.fc6(x)), 0.5, self.training)
        return functional.log_softmax(self.fc7(x), dim=-1)


class OverFeat(nn.Module):
    """Pooling that does not overlap, a Linear over 5 x 4 positions, a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh())
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(6 * 5 * 4, 9), nn.BatchNorm1d(9), nn.PReLU(9), nn.Linear(9, 4), nn.Softmax(-1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x))


class Block(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outs), nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        same = ins == outs and stride == 1
        self.down = nn.Identity() if same else nn.Sequential(nn.Conv2d(ins, outs, 1, stride), nn.BatchNorm2d(outs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.layers = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layers(self.stem(x))), 1))


def audio() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, 3),
        nn.ReLU(),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(20, 6),
        nn.BatchNorm1d(6),
        nn.Linear(6, 3),
    )


def video() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 3, 2),
        nn.ReLU(),
        nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(3, 4, 2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3 * 2, 5),
    )


class Branches(nn.Module):
    """Two branches joined along channels; a mean over H and W, and a dict with two results."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 2, 1, 2)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.norm, self.fc, self.other = nn.LayerNorm(6), nn.Linear(6, 4), nn.Linear(6, 2)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.cat([self.left(x), functional.max_pool2d(self.right(x), 2, 1)], 1)
        x = self.norm((x * self.scale).mean((-2, -1)))
        return {"scores": self.fc(x).sigmoid() + self.shift, "other": self.other(x)}


class Bend(nn.Module):
    """An ``if`` on a shape, which torch.fx cannot follow; a Linear as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.weight, self.bias = nn.Parameter(torch.ones(5, 4 * 9)), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        if x.shape[-1] > 3:
            x = functional.max_pool2d(x, 2)
        return functional.linear(x.flatten(1), self.weight, self.bias).softmax(-1)


class Last(nn.Module):
    """Channels last inside, as ConvNeXt has them, and flattened so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4), nn.Linear(4, 6)
        self.head = nn.Linear(6 * 3 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.up(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return self.head(x.reshape(x.shape[0], -1))


class LastPooled(Last):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.up(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return self.head(x.mean((1, 2)))


class Products(nn.Module):
    """Layers written as functions of parameters; a choice by sign, and pieces of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.weight = nn.Parameter(torch.ones(4, 3, 2, 2)), nn.Parameter(torch.ones(4 * 20, 6))
        self.out, self.shift = nn.Parameter(torch.ones(5, 6)), nn.Parameter(torch.ones(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.kernel)
        x = torch.where(x > 0, x, 0.1 * x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left.sigmoid(), right), dim=1).reshape(x.shape[0], -1)
        return functional.normalize(functional.linear(x @ self.weight + self.shift, self.out), dim=-1)


def partly() -> nn.Module:
    """Adaptive pooling that divides the map evenly."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 5))


UNPADDED = {
    "vgg": (Vgg, (3, 44, 44)),
    "alexnet": (AlexNet, (3, 79, 79)),
    "overfeat": (OverFeat, (3, 33, 29)),
    "audio": (audio, (2, 37)),
    "video": (video, (2, 4, 9, 7)),
    "branches": (Branches, (3, 9, 11)),
    "bend": (Bend, (3, 8, 8)),
    "last": (Last, (3, 6, 4)),
    "last pooled": (LastPooled, (3, 6, 4)),
    "tokens": (lambda: Tokens(), (3, 6, 8)),
    "products": (Products, (3, 6, 5)),
    "partly": (partly, (3, 8, 8)),
}
PADDED = {
    "vgg": (lambda: Vgg(1), (3, 24, 24)),
    "alexnet": (lambda: AlexNet(1), (3, 61, 61)),
    "resnet": (ResNet, (3, 32, 32)),
}


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


class With(nn.Module):
    """Features, something in the middle, and a head."""

    def __init__(self, middle: nn.Module, features: int = 4) -> None:
        super().__init__()
        self.conv, self.middle, self.fc = nn.Conv2d(3, 4, 3), middle, nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).flatten(1))


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Parameter(torch.ones(1, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.where).mean((2, 3))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        return self.attention(x, x, x)[0]


class Tokens(nn.Module):
    """Patches as tokens, normalized and mixed channel by channel, then averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.mix, self.fc = (
            nn.Conv2d(3, 4, 2, 2),
            nn.LayerNorm(4),
            nn.Linear(4, 6),
            nn.Linear(6, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.mix(self.norm(x)).relu().mean(1))


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(36, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.flatten(2))[0]


class Same(nn.Module):
    """SAME padding as TensorFlow has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        pad = max((-(-x.shape[-1] // 2) - 1) * 2 + 3 - x.shape[-1], 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        return self.conv(x).mean((2, 3))


def norm_in_train_mode() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return norm.train()


REFUSED = {
    "adaptive": (
        nn.AdaptiveAvgPool2d(4),
        64,
        r"model.middle: .*to \(4, 4\), whose kernels overlap and change.*AvgPool",
    ),
    "squeeze": (Squeeze(), 4, r"squeeze and excitation"),
    "embedding": (Embedding(), 4, r"positional embeddings.*use one value for each channel"),
    "attention": (
        Attention(),
        144,
        r"model.middle.attention: .*every position reads all others.*run it on each window",
    ),
    "lstm": (Rows(), 16, r"model.middle.lstm: .*LSTM.*reads positions one after another"),
    "same": (Same(), 4, r"pad alike at every size, .*SAME padding.*fixed padding="),
    "group norm": (nn.GroupNorm(2, 4), 144, r"model.middle: .*GroupNorm.*mean is taken over all positions.*BatchNorm"),
    "layer norm": (nn.LayerNorm((6, 6)), 144, r"model.middle: .*LayerNorm over \(6, 6\)"),
    "upsampling": (nn.Upsample(scale_factor=2), 576, r"model.middle: .*puts positions between others"),
    "transposed": (nn.ConvTranspose2d(4, 4, 1), 144, r"model.middle: .*puts positions between others"),
    "norm of positions": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144)),
        144,
        r"model.middle.1: .*second axis is not",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_same_on_every_window_is_refused_by_name(name: str) -> None:
    middle, features, words = REFUSED[name]
    with pytest.raises(EquivError, match=words):
        equiv.to_fully_convolutional(With(middle, features).eval(), torch.zeros(1, 3, 8, 8))


def test_training_mode_hooks_and_strangers_are_refused() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(EquivError, match=r"model.middle: expected a model in eval mode, got a BatchNorm2d.*its batch"):
        equiv.to_fully_convolutional(With(norm_in_train_mode(), 144), x)
    with pytest.raises(EquivError, match=r"model.middle: expected a model in eval mode, got a Dropout.*chance"):
        equiv.to_fully_convolutional(With(nn.Dropout(), 144), x)
    hooked = With(nn.ReLU(), 144).eval()
    hooked.conv.register_forward_hook(lambda *_: None)
    with pytest.raises(EquivError, match=r"model.conv: expected a Conv2d without forward hooks"):
        equiv.to_fully_convolutional(hooked, x)
    with pytest.raises(EquivError, match="example_input: expected a batch that the model takes"):
        equiv.to_fully_convolutional(With(nn.ReLU(), 144).eval(), torch.zeros(1, 3, 9, 9))
    with pytest.raises(EquivError, match="model: expected scores"):
        equiv.to_fully_convolutional(nn.Sequential(nn.Conv2d(3, 4, 3)), x)
    with pytest.raises(EquivError, match=r"model: expected a torch\.nn\.Module"):
        equiv.to_fully_convolutional(len, x)
    with pytest.raises(EquivError, match=r"example_input: expected a torch\.Tensor"):
        equiv.to_fully_convolutional(hooked.fc, [1])


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
