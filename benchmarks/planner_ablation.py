"""What a planner's answers rest on: questions about photos it never saw, with one part of what it is told taken away.

python benchmarks/planner_ablation.py MODEL DATA [QUESTIONS]

MODEL is a folder that `conservator train sft` made, or nano for the model that ships; DATA is a folder that
`conservator data build` made of photos that trained neither the model nor what tells it of them: all its questions may
be asked. Prints the share of right answers, and what it loses without each part, with 95 % intervals by photo.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from conservator.evaluation.intervals import mean_cell, share_cell
from conservator.image import Image
from conservator.kinds import NO_WISH
from conservator.policies.dialects import Message
from conservator.policies.replies import Speaker, choose
from conservator.policies.vision_language import VisionLanguageModel, load_model, shipped_model
from conservator.session.trajectory import Decision, Rollback, Trajectory
from conservator.training.planner.answers import is_right
from conservator.training.planner.lessons import PlannerLesson, read_lessons
from conservator.training.planner.sft import evenly
from conservator.training.planner.situations import Situation
from conservator.training.planner.teaching import DIALECT, ask_lesson

QUESTIONS = 600


def without_history(lesson: PlannerLesson) -> PlannerLesson:
    """The current state as if the photo had come so."""
    came = replace(lesson.observation.trajectory.last, id=0, parent=None, decision=None, error=None)
    return replace(lesson, observation=replace(lesson.observation, trajectory=Trajectory((came,))), gains={})


def without_perception(lesson: PlannerLesson) -> PlannerLesson:
    """Neither what perception found, nor what it estimates that the steps gained."""
    return replace(lesson, withheld=True, gains={})


TOLD: dict[str, Callable[[PlannerLesson], PlannerLesson]] = {
    "what perception found": lambda lesson: replace(lesson, withheld=True),
    "what the steps gained by perception": lambda lesson: replace(lesson, gains={}),
    "both": without_perception,
    "the history": without_history,
}


def without_objective(messages: Sequence[Message]) -> Sequence[Message]:
    """No observation is without an objective, so its line is left out of the words."""
    system, *rest = messages
    lines = [line for line in system.text.splitlines() if not line.startswith("The result shall be ")]
    return [replace(system, text="\n".join(lines)), *rest]


def reduced(image: Image) -> Image:
    return F.interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True)


GREY = "the picture (grey instead)"
PICTURES: dict[str, Callable[[Image], Image]] = {
    GREY: lambda image: torch.full_like(image, 0.5),
    "native pixels (reduced to half the size)": reduced,
}


def answers(
    model: VisionLanguageModel,
    lessons: Sequence[PlannerLesson],
    change: Callable[[PlannerLesson], PlannerLesson] = lambda lesson: lesson,
    draw: Callable[[Image], Image] = lambda image: image,
    say: Callable[[Sequence[Message]], Sequence[Message]] = lambda messages: messages,
) -> np.ndarray:
    """Whether each question is answered right (N,); what may be answered is as without the change."""
    speaker, found = Speaker(model.tokens, model.end, DIALECT), []
    for lesson in lessons:
        reading = model.read(model.prompt(say(ask_lesson(change(lesson), [draw(lesson.load())]))))
        found.append(is_right(lesson, choose(lesson.observation, reading.next, speaker).decision))
    return np.array(found)


class Table:
    """The rows of one table: right answers in all, what they lose against nothing taken away, and by situation."""

    def __init__(self, lessons: Sequence[PlannerLesson], whole: np.ndarray) -> None:
        """``whole`` (N,): whether each question is answered right with nothing taken away."""
        self._lessons, self._whole = lessons, whole
        self._photos = [lesson.photo for lesson in lessons]
        print(f"| without | right | loses, points | {' | '.join(situation.value for situation in Situation)} |")
        print("|---" * (len(Situation) + 3) + "|")
        self.add("nothing", whole)

    def add(self, name: str, right: np.ndarray) -> None:
        """Print a row."""
        lost = "" if right is self._whole else mean_cell(100.0 * self._whole - 100.0 * right, self._photos, ".1f")
        groups = [right[[lesson.situation is situation for lesson in self._lessons]] for situation in Situation]
        cells = [share_cell(list(right), self._photos), lost, *(f"{g.mean():.0%}" if len(g) else "" for g in groups)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def fixed(lessons: Sequence[PlannerLesson]) -> np.ndarray:
    """The answers of the best policy that looks at nothing: the first tool that is right most often, or stop."""
    actions = {action for lesson in lessons for action in lesson.values if not isinstance(action, Rollback)}
    decisions = [Decision(action) for action in sorted(actions, key=str)]
    return max((np.array([is_right(x, d) for x in lessons]) for d in decisions), key=lambda right: right.mean())


def main() -> None:
    torch.set_num_threads(1)
    model = shipped_model() if sys.argv[1] == "nano" else load_model(sys.argv[1])
    every = read_lessons(Path(sys.argv[2]))
    count = int(sys.argv[3]) if len(sys.argv) > 3 else QUESTIONS
    lessons = [replace(lesson, withheld=False) for lesson in evenly(every, count)]
    print(f"{len(lessons)} questions about {len({lesson.photo for lesson in lessons})} photos\n")
    table = Table(lessons, answers(model, lessons))
    table.add("anything: one answer for all", fixed(lessons))
    for name, change in TOLD.items():
        table.add(name, answers(model, lessons, change=change))
    table.add("the objective", answers(model, lessons, say=without_objective))
    for name, draw in PICTURES.items():
        table.add(name, answers(model, lessons, draw=draw))
    table.add("all that perception says, and the picture", answers(model, lessons, without_perception, PICTURES[GREY]))
    wishing = [lesson for lesson in lessons if lesson.wish != NO_WISH]
    if wishing:
        print(f"\n{len(wishing)} of them have a wish of the user; of these alone:\n")
        table = Table(wishing, answers(model, wishing))
        table.add("the wish", answers(model, wishing, lambda lesson: replace(lesson, wish=NO_WISH)))


if __name__ == "__main__":
    main()
