"""A page as a browser takes it: tags that close, attributes, and the texts that stand open or in closed parts."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image as PillowImage

VOID = {"meta", "img", "input", "br", "link"}


@dataclass
class ReadPage(HTMLParser):
    """What a page holds; an assertion fails on a tag that is closed but not open, and one is left open."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open_text: str = ""
    """What is read without opening anything."""
    closed_text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script", "title"} & set(self._open):
            return
        if "details" in self._open:
            self.closed_text += data
        else:
            self.open_text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each of these tags."""
        return [attributes for name, attributes in self.tags if name == tag]


def read_page(path: Path) -> ReadPage:
    """Read a page, and check what every page promises."""
    text = path.read_text("utf-8")
    page = ReadPage()
    page.feed(text)
    assert not page._open
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for script in re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not re.search(r'(src|href|action)="(?:https?:)?//', text)
    return page


def embedded(attributes: dict[str, str | None]) -> PillowImage.Image:
    """The picture that an ``img`` holds."""
    kind, data = (attributes["src"] or "").split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return PillowImage.open(io.BytesIO(base64.b64decode(data)))
