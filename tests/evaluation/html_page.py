"""A page as tests read it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Sections, tables and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.sections: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.marks: dict[str, list[str]] = {"ins": [], "del": []}
        self._section = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("section", "header", "footer"):
            self._section = dict(attrs).get("id") or tag
            self.sections[self._section], self.rows[self._section] = "", []
        if tag == "tr":
            self.rows[self._section].append([])
        if tag in ("th", "td"):
            self.rows[self._section][-1].append("")
        if tag in self.marks:
            self.marks[tag].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self._section and "svg" not in self.open:
            self.sections[self._section] += data
        if {"th", "td"} & set(self.open[-3:]):
            self.rows[self._section][-1][-1] += data.strip()
        for mark in self.marks:
            if mark in self.open:
                self.marks[mark][-1] += data
