"""The built site as a reader meets it, in a browser, from the file system: questions, search, tables, accessibility."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_site import site as site  # the fixture, of which one is built

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright: the extra browser")
if not CHROMIUM:
    pytest.skip("no chromium is installed", allow_module_level=True)

pytestmark = pytest.mark.slow

QUESTIONS = {  # of somebody who learns, each with words of its answer
    "What is the full form?": "make the kernel as large as the map",
    "What is the pointwise form?": "a map that has a single position",
    "When are they equal?": "as long as the map has the kernel's size",
    "Why not ==?": "the order of the steps changes the result",
    "Why not allclose?": "the question depends on how many terms a sum has",
    "What is an envelope?": "no right kernel can leave",
    "What does UNDECIDED mean?": "such a result proves nothing",
    "What is a witness?": "the smallest input that shows a difference",
    "How do I test my kernel?": "parametrize_with_laws",
    "How do I convert my model?": "to_pointwise",
}
EXAMINED = (
    "index.html",
    "story/envelope.html",
    "guides/test-my-kernel.html",
    "reference/verdict.html",
    "faults.html",
    "findings/index.html",
)


@pytest.fixture
def page(site: Path) -> Iterator[Any]:
    """A page of a browser, and in its `troubles` what it complained of and what it asked other servers for."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.troubles = []
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("console", lambda line: page.troubles.append(line.text) if line.type == "error" else None)
        page.on("request", lambda asked: page.troubles.append(asked.url) if asked.url.startswith("http") else None)
        page.goto((site / "index.html").as_uri())
        yield page
        browser.close()


def test_ten_questions_are_answered_one_click_from_the_start(page: Any) -> None:
    start = page.url
    for question, words in QUESTIONS.items():
        page.goto(start)
        page.get_by_role("link", name=question).click()
        assert words in " ".join(page.locator("article").inner_text().split()), question
        assert page.url != start
    assert page.troubles == []


def test_search_works_without_a_server(page: Any) -> None:
    page.locator(".md-search__input").click()
    page.wait_for_function("document.querySelector('.md-search-result__meta').innerText.includes('Type to start')")
    page.keyboard.type("certify")
    found = page.locator(".md-search-result__item a").first
    found.wait_for()
    found.click()
    page.wait_for_load_state()
    assert "certify" in page.locator("article").inner_text()
    assert page.troubles == []


def test_the_catalogue_is_a_table_to_search(page: Any) -> None:
    page.goto(page.url.replace("index.html", "faults.html"))
    rows = page.locator("article tbody tr:visible")
    everything = rows.count()
    page.get_by_label("Find", exact=True).fill("CHANNELS-LAST conv3d")
    assert 0 < rows.count() < everything / 20
    assert all("channels-last" in text and "conv3d" in text for text in rows.all_inner_texts())
    assert page.get_by_role("status").first.inner_text() == f"{rows.count()} of {everything} rows"
    page.get_by_label("Find", exact=True).fill("")
    assert rows.count() == everything > 300


@pytest.mark.parametrize(("scheme", "examined"), [("light", EXAMINED), ("dark", EXAMINED[2:4])])
def test_no_page_has_a_serious_fault_of_accessibility(page: Any, scheme: str, examined: tuple[str, ...]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra browser")
    start = page.url
    page.emulate_media(color_scheme=scheme)
    faults = []
    for name in examined:
        page.goto(start.replace("index.html", name))
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        faults += [
            (name, one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
        ]
    assert faults == []
