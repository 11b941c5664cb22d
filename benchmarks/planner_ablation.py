"""What a planner's answers rest on: the held-out questions, with one part of what it is told taken away at a time.

python benchmarks/planner_ablation.py MODEL_FOLDER DATA_FOLDER [QUESTIONS]

MODEL_FOLDER is what `conservator train sft` made, DATA_FOLDER what `conservator data build` did. Prints the share of
answers that lead as far as the best one, with its 95 % interval, and the share that any fixed answer would reach.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from conservator.image import Image
from conservator.policies.replies import Speaker, choose
from conservator.policies.vision_language import VisionLanguageModel, load_model
from conservator.session.trajectory import Apply, Decision, Stop
from conservator.training.lessons import Lesson, is_right, read_lessons, split
from conservator.training.situations import Situation

QUESTIONS = 600


def said(lesson: Lesson, change: Callable[[str], str]) -> Lesson:
    """The lesson with its texts changed."""
    system, user = (replace(message, text=change(message.text)) for message in lesson.messages)
    return replace(lesson, messages=(system, user))


def without(pattern: str) -> Callable[[Lesson], Lesson]:
    return lambda lesson: said(lesson, lambda text: re.sub(pattern, "", text))


def reduced(image: Image) -> Image:
    return F.interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True)


TEXTS: dict[str, Callable[[Lesson], Lesson]] = {
    "what the eye found": without(r"Examined: .*\n"),
    "what the steps gained by the eye": without(r" \([-+][\d.]+ dB by the eye\)"),
    "the history": without(r"\nStep [1-9]\d*: .*"),
    "the objective": without(r"\nThe result shall be .*"),
}
PICTURES: dict[str, Callable[[Image], Image]] = {
    "the picture (grey instead)": lambda image: torch.full_like(image, 0.5),
    "native pixels (reduced to half the size)": reduced,
}


def answers(
    model: VisionLanguageModel,
    lessons: Sequence[Lesson],
    change: Callable[[Lesson], Lesson] = lambda lesson: lesson,
    draw: Callable[[Image], Image] = lambda image: image,
) -> np.ndarray:
    """Whether each question is answered right (N,)."""
    speaker, found = Speaker(model.tokens, model.end), []
    for lesson in lessons:
        image, asked = draw(lesson.load()), change(lesson)
        reading = model.read(model.prompt(asked.ask(image)))
        found.append(is_right(lesson, choose(lesson.observe(image), reading.next, speaker).decision))
    return np.array(found)


def line(name: str, right: np.ndarray, lessons: Sequence[Lesson]) -> str:
    """A row of the table: all, its interval, and each situation."""
    drawn = np.random.default_rng(0).choice(right, (2000, len(right))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    groups = [right[[lesson.situation is situation for lesson in lessons]] for situation in Situation]
    cells = [
        f"{100 * right.mean():.0f} % ({100 * low:.0f}, {100 * high:.0f})",
        *(f"{100 * g.mean():.0f} %" for g in groups),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def fixed(lessons: Sequence[Lesson]) -> np.ndarray:
    """The answers of the best policy that looks at nothing: the first tool that is right most often, or stop."""
    tools = sorted({tool for lesson in lessons for tool in lesson.values} - {"rollback", "stop"})
    decisions = [Decision(Stop()), *(Decision(Apply(tool)) for tool in tools)]
    return max((np.array([is_right(x, d) for x in lessons]) for d in decisions), key=lambda right: right.mean())


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(sys.argv[1])
    _, held_out = split(read_lessons(Path(sys.argv[2])))
    count = int(sys.argv[3]) if len(sys.argv) > 3 else QUESTIONS
    lessons = held_out[:: max(1, len(held_out) // count)][:count]
    print(f"{len(lessons)} held-out questions; right answers, all and by situation")
    print(f"| without | all (95 %) | {' | '.join(situation.value for situation in Situation)} |")
    print("|---" * (len(Situation) + 2) + "|")
    print(line("anything: one answer for all", fixed(lessons), lessons))
    print(line("nothing", answers(model, lessons), lessons), flush=True)
    for name, change in TEXTS.items():
        print(line(name, answers(model, lessons, change=change), lessons), flush=True)
    for name, draw in PICTURES.items():
        print(line(name, answers(model, lessons, draw=draw), lessons), flush=True)


if __name__ == "__main__":
    main()
