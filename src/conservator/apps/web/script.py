"""The few lines of script and the style of the page, from their files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def style() -> str:
    """The style sheet."""
    return (files(__package__) / "page.css").read_text("utf-8")


@cache
def script(name: str) -> str:
    """The script of one part of the page, NAME.js; each says at its top when it runs."""
    return (files(__package__) / f"{name}.js").read_text("utf-8").partition("\n")[2].strip()
