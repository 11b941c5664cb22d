"""The trainings of the policy r1: from an order to a file, and to what ships."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save

from conservator.claims import Identity, claim
from conservator.commands import command_line
from conservator.evaluation.rows import content_of, toolbox_hash
from conservator.files import replacing
from conservator.perception.network import TrainedPerception
from conservator.perception.remembering import RememberingPerception
from conservator.photo import find_photos
from conservator.policies.actor_critic import MOST_TOOLS
from conservator.policies.planning import plannable
from conservator.policies.vision_language import load_model
from conservator.pool import MemoPool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools.tool import Toolbox
from conservator.training.data.crops import training_data
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.feedback import QualityRater, feedback_reward
from conservator.training.rl.imitation import ImitationSettings, train_imitation
from conservator.training.rl.order import R1Order
from conservator.training.rl.ppo import PpoSettings, TrainedR1, train_ppo
from conservator.training.rl.rewards import (
    CONSISTENCY,
    COST,
    Reward,
    call_cost,
    consistency_reward,
    joined,
    step_psnr,
    step_quality,
)
from conservator.training.rl.starts import Starts, damaged_starts, found_starts
from conservator.training.rl.weighting import RunningScale
from conservator.training.run import hashes_of_weights, ship_weights

_REMEMBERED = 3 * 2**29
"""Bytes of pictures that the pool remembers: some 700 studies."""
FILE = "r1.safetensors"


def train_r1(order: R1Order, report: Callable[[str], None] = print) -> TrainedR1:
    """Train a policy as ordered, and write ``r1.safetensors``; the same order again goes on where it stopped.

    Raises ConservatorError for a folder of another order, and for photos that nothing can be learned from.
    """
    with played(order, report) as (rules, perception, starts, identity):
        if order.method == "imitation":
            settings = ImitationSettings(seed=order.seed)
            trained = train_imitation(rules, perception, starts, order.output, settings, report=report)
        else:
            trained = train_ppo(
                rules,
                perception,
                starts,
                order.output,
                PpoSettings(order.updates, order.episodes, seed=order.seed),
                tensorboard=order.tensorboard,
                identity={"claim": identity.digest()},
                report=report,
            )
    with replacing(order.output / FILE) as file:
        file.write(save(trained.actor_critic.tensors(), trained.actor_critic.metadata()))
    return trained


@contextmanager
def played(
    order: R1Order, report: Callable[[str], None]
) -> Iterator[tuple[EpisodeRules, TrainedPerception, Starts, Identity]]:
    """What is played by an order, on a pool that is closed in the end; its folder is claimed."""
    photos = find_photos(order.folder)
    with Restorer(Request(toolbox=order.toolbox, perception=order.perception)) as restorer:
        perception, toolbox = restorer.perception, learned_tools(restorer.toolbox)
        assert isinstance(perception, TrainedPerception), "a request names no other"
        seeing = RememberingPerception(perception)
        identity = _claim(order, photos, toolbox)
        if order.damaged is not None:
            starts = found_starts(photos, order.starts, order.seed, seeing, report)
        else:
            starts = damaged_starts(photos, order.starts, order.seed)
        rules = EpisodeRules(
            source=starts,
            toolbox=toolbox,
            pool=MemoPool(restorer.models, _REMEMBERED),
            perception=seeing,
            reward=reward_of(order, toolbox),
            weighting=RunningScale(weights_of(order)),
            longest=MOST_TOOLS,
            harm_ends=False,
            size=None,
        )
        yield rules, perception, starts, identity


def learned_tools(toolbox: Toolbox) -> Toolbox:
    """The tools of a toolbox that the policy learns: for one kind of damage, of the same size after as before."""
    return toolbox.only(*(spec.name for spec in plannable(toolbox.specs) if spec.cost <= 1))


def reward_of(order: R1Order, toolbox: Toolbox) -> Reward:
    """What a step is paid by an order, in its components."""
    paid: list[Reward] = []
    if order.reward == "feedback":
        paid.append(feedback_reward(QualityRater(load_model(order.model), order.shown)))
    else:
        paid.append({"perception": step_quality, "psnr": step_psnr}[order.reward])
    if order.cost:
        paid.append(call_cost)
    if order.consistency:
        paid.append(consistency_reward(toolbox))
    return joined(*paid)


def weights_of(order: R1Order) -> dict[str, float]:
    """What the components of an order's reward weigh."""
    return {"quality": 1.0, "psnr": 1.0, "feedback": 1.0, COST: order.cost, CONSISTENCY: order.consistency}


def _claim(order: R1Order, photos: list[Path], toolbox: Toolbox) -> Identity:
    """Make the folder this order's. Of the weights that ship those of the tools and of perception count."""
    content = content_of(photos, order.folder, toolbox, order.toolbox, order.output)
    used = {name: value for name, value in content.weights.items() if name in {order.perception, *toolbox}}
    settings = {name: value for name, value in asdict(order).items() if name not in _OF_THIS_MACHINE}
    settings["damaged"] = order.damaged is not None
    identity = Identity.of(settings, photos=content.photos, tools=content.tools, weights=used)
    claim(order.output, identity)
    return identity


_OF_THIS_MACHINE = {"photos", "damaged", "output", "tensorboard"}
"""Fields of an order that do not make another policy: of photos their content counts."""


def r1_needs(order: R1Order) -> dict[str, str]:
    """The hashes of what a policy rests on: perception, and the tools that it chooses from."""
    from conservator.tools.catalog import make_toolbox

    tools = make_toolbox(order.toolbox)
    found = hashes_of_weights(order.perception, *learned_tools(tools))
    return found | {f"toolbox {order.toolbox}": toolbox_hash(tools)}


def ship_r1(trained: TrainedR1, order: R1Order, into: Path, made_with: dict[str, str]) -> Path:
    """Put a policy into a folder of weights, with its entry in the manifest."""
    asked = {name: value for name, value in asdict(order).items() if name not in ("output", "tensorboard")}
    defaults = asdict(R1Order(photos=order.folder))
    told = {name: value for name, value in asked.items() if value != defaults[name] or name in ("photos", "seed")}
    found = training_data(order.folder) if order.damaged is None else f"damaged photos of {order.folder.name}"
    return ship_weights(
        into,
        "r1",
        trained.actor_critic.tensors(),
        data=found,
        recipe="docs/restore-r1.md",
        command=command_line("train", "r1", settings=told),
        scores={**trained.scores, **{f"chance_{name}": value for name, value in trained.chance.items()}},
        made_with=made_with,
        metadata=trained.actor_critic.metadata(),
    )
