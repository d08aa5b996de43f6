"""Templates to pages: the one place where text becomes HTML.

A page may load nothing and run nothing but the script that comes with it: its content security policy names the hash
of that script. So even a name that got through the escaping could not act.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

from equiv.errors import MissingExtraError
from equiv.text import visible

if TYPE_CHECKING:
    import jinja2

_PARTS = ("page.css", "page.js")


def check_installed(argument: str) -> None:
    """Find out before the work that pages can be made; ``argument`` is what asks for one.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{argument}: expected the package jinja2, which makes HTML, got none; pip install 'torch-equiv[html]'"
        ) from error


def render(template: str, **values: Any) -> str:
    """A page from a file of ``templates/`` and the values that it names; one that it lacks is an error.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    check_installed("to_html")
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("equiv.pages")
    made = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else _as_text(value),
    )
    style, script = (loader.get_source(made, name)[0] for name in _PARTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals.update(
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )
    made.filters.update(count=lambda number: f"{number:,}", share=share)
    return made


def _as_text(value: object) -> str:
    return "" if value is None else visible(str(value))


def share(ratio: float) -> str:
    """A number that somebody compares with others, in three digits.

    Example:
        >>> share(0.123456), share(float("inf"))
        ('0.123', 'inf')
    """
    return f"{ratio:.3g}"
