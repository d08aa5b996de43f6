"""How does a finding look in a browser? One self-contained file of HTML, by jinja2: no network, no script but ours.

What it is told is plain data: which names and numbers there are is the business of ``report``, ``verdict`` and
``models``. Whatever a text holds, it is shown as it is called: markup is escaped, and so are characters that control
a terminal or turn the direction of writing.
"""

from equiv.pages.finding import Cell as Cell
from equiv.pages.finding import Finding as Finding
from equiv.pages.finding import Table as Table
from equiv.pages.finding import finding_page as finding_page
from equiv.pages.pictures import Picture as Picture
from equiv.pages.pictures import picture_of as picture_of
from equiv.pages.rendering import check_installed as check_installed
from equiv.pages.rendering import render as render

# Imported under their own names: for the other packages of equiv.
__all__: list[str] = []
