"""Print the lower bounds of pyproject.toml as constraints, so that CI tests the versions the metadata promises."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["report"], *extras["test"]]:
    if ">=" in requirement:  # the rest are this project's own extras
        print(requirement.replace(">=", "=="))  # noqa: T201 - its output is its purpose
