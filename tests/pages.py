"""What tests of the page share: the page as a tree, read by a parser that forgives no tag out of place.

It must not hold an expectation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

VOID = ("br", "hr", "img", "input", "link", "meta")


class Node:
    """An element: its tag, attributes, and what stands in it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Node | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    def every(self, tag: str = "", **attributes: str) -> list[Node]:
        """The elements within of this tag whose attributes hold these words (`class_` is class)."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            node
            for node in self.walk()
            if (not tag or node.tag == tag)
            and all(value in node.attributes.get(name, "").split() for name, value in wanted.items())
        ]

    def only(self, tag: str = "", **attributes: str) -> Node:
        """The one element within that is so."""
        [found] = self.every(tag, **attributes)
        return found

    def walk(self) -> Iterator[Node]:
        """All elements within, in their order."""
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    @property
    def text(self) -> str:
        """The words within, as a reader without style sheets gets them."""
        return re.sub(r"\s+", " ", "".join(self._texts())).strip()

    @property
    def raw(self) -> str:
        """The text within as it is."""
        return "".join(self._texts())

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child._texts()
                # Cells and items stand apart for a reader.
                yield " " if child.tag in ("td", "th", "li", "dt", "dd", "p", "h1", "h2", "h3", "option") else ""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {self.get_starttag_text()}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes another element at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(answer: Any) -> Node:
    """The tree of an answer's page. Every element is closed in its place and every id is there once."""
    parser = _Parser()
    parser.feed(answer.text)
    parser.close()
    assert parser.open == [parser.root], [node.tag for node in parser.open]
    ids = [node["id"] for node in parser.root.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids)), "an id twice"
    return parser.root
