"""Build what planners learn from: questions about damaged photos, with pictures, history and the right answer.

Every toolchain of a damaged crop is run and scored (evaluation/enumerate.py), and each objective gives questions
(situations.py). They are written twice: as conversations, in the words that a model will be asked in, and plainly, for
small policies.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage

from conservator.claims import Identity, claim
from conservator.commands import command_line
from conservator.degradations import BY_KIND, NATURE, Degradation, Kind, Recipe, Severity, degrade, recipe_to_json
from conservator.evaluation.enumerate import EachKindOnce, enumerate_toolchains
from conservator.evaluation.rows import content_of
from conservator.files import replacing, write_text
from conservator.image import Image, digest, to_array
from conservator.perception import NetworkPerception
from conservator.perception.perception import OBJECTIVES, Objective, Percept, Perception
from conservator.photo import find_photos, load_photo
from conservator.policies.conversation import Message, ask, judged, plannable, write_reply
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Step, Trajectory
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox, ToolSpec
from conservator.training.crops import training_data
from conservator.training.samples import random_part, random_recipe
from conservator.training.situations import Outlook, Question, questions

SIDE = 224
"""Pixels of a crop."""
STEPS = 12
_METRICS = ("psnr", "ssim")
_FEW = 3
"""Up to so many kinds at once, all their tools are tried; of more, two each, since toolchains grow too many."""


@dataclass(frozen=True)
class Plan:
    """What to build; a folder of data belongs to one."""

    photos: Path
    output: Path
    count: int
    """Damaged crops; each gives up to five questions for each of the three objectives."""
    toolbox: str = "conservator"
    seed: int = 0
    always: frozenset[Kind] = frozenset()
    """Kinds that every crop has: to teach a planner one that it does not know."""

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        found = {"photos": self.photos.name, "toolbox": self.toolbox, "seed": self.seed, "side": SIDE}
        return found | ({"always": sorted(self.always)} if self.always else {})


def build(plan: Plan, jobs: int, report: Callable[[str], None] = print) -> int:
    """Make the crops that ``plan.output`` does not hold yet, then write the files of all; return how many questions.

    Raises ConservatorError for a folder without photos, or with data of other settings.
    """
    photos = find_photos(plan.photos)
    for folder in (plan.output / "parts", plan.output / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    _claim(plan, photos)
    missing = [i for i in range(plan.count) if not _part(plan, i).exists()]
    tasks = [(plan, photos[i % len(photos)], i) for i in missing]
    with ProcessPoolExecutor(jobs) as processes:
        for done, _ in enumerate(processes.map(_work, tasks), plan.count - len(missing) + 1):
            if done % 20 == 0 or done == plan.count:
                report(f"{done} of {plan.count} crops")
    return _gather(plan)


def _claim(plan: Plan, photos: Sequence[Path]) -> None:
    """Of the shipped weights perception's and the tools' count; "." marks files."""
    toolbox = make_toolbox(plan.toolbox)
    found = content_of(photos, plan.photos, toolbox, plan.toolbox, plan.output)
    used = {name: sha for name, sha in found.weights.items() if name in {"eye", *toolbox} or "." in name}
    claim(plan.output, Identity.of(plan.settings, photos=found.photos, tools=found.tools, weights=used))


def _part(plan: Plan, number: int) -> Path:
    return plan.output / "parts" / f"{number:06d}.jsonl"


_TOOLS: dict[str, Toolbox] = {}


def _work(task: tuple[Plan, Path, int]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    plan, photo, number = task
    if plan.toolbox not in _TOOLS:
        _TOOLS[plan.toolbox] = make_toolbox(plan.toolbox)
    with LocalPool(_TOOLS[plan.toolbox], max_batch=8) as pool:
        rows = list(_rows(plan, photo, number, _TOOLS[plan.toolbox].specs, pool))
    write_text(_part(plan, number), "".join(json.dumps(row) + "\n" for row in rows))


def _rows(plan: Plan, photo: Path, number: int, specs: Sequence[ToolSpec], pool: Pool) -> Iterator[dict[str, Any]]:
    """The questions about one damaged crop, as rows of both files; their pictures are written."""
    rng = np.random.default_rng([plan.seed, number, 31])
    recipe = _with(plan.always, _without_resizing(random_recipe(rng)), rng)
    clean = random_part(load_photo(photo).image, rng)[..., :SIDE, :SIDE].contiguous()
    damaged = degrade(clean, recipe)
    present = frozenset(degradation.kind for degradation in recipe)
    usable = plannable(specs)
    treatable = frozenset[Kind]().union(*(spec.removes for spec in usable))
    absent = [kind for kind in Kind if kind in treatable - present]
    distractor = absent[int(rng.integers(len(absent)))]  # a planner must learn what needless treatment spoils
    tried = present | {distractor} if len(present) < _FEW else present
    usable = usable if len(tried) <= _FEW else _two_each(usable, rng)
    memo, eye = MemoPool(pool), _Remembering(NetworkPerception())
    found = enumerate_toolchains(damaged, clean, EachKindOnce.of(usable, tried), memo, metrics=_METRICS)
    for objective in OBJECTIVES:
        outlook = Outlook(found, found.objective(objective)[0])
        for question in questions(outlook, rng):
            trajectory = _trajectory(damaged, question.history, memo, eye)
            observation = Observation(trajectory, usable, STEPS + 1 - len(trajectory.steps))
            name = f"{number:06d}-{objective}-{question.situation}"
            gains = judged(observation, eye, objective)
            yield _row(plan, name, question, ask(observation, objective, gains), objective, photo, recipe)


class _Remembering:
    """An eye that looks at each picture once."""

    def __init__(self, eye: Perception) -> None:
        self._eye, self._seen = eye, dict[str, Percept]()
        self.weigh = eye.weigh

    def grade(self, image: Image) -> Percept:
        key = digest(image)
        if key not in self._seen:
            self._seen[key] = self._eye.grade(image)
        return self._seen[key]


def _two_each(specs: Sequence[ToolSpec], rng: np.random.Generator) -> tuple[ToolSpec, ...]:
    """At most two tools, drawn by chance, for each set of kinds; in the toolbox's order."""
    chosen: dict[frozenset[Kind], list[ToolSpec]] = {}
    for i in rng.permutation(len(specs)):
        chosen.setdefault(specs[i].removes, []).append(specs[i])
    kept = {spec.name for group in chosen.values() for spec in group[:2]}
    return tuple(spec for spec in specs if spec.name in kept)


def _without_resizing(recipe: Recipe) -> Recipe:
    """Toolchains of a smaller picture cannot be compared with the others."""

    def stays(degradation: Degradation) -> bool:
        return degradation.kind is not Kind.LOW_RESOLUTION

    return tuple(filter(stays, recipe))


def _with(kinds: frozenset[Kind], recipe: Recipe, rng: np.random.Generator) -> Recipe:
    """A recipe with damages of these kinds in their places; others are left out where they would be too many."""
    if not kinds:
        return recipe
    kept = [degradation for degradation in recipe if degradation.kind not in kinds][: max(0, _FEW - len(kinds))]
    added = [BY_KIND[kind][0].sample(Severity(int(rng.integers(1, 5))), rng) for kind in sorted(kinds)]
    return tuple(sorted([*kept, *added], key=lambda degradation: NATURE.index(degradation.kind)))


def _trajectory(image: Image, history: Sequence[Action], pool: Pool, eye: Perception) -> Trajectory:
    """The steps of a history, run again."""
    steps = [Step(0, None, None, image, eye.grade(image))]
    for action in history:
        last = steps[-1]
        if isinstance(action, Apply):
            image, parent = pool.submit(action.tool, last.image).result(), last.id
        elif isinstance(action, Rollback):
            image, parent = steps[action.to].image, action.to
        steps.append(Step(last.id + 1, parent, Decision(action), image, eye.grade(image)))
    return Trajectory(tuple(steps))


def _row(
    plan: Plan,
    name: str,
    question: Question,
    asked: tuple[Message, Message],
    objective: Objective,
    photo: Path,
    recipe: Recipe,
) -> dict[str, Any]:
    system, user = asked
    images = [_write_image(plan.output, image) for image in user.images]
    turns = (("system", system.text), ("human", user.text), ("gpt", write_reply(question.answer)))
    return {
        "id": name,
        "images": images,
        "conversations": [{"from": role, "value": text} for role, text in turns],
        "situation": question.situation,
        "objective": objective,
        "photo": photo.name,
        "kinds": sorted({degradation.kind for degradation in recipe}),
        "recipe": recipe_to_json(recipe),
        "history": [asdict(action) | {"type": type(action).__name__.lower()} for action in question.history],
        "toolchain": list(question.toolchain),
        "answer": write_reply(question.answer),
        "alternatives": [list(toolchain) for toolchain in question.alternatives],
        "values": {action: round(value, 4) for action, value in question.values.items()},
    }


def _write_image(output: Path, image: Image) -> str:
    """Store a picture once, lossless; return its path within ``output``."""
    name = f"images/{digest(image)[:20]}.webp"
    if not (output / name).exists():
        with replacing(output / name) as file:
            PillowImage.fromarray(to_array(image, np.uint8)).save(file, "WEBP", lossless=True, method=2)
    return name


_CONVERSATION = ("id", "images", "conversations")


def _gather(plan: Plan) -> int:
    """Write conversations.jsonl, decisions.jsonl and the data card from the parts; return how many questions."""
    rows = [json.loads(line) for i in range(plan.count) for line in _part(plan, i).read_text("utf-8").splitlines()]
    for name, keys in (("conversations", _CONVERSATION), ("decisions", None)):
        lines = [json.dumps({k: row[k] for k in keys or row if keys or k != "conversations"}) for row in rows]
        write_text(plan.output / f"{name}.jsonl", "".join(line + "\n" for line in lines))
    write_text(plan.output / "README.md", _card(plan, rows))
    return len(rows)


def _card(plan: Plan, rows: Sequence[dict[str, Any]]) -> str:
    """The data card: what this is, where it comes from, and what is in it."""
    options = {"count": plan.count, "toolbox": plan.toolbox, "seed": plan.seed, "always": ",".join(plan.always) or None}
    command = command_line("data", "build", photos=plan.photos, output=plan.output, settings=options)
    lines = [
        "# Planner data",
        "",
        f"{len(rows)} questions about {plan.count} damaged crops of {SIDE} pixels, each with the right answer: the "
        "best of all toolchains that treat each kind of damage at most once, scored by "
        f"{' and '.join(_METRICS)}.",
        "",
        f"- Command: `{command}`",
        f"- Photos: {training_data(plan.photos)}",
        "- `conversations.jsonl`: ShareGPT turns with pictures. `decisions.jsonl`: state, history, objective, the best "
        "answer, other answers as good, and the best score that each action can still reach.",
        "- Not in it: low resolution, since pictures of two sizes cannot be ranked; LPIPS and DISTS.",
        "",
    ]
    for title, key in (("situation", "situation"), ("objective", "objective")):
        counts = Counter(row[key] for row in rows)
        lines += [f"| {title} | questions |", "|---|---|", *(f"| {k} | {n} |" for k, n in sorted(counts.items())), ""]
    kinds = Counter(len(row["kinds"]) for row in rows)
    lines += ["| kinds of damage | questions |", "|---|---|", *(f"| {k} | {n} |" for k, n in sorted(kinds.items())), ""]
    return "\n".join(lines)
