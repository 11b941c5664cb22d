"""Rewards: functions of what one step did, each giving named components that a ``Weighting`` makes one number of.

A reward of your own is one function; ``check_reward`` says whether it keeps the contract of ``Reward``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from torch import Tensor

from conservator.degradations.patches import UNDAMAGED_PSNR
from conservator.errors import ConservatorError
from conservator.image import Image, digest
from conservator.kinds import Kind
from conservator.metrics import FullReference, make_metric
from conservator.metrics.consistency import noise_structure, streaks
from conservator.metrics.fidelity import psnr_of_each
from conservator.pool import FunctionModel, Model, Pool
from conservator.session import Apply, Step
from conservator.session.trajectory import made_by
from conservator.tools.tool import Tool

Reward: TypeAlias = Callable[[Step, Step, Image | None], Mapping[str, float]]
"""(before, after, reference) -> components of one step by name, the same names for every step; more is better.

``before`` is the state that was decided on, ``after`` the step that was made then. ``reference`` is the undamaged
image, shaped like theirs, or None where nobody has it; a reward that needs it raises ConservatorError then
(``referred``). What a step is paid must be finite, and 0 where it changed nothing, but for ``COST``.
"""

COST = "cost"
"""The component that a call costs, whatever it changed."""
HARMED = "harm"
"""The component that punishes a loss of fidelity."""
CONSISTENCY = "consistency"
"""The component that punishes what looks as if the photo itself was taken away."""
METRIC = "metric"
"""The group of metrics in a pool (``host``)."""
_OWN = ("psnr", "quality")
"""Metrics that are rewards of their own here."""
_STRUCTURED = 0.5
"""Of ``noise_structure``: from about here on more was lost than gained (metrics/consistency.py)."""


def step_psnr(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
    """``psnr``: the PSNR (RGB, dB) that the step gained, RL-Restore's reward; it needs a reference.

    Over an episode it sums to the whole gain. PSNR counts up to 50 dB. Of a study it is the mean over its parts.
    """
    clean = referred(reference, "step_psnr")
    was, now = (float(psnr_of_each(step.image, clean, UNDAMAGED_PSNR).mean()) for step in (before, after))
    return {"psnr": now - was}


def step_error(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
    """``error``: by how much the step lowered the root mean square error, of 255; it needs a reference.

    It is large where an image is badly damaged.
    """
    clean = referred(reference, "step_error")
    return {"error": 255 * float((_rms(before.image, clean) - _rms(after.image, clean)).mean())}


def step_quality(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
    """``quality``: by how much perception's own estimate of the quality rose, dB; no reference is needed, nor read.

    Raises ConservatorError where perception estimates none.
    """
    gained = after.percept.quality - before.percept.quality
    if not math.isfinite(gained):
        raise ConservatorError("step_quality needs a perception that estimates quality; this one does not")
    return {"quality": gained}


def metric_change(name: str, pool: Pool | None = None) -> Reward:
    """The reward that pays for one metric by its name: how much better the step made it, in the metric's own unit.

    Where less is better, a fall counts as positive. ``quality`` is perception's estimate (``step_quality``) and
    ``psnr`` is ``step_psnr``. Of a study it is the mean over its parts. What cannot be computed is NaN, for the learner
    to leave out. With a ``pool`` that hosts its model (``metric_models``) it is computed there. Raises
    NameNotFoundError for an unknown metric, ConservatorError for one that knows no reference.
    """
    if name in _OWN:
        return step_psnr if name == "psnr" else step_quality
    metric = make_metric(name)
    if not isinstance(metric, FullReference):
        raise ConservatorError(
            f"{name} needs no reference, and such metrics prefer some noise to the original; leave it out"
        )
    if pool is not None:
        metric = replace(metric, score=lambda *pair: float(pool.submit(f"{METRIC}:{name}", *pair).result()))

    known: dict[tuple[str, str], float] = {}  # what a step begins with, the one before it made

    def score(image: Image, clean: Image) -> float:
        both = digest(image), digest(clean)
        if both not in known:
            known[both] = _mean_score(metric, image, clean)
        return known[both]

    def reward(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
        clean = referred(reference, name)
        if after.image is before.image:
            return {name: 0.0}
        was, now = (score(step.image, clean) for step in (before, after))
        return {name: now - was if metric.higher_is_better else was - now}

    reward.__name__ = name
    return reward


def metric_models(names: Iterable[str]) -> dict[str, Model]:
    """The metrics of these names as models, for a pool to host under ``metric:NAME``; but for psnr and quality.

    Raises NameNotFoundError for an unknown metric.
    """
    return {name: FunctionModel(make_metric(name).score) for name in names if name not in _OWN}


def step_harm(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
    """``harm``: minus the PSNR (RGB, dB) that was lost, 0 where none was: a hinge; it needs a reference.

    Over a whole rollout, from the input to the result, it makes sure that no other metric pays for what harms fidelity.
    """
    return {HARMED: min(0.0, step_psnr(before, after, reference)["psnr"])}


def call_cost(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
    """``cost``: -1 for a step that called a tool, failed or not, else 0; its weight says what a call costs."""
    called = after.decision is not None and isinstance(after.decision.action, Apply)
    return {COST: -1.0 if called else 0.0}


def consistency_reward(toolbox: Mapping[str, Tool]) -> Reward:
    """A reward, ``consistency``: minus by how much what a tool took away looks more like the photo than like damage.

    For tools that remove noise and rain, whose difference can be held against that (metrics/consistency.py): for noise
    ``noise_structure``, for rain the lower of that and ``streaks``, beyond 0.5, from where more is lost than gained.
    No reference is needed, nor read; tools for other damage, and those that failed, are paid 0.
    """

    def step_consistency(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
        tool = toolbox.get(made_by(after)) if after.error is None else None
        if tool is None or before.image.shape != after.image.shape or not tool.spec.removes & {Kind.NOISE, Kind.RAIN}:
            return {CONSISTENCY: 0.0}
        found = [noise_structure(before.image, after.image)]
        if Kind.RAIN in tool.spec.removes:
            found.append(streaks(before.image, after.image))
        beyond = min(found) - _STRUCTURED
        return {CONSISTENCY: -beyond if beyond > 0 else 0.0}  # NaN, where nothing can be told, is paid nothing

    return step_consistency


def joined(*rewards: Reward) -> Reward:
    """The components of several rewards together; the joined one raises ConservatorError where two share a name."""

    def reward(before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
        components: dict[str, float] = {}
        for one in rewards:
            found = one(before, after, reference)
            if twice := components.keys() & found.keys():
                raise ConservatorError(f"two of the joined rewards pay for {min(twice)}; leave one of them out")
            components |= found
        return components

    reward.__name__ = "+".join(getattr(one, "__name__", repr(one)) for one in rewards)
    return reward


def referred(reference: Image | None, reward: str) -> Image:
    """The reference; ConservatorError, which names the reward, where there is none."""
    if reference is None:
        raise ConservatorError(f"the reward {reward} needs a reference, and this image has none; choose another reward")
    return reference


def _mean_score(metric: FullReference, images: Image, references: Image) -> float:
    pairs = zip(images.split(1), references.split(1), strict=True)
    scores = [min(metric.score(*pair), metric.at_most) for pair in pairs]
    return sum(scores) / len(scores)


def _rms(image: Image, clean: Image) -> Tensor:
    return (image - clean).square().mean(dim=(1, 2, 3)).sqrt()
