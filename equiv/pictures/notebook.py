"""How a notebook shows a finding: its picture where matplotlib is installed, and the report below it."""

from __future__ import annotations

from html import escape
from typing import Any, Protocol


class Drawn(Protocol):
    """A finding that can be drawn, and whose ``str`` is its report."""

    def plot(self) -> Any:
        """Its picture."""


def in_notebook(finding: Drawn) -> str:
    """The picture of a finding and its report, as HTML."""
    from equiv.errors import MissingExtraError

    text = f"<pre>{escape(str(finding))}</pre>"
    try:
        from equiv.pictures.canvas import svg

        return f"<div>{svg(finding.plot())}{text}</div>"
    except MissingExtraError:
        return text
