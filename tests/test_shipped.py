"""What ships knows something: weights that are random, or that leave everything as it is, must fail here.

On photos of scikit-image, which nobody trained on.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from skimage import data

from conservator.degradations import Kind, LowResolution, Severity, degrade, parse_recipe
from conservator.image import to_image
from conservator.metrics.fidelity import psnr
from conservator.perception import Look, NetworkPerception, study
from conservator.perception.perception import OBJECTIVES
from conservator.policies import PolicyContext, make_policy
from conservator.pool import LocalPool
from conservator.resample import bicubic_to
from conservator.session import Apply, Session, Stop
from conservator.tools import Toolbox, make_toolbox
from conservator.tools.experts import EXPERTS

PARTS = {
    "coffee": lambda: data.coffee()[40:200, 100:260],
    "astronaut": lambda: data.astronaut()[:160, 160:320],
    "chelsea": lambda: data.chelsea()[60:220, 120:280],
}
"""Parts of photos, 160 x 160."""
DAMAGE = {
    "denoise_light": ("noise:medium", 4.0),
    "denoise_medium": ("noise:high", 6.0),
    "denoise_heavy": ("noise:very_high", 7.0),
    "dejpeg_mild": ("jpeg:medium", 0.4),
    "dejpeg_severe": ("jpeg:very_high", 0.5),
    "derain": ("rain:high", 1.5),
    "deblur_defocus": ("defocus_blur:high", 0.3),
    "upscale_x4": ("low_resolution", 0.5),
    "upscale_x2": ("low_resolution", 0.5),
    "dehaze": ("haze:high", 6.0),
    "brighten_mild": ("low_light:medium", 2.0),
    "brighten_dark": ("low_light:very_high", 7.0),
    "generalist": ("noise:high", 6.0),
}
"""For each expert a damage that it is for, and dB of PSNR that it must gain on every part: over the damaged picture, or
over bicubic enlargement. About two thirds of what the weakest part gained when this was written."""


@cache
def toolbox() -> Toolbox:
    return make_toolbox("conservator")


def test_every_expert_has_a_damage_here() -> None:
    assert set(DAMAGE) == {expert.spec.name for expert in EXPERTS}


@pytest.mark.parametrize("name", DAMAGE)
def test_an_expert_beats_the_identity_on_its_damage(name: str) -> None:
    tool = toolbox()[name]
    tool.setup("cpu")
    recipe, least = DAMAGE[name]
    gains = {}
    for part, pixels in PARTS.items():
        clean = to_image(pixels())
        if tool.spec.scale > 1:
            damaged = LowResolution(tool.spec.scale)(clean)
            untreated = bicubic_to(damaged, *clean.shape[-2:]).clamp(0, 1)
        else:
            damaged = untreated = degrade(clean, parse_recipe(recipe, seed=1))
        gains[part] = psnr(tool(damaged), clean) - psnr(untreated, clean)
    assert min(gains.values()) > least, gains


# --- perception -------------------------------------------------------------------------------------------------------

SCENES = ("astronaut", "chelsea", "rocket")
"""Photos that are larger than a study, so that it is an overview and native crops."""
SEEN = [
    *("noise:medium", "jpeg:high", "defocus_blur:high", "gaussian_blur:high", "motion_blur:high"),
    *("rain:high", "haze:high", "low_light:high"),
]


@cache
def perception() -> NetworkPerception:
    return NetworkPerception.load()


@cache
def look(scene: str, recipe: str = "") -> Look:
    """A scene, damaged or not, and what is seen in it."""
    photo = to_image(getattr(data, scene)())
    image = study(degrade(photo, parse_recipe(recipe, seed=1)) if recipe else photo)
    return Look(image, perception().grade(image))


@pytest.mark.parametrize("recipe", SEEN)
def test_every_damage_is_found_where_it_is(recipe: str) -> None:
    kind = Kind(recipe.split(":")[0])
    found = {scene: look(scene, recipe).percept for scene in SCENES}
    severities = {scene: percept.severities[kind] for scene, percept in found.items()}
    assert sum(severity > Severity.NONE for severity in severities.values()) >= 2, severities
    for scene, percept in found.items():
        clean = look(scene).percept
        assert percept.confidences[kind] > clean.confidences[kind] + 0.3, scene
        assert percept.quality < clean.quality, scene
        others = [other for other in percept.present if other is not kind]
        assert len(others) <= 1, (scene, others)


def test_nothing_is_found_in_photos_that_nothing_happened_to() -> None:
    seen = {scene: look(scene).percept.present for scene in SCENES}
    assert not any(seen.values()), seen


def test_present_is_what_the_eye_is_more_sure_of_than_not() -> None:
    for scene in SCENES:
        for recipe in ("", *SEEN):
            percept = look(scene, recipe).percept
            for kind, severity in percept.severities.items():
                assert (severity > Severity.NONE) == (percept.confidences[kind] > 0.5), (scene, recipe, kind)


@pytest.mark.parametrize("recipe", ["jpeg", "rain", "haze", "low_light"])
def test_more_damage_is_graded_as_more(recipe: str) -> None:
    kind = Kind(recipe)
    weak, strong = (look("chelsea", f"{recipe}:{level}").percept for level in ("low", "very_high"))
    assert strong.severities[kind] > weak.severities[kind]
    assert strong.confidences[kind] >= weak.confidences[kind]
    assert strong.quality < weak.quality


@pytest.mark.parametrize("recipe", ["noise:medium", "haze:high", "low_light:high"])
def test_undoing_a_damage_is_weighed_as_a_gain_and_doing_it_is_not(recipe: str) -> None:
    kind = frozenset({Kind(recipe.split(":")[0])})
    eye = perception()
    for objective in OBJECTIVES:
        undone, done = [], []
        for scene in SCENES:
            damaged, clean = look(scene, recipe), look(scene)
            undone.append(eye.weigh(damaged, clean, kind).cautious(objective))
            done.append(eye.weigh(clean, damaged, kind).cautious(objective))
            assert undone[-1] > done[-1], (scene, objective)
        assert np.mean(undone) > np.mean(done) + 0.5, objective
        assert np.mean(undone) > 0.5, objective


# --- the planner ------------------------------------------------------------------------------------------------------

needs_mllm = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra [mllm]")


@needs_mllm
@pytest.mark.parametrize(
    ("recipe", "removes"),
    [
        ("noise:very_high", Kind.NOISE),
        ("jpeg:very_high", Kind.JPEG),
        ("defocus_blur:very_high", Kind.DEFOCUS_BLUR),
        ("rain:very_high", Kind.RAIN),
        ("haze:high", Kind.HAZE),
        ("low_light:very_high", Kind.LOW_LIGHT),
        ("", None),
    ],
)
def test_the_planner_answers_what_is_plain_to_see(recipe: str, removes: Kind | None) -> None:
    clean = to_image(data.chelsea()[30:270, 100:340])
    photo = degrade(clean, parse_recipe(recipe, seed=1)) if recipe else clean
    eye = perception()
    with LocalPool(toolbox(), workers=1, max_batch=1) as pool:
        observation = Session(photo, toolbox(), pool, eye).observe()
        decision = make_policy("mllm", PolicyContext(pool, eye, toolbox=toolbox())).act(observation)
    if removes is None:
        assert decision.action == Stop(), decision
    else:
        assert isinstance(decision.action, Apply)
        assert removes in toolbox()[decision.action.tool].spec.removes, decision
