"""TIR-Agent's planner as a policy: a vision-language model calls one tool, looks at what came of it, calls the next.

TIR-Agent (arXiv 2603.27742) trains a model to call restoration tools directly, in place of agents that try them all.
Its model, prompts and code were not published; the conversation is ``ToolDialect``'s. Any model in Hugging Face format
whose chat template speaks of tools can do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from conservator.errors import ConservatorError
from conservator.kinds import NO_WISH, Wish
from conservator.perception.perception import Objective, Perception
from conservator.perception.study import study
from conservator.policies.dialects import ToolDialect
from conservator.policies.mllm import told, told_wish
from conservator.policies.planning import enlarged_last, estimated_gains, is_enlarged, legal_actions, plannable
from conservator.policies.reading import Prompt
from conservator.policies.replies import Replied, Speaker, Tokens, choose
from conservator.policies.vision_language import VisionLanguageModel
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Decision, Stop, Trajectory
from conservator.tools.tool import Toolbox


class ToolCallingPolicy:
    """Asks a vision-language model for the next call: a tool, a rollback, or to stop. It can call what is legal only.

    Unlike ``mllm``, nothing is decided for the model: it is told what each step gained by perception's estimate, and
    takes back by itself what did harm.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        perception: Perception,
        objective: Objective = "balanced",
        name: str = "tir",
        toolbox: Toolbox | None = None,
        wish: Wish = NO_WISH,
    ) -> None:
        """``toolbox`` is what the model is told of; it can call only what is offered. ``wish`` as in ``MllmPolicy``.

        Raises ConservatorError for a model whose chat template does not speak of tools.
        """
        if not model.calls_tools:
            raise ConservatorError(
                f"the policy {name} needs a model that calls tools, and this one's chat template does not speak of "
                "them; take a Qwen3-VL, or the policy mllm, which asks in words"
            )
        self.name, self.model, self._perception, self._objective = name, model, perception, objective
        self._toolbox, self._wish = toolbox, told_wish(wish, model, name)
        self._speaker = Speaker(model.tokens, model.end, ToolDialect())

    def forget(self) -> None:
        """Forget what prompts began with: the next one is read whole, as on a photo that was never seen."""
        if self.model.beginnings is not None:
            self.model.beginnings.forget()

    def act(self, observation: Observation) -> Decision:
        """Decide; the thought says how sure the model is, and what else it held possible.

        A small photo is enlarged, where that is offered, when the model has no more to do.
        """
        if is_enlarged(observation):
            return Decision(Stop(), thought="the photo is enlarged, which is the last step")
        replied = self.reply(observation)
        decision = replace(replied.decision, thought=told(replied.chances), by=self.name)
        return enlarged_last(decision, observation)

    def reply(self, observation: Observation) -> Replied:
        """The model's decision and the chances of the alternatives."""
        offered = replace(observation, tools=plannable(observation.tools))
        with self.model.lock:
            return choose(offered, self.model.read(self.prompt(observation)).next, self._speaker)

    def prompt(self, observation: Observation) -> Prompt:
        """The conversation so far, up to where the model's turn begins. Of large images it sees studies."""
        known = observation.tools if self._toolbox is None else self._toolbox.specs
        shown = _studied(replace(observation, tools=plannable(known)))
        gains = estimated_gains(observation, self._perception, self._objective)
        dialect = self._speaker.dialect
        return self.model.prompt(dialect.ask(shown, self._objective, gains, self._wish), dialect.functions(shown))

    def replies(self, observation: Observation) -> Mapping[Action, Tokens]:
        """What the model may say, as tokens, for each legal action."""
        offered = replace(observation, tools=plannable(observation.tools))
        return {action: self._speaker.write(Decision(action)) for action in legal_actions(offered)}


def _studied(observation: Observation) -> Observation:
    """The observation as it is of studies, all at the places of the first; studies stay as they are."""
    steps = observation.trajectory.steps
    if len(steps[0].image) > 1:
        return observation
    first = steps[0].image
    images = (study(step.image, like=first if step.image.shape == first.shape else None) for step in steps)
    seen = tuple(replace(step, image=image) for step, image in zip(steps, images, strict=True))
    return replace(observation, trajectory=Trajectory(seen))
