"""A picture: a matplotlib figure with a description, in one style whatever the caller's is, as SVG or PNG."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from equiv.arguments import check_number, check_words, refusal
from equiv.errors import EquivError, MissingExtraError

try:
    import matplotlib
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:  # pragma: no cover - needs an environment without matplotlib
    raise MissingExtraError(
        "equiv.pictures: expected the package matplotlib, got none; pip install 'torch-equiv[plot]'"
    ) from error

if TYPE_CHECKING:
    from matplotlib.backend_bases import RendererBase

_LOCK = threading.RLock()  # matplotlib's settings are global
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_LEFT_OUT = (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")  # the second would hold for all of a page of HTML
_ROOT_STYLE = "max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
_FINEST, _FINER = 1200, "pass the pixels in an inch, such as 200"
_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # the first comes with matplotlib; both are wide
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # names of layers are the caller's, dollars among them
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched for and copied
    "svg.hashsalt": "equiv",
}


class Picture(Figure):
    """A matplotlib figure outside pyplot, with a description for those who do not see it.

    Attributes:
        alt: What the picture shows, in words.
    """

    alt: str = ""

    def draw(self, renderer: RendererBase) -> None:
        """In our style, whoever asks for it."""
        with our_style():
            super().draw(renderer)

    def _repr_html_(self) -> str:
        return svg(self)


@contextmanager
def our_style() -> Iterator[None]:
    """Matplotlib's defaults and our settings, whatever the caller set; theirs are back afterwards."""
    with _LOCK, warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)  # a name in a script that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def svg(figure: Figure, *, alt: str | None = None) -> str:
    """A figure as an ``<svg>`` element, which stands alone in a file or inside a page of HTML.

    Args:
        figure: Any figure of matplotlib's.
        alt: What it shows, in words, for those who do not see it. By default what the picture itself says.

    Raises:
        EquivError: ``figure`` is none, or ``alt`` no text.

    Example:
        >>> text = svg(Picture(figsize=(1, 1)), alt="an empty square")
        >>> text[:39], 'aria-label="an empty square"' in text
        ('<svg xmlns="http://www.w3.org/2000/svg"', True)
    """
    text = getattr(figure, "alt", "") if alt is None else check_words("alt", alt, "say what the figure shows")
    root = ElementTree.fromstring(_printed(_checked(figure), "svg", metadata={"Date": None}))
    for parent in list(root.iter()):
        for part in list(parent):
            if part.tag in _LEFT_OUT:
                parent.remove(part)
    root.attrib.update({"role": "img", "aria-label": text, "style": _ROOT_STYLE})
    _drop_names(root)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def png(figure: Figure, *, dpi: float = 144) -> bytes:
    """A figure as a PNG file.

    Args:
        figure: Any figure of matplotlib's.
        dpi: Pixels in an inch, 1 to 1200.

    Raises:
        EquivError: ``figure`` is none, or another ``dpi``.

    Example:
        >>> png(Picture(figsize=(1, 1)))[1:4]
        b'PNG'
    """
    pixels = check_number("dpi", dpi, most=_FINEST, advice=_FINER)
    if pixels < 1:
        raise refusal("dpi", f"a number from 1 to {_FINEST}", dpi, _FINER)
    return _printed(_checked(figure), "png", dpi=pixels)


def _checked(figure: Figure) -> Figure:
    if not isinstance(figure, Figure):
        raise EquivError(
            f"figure: expected a figure of matplotlib's, got an object of type {type(figure).__name__}; "
            "pass what .plot() returns"
        )
    return figure


def _printed(figure: Figure, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    with our_style():
        figure.savefig(target, format=kind, **options)
    return target.getvalue()


def _drop_names(root: ElementTree.Element) -> None:
    """Remove the ids that nothing points to: several pictures may stand in one page."""
    written = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", written)) | set(re.findall(r'href="#([^"]+)"', written))
    for part in root.iter():
        if part.get("id") not in used:
            part.attrib.pop("id", None)
