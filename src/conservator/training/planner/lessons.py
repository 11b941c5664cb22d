"""What a planner learns from: what it would observe, the right answer, and what each action is worth.

A lesson is kept as a structured observation; the words that a model is asked in are rendered from it by a dialect when
it is used. ``write_lessons`` and ``read_lessons`` are the only two functions that know the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage

from conservator.degradations import Recipe, recipe_from_json, recipe_to_json
from conservator.errors import ConservatorError, name_not_found
from conservator.files import write_text
from conservator.image import Image, to_image
from conservator.kinds import NO_WISH, Kind, Objective, Severity, Wish
from conservator.perception.perception import Percept
from conservator.policies.dialects import Dialect
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Step, Stop, Trajectory
from conservator.tools.tool import ToolSpec
from conservator.training.data.crops import held_out
from conservator.training.planner.situations import Situation

LESSONS = "lessons.jsonl"
"""The file of a folder's lessons: its format and the tools in the first line, then a lesson in each."""
_FORMAT, _VERSION = "conservator planner lessons", 3
"""1 was prose, decisions.jsonl beside conversations.jsonl; 2 had neither wishes nor the scores of plans."""
_NOT_LOADED = torch.zeros(1, 3, 1, 1)


@dataclass(frozen=True)
class PlannerLesson:
    """One question with its answer."""

    name: str
    folder: Path
    """That of the data."""
    pictures: tuple[str, ...]
    """The picture's path in the folder, for every step; the last is the current one."""
    observation: Observation
    """Its pictures are left out, (1, 3, 1, 1) each: ``observe`` puts the current one in."""
    objective: Objective
    gains: Mapping[int, float] = field(hash=False)
    """Perception's estimate of what the steps gained, in dB (policies/planning.py)."""
    answer: Decision
    plans: Mapping[tuple[str, ...], float] = field(hash=False)
    """The plans from here that are as good as the best, with their scores (situations.py); the empty one is to stop."""
    values: Mapping[Action, float] = field(hash=False)
    """The best score that can still be reached, for every action of which it is known (situations.py)."""
    situation: Situation
    photo: str
    recipe: Recipe
    """The damage that the photo was given."""
    wish: Wish = NO_WISH
    """What the user wants beside the objective."""
    withheld: bool = False
    """Whether a model is asked without what perception found, so that it must look."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of damage that the photo was given."""
        return frozenset(degradation.kind for degradation in self.recipe)

    @property
    def best(self) -> float:
        """What the answer reaches."""
        assert self.answer.action is not None
        return self.values[self.answer.action]

    @property
    def told(self) -> Observation:
        """The observation, without its pictures and, where they are withheld, without the findings."""
        return without_findings(self.observation) if self.withheld else self.observation

    def load(self, step: int = -1) -> Image:
        """The picture of a step, the current one unless told otherwise, (1, 3, H, W)."""
        with PillowImage.open(self.folder / self.pictures[step]) as file:
            return to_image(np.asarray(file.convert("RGB")))

    def observe(self, *images: Image) -> Observation:
        """What a policy would know, with these pictures, or studies, of the last steps; one is the current state's.

        Without any picture nothing is withheld: there would be nothing to go by.
        """
        steps = (self.told if images else self.observation).trajectory.steps
        before, last = (steps[: -len(images)], steps[-len(images) :]) if images else (steps, ())
        seen = (replace(step, image=image) for step, image in zip(last, images, strict=True))
        return replace(self.observation, trajectory=Trajectory((*before, *seen)))


def without_pictures(observation: Observation) -> Observation:
    """The observation as a lesson keeps it."""
    steps = (replace(step, image=_NOT_LOADED) for step in observation.trajectory.steps)
    return replace(observation, trajectory=Trajectory(tuple(steps)))


def without_findings(observation: Observation) -> Observation:
    """The observation as if perception had found nothing to say of any step."""
    steps = (replace(step, percept=Percept()) for step in observation.trajectory.steps)
    return replace(observation, trajectory=Trajectory(tuple(steps)))


def write_lessons(folder: Path, lessons: Iterable[PlannerLesson], file: str = LESSONS) -> None:
    """Write lessons whose pictures are in ``folder``, whole or not at all."""
    lessons = list(lessons)
    tools = {spec.name: _from_spec(spec) for lesson in lessons for spec in lesson.observation.tools}
    head = {"format": _FORMAT, "version": _VERSION, "tools": tools}
    rows = (head, *map(_from_lesson, lessons))
    write_text(folder / file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_lessons(folder: Path, file: str = LESSONS) -> list[PlannerLesson]:
    """The lessons of a folder that ``conservator data build`` made; ConservatorError for one of another version."""
    path = folder / file
    if not path.exists():
        old = (folder / "decisions.jsonl").exists()
        raise (
            _other_version(path, 1)
            if old
            else ConservatorError(f"{path} is not there; give a folder that 'conservator data build' made")
        )
    first, *rows = path.read_text("utf-8").splitlines() or [""]
    head = _head(first)
    if head.get("version") != _VERSION:
        raise _other_version(path, head.get("version", "unknown"))
    tools = {name: _to_spec(name, told) for name, told in head["tools"].items()}
    return [_to_lesson(folder, json.loads(row), tools) for row in rows]


def _head(line: str) -> dict[str, Any]:
    """The first line of a file of lessons; empty where it is none."""
    try:
        head = json.loads(line)
    except ValueError:
        return {}
    return head if isinstance(head, dict) and head.get("format") == _FORMAT else {}


def _other_version(path: Path, version: object) -> ConservatorError:
    return ConservatorError(
        f"{path.parent} holds lessons of format {version}, but this program reads format {_VERSION}; "
        "make them again with 'conservator data build', into another folder"
    )


def _from_lesson(lesson: PlannerLesson) -> dict[str, Any]:
    observation = lesson.observation
    steps = zip(observation.trajectory.steps, lesson.pictures, strict=True)
    return {
        "id": lesson.name,
        "situation": lesson.situation,
        "objective": lesson.objective,
        "wish": _from_wish(lesson.wish),
        "withheld": lesson.withheld,
        "photo": lesson.photo,
        "recipe": recipe_to_json(lesson.recipe),
        "tools": [spec.name for spec in observation.tools],
        "steps_left": observation.steps_left,
        "steps": [_from_step(step, picture) for step, picture in steps],
        "gains": {str(number): gain for number, gain in lesson.gains.items()},
        "answer": {"action": _from_action(lesson.answer.action), "plan": list(lesson.answer.plan)},
        "plans": [{"tools": list(plan), "score": round(score, 4)} for plan, score in lesson.plans.items()],
        "values": [{"action": _from_action(a), "value": round(value, 4)} for a, value in lesson.values.items()],
    }


def _to_lesson(folder: Path, row: Mapping[str, Any], tools: Mapping[str, ToolSpec]) -> PlannerLesson:
    steps = tuple(_to_step(number, step) for number, step in enumerate(row["steps"]))
    values = {_to_action(item["action"]): item["value"] for item in row["values"]}
    return PlannerLesson(
        name=row["id"],
        folder=folder,
        pictures=tuple(step["picture"] for step in row["steps"]),
        observation=Observation(Trajectory(steps), tuple(tools[name] for name in row["tools"]), row["steps_left"]),
        objective=row["objective"],
        gains={int(number): gain for number, gain in row["gains"].items()},
        answer=Decision(_to_action(row["answer"]["action"]), tuple(row["answer"]["plan"])),
        plans={tuple(plan["tools"]): plan["score"] for plan in row["plans"]},
        values={action: value for action, value in values.items() if action is not None},
        situation=Situation(row["situation"]),
        photo=row["photo"],
        recipe=recipe_from_json(row["recipe"]),
        wish=_to_wish(row["wish"]),
        withheld=row["withheld"],
    )


def _from_wish(wish: Wish) -> dict[str, Any]:
    only = None if wish.only is None else sorted(wish.only)
    return {"only": only, "never": sorted(wish.never), "prefer": wish.prefer}


def _to_wish(told: Mapping[str, Any]) -> Wish:
    only = None if told["only"] is None else frozenset(map(Kind, told["only"]))
    return Wish(only, frozenset(map(Kind, told["never"])), told["prefer"])


def _from_spec(spec: ToolSpec) -> dict[str, Any]:
    return {"removes": sorted(spec.removes), "description": spec.description}


def _to_spec(name: str, told: Mapping[str, Any]) -> ToolSpec:
    return ToolSpec(name, frozenset(map(Kind, told["removes"])), told["description"], "", "")


def _from_step(step: Step, picture: str) -> dict[str, Any]:
    decision, percept = step.decision, step.percept
    return {
        "parent": step.parent,
        "action": _from_action(decision.action) if decision is not None else None,
        "error": step.error,
        "picture": picture,
        "severities": {str(kind): int(severity) for kind, severity in percept.severities.items()},
        "confidences": {str(kind): chance for kind, chance in percept.confidences.items()},
    }


def _to_step(number: int, told: Mapping[str, Any]) -> Step:
    percept = Percept(
        {Kind(kind): Severity(severity) for kind, severity in told["severities"].items()},
        {Kind(kind): chance for kind, chance in told["confidences"].items()},
    )
    decision = Decision(_to_action(told["action"])) if number else None
    return Step(number, told["parent"], decision, _NOT_LOADED, percept, error=told["error"])


def _from_action(action: Action | None) -> dict[str, Any] | None:
    match action:
        case Apply(tool):
            return {"type": "apply", "tool": tool}
        case Rollback(to):
            return {"type": "rollback", "to": to}
        case Stop():
            return {"type": "stop"}
        case None:
            return None


def _to_action(told: Mapping[str, Any] | None) -> Action | None:
    match told:
        case {"type": "apply", "tool": tool}:
            return Apply(tool)
        case {"type": "rollback", "to": to}:
            return Rollback(to)
        case {"type": "stop"}:
            return Stop()
        case _:
            return None


def write_conversations(folder: Path, lessons: Iterable[PlannerLesson], dialect: Dialect) -> None:
    """Write conversations.jsonl, the lessons in ShareGPT form, for other trainers; nothing here reads it."""
    roles = {"system": "system", "user": "human", "assistant": "gpt"}
    lines = []
    for lesson in lessons:
        messages = dialect.ask(lesson.told, lesson.objective, lesson.gains, lesson.wish)
        turns = [{"from": roles[message.role], "value": message.text} for message in messages]
        turns.append({"from": "gpt", "value": dialect.write(lesson.answer)})
        lines.append(json.dumps({"id": lesson.name, "images": [lesson.pictures[-1]], "conversations": turns}) + "\n")
    write_text(folder / "conversations.jsonl", "".join(lines))


def left_out(lesson: PlannerLesson, without: Sequence[str]) -> bool:
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


def split_by_photo(lessons: Sequence[PlannerLesson]) -> tuple[list[PlannerLesson], list[PlannerLesson]]:
    """Those to learn from and those held out: all about the photos that ``held_out`` names.

    ``lessons`` are as ``data build`` wrote them, in the order of the photos in their folder; data of fewer crops begin
    with the same photos. Of several folders of data this holds where all are made of one folder of photos.
    """
    photos = list(dict.fromkeys(lesson.photo for lesson in lessons))
    unseen = set(held_out(photos))
    return [x for x in lessons if x.photo not in unseen], [x for x in lessons if x.photo in unseen]
