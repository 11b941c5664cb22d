"""The documentation: its links lead somewhere, its words are the glossary's, and the tutorial runs as it stands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REPLACED = r"skills?|plugins?|pipelines?|agendas?|eyes?|glances?|opinions?|judg\w+|guards?|und(?:o|id|oes|one)|work_mem"
"""Words for which the glossary has others. Those that are ordinary words, too (level, done, finish, server, manager),
cannot be told apart by a test."""


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """A page without its blocks of code, line for line."""
    return re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{named(page)} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{named(page)} links to {link}; there is no such heading"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([^)#\s]+)", index.read_text("utf-8"))}
    missing = [named(page) for page in PAGES if page not in linked and page != index]
    assert not missing, f"docs/README.md does not link to {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_words_are_those_of_the_glossary(page: Path) -> None:
    """Code, what is quoted, and what others say (the glossary's last column) may have the replaced words."""
    text = without_code(page.read_text("utf-8"))
    if page.name == "glossary.md":
        text = re.sub(r"\|[^|\n]*\|$", "|", text, flags=re.MULTILINE)
    text = re.sub(r'`[^`\n]*`|"[^"]*"|\]\([^)]*\)', " ", text)
    found = sorted(set(re.findall(rf"\b(?:{REPLACED})\b", text, re.IGNORECASE)))
    assert not found, f"{named(page)} says {', '.join(found)}; docs/glossary.md has the word to use"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_source_files_that_pages_name_exist(page: Path) -> None:
    """A file may be named by its room alone: ``env.py`` in ``training/`` may lie in a subfolder."""
    source = ROOT / "src" / "conservator"
    for name in re.findall(r"`((?:\w+/)*\w+\.py)\b", without_code(page.read_text("utf-8"))):
        room, _, file = name.rpartition("/")
        places = [ROOT / name, source / name] if room else source.rglob(file)
        assert any(place.is_file() for place in places), f"{named(page)} names {name}, which is not there"


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    noisy = data.coffee()[:150, :200] + np.random.default_rng(0).normal(0, 25, (150, 200, 3))
    PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "old.jpg", quality=95)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "tutorial.py").write_text("\n".join(blocks), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("tutorial")
    out = capsys.readouterr().out
    assert "the same pixels: True" in out
    assert "exit code 0" in out
    assert "1 there is noise" in out
    assert "('median_denoise',)" in out
    assert " was not done: a chance of " in out
    (second,) = tmp_path.glob("new_*.png")
    assert not np.array_equal(PillowImage.open(second), PillowImage.open(tmp_path / "old.jpg"))
    assert PillowImage.open(tmp_path / "new.png").size == (200, 150)
