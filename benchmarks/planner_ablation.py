"""What a planner's answers rest on: the held-out questions, with one part of what it is told taken away at a time.

python benchmarks/planner_ablation.py MODEL_FOLDER DATA_FOLDER [QUESTIONS]

MODEL_FOLDER is what `conservator train sft` made, DATA_FOLDER what `conservator data build` did. Prints the share of
answers that lead as far as the best one, with its 95 % interval, and the share that any fixed answer would reach.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from conservator.image import Image
from conservator.kinds import NO_WISH
from conservator.policies.dialects import Message
from conservator.policies.replies import Speaker, choose
from conservator.policies.vision_language import VisionLanguageModel, load_model
from conservator.session.trajectory import Decision, Rollback, Trajectory
from conservator.training.planner.answers import is_right
from conservator.training.planner.lessons import PlannerLesson, read_lessons, split_by_photo
from conservator.training.planner.situations import Situation
from conservator.training.planner.teaching import DIALECT, ask_lesson

QUESTIONS = 600


def without_history(lesson: PlannerLesson) -> PlannerLesson:
    """The current state as if the photo had come so."""
    came = replace(lesson.observation.trajectory.last, id=0, parent=None, decision=None, error=None)
    return replace(lesson, observation=replace(lesson.observation, trajectory=Trajectory((came,))), gains={})


TOLD: dict[str, Callable[[PlannerLesson], PlannerLesson]] = {
    "what perception found": lambda lesson: replace(lesson, withheld=True),
    "what the steps gained by perception": lambda lesson: replace(lesson, gains={}),
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


def line(name: str, right: np.ndarray, lessons: Sequence[PlannerLesson]) -> str:
    """A row of the table: all, its interval, and each situation."""
    drawn = np.random.default_rng(0).choice(right, (2000, len(right))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    groups = [right[[lesson.situation is situation for lesson in lessons]] for situation in Situation]
    cells = [
        f"{100 * right.mean():.0f} % ({100 * low:.0f}, {100 * high:.0f})",
        *(f"{100 * g.mean():.0f} %" if len(g) else "–" for g in groups),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def fixed(lessons: Sequence[PlannerLesson]) -> np.ndarray:
    """The answers of the best policy that looks at nothing: the first tool that is right most often, or stop."""
    actions = {action for lesson in lessons for action in lesson.values if not isinstance(action, Rollback)}
    decisions = [Decision(action) for action in sorted(actions, key=str)]
    return max((np.array([is_right(x, d) for x in lessons]) for d in decisions), key=lambda right: right.mean())


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(sys.argv[1])
    _, held_out = split_by_photo(read_lessons(Path(sys.argv[2])))
    count = int(sys.argv[3]) if len(sys.argv) > 3 else QUESTIONS
    lessons = [replace(lesson, withheld=False) for lesson in held_out[:: max(1, len(held_out) // count)][:count]]
    print(f"{len(lessons)} held-out questions, with what perception found; right answers, all and by situation")
    print(f"| without | all (95 %) | {' | '.join(situation.value for situation in Situation)} |")
    print("|---" * (len(Situation) + 2) + "|")
    print(line("anything: one answer for all", fixed(lessons), lessons))
    print(line("nothing", answers(model, lessons), lessons), flush=True)
    for name, change in TOLD.items():
        print(line(name, answers(model, lessons, change=change), lessons), flush=True)
    print(line("the objective", answers(model, lessons, say=without_objective), lessons), flush=True)
    for name, draw in PICTURES.items():
        print(line(name, answers(model, lessons, draw=draw), lessons), flush=True)
    blind = answers(model, lessons, TOLD["what perception found"], draw=PICTURES[GREY])
    print(line("both what perception found and the picture", blind, lessons), flush=True)
    wishing = [lesson for lesson in lessons if lesson.wish != NO_WISH]
    if wishing:
        print(f"\n{len(wishing)} of them have a wish of the user; of these alone:\n")
        print(f"| without | all (95 %) | {' | '.join(situation.value for situation in Situation)} |")
        print("|---" * (len(Situation) + 2) + "|")
        print(line("nothing", answers(model, wishing), wishing), flush=True)
        print(line("the wish", answers(model, wishing, lambda x: replace(x, wish=NO_WISH)), wishing), flush=True)


if __name__ == "__main__":
    main()
