"""Linear layers of a model as 1x1 convolutions: the same results, parameters and ties, and a report of what ran."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import equiv
from equiv import EquivError
from equiv.models import Conversion, PointwiseLinear
from equiv.models.pointwise_layers import is_pointwise

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))


def names_left(model: nn.Module) -> dict[str, str]:
    return {row.name: row.reason for row in model.report.left_alone}  # type: ignore[union-attr, misc]


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(-4, 5, shape).to(dtype)


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(6, 4), (1, 1), (1, 5), (7, 1), (33, 17)])
def test_small_integers_give_the_same_bits(dtype: torch.dtype, sizes: tuple[int, int]) -> None:
    layer = nn.Linear(*sizes).to(dtype).requires_grad_(False)
    layer.weight.copy_(integers(*layer.weight.shape))
    layer.bias.copy_(integers(sizes[1]))
    converted = equiv.to_pointwise(layer)
    assert type(converted) is PointwiseLinear
    for batch in ((), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0), (40,), (2, 3, 2, 1)):
        x = integers(*batch, sizes[0], dtype=dtype)
        assert torch.equal(converted(x), layer(x))
        assert converted(x).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_converted_layer_is_equivalent_and_a_changed_one_is_not(dtype: torch.dtype) -> None:
    layer = nn.Linear(40, 9).to(dtype)
    converted = equiv.to_pointwise(layer)
    equiv.assert_equivalent(converted, layer)
    converted.weight.data[3, 5] *= 1.5
    with pytest.raises(equiv.NotEquivalent):
        equiv.assert_equivalent(converted, layer)


@pytest.mark.parametrize("kind", ["strided", "transposed", "broadcast", "channels last"])
def test_any_strides_of_the_input(kind: str) -> None:
    layer = nn.Linear(6, 4).requires_grad_(False)
    layer.weight.copy_(integers(4, 6))
    layer.bias.copy_(integers(4))
    x = {
        "strided": integers(5, 12)[:, ::2],
        "transposed": integers(6, 5).t(),
        "broadcast": integers(6).expand(3, 5, 6),
        "channels last": integers(2, 6, 3, 4).permute(0, 2, 3, 1),
    }[kind]
    assert torch.equal(equiv.to_pointwise(layer)(x), layer(x))


def test_gradients_and_steps_of_an_optimizer_are_the_same() -> None:
    model = mlp().double()
    for parameter in model.parameters():
        parameter.data = integers(*parameter.shape).double()
    converted = equiv.to_pointwise(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    for _ in range(2):
        model(integers(5, 6).double()).sum().backward()
        optimizer.step()
    converted.load_state_dict(model.state_dict())
    other = torch.optim.AdamW(converted.parameters(), lr=0.25)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share it
    x = torch.randn(5, 6).double()
    for each, steps in ((model, optimizer), (converted, other)):
        steps.zero_grad()
        each(x).square().sum().backward()
        steps.step()
    for old, new in zip(model.parameters(), converted.parameters(), strict=True):
        assert new.grad is not None
        assert new.grad.stride() == old.grad.stride()  # type: ignore[union-attr]
        torch.testing.assert_close(new.grad, old.grad)
        torch.testing.assert_close(new, old)


def test_second_derivatives() -> None:
    layer = equiv.to_pointwise(nn.Linear(3, 2).double())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_nothing_of_the_model_is_touched() -> None:
    model = nn.Sequential(mlp(), nn.Dropout()).eval()
    model[0][0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn, held = torch.get_rng_state(), {id(module): dict(vars(module)) for module in model.modules()}
    converted = equiv.to_pointwise(model, example_inputs=torch.zeros(2, 6))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert {id(module): dict(vars(module)) for module in model.modules()} == held
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(model[0][0]) is nn.Linear
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in converted.parameters()}
    assert not shared
    assert [p.requires_grad for p in converted.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not converted.training
    assert list(converted.state_dict()) == list(before)


def test_the_example_changes_no_buffer_of_the_result() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    converted = equiv.to_pointwise(model, example_inputs=torch.randn(8, 4))
    assert int(converted[1].num_batches_tracked) == 0
    assert "forward" not in vars(converted[0])


def test_tied_and_shared_layers_stay_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 5)
            self.block = nn.Linear(5, 5)
            self.again = self.block
            self.head = nn.Linear(5, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.block(self.embedding(x))))

    model = Tied()
    converted = equiv.to_pointwise(model, example_inputs=torch.tensor([1, 2]))
    assert converted.head.weight is converted.embedding.weight
    assert converted.block is converted.again
    (block,) = [row for row in converted.report.converted if row.name == "block"]  # type: ignore[union-attr, misc]
    assert (block.also, block.calls) == (("again",), 2)
    assert next(iter(converted.parameters())).shape == (7, 5)
    assert len(list(converted.parameters())) == len(list(model.parameters()))


def test_it_survives_copy_pickle_and_save() -> None:
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(6, 6), nn.ModuleList([nn.Linear(6, 6)])[0])
    converted = equiv.to_pointwise(model)
    x = torch.randn(3, 6)
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    for again in (
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),
        torch.load(file, weights_only=False),
    ):
        assert all(is_pointwise(layer) for layer in again)
        assert torch.equal(again(x), converted(x))
        assert isinstance(again.report, Conversion)
    assert is_pointwise(copy.deepcopy(equiv.to_pointwise(Mine(2, 2))))
    assert isinstance(equiv.to_pointwise(Mine(2, 2)), Mine)


def test_subclasses_of_other_modules_pickle() -> None:
    layer = equiv.to_pointwise(nn.modules.linear.NonDynamicallyQuantizableLinear(3, 2))
    again = pickle.loads(pickle.dumps(layer))
    assert type(again) is type(layer)
    assert is_pointwise(again)


def test_converting_twice_changes_nothing() -> None:
    once = equiv.to_pointwise(mlp())
    twice = equiv.to_pointwise(once)
    assert [type(layer) for layer in twice] == [type(layer) for layer in once]
    assert len(twice.report.converted) == 2  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model, x = mlp(), torch.randn(4, 6)
    with torch.autocast("cpu", dtype):
        y = equiv.to_pointwise(model)(x)
        expected = model(x)
    assert y.dtype == expected.dtype == dtype
    verdict = equiv.compare(y.float(), expected.float(), rtol=2**-5, atol=2**-5)
    assert verdict.equivalent


def test_transforms_of_functions() -> None:
    layer = nn.Linear(4, 3)
    layer.weight.data, layer.bias.data = integers(3, 4), integers(3)
    converted = equiv.to_pointwise(layer)
    x = integers(5, 2, 4)
    assert torch.equal(torch.vmap(converted)(x), layer(x))
    weights = {"weight": integers(6, 3, 4), "bias": integers(6, 3)}

    def call(own: dict[str, torch.Tensor], module: nn.Module) -> torch.Tensor:
        return torch.func.functional_call(module, own, (x[0],))

    every = torch.vmap(lambda own: call(own, converted))(weights)
    assert torch.equal(every, torch.vmap(lambda own: call(own, layer))(weights))
    jacobian = torch.func.jacrev(converted)(x[0, 0])
    assert torch.equal(jacobian, layer.weight)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_it_compiles_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor's cache hands out kernels made for other instruction sets of ATEN_CPU_CAPABILITY.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = mlp()
    converted, x = equiv.to_pointwise(model), torch.randn(5, 6)
    compiled = torch.compile(converted, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    program = torch.export.export(converted, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(torch.cat([x, x])), model(torch.cat([x, x])))


@pytest.mark.filterwarnings("ignore:.*jit")
def test_it_scripts() -> None:
    converted = equiv.to_pointwise(mlp())
    scripted, x = torch.jit.script(converted), torch.randn(2, 6)
    assert torch.equal(scripted(x), converted(x))


def test_hooks_are_kept() -> None:
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda module, args, result: seen.append(type(module)) or result * 2)
    converted, x = equiv.to_pointwise(model), integers(3, 6)
    torch.testing.assert_close(converted(x), model(x))
    assert seen == [PointwiseLinear, nn.Linear]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_computed_weights_are_read_when_they_are_used() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.utils.weight_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
        prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5),
    ).eval()
    model(torch.zeros(1, 4))  # leaves computed weights on the layers
    converted, x = equiv.to_pointwise(model, example_inputs=torch.zeros(1, 4)), torch.randn(3, 4)
    assert len(converted.report.converted) == 4  # type: ignore[arg-type, union-attr]
    assert not converted.report.left_alone  # type: ignore[union-attr]
    torch.testing.assert_close(converted(x), model(x))
    for each in (model, converted):
        each[0].parametrizations.weight.original1.data.mul_(2)
        each[1].weight_g.data.mul_(2)
    torch.testing.assert_close(converted(x), model(x))
    parametrize.remove_parametrizations(converted[0], "weight")
    assert type(converted[0]) is PointwiseLinear
    assert parametrize.is_parametrized(model[0])
    torch.testing.assert_close(converted(x), model(x))
    back = equiv.to_linear(converted)
    assert [is_pointwise(layer) for layer in back] == [False] * 4
    assert isinstance(parametrize.type_before_parametrizations(back[2]), type(nn.Linear))
    torch.testing.assert_close(back(x), model(x))


def test_a_parametrization_can_be_registered_afterwards() -> None:
    converted = equiv.to_pointwise(nn.Linear(3, 3))
    nn.utils.parametrizations.weight_norm(converted)
    assert is_pointwise(converted)
    back = equiv.to_linear(converted)
    assert parametrize.type_before_parametrizations(back) is nn.Linear
    assert type(converted).__bases__ == (PointwiseLinear,)


class Own(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.layer.weight) @ self.weight


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_what_cannot_be_converted_is_left_alone_and_reported() -> None:
    patched = nn.Linear(4, 4)
    patched.forward = lambda input: input  # type: ignore[method-assign]

    class Subclass(torch.Tensor):
        def new_empty(self, *args: Any, **kwargs: Any) -> Any:
            return super().new_empty(*args, **kwargs).as_subclass(Subclass)

    odd = nn.Linear(4, 4)
    odd.weight = nn.Parameter(torch.randn(4, 4).as_subclass(Subclass))
    model = nn.ModuleDict(
        {
            "own": Own(4, 4),
            "lazy": nn.LazyLinear(4),
            "patched": patched,
            "odd": odd,
            "empty": nn.Linear(0, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "lstm": nn.LSTM(4, 4),
            "bilinear": nn.Bilinear(4, 4, 4),
            "raw": Raw(),
            "plain": nn.Linear(4, 4),
            "norm": nn.LayerNorm((4, 4)),
            "conv": nn.Conv2d(4, 4, 1),
        }
    )
    converted: Any = equiv.to_pointwise(model)
    assert {row.name for row in converted.report.converted} == {"plain", "raw.layer"}
    left = names_left(converted)
    assert set(left) == {
        *("own", "lazy", "patched", "odd", "empty", "attention", "attention.out_proj", "lstm", "bilinear", "raw"),
    }
    assert "has its own forward" in left["own"]
    assert "run the model once" in left["lazy"]
    assert "Subclass" in left["odd"]
    assert "never calls it" in left["attention.out_proj"]
    assert type(converted["own"]) is Own
    json.dumps(converted.report.to_dict())


def test_quantized_layers_are_reported() -> None:
    class QuantLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("packed", torch.zeros(4, 4, dtype=torch.int8))

    assert "is no torch.nn.Linear" in names_left(equiv.to_pointwise(nn.Sequential(mlp(), QuantLinear())))["1"]


def test_products_that_no_layer_computes_are_named() -> None:
    converted: Any = equiv.to_pointwise(Raw(), example_inputs=torch.randn(3, 4))
    (layer,) = converted.report.converted
    assert layer.calls == 0
    assert [(row.operation, row.converted) for row in converted.report.products] == [("aten.mm", False)] * 2
    assert [row.reason for row in converted.report.products] == [
        "code of Raw multiplies layer.weight",
        "code of Raw multiplies weight",
    ]
    assert "1 converted without being called" in str(converted.report)
    assert "in the example 0 converted products ran, and 2 others" in str(converted.report)


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("grad", [True, False])
def test_the_fast_path_of_encoder_layers_does_not_pass_by_converted_layers(grad: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model: Any = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(3, 5, 8)
    converted: Any = equiv.to_pointwise(model, example_inputs=x)
    assert [row.calls for row in converted.report.converted] == [1] * 4
    assert "fast path" in converted.report.notes[0]
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(converted(x), model(x))
        mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
        masked, expected = (each(x, src_key_padding_mask=mask) for each in (converted, model))
        torch.testing.assert_close(masked[~mask], expected[~mask])
    back: Any = equiv.to_linear(converted)
    assert (back.use_nested_tensor, back.layers[0].activation_relu_or_gelu) == (True, 1)
    with torch.set_grad_enabled(grad):
        assert torch.equal(back(x, src_key_padding_mask=mask), expected)
    untouched: Any = equiv.to_pointwise(nn.Sequential(model, nn.Linear(8, 2)), only="1")
    assert (untouched[0].use_nested_tensor, untouched[0].layers[0].activation_relu_or_gelu) == (True, 1)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("0.0", {"0.0"}),
        ("1.*", {"1.0", "1.2"}),
        (["0.0", "1.?"], {"0.0", "1.0", "1.2"}),
        ({"*.2"}, {"0.2", "1.2"}),
        (lambda name, module: module.bias is None, {"0.2", "1.2"}),
        (lambda name, module: name.startswith("0"), {"0.0", "0.2"}),
        (None, {"0.0", "0.2", "1.0", "1.2"}),
    ],
)
def test_only_chooses(only: Any, names: set[str]) -> None:
    converted: Any = equiv.to_pointwise(nn.Sequential(mlp(), mlp()), only=only)
    assert {name for name, module in converted.named_modules() if is_pointwise(module)} == names
    assert {row.name for row in converted.report.converted} == names
    assert set(names_left(converted).values()) <= {"not chosen by only"}
    assert len(converted.report.converted) + len(converted.report.left_alone) == 4


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("0.encodr", "did you mean '0.encoder'\\?"),
        ("0", "it holds 1 of them: pass '0\\.\\*'"),
        ("nothing*", "names or patterns of linear layers"),
        ((), "a choice of linear layers"),
        (3, "a name, a pattern, a tuple of them or a predicate"),
        (["0.encoder", 3], "a name, a pattern"),
        (lambda name, module: False, "a choice of linear layers"),
        (lambda name: True, "a predicate of a name and a module, got one that raises TypeError"),
        (nn.Linear, "a predicate"),
        ("own", "got 'own', which .*Own has its own forward"),
    ],
)
def test_a_wrong_only_is_refused_in_words(only: Any, message: str) -> None:
    model = nn.ModuleDict({"0": nn.ModuleDict({"encoder": nn.Linear(2, 2)}), "own": Own(2, 2)})
    with pytest.raises(EquivError, match=message):
        equiv.to_pointwise(model, only=only)


@pytest.mark.parametrize("convert", [equiv.to_pointwise, equiv.to_linear])
@pytest.mark.parametrize("model", [3, nn.Linear, {"weight": torch.zeros(2, 2)}, lambda x: x])
def test_what_is_no_model_is_refused(convert: Any, model: Any) -> None:
    with pytest.raises(EquivError, match=r"^model: expected a torch\.nn\.Module, got "):
        convert(model)


def test_a_wrong_example_is_refused() -> None:
    with pytest.raises(EquivError, match=r"^example_inputs: expected arguments that the model takes"):
        equiv.to_pointwise(mlp(), example_inputs=torch.zeros(2, 5))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Locked(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no copies")

    with pytest.raises(EquivError, match=r"^model: expected a module that copy\.deepcopy can copy"):
        equiv.to_pointwise(Locked())


def test_a_report_of_the_models_own_is_kept() -> None:
    class Reporting(nn.Sequential):
        def report(self) -> str:
            return "mine"

    converted = equiv.to_pointwise(Reporting(nn.Linear(2, 2)))
    assert converted.report() == "mine"
    assert isinstance(converted.equiv_report, Conversion)


def test_keyword_examples() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, *, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    converted: Any = equiv.to_pointwise(Keyed(), example_inputs={"x": torch.zeros(2)})
    assert converted.report.converted[0].calls == 1


def test_there_and_back_is_the_same_model() -> None:
    model = mlp()
    back = equiv.to_linear(equiv.to_pointwise(model))
    assert [type(layer) for layer in back] == [type(layer) for layer in model]
    assert torch.equal(back(torch.ones(2, 6)), model(torch.ones(2, 6)))
    assert [row.name for row in back.report.converted] == ["0", "2"]  # type: ignore[union-attr]
