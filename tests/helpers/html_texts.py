"""What a page of HTML holds, read back by Python's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_EMPTY = {"meta", "link", "img", "input", "br"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    parts: list[Node | str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Node]:
        """This element and all inside it."""
        yield self
        for part in self.parts:
            if isinstance(part, Node):
                yield from part

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Elements of a tag with these attributes."""
        return [one for one in self if one.tag == tag and attributes.items() <= one.attributes.items()]

    @property
    def text(self) -> str:
        """The text of it and of all inside it."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    @property
    def words(self) -> str:
        """The text with one blank for any white space."""
        return " ".join(self.text.split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attributes})
        self.open[-1].parts.append(node)
        if tag not in _EMPTY:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def read(page: str) -> Node:
    """A page as a tree; every element in it is closed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not closed"
    return reader.open[0]


def rows_of(table: Node) -> list[list[Node]]:
    """The cells of a table's body."""
    return [[part for part in row.parts if isinstance(part, Node)] for row in table.all("tbody")[0].all("tr")]
