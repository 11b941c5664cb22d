"""Restore-R1's light policy: a perceptron on what perception measured of the picture picks the next tool, or to stop.

Restore-R1 (arXiv 2512.18599, also called SimpleCall) puts an actor and a critic on a frozen image encoder. Here the
encoder is perception, which has looked at every state before its policy is asked: deciding costs a matrix product or
three. CLIP or another encoder (encoder.py) may be asked beside it, or instead. No tool is tried before it is chosen,
nothing is taken back, and no language is spoken.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.kinds import Kind, Severity
from conservator.networks.actor_critic import ActorCriticNetwork
from conservator.perception.features import names_differ
from conservator.perception.network import TrainedPerception
from conservator.perception.perception import GRADED_KINDS, Percept, Perception
from conservator.policies.encoder import ImageEncoder, load_encoder
from conservator.policies.mllm import told
from conservator.policies.planning import enlarged_last, is_enlarged, legal_actions, suspected
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Stop
from conservator.tools.tool import Toolbox
from conservator.weights import load_weights, parse_weights

MOST_TOOLS = 4
"""Tools in a toolchain at most, the horizon of the training. The random recipes have up to four kinds of damage
(training/data/recipes.py), and each kind is treated once."""
_COMMAND = "conservator train r1"


@dataclass(frozen=True)
class ActorCritic:
    """A trained network, and what its inputs and outputs are called."""

    network: ActorCriticNetwork
    tools: tuple[str, ...]
    """Names of its tools in the order of its actions; the action after the last one is to stop."""
    features: tuple[str, ...]
    """Names of the features of the perception that it was trained with, in their order; none where an encoder was
    asked instead."""
    encoder: ImageEncoder | None = None
    """What else looks at the picture."""

    @classmethod
    def new(cls, tools: Sequence[str], features: Sequence[str], encoder: ImageEncoder | None = None) -> ActorCritic:
        """One that has learned nothing; seed torch before, and it is the same again.

        Raises ConservatorError where it would see nothing.
        """
        width = len(features) + (encoder.width if encoder is not None else 0)
        if not width:
            raise ConservatorError("a policy r1 without features sees nothing; give those of a perception, an encoder")
        network = ActorCriticNetwork(width, _more(len(tools), bool(features)), len(tools) + 1)
        return cls(network.eval(), tuple(tools), tuple(features), encoder)

    @property
    def width(self) -> int:
        """How many features of the picture a state begins with."""
        return len(self.network.picture.mean)

    def state(self, observation: Observation, perception: Perception) -> Tensor:
        """What the network is told, (S,): the features of the picture, what was graded by them, what was done so far.

        Nothing is measured again of a picture that ``perception`` graded. An encoder's features follow those of
        perception; where they stand alone, the network is told no grades either.
        """
        image, done = observation.trajectory.last.image, observation.trajectory.toolchain()
        picture, graded = list[Tensor](), list[float]()
        if self.features:
            assert isinstance(perception, TrainedPerception), "_measuring refuses others"
            picture.append(perception.measured(observation.trajectory.last.look).features)
            graded = _graded(observation.percept)
        if self.encoder is not None:
            picture.append(self.encoder.encode(image))
        used = [float(name in done) for name in self.tools]
        steps = [float(len(done) == number) for number in range(MOST_TOOLS)]
        return torch.cat([*picture, torch.tensor([*graded, *used, *steps])])

    def possible(self, observation: Observation) -> Tensor:
        """Which actions may be taken, (tools + 1,) bool.

        A tool must be on offer, must be for a damage that is suspected and was not treated yet, and must not have
        failed here. To stop is always possible, and all that is left after MOST_TOOLS tools.
        """
        wanted = set[str]()
        if len(observation.trajectory.toolchain()) < MOST_TOOLS:
            legal, seen = legal_actions(observation, rollbacks=False), suspected(observation.percept)
            fitting = [
                spec for spec in observation.tools if spec.removes & seen and not spec.removes & observation.treated
            ]
            wanted = {spec.name for spec in fitting if Apply(spec.name) in legal}
        return torch.tensor([*(name in wanted for name in self.tools), True])

    def tensors(self) -> dict[str, Tensor]:
        """What to save of it, in half precision but for the means and deviations of the features."""
        state = self.network.state_dict()
        return {name: value if name.startswith("picture") else value.half() for name, value in state.items()}

    def metadata(self) -> dict[str, str]:
        """What else to save of it."""
        found = {"tools": json.dumps(self.tools), "features": json.dumps(self.features)}
        if self.encoder is not None:
            found["encoder"] = json.dumps({"name": self.encoder.name, "sha256": self.encoder.sha256})
        return found


def damage_first(chances: Sequence[float], treats: Sequence[frozenset[Kind]]) -> list[int]:
    """The numbers of actions, the best first: tools that treat these kinds and a stop after them, with these chances.

    First what is treated, by the chances of all tools for it together, then by which of them. Else damage for which
    there are many tools, which share its chance among them, would never be treated first.
    """
    aims, together = (*treats, None), defaultdict[frozenset[Kind] | None, float](float)
    for chance, aim in zip(chances, aims, strict=True):
        together[aim] += chance
    return sorted(range(len(aims)), key=lambda i: (-together[aims[i]], -chances[i]))


def _graded(percept: Percept) -> list[float]:
    """What perception says of a picture: how sure it is of each kind, how severe each is, the quality."""
    found = [percept.confidences.get(kind, 0.0) for kind in GRADED_KINDS]
    found += [percept.severities.get(kind, Severity.NONE) / 4 for kind in GRADED_KINDS]
    return [*found, percept.quality / 10 - 2 if math.isfinite(percept.quality) else 0.0]


def _more(tools: int, graded: bool) -> int:
    """How many numbers a state has beside the features."""
    return (2 * len(GRADED_KINDS) + 1 if graded else 0) + tools + MOST_TOOLS


def make_actor_critic(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> ActorCritic:
    """Build one from what its ``tensors`` and ``metadata`` gave; ConservatorError names ``where``."""
    try:
        encoder = json.loads(metadata["encoder"]) if "encoder" in metadata else None
        asked = _same_encoder(encoder["name"], encoder["sha256"]) if encoder is not None else None
        found = ActorCritic.new(json.loads(metadata["tools"]), json.loads(metadata["features"]), asked)
        found.network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConservatorError(f"{where} holds no policy of the kind r1; train one with: {_COMMAND}") from error
    found.network.eval().requires_grad_(False)
    return found


def _same_encoder(name: str, sha256: str) -> ImageEncoder:
    """The encoder that a policy was trained with; ConservatorError where another one is in its place."""
    encoder = load_encoder(name)
    if encoder.sha256 != sha256:
        raise ConservatorError(
            f"the policy r1 was trained with another encoder than the one in {name}; put that one back, or train it "
            f"again: {_COMMAND}"
        )
    return encoder


def load_actor_critic(path: Path) -> ActorCritic:
    """Read a policy that ``conservator train r1`` wrote. Raises ConservatorError when the file is none."""
    try:
        return make_actor_critic(*parse_weights(path.read_bytes(), str(path)), where=str(path))
    except OSError as error:
        raise ConservatorError(f"{path} cannot be read: {error.strerror}; give a file that {_COMMAND} wrote") from error


def shipped_actor_critic() -> ActorCritic:
    """The one that ships."""
    return make_actor_critic(*load_weights("r1"), where="the shipped file of weights r1")


class ActorCriticPolicy:
    """Treats what its actor finds likeliest of what is possible, and says how likely it found each tool and to stop.

    A small photo is enlarged, where that is offered, when it has no more to do: it never learned about size.
    """

    def __init__(
        self, actor_critic: ActorCritic, perception: Perception, name: str = "r1", toolbox: Toolbox | None = None
    ) -> None:
        """Raises ConservatorError for another perception than it was trained with, and for a toolbox of other tools."""
        self.name, self._actor_critic = name, actor_critic
        self._perception = _measuring(actor_critic, perception)
        if toolbox is not None and not set(actor_critic.tools) & set(toolbox):
            raise ConservatorError(
                f"the policy {name} knows {', '.join(actor_critic.tools[:2])}, ..., and this toolbox has none of its "
                "tools; use the toolbox that it was trained with"
            )

    def act(self, observation: Observation) -> Decision:
        """Decide on one."""
        return self.act_together([observation])[0]

    def act_together(self, observations: Sequence[Observation]) -> list[Decision]:
        """Decide on each of these in one pass."""
        if not observations:
            return []
        states = torch.stack([self._actor_critic.state(one, self._perception) for one in observations])
        possible = torch.stack([self._actor_critic.possible(one) for one in observations])
        with torch.inference_mode():
            chances = self._actor_critic.network(states, possible)[0].softmax(1)
        return [self._decide(*each) for each in zip(observations, chances.tolist(), strict=True)]

    def _decide(self, observation: Observation, chances: Sequence[float]) -> Decision:
        if is_enlarged(observation):
            return Decision(Stop(), thought="the photo is enlarged, which is the last step")
        tools, removes = self._actor_critic.tools, {spec.name: spec.removes for spec in observation.tools}
        actions: list[Action] = [*map(Apply, tools), Stop()]
        ranked = damage_first(chances, [removes.get(tool, frozenset()) for tool in tools])
        likely = {actions[i]: chances[i] for i in ranked if chances[i] > 0}
        return enlarged_last(Decision(next(iter(likely)), thought=told(likely)), observation)


def _measuring(actor_critic: ActorCritic, perception: Perception) -> Perception:
    """The perception, where it measures what the network was trained on; else ConservatorError."""
    if not actor_critic.features:
        return perception
    if not isinstance(perception, TrainedPerception):
        raise ConservatorError(
            f"the policy r1 goes by what a trained perception measures, and a {type(perception).__name__} measures "
            "nothing; use --perception perception"
        )
    if wrong := names_differ(perception.features, actor_critic.features):
        raise ConservatorError(
            f"the policy r1 was trained with another perception: {wrong}; use that one, or train it again: {_COMMAND}"
        )
    return perception
