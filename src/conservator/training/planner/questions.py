"""Build what planners learn from: questions about damaged photos, with pictures, history and the right answer.

Every toolchain of a damaged crop is run and scored (evaluation/enumerate.py), and each objective gives questions
(situations.py). They are kept as structured observations (lessons.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from conservator.claims import Identity, claim
from conservator.commands import command_line
from conservator.degradations import degrade
from conservator.evaluation.enumerate import EachKindOnce, Enumeration, enumerate_toolchains
from conservator.evaluation.rows import content_of
from conservator.files import replacing, write_text
from conservator.image import Image, digest, in_8_bits, to_array
from conservator.kinds import NO_WISH, OBJECTIVES, Kind, Objective, Wish
from conservator.perception.perception import Perception
from conservator.perception.remembering import RememberingPerception
from conservator.photo import find_photos, load_photo
from conservator.policies.dialects.words import goal
from conservator.policies.planning import estimated_gains, plannable
from conservator.pool import MemoPool, Pool, RayPool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Step, Trajectory
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import ToolSpec
from conservator.training.data.crops import training_data
from conservator.training.data.parts import random_part
from conservator.training.data.recipes import random_recipe, with_kinds, without_resizing
from conservator.training.planner.lessons import (
    PlannerLesson,
    read_lessons,
    without_pictures,
    write_conversations,
    write_lessons,
)
from conservator.training.planner.orders import CROP_SIDE, PlannerDataOrder
from conservator.training.planner.situations import Outlook, Question, questions
from conservator.training.planner.teaching import DIALECT
from conservator.training.planner.trajectories import Perturbation, trajectory_questions
from conservator.training.planner.wishes import LEFT_GRAIN, LOST_DETAIL, draw_wishes, wished

_STEPS = 12
"""Decisions of a session."""
_TOLD = ("count", "toolbox", "wishes", "withheld", "metrics", "seed")
"""Options that the data card's command repeats."""
_FEW = 3
"""Up to so many kinds at once, all their tools are tried; of more, two each, since toolchains grow too many."""


def build_planner_data(order: PlannerDataOrder, report: Callable[[str], None] = print) -> int:
    """Make the crops that ``order.output`` does not hold yet, then write the files of all; return how many questions.

    Raises ConservatorError for a folder without photos, or with data of another order.
    """
    photos = find_photos(order.photos)
    for folder in (order.output / "parts", order.output / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    _claim(order, photos)
    missing = [i for i in range(order.count) if not (order.output / _part(i)).exists()]
    tasks = [(order, photos[i % len(photos)], i) for i in missing]
    # each process joins a shared pool by itself, so none may inherit what this one has of it
    with ProcessPoolExecutor(order.jobs, get_context("spawn") if order.pool else None) as processes:
        for done, _ in enumerate(processes.map(_work, tasks), order.count - len(missing) + 1):
            if done % 20 == 0 or done == order.count:
                report(f"{done} of {order.count} crops")
    return _gather(order)


def _claim(order: PlannerDataOrder, photos: Sequence[Path]) -> None:
    """Make the folder this order's. Of the weights that ship perception's and the tools' count; "." marks files."""
    toolbox = make_toolbox(order.toolbox)
    found = content_of(photos, order.photos, toolbox, order.toolbox, order.output)
    used = {name: sha for name, sha in found.weights.items() if name in {"perception", *toolbox} or "." in name}
    names = ("toolbox", "seed", "always", "wishes", "withheld", "metrics")
    settings = {name: getattr(order, name) for name in names} | {"side": CROP_SIDE}
    if order.trajectories:
        settings |= {name: getattr(order, name) for name in ("trajectories", "swaps", "substitutes", "tolerance")}
    claim(order.output, Identity.of(settings, photos=found.photos, tools=found.tools, weights=used))
    if order.scores is not None:  # a journal knows pictures and metrics, but not what made the toolchains
        tools = {name: sha for name, sha in used.items() if name != "perception"}
        claim(order.scores, Identity.of({"toolbox": order.toolbox}, tools=found.tools, weights=tools))


def _part(number: int) -> str:
    """The file of one crop's lessons, in the folder of the data."""
    return f"parts/{number:06d}.jsonl"


_RESTORERS: dict[tuple[str, str | None], tuple[Restorer, Pool]] = {}
"""Of a process that makes crops: loaded for the first one, by toolbox and shared pool; and where tools run."""


def _work(task: tuple[PlannerDataOrder, Path, int]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    order, photo, number = task
    key = order.toolbox, order.pool
    if key not in _RESTORERS:
        made = Restorer(Request(toolbox=order.toolbox))
        _RESTORERS[key] = made, RayPool(made.toolbox, order.pool) if order.pool else made.models
    restorer, pool = _RESTORERS[key]
    perception = RememberingPerception(restorer.perception, order.measured)
    lessons = _lessons(order, photo, number, restorer.toolbox.specs, pool, perception)
    write_lessons(order.output, lessons, _part(number))


def _lessons(
    order: PlannerDataOrder, photo: Path, number: int, specs: Sequence[ToolSpec], pool: Pool, perception: Perception
) -> Iterator[PlannerLesson]:
    """The questions about one damaged crop; their pictures are written."""
    rng = np.random.default_rng([order.seed, number, 31])
    recipe = with_kinds(order.always, without_resizing(random_recipe(rng)), rng)
    clean = random_part(load_photo(photo).image, rng)[..., :CROP_SIDE, :CROP_SIDE].contiguous()
    damaged = in_8_bits(degrade(clean, recipe))
    present = frozenset(degradation.kind for degradation in recipe)
    usable = plannable(specs)
    treatable = frozenset[Kind]().union(*(spec.removes for spec in usable))
    absent = [kind for kind in Kind if kind in treatable - present]
    distractor = absent[int(rng.integers(len(absent)))]  # a planner must learn what needless treatment spoils
    tried = present | {distractor} if len(present) < _FEW else present
    usable = usable if len(tried) <= _FEW else _two_each(usable, rng)
    memo = MemoPool(pool)
    metrics = (*order.metrics, *((LOST_DETAIL, LEFT_GRAIN) if order.wishes else ()))
    journal = order.scores / f"{number:06d}.jsonl" if order.scores else None
    found = enumerate_toolchains(damaged, clean, EachKindOnce.of(usable, tried), memo, metrics=metrics, journal=journal)
    hidden = np.random.default_rng([order.seed, number, 37])
    for place, (objective, wish) in enumerate(_conditions(order, found, usable, tried, rng)):
        valued = wished(found, found.objective(objective)[0], wish, usable)
        for question in _asked(order, *valued, usable, rng):
            trajectory = _trajectory(damaged, question.history, memo, perception)
            observation = Observation(trajectory, usable, _STEPS + 1 - len(trajectory.steps))
            name = f"{number:06d}-{objective}-"
            name += f"wish{place - len(OBJECTIVES)}-" if place >= len(OBJECTIVES) else ""
            name += question.situation + (f"-{len(question.history)}" if order.trajectories else "")
            yield PlannerLesson(
                name=name,
                folder=order.output,
                pictures=tuple(_write_image(order.output, step.image) for step in trajectory.steps),
                observation=without_pictures(observation),
                objective=objective,
                gains=estimated_gains(observation, perception, objective),
                answer=question.answer,
                plans=question.plans,
                values=question.values,
                situation=question.situation,
                photo=photo.name,
                recipe=recipe,
                wish=wish,
                withheld=bool(hidden.random() < order.withheld),
            )


def _conditions(
    order: PlannerDataOrder,
    found: Enumeration,
    tools: Sequence[ToolSpec],
    kinds: frozenset[Kind],
    rng: np.random.Generator,
) -> Iterator[tuple[Objective, Wish]]:
    """What a crop is asked about for: each objective without a wish, then wishes, each with an objective by chance."""
    yield from ((objective, NO_WISH) for objective in OBJECTIVES)
    drawn = np.random.default_rng(rng.integers(2**32))  # how many draws the wishes take changes no other question
    aim = OBJECTIVES[int(drawn.integers(len(OBJECTIVES)))]
    scores = found.objective(aim)[0]
    yield from ((aim, wish) for wish in draw_wishes(found, scores, tools, kinds, order.wishes, drawn))


def _asked(
    order: PlannerDataOrder,
    found: Enumeration,
    scores: NDArray[np.float64],
    tools: Sequence[ToolSpec],
    rng: np.random.Generator,
) -> Iterator[Question]:
    """What is asked about a crop by one objective: a trajectory, or questions that are drawn."""
    if not order.trajectories:
        return questions(Outlook(found, scores), rng)
    perturbation = Perturbation(order.swaps, order.substitutes, order.tolerance)
    return trajectory_questions(found, scores, {spec.name: spec.removes for spec in tools}, perturbation, rng)


def _two_each(specs: Sequence[ToolSpec], rng: np.random.Generator) -> tuple[ToolSpec, ...]:
    """At most two tools, drawn by chance, for each set of kinds; in the toolbox's order."""
    chosen: dict[frozenset[Kind], list[ToolSpec]] = {}
    for i in rng.permutation(len(specs)):
        chosen.setdefault(specs[i].removes, []).append(specs[i])
    kept = {spec.name for group in chosen.values() for spec in group[:2]}
    return tuple(spec for spec in specs if spec.name in kept)


def _trajectory(image: Image, history: Sequence[Action], pool: Pool, perception: Perception) -> Trajectory:
    """The steps of a history, run again."""
    steps = [Step(0, None, None, image, perception.grade(image))]
    for action in history:
        last = steps[-1]
        if isinstance(action, Apply):
            image, parent = pool.submit(action.tool, last.image).result(), last.id
        elif isinstance(action, Rollback):
            image, parent = steps[action.to].image, action.to
        steps.append(Step(last.id + 1, parent, Decision(action), image, perception.grade(image)))
    return Trajectory(tuple(steps))


def _write_image(output: Path, image: Image) -> str:
    """Store a picture once, lossless; return its path within ``output``."""
    name = f"images/{digest(image)[:20]}.webp"
    if not (output / name).exists():
        with replacing(output / name) as file:
            PillowImage.fromarray(to_array(image, np.uint8)).save(file, "WEBP", lossless=True, method=2)
    return name


def _gather(order: PlannerDataOrder) -> int:
    """Write the files of the whole folder from the parts; return how many questions."""
    lessons = [lesson for number in range(order.count) for lesson in read_lessons(order.output, _part(number))]
    write_lessons(order.output, lessons)
    write_conversations(order.output, lessons, DIALECT)
    write_text(order.output / "README.md", _card(order, lessons))
    return len(lessons)


def _card(order: PlannerDataOrder, lessons: Sequence[PlannerLesson]) -> str:
    """The data card: what this is, where it comes from, and what is in it."""
    settings: dict[str, Any] = {name: getattr(order, name) for name in _TOLD}
    asked = "questions"
    if order.trajectories:
        settings |= {name: getattr(order, name) for name in ("trajectories", "swaps", "substitutes", "tolerance")}
        asked = "questions along perturbed trajectories, a call each,"
    always = ",".join(sorted(order.always)) or None
    command = command_line("data", "build", photos=order.photos, output=order.output, settings=settings, always=always)
    lines = [
        "# Planner data",
        "",
        f"{len(lessons)} {asked} about {order.count} damaged crops of {CROP_SIDE} pixels, each with the right "
        "answer: the best of all toolchains that treat each kind of damage at most once, scored by "
        f"{' and '.join(order.metrics)}.",
        "",
        f"- Command: `{command}`",
        f"- Photos: {training_data(order.photos)}",
        "- `lessons.jsonl`: the tools, then for each question the observation (steps with their pictures and what was "
        "found in them, estimated gains, objective, wish), the best answer, the scores of all plans as good, and the "
        "best score that each action can still reach. Of those that are withheld a model is not told the findings.",
        "- `conversations.jsonl`: the same questions as ShareGPT turns with pictures, for other trainers.",
        "- Not in it: low resolution, since pictures of two sizes cannot be ranked; LPIPS and DISTS.",
        "",
    ]
    counts: dict[str, Counter[Any]] = {
        "situation": Counter(str(lesson.situation) for lesson in lessons),
        "objective": Counter(lesson.objective for lesson in lessons),
        "wish": Counter(goal(lesson.objective, lesson.wish).partition("\n")[2] or "none" for lesson in lessons),
        "findings": Counter("withheld" if lesson.withheld else "told" for lesson in lessons),
        "kinds of damage": Counter(len(lesson.kinds) for lesson in lessons),
    }
    for title, counter in counts.items():
        rows = [f"| {key} | {number} |" for key, number in sorted(counter.items())]
        lines += [f"| {title} | questions |", "|---|---|", *rows, ""]
    return "\n".join(lines)
