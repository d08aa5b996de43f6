"""The action in somebody else's repository: a kernel, five lines of YAML, and the steps as a runner takes them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("yaml", reason="pyyaml reads the action")
pytest.importorskip("jinja2", reason="the action writes a page of HTML")
if shutil.which("bash") is None or os.name != "posix":
    pytest.skip("the steps are for bash", allow_module_level=True)

from github_runner import ROOT, Job, run_workflow

RIGHT = """import equiv.testing
import torch


def my_linear(input, weight, bias=None):
    return torch.nn.functional.linear(input, weight, bias)


backend = equiv.testing.Kernels(linear=my_linear)
"""
WRONG = RIGHT.replace("weight, bias)\n\n\nbackend", "weight)  # without bias: 100 %\n\n\nbackend")
FIVE_LINES = """on: [push, pull_request]
jobs:
  equiv:
    uses: torch-equiv/torch-equiv/.github/workflows/equiv-gate.yml@main
    with: {backend: "my_kernel.py:backend", options: "--law exact --dtype float32 --examples 10"}
"""
# Of `gh` what the action calls; it keeps issues in a file.
GH = """#!{python}
import json, os, pathlib, sys
words, store = sys.argv[1:], pathlib.Path(os.environ["STORE"])
issues = json.loads(store.read_text()) if store.exists() else []
value = lambda name: words[words.index(name) + 1]
assert os.environ["GH_TOKEN"] and os.environ["GH_REPO"] == "somebody/kernels"
if words[:2] == ["issue", "list"]:
    assert value("--jq") == "map(select(.title == env.TITLE)) | first | .number // empty"
    print(*[one["number"] for one in issues if one["title"] == os.environ["TITLE"]][:1])
elif words[:2] == ["issue", "create"]:
    body = pathlib.Path(value("--body-file")).read_text()
    issues.append({{"number": 7, "title": value("--title"), "body": body, "edits": 0}})
elif words[:2] == ["issue", "edit"]:
    (one,) = [one for one in issues if str(one["number"]) == words[2]]
    one.update(body=pathlib.Path(value("--body-file")).read_text(), edits=one["edits"] + 1)
else:
    assert words[:2] == ["label", "create"], words
store.write_text(json.dumps(issues))
"""


def _run(tmp_path: Path, kernel: str, workflow: str = FIVE_LINES, name: str = "run", **variables: str) -> Job:
    repository = tmp_path / "repository"
    file = repository / ".github" / "workflows" / "equiv.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(workflow, encoding="utf-8")
    (repository / "my_kernel.py").write_text(kernel, encoding="utf-8")
    (scratch := tmp_path / name).mkdir()
    return run_workflow(file, scratch, **variables)


@pytest.mark.slow
def test_a_right_kernel_is_green(tmp_path: Path) -> None:
    job = _run(tmp_path, RIGHT)
    assert not job.is_red, job.log
    assert job.annotations == []
    assert "## equiv: passed on `my_linear`" in job.summary
    assert {path.name for path in job.artifacts["equiv-report"].iterdir()} == {
        *("report.json", "report.html", "junit.xml", "summary.md", "examples", "log.txt")
    }


def test_a_kernel_without_its_bias_is_red_with_an_annotation_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _run(tmp_path, WRONG)
    assert job.is_red
    assert job.outcomes["Laws"] == "failure"
    assert job.outcomes["Report"] == "success", job.log
    assert job.outcomes["Issue"] == "skipped"
    (found,) = job.annotations
    assert (found["file"], found["line"], found["title"]) == ("my_kernel.py", "5", "equiv: exact broken")
    assert found["message"].startswith("exact: linear in float32 on my_linear returns ")
    assert "\n  again: equiv verify --law exact" in found["message"]
    assert "## equiv: broken on `my_linear`" in job.summary
    folder = job.artifacts["equiv-report"]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["broken"] == ["exact"]
    suite = ElementTree.parse(folder / "junit.xml").find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "1"
    (program,) = (folder / "examples").iterdir()
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(AssertionError, match="Tensor-likes are not equal"):
        exec(compile(program.read_text(encoding="utf-8"), str(program), "exec"), {})
    del sys.modules["my_kernel"]


@pytest.mark.slow
def test_nights_that_fail_open_one_issue_and_update_it_also_where_nothing_could_be_run(tmp_path: Path) -> None:
    (folder := tmp_path / "bin").mkdir()
    (gh := folder / "gh").write_text(GH.format(python=sys.executable), encoding="utf-8")
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    store = tmp_path / "issues.json"
    nightly = FIVE_LINES.replace('"}', '", issue: true, profile: deep}')
    assert nightly != FIVE_LINES
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = _run(tmp_path, WRONG, nightly, "first", STORE=str(store), PATH=path)
    assert job.outcomes["Issue"] == "success", job.log
    (issue,) = json.loads(store.read_text(encoding="utf-8"))
    assert (issue["title"], issue["edits"]) == ("equiv: the laws fail on my_kernel.py:backend", 0)
    assert "## equiv: broken on `my_linear`" in issue["body"]
    assert "https://github.com/somebody/kernels/actions/runs/42" in issue["body"]

    job = _run(tmp_path, RIGHT.replace("backend =", "other ="), nightly, "second", STORE=str(store), PATH=path)
    assert (job.outcomes["Laws"], job.outcomes["Report"], job.outcomes["Issue"]) == ("failure", "failure", "success")
    assert [found["title"] for found in job.annotations] == ["equiv: no report"]
    assert "has no attribute 'backend'" in job.summary
    assert "log.txt" in {path.name for path in job.artifacts["equiv-report"].iterdir()}
    (issue,) = json.loads(store.read_text(encoding="utf-8"))
    assert issue["edits"] == 1
    assert "has no attribute 'backend'" in issue["body"]


def test_the_five_lines_of_the_guide_are_those_that_run() -> None:
    guide = (ROOT / "docs" / "github.md").read_text(encoding="utf-8")
    assert FIVE_LINES.replace(', options: "--law exact --dtype float32 --examples 10"', "") in guide
