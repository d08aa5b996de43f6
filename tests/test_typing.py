"""What users write is clean under type checkers, and what they must not write is not."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import equiv

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(equiv.__file__).parent
COMMANDS = {"mypy": ("mypy", "--strict", "--config-file="), "pyright": ("pyright", "--pythonpath", sys.executable)}


@pytest.mark.slow
@pytest.mark.parametrize("checker", COMMANDS)
def test_examples_and_the_code_of_users_are_clean(checker: str, tmp_path: Path) -> None:
    found = checked(checker, tmp_path, ROOT / "examples" / "my_kernel.py", ROOT / "tests" / "typing")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("checker", COMMANDS)
def test_a_project_of_a_user_is_clean(checker: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "third_party", tmp_path, dirs_exist_ok=True)
    found = checked(checker, tmp_path, Path("tinykernels"), Path("tests"))
    assert found.returncode == 0, found.stdout + found.stderr


def checked(checker: str, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """What a type checker that is started in a folder says of files."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed; it comes with the extra dev")
    here = {"MYPYPATH": str(ROOT)} if HOME.parent == ROOT else {}  # else it is installed
    return subprocess.run(
        [sys.executable, "-m", *COMMANDS[checker], *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((*here.values(), *sys.path)), **here},
    )


def test_the_code_of_users_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(ROOT / "tests" / "typing" / "usage.py"))
    assert [backend.name for backend in names["backends"]] == ["plain", "instance", "frozen", "properties", "eager.cpu"]
    marks = {param.id: [mark.name for mark in param.marks] for param in names["test_several"].pytestmark[0].args[1]}
    assert marks == {"exact-all-float32-plain": ["skip"], "exact-all-float32-properties": ["xfail"]}


def test_the_package_says_that_it_is_typed() -> None:
    assert (HOME / "py.typed").is_file()
