"""How mkdocstrings reads our docstrings: `Example:` holds code that runs, and ``:func:`compare` `` is a link."""

import re
import sys
from pathlib import Path

import griffe

sys.path.append(str(Path(__file__).parent))
from hooks import public_names, target_of

ROLE = re.compile(r":(?:py:)?(?:func|class|mod|meth|attr|data|exc|obj):`~?(?P<name>[\w.]+)`")


class Docstrings(griffe.Extension):
    """Turns the docstring of every object into what Google's style and Markdown call it."""

    def __init__(self) -> None:
        names = public_names()
        places = [(package, name) for package in sorted(names, reverse=True) for name in names[package]]
        self._paths = {name: target_of(package, name, f"{package}.{name}") for package, name in places}

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:  # noqa: ARG002 - griffe passes more
        """Change one object's docstring."""
        if obj.docstring:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = ROLE.sub(self._link, text)

    def _link(self, role: re.Match[str]) -> str:
        last = role["name"].rpartition(".")[2]
        return f"[`{last}`][{self._paths[last]}]" if last in self._paths else f"`{role['name']}`"
