"""Two models, layer by layer: planted defects are found at their layer, and right models name none."""

import copy
import json
import threading
import warnings

import pytest
import torch
from networks import Convolutions, Linears, Residual, SplitLinear, images, made, rewritten
from torch import Tensor, nn
from torch.nn import functional

import equiv
from equiv import Outcome, diagnose

MODEL = made(Residual)
LAYERS = [name for name, part in MODEL.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]


def change(model: nn.Module, name: str, defect: str, seed: int = 0) -> None:
    layer = model.get_submodule(name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if defect == "weight":
            flat = layer.weight.view(-1)
            flat[int(torch.randint(len(flat), (1,), generator=generator))] *= 1 + 2.0**-6
        elif defect == "ulp":
            flat = layer.weight.view(-1)
            at = int(torch.randint(len(flat), (1,), generator=generator))
            flat[at] = torch.nextafter(flat[at], torch.tensor(torch.inf))
        elif defect == "bias":
            layer.bias.zero_()
        else:
            layer.weight.copy_(layer.weight.roll(1, 1))


@pytest.mark.parametrize("defect", ["weight", "ulp", "bias", "channels"])
def test_a_defect_is_found_at_its_layer(defect: str) -> None:
    assert len(LAYERS) == 12
    for seed, name in enumerate(LAYERS):
        twin = rewritten(MODEL) if seed % 2 else copy.deepcopy(MODEL)
        change(twin, name, defect, seed)
        found = diagnose(twin, MODEL, images(seed))
        assert found.outcome is Outcome.DIFFERENT
        assert found.first_difference is not None
        assert (found.first_difference.candidate, found.first_difference.reference) == (name, name)
        assert [row.candidate for row in found.layers if row.verdict.outcome is Outcome.DIFFERENT] == [name]


def test_the_cause_and_its_mend_are_named() -> None:
    twin = copy.deepcopy(MODEL)
    change(twin, "blocks.2.fc1", "bias")
    first = diagnose(twin, MODEL, images()).first_difference
    assert first is not None
    assert first.cause is not None
    assert (first.cause.name, first.cause.fix) == ("bias-dropped", "bias = reference.bias")


@pytest.mark.parametrize("seed", range(5))
def test_other_orders_of_summation_are_rounding(seed: int) -> None:
    model = made(Residual, seed)
    found = diagnose(rewritten(model), model, images(seed))
    assert found.outcome is Outcome.ROUNDING
    assert found.first_difference is None
    assert bool(found)


class Activated(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        return self.head(functional.relu6(x.mT * 1.5).flatten(1))


class Transposed(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        return self.head(functional.relu(x).flatten(1))


@pytest.mark.parametrize("kind", [Activated, Transposed])
def test_code_between_layers_is_named_by_the_layer_after_it(kind: type[nn.Module]) -> None:
    twin = kind()
    twin.load_state_dict(MODEL.state_dict())
    first = diagnose(twin, MODEL, images()).first_difference
    assert first is not None
    assert (first.kind, first.candidate) == ("input", "head")


def test_an_activation_and_a_norm_are_named() -> None:
    for change_block, where in (
        (lambda block: setattr(block, "act", nn.SiLU()), "blocks.3.act"),
        (lambda block: setattr(block.norm, "eps", 1e-4), "blocks.3.norm"),
    ):
        twin = copy.deepcopy(MODEL)
        change_block(twin.blocks[3])
        first = diagnose(twin, MODEL, images()).first_difference
        assert first is not None
        assert first.candidate == where


class NoResidual(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = block.norm, block.fc1, block.act, block.fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


def test_a_missing_residual_is_named_by_its_block() -> None:
    twin = copy.deepcopy(MODEL)
    twin.blocks[2] = NoResidual(twin.blocks[2])
    first = diagnose(twin, MODEL, images()).first_difference
    assert first is not None
    assert (first.kind, first.candidate) == ("container", "blocks.2")


def ones(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return model


@pytest.mark.parametrize("exchanged", [False, True])
def test_the_two_networks_of_the_thread_differ_by_rounding_that_grows(exchanged: bool) -> None:
    linears = ones(Linears())
    models = (Convolutions(linears), linears)
    x = torch.randn(16, 5, 256, generator=torch.Generator().manual_seed(0))
    found = diagnose(*(models[::-1] if exchanged else models), x)
    assert found.outcome is Outcome.ROUNDING
    assert "run freely, the two part by" in found.explanation
    output = found.layers[-1]
    assert output.inherited is not None
    assert output.inherited > 1
    assert "as" in next(row.words for row in found.layers if row.candidate == "backbone.0")


def test_a_layout_hides_no_defect() -> None:
    linears = made(Linears)
    twin = Convolutions(linears)
    with torch.no_grad():
        twin.backbone[2].weight[3, 5] *= 1.01
    first = diagnose(twin, linears, torch.randn(16, 5, 256)).first_difference
    assert first is not None
    assert first.candidate == "backbone.2"


def test_a_full_convolution_stands_for_the_layer_after_a_flatten() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(128, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).relu().flatten(1))

    class Full(Dense):
        def __init__(self, like: Dense, order: tuple[int, ...]) -> None:
            super().__init__()
            self.order = order
            self.features = copy.deepcopy(like.features)
            weight = like.fc.weight.view(5, 8, 4, 4)
            self.fc = nn.Conv2d(8, 5, 4)
            self.fc.load_state_dict({"weight": weight.permute(0, *(k + 1 for k in order)), "bias": like.fc.bias})

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).relu()).flatten(1)

    model = made(Dense)
    assert diagnose(Full(model, (0, 1, 2)), model, images()).equivalent
    first = diagnose(Full(model, (0, 2, 1)), model, images()).first_difference
    assert first is not None
    assert (first.candidate, first.cause and first.cause.name) == ("fc", "spatial-swapped")


def test_a_channels_last_flatten_with_permuted_weights_is_the_same_function() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.fc(self.conv(x).relu()).flatten(1))

    class ChannelsLast(Flat):
        def __init__(self, like: Flat) -> None:
            super().__init__()
            self.conv, self.last, self.fc = like.conv, like.last, nn.Linear(32, 5)
            weight = like.fc.weight.permute(0, 2, 3, 1).flatten(1)
            self.fc.load_state_dict({"weight": weight, "bias": like.fc.bias})

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.fc(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1)))

    model = made(Flat)
    assert diagnose(ChannelsLast(model), model, images()).equivalent


class Lower(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.bfloat16(), self.weight.bfloat16(), self.bias.bfloat16()).float()


class LowFactors(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        def cut(t: Tensor) -> Tensor:
            return (t.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)

        return functional.linear(cut(x), cut(self.weight), self.bias)


@pytest.mark.parametrize(("kind", "cause"), [(Lower, "computed-bfloat16"), (LowFactors, "truncated-tf32")])
def test_a_layer_that_computes_in_a_narrower_format_is_named(kind: type[nn.Linear], cause: str) -> None:
    model = made(nn.Linear, 0, 1024, 64)
    model = nn.Sequential(model, nn.ReLU(), made(nn.Linear, 1, 64, 64))
    twin = copy.deepcopy(model)
    twin[0].__class__ = kind  # with inputs from torch.rand its results alone lie within K*u*S
    first = diagnose(twin, model, torch.rand(8, 1024)).first_difference
    assert first is not None
    assert (first.candidate, first.cause and first.cause.name) == ("0", cause)


def test_what_draws_random_numbers_is_said_before_anything_else() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    found = diagnose(model, model, torch.randn(3, 4))
    assert (found.outcome, found.layers) == (Outcome.UNDECIDED, ())
    assert found.explanation.startswith("the candidate's 1 (Dropout) is in training mode")
    assert "Call .eval() on both" in found.explanation
    assert diagnose(model.eval(), model, torch.randn(3, 4)).outcome is Outcome.IDENTICAL
    found = diagnose(lambda x: functional.dropout(model(x)), model, torch.randn(3, 4))
    assert found.outcome is Outcome.UNDECIDED
    assert "returns other bits when it is run again" in found.explanation


class Headed(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.body, self.head, self.act = nn.Linear(8, 8), nn.Linear(8, 4), act
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.head(self.body(x))) if self.act is None else self.act(self.head(self.body(x)))


def test_zeros_prove_nothing_and_other_values_are_tried() -> None:
    model, twin = Headed(None), Headed(nn.GELU())
    twin.load_state_dict(model.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(twin(x), model(x))
    found = diagnose(twin, model, x)
    assert found.outcome is Outcome.DIFFERENT
    assert "prove nothing" in found.notes[0]
    assert diagnose(copy.deepcopy(model), model, x).outcome is Outcome.IDENTICAL


class Attention(nn.Module):
    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        v, k, q = self.v(x), self.k(x), self.q(x)
        if self.scale is None:
            return self.out(functional.scaled_dot_product_attention(q, k, v))
        return self.out((q @ k.mT / self.scale).softmax(-1) @ v)


@pytest.mark.parametrize(("scale", "equivalent"), [(4.0, True), (4.0001, False)])
def test_attention_is_judged_in_float64(scale: float, equivalent: bool) -> None:
    torch.manual_seed(0)
    model, twin = Attention(), Attention(scale)
    twin.load_state_dict(model.state_dict())
    found = diagnose(twin, model, torch.randn(2, 70, 16))
    assert found.equivalent is equivalent
    if not equivalent:
        assert found.first_difference is not None
        assert found.first_difference.candidate == "out"


class Merged(nn.Module):
    def __init__(self, like: Attention) -> None:
        super().__init__()
        parts = (like.q, like.k, like.v)
        self.qkv, self.out = nn.Linear(16, 48), like.out
        self.qkv.load_state_dict({key: torch.cat([getattr(p, key) for p in parts]) for key in ("weight", "bias")})

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))


def test_layers_without_counterpart_are_listed_and_judged_as_code_between() -> None:
    torch.manual_seed(0)
    model = Attention()
    twin = Merged(copy.deepcopy(model))
    found = diagnose(twin, model, torch.randn(2, 5, 16))
    assert found.equivalent
    assert found.unpaired == (("qkv",), ("v", "k", "q"))
    with torch.no_grad():
        twin.qkv.weight[3, 3] *= 1.01
    first = diagnose(twin, model, torch.randn(2, 5, 16)).first_difference
    assert first is not None
    assert (first.kind, first.candidate) == ("input", "out")


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(32, 3)
        for t in (self.bn.running_mean, self.bn.bias):
            t.data.normal_()
        for t in (self.bn.running_var, self.bn.weight):
            t.data.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).relu().flatten(1))


def folded(model: Normed, *, deviation: bool = True) -> nn.Module:
    twin = copy.deepcopy(model)
    bn, variance = model.bn, model.bn.running_var + model.bn.eps
    factor = bn.weight / (variance.sqrt() if deviation else variance)
    with torch.no_grad():
        twin.conv.weight.mul_(factor[:, None, None, None])
        twin.conv.bias.copy_((model.conv.bias - bn.running_mean) * factor + bn.bias)
    twin.bn = nn.Identity()
    return twin


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_fold_is_a_chain(exchanged: bool) -> None:
    model = made(Normed)
    for deviation in (True, False):
        pair = (folded(model, deviation=deviation), model)
        found = diagnose(*(pair[::-1] if exchanged else pair), images())
        assert "conv + bn" in {name for row in found.layers for name in (row.candidate, row.reference)}
        if deviation:
            assert found.outcome is not Outcome.DIFFERENT
        else:
            assert found.first_difference is not None
            assert found.first_difference.candidate.startswith("conv")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, x = copy.deepcopy(MODEL).to(dtype), images().to(dtype)
    assert diagnose(copy.deepcopy(model), model, x).outcome is Outcome.IDENTICAL
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.blocks[1].fc2.bias[3] += 0.1
    first = diagnose(twin, model, x).first_difference
    assert first is not None
    assert first.candidate == "blocks.1.fc2"


def test_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert diagnose(copy.deepcopy(MODEL), MODEL, images()).outcome is Outcome.IDENTICAL
        twin = copy.deepcopy(MODEL)
        with torch.no_grad():
            twin.blocks[1].fc2.bias[3] += 0.1
        first = diagnose(twin, MODEL, images()).first_difference
    assert first is not None
    assert first.candidate == "blocks.1.fc2"


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.act, self.side = nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.step.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for _ in range(3):
            x = self.act(self.step(x)) + self.side(x)
        return {"last": self.tied(x), "index": x.argmax(-1)}


def test_modules_called_several_times_in_place_and_tied() -> None:
    model = made(Repeated)
    found = diagnose(rewritten(model), model, torch.randn(4, 16))
    assert found.outcome is Outcome.ROUNDING
    assert {row.candidate: row.calls for row in found.layers}["step"] == 3


def test_functions_sessions_and_compiled_models_are_judged_as_a_whole() -> None:
    class Session:
        def get_inputs(self) -> list[object]:
            return [type("Input", (), {"name": "x"})()]

        def run(self, _: object, given: dict[str, object]) -> list[object]:
            return [self.model(torch.from_numpy(given["x"])).detach().numpy()]

    session = Session()
    session.model = rewritten(MODEL)
    assert diagnose(session, MODEL, images()).outcome is Outcome.ROUNDING
    assert diagnose(lambda x: session.model(x), lambda x: MODEL(x), images()).outcome is Outcome.ROUNDING
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(MODEL, images())
    assert diagnose(traced, MODEL, images()).equivalent
    session.model = copy.deepcopy(MODEL)
    change(session.model, "blocks.2.fc1", "channels")
    assert diagnose(session, MODEL, images()).outcome is Outcome.DIFFERENT
    assert diagnose(session.model.forward, MODEL, images()).outcome is Outcome.DIFFERENT


def test_names_may_be_given() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    twin = Outer()
    twin.first, twin.second = copy.deepcopy(model[0]), copy.deepcopy(model[2])
    with torch.no_grad():
        twin.second.weight[1, 1] += 1
    for match in (None, {"first": "0", "second": "2"}):
        first = diagnose(twin, model, torch.randn(3, 8), match=match).first_difference
        assert first is not None
        assert (first.candidate, first.reference) == ("second", "2")
    with pytest.raises(equiv.EquivError, match=r"did you mean 'second'\?"):
        diagnose(twin, model, torch.randn(3, 8), match={"secnd": "2"})
    with pytest.raises(equiv.EquivError, match="the reference has none of this name"):
        diagnose(twin, model, torch.randn(3, 8), match={"second": "7"})


def test_what_cannot_be_served_is_refused_in_words() -> None:
    with pytest.raises(equiv.EquivError, match=r"reference: expected a model that runs on the inputs .*cannot be mult"):
        diagnose(SplitLinear(3, 3), SplitLinear(3, 3), torch.randn(2, 5))
    with pytest.raises(equiv.EquivError, match="candidate: expected results of the structure"):
        diagnose(lambda x: (x, x), lambda x: x, torch.randn(2))
    with pytest.raises(equiv.EquivError, match="candidate: expected a module, a function or a session, got 3"):
        diagnose(3, MODEL, images())


def test_nothing_of_the_models_changes() -> None:
    model, twin = copy.deepcopy(MODEL), rewritten(MODEL)
    for each in (model, twin):
        each.register_buffer("mean", torch.zeros(2))
        each.head.weight.grad = torch.ones_like(each.head.weight)
        each.blocks[0].train()
    calls: list[int] = []
    model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    x = images().requires_grad_()

    def state(part: nn.Module) -> list[object]:
        hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks), m.training, "forward" in vars(m)) for m in part.modules()
        ]
        return [hooks, [p.requires_grad for p in part.parameters()], [id(p) for p in part.parameters()]]

    def values(part: nn.Module) -> list[Tensor]:
        return [t.clone() for t in (*part.state_dict().values(), part.head.weight.grad)]

    before, kept = [state(model), state(twin)], [values(model), values(twin)]
    random, given = torch.get_rng_state(), x.detach().clone()
    diagnose(twin, model, x)
    change(twin, "head", "weight")
    assert not diagnose(twin, model, x)
    assert [state(model), state(twin)] == before
    assert all(torch.equal(a, b) for a, b in zip(kept[0], values(model), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(given, x)
    assert x.grad is None
    assert torch.is_grad_enabled()
    assert calls


def test_batch_statistics_are_left_alone() -> None:
    model = made(Normed).train()
    before = model.bn.running_mean.clone()
    assert diagnose(model, model, images()).outcome is Outcome.UNDECIDED
    diagnose(lambda x: model.eval()(x), model, images())
    assert torch.equal(before, model.bn.running_mean)


def test_the_report_fits_a_screen_and_json() -> None:
    twin = rewritten(MODEL)
    change(twin, "blocks.4.fc2", "weight")
    for found in (diagnose(twin, MODEL, images()), diagnose(rewritten(MODEL), MODEL, images())):
        lines = str(found).splitlines()
        assert len(lines) <= 40
        assert all(len(line) <= 79 for line in lines if not line.startswith("fix "))
        assert json.loads(json.dumps(found.to_dict()))["outcome"] == found.outcome.value
    assert "blocks.4.fc2                     DIFFERENT" in str(diagnose(twin, MODEL, images()))


class Folded(nn.Module):
    """Two convolutions with batch norms around one activation that is called twice, and a path beside them."""

    def __init__(self, *, adds: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            part for _ in range(2) for part in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        )
        self.act, self.adds = nn.ReLU(), adds

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(y + x if self.adds else y)


def test_a_lost_path_beside_folded_layers_is_found() -> None:
    torch.manual_seed(0)
    old = made(Folded)
    new = copy.deepcopy(old)
    for number in "12":
        conv, norm = (new.get_submodule(kind + number) for kind in ("conv", "bn"))
        setattr(new, f"conv{number}", nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
        setattr(new, f"bn{number}", nn.Identity())
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert diagnose(new, old, x).outcome is Outcome.ROUNDING
    new.adds = False
    found = diagnose(new, old, x)
    assert found.outcome is Outcome.DIFFERENT
    assert found.first_difference is not None
    assert found.first_difference.candidate == "act"


class ChannelsLast(nn.Module):
    def __init__(self, like: nn.Sequential) -> None:
        super().__init__()
        self.conv, self.fc = copy.deepcopy(like[0]), copy.deepcopy(like[3])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("defect", [None, "weight", "order"])
def test_a_map_flattened_in_another_order_with_the_weight_in_that_order(defect: str | None) -> None:
    torch.manual_seed(0)
    old = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 6)).eval()
    new = ChannelsLast(old)
    with torch.no_grad():
        if defect != "order":
            new.fc.weight.copy_(old[3].weight.view(6, 8, 4).transpose(1, 2).reshape(6, -1))
        if defect == "weight":
            new.fc.weight[2, 5] *= 1 + 2.0**-6
    found = diagnose(new, old, images())
    assert found.outcome in ((Outcome.DIFFERENT,) if defect else (Outcome.ROUNDING, Outcome.IDENTICAL))
    if defect:
        assert found.first_difference is not None
        assert found.first_difference.candidate == "fc"


def test_permuted_columns_of_a_layer_that_is_fed_one_value_throughout_are_a_defect() -> None:
    torch.manual_seed(0)
    old = nn.Sequential(nn.Linear(8, 3))
    new = copy.deepcopy(old)
    with torch.no_grad():
        new[0].weight.copy_(old[0].weight.roll(1, 1))
    assert diagnose(new, old, torch.ones(2, 8)).outcome is Outcome.DIFFERENT


class Embedded(nn.Module):
    def __init__(self, **settings: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, **settings), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def test_another_stride_is_named_where_sizes_differ() -> None:
    torch.manual_seed(0)
    old, new = Embedded(), Embedded(stride=2)
    new.load_state_dict(old.state_dict())
    first = diagnose(new, old, images()).first_difference
    assert first is not None
    assert first.candidate == "conv"
    assert first.cause is not None
    assert first.cause.sentence == "stride is (2, 2), and (1, 1) in the reference"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (nn.GELU("tanh"), nn.GELU()),
        (nn.LayerNorm(16, eps=1e-3), nn.LayerNorm(16)),
        (nn.LayerNorm(16, eps=1e-12), nn.LayerNorm(16)),
    ],
)
def test_another_setting_is_found_in_every_format_and_its_mend_mends(
    wrong: nn.Module, right: nn.Module, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    old = nn.Sequential(nn.Linear(8, 16), right, nn.Linear(16, 4)).to(dtype).eval()
    new = nn.Sequential(*copy.deepcopy(old[:1]), copy.deepcopy(wrong).to(dtype), *copy.deepcopy(old[2:])).eval()
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    first = diagnose(new, old, x).first_difference
    assert first is not None
    assert first.candidate == "1"
    assert first.cause is not None
    exec(first.cause.fix, {"candidate": new})
    assert diagnose(new, old, x).outcome is Outcome.IDENTICAL


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_merged_lora_is_rounding_and_another_scale_is_not(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))
    lora = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=False))
    lora = lora.to(dtype).eval()
    merged = copy.deepcopy(lora).merge_and_unload().eval()
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    for pair in ((merged, lora), (lora, merged)):
        assert diagnose(*pair, x).outcome is Outcome.ROUNDING
    with torch.no_grad():
        merged[2].weight += 0.5 * (merged[2].weight - lora.base_model.model[2].base_layer.weight)
    first = diagnose(merged, lora, x).first_difference
    assert first is not None
    assert first.candidate == "2"


def test_results_without_a_finite_value_prove_nothing() -> None:
    x = torch.full((2, 8), torch.nan)
    torch.manual_seed(0)
    old = nn.Sequential(nn.Linear(8, 4), nn.GELU())
    new = nn.Sequential(copy.deepcopy(old[0]), nn.GELU("tanh"))
    found = diagnose(new, old, x)
    assert found.outcome is Outcome.UNDECIDED
    assert "no finite value" in found.explanation


def test_a_size_written_twice_is_no_other_setting() -> None:
    torch.manual_seed(0)
    old = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d((2, 2)))
    new = nn.Sequential(copy.deepcopy(old[0]), nn.MaxPool2d(2))
    found = diagnose(new, old, images())
    assert (found.outcome, found.notes) == (Outcome.IDENTICAL, ())


def test_another_type_that_gives_the_same_results_is_noted() -> None:
    torch.manual_seed(0)
    old = nn.Sequential(nn.Linear(8, 16), nn.ReLU6())
    found = diagnose(nn.Sequential(copy.deepcopy(old[0]), nn.ReLU()), old, torch.randn(3, 8))
    assert found.outcome is Outcome.IDENTICAL
    assert found.notes[0].startswith("1: is ReLU, and ReLU6 in the reference; the results are the same on these inputs")


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation inside, as timm has it."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


@pytest.mark.parametrize("defect", ["eps", "weight", "act"])
def test_what_a_module_around_others_computes_itself_is_named_by_it(defect: str) -> None:
    torch.manual_seed(0)
    old = nn.Sequential(nn.Conv2d(3, 4, 1), NormAct(4), nn.Conv2d(4, 2, 1)).eval()
    new = copy.deepcopy(old)
    with torch.no_grad():
        if defect == "eps":
            new[1].eps = 1e-3
        elif defect == "weight":
            new[1].weight[2] *= 1 + 2.0**-6
        else:
            new[1].act = nn.LeakyReLU()
    first = diagnose(new, old, images()).first_difference
    assert first is not None
    assert first.candidate == ("1.act" if defect == "act" else "1")
    if defect != "act":
        assert first.cause is not None
        exec(first.cause.fix, {"candidate": new, "reference": old})
        assert diagnose(new, old, images()).outcome is Outcome.IDENTICAL


def test_results_without_entries_are_refused_as_they_prove_nothing():
    with pytest.raises(equiv.EquivError, match="prove nothing; pass one sample or more"):
        diagnose(nn.ReLU(), nn.GELU(), torch.zeros(0, 8))


class SequenceFirst(nn.Module):
    """Two layers and an activation over ``(S, N, F)``, as Linear layers or as convolutions over ``(N, F, S)``."""

    def __init__(self, *, convolutions: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 16, 1) if convolutions else nn.Linear(8, 16)
        self.act = nn.GELU()
        self.second = nn.Conv1d(16, 4, 1) if convolutions else nn.Linear(16, 4)
        self.convolutions = convolutions

    def forward(self, x: Tensor) -> Tensor:
        if not self.convolutions:
            return self.second(self.act(self.first(x)))
        return self.second(self.act(self.first(x.permute(1, 2, 0)))).permute(2, 0, 1)


class Exchanged(SequenceFirst):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1))


@pytest.mark.parametrize("batch", [3, 5, 8])
def test_a_sequence_as_long_as_its_batch_is_one_layout(batch: int) -> None:
    old, new = SequenceFirst(convolutions=False), SequenceFirst(convolutions=True)
    state = {k: v.unsqueeze(-1) if k.endswith("weight") else v for k, v in old.state_dict().items()}
    new.load_state_dict(state)
    x = torch.randn(5, batch, 8, generator=torch.Generator().manual_seed(0))
    assert diagnose(new, old, x).equivalent
    if batch == 5:
        new.__class__ = Exchanged
        assert diagnose(new, old, x).outcome is Outcome.DIFFERENT
        same = copy.deepcopy(old)
        same.__class__ = Exchanged
        first = diagnose(same, old, x).first_difference
        assert first is not None
        assert (first.kind, first.candidate) == ("input", "first")


class Drawing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias) + 0 * torch.rand(x.shape[0], 1)


def test_generators_are_put_back_only_where_a_model_draws() -> None:
    model, x = nn.Sequential(nn.Linear(8, 4)), torch.randn(3, 8)
    drew: list[Tensor] = []
    ended = threading.Event()

    def draws() -> None:
        while not ended.is_set() and len(drew) < 5000:
            drew.append(torch.rand(4))

    thread = threading.Thread(target=draws)
    thread.start()
    for _ in range(3):
        diagnose(model, model, x)
    ended.set()
    thread.join()
    assert len({tuple(values.tolist()) for values in drew}) == len(drew)
    drawing = nn.Sequential(Drawing(8, 4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    diagnose(drawing, drawing, x)
    assert torch.equal(torch.get_rng_state(), before)
