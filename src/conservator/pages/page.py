"""How a page is put together: the frame, the one style, a body with its parts, and the scripts that it runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

_GENERATOR = "Conservator, {name} page"
_START = 1024  # bytes of a page in which its frame says what made it


def make_page(name: str, title: str, *, scripts: Sequence[str] = (), files_beside: bool = False, **parts: str) -> str:
    """One HTML page: the body ``NAME.html`` with its ``parts``, which are HTML already, in the frame of all pages.

    The page holds its style and its ``scripts`` ("compare" is ``compare.js``), and its policy forbids whatever else:
    no script but these, nothing from the network. With ``files_beside`` it may show pictures that lie beside it.
    ``title`` is plain text.
    """
    code = [_read(f"{script}.js") for script in scripts]
    return Template(_read("frame.html")).substitute(
        title=escape(title),
        generator=_GENERATOR.format(name=name),
        policy=_policy(code, files_beside),
        style=_read("style.css"),
        body=Template(_read(f"{name}.html")).substitute(title=escape(title), **parts),
        scripts="".join(f'<script type="module">{text}</script>\n' for text in code),
    )


def scrolled(label: str, content: str, kind: str = "") -> str:
    """HTML that is scrolled sideways where it is too wide, by keys, too; ``label`` is plain text, and names it."""
    return f'<div class="wide {kind}" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def our_page(path: Path, name: str) -> bool:
    """Whether a file is a page of this name that ``make_page`` made. Raises OSError where it cannot be read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'content="{_GENERATOR.format(name=name)}"'.encode() in file.read(_START)


def _policy(code: Sequence[str], files_beside: bool) -> str:
    """What a browser may load and run for the page: even a mistake in escaping would then run nothing."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    run = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    pictures = "data: 'self' file:" if files_beside else "data:"
    return (
        f"default-src 'none'; img-src {pictures}; style-src 'unsafe-inline'; script-src {run}; "
        "base-uri 'none'; form-action 'none'"
    )


def _read(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")
