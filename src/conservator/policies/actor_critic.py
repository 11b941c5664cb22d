"""Restore-R1's light policy: a perceptron on what perception measured of the picture picks the next tool, or to stop.

Restore-R1 (arXiv 2512.18599, also called SimpleCall) puts an actor and a critic on a frozen image encoder. Here the
encoder is perception, which has looked at every state before its policy is asked: deciding costs a matrix product or
three. No tool is tried before it is chosen, nothing is taken back, and no language is spoken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.kinds import Severity
from conservator.networks.actor_critic import ActorCriticNetwork
from conservator.perception.features import names_differ
from conservator.perception.network import TrainedPerception
from conservator.perception.perception import GRADED_KINDS, Perception
from conservator.policies.mllm import told
from conservator.policies.planning import enlarged_last, is_enlarged, legal_actions, suspected
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Stop
from conservator.tools.tool import Toolbox
from conservator.weights import parse_weights

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
    """Names of the features of the perception that it was trained with, in their order."""

    @classmethod
    def new(cls, tools: Sequence[str], features: Sequence[str]) -> ActorCritic:
        """One that has learned nothing; seed torch before, and it is the same again."""
        network = ActorCriticNetwork(len(features), _more(len(tools)), len(tools) + 1)
        return cls(network.eval(), tuple(tools), tuple(features))

    def state(self, observation: Observation, perception: TrainedPerception) -> Tensor:
        """What the network is told, (S,): the features of the picture, what was graded by them, what was done so far.

        Nothing is measured again of a picture that ``perception`` graded.
        """
        percept, done = observation.percept, observation.trajectory.toolchain()
        graded = [percept.confidences.get(kind, 0.0) for kind in GRADED_KINDS]
        graded += [percept.severities.get(kind, Severity.NONE) / 4 for kind in GRADED_KINDS]
        quality = percept.quality / 10 - 2 if math.isfinite(percept.quality) else 0.0
        used = [float(name in done) for name in self.tools]
        steps = [float(len(done) == number) for number in range(MOST_TOOLS)]
        features = perception.measured(observation.trajectory.last.look).features
        return torch.cat([features, torch.tensor([*graded, quality, *used, *steps])])

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
        return {"tools": json.dumps(self.tools), "features": json.dumps(self.features)}


def _more(tools: int) -> int:
    """How many numbers a state has beside the features."""
    return 2 * len(GRADED_KINDS) + 1 + tools + MOST_TOOLS


def make_actor_critic(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> ActorCritic:
    """Build one from what its ``tensors`` and ``metadata`` gave; ConservatorError names ``where``."""
    try:
        found = ActorCritic.new(json.loads(metadata["tools"]), json.loads(metadata["features"]))
        found.network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConservatorError(f"{where} holds no policy of the kind r1; train one with: {_COMMAND}") from error
    found.network.eval().requires_grad_(False)
    return found


def load_actor_critic(path: Path) -> ActorCritic:
    """Read a policy that ``conservator train r1`` wrote. Raises ConservatorError when the file is none."""
    try:
        return make_actor_critic(*parse_weights(path.read_bytes(), str(path)), where=str(path))
    except OSError as error:
        raise ConservatorError(f"{path} cannot be read: {error.strerror}; give a file that {_COMMAND} wrote") from error


class ActorCriticPolicy:
    """Does what its actor finds likeliest of what is possible, and says how likely it found that and the rest.

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
        actions: list[Action] = [*map(Apply, self._actor_critic.tools), Stop()]
        ranked = sorted(zip(actions, chances, strict=True), key=lambda item: -item[1])
        likely = {action: chance for action, chance in ranked if chance > 0}
        return enlarged_last(Decision(next(iter(likely)), thought=told(likely)), observation)


def _measuring(actor_critic: ActorCritic, perception: Perception) -> TrainedPerception:
    """The perception, where it measures what the network was trained on; else ConservatorError."""
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
