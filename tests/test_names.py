"""One word for one thing: no public name is defined twice, and none is a word that DESIGN's vocabulary replaces."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import conservator

SOURCE = Path(conservator.__file__).parent
REPLACED = {
    "skill",
    "plugin",
    "pipeline",
    "agenda",
    "glance",
    "opinion",
    "opinions",
    "judge",
    "eye",
    "eyes",
    "guard",
    "undo",
    "server",
    "manager",
}
"""docs/glossary.md: the words that the names of public classes and functions must not be made of."""


def public() -> dict[str, list[str]]:
    """Every public class, function and constant at the top of a file under src/, and the files that define it.

    A program's ``main`` is called so by custom.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            for name in _defined(node):
                if not name.startswith("_") and name != "main":
                    found[name].append(path.relative_to(SOURCE).as_posix())
    return found


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def test_no_public_name_is_defined_twice() -> None:
    twice = {name: files for name, files in public().items() if len(set(files)) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(files)}" for name, files in sorted(twice.items()))


def test_no_public_name_is_a_word_that_was_replaced() -> None:
    wrong = {name: files for name, files in public().items() if REPLACED & set(_words(name))}
    assert not wrong, "\n".join(f"{name}: {', '.join(files)}" for name, files in sorted(wrong.items()))


def _words(name: str) -> list[str]:
    """The words of a name in either style, lower case."""
    spaced = "".join(f"_{letter}" if letter.isupper() and not name.isupper() else letter for letter in name)
    return [word for word in spaced.lower().split("_") if word]


def test_words_of_names() -> None:
    assert _words("EyeJudge") == ["eye", "judge"]
    assert _words("TABLE_CAP") == ["table", "cap"]
    assert _words("stale_is_an_error") == ["stale", "is", "an", "error"]


def test_no_merge_was_left_half_done() -> None:
    root = SOURCE.parents[1]
    texts = [path for kind in ("*.md", "*.py", "*.toml", "*.yml") for path in root.rglob(kind) if path.is_file()]
    texts = [path for path in texts if not {".venv", "build", "out", ".git"} & set(path.relative_to(root).parts)]
    assert len(texts) > 200, f"{root} is no checkout"
    marked = [path for path in texts if any(f"\n{sign * 7} " in path.read_text("utf-8") for sign in "<>")]
    assert not marked
