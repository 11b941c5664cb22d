"""Lessons as a model meets them: drawn, varied, written in its tokens; and how well it answers those held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conservator.image import Image
from conservator.kinds import NO_WISH
from conservator.policies.dialects import Message, PlanDialect, ToolDialect
from conservator.policies.reading import Prompt, inputs_of
from conservator.policies.replies import Fork, Speaker, Tokens, choose, forks_of
from conservator.policies.vision_language import VisionLanguageModel
from conservator.training.planner.answers import is_right, right_answers
from conservator.training.planner.lessons import PlannerLesson, left_out
from conservator.training.planner.orders import DialectName
from conservator.training.planner.prefix import IGNORED
from conservator.training.planner.situations import Situation

DIALECT = PlanDialect()
"""What planners are taught in, unless told otherwise, and what ``mllm`` asks them in."""
DIALECTS: Mapping[DialectName, PlanDialect | ToolDialect] = {"plan": DIALECT, "tools": ToolDialect()}
"""What planners can be taught in; ``tir`` asks in ``tools``."""
_SORTED = 8
"""Batches of conversations that are divided by their steps. Of 128 questions about four in ten tokens were filling
before; ours, not tuned."""
_VIEW = 96
"""Pixels of the pictures of a small study."""


def ask_lesson(
    lesson: PlannerLesson, images: Sequence[Image], dialect: PlanDialect | ToolDialect = DIALECT
) -> Sequence[Message]:
    """The question of a lesson, with these pictures or studies of its last steps; without any, in words alone."""
    return _shown(dialect, images).ask(lesson.observe(*images), lesson.objective, lesson.gains, lesson.wish)


def _shown(dialect: PlanDialect | ToolDialect, images: Sequence[Image]) -> PlanDialect | ToolDialect:
    return dialect if images else replace(dialect, in_words=True)


def _prompt(
    model: VisionLanguageModel, lesson: PlannerLesson, images: Sequence[Image], dialect: PlanDialect | ToolDialect
) -> Prompt:
    """``ask_lesson`` as the model reads it."""
    functions = _shown(dialect, images).functions(lesson.observation)
    return model.prompt(ask_lesson(lesson, images, dialect), functions)


def pictures_for(lesson: PlannerLesson, dialect: PlanDialect | ToolDialect) -> list[Image]:
    """The pictures that a question shows: of all steps where it is a conversation, else of the current state."""
    shown = range(len(lesson.pictures)) if isinstance(dialect, ToolDialect) else [-1]
    return [lesson.load(step) for step in shown]


def balance_situations(lessons: Sequence[PlannerLesson]) -> list[PlannerLesson]:
    """The lessons, those of the rarer situations again and again until each situation is asked about as often."""
    groups = [[lesson for lesson in lessons if lesson.situation is situation] for situation in Situation]
    most = max(map(len, groups))
    return [lesson for group in groups if group for lesson in islice(cycle(group), most)]


def shuffle_lessons(
    lessons: Sequence[PlannerLesson], batch: int, rng: np.random.Generator, by_steps: bool = False
) -> NDArray[np.int64]:
    """The numbers (N,) of all lessons by chance, those about one toolbox in batches, so that these begin alike.

    With ``by_steps`` a few batches at a time are divided by how many steps were made: where each step is shown with its
    picture, little of a batch is filling then.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in rng.permutation(len(lessons)):
        toolbox = tuple(spec.name for spec in lessons[number].observation.tools)
        groups.setdefault(toolbox, []).append(int(number))
    batches = list[list[int]]()
    for group in groups.values():
        some = _SORTED * batch if by_steps else batch
        for i in range(0, len(group), some):
            part = group[i : i + some]
            part = sorted(part, key=lambda number: len(lessons[number].pictures)) if by_steps else part
            batches += [part[j : j + batch] for j in range(0, len(part), batch)]
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

    def __init__(
        self,
        model: VisionLanguageModel,
        lessons: Sequence[PlannerLesson],
        seed: int,
        studies: float,
        dialect: PlanDialect | ToolDialect = DIALECT,
        spread: bool = False,
    ) -> None:
        """With ``spread``, all right answers are learned, by their shares: one is drawn from them each turn."""
        self._model, self._lessons, self._seed, self._studies = model, lessons, seed, studies
        self._dialect, self._spread = dialect, spread
        self._speaker = Speaker(model.tokens, model.end, dialect)

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        """The batch of rows ``{"lesson": i, "turn": which time it is seen, "words": whether in words alone}``."""
        prompts, labels, ways = [], [], []
        for row in rows:
            lesson, key = self._lessons[row["lesson"]], [self._seed, row["lesson"], row["turn"]]
            shown = [] if row.get("words", False) else pictures_for(lesson, self._dialect)
            images = [varied(image, np.random.default_rng(key), self._studies) for image in shown]
            asked = _prompt(self._model, lesson, images, self._dialect)
            said, way = self._answer(lesson, np.random.default_rng([*key, 1]))
            reply = torch.tensor(said)
            prompts.append(Prompt(torch.cat([asked.ids, reply]), asked.patches, asked.grids))
            labels.append(torch.cat([torch.full_like(asked.ids, IGNORED), reply]))
            ways.append((len(asked.ids), way))
        batch = inputs_of(self._model, prompts)
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, True, padding_value=IGNORED)
        return batch | (_shares(batch["labels"], ways) if self._spread else {})

    def _answer(self, lesson: PlannerLesson, rng: np.random.Generator) -> tuple[Tokens, list[Fork]]:
        """What is to be said, and what else could be said on the way."""
        if not self._spread:
            return self._speaker.write(lesson.answer), []
        answers = right_answers(lesson, self._dialect.plans)
        right = {self._speaker.write(answer): share for answer, share in answers.items()}
        said = list(right)[int(rng.choice(len(right), p=list(right.values())))]
        return said, forks_of(right, said)


def _shares(labels: Tensor, ways: Sequence[tuple[int, Sequence[Fork]]]) -> dict[str, Tensor]:
    """``choices`` and ``shares`` of labels (B, L): the label alone, or at a fork all that may follow.

    ``ways`` are, for each row, where its answer begins, and its forks.
    """
    most = max((len(fork.tokens) for _, way in ways for fork in way), default=1)
    choices = torch.zeros(*labels.shape, most, dtype=torch.long)
    shares = torch.zeros(*labels.shape, most)
    choices[..., 0], shares[..., 0] = labels.clamp(min=0), (labels != IGNORED).float()
    for row, (start, way) in enumerate(ways):
        for fork in way:
            place, count = start + fork.place, len(fork.tokens)
            choices[row, place, :count] = torch.tensor(fork.tokens)
            shares[row, place, :count] = torch.tensor(fork.shares)
    return {"choices": choices, "shares": shares}


def examine_planner(
    model: VisionLanguageModel,
    lessons: Sequence[PlannerLesson],
    in_words: bool = False,
    without: Sequence[str] = (),
    dialect: PlanDialect | ToolDialect = DIALECT,
) -> dict[str, float]:
    """How a model answers, decoded as the policy does it; ``in_words`` asks it in words alone.

    ``right`` and, for each situation, ``right_SITUATION``: the share of answers that lead as far as the best one does,
    or nearly so; ``right_withheld`` of questions whose findings are withheld, ``right_wish`` of those with a wish; and
    ``right_left_out`` of those that are ``without`` the training. NaN where nothing was asked.
    """
    speaker = Speaker(model.tokens, model.end, dialect)
    found: dict[str, list[bool]] = {situation.value: [] for situation in Situation}
    unseen, looked, heeded = list[bool](), list[bool](), list[bool]()
    was = model.network.training
    model.network.eval()
    with model.lock:
        for lesson in lessons:
            asked = _prompt(model, lesson, [] if in_words else pictures_for(lesson, dialect), dialect)
            reading = model.read(asked)
            right = is_right(lesson, choose(lesson.observation, reading.next, speaker).decision)
            found[lesson.situation].append(right)
            for group, belongs in (
                (unseen, left_out(lesson, without)),
                (looked, lesson.withheld and not in_words),
                (heeded, lesson.wish != NO_WISH),
            ):
                group += [right] if belongs else []
    model.network.train(was)
    everything = [right for answers in found.values() for right in answers]
    scores = {"right": _share(everything)} | ({"right_left_out": _share(unseen)} if without else {})
    scores |= {"right_withheld": _share(looked), "right_wish": _share(heeded)}
    return scores | {f"right_{situation}": _share(answers) for situation, answers in found.items()}


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else float("nan")
