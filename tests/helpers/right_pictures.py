"""A right call of everything public that draws; none where matplotlib is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from right_layer import Use

FACES: list[str] = []
USES: list[Use] = []

if find_spec("matplotlib"):
    from equiv.pictures import Picture, png, svg

    FACES = ["equiv.pictures"]
    USES = [
        Use("equiv.pictures.png", png, lambda: {"figure": Picture(figsize=(1, 1)), "dpi": 20}),
        Use("equiv.pictures.svg", svg, lambda: {"figure": Picture(figsize=(1, 1)), "alt": "nothing"}),
    ]
