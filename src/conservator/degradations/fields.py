"""What the fields of a degradation may hold: declared in their annotations, checked when a value is made.

``sigma: Annotated[float, Range(0, 1)]`` is a number in [0, 1]. Allowed types are float, int, bool, str, ``str | None``
and ``Literal`` of strings, that is, plain JSON values.
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np

from conservator.errors import RecipeError


@dataclass(frozen=True)
class Range:
    """The closed interval that a number must lie in."""

    low: float
    high: float


Seed: TypeAlias = Annotated[int, Range(0, 2**63 - 1)]

_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null"}


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotation of each dataclass field of a class, resolved."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def checked(owner: str, name: str, annotation: Any, value: object) -> object:
    """Return a field's value as its annotation wants it, or raise RecipeError that says what was expected.

    NumPy scalars become Python's, and a whole number may stand for a float; nothing else is converted.
    """
    limits: Range | None = None
    if get_origin(annotation) is Annotated:
        annotation, limits = get_args(annotation)[:2]
    if isinstance(value, np.generic):
        value = value.item()
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        valid, expected = value in choices, f"one of {', '.join(choices)}"
    else:
        types = get_args(annotation) or (annotation,)
        valid = type(value) in types or (float in types and type(value) is int)
        expected = " or ".join(_WORDS[t] for t in types)
        if limits is not None:
            valid = valid and limits.low <= value <= limits.high  # type: ignore[operator]
            expected += f" in [{limits.low:g}, {limits.high:g}]"
        if valid and annotation is float:
            value = float(value)  # type: ignore[arg-type]
    if not valid:
        raise RecipeError(f"{owner}: {name} is {reprlib.repr(value)}, expected {expected}")
    return value
