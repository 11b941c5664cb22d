"""What a planner learns from the data of training/planner.py: questions with pictures, answers and their worth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from conservator.degradations.kinds import Kind
from conservator.errors import ConservatorError, name_not_found
from conservator.image import Image, to_image
from conservator.perception.perception import Percept
from conservator.policies.conversation import IMAGE, Message, shown
from conservator.policies.replies import Speaker, choose
from conservator.policies.vision_language import Prompt, VisionLanguageModel, inputs_of
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Step, Stop, Trajectory
from conservator.tools.tool import ToolSpec
from conservator.training.prefix import IGNORED
from conservator.training.situations import TIE, Situation

_HELD_OUT = 10
"""One photo of so many is held out, when there are as many."""
_VIEW = 96
"""Pixels of the pictures of a small study."""


@dataclass(frozen=True)
class Lesson:
    """One question with its answer."""

    name: str
    messages: tuple[Message, Message]
    """Without the pictures."""
    picture: Path
    answer: str
    photo: str
    situation: Situation
    kinds: frozenset[str]
    """Damage that the photo was given."""
    actions: tuple[Action, ...]
    """The history."""
    values: Mapping[str, float]
    """What can still be reached, by the next action (training/situations.py)."""

    @property
    def best(self) -> float:
        """What the answer reaches."""
        word = self.answer.partition(":")[0]
        first = re.match(r"plan: (\w+)", self.answer)
        return self.values[first[1] if first else word]

    @property
    def toolbox(self) -> tuple[str, ...]:
        """The lines that tell of a tool each."""
        return tuple(line for line in self.messages[0].text.splitlines() if line.startswith("- "))

    def load(self) -> Image:
        """The picture of the current state, (1, 3, H, W)."""
        with PillowImage.open(self.picture) as file:
            return to_image(np.asarray(file.convert("RGB")))

    def ask(self, image: Image) -> tuple[Message, Message]:
        """The question with this picture, or with this study of it."""
        system, user = self.messages
        text = user.text.replace(shown(1), shown(len(image)), 1)
        return system, replace(user, text=text, images=image.split(1))

    def ask_in_words(self) -> tuple[Message, Message]:
        """The question without its picture, and without the toolbox, whose names are in the history and the answer."""
        system, user = self.messages
        lines = [line for line in system.text.splitlines() if line not in self.toolbox]
        return replace(system, text="\n".join(lines)), replace(user, text=user.text.replace(IMAGE, ""))

    def observe(self, image: Image) -> Observation:
        """What a policy would know: history and names of tools are those of the question."""
        tools = re.findall(r"^- (\w+) \(.*?\): (.*)$", self.messages[0].text, re.MULTILINE)
        steps = [Step(0, None, None, image, Percept())]
        for action in self.actions:
            parent = action.to if isinstance(action, Rollback) else steps[-1].id
            steps.append(Step(len(steps), parent, Decision(action), image, Percept()))
        specs = tuple(ToolSpec(name, frozenset(), text, "", "") for name, text in tools)
        return Observation(Trajectory(tuple(steps)), specs, 13 - len(steps))


def read_lessons(folder: Path) -> list[Lesson]:
    """The questions of a folder that ``conservator data build`` made; ConservatorError where it is none."""
    found = []
    for name in ("conversations", "decisions"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            raise ConservatorError(f"{path} is not there; give a folder that 'conservator data build' made")
        found.append([json.loads(line) for line in path.read_text("utf-8").splitlines()])
    if not found[0]:
        raise ConservatorError(f"{folder} holds no questions")
    return [_lesson(folder, asked, row) for asked, row in zip(*found, strict=True)]


def _lesson(folder: Path, asked: Mapping[str, Any], row: Mapping[str, Any]) -> Lesson:
    system, user, reply = (turn["value"] for turn in asked["conversations"])
    return Lesson(
        asked["id"],
        (Message("system", system), Message("user", user)),
        folder / asked["images"][0],
        reply,
        row["photo"],
        Situation(row["situation"]),
        frozenset(row["kinds"]),
        tuple(_action(item) for item in row["history"]),
        row["values"],
    )


def _action(item: Mapping[str, Any]) -> Action:
    return Apply(item["tool"]) if item["type"] == "apply" else Rollback(item["to"])


def left_out(lesson: Lesson, without: Sequence[str]) -> bool:
    """Whether a question is of one of these situations, or of a photo with all kinds of damage of "rain+noise".

    Raises NameNotFoundError for what is neither.
    """
    situations = {situation.value for situation in Situation}
    for name in without:
        kinds = set(name.split("+"))
        if name not in situations and (unknown := kinds - {kind.value for kind in Kind}):
            raise name_not_found("situation or kind", min(unknown), [*situations, *Kind])
        if name == lesson.situation or kinds <= lesson.kinds:
            return True
    return False


def split(lessons: Sequence[Lesson]) -> tuple[list[Lesson], list[Lesson]]:
    """Those to learn from and those held out: all about every tenth photo; none where there are fewer than ten."""
    photos = sorted({lesson.photo for lesson in lessons})
    held_out = set(photos[_HELD_OUT - 1 :: _HELD_OUT])
    return [x for x in lessons if x.photo not in held_out], [x for x in lessons if x.photo in held_out]


def shuffled(lessons: Sequence[Lesson], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The numbers of all lessons by chance, those about one toolbox in batches, so that these begin alike."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in rng.permutation(len(lessons)):
        groups.setdefault(lessons[number].toolbox, []).append(int(number))
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

    def __init__(self, model: VisionLanguageModel, lessons: Sequence[Lesson], seed: int, studies: float) -> None:
        self._model, self._lessons, self._seed, self._studies = model, lessons, seed, studies
        self._speaker = Speaker(model.tokens, model.end)

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        """The batch of rows ``{"lesson": i, "turn": which time it is seen, "words": whether in words alone}``."""
        prompts, labels = [], []
        for row in rows:
            lesson = self._lessons[row["lesson"]]
            rng = np.random.default_rng([self._seed, row["lesson"], row["turn"]])
            in_words = row.get("words", False)
            asked = self._model.prompt(
                lesson.ask_in_words() if in_words else lesson.ask(varied(lesson.load(), rng, self._studies))
            )
            reply = torch.tensor(self._speaker.write(lesson.answer))
            prompts.append(Prompt(torch.cat([asked.ids, reply]), asked.patches, asked.grids))
            labels.append(torch.cat([torch.full_like(asked.ids, IGNORED), reply]))
        batch = inputs_of(self._model, prompts)
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, True, padding_value=IGNORED)
        return batch


def examine(
    model: VisionLanguageModel, lessons: Sequence[Lesson], in_words: bool = False, without: Sequence[str] = ()
) -> dict[str, float]:
    """How a model answers, decoded as the policy does it; ``in_words`` asks it in words alone.

    ``right`` and, for each situation, ``right_SITUATION``: the share of answers that lead as far as the best one does,
    or nearly so; and ``right_left_out`` of those that are ``without`` the training. NaN where nothing was asked.
    """
    speaker = Speaker(model.tokens, model.end)
    found: dict[str, list[bool]] = {situation.value: [] for situation in Situation}
    unseen: list[bool] = []
    was = model.network.training
    model.network.eval()
    with model.lock:
        for lesson in lessons:
            image = lesson.load()
            reading = model.read(model.prompt(lesson.ask_in_words() if in_words else lesson.ask(image)))
            decision = choose(lesson.observe(image), reading.next, speaker).decision
            right = is_right(lesson, decision)
            found[lesson.situation].append(right)
            if left_out(lesson, without):
                unseen.append(right)
    model.network.train(was)
    everything = [right for answers in found.values() for right in answers]
    scores = {"right": _share(everything)} | ({"right_left_out": _share(unseen)} if without else {})
    return scores | {f"right_{situation}": _share(answers) for situation, answers in found.items()}


def is_right(lesson: Lesson, decision: Decision) -> bool:
    """Whether the next action leads as far as that of the answer, or nearly so; a rollback, to the same step."""
    match decision.action:
        case Rollback(to):
            return lesson.answer == f"rollback: {to}"
        case Apply(tool):
            return lesson.values.get(tool, float("-inf")) >= lesson.best - TIE
        case Stop():
            return lesson.values["stop"] >= lesson.best - TIE
        case _:
            return False


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else float("nan")
