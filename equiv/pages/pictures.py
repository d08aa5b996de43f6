"""A picture inside a page, where matplotlib can draw one."""

from __future__ import annotations

import base64
from importlib import import_module
from typing import Any, NamedTuple


class Picture(NamedTuple):
    """An image as it stands in a page: ``source`` holds all of it, ``alt`` says what it shows."""

    source: str
    alt: str


def picture_of(finding: Any) -> Picture | None:
    """What the ``plot()`` of a finding draws, as an image that needs no other file; None without matplotlib."""
    try:
        figures = import_module("equiv.pictures")
        figure = finding.plot()
        text: str = figures.svg(figure)
    except ImportError:  # of matplotlib: the error that names the extra is one too
        return None
    return Picture("data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode(), figure.alt)
