"""First, do no harm: what policies refuse, and what they believe of what perception promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from conservator.degradations import Kind, Severity
from conservator.image import Image
from conservator.perception import Look, Percept, Perception
from conservator.perception.perception import OBJECTIVES, Blind, Gain, Objective
from conservator.policies import PolicyContext, make_policy
from conservator.pool import LocalPool, MemoPool
from conservator.session import Scope, Session, run
from conservator.tools import Tool, Toolbox, ToolSpec

SEARCHING = ["greedy", "beam", "search"]


class Made(Tool):
    """A tool made for a test: what it removes, and what it does to a picture."""

    def __init__(self, name: str, *removes: Kind) -> None:
        self.spec = ToolSpec(name, frozenset(removes), "For a test.", "this test", "Apache-2.0", tile=None)


class Texture(Made):
    """Changes a fine pattern and nothing else: no area becomes brighter, darker or of another colour."""

    amount = 0.02

    def restore(self, image: Image) -> Image:
        rows, columns = (torch.arange(side) % 2 for side in image.shape[-2:])
        board = 1 - 2.0 * ((rows[:, None] + columns) % 2)
        return image + self.amount * board * (image * (1 - image) * 4)


class Tint(Made):
    """Makes everything yellower, a little (0.05 of the blue) or much (0.2)."""

    def __init__(self, name: str, *removes: Kind, by: float) -> None:
        super().__init__(name, *removes)
        self._by = by

    def restore(self, image: Image) -> Image:
        return torch.cat([image[:, :2], image[:, 2:] - self._by], 1)


class Enlarger(Tint):
    """Enlarges twice, and makes everything yellower."""

    def __init__(self, name: str, *removes: Kind, by: float) -> None:
        super().__init__(name, *removes, by=by)
        self.spec = replace(self.spec, scale=2)

    def restore(self, image: Image) -> Image:
        return super().restore(F.interpolate(image, scale_factor=2, mode="bilinear"))


class Promise(Blind):
    """A perception that sees the same in every picture and promises the same of every treatment.

    Of a picture that two treatments made it promises twice as much, or ``together``, where that is given.
    """

    def __init__(
        self, seen: Mapping[Kind, float], gain: float = 5.0, together: float | None = None, doubt: float = 0.0
    ) -> None:
        """``seen`` are confidences; from 0.5 on the damage is present. ``doubt`` is the deviation of what it tells."""
        self._seen, self._gain, self._together, self._doubt = dict(seen), gain, together, doubt

    def grade(self, image: Image) -> Percept:
        severities = {k: Severity.MEDIUM if c >= 0.5 else Severity.NONE for k, c in self._seen.items()}
        return Percept(severities, self._seen, quality=30.0)

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        if before.image.shape != after.image.shape:
            return self.told(self._gain)
        treatments = max(1, round(float((after.image - before.image).abs().max()) / Texture.amount))
        gain = treatments * self._gain if treatments == 1 or self._together is None else self._together
        return self.told(gain)

    def told(self, gain: float) -> Gain:
        return replace(Gain.sure(gain), deviation=dict.fromkeys(OBJECTIVES, self._doubt))


class Partial(Promise):
    """One that promises of one objective alone."""

    objective: Objective = "fidelity"

    def told(self, gain: float) -> Gain:
        return replace(Gain.sure(-9.0), mean=dict.fromkeys(OBJECTIVES, -9.0) | {self.objective: gain})


@pytest.fixture
def gray(coffee: Image) -> Image:
    """A photo without black or white, so that no tool clips it by accident."""
    return 0.25 + 0.5 * coffee[..., 100:228, 200:328]


def chosen(
    name: str, eye: Perception, image: Image, *tools: Tool, upscale: bool = False, **options: object
) -> tuple[str, ...]:
    """The tools that a policy leaves in effect."""
    toolbox = Toolbox(*tools)
    with MemoPool(LocalPool(toolbox, max_batch=1)) as pool:
        policy = make_policy(name, PolicyContext(pool, eye, **options))  # type: ignore[arg-type]
        return run(policy, Session(image, toolbox, pool, eye, scope=Scope(upscale))).toolchain()


def test_an_enlargement_that_changes_colours_is_refused(gray: Image) -> None:
    eye = Promise({Kind.LOW_RESOLUTION: 0.99})
    for by, found in ((0.0, ("x2",)), (0.2, ())):
        assert chosen("greedy", eye, gray, Enlarger("x2", Kind.LOW_RESOLUTION, by=by), upscale=True) == found


@pytest.mark.parametrize("name", SEARCHING)
def test_what_is_suspected_is_treated_where_it_promises_enough(name: str, gray: Image) -> None:
    def treated(confidence: float, promised: float) -> bool:
        eye = Promise({Kind.NOISE: confidence}, promised)
        return bool(chosen(name, eye, gray, Texture("tool", Kind.NOISE)))

    promises = (-0.1, 0.2, 0.5, 0.8)
    found = {sure: [treated(sure, promised) for promised in promises] for sure in (0.01, 0.2, 0.7, 0.95)}
    assert found == {
        0.01: [False, False, False, False],  # nothing is suspected, and nothing is tried
        0.2: [False, True, True, True],  # less than a tenth of a decibel nobody sees
        0.7: [False, True, True, True],
        0.95: [False, True, True, True],
    }


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize(
    ("kinds", "once"),
    [
        ((Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR), True),
        ((Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR), True),
        ((Kind.LOW_LIGHT, Kind.LOW_LIGHT), True),
        ((Kind.NOISE, Kind.JPEG), False),
        ((Kind.NOISE, Kind.NOISE), False),
    ],
)
def test_a_photo_is_sharpened_once_and_brightened_once(
    name: str, kinds: tuple[Kind, Kind], once: bool, gray: Image
) -> None:
    tools = [Texture(f"tool_{number}", kind) for number, kind in enumerate(kinds)]
    found = chosen(name, Promise(dict.fromkeys(kinds, 0.95)), gray, *tools)
    assert len(found) == 1 if once else set(found) == {"tool_0", "tool_1"}


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_no_tool_is_applied_twice_running_nor_three_times(name: str, gray: Image) -> None:
    eye = Promise({Kind.NOISE: 0.95, Kind.JPEG: 0.95})
    found = chosen(name, eye, gray, Texture("denoise", Kind.NOISE), Texture("deblock", Kind.JPEG))
    assert len(found) == 4
    assert found in (("denoise", "deblock") * 2, ("deblock", "denoise") * 2)


def test_a_search_believes_a_toolchain_only_beside_the_untouched_photo(gray: Image) -> None:
    """Each step promises much; together they are seen to do harm. Greedy looks at the steps, search at the whole."""
    tools = (Texture("denoise", Kind.NOISE), Texture("deblock", Kind.JPEG))
    seen = {Kind.NOISE: 0.95, Kind.JPEG: 0.95}
    assert len(chosen("search", Promise(seen, 2.0), gray, *tools)) > 1
    assert len(chosen("search", Promise(seen, 2.0, together=-3.0), gray, *tools)) == 1
    assert len(chosen("greedy", Promise(seen, 2.0, together=-3.0), gray, *tools)) > 1


@pytest.mark.parametrize("name", SEARCHING)
def test_what_perception_doubts_is_not_believed(name: str, gray: Image) -> None:
    seen, tool = {Kind.NOISE: 0.95}, Texture("denoise", Kind.NOISE)
    assert "denoise" in chosen(name, Promise(seen, 2.0, doubt=1.0), gray, tool)
    assert chosen(name, Promise(seen, 2.0, doubt=2.5), gray, tool) == ()


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_policy_asks_for_the_gain_that_its_user_wants(name: str, objective: Objective, gray: Image) -> None:
    eye, tool = Partial({Kind.NOISE: 0.95}), Texture("denoise", Kind.NOISE)
    for eye.objective in OBJECTIVES:
        treated = "denoise" in chosen(name, eye, gray, tool, objective=objective)
        assert treated == (eye.objective == objective)


def test_no_tool_for_something_else_is_tried_nor_one_for_everything(gray: Image) -> None:
    eye = Promise({Kind.NOISE: 0.95, Kind.JPEG: 0.01, Kind.RAIN: 0.0})
    everything = Texture("everything", Kind.NOISE, Kind.JPEG, Kind.RAIN, Kind.DEFOCUS_BLUR)
    assert chosen("greedy", eye, gray, Texture("deblock", Kind.JPEG), Texture("derain", Kind.RAIN), everything) == ()
