"""Policies that try tools on the study before they choose: greedy, beam, and the oracle that knows the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias

import torch
import torch.nn.functional as F

from conservator.errors import ToolFailedError
from conservator.image import Image, decibels
from conservator.kinds import Kind, Severity
from conservator.metrics.fidelity import TABLE_CAP
from conservator.perception.perception import Look, Objective, Percept, Perception
from conservator.policies.planning import enlarger, suspected
from conservator.pool import Pool
from conservator.resample import bicubic_to
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Refusal, Stop
from conservator.tools.tool import ToolSpec, is_specialist

_MARGIN = 0.1
"""Gain in dB that a treatment must promise: what is less nobody sees. Whether it may do harm is for risk control to
say. On 51 development photos, a third of each set, 0.4 with extra doubts about tonal treatments treated 13 of the 28
damaged ones instead of 19, and harmed as many at each threshold below 1."""
_ONCE = (frozenset({Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR}), frozenset({Kind.LOW_LIGHT}))
"""A toolchain sharpens once, for a second deconvolution works on the first one's ringing, and brightens once."""


@dataclass(frozen=True)
class State:
    """One picture of a search: the tools that made it, what perception says, and its gain over the start in dB."""

    image: Image
    percept: Percept
    toolchain: tuple[str, ...] = ()
    gain: float = 0.0
    required: float = 0.0
    """What its tools had to promise together, dB."""
    treated: frozenset[Kind] = frozenset()
    """The kinds of damage that were treated since the photo came."""

    @property
    def worth(self) -> float:
        """The gain beyond what is required."""
        return self.gain - self.required

    @classmethod
    def now(cls, observation: Observation) -> State:
        """The current picture, where a search starts."""
        toolchain = observation.trajectory.toolchain()
        return cls(observation.image, observation.percept, toolchain, treated=observation.treated)


Scoring: TypeAlias = Callable[[State, ToolSpec, Image, Percept], float]
"""(state before, tool, image after, percept after) -> gain in dB; minus infinity forbids."""


class EstimatedGain:
    """Scores a treatment without a reference: the gain that perception estimates.

    An enlargement, which neither perception nor risk control can compare with what it was made of, is forbidden where
    it shifts the colours of large areas.
    """

    def __init__(self, perception: Perception, objective: Objective = "balanced") -> None:
        self._perception, self._objective = perception, objective

    def __call__(self, before: State, tool: ToolSpec, image: Image, percept: Percept) -> float:
        """Gain in dB of one treatment."""
        if tool.scale > 1 and _shifts_colours(before.image, image):
            return float("-inf")
        was, now = Look(before.image, before.percept), Look(image, percept)
        return self._perception.weigh(was, now, tool.removes).cautious(self._objective)


class MeasuredGain:
    """Scores a treatment by the PSNR gained to a reference: for an oracle, never for a policy that ships."""

    def __init__(self, reference: Image) -> None:
        """``reference``: the study (or image) of the undamaged photo, at the places of the damaged one.

        Of a small photo it may be larger, as the photo was before it was reduced: then enlarging can gain.
        """
        self._reference = reference

    def __call__(self, before: State, tool: ToolSpec, image: Image, percept: Percept) -> float:
        """Gain in dB of one treatment."""
        return self._psnr(image) - self._psnr(before.image)

    def _psnr(self, image: Image) -> float:
        if image.shape != self._reference.shape:
            image = bicubic_to(image, *self._reference.shape[-2:]).clamp(0, 1)
        return float(decibels((image - self._reference).pow(2).mean(), TABLE_CAP))


def _shifts_colours(before: Image, after: Image) -> bool:
    """Whether areas of 16 x 16 pixels differ by more than 3 % of the range, in the root mean square."""
    after = F.interpolate(after, before.shape[-2:], mode="bilinear", antialias=True)
    side = min(16, *before.shape[-2:])
    shift = (F.avg_pool2d(after, side) - F.avg_pool2d(before, side)).pow(2).mean().sqrt()
    return float(shift) > 0.03


class Greedy:
    """Tries the tools for every damage that is suspected, on the study, and takes what gains most; stops at none.

    A tool that did not gain in two rounds, or that was applied twice, is not tried again.
    """

    def __init__(
        self,
        pool: Pool,
        perception: Perception,
        scoring: Scoring | None = None,
        margin: float = _MARGIN,
        objective: Objective = "balanced",
        suspects: bool = True,
        name: str = "greedy",
    ) -> None:
        """Without ``suspects`` it tries every tool, whatever perception sees: for an oracle."""
        self.name, self._pool, self._perception = name, pool, perception
        self._scoring = EstimatedGain(perception, objective) if scoring is None else scoring
        self._margin, self._suspects = margin, suspects

    def act(self, observation: Observation) -> Decision:
        """Try the candidates on the current image and take the best, if it gains enough."""
        state = State.now(observation)
        ranked, refused = sorted(self.expand(state, observation), key=lambda child: -child.worth), list[Refusal]()
        for best in ranked:
            if best.worth < 0:
                break
            if refusal := _refusal(state, best, observation):
                refused.append(refusal)
                continue
            among = f", the most of {len(ranked)} treatments tried" if len(ranked) > 1 and not refused else ""
            thought = f"{best.toolchain[-1]} is estimated to gain {best.gain:+.1f} dB{among}"
            return Decision(Apply(best.toolchain[-1]), thought=thought, refused=_best_first(refused))
        why = _why_not(next(iter(ranked), None), refused, observation.percept)
        return Decision(Stop(), thought=why, refused=_best_first(refused))

    def expand(self, state: State, observation: Observation) -> list[State]:
        """Apply every candidate to a state; what fails, changes nothing or is forbidden is left out.

        None is held to risk control yet: judging costs a third of a look, and few of the children are ever wanted.
        """
        calls = [(spec, self._pool.submit(spec.name, state.image)) for spec in self._candidates(state, observation)]
        children = []
        for spec, call in calls:
            try:
                image = call.result()
            except ToolFailedError:
                continue  # the session records it if the tool is ever chosen; here it is no candidate
            if image.shape == state.image.shape and torch.equal(image, state.image):
                continue
            percept = self._perception.grade(image)
            gain = self._scoring(state, spec, image, percept)
            if gain > float("-inf"):
                # an enlargement comes last, for nothing may follow it
                required = gain if self._suspects and spec.scale > 1 else self._margin
                gains, toolchain = (state.gain + gain, state.required + required), (*state.toolchain, spec.name)
                children.append(State(image, percept, toolchain, *gains, treated=state.treated | spec.removes))
        return children

    def _candidates(self, state: State, observation: Observation) -> list[ToolSpec]:
        """The tools to try in a state."""
        tools = observation.tools
        if {spec.name for spec in tools if spec.scale > 1} & set(state.toolchain):
            return []  # an enlarged photo looks blurred to perception; nothing must sharpen what was never there
        spent = {spec.name for kinds in _ONCE for spec in _done_once(kinds, tools, state)}
        if self._suspects:  # perception compares no sizes: of what enlarges one is enough
            best = enlarger(tools)
            spent |= {spec.name for spec in tools if spec.scale > 1 and spec.name != best}
        return [spec for spec in tools if self._fits(spec, state) and spec.name not in spent]

    def _fits(self, spec: ToolSpec, state: State) -> bool:
        if state.toolchain.count(spec.name) >= 2 or state.toolchain[-1:] == (spec.name,):
            return False
        if not self._suspects:
            return True
        if not is_specialist(spec):
            return False  # perception was never taught to weigh a tool for everything
        seen = state.percept.severities
        # what is only suspected is faint
        return any(max(seen[kind], Severity.LOW) in spec.severities for kind in spec.removes & suspected(state.percept))


def _refusal(before: State, after: State, observation: Observation) -> Refusal | None:
    """The refusal of the treatment that made ``after`` of ``before``; None where it is admitted."""
    if observation.admission is None:
        return None
    spec = next(spec for spec in observation.tools if spec.name == after.toolchain[-1])
    was, now = (Look(state.image, state.percept) for state in (before, after))
    verdict = observation.admission.judge(observation.trajectory.steps[0].look, was, now, spec.removes, after.treated)
    if verdict.admitted:
        return None
    return Refusal(spec.name, spec.removes, verdict, after.gain - before.gain, before.image, after.image)


def _best_first(refused: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """The most promising first; for each set of kinds one, the first that is given."""
    found: dict[frozenset[Kind], Refusal] = {}
    for refusal in refused:
        found.setdefault(refusal.treats, refusal)
    return tuple(sorted(found.values(), key=lambda refusal: -refusal.gain))


def _done_once(kinds: frozenset[Kind], tools: Sequence[ToolSpec], state: State) -> list[ToolSpec]:
    """The tools for these kinds, if one of them is in the toolchain."""
    for_them = [spec for spec in tools if is_specialist(spec) and spec.removes & kinds]
    return for_them if any(spec.name in state.toolchain for spec in for_them) else []


class _Found:
    """What a search from ``start`` on has found so far."""

    def __init__(self, start: State, observation: Observation) -> None:
        self.best, self._observation = start, observation
        self.count = 0
        """How many toolchains were tried."""
        self._refused: list[tuple[State, Refusal]] = []

    def admits(self, before: State, after: State) -> bool:
        """Whether risk control admits a step of the search; one that promised enough and is refused is noted."""
        refusal = _refusal(before, after, self._observation)
        if refusal is not None and after.worth >= before.worth:
            self._refused.append((before, refusal))
        return refusal is None

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What was refused on the way to the best state, the most promising first; of each kind the latest."""
        done = self.best.toolchain
        way = [(len(s.toolchain), r) for s, r in self._refused if done[: len(s.toolchain)] == s.toolchain]
        return _best_first(r for _, r in sorted(way, key=lambda item: (-item[0], -item[1].gain)))


class _Planner(ABC):
    """Searches at the first step, on the study, and then carries out the toolchain that it found."""

    name: str
    _greedy: Greedy

    def act(self, observation: Observation) -> Decision:
        """Do what a plan of its own left to do; search where there is none, or where its last step failed."""
        last = observation.trajectory.last
        if last.decision is not None and last.decision.by == self.name and last.error is None:
            plan = last.decision.plan
            if not plan:
                return Decision(Stop(), thought="the plan is carried out", by=self.name)
            return Decision(Apply(plan[0]), plan[1:], "as planned", by=self.name)
        start = State.now(observation)
        found = self._search(start, observation)
        refused = found.refused
        plan = found.best.toolchain[len(start.toolchain) :]
        if not plan:
            thought = "no treatment is estimated to gain enough" if found.count else _nothing(observation.percept)
            return Decision(Stop(), thought=refused[0].words if refused else thought, by=self.name, refused=refused)
        thought = f"the best of {found.count} toolchains tried is estimated to gain {found.best.gain:+.1f} dB"
        return Decision(Apply(plan[0]), plan[1:], thought, by=self.name, refused=refused)

    @abstractmethod
    def _search(self, start: State, observation: Observation) -> _Found:
        """Search from ``start`` on."""


class Beam(_Planner):
    """Keeps the ``width`` best toolchains of every length and follows the best one found."""

    def __init__(self, greedy: Greedy, width: int = 3, depth: int = 4, name: str = "beam") -> None:
        """``greedy`` expands states and says what each tool must add; ``depth`` bounds the toolchain."""
        self.name, self._greedy, self._width, self._depth = name, greedy, width, depth

    def _search(self, start: State, observation: Observation) -> _Found:
        front, found = [start], _Found(start, observation)
        for _ in range(min(self._depth, observation.steps_left - 1)):
            children = [(state, child) for state in front for child in self._greedy.expand(state, observation)]
            found.count += len(children)
            children.sort(key=lambda pair: -pair[1].worth)
            admitted = (child for state, child in children if found.admits(state, child))
            front = list(islice(admitted, self._width))
            if not front:
                break
            if front[0].worth > found.best.worth:
                found.best = front[0]
        return found


class Search(_Planner):
    """Best first: opens the state that promises most, until the tool calls are spent or no open state comes near.

    A state is worth what its steps promise one by one, or what perception says of it beside the untouched photo,
    whichever is less: an error of perception then has to be made twice. All calls are on the study, so the cost does
    not grow with the photo.
    """

    def __init__(self, greedy: Greedy, scoring: Scoring, calls: int = 24, name: str = "search") -> None:
        """``scoring`` compares a state with the untouched photo; ``calls`` is the budget."""
        self.name, self._greedy, self._scoring, self._calls = name, greedy, scoring, calls

    def _search(self, start: State, observation: Observation) -> _Found:
        opened, found = [start], _Found(start, observation)
        while opened and found.count < self._calls:
            state = opened.pop(max(range(len(opened)), key=lambda i: opened[i].worth))
            length = len(state.toolchain) - len(start.toolchain)
            if state.worth < found.best.worth - _BEHIND or length >= observation.steps_left - 1:
                continue
            children = self._greedy.expand(state, observation)
            found.count += len(children)
            for child in children:
                seen = self._beside(start, child, observation.tools)
                if seen.worth < found.best.worth - _BEHIND or not found.admits(state, seen):
                    continue
                opened.append(seen)
                if seen.worth > found.best.worth:
                    found.best = seen
        return found

    def _beside(self, start: State, state: State, tools: Sequence[ToolSpec]) -> State:
        """The state with its gain beside the untouched photo, if that is less."""
        toolchain = state.toolchain[len(start.toolchain) :]
        if len(toolchain) < 2 or state.image.shape != start.image.shape:
            return state
        used = [spec for spec in tools if spec.name in toolchain]
        together = replace(used[0], removes=frozenset[Kind]().union(*(spec.removes for spec in used)))
        gain = self._scoring(start, together, state.image, state.percept)
        return replace(state, gain=min(state.gain, gain))


_BEHIND = 1.0
"""dB behind the best; a state further behind is not opened."""


def _why_not(nearest: State | None, refused: Sequence[Refusal], percept: Percept) -> str:
    """Why nothing is treated, in words; ``nearest`` is what came nearest of all that is admitted."""
    if refused:
        return refused[0].words
    if nearest is None:
        return _nothing(percept)
    if nearest.gain <= 0:
        return "no treatment is estimated to gain anything"
    asked = f"with {nearest.gain:+.2f} of the {nearest.required:.2f} dB that are asked"
    return f"no treatment is estimated to gain enough; {nearest.toolchain[-1]} comes nearest, {asked}"


def _nothing(percept: Percept) -> str:
    return "no tool that is offered changes what is seen" if percept.damages else "no damage is seen"
