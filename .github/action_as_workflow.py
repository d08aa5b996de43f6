"""Print the steps of the action as a workflow, since actionlint reads workflows alone: `python this | actionlint -`."""

import json
from pathlib import Path

import yaml

action = yaml.safe_load(Path(__file__).with_name("actions").joinpath("equiv-gate", "action.yml").read_text())
inputs = {name: {"type": "string"} for name in action["inputs"]}
jobs = {"steps": {"runs-on": "ubuntu-latest", "steps": action["runs"]["steps"]}}
print(json.dumps({"on": {"workflow_call": {"inputs": inputs}}, "jobs": jobs}, indent=2))  # noqa: T201 - its output
