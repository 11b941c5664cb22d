"""The words below the fields of a dataclass: options of commands and descriptions of an API are made from them."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from typing import Any


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes at the top of a module, as they are written; read once, since many commands take options there."""
    source = inspect.getsource(sys.modules[module])
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def field_docs(settings: type[Any]) -> dict[str, str]:
    """The docstring below each field of a dataclass, by the field's name, on one line."""
    written = _classes(settings.__module__)[settings.__qualname__]
    found: dict[str, str] = {}
    for field, below in zip(written.body, written.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    found[field.target.id] = " ".join(text.split())
    return found
