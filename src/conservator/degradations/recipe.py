"""Recipes in and out: JSON, files, and the short form of the command line."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from conservator.degradations.catalog import BY_KIND, BY_NAME, known_degradations
from conservator.degradations.degradation import Degradation, Recipe
from conservator.degradations.fields import field_types
from conservator.errors import RecipeError, name_not_found
from conservator.files import write_text
from conservator.kinds import Kind, Severity

ALIASES = {
    "blur": "gaussian_blur",
    "dark": "low_light",
    "defocus": "defocus_blur",
    "fog": "haze",
    "lr": "low_resolution",
    "motion": "motion_blur",
}

_SEVERITIES = {severity.name.lower(): severity for severity in Severity if severity is not Severity.NONE}


def recipe_to_json(recipe: Sequence[Degradation]) -> list[dict[str, Any]]:
    """The recipe as plain JSON: for each degradation its ``type`` (snake case of the class) and its fields."""
    return [
        {"type": degradation.name, **{name: getattr(degradation, name) for name in field_types(type(degradation))}}
        for degradation in recipe
    ]


def recipe_from_json(data: object) -> Recipe:
    """The recipe that ``recipe_to_json`` described. Fields with a default may be left out.

    Raises RecipeError that names the item and what is wrong with it.
    """
    if not isinstance(data, list):
        raise RecipeError(f"a recipe is a list of degradations, got {reprlib.repr(data)}")
    return tuple(_item_from_json(number, item) for number, item in enumerate(data, start=1))


def _item_from_json(number: int, item: object) -> Degradation:
    where = f"item {number} of the recipe"
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise RecipeError(f'{where} is {reprlib.repr(item)}, expected an object like {{"type": "gaussian_noise", ...}}')
    values = dict(item)
    name = values.pop("type")
    named = BY_NAME if name in BY_NAME else known_degradations()
    if name not in named:
        raise RecipeError(f"{where}: {name_not_found('degradation', name, named)}")
    cls = named[name]
    known = field_types(cls)
    for field in values:
        if field not in known:
            raise RecipeError(f"{where}: {name_not_found(f'field of {name}', str(field), known)}")
    needed = {field.name for field in fields(cls) if field.default is MISSING}  # type: ignore[arg-type]
    if missing := sorted(needed - values.keys()):
        raise RecipeError(f"{where}: {name} needs {', '.join(missing)}, which the recipe does not give")
    try:
        return cls(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a JSON file; RecipeError names the file and what is wrong with it."""
    try:
        return recipe_from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also bad UTF-8, and numbers of thousands of digits
        raise RecipeError(f"the recipe {path} is not valid JSON: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def save_recipe(recipe: Sequence[Degradation], path: str | os.PathLike[str]) -> None:
    """Write a recipe to a JSON file, whole or not at all; OSError where the folder cannot be written."""
    path = Path(path)
    text = json.dumps(recipe_to_json(recipe), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def parse_recipe(text: str, seed: int) -> Recipe:
    """Sample a recipe from its short form, "rain, noise:high, jpeg": the same text and seed give the same recipe.

    Each item is a kind ("noise"), a degradation ("poisson_noise") or an alias ("dark"), in order of application;
    ``:low``, ``:medium``, ``:high`` or ``:very_high`` sets its severity, else medium or high is drawn.
    Raises RecipeError that names the item and the nearest valid name, or for a negative seed.
    """
    if seed < 0:
        raise RecipeError(f"seed is {seed}, expected a whole number that is not negative")
    items = text.split(",")
    children = np.random.default_rng(seed).spawn(len(items))
    return tuple(_sample(item, rng) for item, rng in zip(items, children, strict=True))


def _sample(item: str, rng: np.random.Generator) -> Degradation:
    name, colon, level = (part.strip().lower().replace(" ", "_").replace("-", "_") for part in item.partition(":"))
    if not name:
        raise RecipeError(
            'a recipe has an empty item, expected names with commas between them, as in "rain,noise:high"'
        )
    name = ALIASES.get(name, name)
    choices = {kind.value: BY_KIND[kind][0] for kind in Kind} | BY_NAME
    if name not in choices:
        choices |= known_degradations()
    if name not in choices:
        raise RecipeError(str(name_not_found("degradation", name, [*choices, *ALIASES])))
    drawn = Severity(int(rng.integers(Severity.MEDIUM, Severity.HIGH, endpoint=True)))
    if not colon:
        return choices[name].sample(drawn, rng)
    if level not in _SEVERITIES:
        raise RecipeError(f"{name}: severity is {level!r}, expected one of {', '.join(_SEVERITIES)}")
    return choices[name].sample(_SEVERITIES[level], rng)
