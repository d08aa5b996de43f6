"""The pages in a real browser: they load from a file, are searched, copied from and read without sight."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import made_run
from torch import nn

import equiv
from equiv.report import html_of

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'torch-equiv[browser]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page of a file, with what went wrong in it and what it asked for."""

    def __init__(self, browser: Any, place: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(place.as_uri())

    def rows(self, table: str) -> int:
        """Rows of a table that are shown."""
        return int(self.page.locator(f"{table} tbody tr:visible").count())

    def serious(self) -> list[str]:
        """What axe-core finds that keeps people from reading the page."""
        found = axe.Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in SERIOUS]


def loading(page: Any) -> float:
    """Seconds until a page is there again."""
    start = time.perf_counter()
    page.reload()
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("pages") / "a run of <laws>.html"
    found.write_text(html_of(made_run(snippet="x = 1 < 2\n# <b>&amp;</b>")), encoding="utf-8")
    return found


@pytest.fixture
def opened(browser: Any, place: Path) -> Iterator[Opened]:
    found = Opened(browser, place)
    yield found
    found.context.close()
    assert found.problems == []
    assert [url for url in found.asked if not url.startswith(("file:", "data:"))] == []


def test_it_loads_in_under_a_second_and_a_search_filters_it(opened: Opened) -> None:
    page, every = opened.page, opened.rows("#table")
    assert min(loading(page) for _ in range(3)) < 1
    page.keyboard.press("/")
    page.keyboard.type("forward bfloat16")
    assert opened.page.evaluate("document.activeElement.id") == "search"
    assert 0 < opened.rows("#table") < every
    assert page.locator("article:visible").count() == 1
    page.keyboard.press("Escape")
    assert opened.rows("#table") == every
    page.select_option("select[data-by=law]", "exact")
    page.select_option("select[data-by=form]", "full")
    shown = page.locator("#table tbody tr:visible").all_inner_texts()
    assert shown
    assert all(text.startswith("exact\tfull\t") for text in shown)
    assert page.locator("article:visible").count() == 0
    assert page.locator("[data-none]").is_visible()
    page.click("text=Show all")
    page.select_option("select[data-by=outcome]", "not asked")
    assert opened.rows("#all-items") == 1


def test_a_program_is_copied_as_it_is(opened: Opened) -> None:
    page = opened.page
    page.click("button[data-copy=program2]")
    page.wait_for_function("document.getElementById('said').textContent.startsWith('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1 < 2\n# <b>&amp;</b>"
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.click("button[data-copy=command1]")
    assert page.evaluate("getSelection().toString()") == "equiv verify --law forward --dtype float32"


def test_the_map_is_walked_by_keys_and_leads_to_its_rows(opened: Opened) -> None:
    page = opened.page
    page.focus("table.map a[tabindex='0']")
    first = page.inner_text("#about")
    assert first.startswith("forward, linear, float32: compared")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#about").startswith("forward, full, float32: broken")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#about").startswith("forward, full, float64: ")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.url.endswith("#f1")
    page.fill("#search", "nothing at all")
    page.evaluate("location.hash = 'r3'")
    page.wait_for_function("!document.getElementById('r3').hidden")
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.id") == "f1"
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.id") == "f2"


def test_results_are_sorted_by_number(opened: Opened) -> None:
    opened.page.click("#table th:last-child button")
    worst = opened.page.eval_on_selector_all("#table tbody data", "cells => cells.map(cell => Number(cell.value))")
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == 5000
    assert opened.page.get_attribute("#table th:last-child", "aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(browser: Any, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "small.html").write_text(html_of(made_run(4, 3)), encoding="utf-8")
    opened = Opened(browser, tmp_path / "small.html", color_scheme=scheme)
    assert opened.serious() == []
    back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.page.click("#theme")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != back
    opened.context.close()
    assert opened.problems == []


def test_on_a_narrow_screen_the_page_is_not_wider_and_on_paper_all_is_unfolded(browser: Any, place: Path) -> None:
    opened = Opened(browser, place, viewport={"width": 360, "height": 700})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    opened.page.emulate_media(media="print")
    assert not opened.page.locator("#filters").is_visible()
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0
    opened.context.close()


def test_a_diagnosis_is_read_too(browser: Any, tmp_path: Path) -> None:
    torch.random.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    model.add_module("<script>alert(1)", nn.ReLU())
    other = equiv.to_pointwise(model)
    with torch.no_grad():
        other[2].weight.mul_(2)
    (tmp_path / "page.html").write_text(equiv.diagnose(other, model, torch.ones(2, 4)).to_html(), encoding="utf-8")
    opened = Opened(browser, tmp_path / "page.html")
    opened.page.select_option("select[data-by=outcome]", "different")
    assert opened.rows("table") == 1
    assert opened.page.locator("th:visible", has_text="<script>alert(1)").count() == 0
    opened.page.click("text=Show all")
    assert opened.page.locator("th:visible", has_text="<script>alert(1)").count() == 1
    assert opened.serious() == []
    opened.context.close()
    assert opened.problems == []
