"""Models, inputs and weights by name: what is loaded is what was named, and what cannot be is said in one sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from equiv.cli import files, inputs
from equiv.cli.models import Model, load_model, parted, prepare
from equiv.cli.weights import load_weights
from equiv.errors import EquivError

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.drop = nn.Dropout()
    def forward(self, x):
        return self.drop(self.fc(x))

def make(width=3, **options):
    return Net(width)

def double(x):
    return 2 * x

def several(*inputs):
    return sum(inputs)

net = Net()
number = 3

class Zoo:
    small = Net()

def breaks():
    raise RuntimeError("no\\n\\x1b[31mway")

def leaves():
    raise SystemExit("bye")

def gives_a_pair():
    return net, None
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    (tmp_path / "zoo.py").write_text(CODE)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def load(text: str, seed: int = 0) -> Model:
    return load_model("NEW", text, seed=seed)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "made"),
    [
        ("Net", "a Net", True),
        ("make", "a Net", True),
        ("net", "a Net", False),
        ("Zoo.small", "a Net", False),
        ("double", "a function", False),
        ("several", "a function", False),
        ("torch.relu", "a function", False),
        ("nn.Identity", "a Identity", True),
    ],
)
def test_what_takes_no_arguments_makes_the_model_and_anything_else_is_it(name: str, kind: str, made: bool) -> None:
    model = load(f"zoo.py:{name}")
    assert (model.kind, model.made) == (kind, made)
    assert ("()" in model.sentence) == made


def test_a_module_by_its_name_is_found_in_the_working_folder() -> None:
    assert load("zoo:Net").kind == "a Net"
    assert load("torch.nn:Flatten").kind == "a Flatten"


def test_the_same_seed_draws_the_same_weights_and_the_global_state_stays() -> None:
    state = torch.get_rng_state()
    one, two, other = (load("zoo.py:Net", seed).call for seed in (5, 5, 6))
    assert torch.equal(one.fc.weight, two.fc.weight)
    assert not torch.equal(one.fc.weight, other.fc.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_files_of_one_name_with_neighbours_of_one_name_are_kept_apart(folder: Path) -> None:
    for version, factor in (("old", 2), ("new", 3)):
        place = folder / version
        place.mkdir()
        (place / "layers.py").write_text(f"factor = {factor}\n")
        (place / "model.py").write_text("import layers\ndef run(x):\n    return layers.factor * x\n")
    new, old = load("new/model.py:run"), load("old/model.py:run")
    assert (new.call(1), old.call(1)) == (3, 2)
    assert load("new/model.py:run").call(1) == 3


def test_a_model_that_is_named_twice_becomes_two() -> None:
    one, two = load("zoo.py:net"), load("zoo.py:net")
    assert one.call is two.call
    parted(one, two)
    assert one.call is not two.call
    assert torch.equal(one.call.fc.weight, two.call.fc.weight)


@pytest.mark.parametrize(
    ("name", "evaluate", "training"),
    [("Net", None, False), ("net", None, True), ("Net", False, True), ("net", True, False)],
)
def test_what_is_made_here_is_evaluated_unless_told_otherwise(name: str, evaluate: bool | None, training: bool) -> None:
    model = load(f"zoo.py:{name}")
    prepare(model, evaluate=evaluate, dtype=torch.float64, device=torch.device("cpu"))
    assert model.call.training == training
    assert model.call.fc.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoo.py", "name both, with a colon between them"),
        ("zoo.py:", "name both, with a colon between them"),
        ("zoo.py:a-b", "name both, with a colon between them"),
        ("none.py:Net", "there is no such file here"),
        ("none.onnx", "there is no such file here"),
        ("zoo.py:Missing", "AttributeError: module 'zoo"),
        ("zoo.py:net.fc.other", "AttributeError"),
        ("no_such_package:Net", "ModuleNotFoundError"),
        ("zoo.py:number", "which is an int; name a module, a function of tensors, or"),
        ("zoo.py:gives_a_pair", "which returns a tuple; name a module"),
        ("zoo.py:breaks", r"which raises RuntimeError: no \x1b[31mway; correct it"),
        ("zoo.py:leaves", "which raises SystemExit: bye"),
        ("syntax.py:Net", "which raises SyntaxError"),
        ("torch.nn:Linear", "Linear takes arguments; write a function of none that returns the model, and name it"),
    ],
)
def test_what_is_no_model_is_said_in_one_sentence(folder: Path, text: str, message: str) -> None:
    (folder / "syntax.py").write_text("class :")
    with pytest.raises(EquivError, match=re.escape(message)) as caught:
        load(text)
    assert str(caught.value).startswith("NEW: expected a model: ")
    assert str(caught.value).isprintable()


def test_an_onnx_file_is_a_function_of_tensors(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "y"], ["sum"]), helper.make_node("Neg", ["x"], ["neg"])],
        "two",
        [helper.make_tensor_value_info(name, floats, [2, 3]) for name in ("x", "y")],
        [helper.make_tensor_value_info(name, floats, [2, 3]) for name in ("sum", "neg")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "two.onnx")
    model = load("two.onnx")
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    total, negated = model.call(x, y)
    assert torch.equal(total, x + y)
    assert torch.equal(negated, -x)
    assert model.sentence == "two.onnx, an ONNX file, compared as a whole"
    with pytest.raises(TypeError, match=re.escape("the file takes 2 inputs (x, y), got 1")):
        model.call(x)
    (folder / "bad.onnx").write_bytes(b"none")
    with pytest.raises(EquivError, match=r"'bad.onnx', which raises"):
        load("bad.onnx")
    with pytest.raises(EquivError, match=r"expected an nn.Module for --weights, got an ONNX file"):
        load_weights("--weights", "none.pt", model)


def test_onnx_runtime_is_asked_for_by_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "m.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=re.escape('pip install "torch-equiv[runtimes]"')):
        load("m.onnx")


# --- inputs -----------------------------------------------------------------------------------------------------------


def draw(*texts: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, ...]:
    specs = [inputs.parse_input("--input", text) for text in texts]
    return inputs.draw("--input", specs, dtype=dtype, device=torch.device("cpu"), seed=seed)


def test_shapes_dtypes_and_bounds_of_inputs() -> None:
    x, tokens, half = draw("16x5x256", "200x16:long:7", "3:torch.float16")
    assert (x.shape, x.dtype) == ((16, 5, 256), torch.float32)
    assert abs(float(x.std()) - 1) < 0.05
    assert (tokens.dtype, int(tokens.min()), int(tokens.max())) == (torch.int64, 0, 6)
    assert half.dtype == torch.float16
    assert draw("2x2", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_keyword_inputs_go_by_their_names() -> None:
    texts = ("3x8", "mask=2x16:long:2", "pixels=4x3x8x8")
    specs = [inputs.parse_input("--input", text) for text in texts]
    args, kwargs = inputs.arranged(specs, draw(*texts))
    assert [tuple(x.shape) for x in args] == [(3, 8)]
    assert {name: tuple(x.shape) for name, x in kwargs.items()} == {"mask": (2, 16), "pixels": (4, 3, 8, 8)}
    assert "mask=2x16 int64" in inputs.sentence(specs, draw(*texts), 0)
    assert inputs.to_dict(specs, draw(*texts))[1]["given"] == "mask=2x16:long:2"
    for wrong, message in ((["a=3", "3"], "by position before"), (["a=3", "a=3"], "each keyword argument once")):
        with pytest.raises(EquivError, match=message):
            inputs.check_names("--input", [inputs.parse_input("--input", text) for text in wrong])


def test_inputs_follow_from_the_seed() -> None:
    assert torch.equal(draw("4x4", seed=3)[0], draw("4x4", seed=3)[0])
    assert not torch.equal(draw("4x4", seed=3)[0], draw("4x4", seed=4)[0])


def test_inputs_from_files(folder: Path) -> None:
    x = torch.randn(2, 3)
    torch.save([x, x + 1], folder / "two.pt")
    torch.save({"x": x}, folder / "one.pt")
    np = pytest.importorskip("numpy")
    np.save(folder / "x.npy", x.numpy())
    found = draw("two.pt", "one.pt", "x.npy")
    assert [torch.equal(one, x) for one in found] == [True, False, True, True]
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"x": x}, folder / "x.safetensors")
    assert torch.equal(draw("x.safetensors")[0], x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a shape such as 16x5x256"),
        ("3xx4", "write whole numbers with an x between them"),
        ("-1x4", "write whole numbers with an x between them"),
        ("3:4:5:6", "write whole numbers with an x between them"),
        ("3x4:flot32", "got 'flot32'; did you mean 'float32'?"),
        ("3x4:float32:5", "expected a bound for integers alone"),
        ("3x4:int8:1000", "expected a whole number from 1 to 127, got '1000'"),
        ("3x4:long:0", "expected a whole number from 1"),
        ("none.pt", "there is no such file here"),
        ("999999999x999999999", "values that fit in memory"),
        ("many.pt", "got 'many.pt' with 2 names: a, b; save one tensor in each file"),
        ("code.pt", "nothing that a file holds is run"),
        ("text.pt", "which cannot be read"),
        ("objects.npy", "which cannot be read"),
    ],
)
def test_what_is_no_input_is_said_in_one_sentence(folder: Path, text: str, message: str) -> None:
    np = pytest.importorskip("numpy")
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, folder / "many.pt")
    torch.save(nn.Linear(2, 2), folder / "code.pt")
    (folder / "text.pt").write_text("no tensors")
    np.save(folder / "objects.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(EquivError, match=re.escape(message)) as caught:
        draw(text)
    assert str(caught.value).startswith("--input: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


# --- weights ----------------------------------------------------------------------------------------------------------


def model_of(module: nn.Module) -> Model:
    return Model("NEW", "m.py:m", module, made=False)


@pytest.mark.parametrize("key", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_weights_of_a_checkpoint_are_found_in_it(folder: Path, key: str, prefix: str) -> None:
    right, other = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
    state = {prefix + name: value for name, value in right.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, folder / "w.pt")
    model = model_of(other)
    load_weights("--weights", "w.pt", model)
    assert torch.equal(other[0].weight, right[0].weight)
    assert model.weights == "w.pt"


def test_weights_of_a_linear_layer_fit_its_convolution_and_that_is_said(folder: Path) -> None:
    linear, conv = nn.Linear(3, 2), nn.Conv2d(3, 2, 1)
    torch.save(linear.state_dict(), folder / "w.pt")
    model = model_of(conv)
    load_weights("--weights", "w.pt", model)
    assert torch.equal(conv.weight[:, :, 0, 0], linear.weight)
    assert model.weights == "w.pt, 1 shape changed by sizes of 1"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.weight": torch.zeros(2, 3)}, "1 missing name (0.bias)"),
        ({"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2), "1.w": torch.zeros(1)}, "1 unknown name (1.w)"),
        ({"a": torch.zeros(1)}, "2 missing names (0.weight, 0.bias) and 1 unknown name (a)"),
        (
            {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(2)},
            "1 other shape (0.weight of (3, 2) for (2, 3)); convert it",
        ),
        (torch.zeros(3), "expected a state_dict, got 'w.pt' with a Tensor; save model.state_dict()"),
        ({"epoch": 3}, "2 missing names (0.weight, 0.bias) and 1 unknown name (epoch)"),
    ],
)
def test_weights_that_do_not_fit_are_said_in_words(folder: Path, state: object, message: str) -> None:
    torch.save(state, folder / "w.pt")
    with pytest.raises(EquivError, match=re.escape(message)) as caught:
        load_weights("--weights", "w.pt", model_of(nn.Sequential(nn.Linear(3, 2))))
    assert str(caught.value).startswith("--weights: ")
    assert str(caught.value).isprintable()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
def test_tied_weights_are_written_and_read_back_tied(folder: Path, file: str) -> None:
    if file.endswith("safetensors"):
        pytest.importorskip("safetensors")
    right, other = Tied(), Tied()
    said = files.write_state("--out", file, right.state_dict())
    assert ("head.weight as embed.weight" in said) == file.endswith("safetensors")
    load_weights("--weights", file, model_of(other))
    assert torch.equal(other.embed.weight, right.embed.weight)
    assert other.head.weight is other.embed.weight
    assert [one.name for one in folder.glob("w.*")] == [file]


def test_views_of_one_tensor_are_written_to_safetensors(folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    whole = torch.randn(4, 3)
    files.write_state("--out", "w.safetensors", {"a": whole[:2], "b": whole.T, "c": whole})
    found = safetensors.load_file(folder / "w.safetensors")
    assert torch.equal(found["a"], whole[:2])
    assert torch.equal(found["b"], whole.T)
    assert torch.equal(found["c"], whole)


def test_safetensors_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=re.escape('pip install "torch-equiv[models]"')):
        files.check_output("--out", "w.safetensors")


@pytest.mark.parametrize("file", ["-", "w", "w.txt", "w.onnx", "/dev/stdout"])
def test_an_output_needs_a_known_ending(file: str) -> None:
    with pytest.raises(EquivError, match=r"--out: expected a file that ends in .safetensors"):
        files.check_output("--out", file)


def test_what_is_no_tensor_is_not_written_to_safetensors() -> None:
    pytest.importorskip("safetensors")
    with pytest.raises(EquivError, match=r"got extra, which are none; write a .pt"):
        files.write_state("--out", "w.safetensors", {"extra": 3})
