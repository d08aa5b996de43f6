"""A picture inside a page, where matplotlib can draw one."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from equiv.errors import MissingExtraError


class Picture(NamedTuple):
    """An image as it stands in a page: ``source`` holds all of it, ``alt`` says what it shows."""

    source: str
    alt: str


def picture_of(finding: Any) -> Picture | None:
    """What the ``plot()`` of a finding draws, as an image that needs no other file; None without matplotlib."""
    try:
        from equiv.pictures import svg

        figure = finding.plot()
        text = svg(figure)
    except MissingExtraError:
        return None
    return Picture("data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode(), figure.alt)
