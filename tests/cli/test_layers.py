"""The one layer of ``equiv counterexample``: as torch draws it, or from a file; and the names of its dtype."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from equiv.cli import main
from equiv.parsing import parse_dtypes

Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_seed_of_the_notebook_reproduces_its_layer(run: Runner) -> None:
    found = json.loads(run("counterexample", "1x2x2", "--out", "2", "--seed", "123", "--json", "-")[1])
    torch.manual_seed(123)
    layer = nn.Linear(4, 2)
    o, *_ = found["output_index"]
    (c, *where) = found["witness_index"]
    column = int(torch.arange(4).view(1, 2, 2)[(c, *where)])
    assert found["expected"] == layer.weight[o, column].item() + layer.bias[o].item()
    assert round(layer.weight[1, 1].item(), 4) == 0.3665  # as the notebook prints it


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_counterexample_of_weights_in_a_file(run: Runner, tmp_path: Path, suffix: str) -> None:
    state = {
        "features.weight": torch.ones(2, 1, 3, 3),
        "fc.weight": torch.eye(4)[:, [1, 0, 2, 3]],
        "fc.bias": torch.ones(4),
    }
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch", reason="the extra models").save_file(
            {name: value.contiguous() for name, value in state.items()}, path
        )
    else:
        torch.save({"state_dict": state}, path)
    found = json.loads(run("counterexample", "1x2x2", "--weights", str(path), "--json", "-")[1])
    assert (found["name"], found["equivalent"], found["expected"], found["actual"]) == ("fc.weight", False, 1.0, 1.5)
    assert "fc.weight of" in " ".join(run("counterexample", "1x2x2", "--weights", str(path))[1].split())
    found = json.loads(run("counterexample", "1x3x3", "--weights", str(path), "--layer", "features", "--json", "-")[1])
    assert (found["name"], found["equivalent"], found["readout"]) == ("features.weight", True, "sum")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1x2x2", "--layer", "fc"], "--layer: expected a file to find it in, got 'fc' alone"),
        (["1x2x2", "--weights", "{}", "--out", "2"], "--out: expected none with --weights, got '2'"),
        (["1x2x2", "--weights", "{}", "--seed", "2"], "--seed: expected none with --weights, got '2'"),
        (["5x1x1", "--weights", "{}"], "expected a layer over the 5 numbers of MAP"),
        (["5x1x1", "--weights", "{}"], "a (3, 4), b (2, 4)"),
        (["1x2x2", "--weights", "{}"], "expected one layer over 4 numbers, got a, b; choose with --layer NAME"),
        (["1x2x2", "--weights", "{}", "--layer", "x"], "--layer: expected a layer of"),
        (["1x2x2", "--weights", "{}", "--layer", "a", "--readout", "positions"], "--readout: expected sum or mean"),
        (["1x3x3", "--weights", "{}"], "--weights: expected finite values, got"),
        (["1x2x2", "--weights", "none.pt"], "--weights: expected a file of tensors, got 'none.pt'"),
    ],
)
def test_weights_that_are_no_layer_over_the_map(run: Runner, tmp_path: Path, words: list[str], message: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(
        {
            "a.weight": torch.ones(3, 4),
            "b.weight": torch.ones(2, 4),
            "n.weight": torch.ones(3),
            "c.weight": torch.full((2, 1, 3, 3), torch.nan),
        },
        path,
    )
    code, out, err = run("counterexample", *(word.format(path) for word in words))
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(("name", "meant"), [("half", "float16"), ("double", "float64"), ("long", "int64")])
def test_a_dtype_by_the_other_name_that_torch_has(run: Runner, name: str, meant: str) -> None:
    words = ("counterexample", "2x2", "--out", "4", "--json", "-", "--dtype")
    assert run(*words, name) == run(*words, meant) == run(*words, f"torch.{name}")
    assert json.loads(run(*words, name)[1])["dtype"] == meant
    assert parse_dtypes("--dtype", [f"{name},{meant}", name.upper()]) == [meant]
