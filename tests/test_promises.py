"""What is promised in numbers: seeds that matter, intervals that cover, strengths that blend, doubts that count."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Gamma
from test_rl_restore import PHOTOS, small_agent

from conservator.degradations import (
    DEGRADATIONS,
    Degradation,
    GaussianNoise,
    Kind,
    Severity,
    degrade,
    parse_recipe,
)
from conservator.degradations.patches import single
from conservator.evaluation.intervals import interval
from conservator.image import Image
from conservator.perception import Look, StatisticalPerception, study
from conservator.perception.perception import OBJECTIVES, Gain
from conservator.photo import Photo
from conservator.pool import LocalPool, MemoPool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools import Toolbox, make_toolbox
from conservator.tools.rl_restore_own import own_network
from conservator.training.data.patches import PatchSource

# --- seeds ------------------------------------------------------------------------------------------------------------

SEEDED = [cls for cls in DEGRADATIONS if any(field.name.endswith("seed") for field in fields(cls))]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small(coffee: Image) -> Image:
    return coffee[..., 100:196, 200:328]


def sampled(cls: type[Degradation]) -> Degradation:
    return cls.sample(Severity.HIGH, np.random.default_rng(5))


def test_what_has_chance_in_it_has_a_seed() -> None:
    names = {cls.name for cls in SEEDED}
    assert {"gaussian_noise", "poisson_noise", "camera_noise", "rain", "snow", "haze"} <= names


@pytest.mark.parametrize("cls", SEEDED, ids=lambda cls: cls.name)
def test_another_seed_is_other_chance_and_the_same_is_the_same(cls: type[Degradation], small: Image) -> None:
    first = sampled(cls)
    (name,) = (field.name for field in fields(first) if field.name.endswith("seed"))  # type: ignore[arg-type]
    others = [replace(first, **{name: seed}) for seed in (0, 1, 2**32 - 1)]  # type: ignore[type-var]
    made = [degradation(small) for degradation in (first, *others)]
    for i, one in enumerate(made):
        for other in made[:i]:
            assert float((one - other).abs().max()) > 0.02
    np.random.seed(3)  # noqa: NPY002 - nobody's global state may matter
    torch.manual_seed(3)
    assert torch.equal(replace(first)(small), made[0])  # type: ignore[type-var]


def test_noise_of_two_seeds_is_independent() -> None:
    gray = torch.full((1, 3, 128, 128), 0.5)
    one, two = ((GaussianNoise(0.1, seed)(gray) - gray).flatten() for seed in (1, 2))
    assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 0.03


@pytest.mark.parametrize(
    "cls", [c for c in DEGRADATIONS if c.kind is not Kind.LOW_RESOLUTION], ids=lambda cls: cls.name
)
def test_a_severity_is_drawn_from_its_generator(cls: type[Degradation]) -> None:
    drawn = [cls.sample(Severity.HIGH, np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


# --- intervals --------------------------------------------------------------------------------------------------------


def test_an_interval_of_95_percent_covers_the_mean_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(300):
        low, high = interval(rng.normal(1.0, 2.0, 60), seed)
        covered.append(low <= 1.0 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98  # 0.95, give or take three deviations; half as wide would cover 0.67


@pytest.mark.parametrize("count", [40, 400])
def test_an_interval_is_as_wide_as_the_error_of_the_mean(count: int) -> None:
    values = np.random.default_rng(count).gamma(4.0, 1.0, count)
    low, high = interval(values)
    error = values.std() / math.sqrt(count)
    assert high - values.mean() == pytest.approx(1.96 * error, rel=0.15)
    assert values.mean() - low == pytest.approx(1.96 * error, rel=0.15)
    assert interval(values) == (low, high)
    assert interval(np.full(9, 2.5)) == (2.5, 2.5)


# --- strength ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    return make_toolbox("classical").only("tv_denoise", "lanczos_x2")


def restorer(toolbox: Toolbox, strength: float) -> Restorer:
    return Restorer(Request(strength=strength, risk=1), toolbox=toolbox, perception=StatisticalPerception.load())


def test_a_small_strength_stays_near_the_input_and_a_large_one_near_the_result(small: Image, toolbox: Toolbox) -> None:
    noisy = Photo(degrade(small, parse_recipe("noise:high", seed=4)))
    full = toolbox["tv_denoise"](noisy.image)
    whole = float((full - noisy.image).abs().mean())
    assert whole > 0.02
    for strength in (0.0, 0.1, 0.25, 0.9, 1.0):
        with restorer(toolbox, strength) as one:
            for made in (one.apply(noisy, ["tv_denoise"]).photo.image, one.replay(noisy, ["tv_denoise"]).image):
                moved = [float((made - end).abs().mean()) / whole for end in (noisy.image, full)]
                assert moved == pytest.approx([strength, 1 - strength], abs=1e-3)
                if strength in (0, 1):
                    assert torch.equal(made, full if strength else noisy.image)


def test_strength_blends_an_enlargement_with_the_input_enlarged(small: Image, toolbox: Toolbox) -> None:
    made = {}
    for strength in (0.01, 0.25, 1.0):
        with restorer(toolbox, strength) as one:
            made[strength] = one.apply(Photo(small), ["lanczos_x2"]).photo.image
    assert {tuple(image.shape) for image in made.values()} == {(1, 3, 192, 256)}
    apart = [float((made[strength] - made[0.01]).abs().mean()) for strength in (0.25, 1.0)]
    assert 0 < apart[0] < 0.3 * apart[1]


# --- estimates --------------------------------------------------------------------------------------------------------


def test_the_more_the_members_of_an_ensemble_differ_the_less_is_believed(small: Image) -> None:
    gain = Gain(
        {"fidelity": 2.0, "balanced": 3.0, "perceptual": 4.0}, {"fidelity": 0.5, "balanced": 0, "perceptual": 9}
    )
    assert [gain.cautious(objective) for objective in OBJECTIVES] == [1.5, 3.0, -5.0]
    noisy, eye = degrade(small, parse_recipe("noise:high", seed=4)), StatisticalPerception.load()
    told = eye.weigh(Look(noisy, eye.grade(noisy)), Look(small, eye.grade(small)), frozenset({Kind.NOISE}))
    assert len({told.mean[objective] for objective in OBJECTIVES}) == 3
    assert all(0.01 < told.deviation[objective] < 5 for objective in OBJECTIVES)


# --- joint training ---------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_tool_is_the_mean_over_its_uses(tmp_path: Path) -> None:
    """Yu et al., algorithm 1: however often a tool was used in a batch, its step is that of one use."""
    from conservator.training.experts.rl_restore import _start_near_identity
    from conservator.training.rl.joint import JointSettings, run_chains, train_joint

    torch.manual_seed(1)
    tools = torch.nn.ModuleList(own_network("paper", index)() for index in (0, 2))
    for tool in tools:
        _start_near_identity(tool)
    agent, source = small_agent(), PatchSource(PHOTOS, single("noise", 3))
    with torch.no_grad():  # an agent that always takes the first tool
        agent.network.values.weight.zero_()
        agent.network.values.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    settings = JointSettings(steps=1, batch=2, loss="mse", checkpoint_every=1)
    pairs = [source(np.random.default_rng([settings.seed, 0, i])) for i in range(settings.batch)]
    damaged, clean = (torch.cat(images) for images in zip(*pairs, strict=True))
    tools.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chains = run_chains(agent.network, tools, damaged)
    (chains.output - clean).square().mean(dim=(1, 2, 3)).sum().backward()
    uses = int(chains.uses[0])
    assert uses == 6  # two toolchains of three
    summed = [parameter.grad.clone() for parameter in tools[0].parameters() if parameter.grad is not None]
    train_joint(agent, tools, source, tmp_path, settings, lambda line: None)
    for parameter, whole in zip(tools[0].parameters(), summed, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(uses * parameter.grad, whole, rtol=0.02, atol=1e-4 * float(whole.abs().max()))
    assert max(float(whole.abs().max()) for whole in summed) > 0


# --- studies ----------------------------------------------------------------------------------------------------------


def test_a_picture_is_studied_at_the_places_of_another(astronaut: Image) -> None:
    """A picture whose pixels say where they are tells which places were picked: those of the other one."""
    photo = astronaut.repeat(1, 1, 2, 3)
    height, width = photo.shape[-2:]
    down, right = torch.meshgrid(torch.arange(height) / 2048, torch.arange(width) / 2048, indexing="ij")
    where = torch.stack([down, right, torch.zeros(height, width)])[None]
    for picked, crop in zip(study(where, like=photo)[1:], study(photo)[1:], strict=True):
        top, left = (round(2048 * float(picked[axis, 0, 0])) for axis in (0, 1))
        assert torch.equal(crop, photo[0, :, top : top + 256, left : left + 256])


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_memo_tells_tools_pictures_and_shapes_apart(small: Image, small_toolbox: Toolbox) -> None:
    with MemoPool(LocalPool(small_toolbox, max_batch=1)) as pool:
        for _ in range(2):
            for name in ("gamma", "box_blur"):
                for picture in (small, small.flip(-1), small[..., :64, :64], small.mT.contiguous()):
                    assert torch.equal(pool.submit(name, picture).result(), small_toolbox[name](picture))
        assert pool.hits == 8  # each once from memory


@pytest.mark.parametrize("tile", [None, 96])
def test_equal_pictures_are_equal_in_memory_whatever_a_tool_returns(tile: int | None, small: Image) -> None:
    """A metric sums in the order of memory: a picture that lies otherwise would score otherwise, in the last digits."""

    class Plain(Gamma):
        spec = replace(Gamma.spec, tile=tile)

    class Turned(Plain):
        def restore(self, image: Image) -> Image:
            return super().restore(image).contiguous(memory_format=torch.channels_last)

    assert torch.equal(Turned()(small), Plain()(small))
    assert Turned()(small).stride() == Plain()(small).stride()
