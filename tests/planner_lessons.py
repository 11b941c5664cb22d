"""Four questions to a planner, on real pictures, and the data and the tiny model that tests teach with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from skimage import data as photos

from conservator.degradations import degrade, parse_recipe
from conservator.image import Image, to_array, to_image
from conservator.perception import Percept
from conservator.policies.vision_language import VisionLanguageModel
from conservator.session import Action, Apply, Decision, Observation, Rollback, Step, Stop, Trajectory
from conservator.tools import Toolbox, make_toolbox
from conservator.training.planner.lessons import PlannerLesson, read_lessons, without_pictures, write_lessons
from conservator.training.planner.situations import Situation

SIZE = {"width": 64, "layers": 2}
TOOLS = ("wavelet_denoise", "deblock", "gamma_brighten")


def observed(toolbox: Toolbox, image: Image, *actions: Apply | Rollback) -> Observation:
    steps = [Step(0, None, None, image, Percept())]
    for action in actions:
        parent = action.to if isinstance(action, Rollback) else steps[-1].id
        steps.append(Step(len(steps), parent, Decision(action), image, Percept()))
    return Observation(Trajectory(tuple(steps)), toolbox.specs, 13 - len(steps))


def questions(
    toolbox: Toolbox,
) -> list[tuple[str, Image, tuple[Apply | Rollback, ...], Decision, dict[Action, float]]]:
    """Name, picture, history, answer and values of questions that can be told apart by looking, or by the history."""
    clean = to_image(photos.coffee()[100:228, 100:228])
    noisy, dark = (degrade(clean, parse_recipe(text, 1)) for text in ("noise:very_high", "low_light:very_high"))
    low: dict[Action, float] = dict.fromkeys((Stop(), *map(Apply, TOOLS)), -1.0)
    answers = {
        "noisy-plan": (noisy, (), Decision(Apply("wavelet_denoise"), ("deblock",))),
        "dark-plan": (dark, (), Decision(Apply("gamma_brighten"))),
        "clean-stop": (clean, (), Decision(Stop())),
        "dark-rollback": (dark, (Apply("deblock"),), Decision(Rollback(0))),
    }
    return [(name, *rest, low | {rest[-1].action: 1.0}) for name, rest in answers.items()]  # type: ignore[dict-item]


def write_data(folder: Path) -> Path:
    """Write the questions into a folder, as 'data build' does."""
    toolbox = make_toolbox("classical").only(*TOOLS)
    (folder / "images").mkdir()
    lessons = []
    for name, image, history, answer, values in questions(toolbox):
        picture = f"images/{name}.webp"
        PillowImage.fromarray(to_array(image, np.uint8)).save(folder / picture, lossless=True)
        lesson = PlannerLesson(
            name=name,
            folder=folder,
            pictures=(picture,) * (1 + len(history)),
            observation=without_pictures(observed(toolbox, image, *history)),
            objective="balanced",
            gains={},
            answer=answer,
            plans={},
            values=values,
            situation=Situation(name.partition("-")[2]),
            photo="coffee.png",
            recipe=parse_recipe("noise:high,jpeg:high", 1),
        )
        lessons.append(lesson)
    write_lessons(folder, lessons)
    return folder


def texts(folder: Path) -> list[str]:
    """All that is said in a folder of data."""
    from conservator.training.planner.sft import texts_of

    return texts_of(read_lessons(folder))


def tiny_model(folder: Path) -> VisionLanguageModel:
    """A nano model that knows the words of a folder, and nothing else."""
    from conservator.training.planner.nano import new_nano

    nano = new_nano(texts(folder), **SIZE)
    nano.network.eval()
    return nano
