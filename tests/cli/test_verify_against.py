"""``equiv verify --against``: the table, the folder of witnesses, and what it refuses."""

import json

import pytest

from equiv.cli import main


def _run(capsys, monkeypatch, *arguments, columns=80):
    monkeypatch.setenv("COLUMNS", str(columns))
    code = main(["verify", *arguments])
    return code, *capsys.readouterr()


def test_two_right_backends_agree_and_nothing_is_written(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = ("--against", "numpy", "--law", "forward,exact", "--dtype", "float32", "--examples", "8", "--seed", "1")
    code, out, err = _run(capsys, monkeypatch, *given, "--json", "found.json")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "eager.cpu and numpy agree: every difference is explained." in out.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [(one["law"], one["cases"], one["faults"]) for one in results] == [("forward", 8, []), ("exact", 8, [])]


def test_a_wrong_backend_leaves_its_program_and_its_graph(capsys, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forgetful.py").write_text(
        "from equiv.backends.runtimes.onnxruntime import OnnxRuntime\n\n\nclass Forgetful(OnnxRuntime):\n"
        "    title = 'forgetful'\n\n    def linear(self, input, weight, bias=None):\n"
        "        return super().linear(input, weight)\n"
    )
    given = ("--against", "torch", "--law", "exact", "--dtype", "float32", "--examples", "20", "--seed", "1")
    code, out, _ = _run(
        capsys, monkeypatch, "--backend", "forgetful.py:Forgetful", *given, "--witnesses", "kept", columns=120
    )
    assert code == 1
    assert "forgetful is wrong in 1 law." in out
    assert "witness: kept/exact-float32-forgetful.py" in out
    graph = onnx.load(str(tmp_path / "kept" / "exact-float32-forgetful-on-forgetful.onnx")).graph
    assert [one.name for one in graph.input] == ["input", "weight", "bias"]
    script = (tmp_path / "kept" / "exact-float32-forgetful.py").read_text()
    with pytest.raises(AssertionError):
        exec(compile(script, "witness", "exec"), {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--against", "nunpy"), "did you mean 'numpy'?"),
        (("--backend", "numpy", "--against", "numpy"), "--against: expected another backend than --backend, got"),
        (("--against", "numpy", "--jobs", "2"), "--jobs: cannot be given with --against"),
        (("--against", "numpy", "--isolate"), "--isolate: cannot be given with --against"),
        (("--backend", "numpy", "--backend", "torch", "--against", "numpy"), "--backend: expected one with --against"),
        (("--witnesses", "kept"), "--witnesses: expected none without --against, got 'kept'"),
        (("--against", "numpy", "--witnesses", "a\0b"), "--witnesses: expected a folder that can be made"),
        (("--against", "numpy", "--witnesses", __file__), "--witnesses: expected a folder that can be made"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(given, said, capsys, monkeypatch):
    code, _, err = _run(capsys, monkeypatch, *given, columns=200)
    assert code == 2
    assert said in err
