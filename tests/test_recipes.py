"""Recipes: as JSON, as files, in their short form; what is wrong in one is said in a sentence."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservator.degradations import (
    DEGRADATIONS,
    CameraNoise,
    Degradation,
    GaussianNoise,
    JpegCompression,
    Kind,
    LowLight,
    LowResolution,
    MotionBlur,
    PoissonNoise,
    Rain,
    Recipe,
    Severity,
    load_recipe,
    parse_recipe,
    recipe_from_json,
    recipe_to_json,
    save_recipe,
)
from conservator.errors import RecipeError

LEVELS = [severity for severity in Severity if severity is not Severity.NONE]


degradations = st.builds(
    lambda cls, severity, seed: cls.sample(severity, np.random.default_rng(seed)),
    st.sampled_from(DEGRADATIONS),
    st.sampled_from(LEVELS),
    st.integers(0, 2**32),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(degradations, max_size=5).map(tuple))
@settings(max_examples=60, deadline=None)
def test_recipes_survive_json_exactly(recipe: Recipe) -> None:
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(recipe), allow_nan=False))) == recipe


@given(degradations, st.data())
@settings(max_examples=150, deadline=None)
def test_a_spoiled_item_is_read_or_refused_with_a_recipe_error(degradation: Degradation, data: st.DataObject) -> None:
    (item,) = recipe_to_json([degradation])
    item[data.draw(st.sampled_from(sorted(item)))] = data.draw(json_values)
    try:
        (read,) = recipe_from_json([item])
    except RecipeError:
        return
    assert recipe_to_json([read]) == [item]


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_json_is_read_or_refused_with_a_recipe_error(data: object) -> None:
    with contextlib.suppress(RecipeError):
        assert recipe_from_json(data) == ()


@given(st.text(max_size=30), st.integers(0, 2**64))
@settings(max_examples=100, deadline=None)
def test_any_short_form_is_read_or_refused_with_a_recipe_error(text: str, seed: int) -> None:
    with contextlib.suppress(RecipeError):
        assert parse_recipe(text, seed)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "a recipe is a list"),
        ([3], "item 1 of the recipe is 3, expected an object"),
        ([{"type": "gausian_noise"}], "no degradation 'gausian_noise'; did you mean gaussian_noise"),
        ([{"type": "rain", "value": 1}], "rain needs angle, length, seed, width"),
        (
            [{"type": "jpeg_compression", "quality": 9, "qualty": 3}],
            "no field of jpeg_compression 'qualty'; did you mean",
        ),
        ([{"type": "jpeg_compression", "quality": "9"}], "item 1 of the recipe: jpeg_compression: quality is '9'"),
        ([{"type": "jpeg_compression", "quality": 9}, {"type": "low_light"}], "item 2 of the recipe: low_light needs"),
    ],
)
def test_bad_recipes_are_refused_with_a_sentence(data: object, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        recipe_from_json(data)


def test_fields_with_a_default_may_be_left_out() -> None:
    assert recipe_from_json([{"type": "jpeg_compression", "quality": 9}]) == (JpegCompression(9, "4:2:0"),)


def test_recipe_files(tmp_path: Path) -> None:
    recipe = parse_recipe("rain, noise:high, jpeg", seed=3)
    path = tmp_path / "recipe.json"
    save_recipe((), path)
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]
    for content, reason in (
        (b"[", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
        (b"[1]", "item 1"),
        (b'[{"type": "gaussian_noise", "sigma": NaN, "seed": 1}]', "sigma is nan"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=reason) as caught:
            load_recipe(path)
        assert "recipe.json" in str(caught.value)
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "none.json")


def test_a_failed_save_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    save_recipe((JpegCompression(9),), path)
    broken = JpegCompression(9)
    object.__setattr__(broken, "quality", object())
    with pytest.raises(TypeError):
        save_recipe((broken,), path)
    assert load_recipe(path) == (JpegCompression(9),)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


def test_the_short_form_names_kinds_classes_and_aliases() -> None:
    text = "Rain, motion blur:low, dark, lr:very_high, poisson_noise, jpeg : very high, camera-noise"
    recipe = parse_recipe(text, seed=3)
    classes = [Rain, MotionBlur, LowLight, LowResolution, PoissonNoise, JpegCompression, CameraNoise]
    assert [type(item) for item in recipe] == classes
    assert parse_recipe(text, seed=3) == recipe
    assert parse_recipe(text, seed=4) != recipe
    assert isinstance(recipe[5], JpegCompression)
    assert 8 <= recipe[5].quality <= 16


def test_each_item_of_the_short_form_has_its_own_randomness() -> None:
    one, two = parse_recipe("noise:high,noise:high", seed=0)
    assert one != two
    assert parse_recipe("jpeg,noise:high", seed=0)[1] == parse_recipe("rain,noise:high", seed=0)[1]


@pytest.mark.parametrize("name", [cls.name for cls in DEGRADATIONS] + [kind.value for kind in Kind])
def test_severity_defaults_to_medium_or_high(name: str) -> None:
    drawn = {parse_recipe(name, seed) for seed in range(30)}
    jpegs = [item.quality for (item,) in drawn if isinstance(item, JpegCompression)]
    assert all(18 <= quality <= 50 for quality in jpegs)
    if name in {"noise", "gaussian_noise"}:
        sigmas = [255 * item.sigma for (item,) in drawn if isinstance(item, GaussianNoise)]
        assert min(sigmas) < 22 < max(sigmas)
        assert min(sigmas) >= 10
        assert max(sigmas) <= 35


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rian", "no degradation 'rian'; did you mean rain"),
        ("noise:extreme", "severity is 'extreme', expected one of low, medium, high, very_high"),
        ("noise:none", "severity is 'none'"),
        ("rain,,jpeg", "empty item"),
        ("", "empty item"),
    ],
)
def test_bad_short_forms_are_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        parse_recipe(text, seed=0)
    with pytest.raises(RecipeError, match="seed is -1"):
        parse_recipe("rain", seed=-1)
