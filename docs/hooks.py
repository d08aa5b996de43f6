"""What the site has besides its pages: links to the code, an index of the findings, an entry for every public name.

`mkdocs` calls the functions that begin with `on_` (see `hooks` in mkdocs.yml).
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import equiv

ROOT = Path(__file__).resolve().parents[1]
EQUIV = Path(equiv.__file__).parent  # that of the checkout, or the one that is installed
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")
NAMES = re.compile(r"^<!-- names: (?P<packages>[\w. ]+) -->$", re.MULTILINE)
FINDINGS = """# Findings

What the laws and verdicts found in torch and in runtimes. Each page has a small program that shows it, the versions and
CPUs where it does and does not show, and what `equiv` does where it meets it. A right kernel must not be blamed for
these: a comparison that fails on one of them is counted as undecided, and named.
"""
WIDE = ("faults.md", "findings/index.md", "power.md", "strangers.md")  # tables that need the whole window
RUNTIMES = "torch|executorch|openvino|onnxruntime|jax|ncnn|tvm|litert|iree|tinygrad"
WHERE = re.compile(rf"\b((?:{RUNTIMES})\b[^.;,]*?\d[\w.]*)", re.IGNORECASE)
SHOWS = re.compile(r"^\| shows \|(.+)\|$", re.MULTILINE)
FOUND = re.compile(r"(?:^## How it was found\n\n|^Found )(?:By |by )?((?:[^.`]|`[^`]*`|\.(?!\s))+)", re.MULTILINE)
REPORT = r"https://github\.com/(?P<place>[\w.-]+/[\w.-]+)/(?:issues|pull)/(?P<number>\d+)"
UPSTREAM = re.compile(rf"^## Upstream\n\n(?:.|\n)*?(?:{REPORT}|(?P<words>[Tt]o be filed at [\w./-]*\w))", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List what nav does not: pages of docs/ under the guides, packages without a page under the reference."""
    listed = set(_paths(config.nav))
    more = [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in listed]
    if more:
        _section(config.nav, "Guides").append({"More": more})
    _section(config.nav, "Reference").extend(f"reference/{name}.md" for name in _packages_without_page())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: the index of the findings, and the reference of packages that have no page."""
    files.append(File.generated(config, "findings/index.md", content=findings_index()))
    for package in _packages_without_page():
        files.append(File.generated(config, f"reference/{package}.md", content=_reference_page(package)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write entries of the reference out, and let links to what is no page lead to the repository."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    markdown = NAMES.sub(lambda mark: "\n".join(map(_entries, mark["packages"].split())), markdown)

    def mended(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link["target"]))
        source = place.removeprefix("docs/")
        if place.startswith("docs/") and files.get_file_from_path(source):
            return link[0]
        if place.startswith("docs/") and files.get_file_from_path(f"{source}/index.md"):
            return f"{link['target']}/index.md{link['anchor'] or ''}"
        here = EQUIV.parent / place if place.startswith("equiv/") else ROOT / place
        if not here.exists():
            return link[0]  # mkdocs says that it leads nowhere
        kind = "tree" if here.is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{place}{link['anchor'] or ''}"

    return LINK.sub(mended, markdown)


def findings_index() -> str:
    """A table of the pages in docs/findings: title, where it shows, how it was found, whom it is reported to."""
    rows = [_finding(page) for page in sorted((ROOT / "docs" / "findings").glob("*.md"))]
    return "\n".join([FINDINGS, "| finding | shows with | found by | upstream |", "|---|---|---|---|", *rows, ""])


def _finding(page: Path) -> str:
    """One row, from the page's sections or, where it has none, from its first words."""
    title, _, text = page.read_text(encoding="utf-8").partition("\n")
    cells = [found[1] if found else "" for found in (SHOWS.search(text) or WHERE.search(text), FOUND.search(text))]
    cells = [f"[{title.removeprefix('# ')}]({page.name})", *(" ".join(cell.split()) for cell in cells)]
    return f"| {' | '.join([*cells, _upstream(UPSTREAM.search(text))])} |"


def _upstream(found: re.Match[str] | None) -> str:
    if not found:
        return ""
    if found["words"]:
        return f"t{found['words'][1:]}"
    return f"[{found['place']}#{found['number']}]({found[0][found[0].index('https://') :]})"


def public_names() -> dict[str, list[str]]:
    """The packages with a face for users, and the names in `__all__` of each."""
    faces = [*sorted(EQUIV.glob("*/__init__.py")), EQUIV / "testing" / "faults" / "__init__.py"]
    found = {".".join(face.parent.relative_to(EQUIV.parent).parts): _all_of(face) for face in faces}
    own = [name for name in equiv.__all__ if f"equiv.{name}" not in found and name != "__version__"]
    return {"equiv": own} | {package: names for package, names in found.items() if names}


def _all_of(face: Path) -> list[str]:
    """`__all__` as it is written, so that no package is imported."""
    for statement in ast.parse(face.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return ast.literal_eval(statement.value)
    return []


def _entries(package: str) -> str:
    """One directive of mkdocstrings for each name, under the shortest path that users import it from."""
    top = set(public_names()["equiv"])
    names = sorted(public_names()[package], key=lambda name: (name[0].isupper(), name.lower()))
    paths = {name: f"equiv.{name}" if name in top else f"{package}.{name}" for name in names}
    return "\n\n".join(_entry(package, name, path) for name, path in paths.items() if path not in public_names())


def _entry(package: str, name: str, path: str) -> str:
    """A directive. A function in a module of its own name is found by its whole path alone."""
    target = target_of(package, name, path)
    if target == path:
        return f"::: {path}"
    return f"::: {target}\n    options:\n      heading: {path}\n      toc_label: {name}"


def target_of(package: str, name: str, path: str) -> str:
    """The path by which mkdocstrings finds a public name."""
    home = home_of(package, name)
    return f"{home}.{name}" if home.endswith(f".{name}") else path


def home_of(package: str, name: str) -> str:
    """The module that defines a name of a package's face."""
    face = EQUIV.parent.joinpath(*package.split("."), "__init__.py")
    if not face.exists():
        return package
    for statement in ast.parse(face.read_text(encoding="utf-8")).body:
        from_another = isinstance(statement, ast.ImportFrom) and statement.module != package
        if from_another and any(alias.name == name for alias in statement.names):
            return home_of(statement.module, name)
    return package


def _packages_without_page() -> list[str]:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    described = {package for mark in NAMES.finditer(pages) for package in mark["packages"].split()}
    return [package.removeprefix("equiv.") for package in public_names() if package not in {*described, "equiv"}]


def _reference_page(package: str) -> str:
    face = EQUIV / package.replace(".", "/") / "__init__.py"
    summary = (ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    return f"# equiv.{package}\n\n{summary}\n\n{_entries(f'equiv.{package}')}\n"


def _paths(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [path for item in (nav.values() if isinstance(nav, dict) else nav) for path in _paths(item)]


def _section(nav: list, name: str) -> list:
    return next(item[name] for item in nav if isinstance(item, dict) and name in item)
