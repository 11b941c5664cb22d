"""RestoreAgent's planner as a policy: a multimodal language model looks at the photo and writes what to do.

RestoreAgent (NeurIPS 2024) plans once from the degraded photo, its main experiment, or step by step, with the history
before it, rolling back what did harm. Both are here; any model in Hugging Face format that load_model knows can do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from conservator.errors import ConservatorError
from conservator.kinds import NO_WISH, Wish
from conservator.perception.perception import Objective, Perception
from conservator.perception.study import study
from conservator.policies.dialects import Dialect, PlanDialect
from conservator.policies.planning import enlarged_last, estimated_gains, is_enlarged, plannable
from conservator.policies.replies import Replied, Speaker, choose
from conservator.policies.vision_language import VisionLanguageModel
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Stop, Trajectory
from conservator.tools.tool import Toolbox

_SHOWN = 4
"""Alternatives that a thought names."""
_CLEAR = 0.4
"""Estimated gain in dB from which a step is kept unasked: it is seldom wrong. 0.1 was tried (docs/results/mllm.md)."""


class MllmPolicy:
    """Asks a vision-language model, which can answer with nothing but a legal plan, a rollback, or a stop.

    It asks again after every step, or with ``once`` only at the start, and then follows the plan to its end. Where it
    asks again, what perception is sure of is not asked: a treatment that did harm by its estimate is taken back, and
    one that gained clearly is kept. Where the user prefers sharp or smooth, which no estimate knows, both are asked.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        perception: Perception,
        objective: Objective = "balanced",
        name: str = "mllm",
        once: bool = False,
        dialect: Dialect = PlanDialect(),  # noqa: B008 - frozen
        toolbox: Toolbox | None = None,
        wish: Wish = NO_WISH,
    ) -> None:
        """``dialect`` is the one that the model was taught in, ``wish`` what the user wants beside the objective.

        A model that was taught no wishes is told none (``told_wish``), which raises ConservatorError for a preference.

        ``toolbox`` is what it is told of; it can choose only what is offered. A model that is told of fewer tools than
        it was taught with, because the user or risk control leaves some out, answers worse about all other damage.
        """
        self.name, self._model, self._perception, self._objective = name, model, perception, objective
        self._once, self._toolbox, self._wish = once, toolbox, told_wish(wish, model, name)
        self._speaker = Speaker(model.tokens, model.end, dialect)

    def act(self, observation: Observation) -> Decision:
        """Decide; the thought says how sure the model is, and what else it held possible.

        A small photo is enlarged, where that is offered, when the model has no more to do: no question that it learned
        is about size.
        """
        if is_enlarged(observation):
            return Decision(Stop(), thought="the photo is enlarged, which is the last step")
        return enlarged_last(self._next(observation), observation)

    def forget(self) -> None:
        """Forget what prompts began with: the next one is read whole, as on a photo that was never seen."""
        if self._model.beginnings is not None:
            self._model.beginnings.forget()

    def _next(self, observation: Observation) -> Decision:
        """What to do about all but the size."""
        last = observation.trajectory.last.decision
        if self._once and last is not None and last.by == self.name:
            return replace(_follow(last), by=self.name)
        if self._estimates_decide and (harmful := self._harmful(observation)) is not None:
            return harmful
        replied = self.reply(observation)
        return replace(replied.decision, thought=told(replied.chances), by=self.name)

    @property
    def _estimates_decide(self) -> bool:
        return self._wish.prefer == "neither"

    def _harmful(self, observation: Observation) -> Decision | None:
        """The rollback of the last step, if it did harm by perception's estimate."""
        last = observation.trajectory.last
        gain = estimated_gains(observation, self._perception, self._objective).get(last.id, 0.0)
        if gain >= 0 or last.parent is None:
            return None
        return Decision(
            Rollback(last.parent), thought=f"perception estimates that the last step did harm ({gain:+.1f} dB)"
        )

    def reply(self, observation: Observation) -> Replied:
        """The model's decision and the chances of the alternatives. Only the study of a large image is shown to it."""
        known = observation.tools if self._toolbox is None else self._toolbox.specs
        told = _small(replace(observation, tools=plannable(known)))
        gains = estimated_gains(observation, self._perception, self._objective)
        observation, model = replace(told, tools=plannable(observation.tools)), self._model
        with model.lock:
            reading = model.read(model.prompt(self._speaker.dialect.ask(told, self._objective, gains, self._wish)))
            gained = self._estimates_decide and gains.get(observation.trajectory.last.id, 0.0) >= _CLEAR
            return choose(observation, reading.next, self._speaker, rollbacks=not gained)


def told_wish(wish: Wish, model: VisionLanguageModel, policy: str) -> Wish:
    """What a model is told of a wish: nothing where it was taught none, for what to leave alone is not offered anyway.

    Raises ConservatorError for a preference that it was not taught, which nothing else would heed.
    """
    if model.heeds_wishes:
        return wish
    if wish.prefer != "neither":
        raise ConservatorError(
            f"the model of the policy {policy} was taught no preferences (--prefer {wish.prefer}); "
            "train one on data that 'data build --wishes' made, or leave --prefer out"
        )
    return NO_WISH


def _follow(decision: Decision) -> Decision:
    """The next step of the plan that a decision began."""
    if not decision.plan:
        return Decision(Stop(), thought="the plan is carried out")
    return Decision(Apply(decision.plan[0]), decision.plan[1:], "as planned")


def _small(observation: Observation) -> Observation:
    """The observation as it is of a study; a study stays as it is."""
    image = observation.image
    if len(image) > 1:
        return observation
    steps = observation.trajectory.steps
    last = replace(steps[-1], image=study(image))
    return replace(observation, trajectory=Trajectory((*steps[:-1], last)))


def told(chances: Mapping[Action, float]) -> str:
    """Chances in words: "denoise_medium 71 %, derain 20 %, stop 6 %"."""
    return ", ".join(f"{_named(action)} {round(100 * chance)} %" for action, chance in list(chances.items())[:_SHOWN])


def _named(action: Action) -> str:
    match action:
        case Apply(tool):
            return tool
        case Rollback(to):
            return f"rollback to step {to}"
        case Stop():
            return "stop"
