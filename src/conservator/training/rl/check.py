"""``check_reward``: what every reward must hold, shipped so that rewards written elsewhere run the same checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.perception.perception import Blind, Perception
from conservator.session import Apply, Decision, Step, Stop
from conservator.training.rl.rewards import COST, Reward
from conservator.training.rl.weighting import FixedWeights, Weighting

_SIGMAS = (0.0, 5.0, 15.0, 50.0)
"""Of the noise (of 255) that steps may lead to, from the clean image on."""
_SIGMA = 25.0
"""Of the noise before the step."""


def check_reward(
    reward: Reward,
    clean: Image,
    perception: Perception = Blind(),  # noqa: B008 - it holds nothing
    weighting: Weighting = FixedWeights(),  # noqa: B008 - nothing changes it
) -> None:
    """Raise AssertionError with a sentence when ``reward`` breaks the contract of ``Reward``.

    ``clean`` is an undamaged photo (1, 3, H, W), on which noise stands for damage. ``perception`` grades the steps, for
    rewards that ask it, and ``weighting`` says what the components count. Checked: they are finite floats, the same
    ones at every step and in every call, and images stay as they are; what is better is paid more, improvement above 0
    and harm below it; a step that changed nothing (a stop, a tool that failed or did nothing) is paid nothing but
    ``cost``; without a reference the same holds, or ConservatorError says that it is needed.
    """
    states = _States(clean, perception)
    _check_laws(reward, states, weighting, clean)
    if not _asks_for_reference(reward, states):
        _check_laws(reward, states, weighting, None)


class _States:
    """A noisy image; steps that lead from it to less noise and to more; and steps that change nothing."""

    def __init__(self, clean: Image, perception: Perception) -> None:
        def step(number: int, image: Image, action: Apply | Stop | None, error: str | None = None) -> Step:
            decision = Decision(action) if action is not None else None
            return Step(number, number - 1 or None, decision, image, perception.grade(image), error=error)

        damaged = _noisy(clean, _SIGMA)
        tool = Apply("tool")
        self.before = step(1, damaged, tool)
        self.after = [step(2, _noisy(clean, sigma), tool) for sigma in _SIGMAS]
        """The best first."""
        self.unchanged = {
            "a stop": step(2, damaged, Stop()),
            "a tool that failed": step(2, damaged, tool, "it could not"),
            "a tool that did nothing": step(2, damaged.clone(), tool),
        }


def _asks_for_reference(reward: Reward, states: _States) -> bool:
    """Whether it says that it cannot work without a reference."""
    try:
        reward(states.before, states.after[0], None)
    except ConservatorError as error:
        if "reference" in str(error):
            return True
        raise AssertionError(f"without a reference it raised {error!r}; say that it needs one") from error
    except Exception as error:
        raise AssertionError(
            f"without a reference it raised {error!r}; work without one, or raise a ConservatorError that asks for it"
        ) from error
    return False


def _check_laws(reward: Reward, states: _States, weighting: Weighting, reference: Image | None) -> None:
    where = "" if reference is not None else ", without a reference,"
    paid = [_paid(reward, states.before, step, reference) for step in states.after]
    for sigma, components in zip(_SIGMAS, paid, strict=True):
        assert components.keys() == paid[0].keys(), (
            f"it pays{where} {sorted(paid[0])} for one step and {sorted(components)} for another"
        )
        for name, value in components.items():
            assert math.isfinite(value), f"{name} is {value}{where} for a step to noise of sigma {sigma:g}"
    assert paid[0] == _paid(reward, states.before, states.after[0], reference), "two calls gave different components"
    totals = weighting([{k: v for k, v in one.items() if k != COST} for one in paid])
    assert all(a > b for a, b in pairwise(totals)), (
        f"what is better must be paid more, but steps to noise of sigma {_SIGMAS} were paid{where} {totals}"
    )
    assert totals[0] > 0 > totals[-1], f"improvement was paid{where} {totals[0]}, harm {totals[-1]}; 0 lies between"
    for what, step in states.unchanged.items():
        for name, value in _paid(reward, states.before, step, reference).items():
            assert name == COST or value == 0, f"{what} changed nothing and was paid{where} {name} {value}, expected 0"


def _paid(reward: Reward, before: Step, after: Step, reference: Image | None) -> Mapping[str, float]:
    images = [image for image in (before.image, after.image, reference) if image is not None]
    kept = [image.clone() for image in images]
    components = reward(before, after, reference)
    assert all(torch.equal(a, b) for a, b in zip(kept, images, strict=True)), "it changed an image in place"
    assert isinstance(components, Mapping), f"it gave a {type(components).__name__}, expected components by name"
    assert components, "it gave no component"
    for name, value in components.items():
        assert isinstance(name, str), f"a component is called {name!r}, expected a string"
        assert isinstance(value, float), f"{name} is a {type(value).__name__}, expected a float"
    return components


def _noisy(clean: Image, sigma: float) -> Image:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean + noise * (sigma / 255)).clamp(0, 1)
