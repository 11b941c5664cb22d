"""A model behind an OpenAI-compatible endpoint decides: the conversation of a dialect, over HTTP."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image as PillowImage

from conservator.image import Image, to_array
from conservator.kinds import NO_WISH, Wish
from conservator.perception.perception import Objective, Perception
from conservator.policies.dialects import IMAGE, Dialect, JsonDialect, Message, ToolDialect
from conservator.policies.endpoint import ask_endpoint, check_options, clean_words
from conservator.policies.planning import estimated_gains, left_of_plan
from conservator.request import ChatOptions
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Stop, Trajectory

_PATIENCE = 3
"""Answers in a row that cannot be used, until the model is left alone."""
_SIDE = 768  # pixels of a picture at most; only an enlarged study has more


class Chat:
    """Asks a model what to do next, shows it what came of that, and does what it says where that is legal.

    An answer that cannot be used becomes a step that the model sees. When the endpoint is of no use, or the budget of
    calls is spent, that becomes a step too, and the policy stops: what was reached until then stays.
    """

    name = "chat"

    def __init__(
        self,
        options: ChatOptions,
        perception: Perception,
        objective: Objective = "balanced",
        seed: int = 0,
        wish: Wish = NO_WISH,
    ) -> None:
        """``seed`` spreads the pauses between requests; raises ConservatorError for options that will not do."""
        check_options(options)
        self._options, self._perception, self._objective = options, perception, objective
        self._seed, self._wish = seed, wish
        plain = JsonDialect(lines=options.request.get("response_format", {}) is None)
        self._dialect: Dialect = ToolDialect() if options.call_tools else plain

    def act(self, observation: Observation) -> Decision:
        """Ask, unless the last plan is to be carried out first, or asking is of no use."""
        trajectory, options = observation.trajectory, self._options
        last = trajectory.last.decision
        if why := _hopeless(trajectory):
            return Decision(Stop(), thought=why)
        own = last is not None and last.by == self.name and isinstance(last.action, Apply)
        taken_back = last is not None and last.by != self.name and isinstance(last.action, Rollback)
        if not options.replan and (own or taken_back):
            plan = left_of_plan(trajectory)
            if not plan:
                return Decision(Stop(), thought="the plan is carried out")
            return Decision(Apply(plan[0]), plan[1:], "as planned", by=self.name)
        left = options.max_calls - trajectory.usage.calls
        if left <= 0:
            return Decision(None, thought=f"the budget of {options.max_calls} calls is spent (--max-calls)")
        seen = self._seen(observation)
        if not seen.tools:
            return Decision(Stop(), thought="there is no tool to choose")
        rng = np.random.default_rng([self._seed, trajectory.last.id])
        gains = estimated_gains(observation, self._perception, self._objective)
        messages = self._dialect.ask(seen, self._objective, gains, self._wish)
        body = _request(messages, self._dialect.schema(seen), self._dialect.functions(seen), options)
        answer = ask_endpoint(options, body, left, rng)
        if answer.problem:
            return Decision(None, thought=answer.problem, usage=answer.usage)
        return replace(read_answer(self._dialect, answer.text, seen), usage=answer.usage, by=self.name)

    def _seen(self, observation: Observation) -> Observation:
        """What the model is shown: no more pictures than the user wants."""
        views = self._options.views
        shown = tuple(replace(step, image=step.image[:views]) for step in observation.trajectory.steps)
        return replace(observation, trajectory=Trajectory(shown))


def _hopeless(trajectory: Trajectory) -> str:
    """Why the model is not asked again; "" when it is."""
    decisions = [step.decision for step in reversed(trajectory.steps) if step.decision is not None]
    unusable = list(takewhile(lambda decision: decision.action is None, decisions))
    if unusable and not unusable[0].usage.answers:
        return "the model cannot be asked any more; what was reached is kept"
    if len(unusable) >= _PATIENCE:
        return f"{len(unusable)} answers in a row could not be used; what was reached is kept"
    return ""


def read_answer(dialect: Dialect, text: str, observation: Observation) -> Decision:
    """A stranger's answer as a decision. ``thought`` is cleaned, for it goes to screens and files."""
    decision = dialect.read(text, observation)
    return replace(decision, thought=clean_words(decision.thought))


def _request(
    messages: Sequence[Message],
    schema: Mapping[str, Any] | None,
    functions: Sequence[Mapping[str, Any]],
    options: ChatOptions,
) -> dict[str, Any]:
    """The body of a request; ``options.request`` has the last word about all but the messages."""
    body: dict[str, Any] = {"model": options.model, "temperature": 0, "max_tokens": 2000}
    if schema is not None:
        named = {"name": "decision", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if functions:
        body["tools"] = list(functions)
    body = {name: value for name, value in {**body, **options.request}.items() if value is not None}
    body["messages"] = [turn for number, message in enumerate(messages) for turn in _turns(message, number)]
    return body


def _turns(message: Message, number: int) -> list[dict[str, Any]]:
    """A message as the endpoint takes it. The result of a call is text alone there; its pictures follow it."""
    if message.role == "tool":
        result = {"role": "tool", "tool_call_id": f"call_{number - 1}", "content": message.text.replace(IMAGE, "")}
        shown = Message("user", IMAGE * len(message.images), message.images)
        return [result, *(_turns(shown, number) if message.images else [])]
    if message.call is not None:
        function = {"name": message.call["name"], "arguments": json.dumps(message.call["arguments"])}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    return [{"role": message.role, "content": _parts(message) if message.images else message.text}]


def _parts(message: Message) -> list[dict[str, Any]]:
    """A message's text, with its pictures where they belong."""
    texts = message.text.split(IMAGE, len(message.images))  # the pictures come first; what follows is only words
    parts: list[dict[str, Any]] = [{"type": "text", "text": texts[0]}] if texts[0] else []
    for image, text in zip(message.images, texts[1:], strict=True):
        parts.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _data_url(image: Image) -> str:
    """A picture (1, 3, H, W) as a PNG: JPEG would add the damage that the model is asked about."""
    scale = _SIDE / max(image.shape[-2:])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in image.shape[-2:]]
        image = F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)
    buffer = io.BytesIO()
    PillowImage.fromarray(to_array(image, np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
