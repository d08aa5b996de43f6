"""``equiv diagnose`` and ``equiv convert``: what is found is said and written, what cannot be done is one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import equiv
from equiv.cli import main
from equiv.cli.diagnose import say
from equiv.report.terminal import Page

CODE = """
import torch
from torch import nn
from torch.nn.functional import elu

class Linears(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(24, 32), nn.Linear(32, 16), nn.Linear(16, 4)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return self.last(self.drop(elu(self.second(elu(self.first(x))))))

class Convs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(24, 32, 1), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 4, 1)
    def forward(self, x):
        x = x.unsqueeze(3).permute(0, 2, 1, 3)
        return self.last(elu(self.second(elu(self.first(x))))).squeeze(3).permute(0, 2, 1)

def exchanged():
    net = Convs()
    with torch.no_grad():
        net.second.weight[[3, 4]] = net.second.weight[[4, 3]]
    return net

def changed():
    net = Linears()
    with torch.no_grad():
        net.last.weight[1, 2] *= 1 + 2**-6
    return net

def no_bias():
    net = Linears()
    net.first.bias = None
    return net

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
    def forward(self, tokens):
        return self.head(self.embed(tokens))

def classifier():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 10))

def talks(x):
    print("a word of the model")
    return x

def nothing(x):
    return x.nothing
"""

Runner = Callable[..., tuple[int, str, str]]
SHAPE = ("--input", "6x5x24")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Runner]:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "nets.py").write_text(CODE)
    yield call
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_convolutions_are_the_linear_layers_up_to_rounding(run: Runner) -> None:
    code, out, err = run("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE)
    assert (code, err) == (0, "")
    assert out.startswith("new: nets.py:Convs(), a Convs of 1,396 parameters in evaluation mode;")
    assert "in: 6x5x24 float32; drawn with seed 0" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(("name", "layer"), [("exchanged", "second"), ("changed", "last"), ("no_bias", "first")])
def test_a_planted_defect_is_named_at_its_layer_and_ends_in_1(run: Runner, name: str, layer: str) -> None:
    code, out, _ = run("diagnose", f"nets.py:{name}", "nets.py:Linears", *SHAPE, "--json", "found.json")
    assert code == 1
    assert "DIFFERENT" in out
    found = json.loads(Path("found.json").read_text())
    assert found["equivalent"] is False
    assert found["first_difference"]["candidate"] == layer
    assert found["new"]["name"] == f"nets.py:{name}"
    assert found["inputs"] == [{"given": "6x5x24", "shape": [6, 5, 24], "dtype": "float32"}]


def test_dropout_in_training_is_no_function_and_evaluation_is_the_default(run: Runner) -> None:
    words = ("diagnose", "nets.py:Linears", "nets.py:Linears", *SHAPE)
    assert run(*words)[0] == 0
    code, out, _ = run(*words, "--no-eval")
    assert code == 1
    assert "training mode" in " ".join(out.split())


def test_weights_dtype_and_match(run: Runner) -> None:
    code, out, _ = run("convert", "nets.py:Linears", "--to", "pointwise", *SHAPE, "--seed", "3", "--out", "w.pt")
    assert code == 0
    pair = ("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE)
    assert run(*pair, "--weights-new", "w.pt")[0] == 1
    both = ("--weights-new", "w.pt", "--weights-old", "w.pt", "--dtype", "float64", "--match", "first=first")
    code, out, _ = run(*pair, *both)
    assert code == 0
    assert "in: 6x5x24 float64" in out
    assert "3 shapes changed by sizes of 1" in " ".join(out.split())


def test_json_alone_is_what_standard_output_holds(run: Runner) -> None:
    code, out, err = run("diagnose", "nets.py:talks", "nets.py:talks", "--input", "3", "--json", "-")
    assert code == 0
    assert json.loads(out)["outcome"] == "identical"
    assert "a word of the model" in err


def test_a_model_whose_input_is_integers(run: Runner) -> None:
    words = ("diagnose", "nets.py:Tokens", "nets.py:Tokens", "--input")
    assert run(*words, "2x7:long:20")[0] == 0
    code, out, err = run(*words, "200x16:long:1000")
    assert (code, out) == (2, "")
    assert "IndexError" in err


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
def test_what_is_written_loads_into_the_model_and_ties_are_said(run: Runner, file: str) -> None:
    pytest.importorskip("safetensors")
    code, out, err = run("convert", "nets.py:Tokens", "--to", "pointwise", "--input", "2x7:long:20", "--out", file)
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert f"Written to {file}, the state_dict of equiv.to_pointwise(model)" in said
    assert ("head.weight as embed.weight" in said) == file.endswith("safetensors")
    words = ("diagnose", "nets.py:Tokens", "nets.py:Tokens", "--input", "2x7:long:20")
    assert run(*words, "--weights-new", file)[0] == 0


def test_the_way_back_makes_linear_layers(run: Runner) -> None:
    code, out, err = run("convert", "nets.py:Convs", "--to", "linear", *SHAPE, "--out", "w.pt")
    assert (code, err) == (0, "")
    assert "3 layers converted to Linear" in out
    assert "Written to w.pt, the state_dict of equiv.to_linear(model)" in " ".join(out.split())
    assert run("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--weights-old", "w.pt")[0] == 0


def test_a_chosen_layer_alone_is_converted(run: Runner) -> None:
    words = ("convert", "nets.py:Linears", "--to", "pointwise", *SHAPE)
    code, out, _ = run(*words, "--only", "sec*")
    assert code == 0
    assert "1 layer converted" in out
    assert "Nothing was written; --out FILE writes the state_dict." in out
    code, out, err = run(*words, "--only", "third")
    assert (code, out) == (2, "")
    assert err.startswith("equiv convert: --only: ")


def test_a_classifier_becomes_one_for_larger_maps(run: Runner) -> None:
    words = (
        "convert",
        "nets.py:classifier",
        "--to",
        "dense",
        "--input",
        "1x3x8x8",
        "--out",
        "w.pt",
        "--json",
        "w.json",
    )
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "a score for each window of 8x8, 2x2 entries apart" in out
    assert max(map(len, out.splitlines())) <= 80
    shapes = [tuple(value.shape) for value in torch.load("w.pt", weights_only=True).values()]
    assert (10, 4, 3, 3) in shapes
    assert json.loads(Path("w.json").read_text())["windows"]["stride"] == [2, 2]


def test_nothing_is_written_where_the_conversion_is_wrong(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    right = equiv.to_pointwise

    def wrong(model: torch.nn.Module, **options: object) -> torch.nn.Module:
        converted = right(model, **options)
        with torch.no_grad():
            converted.first.weight[0, 0] += 1
        return converted

    monkeypatch.setattr(equiv, "to_pointwise", wrong)
    code, out, _ = run("convert", "nets.py:Linears", "--to", "pointwise", *SHAPE, "--out", "w.pt")
    assert code == 1
    assert "so nothing was written." in " ".join(out.split())
    assert not Path("w.pt").exists()


def test_long_lines_of_a_report_are_wrapped_but_code_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    say(Page(), f"  2 x {'a word ' * 20}\nfix    {'weight = ' * 20}\nred\x1b[31m")
    *wrapped, fix, red, _ = capsys.readouterr().out.splitlines()
    assert len(wrapped) > 1
    assert max(map(len, wrapped)) <= 60
    assert all(line.startswith("      ") for line in wrapped[1:])
    assert fix.startswith("fix    weight = ")
    assert red == r"red\x1b[31m"


PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


@pytest.mark.parametrize("number", [0, 1])
def test_the_page_shows_what_is_said(run: Runner, number: int) -> None:
    page = PAGE.read_text()
    if number:
        pytest.importorskip("safetensors")
    Path("nets.py").write_text(page.split("```python\n")[1].split("```")[0])
    command, *shown = page.split("```console\n$ equiv ")[1 + number].split("```")[0].splitlines()
    _, out, err = run(*command.split())
    assert err == ""
    figures = re.compile(r"\d\S*|ROUNDING|IDENTICAL")  # which other kernels may have otherwise
    plain = [[figures.sub("0", " ".join(line.split())) for line in text if line] for text in (out.splitlines(), shown)]
    outcome = next(at for at, line in enumerate(plain[1]) if line.startswith(("0: ", "DIFFERENT: ")))
    until = len(plain[1]) if command.startswith("diagnose") else outcome  # copies may be the same bit for bit, or not
    assert plain[0][:until] == plain[1][:until]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
@pytest.mark.usefixtures("run")
def test_somebody_who_watches_sees_what_goes_on() -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm"}
    words = [sys.executable, "-m", "equiv.cli", "diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=120, check=True)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # what Linux says at the end
        while piece := os.read(ours, 4096):
            seen += piece
    os.close(ours)
    assert b"comparing" in seen
    assert b"comparing" not in done.stdout


MISUSES = [
    (("diagnose", "nets.py:Convs", "nets.py:Linears"), "--input: expected an input of the models, got none"),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", "--input", "6x5x23"), "expected a model that runs on the inputs"),
    (("diagnose", "nets.py:nothing", "nets.py:Linears", *SHAPE), "NEW: "),
    (("diagnose", "nets.py:Convs", "nets.py:nothing", *SHAPE), "OLD: "),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--match", "first"), "--match: expected two names"),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--match", "no=first"), "--match: "),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--dtype", "int8"), "--dtype: expected one of"),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--device", "meta"), "--device: expected"),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--weights-old", "nets.py"), "--weights-old: expected"),
    (("diagnose", "nets.py:nothing", "nets.py:Linears", *SHAPE, "--weights-new", "w.pt"), "got a function; name a mod"),
    (("diagnose", "nets.py:Convs", "nets.py:Linears", *SHAPE, "--json", "no/folder/x"), "--json: expected a file"),
    (("convert", "nets.py:Linears", *SHAPE), "--to"),
    (("convert", "nets.py:Linears", "--to", "cubic", *SHAPE), "--to: expected one of pointwise, dense, linear"),
    (("convert", "nets.py:nothing", "--to", "pointwise", *SHAPE), "MODEL: expected an nn.Module for equiv convert"),
    (("convert", "nets.py:Linears", "--to", "dense", *SHAPE, *SHAPE), "--input: expected one input for --to dense"),
    (("convert", "nets.py:Linears", "--to", "linear", *SHAPE, "--only", "a"), "--only: expected none with --to linear"),
    (("convert", "nets.py:Linears", "--to", "pointwise", *SHAPE, "--out", "w.txt"), "--out: expected a file that ends"),
    (
        ("convert", "nets.py:Linears", "--to", "pointwise", *SHAPE, "--out", "no/w.pt"),
        "--out: expected a file that can",
    ),
]


@pytest.mark.parametrize(("words", "message"), MISUSES, ids=[f"{i}-{row[1][:30]}" for i, row in enumerate(MISUSES)])
def test_misuse_is_one_sentence(run: Runner, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("equiv ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert "please report this" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said(run: Runner) -> None:
    Path("full.pt").symlink_to("/dev/full")
    code, out, err = run("convert", "nets.py:Linears", "--to", "pointwise", *SHAPE, "--out", "full.pt")
    assert (code, out) == (2, "")
    assert "--out: expected a file that can be written" in err
    assert "No space left" in err
