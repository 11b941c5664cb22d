"""The trainings of the policy r1: from an order to a file, and to what ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save

from conservator.claims import Identity, claim
from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.evaluation.rows import content_of, toolbox_hash
from conservator.files import replacing, sha256
from conservator.metrics import make_metric, metrics_at_hand
from conservator.perception.network import TrainedPerception
from conservator.perception.remembering import RememberingPerception
from conservator.photo import find_photos
from conservator.policies.actor_critic import MOST_TOOLS, ActorCritic
from conservator.policies.encoder import load_encoder
from conservator.policies.planning import plannable
from conservator.policies.vision_language import load_model, model_hash
from conservator.pool import MemoPool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox
from conservator.training.data.crops import training_data
from conservator.training.data.division import divide_photos
from conservator.training.data.recipes import setting_recipe
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.feedback import QualityRater
from conservator.training.rl.imitation import ImitationSettings, train_imitation
from conservator.training.rl.order import R1Order
from conservator.training.rl.ppo import PpoSettings, TrainedR1, begun, train_ppo
from conservator.training.rl.progress import draw_progress, keep_pictures
from conservator.training.rl.rewards import (
    CONSISTENCY,
    COST,
    Reward,
    call_cost,
    consistency_reward,
    joined,
    metric_change,
    step_quality,
)
from conservator.training.rl.starts import Starts, damaged_starts, found_starts
from conservator.training.rl.tree import Ratings, StartTree
from conservator.training.rl.weighting import RunningScale
from conservator.training.run import hashes_of_weights, ship_weights

R1_FILE = "r1.safetensors"
"""The trained policy, in the folder of its training."""
_REMEMBERED = 3 * 2**29
"""Bytes of pictures that the pool remembers: some 700 studies."""
_COMPONENTS = {"perception": "quality", "psnr": "psnr", "feedback": "feedback"}
"""Of the reward, the one that is the gain, by what an order calls it."""
_OF_STARTS = ("toolbox", "perception", "encoded", "setting", "starts", "seed", "measured")
"""Settings on which the states that are visited depend; the others make another policy of the same states."""
_MEASURED = ("psnr", "ssim")
"""What is measured along with references."""
_MEASURED_HELD_OUT = "st_lpips"
"""What is measured of the starts held out, where it is installed, which takes longer than all else. It is never paid
for, nor taught to any assessor: it tells when a reward is deceived."""
_OF_THIS_MACHINE = ("photos", "damaged", "encoder", "model", "output", "states", "tensorboard")
"""Fields that make no other policy: of photos and models their content counts."""


def train_r1(order: R1Order, report: Callable[[str], None] = print) -> TrainedR1:
    """Train a policy as ordered, and write ``r1.safetensors``; the same order again goes on where it stopped.

    Raises ConservatorError for a folder of another order, and for photos that nothing can be learned from.
    """
    with Restorer(Request(toolbox=order.toolbox, perception=order.perception)) as restorer:
        ground = _ground(order, restorer, report)
        begun(ground.tree, ground.actor_critic)
        known = {"states": ground.folder.name}
        if order.explored:
            ground.tree.explore(order.explored, order.seed)
        if order.explored or order.method == "imitation":
            known["explored"] = str(ground.tree.close())
            report(f"{known['explored']} states are learned from")
        if order.method == "imitation":
            settings = ImitationSettings(seed=order.seed)
            trained = train_imitation(ground.tree, ground.actor_critic, settings, report=report)
        else:
            trained = train_ppo(
                ground.tree,
                ground.actor_critic,
                ground.rules.weighting,
                order.output,
                PpoSettings(order.updates, order.episodes, seed=order.seed),
                tensorboard=order.tensorboard,
                identity=known,
                report=report,
                keep=partial(keep_pictures, order.output, ground.tree, ground.actor_critic),
            )
            report(f"what became of score and pictures: {draw_progress(order.output, _COMPONENTS[order.reward])}")
    with replacing(order.output / R1_FILE) as file:
        file.write(save(trained.actor_critic.tensors(), trained.actor_critic.metadata()))
    return trained


@dataclass(frozen=True)
class _Ground:
    """What a training is made on."""

    rules: EpisodeRules
    starts: Starts
    tree: StartTree
    actor_critic: ActorCritic
    folder: Path
    """That remembers the states."""


def _ground(order: R1Order, restorer: Restorer, report: Callable[[str], None]) -> _Ground:
    """Draw the starts and make the rules; the folders are claimed."""
    photos, toolbox, perception = _photos(order, report), learned_tools(restorer.toolbox), restorer.perception
    assert isinstance(perception, TrainedPerception), "a request names no other"
    folder = _claim(order, photos, toolbox)
    seeing = RememberingPerception(perception)
    if order.damaged is not None:
        starts = found_starts(photos, order.starts, order.seed, seeing, report)
    else:
        starts = damaged_starts(photos, order.starts, order.seed, setting_recipe(order.setting))
    rules = EpisodeRules(
        source=starts,
        toolbox=toolbox,
        pool=MemoPool(restorer.models, _REMEMBERED),
        perception=seeing,
        reward=reward_of(order, toolbox),
        weighting=RunningScale(component_weights(order)),
        longest=MOST_TOOLS,
        harm_ends=False,
        size=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(order.seed)
        features = perception.features if order.encoded == "beside" else ()
        fresh = ActorCritic.new(tuple(toolbox), features, load_encoder(order.encoder) if order.encoder else None)
    measured = joined(*map(metric_change, _measured_held_out(order)))
    tree = StartTree(rules, fresh, perception, starts, folder, _ratings(order, folder), measured)
    return _Ground(rules, starts, tree, fresh, folder)


def _ratings(order: R1Order, folder: Path) -> Ratings | None:
    """What a model says of the states in ``folder``, if one is asked."""
    if not order.model:
        return None
    rater = QualityRater(load_model(order.model), order.shown)
    return Ratings(rater, folder / f"ratings-{model_hash(order.model)}.pt")


def _photos(order: R1Order, report: Callable[[str], None]) -> list[Path]:
    """The photos that are learned from: of clean ones those that are not the assessor's."""
    photos = find_photos(order.folder)
    if order.damaged is not None:
        return photos
    found = divide_photos(photos, order.folder, order.states).policy
    if len(found) < 2:
        raise ConservatorError(
            f"{len(found)} of these {len(photos)} photos belong to the policy, the others to the assessor; at least 2 "
            "are needed: give a larger folder"
        )
    report(f"{len(found)} of {len(photos)} photos belong to the policy, the others to the assessor")
    return found


def learned_tools(toolbox: Toolbox) -> Toolbox:
    """The tools of a toolbox that the policy learns: for one kind of damage, of the same size after as before."""
    return toolbox.only(*(spec.name for spec in plannable(toolbox.specs) if spec.cost <= 1))


def reward_of(order: R1Order, toolbox: Toolbox) -> Reward:
    """All that is told of a step: what it is paid for, and what is only measured. Damaged photos have no references.

    What a model says is told apart (``Ratings``).
    """
    told: list[Reward] = [step_quality, call_cost, consistency_reward(toolbox)]
    if order.damaged is None:
        told += [metric_change(name) for name in _MEASURED]
    return joined(*told)


def component_weights(order: R1Order) -> dict[str, float]:
    """What the components of a step weigh; what is only measured weighs nothing."""
    weights = dict.fromkeys(("quality", "feedback", *_MEASURED, _MEASURED_HELD_OUT), 0.0)
    return weights | {_COMPONENTS[order.reward]: 1.0, COST: order.cost, CONSISTENCY: order.consistency}


def _measured_held_out(order: R1Order) -> tuple[str, ...]:
    """What is measured of the starts held out alone: nothing where there are no references."""
    if order.damaged is not None:
        return ()
    return tuple(metric.name for metric in metrics_at_hand([make_metric(_MEASURED_HELD_OUT)]))


def _claim(order: R1Order, photos: Sequence[Path], toolbox: Toolbox) -> Path:
    """Make the folder of the training this order's, and that of the states, which is returned, that of such orders."""
    content = content_of(photos, order.folder, toolbox, order.toolbox, order.states)
    used = {name: sha for name, sha in content.weights.items() if name in {order.perception, *toolbox} or "." in name}
    if (file := Path(order.perception)).is_file():
        used |= {file.name: sha256(file)}
    if order.encoder:
        used |= {"encoder": load_encoder(order.encoder).sha256}
    settings = {name: value for name, value in asdict(order).items() if name not in _OF_THIS_MACHINE}
    settings |= {"references": order.damaged is None, "measured": _measured_held_out(order)}
    of_starts = {name: settings[name] for name in (*_OF_STARTS, "references")}
    shared = Identity.of(of_starts, photos=content.photos, tools=content.tools, weights=used)
    folder = order.states / shared.digest()
    claim(folder, shared)
    rating = {"model": model_hash(order.model)} if order.model else {}
    claim(order.output, Identity.of(settings, photos=content.photos, tools=content.tools, weights=used | rating))
    return folder


def r1_needs(order: R1Order) -> dict[str, str]:
    """The hashes of what a policy rests on: perception, and the tools that it chooses from."""
    tools = make_toolbox(order.toolbox)
    found = hashes_of_weights(order.perception, *learned_tools(tools))
    return found | {f"toolbox {order.toolbox}": toolbox_hash(tools)}


def ship_r1(trained: TrainedR1, order: R1Order, into: Path, made_with: Mapping[str, str]) -> Path:
    """Put a policy into a folder of weights, with its entry in the manifest."""
    defaults = asdict(R1Order(photos=order.folder))
    asked = {key: value for key, value in asdict(order).items() if key not in ("output", "states", "tensorboard")}
    told = {key: value for key, value in asked.items() if value != defaults[key] or key in ("photos", "seed")}
    name = order.folder.name
    return ship_weights(
        into,
        "r1",
        trained.actor_critic.tensors(),
        data=f"the damaged photos of {name}" if order.damaged else f"two thirds of {training_data(order.folder)}",
        recipe="docs/restore-r1.md",
        command=command_line("train", "r1", settings=told),
        scores={**trained.scores, **{f"chance_{key}": value for key, value in trained.chance.items()}},
        made_with=made_with,
        metadata=trained.actor_critic.metadata(),
    )
