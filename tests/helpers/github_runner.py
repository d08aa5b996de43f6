"""Workflows of GitHub on this machine: their steps run in bash, with the files and expressions that a runner has.

It serves what the workflows and the action of this repository use, and refuses what it does not know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
OURS = re.compile(r"torch-equiv/torch-equiv/(?P<path>[\w./-]+)@\S+")
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
NAME = re.compile(r"\b(?:inputs|steps|github|runner)\.[\w.-]+|'[^']*'")
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]  # as `shell: bash` is


@dataclass
class Job:
    """What came of a job.

    Attributes:
        outcomes: ``success``, ``failure`` or ``skipped``, by the name of the step.
        log: What the steps printed.
        summary: The summary of the job.
        artifacts: Folders that were uploaded, by name.
    """

    repository: Path
    scratch: Path
    variables: Mapping[str, str]
    outcomes: dict[str, str] = field(default_factory=dict)
    log: str = ""
    summary: str = ""
    artifacts: dict[str, Path] = field(default_factory=dict)

    @property
    def is_red(self) -> bool:
        return "failure" in self.outcomes.values()

    @property
    def annotations(self) -> list[dict[str, str]]:
        """The errors as a runner reads them: properties, and ``message``."""
        found = []
        for line in self.log.splitlines():
            if match := re.fullmatch(r"::error ?(.*?)::(.*)", line):
                pairs = [pair.split("=", 1) for pair in match[1].split(",") if pair]
                values = [*((name, value) for name, value in pairs), ("message", match[2])]
                found.append({name: _unescaped(value) for name, value in values})
        return found


def run_workflow(file: Path, scratch: Path, **variables: str) -> Job:
    """Run the jobs of a workflow in the repository that it lies in; ``scratch`` is empty."""
    repository = file.parents[2]
    job = Job(repository, scratch, variables)
    for name in ("temp", "artifacts"):
        (scratch / name).mkdir()
    for called in _yaml(file)["jobs"].values():
        _run_called(job, called)
    job.summary = (scratch / "summary").read_text(encoding="utf-8") if (scratch / "summary").exists() else ""
    return job


def _run_called(job: Job, called: Mapping[str, Any]) -> None:
    workflow = _yaml(_ours(called["uses"]))
    names = {"runner": {"temp": str(job.scratch / "temp")}, "github": GITHUB}
    names["inputs"] = _inputs(workflow[True]["workflow_call"]["inputs"], called.get("with", {}))  # on: is True in YAML
    for inner in workflow["jobs"].values():
        _run_steps(job, inner["steps"], {**names, "steps": {}}, ROOT)


GITHUB = {
    "repository": "somebody/kernels",
    "run_id": "42",
    "server_url": "https://github.com",
    "token": "none",
}


def _run_steps(job: Job, steps: list[dict[str, Any]], names: dict[str, Any], place: Path) -> bool:
    """Run steps; whether all of them succeeded."""
    failed = False
    for step in steps:
        wanted = _value(str(step.get("if", "success()")), names, failed) if step.get("if") else not failed
        outcome = "skipped"
        if wanted:
            outcome = "success" if _run_step(job, step, names, place) else "failure"
        failed |= outcome == "failure"
        job.outcomes[step.get("name", step.get("uses", "?"))] = outcome
        if "id" in step:
            names["steps"].setdefault(step["id"], {"outputs": {}})["outcome"] = outcome
    return not failed


def _run_step(job: Job, step: dict[str, Any], names: dict[str, Any], place: Path) -> bool:
    if "uses" in step:
        return _use(job, step["uses"], {key: _filled(value, names) for key, value in step.get("with", {}).items()})
    assert step["shell"] == "bash", step
    assert "${{" not in step["run"], "values reach a script through its environment, where none becomes code"
    output = job.scratch / "output"
    output.write_text("", encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PIP_NO_INDEX": "1",
        "GITHUB_ACTION_PATH": str(place),
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(job.scratch / "summary"),
        "GITHUB_WORKSPACE": str(job.repository),
        **job.variables,
        **{name: _filled(value, names) for name, value in step.get("env", {}).items()},
    }
    folder = job.repository / _filled(step.get("working-directory", "."), names)
    done = subprocess.run(
        [*BASH, step["run"]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    job.log += done.stdout + done.stderr
    pairs = [line.split("=", 1) for line in output.read_text(encoding="utf-8").splitlines()]
    if "id" in step:
        names["steps"][step["id"]] = {"outputs": dict(pairs)}
    return done.returncode == 0


def _use(job: Job, used: str, given: dict[str, str]) -> bool:
    if OURS.fullmatch(used):
        place = _ours(used)
        action = _yaml(place / "action.yml")
        names = {"runner": {"temp": str(job.scratch / "temp")}, "github": GITHUB, "steps": {}}
        names["inputs"] = {name: str(value) for name, value in _inputs(action["inputs"], given).items()}
        return _run_steps(job, action["runs"]["steps"], names, place)
    name, _, commit = used.partition("@")
    assert re.fullmatch("[0-9a-f]{40}", commit), f"{used} is not pinned by its commit"
    if name == "actions/upload-artifact":
        job.artifacts[given["name"]] = Path(shutil.copytree(given["path"], job.scratch / "artifacts" / given["name"]))
    else:
        assert name in ("actions/checkout", "actions/setup-python"), used  # what they bring is there
    return True


def _inputs(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    assert given.keys() <= declared.keys(), f"inputs that are not declared: {given.keys() - declared.keys()}"
    missing = [name for name, one in declared.items() if one.get("required") and name not in given]
    assert not missing, f"inputs that are required: {missing}"
    return {name: given.get(name, one.get("default", "")) for name, one in declared.items()}


def _filled(text: object, names: Mapping[str, Any]) -> str:
    """A text with the values of its expressions in it."""
    return EXPRESSION.sub(lambda found: _text(_value(found[1], names, failed=False)), _text(text))


def _value(expression: str, names: Mapping[str, Any], failed: bool) -> Any:
    python = NAME.sub(lambda found: found[0] if found[0][0] == "'" else f"at({found[0]!r})", expression)
    python = python.replace("&&", " and ").replace("||", " or ")

    def at(path: str) -> Any:
        found: Any = names
        for part in path.split("."):
            found = found.get(part, "")
        return found

    return eval(python, {"at": at, "always": lambda: True, "failure": lambda: failed, "success": lambda: not failed})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ours(used: str) -> Path:
    match = OURS.fullmatch(used)
    assert match, used
    found = ROOT / match["path"]
    assert found.exists(), f"{used} is not in this repository"
    return found


def _yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _unescaped(text: str) -> str:
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text
