"""The documentation site: it builds without a warning, every link leads somewhere, and it asks no other server."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

pytest.importorskip("mkdocstrings_handlers.python", reason="the site needs the extra docs")

ROOT = Path(__file__).resolve().parents[1]
HOME = "https://github.com/torch-equiv/torch-equiv"
PAGES = "https://torch-equiv.github.io/torch-equiv/"
sys.path.append(str(ROOT / "docs"))

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page points to, what in it can be pointed to, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.without_alt: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(values["href"])
        if tag == "img" and not values.get("alt"):
            self.without_alt.append(values.get("src", ""))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all of pytest's workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    built = shared / "site"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(built)]
            environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def _broken(page: Path, link: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    target = target / "index.html" if target.is_dir() else target
    if target not in pages:
        return not target.is_file()
    return bool(parts.fragment) and unquote(parts.fragment) not in pages[target].ids


def _elsewhere(links: list[str]) -> Iterator[str]:
    """Links to this project's own repository that lead to no file of it."""
    for link in links:
        place = re.match(rf"{HOME}/(?:blob|tree|edit|raw)/main/([^#?]+)", link)
        if place and not place[1].startswith("equiv/") and not (ROOT / unquote(place[1])).exists():
            yield link


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    broken = {
        f"{path.name}: {link}"
        for path, page in pages.items()
        if path.name != "404.html"
        for link in page.links
        if _broken(path, link, pages)
    }
    wrong = {link for page in pages.values() for link in _elsewhere(page.links)}
    assert not broken | {link for link in wrong if not link.startswith(f"{HOME}/edit/main/docs/findings/index.md")}
    assert sum(len(page.links) for page in pages.values()) > 3000


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text('<a href="b.html">b</a><a href="#here">c</a><a id="there" href="#there">d</a>', encoding="utf-8")
    pages = {page: Page(page)}
    assert [_broken(page, link, pages) for link in pages[page].links] == [True, True, False]
    assert list(_elsewhere([f"{HOME}/blob/main/README.md", f"{HOME}/blob/main/MISSING.md"])) == [
        f"{HOME}/blob/main/MISSING.md"
    ]


def test_no_page_loads_anything_from_another_server(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {source for page in pages.values() for source in page.loaded}
    assert not [source for source in loaded if urlsplit(source).netloc and not source.startswith(PAGES)]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?https?:", styles)


def test_every_picture_says_what_it_shows(pages: dict[Path, Page]) -> None:
    assert not {source for page in pages.values() for source in page.without_alt}
    pictures = {Path(source).name for page in pages.values() for source in page.loaded if source.endswith(".svg")}
    assert {path.name for path in (ROOT / "docs" / "story" / "pictures").glob("*.svg")} <= pictures


def test_every_public_name_has_an_entry_with_an_example(site: Path) -> None:
    from hooks import public_names

    names = public_names()
    text: dict[str, str] = defaultdict(str)
    for path in (site / "reference").glob("*.html"):
        page = path.read_text(encoding="utf-8")
        entries = re.split(r'(?=<h2 id="equiv\.)', page)
        shown = re.sub(r"<[^>]+>", "", "".join(re.findall("<pre>.*?</pre>", entries[0], re.DOTALL)))
        for entry in entries[1:]:
            heading = re.match(r"<h2 [^>]*>(.*?)</h2>", entry, re.DOTALL)[1]
            name = re.sub(r"<[^>]+>", "", heading).split()[0].removesuffix("¶")
            text[name] += entry + shown * bool(re.search(rf"\b{name.rpartition('.')[2]}\b", shown))
    wanted = {
        f"equiv.{name}" if name in names["equiv"] else f"{package}.{name}"
        for package, own in names.items()
        for name in own
        if f"{package}.{name}" not in names
    }
    assert len(wanted) > 150
    assert sorted(wanted - text.keys()) == []
    without = {name for name in wanted if "&gt;&gt;&gt;" not in text[name] and "print(" not in text[name]}
    assert sorted(without) == []


def test_the_pictures_of_the_story_are_what_their_script_draws(tmp_path: Path) -> None:
    """Up to half a point, since other versions of matplotlib place text differently."""
    pytest.importorskip("matplotlib", reason="pictures need the extra plot")
    import draw

    draw.main(tmp_path)
    for old in sorted((ROOT / "docs" / "story" / "pictures").iterdir()):
        before, after = (path.read_text(encoding="utf-8") for path in (old, tmp_path / old.name))
        words = [re.findall(r">([^<>\n]*\w[^<>\n]*)</text>", text) for text in (before, after)]
        assert words[0] == words[1]
        numbers = [re.findall(r"(?<=[ \"(])-?\d+\.\d+", text) for text in (before, after)]
        assert len(numbers[0]) == len(numbers[1])
        apart = [abs(float(a) - float(b)) for a, b in zip(*numbers, strict=True)]
        assert max(apart) < 0.5, old.name


def test_the_index_of_findings_reads_the_parts_of_a_page(tmp_path: Path) -> None:
    from hooks import _finding, findings_index

    page = tmp_path / "a.md"
    text = "# A title\n\n| shows | torch 2.13.0, any CPU |\n\n## How it was found\n\nBy the law `exact`. Then more.\n"
    page.write_text(f"{text}\n## Upstream\n\nSee https://github.com/pytorch/pytorch/issues/7.\n", encoding="utf-8")
    link = "[pytorch/pytorch#7](https://github.com/pytorch/pytorch/issues/7)"
    assert _finding(page) == f"| [A title](a.md) | torch 2.13.0, any CPU | the law `exact` | {link} |"
    assert findings_index().count(".md) |") == len(list((ROOT / "docs" / "findings").glob("*.md")))
