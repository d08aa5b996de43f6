"""Two models, layer by layer: planted defects are found at their layer, and right models name none."""

import copy
import json
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


def test_results_without_entries_are_refused_as_they_prove_nothing():
    with pytest.raises(equiv.EquivError, match="prove nothing; pass one sample or more"):
        diagnose(nn.ReLU(), nn.GELU(), torch.zeros(0, 8))
