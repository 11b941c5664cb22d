"""Lessons as a model meets them: drawn, varied, written in its tokens; and how well it answers those held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conservator.image import Image
from conservator.policies.dialects import Message, PlanDialect
from conservator.policies.replies import Speaker, choose
from conservator.policies.vision_language import Prompt, VisionLanguageModel, inputs_of
from conservator.session.trajectory import Apply, Decision, Rollback, Stop
from conservator.training.planner.lessons import PlannerLesson, left_out
from conservator.training.planner.prefix import IGNORED
from conservator.training.planner.situations import TIE, Situation

DIALECT = PlanDialect()
"""What planners are taught in, and what ``mllm`` asks them in."""
_VIEW = 96
"""Pixels of the pictures of a small study."""


def ask_lesson(lesson: PlannerLesson, image: Image | None) -> Sequence[Message]:
    """The question of a lesson, with this picture or study of the current state; without one, in words alone."""
    if image is None:
        return replace(DIALECT, in_words=True).ask(lesson.observation, lesson.objective, lesson.gains)
    return DIALECT.ask(lesson.observe(image), lesson.objective, lesson.gains)


def shuffle_lessons(lessons: Sequence[PlannerLesson], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The numbers (N,) of all lessons by chance, those about one toolbox in batches, so that these begin alike."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in rng.permutation(len(lessons)):
        toolbox = tuple(spec.name for spec in lessons[number].observation.tools)
        groups.setdefault(toolbox, []).append(int(number))
    batches = [group[i : i + batch] for group in groups.values() for i in range(0, len(group), batch)]
    whole = [batches[i] for i in rng.permutation(len(batches)) if len(batches[i]) == batch]
    rest = [part for part in batches if len(part) < batch]
    return np.array([number for part in (*whole, *rest) for number in part])


def varied(image: Image, rng: np.random.Generator, studies: float) -> Image:
    """The picture mirrored and turned by chance, and, by the chance ``studies``, as a small study of itself.

    Large photos are planned on studies, which the data, being of crops, does not have: its whole, reduced, stands for
    the overview, four native parts of it for the details. Parts begin where the blocks of a JPEG do.
    """
    image = torch.rot90(image, int(rng.integers(4)), (-2, -1))
    image = image.flip(-1) if rng.random() < 0.5 else image
    if rng.random() >= studies or min(image.shape[-2:]) < _VIEW:
        return image
    overview = F.interpolate(image, (_VIEW, _VIEW), mode="bilinear", antialias=True).clamp(0, 1)
    parts = []
    for _ in range(4):
        top, left = (16 * int(rng.integers((n - _VIEW) // 16 + 1)) for n in image.shape[-2:])
        parts.append(image[..., top : top + _VIEW, left : left + _VIEW])
    return torch.cat([overview, *parts])


class Collator:
    """Makes batches of questions with answers; only the answers are learned. Item (i, turn) always looks the same."""

    def __init__(self, model: VisionLanguageModel, lessons: Sequence[PlannerLesson], seed: int, studies: float) -> None:
        self._model, self._lessons, self._seed, self._studies = model, lessons, seed, studies
        self._speaker = Speaker(model.tokens, model.end, DIALECT)

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        """The batch of rows ``{"lesson": i, "turn": which time it is seen, "words": whether in words alone}``."""
        prompts, labels = [], []
        for row in rows:
            lesson = self._lessons[row["lesson"]]
            rng = np.random.default_rng([self._seed, row["lesson"], row["turn"]])
            image = None if row.get("words", False) else varied(lesson.load(), rng, self._studies)
            asked = self._model.prompt(ask_lesson(lesson, image))
            reply = torch.tensor(self._speaker.write(lesson.answer))
            prompts.append(Prompt(torch.cat([asked.ids, reply]), asked.patches, asked.grids))
            labels.append(torch.cat([torch.full_like(asked.ids, IGNORED), reply]))
        batch = inputs_of(self._model, prompts)
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, True, padding_value=IGNORED)
        return batch


def examine_planner(
    model: VisionLanguageModel, lessons: Sequence[PlannerLesson], in_words: bool = False, without: Sequence[str] = ()
) -> dict[str, float]:
    """How a model answers, decoded as the policy does it; ``in_words`` asks it in words alone.

    ``right`` and, for each situation, ``right_SITUATION``: the share of answers that lead as far as the best one does,
    or nearly so; and ``right_left_out`` of those that are ``without`` the training. NaN where nothing was asked.
    """
    speaker = Speaker(model.tokens, model.end, DIALECT)
    found: dict[str, list[bool]] = {situation.value: [] for situation in Situation}
    unseen: list[bool] = []
    was = model.network.training
    model.network.eval()
    with model.lock:
        for lesson in lessons:
            reading = model.read(model.prompt(ask_lesson(lesson, None if in_words else lesson.load())))
            right = is_right(lesson, choose(lesson.observation, reading.next, speaker).decision)
            found[lesson.situation].append(right)
            if left_out(lesson, without):
                unseen.append(right)
    model.network.train(was)
    everything = [right for answers in found.values() for right in answers]
    scores = {"right": _share(everything)} | ({"right_left_out": _share(unseen)} if without else {})
    return scores | {f"right_{situation}": _share(answers) for situation, answers in found.items()}


def is_right(lesson: PlannerLesson, decision: Decision) -> bool:
    """Whether the next action leads as far as that of the answer, or nearly so; a rollback, to the same step."""
    match decision.action:
        case Rollback():
            return decision.action == lesson.answer.action
        case Apply() | Stop():
            return lesson.values.get(decision.action, float("-inf")) >= lesson.best - TIE
        case _:
            return False


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else float("nan")
