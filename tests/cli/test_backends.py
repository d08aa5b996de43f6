"""``equiv backends``, ``equiv init-backend`` and ``equiv verify --backend NAME``, as they are typed."""

import json
import os
import signal
import subprocess
import sys

import pytest

from equiv.cli import main, runtimes


def test_names_are_listed_without_running_anything(capsys):
    assert main(["backends", "--quick"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in ("torch", "torch.compile", "numpy", "onnxruntime", "openvino"))


@pytest.mark.slow
def test_a_backend_is_asked_what_it_serves_and_computes_in():
    facts = runtimes.facts_of(runtimes.load_backend("numpy"))
    assert "int8" in facts["serves"]["dtypes"]["linear"]
    assert "bfloat16" not in facts["serves"]["dtypes"]["full"]
    assert {one["dtype"] for one in facts["computes_in"]} == {"float32", "float64", "float16"}


@pytest.mark.slow
def test_one_that_crashes_is_named_and_the_others_are_listed(tmp_path, capsys, monkeypatch):
    def crashing(text, link):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(runtimes, "_answer", crashing)
    monkeypatch.setattr(runtimes, "METHOD", "fork")
    assert main(["backends", "numpy", "--json", str(tmp_path / "found.json")]) == 0
    assert "it crashed with SIGKILL" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "found.json").read_text())["backends"]
    assert found["problem"] == "it crashed with SIGKILL"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backends", "nunpy"], "did you mean 'numpy'?"),
        (["verify", "--backend", "numpy?level=1"], "--backend: expected no parameters, got 'level'"),
        (["verify", "--backend", "numba"], "--backend: expected one of torch"),
        (["init-backend", "My-Kernels"], "NAME: expected a name of lower-case letters"),
        (["init-backend", "class"], "NAME: expected a name of lower-case letters"),
    ],
)
def test_what_is_typed_wrongly(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_laws_run_on_a_named_backend(capsys):
    assert main(["verify", "--backend", "numpy", "--law", "exact", "--dtype", "int8", "--examples", "3"]) == 0
    assert "1 law holds" in capsys.readouterr().out


def test_the_skeleton_is_written_once(tmp_path, capsys):
    assert main(["init-backend", "my_kernels", "--folder", str(tmp_path)]) == 0
    assert "equiv verify --backend" in capsys.readouterr().out
    assert main(["init-backend", "my_kernels", "--folder", str(tmp_path)]) == 2
    assert "files that are not there" in capsys.readouterr().err
    assert (tmp_path / ".github/workflows/my_kernels.yml").is_file()
    assert compile((tmp_path / "my_kernels_backend.py").read_text(), "backend", "exec")


@pytest.mark.slow
def test_the_skeletons_own_test_passes_when_it_is_run(tmp_path):
    assert main(["init-backend", "mine", "--folder", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-k", "exact or layout", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
